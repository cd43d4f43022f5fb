"""A GRU step by step and by Newton's method for all steps at once: where, if anywhere, which is faster."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape

_SIZES = (
    (1, 1000, 2, 2),
    (1, 30000, 2, 2),
    (1, 1000, 8, 8),
    (8, 1000, 8, 8),
    (1, 1000, 32, 32),
    (32, 100, 32, 32),
)


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """Noise `x` [batch, time, input]."""
    shape = parameters["batch"], parameters["time"], parameters["input"]
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


CASE = Case(
    name="newton",
    summary="a GRU step by step, and solved for all steps at once by Newton's method",
    shapes=tuple(
        Shape(
            "x".join(map(str, size)),
            dict(zip(("batch", "time", "input", "hidden"), size, strict=True)),
            ours=("jaxnets", "jaxnets_newton", "jaxnets_diagonal"),
        )
        for size in _SIZES
    ),
    peers=(),
    agreement=dict.fromkeys(("y", "h", "loss", "x", "kernel", "recurrent_kernel", "bias", "recurrent_bias"), 1e-4),
    batch=_batch,
    modes=("forward", "gradient"),
    seconds=0.1,
)
