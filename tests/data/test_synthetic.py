"""Tasks of long memory: what they hold, that a key decides them, and batches made inside a program."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.data import GeneratedData, adding_problem, copy_task, held_out, pixel_sequence
from jaxnets.train import DeviceResident

KEY = jax.random.key(3)


@pytest.mark.parametrize("length", [2, 3, 9])
def test_adding_marks_one_step_of_each_half(length):
    batch = jax.tree.map(np.asarray, adding_problem(KEY, 200, length=length))
    values, marks = batch["x"][..., 0], batch["x"][..., 1]
    assert (batch["x"].dtype, batch["y"].dtype, batch["x"].shape) == (np.float32, np.float32, (200, length, 2))
    assert (marks[:, : length // 2].sum(1) == 1).all()
    assert (marks[:, length // 2 :].sum(1) == 1).all()
    assert marks.any(axis=0).all()  # every step is marked in some row
    assert ((values >= 0) & (values < 1)).all()
    np.testing.assert_allclose(batch["y"], (values * marks).sum(1), rtol=1e-6)


def test_the_mean_errs_by_one_sixth():
    y = np.asarray(adding_problem(KEY, 20_000, length=4)["y"], np.float64)
    assert abs(y.mean() - 1) < 0.02
    assert abs(np.mean((y - 1) ** 2) - 1 / 6) < 0.01


def test_copy_is_symbols_blank_signal_blank():
    batch = jax.tree.map(np.asarray, copy_task(KEY, 50, length=4, items=3, symbols=5))
    x, y = batch["x"], batch["y"]
    assert x.shape == y.shape == batch["where"].shape == (50, 10)
    assert (x.dtype, y.dtype, batch["where"].dtype) == (np.int32, np.int32, bool)
    assert set(np.unique(x[:, :3])) == {1, 2, 3, 4, 5}
    assert (x[:, 3:] == [0, 0, 0, 6, 0, 0, 0]).all()
    assert (y[:, :7] == 0).all()
    np.testing.assert_array_equal(y[:, 7:], x[:, :3])
    assert (batch["where"] == (np.arange(10) >= 7)).all()


@pytest.mark.parametrize("task", [adding_problem, copy_task])
def test_a_key_decides_the_batch(task):
    make = functools.partial(task, length=5)
    eager, compiled, other = make(KEY, 4), jax.jit(make, static_argnums=1)(KEY, 4), make(jax.random.key(4), 4)
    jax.tree.map(np.testing.assert_array_equal, eager, compiled)
    assert not (eager["x"] == other["x"]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: adding_problem(KEY, 2, length=1), "length is 1 but wants 2 or more"),
        (lambda: copy_task(KEY, 2, length=0), "want 1 or more but are 0, 10, 8"),
        (lambda: copy_task(KEY, 2, length=3, items=0), "want 1 or more but are 3, 0, 8"),
        (lambda: pixel_sequence(0.0, 0.0), "std must be positive, got 0.0"),
        (lambda: GeneratedData(adding_problem, 0, seed=0), "batch_size must be positive, got 0"),
    ],
)
def test_wrong_sizes_are_named(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_pixels_come_one_by_one():
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 1), np.uint8)
    rows = pixel_sequence(0.25, 0.5)(KEY, {"x": x, "y": 7})
    assert (rows["y"], rows["x"].dtype, rows["x"].shape) == (7, jnp.float32, (3, 8, 1))
    np.testing.assert_allclose(rows["x"][..., 0], (x.reshape(3, 8) / 255 - 0.25) / 0.5, rtol=1e-5, atol=1e-6)
    order = np.array([7, 2, 1, 0, 4, 5, 6, 3])
    np.testing.assert_array_equal(pixel_sequence(0.25, 0.5, permutation=order)(KEY, {"x": x})["x"], rows["x"][:, order])


@pytest.mark.parametrize("shape", [(3, 2, 4, 3), (3, 8, 1), (3, 2, 3, 1)])
def test_images_that_are_no_such_sequences_are_refused(shape):
    with pytest.raises(
        ValueError, match=re.escape(f"x has shape {shape}, wanted grey images [B, H, W, 1] of 8 pixels")
    ):
        pixel_sequence(0.0, 1.0, permutation=np.arange(8))(KEY, {"x": np.zeros(shape, np.uint8)})


def test_every_batch_is_new_and_reached_at_once():
    make = functools.partial(adding_problem, length=4)
    data = GeneratedData(make, 3, seed=5)
    assert isinstance(data, DeviceResident)
    seen = [data.batch(data.order(step // 1000), step % 1000)["x"] for step in (0, 1, 999, 1000, 1001, 5000)]
    assert len({np.asarray(x).tobytes() for x in seen}) == 6
    np.testing.assert_array_equal(seen[4], make(jax.random.fold_in(jax.random.key(5), 1001), 3)["x"])
    np.testing.assert_array_equal(data.batch(data.order(1), 2001)["x"], seen[4])


def test_one_program_serves_every_seed():
    make = functools.partial(adding_problem, length=4)
    batches = jax.jit(lambda data, epoch: jax.lax.map(lambda i: data.batch(data.order(epoch), i), jnp.arange(3)))
    for seed in (0, 1):
        data = GeneratedData(make, 2, seed=seed)
        got = batches(data, 2)
        np.testing.assert_array_equal(got["y"][1], data.batch(data.order(2), 1)["y"])
    assert batches._cache_size() == 1


def test_what_is_held_out_is_in_no_batch():
    make = functools.partial(adding_problem, length=4)
    parts = held_out(make, 5)
    assert {name: type(part["x"]) for name, part in parts.items()} == {"validation": np.ndarray, "test": np.ndarray}
    for name, number in {"validation": 2**32 - 2, "test": 2**32 - 1}.items():  # those of batches are below 2**31
        jax.tree.map(np.testing.assert_array_equal, parts[name], make(jax.random.fold_in(jax.random.key(0), number), 5))
