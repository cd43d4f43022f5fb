"""The loader: every step in O(1), and a state that goes on exactly."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.data import Indexable, Loader, batches


def take(loader, count):
    return [next(loader)["x"].tolist() for _ in range(count)]


loaders = st.builds(
    lambda length, batch, seed, shuffle, drop_last: (
        lambda: Loader({"x": np.arange(length)}, min(batch, length), seed=seed, shuffle=shuffle, drop_last=drop_last)
    ),
    length=st.integers(1, 30),
    batch=st.integers(1, 10),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)


@given(make=loaders, step=st.integers(0, 40), detour=st.integers(0, 10**12))
@settings(deadline=None, max_examples=50)
def test_seek_equals_walking(make, step, detour):
    walked, sought = make(), make()
    take(walked, step)
    sought.seek(detour)
    take(sought, 1)
    sought.seek(step)
    assert take(sought, 5) == take(walked, 5)


@given(make=loaders, step=st.integers(0, 10**12))
@settings(deadline=None, max_examples=50)
def test_a_state_through_json_goes_on(make, step):
    before, after = make(), make()
    before.seek(step)
    take(before, 2)
    after.restore(json.loads(json.dumps(before.state())))
    assert after.step == step + 2
    assert after.settings | {"step": step + 2} == after.state()
    assert take(after, 5) == take(before, 5)


@given(make=loaders)
@settings(deadline=None, max_examples=50)
def test_an_epoch_gives_every_example_at_most_once(make):
    loader = make()
    seen = np.concatenate([next(loader)["x"] for _ in range(loader.steps_per_epoch)])
    assert len(set(seen.tolist())) == len(seen)
    length, drop_last = loader.state()["length"], loader.state()["drop_last"]
    assert len(seen) == (length // loader.batch_size * loader.batch_size if drop_last else length)


def test_epochs_and_seeds_have_orders_of_their_own():
    data = {"x": np.arange(64)}
    orders = [take(Loader(data, 64, seed=seed), 2) for seed in (0, 1)]
    flat = [tuple(order) for pair in orders for (order,) in zip(pair, strict=True)]
    assert len(set(flat)) == 4
    assert take(Loader(data, 64, seed=0, shuffle=False), 2) == [list(range(64))] * 2


def test_arrays_stay_aligned():
    x = np.arange(20)
    for batch, _ in zip(Loader({"x": x, "y": x * x}, 3, seed=0), range(20), strict=False):
        np.testing.assert_array_equal(batch["x"] ** 2, batch["y"])


class Squares:
    """A source that computes what is asked of it."""

    def __len__(self):
        return 10

    def __getitem__(self, indices, /):
        return {"x": indices, "y": indices**2}


def test_a_source_of_ones_own():
    assert isinstance(Squares(), Indexable)
    mine, arrays = Loader(Squares(), 3, seed=5), Loader({"x": np.arange(10)}, 3, seed=5)
    assert take(mine, 7) == take(arrays, 7)
    assert [batch["y"].tolist() for batch in batches(Squares(), 4)] == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"batch_size": 2}, {"length": 11}, {"shuffle": False}, {"drop_last": False}], ids=str
)
def test_a_state_of_another_loader_is_refused(change):
    loader = Loader({"x": np.arange(10)}, 3, seed=0)
    (name,) = change
    with pytest.raises(ValueError, match=f"the state has {name} .* but this loader has"):
        loader.restore({**loader.state(), **change})
    without = loader.state()
    del without[name]
    with pytest.raises(ValueError, match=f"the state has {name} None"):
        loader.restore(without)
    assert loader.step == 0


@pytest.mark.parametrize("step", [-1, 1.5, None, "3"])
def test_a_state_with_a_bad_step_is_refused(step):
    loader = Loader({"x": np.arange(10)}, 3, seed=0)
    with pytest.raises(ValueError, match="wants an integer of 0 or more"):
        loader.restore({**loader.state(), "step": step})


def test_bad_arguments():
    x = np.arange(10)
    with pytest.raises(ValueError, match="batch_size is 11 but there are 10 examples"):
        Loader({"x": x}, 11, seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Loader({"x": x}, 0, seed=0, drop_last=False)
    with pytest.raises(ValueError, match="there are 0 examples"):
        Loader({"x": x[:0]}, 1, seed=0, drop_last=False)
    with pytest.raises(ValueError, match="want one length N"):
        Loader({"x": x, "y": x[:9]}, 2, seed=0)
    with pytest.raises(ValueError, match="want one length N"):
        Loader({"x": np.array(3)}, 2, seed=0)
    with pytest.raises(ValueError, match="want one length N"):
        Loader({}, 2, seed=0)
    with pytest.raises(ValueError, match="seed is -1"):
        Loader({"x": x}, 2, seed=-1)
    with pytest.raises(ValueError, match="step is -1"):
        Loader({"x": x}, 2, seed=0).seek(-1)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 99])
def test_batches_pass_once_in_order(batch_size):
    parts = [batch["x"] for batch in batches({"x": np.arange(10)}, batch_size)]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(10))
    assert all(len(part) == batch_size for part in parts[:-1])
