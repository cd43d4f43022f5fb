"""Sequences of different lengths as arrays: padded, in buckets of few shapes, or packed."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Shaped

from jaxnets.data.loader import Seekable, common_length, generator
from jaxnets.typing import Batch


def pad(
    sequences: Sequence[Shaped[np.ndarray, "_ ..."]],
    length: int | None = None,
    *,
    keep: Literal["start", "end"] = "start",
) -> dict[str, np.ndarray]:
    """One array of all sequences, with zeros after the end of each.

    Args:
      sequences: Arrays [T_i, ...] of one type.
      length: T; None means that of the longest. Longer sequences are cut.
      keep: Which end of those stays, "start" or "end".

    Returns:
      `"x"` [N, T, ...] and `"lengths"` int32 [N].

    Raises:
      ValueError: If there is no sequence, `length` is negative, or `keep` is neither.

    >>> pad([np.array([1, 2, 3]), np.array([4])], 2)["x"].tolist()
    [[1, 2], [4, 0]]
    """
    if not len(sequences) or keep not in ("start", "end") or (length is not None and length < 0):
        raise ValueError(
            f"pad: wanted sequences, a length and keep start or end, got {len(sequences)}, {length} and {keep!r}"
        )
    length = max(map(len, sequences)) if length is None else length
    x = np.zeros((len(sequences), length, *sequences[0].shape[1:]), sequences[0].dtype)
    lengths = np.array([min(len(sequence), length) for sequence in sequences], np.int32)
    for row, sequence, n in zip(x, sequences, lengths, strict=True):
        row[:n] = sequence[:n] if keep == "start" else sequence[len(sequence) - n :]
    return {"x": x, "lengths": lengths}


def pack(sequences: Sequence[Shaped[np.ndarray, "_ ..."]], length: int) -> dict[str, np.ndarray]:
    """Sequences one after another in as few rows as may be, each where it leaves the least room, longest first.

    Args:
      sequences: Arrays [T_i, ...] of one type, none empty.
      length: T, the room of a row.

    Returns:
      `"x"` [R, T, ...], `"starts"` bool [R, T], True where a sequence begins, `"lengths"` int32 [R], and `"places"`
      int32 [N, 2], the row and the step where each sequence begins.

    Raises:
      ValueError: If a sequence is empty or longer than a row, or there is none.

    References:
      Johnson, 1973. Near-optimal bin packing algorithms (best fit decreasing).

    >>> packed = pack([np.array([1, 2]), np.array([3, 4, 5]), np.array([6])], 4)
    >>> packed["x"].tolist(), packed["starts"].astype(int).tolist()
    ([[3, 4, 5, 6], [1, 2, 0, 0]], [[1, 0, 0, 1], [1, 0, 0, 0]])
    """
    sizes = np.array([len(sequence) for sequence in sequences], np.int64)
    if not len(sizes) or sizes.min() < 1 or sizes.max() > length:
        some = f"of {sizes.min()} to {sizes.max()} steps" if len(sizes) else "none"
        raise ValueError(f"pack: wanted sequences of 1 to {length} steps, got {some}")
    places = np.zeros((len(sizes), 2), np.int32)
    room: list[tuple[int, int]] = []  # what is left of each row, and which it is; sorted
    rows = 0
    for i in np.argsort(-sizes, kind="stable"):
        at = bisect.bisect_left(room, (int(sizes[i]), -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row, rows = length, rows, rows + 1
        places[i] = row, length - left
        bisect.insort(room, (left - int(sizes[i]), row))
    x = np.zeros((rows, length, *sequences[0].shape[1:]), sequences[0].dtype)
    starts, lengths = np.zeros((rows, length), bool), np.zeros(rows, np.int32)
    for sequence, (row, step) in zip(sequences, places, strict=True):
        x[row, step : step + len(sequence)] = sequence
        starts[row, step] = True
        lengths[row] = max(lengths[row], step + len(sequence))
    return {"x": x, "starts": starts, "lengths": lengths, "places": places}


def bucket_bounds(lengths: Int[np.ndarray, " n"], count: int = 8, *, multiple: int = 8) -> tuple[int, ...]:
    """The lengths, at most `count`, to which sequences are padded for the least padding in all.

    Args:
      lengths: Of all sequences.
      count: Each bound is a shape, and each shape a compilation.
      multiple: What the bounds are multiples of.

    Raises:
      ValueError: If there is no length, or `count` or `multiple` is less than 1.

    >>> bucket_bounds(np.array([1, 2, 2, 3, 9, 10]), 2, multiple=1)
    (3, 10)
    """
    if not len(lengths) or min(count, multiple) < 1:
        raise ValueError(
            f"bucket_bounds: wanted lengths and counts of 1 or more, got {len(lengths)}, {count}, {multiple}"
        )
    rounded = -(-np.maximum(lengths, 1) // multiple) * multiple
    bounds, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: the least number of steps, padded, of what is below bounds[:j], in as many buckets as there were rounds.
    cost = np.concatenate([[0.0], np.full(len(bounds), np.inf)])
    came_from = []
    for _ in range(min(count, len(bounds))):
        last = np.tril(cost[None, :-1] + bounds[:, None] * (below[1:, None] - below[None, :-1]))
        last[np.triu_indices(len(bounds), 1)] = np.inf
        came_from.append(last.argmin(axis=1))
        cost = np.concatenate([[np.inf], last.min(axis=1)])
    chosen, end = [], len(bounds)
    for sources in reversed(came_from):
        chosen.append(int(bounds[end - 1]))
        end = int(sources[end - 1])
    return tuple(reversed(chosen))


class BucketLoader(Seekable):
    """Iterates for ever over shuffled batches of sequences of like length: as many shapes as there are bounds.

    The order of an epoch depends on the seed and the epoch alone. A batch holds `"x"` [B, T, ...], T one of the bounds,
    `"lengths"`, the other arrays, and `"where"` bool [B]: False in the rows that fill up the last batch of a bucket,
    whose length is 0 and which the loss must leave out.

    Attributes:
      bounds: The lengths to which sequences are padded.
      steps_per_epoch: Batches in an epoch, in which each sequence is once.

    >>> loader = BucketLoader([np.arange(n) for n in (1, 2, 7, 9)], {"y": np.arange(4)}, 2, bounds=(2, 9), seed=0)
    >>> sorted(batch["x"].shape for batch, _ in zip(loader, range(loader.steps_per_epoch)))
    [(2, 2), (2, 9)]
    """

    def __init__(
        self,
        sequences: Sequence[Shaped[np.ndarray, "_ ..."]],
        arrays: Mapping[str, np.ndarray],
        batch_size: int,
        *,
        bounds: Sequence[int],
        seed: int,
        shuffle: bool = True,
    ):
        """Makes a loader that stands at step 0.

        Args:
          sequences: Arrays [T_i, ...] of one type.
          arrays: What belongs to them, [N, ...] by name.
          batch_size: B.
          bounds: The lengths to pad to, such as `bucket_bounds` gives; what is longer than the last is cut.
          seed: Between 0 and 2**64 - 1.
          shuffle: Whether each epoch has an order of its own; otherwise it goes from short to long.

        Raises:
          ValueError: If the arrays differ in length from the sequences, there are none, or the bounds do not increase.
        """
        length = common_length("BucketLoader", {"x": np.empty(len(sequences)), **arrays})
        if length == 0 or batch_size < 1 or not bounds or list(bounds) != sorted({*bounds}) or bounds[0] < 1:
            raise ValueError(
                f"BucketLoader: wanted sequences, a batch and increasing bounds, got {length}, {batch_size}, {bounds}"
            )
        self.bounds = tuple(bounds)
        super().__init__(seed=seed, batch_size=batch_size, length=length, bounds=list(self.bounds), shuffle=shuffle)
        self._sequences, self._arrays, self._batch_size = sequences, arrays, batch_size
        sizes = np.array([len(sequence) for sequence in sequences])
        buckets = np.minimum(np.searchsorted(self.bounds, sizes), len(bounds) - 1)
        self._members = [np.flatnonzero(buckets == i) for i in range(len(bounds))]
        self.steps_per_epoch = sum(-(-len(members) // batch_size) for members in self._members)
        self._epoch, self._plan = 0, self._plan_of(0)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._plan_of(epoch)
        bound, rows = self._plan[i]
        fill = self._batch_size - len(rows)
        padded = pad([self._sequences[row] for row in rows], bound)
        padded |= {name: array[rows] for name, array in self._arrays.items()}
        where = np.arange(self._batch_size) < len(rows)
        return {**{name: _filled(array, fill) for name, array in padded.items()}, "where": where}

    def _plan_of(self, epoch: int) -> list[tuple[int, Any]]:
        """Bound and rows of each batch of an epoch."""
        order = generator("BucketLoader", self._settings["seed"], epoch) if self._settings["shuffle"] else None
        plan = []
        for bound, members in zip(self.bounds, self._members, strict=True):
            members = members if order is None else order.permutation(members)
            plan += [(bound, members[i : i + self._batch_size]) for i in range(0, len(members), self._batch_size)]
        return plan if order is None else [plan[i] for i in order.permutation(len(plan))]


def in_buckets(
    function: Callable[[np.ndarray, np.ndarray], Any],
    sequences: Sequence[Shaped[np.ndarray, "_ ..."]],
    batch_size: int,
    *,
    bounds: Sequence[int],
) -> list[np.ndarray]:
    """What a function gives for each sequence, those of like length together: it sees as many shapes as bounds.

    Args:
      function: Of x [B, T, ...], padded with zeros to one of the bounds, and lengths int32 [B], to an array [B, ...].
      sequences: Arrays [T_i, ...] of one type.
      batch_size: B; rows of length 0 fill up a batch.
      bounds: The lengths to pad to; what is longer than the last is cut.

    Raises:
      ValueError: As `BucketLoader` does.

    >>> in_buckets(lambda x, lengths: x.sum(1, keepdims=True), [np.arange(4), np.arange(2)], 3, bounds=(2, 4))
    [array([6]), array([1])]
    """
    rows = {"row": np.arange(len(sequences))}
    loader = BucketLoader(sequences, rows, batch_size, bounds=bounds, seed=0, shuffle=False)
    found: dict[int, np.ndarray] = {}
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        given = np.asarray(function(batch["x"], batch["lengths"]))
        found |= {int(row): given[i] for i, row in enumerate(batch["row"]) if batch["where"][i]}
    return [found[row] for row in range(len(sequences))]


def _filled(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with so many rows of zeros more."""
    return np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)]) if rows else array
