"""Batches drawn one after another: what the contenders of data loading share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Problem


class Drawn:
    """A contender that takes one batch at each step.

    Attributes:
      variant: How it loads, where there is a choice.
      compile_seconds: Nothing that counts is compiled.
      program_bytes: Not asked for.
    """

    compile_seconds = None
    program_bytes = None

    def __init__(self, problem: Problem, take: Callable[[], Any], variant: str = ""):
        """Takes nothing yet.

        Args:
          problem: What to solve.
          take: Gives the next batch, `x` [batch, size, size, channels] and `y` [batch], ready to be read.
          variant: How it loads.
        """
        self._take, self.variant = take, variant
        self._steps = problem.parameters["rows"] // problem.parameters["batch"]

    def results(self) -> Arrays:
        """The numbers of the rows of an epoch, sorted, and the sum of the bytes in each."""
        batches = [self._take() for _ in range(self._steps)]
        rows = np.concatenate([np.asarray(batch["y"]) for batch in batches])
        sums = np.concatenate([np.asarray(batch["x"]).reshape(len(batch["y"]), -1).sum(axis=1) for batch in batches])
        order = np.argsort(rows)
        return {"rows": rows[order].astype(np.float64), "sums": sums[order].astype(np.float64)}

    def run(self, steps: int) -> None:
        """Takes batches."""
        for _ in range(steps):
            self._take()
