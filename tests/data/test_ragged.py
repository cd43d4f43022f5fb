"""Padding, packing and buckets against what they stand for, and against a search through all choices."""

import itertools
import json

import numpy as np
import pytest

from jaxnets import data


def some(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 100, n).astype(np.int32) for n in lengths]


def test_padding_and_cutting():
    sequences = some([3, 0, 5])
    padded = data.pad(sequences)
    assert padded["x"].shape == (3, 5)
    assert padded["lengths"].tolist() == [3, 0, 5]
    for row, sequence in zip(padded["x"], sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()
    np.testing.assert_array_equal(data.pad(sequences, 2)["x"][2], sequences[2][:2])
    np.testing.assert_array_equal(data.pad(sequences, 2, keep="end")["x"][2], sequences[2][-2:])
    assert data.pad(sequences, 2)["lengths"].tolist() == [2, 0, 2]
    assert data.pad([np.ones((2, 4))], 3)["x"].shape == (1, 3, 4)
    with pytest.raises(ValueError, match="pad: wanted sequences"):
        data.pad([])


@pytest.mark.parametrize("seed", range(5))
def test_packing_keeps_every_sequence(seed):
    sequences = some(np.random.default_rng(seed).integers(1, 12, 30), seed)
    packed = data.pack(sequences, 12)
    total = sum(map(len, sequences))
    assert packed["lengths"].sum() == total
    assert packed["starts"].sum() == len(sequences)
    assert -(-total // 12) <= len(packed["x"]) <= -(-11 * total // (9 * 12)) + 1
    for sequence, (row, step) in zip(sequences, packed["places"], strict=True):
        np.testing.assert_array_equal(packed["x"][row, step : step + len(sequence)], sequence)
        assert packed["starts"][row, step]
        assert not packed["starts"][row, step + 1 : step + len(sequence)].any()
        assert step + len(sequence) <= packed["lengths"][row]


@pytest.mark.parametrize("lengths", [[], [0], [13]])
def test_what_cannot_be_packed_is_told(lengths):
    with pytest.raises(ValueError, match="pack: wanted sequences of 1 to 12 steps"):
        data.pack(some(lengths), 12)


@pytest.mark.parametrize(("count", "multiple"), [(1, 1), (2, 1), (3, 1), (3, 4), (9, 1)])
def test_bounds_leave_the_least_padding(count, multiple):
    lengths = np.random.default_rng(1).integers(1, 15, 40)
    bounds = data.bucket_bounds(lengths, count, multiple=multiple)

    def padded(bounds):
        return sum(min(bound for bound in bounds if bound >= length) for length in lengths)

    candidates = sorted({-(-int(length) // multiple) * multiple for length in lengths})
    choices = [c for n in range(1, count + 1) for c in itertools.combinations(candidates, n) if c[-1] == candidates[-1]]
    assert len(bounds) <= count
    assert padded(bounds) == min(map(padded, choices))


def test_buckets_hold_each_sequence_once_an_epoch():
    sequences = some([1, 2, 2, 3, 7, 8, 8, 8, 20])
    loader = data.BucketLoader(sequences, {"y": np.arange(9)}, 2, bounds=(3, 8), seed=0)
    for epoch in range(2):
        batches = [next(loader) for _ in range(loader.steps_per_epoch)]
        seen = np.concatenate([batch["y"][batch["where"]] for batch in batches])
        assert sorted(seen) == list(range(9))
        assert {batch["x"].shape for batch in batches} == {(2, 3), (2, 8)}
        for batch in batches:
            assert not batch["lengths"][~batch["where"]].any()
            for x, length, y in zip(batch["x"], batch["lengths"], batch["y"] * batch["where"], strict=True):
                np.testing.assert_array_equal(x[:length], sequences[y][:length])
        assert (seen != np.arange(9)).any(), epoch


def test_a_bucket_loader_goes_on_where_it_stood():
    def make(seed=3):
        return data.BucketLoader(some(range(1, 20)), {"y": np.arange(19)}, 4, bounds=(5, 10, 19), seed=seed)

    loader = make()
    for _ in range(8):
        next(loader)
    state = json.loads(json.dumps(loader.state()))
    want = [next(loader) for _ in range(3)]
    again = make()
    again.restore(state)
    for batch in want:
        for name, array in next(again).items():
            np.testing.assert_array_equal(array, batch[name])
    with pytest.raises(ValueError, match=r"BucketLoader\.restore: the state has seed 3 but this loader has 4"):
        make(seed=4).restore(state)


def test_in_order_from_short_to_long():
    loader = data.BucketLoader(some([9, 1, 5]), {}, 1, bounds=(2, 6, 9), seed=0, shuffle=False)
    assert [next(loader)["lengths"].item() for _ in range(3)] == [1, 5, 9]


@pytest.mark.parametrize(("y", "batch_size", "bounds"), [(2, 1, (9,)), (3, 0, (9,)), (3, 1, ()), (3, 1, (9, 2))])
def test_wrong_buckets_are_told(y, batch_size, bounds):
    with pytest.raises(ValueError, match="BucketLoader"):
        data.BucketLoader(some([1, 2, 3]), {"y": np.arange(y)}, batch_size, bounds=bounds, seed=0)


def test_what_is_done_in_buckets_keeps_its_order_and_sees_a_shape_a_bound():
    sequences, shapes = some([9, 1, 4, 0, 7, 2, 4]), set()

    def sum_and_length(x, lengths):
        shapes.add(x.shape)
        return np.stack([x.sum(1), lengths], axis=1)

    got = data.in_buckets(sum_and_length, sequences, 2, bounds=(4, 8))
    assert shapes == {(2, 4), (2, 8)}
    assert [row.tolist() for row in got] == [[each[:8].sum(), min(len(each), 8)] for each in sequences]
