"""Tasks of long memory as a whole: their data, how inputs are read, and what is refused."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from jaxnets.data import load_images, memory_task

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "answer", "outputs"), [("adding", "number", 1), ("copy", "symbols", 9)])
def test_tasks_that_are_made_from_a_key(name, answer, outputs):
    task = memory_task(name, 4)
    assert (task.answer, task.outputs, task.fingerprint) == (answer, outputs, None)
    assert task.validation["x"].shape[:2] == task.test["x"].shape[:2] == (1000, task.steps)
    assert not (task.validation["x"] == task.test["x"]).all()
    data = task.training(3, 0)
    batch = data.batch(data.order(0), 0)
    assert set(batch) == set(task.test) == set(task.prepare(KEY, batch))
    assert batch["x"].shape == (3, *task.test["x"].shape[1:])
    np.testing.assert_array_equal(task.test["x"], memory_task(name, 4).test["x"])


def test_adding_reads_lines_of_value_and_mark(tmp_path):
    task = memory_task("adding", 4)
    (tmp_path / "x.csv").write_text("0.5,1\n0.25,0\n")
    np.testing.assert_array_equal(task.read(str(tmp_path / "x.csv")), np.float32([[0.5, 1], [0.25, 0]]))
    assert task.say(np.float32([0.12345])) == 0.1235
    for text in ("1,2,3\n", "nan,1\n"):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(ValueError, match=r"x\.csv: wanted lines of two numbers"):
            task.read(str(tmp_path / "x.csv"))


def test_copy_reads_symbols_as_it_draws_them():
    task = memory_task("copy", 4)
    x, y = task.test["x"][0], task.test["y"][0]
    symbols = "".join(map(str, x[:10]))
    np.testing.assert_array_equal(task.read(symbols), x)
    assert task.say(np.eye(9)[y]) == symbols
    for wrong in ("", "19", "a"):
        with pytest.raises(ValueError, match=f"{wrong}: wanted symbols from 1 to 8"):
            task.read(wrong)


def test_permuted_digits_are_other_sequences(tmp_path):
    plain, permuted = (memory_task(name) for name in ("digits", "permuted_digits"))
    images = load_images("digits")
    assert plain.fingerprint == permuted.fingerprint == images.fingerprint
    batch = {"x": plain.test["x"][:3]}
    rows, mixed = (np.asarray(each.prepare(KEY, batch)["x"]) for each in (plain, permuted))
    assert rows.shape == mixed.shape == (3, 64, 1)
    assert not np.allclose(rows, mixed)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.sort(mixed, axis=1))
    Image.fromarray(batch["x"][1, ..., 0]).save(tmp_path / "scan.png")
    np.testing.assert_array_equal(permuted.read(str(tmp_path / "scan.png")), batch["x"][1])
    assert plain.say(np.eye(10)[7]) == "7"
    assert len(plain.training(10_000, 0)) == len(images.train["y"]) - len(plain.validation["y"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("imdb",), "memory_task: 'imdb' is none of adding, copy, digits"),
        (("digits", 9), "memory_task: length is for adding and copy: digits has a step for each pixel"),
        (("copy",), "memory_task: copy wants a length"),
        (("adding", 1), "length is 1 but wants 2 or more"),
    ],
)
def test_what_is_no_task(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        memory_task(*arguments)
