"""Orbax as it is: a manager of checkpoints that waits until all is written, or writes in the background."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.case import Arrays, Problem
from benchmarks.peers.saved import Saved


class _Manager:
    def __init__(self, manager: ocp.CheckpointManager, arrays: Arrays):
        self._manager, self._arrays = manager, jax.device_put(arrays)

    def save(self, step: int) -> None:
        self._manager.save(step, args=ocp.args.StandardSave(self._arrays))

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def restored(self) -> Arrays:
        found = self._manager.restore(self._manager.latest_step(), args=ocp.args.StandardRestore(self._arrays))
        return {name: np.asarray(array) for name, array in found.items()}


def checkpoint(problem: Problem) -> Saved:
    """`CheckpointManager.save` of a tree of arrays, the newest two kept."""
    background = problem.options.get("background", False)

    @contextlib.contextmanager
    def opened(folder: str) -> Iterator[_Manager]:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=background)
        with ocp.CheckpointManager(folder, options=options) as manager:
            yield _Manager(manager, problem.batch)

    return Saved(opened)
