"""Whole training runs of tiny models, where what surrounds a step costs as much as the step."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape, Target

_SIZES = {"batch": 32, "features": 64, "hidden": 32, "rows": 1024}


def batch(parameters: Mapping[str, int]) -> Arrays:
    """The whole set: `x` [rows, features] and class numbers `y` [rows]."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((parameters["rows"], parameters["features"]), dtype=np.float32)
    return {"x": x, "y": rng.integers(10, size=len(x), dtype=np.int32)}


TRAINER = Case(
    name="trainer",
    summary="one step of `fit` on a tiny model, with metrics, progress and checkpoints on",
    shapes=(Shape("tiny", _SIZES),),
    peers=("jaxnets_bare", "flax"),
    agreement={"losses": 1e-4},
    batch=batch,
    targets=(
        Target("jaxnets_bare", 1.1, ("tiny",)),
        Target("flax", 0.2, ("tiny",)),
        # With all that is on here already.
        Target("jaxnets_bare", 1.1, ("tiny",), stage="then"),
    ),
    seconds=2.0,
)

SWEEP = Case(
    name="sweep",
    summary="one step of every member of a sweep, all in one program",
    shapes=(
        Shape("8 tiny", {**_SIZES, "members": 8}),
        Shape("8 wide", {**_SIZES, "members": 8, "hidden": 256}),
    ),
    peers=("jaxnets_separate",),
    agreement={"losses": 1e-5},
    batch=batch,
    seconds=2.0,
    targets=(Target("jaxnets_separate", 0.6, ("8 tiny",)),),
)
