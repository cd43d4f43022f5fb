"""The example as a user runs it: every task and cell for a few steps, its files, wrong input, interruption, resume."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

SHORT = ["--hidden", "8", "--batch-size", "8", "--steps", "6", "--checkpoint-every", "3"]
RESULT = {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}


@pytest.fixture(scope="module")
def trained(example, tmp_path_factory):
    """The folders of runs that learnt something, by task."""
    parent = tmp_path_factory.mktemp("runs")
    options = {"adding": ["--length", "10", "--steps", "400"], "copy": ["--length", "2", *SHORT], "digits": SHORT}
    for data, rest in options.items():
        arguments = ["train", "--data", data, "--run", str(parent / data), "--hidden", "16", *rest]
        assert example.cli.main(example.COMMANDS, arguments) == 0
    return parent


def test_a_short_adding_problem_is_learnt(trained, run):
    code, out, _ = run("evaluate", "--run", trained / "adding", "--json")
    assert code == 0
    test = json.loads(out)["test"]
    assert set(test) == {"loss", "mse"}
    assert test["mse"] == test["loss"] < 0.02  # that of the mean is 0.167
    code, out, _ = run("evaluate", "--run", trained / "adding", "--length", "12", "--json")
    assert json.loads(out)["test"]["mse"] < 0.04


def test_the_run_folder_is_whole(trained):
    for data in ("adding", "copy", "digits"):
        names = {path.name for path in (trained / data).iterdir()}
        assert names == {"config.json", "metrics.jsonl", "checkpoints", "weights.safetensors", "curves.png"}
        last = json.loads((trained / data / "metrics.jsonl").read_text().splitlines()[-1])
        assert set(last) == RESULT
        assert set(last["test"]) == {"loss", "mse" if data == "adding" else "accuracy"}
        assert len(list((trained / data / "checkpoints").iterdir())) >= 2


def test_predict_adds_up(trained, run, tmp_path):
    x = np.random.default_rng(0).uniform(0.2, 0.8, (10, 2)).round(3)
    x[:, 1] = np.isin(np.arange(10), (2, 7))
    np.savetxt(tmp_path / "sequence.csv", x, "%.3f", delimiter=",")
    code, out, _ = run("predict", "--run", trained / "adding", "sequence.csv", "--json")
    assert code == 0
    assert abs(json.loads(out)["sequence.csv"] - (x[2, 0] + x[7, 0])) < 0.4
    (tmp_path / "wide.csv").write_text("1,2,3\n")
    for name in ("wide.csv", "missing.csv"):
        code, out, last = run("predict", "--run", trained / "adding", name)
        assert (code, out, last.startswith("error: "), name in last) == (2, "", True, True)


def test_predict_copies_and_reads(example, trained, run, tmp_path):
    from PIL import Image

    code, out, _ = run("predict", "--run", trained / "copy", "31415", "27", "--json")
    assert code == 0
    assert {name: len(answer) for name, answer in json.loads(out).items()} == {"31415": 5, "27": 2}
    code, _, last = run("predict", "--run", trained / "copy", "3190")
    assert (code, "3190: wanted symbols from 1 to 8" in last) == (2, True)

    Image.fromarray(example.jn.data.load_images("digits").test["x"][0, ..., 0]).save(tmp_path / "scan.png")
    code, out, _ = run("predict", "--run", trained / "digits", "scan.png", "--json")
    assert code == 0
    assert json.loads(out)["scan.png"] in [*"0123456789"]


@pytest.mark.parametrize(
    "model",
    [
        "lru",
        *(pytest.param(m, marks=pytest.mark.exhaustive) for m in ("irnn", "lstm", "min_gru", "min_lstm", "rg_lru")),
    ],
)
def test_every_cell_trains(run, model):
    code, out, last = run("train", "--model", model, "--length", "6", *SHORT, "--json")
    assert code == 0, last
    assert set(json.loads(out)) == RESULT
    assert json.loads(Path("runs/adding/config.json").read_text())["init"] == "long"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "imdb"], "--data"),
        (["train", "--length", "1"], "length is 1 but wants 2 or more"),
        (["train", "--data", "digits", "--length", "9"], "length is for adding and copy: digits has a step for each"),
        (["train", "--model", "transformer"], "--model"),
        (["train", "--hidden", "0"], "--hidden"),
        (["train", "--clip", "0"], "--clip"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--schedule-steps", "0"], "steps"),
        (["gradient_flow", "--rows", "0"], "--rows"),
        (["gradient_flow", "--run", "nowhere"], "nowhere"),
        (["evaluate", "--run", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, arguments, words):
    code, out, last = run(*arguments)
    assert (code, out) == (2, "")
    assert last.startswith("error: ")
    assert words in last
    assert list(Path().iterdir()) == []


def test_runs_of_another_kind_are_refused(trained, run):
    for arguments, words in {
        ("evaluate", "--run", trained / "adding", "--data", "copy"): "was trained on adding: it cannot be measured on",
        ("train", "--run", trained / "adding", "--resume", "--model", "lstm"): 'model was "gru", is now "lstm"',
        ("train", "--run", trained / "adding"): "holds a run already: add --resume",
    }.items():
        code, _, last = run(*arguments)
        assert code == 2
        assert words in last


def test_gradient_flow_of_cells(run):
    options = ["--length", "40", "--hidden", "8", "--rows", "3", "--models", "rnn", "gru"]
    code, out, last = run("gradient_flow", *options, "--out", "here", "--json")
    assert code == 0, last
    reports = json.loads(out)
    assert reports == json.loads(Path("here/gradient_flow.json").read_text())
    assert list(reports) == ["rnn", "gru"]
    assert len(reports["gru"]["norms"]["state"]) == 40
    assert reports["rnn"]["memory_length"] < reports["gru"]["memory_length"]
    assert Path("here/gradient_flow.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_flow_of_runs(trained, run):
    code, out, last = run("gradient_flow", "--run", trained / "adding", "--run", trained / "copy", "--rows", "2")
    assert code == 0, last
    assert re.match(r"gru \(adding\): memory \d+ of 10 steps  saturated: reset \d+%  update \d+%\n", out)
    assert "gru (copy): memory" in out


@pytest.mark.exhaustive
def test_ctrl_c_and_resume_give_the_same_bits(run, interrupted):
    options = ["--length", "20", "--hidden", "8", "--batch-size", "8", "--steps", "4000", "--checkpoint-every", "1500"]
    assert run("train", *options, "--run", "whole")[0] == 0
    code, last = interrupted("train", *options, "--run", "cut")
    assert (code, last) == (130, "interrupted; go on with: train --resume --run cut")
    assert run("train", *options, "--run", "cut", "--resume")[0] == 0
    assert Path("cut/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()
