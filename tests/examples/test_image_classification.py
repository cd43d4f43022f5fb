"""The example as a user runs it: the whole default, its files, wrong input, interruption and resume."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SHORT = ["--model", "mlp", "--batch-size", "16", "--steps", "60", "--checkpoint-every", "20", "--json"]
RESULT = {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}


@pytest.fixture(scope="module")
def trained(example, as_users_do, tmp_path_factory):
    """The folder of a run with every default."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    subprocess.run([sys.executable, example.__file__, "train", "--run", folder], env=as_users_do, check=True)
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
    assert set(last) == RESULT
    assert len(list((trained / "checkpoints").iterdir())) >= 2


def test_predict_names_a_scan(example, trained, run, tmp_path):
    from PIL import Image

    held_out = example.jn.data.load_images("digits").test
    (tmp_path / "scans").mkdir()
    for i in range(10):
        Image.fromarray(held_out["x"][i, ..., 0]).save(tmp_path / "scans" / f"{i}.png")
    code, out, _ = run("predict", "--run", trained, tmp_path / "scans", "--json")
    assert code == 0
    answers = json.loads(out)
    best = [max(answer, key=answer.get) for answer in answers.values()]
    assert best == [str(label) for label in held_out["y"][:10]]


def test_json_is_one_line_and_runs_are_numbered(run):
    code, out, _ = run("train", *SHORT)
    assert code == 0
    assert set(json.loads(out)) == RESULT
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


def test_ctrl_c_and_resume_give_the_same_bits(run, interrupted):
    options = ["--batch-size", "32", "--steps", "600", "--checkpoint-every", "250"]
    assert run("train", *options, "--run", "whole")[0] == 0
    code, last = interrupted("train", *options, "--run", "cut")
    assert (code, last) == (130, "interrupted; go on with: train --resume --run cut")
    assert run("train", *options, "--run", "cut", "--resume")[0] == 0
    assert Path("cut/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()


def test_predict_takes_images_after_the_options(trained, run, tmp_path):
    from PIL import Image

    for name, image in {"grey.png": Image.new("L", (8, 8)), "colour.png": Image.new("RGB", (20, 30))}.items():
        (tmp_path / "scans" / "below").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "scans" / name)
    (tmp_path / "scans" / "notes.txt").write_text("no picture")
    code, out, _ = run("predict", "--run", trained, "scans", "scans/grey.png", "--top", "1")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["scans/colour.png", "scans/grey.png"]
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    code, _, last = run("predict", "--run", trained, "deep.png")
    assert (code, "deep.png" in last, "8 bits" in last) == (2, True, True)


def test_probabilities_are_numpy(example, trained):
    task, state, config = example.trained(trained)
    probabilities = task.probabilities(state, np.zeros((2, *config["shape"]), np.uint8))
    assert isinstance(probabilities, np.ndarray)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_checkpoints_rarer_than_steps_leave_a_record(run):
    assert run("train", *SHORT, "--run", "here", "--checkpoint-every", "1000")[0] == 0
    first, last = map(json.loads, Path("here/metrics.jsonl").read_text().splitlines())
    assert (first["step"], set(last)) == (60, RESULT)


@pytest.mark.exhaustive
def test_resume_restores_every_option(run):
    options = ["--seed", "5", "--optimizer", "sgd", "--schedule", "constant", "--weight-decay", "0", "--mix", "mixup"]
    assert run("train", *SHORT, *options, "--smoothing", "0", "--run", "here")[0] == 0
    before = json.loads(Path("here/config.json").read_text())
    code, out, _ = run("train", "--resume", "--run", "here", "--steps", "70", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 70)
    assert json.loads(Path("here/config.json").read_text()) == {**before, "steps": 70}
    records = [json.loads(line) for line in Path("here/metrics.jsonl").read_text().splitlines()]
    assert [record.get("step") for record in records] == [20, 40, 60, 70, None]
    assert json.loads(out)["seconds"] >= records[2]["seconds"]

    # What is refused changes nothing.
    config = Path("here/config.json").read_bytes()
    for arguments, words in {
        ("--resume", "--steps", "69"): "here is at step 70 already: --steps 69",
        ("--resume", "--seed", "6"): "seed was 5, is now 6",
        ("--checkpoint-every", "3"): "here holds a run already: add --resume",
    }.items():
        code, _, last = run("train", "--run", "here", *arguments)
        assert code == 2
        assert words in last
        assert Path("here/config.json").read_bytes() == config
    assert run("train", "--resume", "--run", "here")[0] == 0  # nothing to train: it only evaluates

    for checkpoint in Path("here/checkpoints").iterdir():
        shutil.rmtree(checkpoint / "state")
    code, _, last = run("train", "--resume", "--run", "here", "--steps", "80")
    assert code == 2
    assert "no checkpoint in" in last
    assert "remove that folder" in last
    assert Path("here/config.json").read_bytes() == config
    assert any(Path("here/checkpoints").iterdir())


@pytest.mark.parametrize("options", [["--model", "lenet5"], ["--smoothing", "2"]])
def test_options_that_do_not_fit_leave_nothing(run, options):
    code, _, last = run("train", "--run", "here", "--steps", "1", *options)
    assert (code, last.startswith("error: ")) == (2, True)
    assert not Path("here").exists()


def test_runs_that_cannot_be_used_are_named(trained, run):
    Path("file").touch()
    for name, change in {"cut": {}, "nameless": {"model": None}, "strange": {"model": "vgg"}}.items():
        config = {**json.loads((trained / "config.json").read_text()), **change}
        Path(name).mkdir()
        Path(name, "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    for name, words in {
        "file": "file is a file, not a run folder",
        "cut": "cut is unfinished: go on with train --resume --run cut",
        "nameless": "lacks model",
        "strange": "has model 'vgg', wanted one of small_cnn",
    }.items():
        for command in (["evaluate"], ["predict", "file"]):
            code, _, last = run(*command, "--run", name)
            assert code == 2
            assert words in last


def folder_of_grey(path, size):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in "ab":
        (path / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (size, size), np.uint8)).save(path / label / f"{i}.png")
    return path


def test_a_folder_by_another_path_is_the_same_data(run, tmp_path):
    folder_of_grey(tmp_path / "scans", 8)
    assert run("train", *SHORT, "--data", "scans")[0] == 0
    code, _, last = run("train", "--resume", "--data", tmp_path / "scans", "--run", "runs/scans")
    assert code == 0, last
    code, _, last = run("evaluate", "--run", "runs/scans", "--data", "digits")
    assert code == 2
    assert "has classes ['0', '1'," in last
    assert "wants ['a', 'b']" in last


def test_recipes_of_folders(example, tmp_path):
    for size, name in {8: "none", 28: "mnist"}.items():
        images = example.jn.data.load_images(folder_of_grey(tmp_path / str(size), size))
        assert example.recipe(images)["augment"] == name
