"""The elementwise recurrence h_t = a_t h_{t-1} + b_t, step by step and in parallel over time."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape

_SIZES = ((1, 1000, 256), (1, 32000, 64), (32, 100, 64), (32, 512, 256), (8, 4096, 128))
_OURS = ("jaxnets", "jaxnets_sequential", "jaxnets_associative")


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """Terms `x` [batch, time, features]."""
    shape = tuple(parameters[name] for name in ("batch", "time", "features"))
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _moved(parameters: Mapping[str, int], mode: str) -> float:
    """Factors and terms are read; the states, or two gradients, are written."""
    return 4 * math.prod(parameters.values()) * (3 if mode == "forward" else 4)


CASE = Case(
    name="linear_recurrence",
    summary="a linear recurrence with factors that change with time, and its gradient",
    shapes=tuple(
        Shape("x".join(map(str, size)), dict(zip(("batch", "time", "features"), size, strict=True)), ours=_OURS)
        for size in _SIZES
    ),
    peers=(),
    agreement={"y": 1e-5, "h": 1e-5, "loss": 1e-5, "x": 1e-4, "a": 1e-4},
    batch=_batch,
    modes=("forward", "gradient"),
    moved=_moved,
    seconds=0.1,
)
