"""Max pooling as networks of images do it: windows of 2x2 that do not overlap."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape

_SIZES = ((32, 26, 32), (128, 26, 32), (64, 32, 64), (64, 8, 512))


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """Noise `x` [batch, size, size, channels]."""
    shape = parameters["batch"], parameters["size"], parameters["size"], parameters["channels"]
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _moved(parameters: Mapping[str, int], mode: str) -> float:
    """The images are read; their maxima, a quarter of them, or their gradient is written."""
    images = 4 * parameters["batch"] * parameters["size"] ** 2 * parameters["channels"]
    return images * (1.25 if mode == "forward" else 2)


CASE = Case(
    name="pooling",
    summary="the maximum of each 2x2 window of a batch of square images, and its gradient",
    shapes=tuple(
        Shape("x".join(map(str, size)), dict(zip(("batch", "size", "channels"), size, strict=True))) for size in _SIZES
    ),
    peers=("torch", "torch_compiled", "flax"),
    agreement={"y": 0.0, "loss": 1e-5, "x": 1e-6},
    batch=_batch,
    modes=("forward", "gradient"),
    moved=_moved,
    seconds=0.1,
)
