"""What ours does on the host: loads batches, saves states, and is imported."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jaxnets as jn
from benchmarks.case import Arrays, Problem
from benchmarks.peers.drawn import Drawn
from benchmarks.peers.saved import Saved
from benchmarks.peers.started import Started


def loading(problem: Problem) -> Drawn:
    """The seekable loader, or data on the device, cut in a compiled program."""
    size = problem.parameters["batch"]
    if not problem.options.get("device"):
        loader = jn.data.Loader(problem.batch, size, seed=0)
        return Drawn(problem, lambda: next(loader))
    data, cut = jn.data.DeviceData(problem.batch, size, seed=0), jax.jit(lambda data, order, i: data.batch(order, i))

    def batches() -> Iterator[Any]:
        step = 0
        while True:
            epoch, i = divmod(step, data.steps_per_epoch)
            order = data.order(epoch) if i == 0 else order
            yield jax.block_until_ready(cut(data, order, i))
            step += 1

    drawn = batches()
    return Drawn(problem, lambda: next(drawn))


class _Folder:
    def __init__(self, checkpoints: jn.train.Checkpoints, arrays: Arrays):
        self._checkpoints, self._arrays, self._key = checkpoints, jax.device_put(arrays), jax.random.key(0)

    def save(self, step: int) -> None:
        self._checkpoints.save(self._state(step))

    def wait(self) -> None:
        self._checkpoints.wait()

    def restored(self) -> Arrays:
        found = self._checkpoints.restore(self._state(0))
        assert found is not None
        return {name: np.asarray(array) for name, array in found[0].params.items()}

    def _state(self, step: int) -> jn.train.State:
        return jn.train.State(np.int32(step), self._arrays, (), {}, None, self._key)


def checkpoint(problem: Problem) -> Saved:
    """`Checkpoints.save` of a state with these parameters, the newest two kept."""

    @contextlib.contextmanager
    def opened(folder: str) -> Iterator[_Folder]:
        with jn.train.Checkpoints(folder) as checkpoints:
            yield _Folder(checkpoints, problem.batch)

    return Saved(opened)


def startup(problem: Problem) -> Started:
    """All of it."""
    return Started("import jaxnets")
