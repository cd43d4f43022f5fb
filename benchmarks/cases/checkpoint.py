"""How long training waits for a checkpoint: the call of `save`, not what is written in the background after it."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """The state: square kernels by the layer's name."""
    rng, shape = np.random.default_rng(0), (parameters["features"],) * 2
    return {f"layer_{i}": rng.standard_normal(shape, dtype=np.float32) for i in range(parameters["layers"])}


CASE = Case(
    name="checkpoint",
    summary="one call of `save` of a state, until it returns; the writing that follows is not counted",
    shapes=(
        Shape("4 MiB", {"features": 256, "layers": 16}),
        Shape("64 MiB", {"features": 1024, "layers": 16}),
    ),
    peers=("orbax", "orbax_async"),
    # What is read again is what was written, to the last bit.
    agreement={"state": 0.0},
    batch=_batch,
    seconds=0.1,
)
