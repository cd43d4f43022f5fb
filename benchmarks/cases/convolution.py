"""One 3x3 convolution, at the shapes of small networks and ResNet-18: which algorithm is fastest where."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape

_SIZES = (
    (32, 28, 1, 32),
    (32, 13, 32, 64),
    (32, 5, 64, 64),
    (64, 32, 3, 64),
    (64, 32, 64, 64),
    (64, 16, 128, 128),
    (64, 8, 256, 256),
    (64, 4, 512, 512),
)
_OURS = ("jaxnets", "jaxnets_xla", "jaxnets_im2col", "jaxnets_winograd")


def _batch(parameters: Mapping[str, int]) -> Arrays:
    """Noise `x` [batch, size, size, channels]."""
    shape = parameters["batch"], parameters["size"], parameters["size"], parameters["channels"]
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _flops(parameters: Mapping[str, int], mode: str) -> float:
    """Of the direct form: an algorithm with fewer products may pass the peak."""
    images = parameters["batch"] * parameters["size"] ** 2
    forward = 2 * 9 * images * parameters["channels"] * parameters["features"]
    return forward * (3 if mode == "gradient" else 1)


CASE = Case(
    name="convolution",
    summary="a 3x3 convolution over a batch of square images, and its gradient",
    shapes=tuple(
        Shape(
            "x".join(map(str, size)),
            dict(zip(("batch", "size", "channels", "features"), size, strict=True)),
            ours=_OURS,
        )
        for size in _SIZES
    ),
    peers=("torch", "torch_compiled"),
    agreement={"y": 1e-5, "loss": 1e-5, "x": 1e-4, "kernel": 1e-4, "bias": 1e-4},
    batch=_batch,
    modes=("forward", "gradient"),
    flops=_flops,
    seconds=0.1,
)
