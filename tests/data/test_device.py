"""Data on the device: the orders of epochs, and batches cut inside a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.data import DeviceData

X = np.arange(23 * 6, dtype=np.uint8).reshape(23, 2, 3, 1)
Y = np.arange(23, dtype=np.int32)


@pytest.fixture(scope="module")
def data():
    return DeviceData({"x": X, "y": Y}, 5, seed=7)


def test_an_epoch(data):
    assert (len(data), data.steps_per_epoch) == (23, 4)
    order = data.order(0)
    np.testing.assert_array_equal(np.sort(order), np.arange(23))
    rows = np.concatenate([data.batch(order, i)["y"] for i in range(4)])
    np.testing.assert_array_equal(rows, order[:20])
    batch = data.batch(order, 2)
    assert batch["x"].dtype == np.uint8
    np.testing.assert_array_equal(batch["x"], X[np.asarray(batch["y"])])


def test_orders_differ_by_epoch_and_seed_and_repeat(data):
    orders = [data.order(0), data.order(1), DeviceData({"y": Y}, 5, seed=8).order(0)]
    assert len({tuple(order.tolist()) for order in orders}) == 3
    np.testing.assert_array_equal(DeviceData({"y": Y}, 2, seed=7).order(1), data.order(jnp.array(1)))


def test_the_step_of_the_run_serves_too(data):
    order = data.order(3)
    for step in (4, 9, 4000):
        np.testing.assert_array_equal(data.batch(order, step)["y"], data.batch(order, step % 4)["y"])


def test_an_epoch_in_one_program_that_serves_every_seed(data):
    @jax.jit
    def epoch(data, number):
        order = data.order(number)
        return jax.lax.map(lambda i: data.batch(order, i), jnp.arange(data.steps_per_epoch))

    for each in (data, DeviceData({"x": X, "y": Y}, 5, seed=8)):
        got = epoch(each, 2)
        order = np.asarray(each.order(2))[:20].reshape(4, 5)
        np.testing.assert_array_equal(got["y"], order)
        np.testing.assert_array_equal(got["x"], X[order])
    assert epoch._cache_size() == 1


def test_it_is_a_pytree(data):
    leaves, structure = jax.tree.flatten(data)
    assert len(leaves) == 3
    rebuilt = jax.tree.unflatten(structure, leaves)
    np.testing.assert_array_equal(rebuilt.batch(rebuilt.order(0), 0)["y"], data.batch(data.order(0), 0)["y"])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(data)]
    assert paths == [".arrays['x']", ".arrays['y']", ".key"]


def test_wide_integers(x64):
    data = DeviceData({"y": np.arange(4)}, 2, seed=0)
    assert data.order(0).dtype == np.int32
    assert data.batch(data.order(0), 1)["y"].dtype == np.int64


@pytest.mark.parametrize("batch_size", [0, 24, -1])
def test_a_batch_that_cannot_be_filled(batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size} but there are 23 examples"):
        DeviceData({"y": Y}, batch_size, seed=0)


def test_arrays_of_two_lengths():
    with pytest.raises(ValueError, match=r"DeviceData: the arrays have shapes .* want one length"):
        DeviceData({"x": X, "y": Y[1:]}, 2, seed=0)
