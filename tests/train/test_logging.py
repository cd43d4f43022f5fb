import io
import json
import sys

import numpy as np
import pytest

from jaxnets import train


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(file, **options):
    with train.progress(100, file=file, **options) as show:
        for step in (10, 50, 100):
            show(step, None, {"loss": 1 / step, "accuracy": 0.5})
    return file.getvalue()


def test_lines_where_there_is_no_terminal():
    lines = told(io.StringIO(), seconds=0.0).splitlines()
    assert lines[0] == "step 10/100  loss 0.1  accuracy 0.5"
    assert lines[1].startswith("step 50/100  loss 0.02  accuracy 0.5  ")
    assert lines[1].endswith("0:00:00 left")
    assert "steps/s" in lines[1]
    assert len(lines) == 3


def test_lines_are_few_but_the_last_always_comes():
    lines = told(io.StringIO()).splitlines()
    assert [line.split()[1] for line in lines] == ["10/100", "100/100"]


def test_a_bar_on_a_terminal():
    text = told(Terminal(), seconds=0.0)
    assert "100/100" in text
    assert "loss 0.01" in text
    assert "━" in text


def test_it_writes_to_standard_error_alone(capsys):
    with train.progress(1) as show:
        show(1, None, {"loss": 1.0})
        sys.stdout.write("result")
    assert capsys.readouterr() == ("result", "step 1/1  loss 1\n")


def test_standard_output_stays_its_own_beside_a_bar(capsys):
    with train.progress(1, file=Terminal()) as show:
        show(1, None, {"loss": 1.0})
        sys.stdout.write("result")
    assert capsys.readouterr() == ("result", "")


def test_it_is_a_callback_of_fit(made):
    file = io.StringIO()
    with train.progress(6, file=file, seconds=0.0) as show:
        train.fit(made.state(), made.step, made.data, steps=6, callbacks=[show])
    assert file.getvalue().splitlines()[-1].startswith("step 6/6  loss ")


def test_records_are_written_line_by_line(tmp_path):
    log = train.JsonLines(tmp_path / "metrics.jsonl")
    log(5, None, {"loss": 0.5})
    log(10, None, {"loss": float("nan"), "parts": [np.inf, 1.0]})
    log.write({"step": 10, "test": {"accuracy": 0.75}})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second, third = map(json.loads, lines)
    assert first.keys() == {"step", "seconds", "loss"}
    assert (second["loss"], second["parts"]) == (None, [None, 1.0])
    assert third == {"step": 10, "test": {"accuracy": 0.75}}
    assert train.read_json_lines(tmp_path / "metrics.jsonl") == [first, second, third]


def test_a_resume_drops_what_came_after_and_what_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "seconds": 100}\n{"step": 10}\n{"step": 15}\n3\n{"step": 2')
    log = train.JsonLines(path, step=10)
    log(15, None, {"loss": 0.5})
    records = train.read_json_lines(path)
    assert [record["step"] for record in records] == [5, 10, 15]
    assert records[-1]["seconds"] >= 100


def test_a_new_run_begins_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5}\n')
    train.JsonLines(path)
    assert path.read_text() == ""
    assert train.read_json_lines(tmp_path / "none") == []


def test_an_unwritable_file_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train.JsonLines(tmp_path / "file" / "metrics.jsonl")


def test_a_resume_drops_the_result_of_the_run_so_far_and_counts_its_seconds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = train.JsonLines(path)
    log.write({"step": 5, "seconds": 100.0})
    log.write({"test": {"accuracy": 1.0}})
    assert log.seconds_before == 0
    assert train.JsonLines(path, step=5).seconds_before == 100
    assert train.read_json_lines(path) == [{"step": 5, "seconds": 100.0}]
