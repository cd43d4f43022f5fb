import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks import peers
from benchmarks.__main__ import main


def test_lists_cases_and_contenders():
    done = subprocess.run([sys.executable, "-m", "benchmarks"], capture_output=True, text=True, check=True)
    assert all(
        word in done.stdout
        for word in ("cnn", "resnet", "lstm", "(of recurrent)", "batch 128", "PyTorch", "train_on_batch")
    )


@pytest.mark.parametrize("name", ["jaxnets", "flax", "torch", "keras"])
def test_contender_agrees_and_is_timed(tiny_run, name):
    # Not importorskip: to import Keras is to choose its backend.
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    (record,) = [record for record in tiny_run.records if record["contender"] == name]
    assert (record["status"], record["note"]) == ("measured", "")
    assert max(record["agreement"]["deviation"].values()) <= 1e-4
    assert record["parameters"] == {"batch": 4, "size": 18, "channels": 1}
    assert len(record["times"]["rounds"]) == 2
    assert 0 < record["times"]["min"] <= record["times"]["median"] <= record["times"]["max"]
    assert record["memory"]["process_peak_bytes"] > 1 << 26
    assert set(record["ratio"]) == ({"jaxnets"} if name != "jaxnets" else set())
    assert set(record["versions"]) == {"python", *peers.PEERS[name].packages}
    if name in ("jaxnets", "flax"):
        assert record["compile_seconds"] > 0
        assert record["memory"]["program"]["temporaries"] > 0


def test_wrong_contender_is_caught_and_not_timed(tiny_run):
    record = next(record for record in tiny_run.records if record["contender"].endswith("wrong.py"))
    assert record["status"] == "disagrees"
    assert "logits off by 1.0e+00, 0.0001 allowed" in record["note"]
    assert "times" not in record
    assert "ratio" not in record
    assert tiny_run.code == 1


def test_dying_contender_is_reported(tiny_run):
    record = next(record for record in tiny_run.records if record["contender"].endswith("dying.py"))
    assert record["status"] == "failed"
    assert record["note"].endswith("dying.py died with code 3: out of luck")


def test_results_are_written_and_read_again(tiny_run, capsys):
    assert json.loads((tiny_run.folder / "cnn.json").read_text()) == tiny_run.records
    assert main(["table", str(tiny_run.folder)]) == 0
    printed = capsys.readouterr().out
    assert "jaxnets / flax" in printed
    assert "wrong.py was not timed: logits off by" in printed
    picture = tiny_run.folder / "cnn.png"
    picture.unlink()
    assert main(["plot", str(tiny_run.folder)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_part_of_a_group_can_be_chosen(monkeypatch, capsys):
    measured = []

    def note(case, shape, names, protocol):
        measured.append((case.name, shape.name, *case.modes))
        return []

    monkeypatch.setattr("benchmarks.commands.measure", note)
    arguments = ["run", "recurrent", "lstm", "--shape", "1x1000x128x256,128x28x28x128", "--mode", "gradient", "--json"]
    assert main(arguments) == 0
    assert measured == [
        (cell, shape, "gradient") for cell in ("lstm", "gru", "rnn") for shape in ("1x1000x128x256", "128x28x28x128")
    ]


@pytest.mark.exhaustive
def test_resnet_agrees(capsys):
    if find_spec("torch") is None:
        pytest.skip("torch is not installed")
    shape = "batch=4,size=8,blocks=1,width=4"
    arguments = ["run", "resnet", "--shape", shape, "--peers", "torch,flax", "--rounds", "1", "--seconds", "0.02"]
    assert main([*arguments, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["contender"] for record in records] == ["jaxnets", "torch", "flax"]
    assert {record["status"] for record in records} == {"measured"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (
            ["run", "nope"],
            "no case 'nope': there are cnn, convolution, pooling, resnet, lstm, gru, rnn, variants, linear_recurrence, "
            "newton, attention, decode, prefill, transformer, lstm_generation, transformer_generation, trainer, sweep, "
            "loading, checkpoint, sharding, import, recurrent, generation, startup, or all",
        ),
        (["run", "cnn", "--peers", "flax,nope"], "no peer 'nope': there are jaxnets"),
        (["run", "cnn", "--peers", "./nope.py"], "there is no such file"),
        (["run", "cnn", "--shape", "depth=3"], "'depth=3' is not NAME=NUMBER, with a name of batch, size, channels"),
        (["run", "cnn", "--shape", "batch=0"], "'batch=0' is not NAME=NUMBER"),
        (
            ["run", "gru", "--shape", "1x2x3x4"],
            "'1x2x3x4' is not NAME=NUMBER, with a name of batch, time, input, hidden",
        ),
        (["run", "recurrent", "--mode", "sideways"], "lstm has no mode 'sideways', there are forward, gradient"),
        (["run", "cnn", "--mode", "forward"], "cnn has no mode 'forward', it has none"),
        (["run", "cnn", "--rounds", "0"], "must be positive, got 0"),
        (["all", "--seconds", "-1"], "must be positive, got 10 and -1"),
        (["run", "cnn", "--device", "abacus"], "abacus"),
        (["table", "no_such_folder"], "no_such_folder holds no results"),
    ],
)
def test_bad_input_is_one_line(arguments, word, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert word in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
