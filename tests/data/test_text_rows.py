"""Rows of a long text: each goes on where it stood, on the host and on the device alike."""

import json

import jax
import numpy as np
import pytest

from jaxnets import data
from jaxnets.train import DeviceResident


def of_device(text, step):
    epoch, i = divmod(step, text.steps_per_epoch)
    return jax.tree.map(np.asarray, text.batch(text.order(epoch), i))


@pytest.mark.parametrize(("length", "batch_size", "time"), [(100, 4, 5), (101, 3, 7), (10, 2, 9), (7, 6, 1)])
def test_rows_go_on_for_ever(length, batch_size, time):
    tokens = np.random.default_rng(0).integers(0, 256, length).astype(np.uint8)
    loader = data.TextLoader(tokens, batch_size, time)
    batches = [next(loader) for _ in range(60)]
    for row in range(batch_size):
        read = np.concatenate([batch["x"][row] for batch in batches])
        np.testing.assert_array_equal(read, np.resize(np.roll(tokens, -row * (length // batch_size)), len(read)))
        told = np.concatenate([batch["y"][row] for batch in batches])
        np.testing.assert_array_equal(told[:-1], read[1:])
    assert loader.steps_per_epoch == max(length // (batch_size * time), 1)


@pytest.mark.parametrize(("length", "batch_size", "time"), [(100, 4, 5), (101, 3, 7), (10, 2, 9)])
def test_the_device_has_the_same_rows(length, batch_size, time):
    tokens = np.random.default_rng(0).integers(0, 256, length).astype(np.uint8)
    loader, text = data.TextLoader(tokens, batch_size, time), data.DeviceText(tokens, batch_size, time)
    assert isinstance(text, DeviceResident)
    assert text.steps_per_epoch == loader.steps_per_epoch
    for step in [*range(9), 1_000_000_007]:
        loader.seek(step)
        want, got = next(loader), of_device(text, step)
        for name in ("x", "y"):
            assert got[name].dtype == want[name].dtype == np.int32
            np.testing.assert_array_equal(got[name], want[name])


def test_windows_are_drawn_from_the_seed():
    tokens = np.arange(50)
    for make in (data.TextLoader, data.DeviceText):
        made = {seed: make(tokens, 8, 6, windows=True, seed=seed) for seed in (0, 1)}

        def at(step, seed, made=made):
            if isinstance(made[seed], data.DeviceText):
                return of_device(made[seed], step)
            made[seed].seek(step)
            return next(made[seed])

        seen = set()
        for step in range(30):
            batch = at(step, 0)
            np.testing.assert_array_equal(batch["x"], batch["x"][:, :1] + np.arange(6))
            np.testing.assert_array_equal(batch["y"], batch["x"] + 1)
            seen |= {*batch["x"][:, 0].tolist()}
        assert seen == set(range(44))
        assert (at(3, 0)["x"] == at(3, 0)["x"]).all()
        assert (at(3, 0)["x"] != at(4, 0)["x"]).any()
        assert (at(3, 0)["x"] != at(3, 1)["x"]).any()


@pytest.mark.parametrize("make", [data.TextLoader, data.DeviceText])
def test_rows_restart_where_the_seed_says(make):
    tokens = np.arange(100)

    def at(step, **settings):
        text = make(tokens, 8, 5, **settings)
        if isinstance(text, data.DeviceText):
            return of_device(text, step)
        text.seek(step)
        return next(text)

    starts = np.stack([at(step, restarts=0.25)["starts"] for step in range(60)])
    assert starts.dtype == bool
    assert not starts[..., 1:].any()
    assert 80 < starts[..., 0].sum() < 160  # of 480, within four standard deviations
    assert len({row.tobytes() for row in starts[..., 0]}) > 30
    np.testing.assert_array_equal(at(7, restarts=0.25)["starts"], starts[7])
    assert any((at(step, restarts=0.25, seed=1)["starts"] != starts[step]).any() for step in range(3))
    np.testing.assert_array_equal(at(7, restarts=0.25)["x"], at(7)["x"])
    assert "starts" not in at(7)
    for settings in ({"restarts": 1.5}, {"restarts": 0.1, "windows": True}):
        with pytest.raises(ValueError, match=f"{make.__name__}: restarts wants to be from 0 to 1, and 0 for windows"):
            make(tokens, 8, 5, **settings)


def test_a_loader_goes_on_where_it_stood():
    loader = data.TextLoader(np.arange(40), 2, 3)
    for _ in range(17):
        next(loader)
    state = json.loads(json.dumps(loader.state()))
    want = next(loader)["x"]
    again = data.TextLoader(np.arange(40), 2, 3)
    again.restore(state)
    np.testing.assert_array_equal(next(again)["x"], want)
    with pytest.raises(ValueError, match=r"TextLoader\.restore: the state has time 3 but this loader has 4"):
        data.TextLoader(np.arange(40), 2, 4).restore(state)


@pytest.mark.parametrize(("length", "batch_size", "time"), [(5, 2, 5), (5, 0, 2), (5, 2, 0), (3, 3, 1)])
@pytest.mark.parametrize("make", [data.TextLoader, data.DeviceText])
def test_too_short_a_text_is_told(make, length, batch_size, time):
    with pytest.raises(ValueError, match=f"{make.__name__}: {batch_size} rows of {time} steps"):
        make(np.arange(length), batch_size, time)


def test_a_seed_or_a_text_compiles_nothing_anew():
    traces = []

    @jax.jit
    def first(text):
        traces.append(1)
        return text.batch(text.order(0), 0)["x"]

    for seed in (0, 1):
        first(data.DeviceText(np.arange(40), 2, 3, windows=True, seed=seed))
    assert len(traces) == 1
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(data.DeviceText(np.arange(9), 2, 3))]
    assert paths == [".tokens", ".key"]
