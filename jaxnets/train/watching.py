"""A run seen from outside: its metrics in TensorBoard, and what its steps spend their time on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


class TensorBoard:
    """A callback that writes metrics where TensorBoard reads them; wants the extra `tensorboard`.

        with TensorBoard(run / "tensorboard") as board:
            state, metrics = fit(state, step, data, steps=1000, callbacks=[every(50, board)])

    Of a sweep, where a metric is an array, each member has a curve of its own: `loss/0`, `loss/1`, ...
    """

    def __init__(self, directory: str | os.PathLike[str]):
        """Begins a file of events in a directory, which is made.

        Raises:
          ImportError: If tensorboardX is not installed.
          OSError: If the directory cannot be written.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard: tensorboardX is not installed; pip install 'jaxnets[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(os.fspath(directory))

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Writes the metrics of a moment."""
        for name, value in metrics.items():
            for place, number in np.ndenumerate(value):
                self._writer.add_scalar("/".join([name, *map(str, place)]), float(number), step)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._writer.close()


class Profile:
    """A callback that traces some of the steps with `jax.profiler`, to be looked at in XProf or Perfetto.

        with Profile(run / "profile", first=100, steps=20) as profile:
            state, metrics = fit(state, step, data, steps=1000, callbacks=[profile])

    Whole calls of `fit` are traced, from the first that is over at `first` or later: a few steps more than asked.
    """

    def __init__(self, directory: str | os.PathLike[str], *, first: int = 10, steps: int = 20):
        """Says what to trace.

        Args:
          directory: Where the trace goes.
          first: Steps to let pass, in which programs are compiled.
          steps: Steps to trace, at least.

        Raises:
          ValueError: If steps is not positive.
        """
        if steps < 1:
            raise ValueError(f"Profile: steps must be positive, got {steps}")
        self.directory, self.first, self.steps = Path(directory), first, steps
        self._begun: int | None = None
        self._done = False

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Begins the trace, or ends it."""
        if self._begun is None and not self._done and step >= self.first:
            jax.profiler.start_trace(self.directory)
            self._begun = step
        elif self._begun is not None and step >= self._begun + self.steps:
            self._end()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._begun is not None:
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._begun, self._done = None, True
