"""The example as a user runs it: the whole default, its files, wrong input, interruption and resume."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "image_classification.py"
SHORT = ["--model", "mlp", "--batch-size", "16", "--steps", "60", "--checkpoint-every", "20", "--json"]


@pytest.fixture(scope="session")
def example():
    spec = importlib.util.spec_from_file_location("image_classification", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_classification"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(example, capsys, tmp_path, monkeypatch):
    """Calls the example in an empty folder: (exit code, standard output, last line of standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        code = example.cli.main({name.lower(): getattr(example, name) for name in COMMANDS}, [*map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err.strip().splitlines()[-1] if said.err.strip() else ""

    return call


COMMANDS = ("Train", "Evaluate", "Predict")


@pytest.fixture(scope="session")
def trained(example, tmp_path_factory):
    """The folder of a run with every default."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    commands = {"train": example.Train, "evaluate": example.Evaluate}
    assert example.cli.main(commands, ["train", "--run", str(folder)]) == 0
    return folder


def test_the_default_reads_digits(trained, run):
    code, out, _ = run("evaluate", "--run", trained, "--json")
    assert code == 0
    assert json.loads(out)["test"]["accuracy"] >= 0.99


def test_the_run_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()}
    pictures = {"curves.png", "confusion.png", "wrong.png"}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "weights.safetensors"} | pictures
    for picture in pictures:
        assert (trained / picture).read_bytes().startswith(b"\x89PNG")
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"} == set(last)
    assert len(list((trained / "checkpoints").iterdir())) >= 2


def test_predict_names_a_scan(trained, run, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    (tmp_path / "scans").mkdir()
    for i in range(10):
        Image.fromarray(np.rint(digits.images[i] * 255 / 16).astype(np.uint8)).save(tmp_path / "scans" / f"{i}.png")
    code, out, _ = run("predict", "--run", trained, tmp_path / "scans", "--json")
    assert code == 0
    answers = json.loads(out)
    best = [max(answer, key=answer.get) for answer in answers.values()]
    assert best == [str(label) for label in digits.target[:10]]


def test_json_is_one_line_and_runs_are_numbered(run):
    code, out, _ = run("train", *SHORT)
    assert code == 0
    assert set(json.loads(out)) == {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}
    assert run("train", *SHORT)[0] == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits", "digits-2"]


def test_more_steps_at_a_resume_do_not_bend_the_schedule(run):
    assert run("train", *SHORT)[0] == 0
    code, out, _ = run("train", "--resume", "--steps", "80", "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 80
    config = json.loads(Path("runs/digits/config.json").read_text())
    assert (config["steps"], config["schedule_steps"], config["model"]) == (80, 60, "mlp")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "no_such_set"], "no_such_set"),
        (["train", "--stepz", "3"], "--stepz"),
        (["train", "--steps", "many"], "--steps"),
        (["train", "--steps", "0"], "--steps"),
        (["train", "--run", "/proc/nowhere"], "/proc/nowhere"),
        (["evaluate", "--run", "empty"], "empty is not a run folder"),
        (["train", "--data", "empty"], "empty"),
        (["train", "--data", "mixed"], "size"),
        (["train", "--data", "broken"], "broken"),
    ],
)
def test_wrong_input_is_told_in_one_line(run, arguments, words):
    from PIL import Image

    Path("empty").mkdir()
    for folder, sizes in {"mixed": (8, 9), "broken": (8, 8)}.items():
        for i, size in enumerate(sizes):
            for name in ("a", "b"):
                (Path(folder) / str(i)).mkdir(parents=True, exist_ok=True)
                Image.new("L", (size, size)).save(Path(folder) / str(i) / f"{name}.png")
    Path("broken/0/a.png").write_bytes(b"\x89PNG no more")
    code, out, last = run(*arguments)
    assert (code, out) == (2, "")
    assert words in last
    assert last.startswith("error: ")
    assert not Path("runs").exists()


def test_another_configuration_is_refused(run):
    assert run("train", *SHORT, "--run", "here")[0] == 0
    code, _, last = run("train", "--run", "here", "--resume", "--learning-rate", "0.5")
    assert code == 2
    assert "learning_rate was 0.004, is now 0.5" in last
    code, _, last = run("train", *SHORT, "--run", "here")
    assert code == 2
    assert "--resume" in last


def test_ctrl_c_and_resume_give_the_same_bits(run, tmp_path):
    options = ["--batch-size", "32", "--steps", "600", "--checkpoint-every", "250"]
    assert run("train", *options, "--run", "whole")[0] == 0
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])}
    command = [sys.executable, str(EXAMPLE), "train", *options, "--run", str(tmp_path / "cut")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step "):  # training has begun
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("interrupted")
    assert run("train", *options, "--run", "cut", "--resume")[0] == 0
    assert Path("cut/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()
