import json
import os
from pathlib import Path

import pytest

from jaxnets import train

CONFIG = {"data": "digits", "steps": 100, "rate": 1e-3, "shape": (8, 8)}


def test_a_new_run_writes_its_configuration(tmp_path):
    run = train.Run(tmp_path / "deep" / "run", CONFIG)
    run.note(scan=True)
    assert run / "metrics.jsonl" == tmp_path / "deep" / "run" / "metrics.jsonl"
    assert train.read_config(run.directory) == {**CONFIG, "shape": [8, 8], "notes": {"scan": True}}
    assert [path.name for path in run.directory.iterdir()] == ["config.json"]


def test_the_same_configuration_opens_it_again_with_its_notes(tmp_path):
    train.Run(tmp_path, CONFIG).note(scan=False)
    run = train.Run(tmp_path, {**CONFIG, "steps": 200})
    assert run.notes == {"scan": False}
    assert train.read_config(tmp_path)["steps"] == 200


def test_another_configuration_is_refused_and_left_as_it_is(tmp_path):
    train.Run(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r'data was "digits", is now "mnist"; rate was 0.001, is now 0.1$'):
        train.Run(tmp_path, {**CONFIG, "data": "mnist", "rate": 0.1})
    with pytest.raises(ValueError, match=r"rate was 0.001, is now not there; seed was not there, is now 3$"):
        train.Run(tmp_path, {"data": "digits", "shape": [8, 8], "seed": 3})
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_may_change_is_chosen(tmp_path):
    train.Run(tmp_path, CONFIG)
    train.Run(tmp_path, {**CONFIG, "data": "mnist"}, may_change=("data",))
    with pytest.raises(ValueError, match="steps was 100, is now 200"):
        train.Run(tmp_path, {**CONFIG, "data": "mnist", "steps": 200}, may_change=())


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train.Run(tmp_path / "file", CONFIG)
    with pytest.raises(OSError, match="file"):
        train.Run(tmp_path / "file" / "run", CONFIG)
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no config.json"):
        train.read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        train.Run(tmp_path, CONFIG)


def test_a_run_of_another_program_is_refused(tmp_path):
    train.Run(tmp_path, CONFIG)
    assert train.read_config(tmp_path, fields=("data", "rate"), choices={"data": ("mnist", "digits")})["steps"] == 100
    with pytest.raises(ValueError, match=r"config.json lacks model, hidden: it is no run of this program$"):
        train.read_config(tmp_path, fields=("model", "data", "hidden"))
    with pytest.raises(ValueError, match=r"config.json has data 'digits', wanted one of adding, copy$"):
        train.read_config(tmp_path, choices={"data": {"adding": 1, "copy": 2}})


def test_notes_fit_in_json(tmp_path):
    run = train.Run(tmp_path, CONFIG)
    with pytest.raises(TypeError):
        run.note(model=object())
    assert json.loads((tmp_path / "config.json").read_text())["notes"] == {}


def test_a_configuration_is_compared_without_writing(tmp_path):
    train.Run(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    train.check_config(tmp_path, {**CONFIG, "steps": 200})
    with pytest.raises(ValueError, match="take back what differs, or name another folder: rate was"):
        train.check_config(tmp_path, {**CONFIG, "rate": 1.0})
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_file_is_said_to_be_one(tmp_path):
    (tmp_path / "file").touch()
    for use in (train.read_config, lambda path: train.Run(path, CONFIG)):
        with pytest.raises(NotADirectoryError, match="file is a file, not a run folder"):
            use(tmp_path / "file")


def test_a_new_run_takes_the_first_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.new_run("digits") == Path("runs/digits")
    for name in ("digits", "digits-2", "digits-4"):
        Path("runs", name).mkdir(parents=True)
    assert train.new_run("some/where/digits") == Path("runs/digits-3")
    assert train.new_run(".", parent="other") == Path("other", tmp_path.name)
    assert train.new_run("..", parent="other") == Path("other", tmp_path.parent.name)


def test_the_newest_run_is_the_one_begun_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.newest_run() is None
    for seconds, name in enumerate(("digits-2", "digits", "mnist")):
        train.Run(Path("runs", name), CONFIG)
        os.utime(Path("runs", name, "config.json"), (seconds, seconds))
    assert train.newest_run() == Path("runs/mnist")
    assert train.newest_run("digits") == Path("runs/digits")
    assert train.newest_run("cifar10") is None
