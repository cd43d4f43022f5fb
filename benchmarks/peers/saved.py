"""A state written again and again: what the contenders of checkpoints share."""

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np

from benchmarks.case import Arrays


class Saver(Protocol):
    """A folder of checkpoints."""

    def save(self, step: int) -> None:
        """Saves the state as that of a step; may write it in the background."""

    def wait(self) -> None:
        """Waits until all is written."""

    def restored(self) -> Arrays:
        """The arrays of the newest, read again."""


class Saved:
    """A contender that saves at each step, and counts the seconds until `save` returns.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: Nothing is compiled.
      program_bytes: Likewise.
    """

    variant = ""
    compile_seconds = None
    program_bytes = None

    def __init__(self, opened: Callable[[str], AbstractContextManager[Saver]]):
        """Opens nothing yet.

        Args:
          opened: Opens a folder, which is there and empty.
        """
        self._opened = opened

    def results(self) -> Arrays:
        """The state as it is read again."""
        with tempfile.TemporaryDirectory() as folder, self._opened(folder) as saver:
            saver.save(0)
            saver.wait()
            arrays = saver.restored()
        return {"state": np.concatenate([arrays[name].ravel() for name in sorted(arrays)])}

    def run(self, steps: int) -> float:
        """Saves; the first time, which opens the folder, does not count, nor does the waiting in between."""
        seconds = 0.0
        with tempfile.TemporaryDirectory() as folder, self._opened(folder) as saver:
            for step in range(steps + 1):
                start = time.perf_counter()
                saver.save(step)
                seconds += time.perf_counter() - start if step else 0.0
                saver.wait()
        return seconds
