"""Batches from host memory, or from anything that can be indexed: seeded, and at any step in O(1)."""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from jaxnets.typing import Batch


@runtime_checkable
class Indexable(Protocol):
    """What a `Loader` reads: a length, and batches by the indices of their examples."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, indices: Int[np.ndarray, " b"], /) -> Batch:
        """The examples of these indices as one batch."""


class Seekable(abc.ABC):
    """An endless iterator over batches, each a function of its step alone: any is reached without those before it.

    A run that goes on from a saved `state` sees the very batches that it would have seen.
    """

    def __init__(self, **settings: Any):
        """Stands at step 0; the settings are what decides the batches."""
        self.step = 0
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, which decides the batches; a plain dict, fit for JSON."""
        return dict(self._settings)

    @abc.abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.batch(self.step)
        self.step += 1
        return batch

    def seek(self, step: int) -> None:
        """Makes the next batch that of `step`, counted from 0 over all epochs.

        Raises:
          ValueError: If the step is negative.
        """
        if step < 0:
            raise ValueError(f"{type(self).__name__}.seek: step is {step} but wants 0 or more")
        self.step = step

    def state(self) -> dict[str, Any]:
        """Where the loader stands and what it was made with; a plain dict, fit for JSON."""
        return {"step": self.step, **self._settings}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved `state`.

        Raises:
          ValueError: If the state is of a loader that was made otherwise.
        """
        op = f"{type(self).__name__}.restore"
        for name, here in self._settings.items():
            if name not in state or state[name] != here:
                raise ValueError(
                    f"{op}: the state has {name} {state.get(name)} but this loader has {here}: "
                    "it would not see the same batches, make it with the same settings"
                )
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"{op}: the state has step {step!r} but wants an integer of 0 or more")
        self.step = step


class ByStep(Seekable):
    """Batches that something else gives by their number, such as a Grain `MapDataset` of batches.

        dataset = grain.MapDataset.source(source).seed(0).shuffle().batch(64).repeat()
        loader = ByStep(dataset, seed=0, batch_size=64)

    >>> loader = ByStep([{"x": 3}, {"x": 4}])
    >>> loader.seek(1)
    >>> next(loader)
    {'x': 4}
    """

    def __init__(self, batches: Any, **settings: Any):
        """Stands at step 0.

        Args:
          batches: `batches[step]` is the batch of a step.
          **settings: What decides the batches, for `state` and `settings`.
        """
        super().__init__(**settings)
        self._batches = batches

    def batch(self, step: int) -> Batch:
        """The batch of this number."""
        return self._batches[step]


class Loader(Seekable):
    """Iterates over shuffled batches for ever.

    The order of an epoch depends on the seed and the epoch alone.

    >>> loader = Loader({"x": np.arange(6)}, 2, seed=0)
    >>> first = next(loader)["x"]
    >>> loader.seek(0)
    >>> bool((next(loader)["x"] == first).all())
    True
    """

    def __init__(
        self,
        data: Mapping[str, np.ndarray] | Indexable,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
    ):
        """Makes a loader that stands at step 0.

        Args:
          data: Arrays [N, ...] by name, or an `Indexable` (a memory map, a folder read on demand).
          batch_size: The examples of a batch.
          seed: Between 0 and 2**64 - 1.
          shuffle: Whether each epoch has an order of its own; otherwise all have that of the data.
          drop_last: Leaves out what is over when N is no multiple of the batch size (something else each epoch);
            otherwise an epoch ends in a smaller batch.

        Raises:
          ValueError: If the arrays differ in length, or a batch cannot be filled.
        """
        self._source: Indexable = _Arrays(data) if isinstance(data, Mapping) else data
        length = len(self._source)
        if not 0 < batch_size <= (length if drop_last else max(batch_size, 1)) or length == 0:
            raise ValueError(f"Loader: batch_size is {batch_size} but there are {length} examples")
        super().__init__(seed=seed, batch_size=batch_size, length=length, shuffle=shuffle, drop_last=drop_last)
        self.batch_size = batch_size
        self.steps_per_epoch = length // batch_size if drop_last else -(-length // batch_size)
        self._epoch, self._order = 0, self._order_of(0)

    def batch(self, step: int) -> Batch:
        """The examples of a step."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        return self._source[self._order[i * self.batch_size : (i + 1) * self.batch_size]]

    def _order_of(self, epoch: int) -> Int[np.ndarray, " n"]:
        length = self._settings["length"]
        if not self._settings["shuffle"]:
            return np.arange(length)
        return generator("Loader", self._settings["seed"], epoch).permutation(length)


def batches(data: Mapping[str, np.ndarray] | Indexable, batch_size: int) -> Iterator[Batch]:
    """One pass over the data in order, a smaller last batch included: what an evaluation wants.

    Raises:
      ValueError: If the arrays differ in length or hold nothing, or the batch size is not positive.

    >>> [len(batch["x"]) for batch in batches({"x": np.arange(5)}, 2)]
    [2, 2, 1]
    """
    loader = Loader(data, batch_size, seed=0, shuffle=False, drop_last=False)
    return (next(loader) for _ in range(loader.steps_per_epoch))


def generator(op: str, seed: int, stream: int) -> np.random.Generator:
    """A generator for one of the independent streams of a seed, reached without those before it.

    Raises:
      ValueError: If the seed is not between 0 and 2**64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"{op}: seed is {seed} but wants a value between 0 and 2**64 - 1")
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def common_length(op: str, arrays: Mapping[str, Shaped[Any, "..."]]) -> int:
    """The length N that all arrays [N, ...] share.

    Raises:
      ValueError: If there are none, one has no axis, or two differ.
    """
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
        raise ValueError(f"{op}: the arrays have shapes {shapes} but want one length N, the first axis, for all")
    return next(iter(shapes.values()))[0]


class _Arrays:
    """Arrays in memory as an `Indexable`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.length = common_length("Loader", arrays)
        self.arrays = arrays

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, indices: Int[np.ndarray, " b"], /) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}
