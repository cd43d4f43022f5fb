"""Made images with made labels: a step costs the same whatever they show."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays


def batch(parameters: Mapping[str, int]) -> Arrays:
    """Square images `x` [batch, size, size, channels] and class numbers `y` [batch]."""
    rng = np.random.default_rng(0)
    count, size = parameters["batch"], parameters["size"]
    x = rng.standard_normal((count, size, size, parameters["channels"]), dtype=np.float32)
    return {"x": x, "y": rng.integers(10, size=count, dtype=np.int32)}
