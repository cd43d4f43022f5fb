"""The example as a user runs it: labels learnt by heart, every reader, words that decided, wrong input, resume."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

SHORT = ["--features", "8", "--batch-size", "8", "--steps", "6", "--checkpoint-every", "3"]
RESULT = {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}
MEASURED = {"loss", "accuracy", "macro_f1", "calibration_error"}
FILM = ["the film", "a story", "this play", "her act", "an ending"]
TONE = {"good": ["great", "a joy", "so fine", "lovely"], "bad": ["dull", "a bore", "so weak", "awful"]}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A file of short reviews, some words of which say what they are."""
    path = tmp_path_factory.mktemp("texts") / "reviews.tsv"
    rows = [
        f"{film} is {'so ' * i}{word}{'.' * (i % 2)}\t{label}\n"
        for label, words in TONE.items()
        for word in words
        for film in FILM
        for i in range(3)
    ]
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def trained(example, reviews, tmp_path_factory):
    """The folder of a run that tells them apart."""
    folder = tmp_path_factory.mktemp("runs") / "reviews"
    options = ["--features", "16", "--batch-size", "32", "--steps", "120", "--learning-rate", "0.02", "--pairs", "64"]
    options += ["--checkpoint-every", "60", "--model", "attention"]
    assert example.cli.main(example.COMMANDS, ["train", "--data", str(reviews), "--run", str(folder), *options]) == 0
    return folder


@pytest.fixture
def typed(monkeypatch):
    """Sets standard input."""

    def say(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return say


def test_labels_are_learnt_and_measured(trained, run):
    code, out, _ = run("evaluate", "--run", trained, "--json")
    assert code == 0
    test = json.loads(out)["test"]
    assert set(test) == MEASURED
    assert test["accuracy"] == test["macro_f1"] == 1
    assert test["calibration_error"] < 0.2


def test_the_run_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()}
    pictures = {"curves.png", "confusion.png", "reliability.png"}
    assert names == {"config.json", "words.json", "metrics.jsonl", "checkpoints", "weights.safetensors", *pictures}
    assert all((trained / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last) == RESULT
    assert set(last["validation"]) == MEASURED


@pytest.mark.exhaustive
@pytest.mark.parametrize("by", ["gradients", "attention"])
def test_predict_says_which_words_decided(trained, run, typed, by):
    typed(b"THE film is lovely\n\nher Act is AWFUL.\n")
    code, out, _ = run("predict", "--run", trained, "--explain", by, "--json", "--html", "words.html")
    assert code == 0
    good, bad = json.loads(out)["lines"]
    assert (good["label"], bad["label"]) == ("good", "bad")
    assert good["probabilities"]["good"] > 0.8
    assert " ".join(word for word, _ in good["words"]) == "THE film is lovely"
    for line, word in ((good, "lovely"), (bad, "AWFUL")):
        said = dict(line["words"])
        assert said[word] == max(said.values()) > 0.2
    if by == "attention":
        assert sum(value for _, value in good["words"]) == pytest.approx(1, abs=1e-3)
    assert ">AWFUL</span>" in Path("words.html").read_text()


@pytest.mark.exhaustive
def test_gradients_are_complete(example, trained):
    task, state, _ = example.trained(trained)
    words = task.words("the play is lovely")
    x, lengths = jnp.asarray(words)[None], jnp.array([len(words)])
    shares = task.gradients(state.averages, x, lengths)[0]
    embedded = task.model.apply(state.averages, x, lengths=lengths, method="embed")
    ends = [
        jax.nn.log_softmax(task.model.apply(state.averages, each, lengths=lengths, method="read"))[0, 1]
        for each in (embedded, embedded * 0)
    ]
    assert task.classes[1] == "good"
    np.testing.assert_allclose(shares.sum(), ends[0] - ends[1], rtol=1e-3)


@pytest.mark.exhaustive
def test_predict_in_words(trained, run, typed):
    typed(b"the film is great\nthe film is dull\n")
    code, out, _ = run("predict", "--run", trained, "--explain", "gradients")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["good", "bad"]
    assert out.splitlines()[0].endswith("the film is great")


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["cnn", "gru", "lstm", "bilstm", "transformer", "sum"])
def test_every_reader(run, reviews, model):
    options = ["--ngrams", "50", "--scale", "0.1"] if model == "sum" else []
    code, out, last = run("train", "--data", reviews, "--model", model, *options, *SHORT, "--json")
    assert code == 0, last
    result = json.loads(out)
    assert set(result) == RESULT
    assert set(result["test"]) == MEASURED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "nowhere.tsv"], "nowhere.tsv"),
        (["train", "--data", "empty.tsv"], "empty.tsv is empty"),
        (["train", "--data", "latin.tsv"], "latin.tsv is not UTF-8: byte 0xe9 at 3"),
        (["train", "--data", "one.tsv"], "one.tsv has one class, 'good'"),
        (["train", "--data", "no_tab.tsv"], "line 2 of no_tab.tsv wants a text, a tab and a label"),
        (["train", "--data", "keys.jsonl"], "line 1 of keys.jsonl lacks label"),
        (["train", "--model", "bert"], "--model"),
        (["train", "--word-dropout", "1"], "--word-dropout"),
        (["train", "--features", "0"], "--features"),
        (["train", "--ngrams", "1"], "--ngrams"),
        (["evaluate", "--run", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, arguments, words):
    contents = {
        "empty.tsv": b"",
        "latin.tsv": b"caf\xe9\tgood",
        "one.tsv": b"a\tgood\nb\tgood\n",
        "no_tab.tsv": b"a\tgood\nb bad\n",
        "keys.jsonl": b'{"text": "a"}\n',
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
    code, out, last = run(*arguments)
    assert (code, out) == (2, "")
    assert last.startswith("error: ")
    assert words in last
    assert {path.name for path in Path().iterdir()} == {*contents}


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"\n \n", [], "standard input is empty"),
        (b"caf\xe9", [], "standard input is not UTF-8: byte 0xe9"),
        (b"fine", ["--html", "page.html"], "--html wants --explain gradients or attention"),
    ],
)
def test_what_cannot_be_read_is_one_line(trained, run, typed, content, options, words):
    typed(content)
    code, out, last = run("predict", "--run", trained, *options)
    assert (code, out) == (2, "")
    assert words in last
    assert not Path("page.html").exists()


@pytest.mark.exhaustive
def test_other_data_wants_the_same_classes_and_attention_a_reader_that_attends(trained, run, typed, reviews):
    Path("other.tsv").write_text(reviews.read_text().replace("\tbad", "\tugly"))
    code, _, last = run("evaluate", "--run", trained, "--data", "other.tsv")
    assert (code, "has classes ['good', 'ugly'] but the run" in last) == (2, True)
    assert run("train", "--data", reviews, "--model", "cnn", *SHORT, "--run", "cnn")[0] == 0
    typed(b"fine")
    code, _, last = run("predict", "--run", "cnn", "--explain", "attention")
    assert (code, "attend wants pooling='attention', got 'max'" in last) == (2, True)


@pytest.mark.exhaustive
def test_ctrl_c_and_resume_give_the_same_bits(run, interrupted, reviews):
    options = ["--data", str(reviews), "--features", "8", "--batch-size", "8"]
    options += ["--steps", "3000", "--checkpoint-every", "1100"]
    assert run("train", *options, "--run", "whole")[0] == 0
    code, last = interrupted("train", *options, "--run", "cut")
    assert (code, last) == (130, "interrupted; go on with: train --resume --run cut")
    assert run("train", "--run", "cut", "--resume")[0] == 0
    assert Path("cut/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()


def test_what_suits_one_reader_is_not_taken_by_another(example):
    own, other = (example.Train(data="sst2", model=model).resolved({}) for model in (None, "cnn"))
    assert (own.model, own.ngrams, own.features) == ("sum", 2**16, 16)
    assert (other.model, other.ngrams, other.features, other.length) == ("cnn", 0, 64, own.length)


@pytest.mark.exhaustive
def test_the_default_reads_docstrings(example, as_users_do, tmp_path):
    command = [sys.executable, example.__file__, "train", "--json", "--run", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=as_users_do, check=True, capture_output=True, text=True)
    test = json.loads(done.stdout)["test"]
    assert test["accuracy"] > 0.8
    assert test["macro_f1"] > 0.79
