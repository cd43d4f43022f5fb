"""Windows on the device and from the host: all of them, each with what comes after."""

import jax
import numpy as np
import pytest

from jaxnets.data import DeviceWindows, every_window

VALUES = np.stack([np.arange(20.0), -np.arange(20.0)], axis=1)


def test_an_epoch_has_each_window_once():
    windows = DeviceWindows(VALUES, lookback=4, horizon=3, batch_size=7, seed=0)
    assert (len(windows), windows.steps_per_epoch) == (14, 2)
    cut = jax.jit(lambda data, epoch, i: data.batch(data.order(epoch), i))
    begun = []
    for i in range(2):
        batch = jax.device_get(cut(windows, 5, i))
        assert (batch["x"].dtype, batch["x"].shape, batch["y"].shape) == (np.float32, (7, 4, 2), (7, 3, 2))
        whole = np.concatenate([batch["x"], batch["y"]], axis=1)
        begun += whole[:, 0, 0].tolist()
        np.testing.assert_array_equal(whole, VALUES[whole[:, :1, 0].astype(int) + np.arange(7)])
    assert sorted(begun) == list(range(14))
    assert np.any(np.asarray(windows.order(5)) != np.asarray(windows.order(6)))


def test_it_is_a_pytree():
    windows = DeviceWindows(VALUES, lookback=4, horizon=3, batch_size=7, seed=0)
    again = jax.tree.map(lambda leaf: leaf, windows)
    assert (again.lookback, again.horizon, again.batch_size) == (4, 3, 7)
    other = DeviceWindows(VALUES, lookback=4, horizon=3, batch_size=7, seed=1)
    assert jax.tree.structure(windows) == jax.tree.structure(other)


@pytest.mark.parametrize("batch_size", [1, 4, 14, 100])
def test_every_window_leaves_none_out(batch_size):
    batches = list(every_window(VALUES, 4, 3, batch_size=batch_size))
    assert {batch["x"].shape for batch in batches} == {(batch_size, 4, 2)}
    kept = [np.concatenate([batch["x"], batch["y"]], 1)[batch["where"].ravel()] for batch in batches]
    want = np.stack([VALUES[i : i + 7] for i in range(14)])
    np.testing.assert_array_equal(np.concatenate(kept), want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DeviceWindows(VALUES, lookback=18, horizon=3, batch_size=1, seed=0), "lookback 18 and horizon 3"),
        (lambda: DeviceWindows(VALUES, lookback=0, horizon=3, batch_size=1, seed=0), "DeviceWindows: a window"),
        (lambda: DeviceWindows(VALUES, lookback=4, horizon=3, batch_size=15, seed=0), "batch_size is 15 .* 14 windows"),
        (lambda: next(every_window(VALUES, 4, 17)), "every_window: a window of lookback 4 and horizon 17"),
        (lambda: next(every_window(VALUES, 4, 1, batch_size=0)), "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
