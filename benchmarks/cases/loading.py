"""Batches of images in a shuffled order, from memory."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape

_SIZES = {"batch": 128, "rows": 8192, "size": 32, "channels": 3}


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """Images `x` [rows, size, size, channels] of bytes, and the number of each, `y` [rows]."""
    rows, size = parameters["rows"], parameters["size"]
    x = np.random.default_rng(0).integers(256, size=(rows, size, size, parameters["channels"]), dtype=np.uint8)
    return {"x": x, "y": np.arange(rows, dtype=np.int32)}


CASE = Case(
    name="loading",
    summary="one batch more of a shuffled set in memory, as an array",
    shapes=(
        Shape("batch 128", _SIZES, ours=("jaxnets", "jaxnets_device")),
        Shape("batch 32", {**_SIZES, "batch": 32}, ours=("jaxnets", "jaxnets_device")),
    ),
    peers=("torch", "grain"),
    # An epoch has every row once, whatever its order.
    agreement={"rows": 0.0, "sums": 0.0},
    batch=_batch,
    seconds=0.1,
    unit="rows",
    counted=("batch",),
)
