"""Grain: a data set of rows that is shuffled, cut into batches and repeated."""

from typing import Any

import grain
import numpy as np

from benchmarks.case import Arrays, Problem
from benchmarks.peers.drawn import Drawn


class _Rows:
    def __init__(self, arrays: Arrays):
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays["y"])

    def __getitem__(self, i: Any) -> dict[str, np.ndarray]:
        return {name: array[i] for name, array in self._arrays.items()}


def loading(problem: Problem) -> Drawn:
    """A `MapDataset`, iterated with the threads that it takes by itself."""
    dataset = grain.MapDataset.source(_Rows(problem.batch)).seed(0).shuffle()
    batches = iter(dataset.batch(problem.parameters["batch"]).repeat().to_iter_dataset())
    return Drawn(problem, lambda: next(batches))
