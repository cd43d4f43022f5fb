"""A language model of Transformer blocks: its logits, and the gradient that a training step takes."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape, Target

_AXES = ("batch", "time", "vocabulary", "features", "heads", "depth")
_SIZES = ((8, 256, 1024, 256, 4, 4), (2, 1024, 1024, 256, 4, 4))
_KERNELS = (*(f"mixer/{name}/kernel" for name in ("query", "key", "value", "out")), "up/kernel", "down/kernel")
_NORMS = tuple(f"{norm}/{name}" for norm in ("norm_mixer", "norm_mlp") for name in ("scale", "bias"))
_WEIGHTS = (
    "embedding/embedding",
    "layer/layers_0/table",
    *(f"layer/layers_1/layer/{path}" for path in (*_KERNELS, *_NORMS)),
    "norm/scale",
    "norm/bias",
)


def batch(parameters: Mapping[str, int]) -> Arrays:
    """Tokens `x` [batch, time], and those that follow them, `y`."""
    shape = parameters["batch"], parameters["time"] + 1
    tokens = np.random.default_rng(0).integers(parameters["vocabulary"], size=shape, dtype=np.int32)
    return {"x": tokens[:, :-1], "y": tokens[:, 1:]}


def _flops(parameters: Mapping[str, int], mode: str) -> float:
    """Of the weights, and of the attention that the mask leaves."""
    features, depth, time = (parameters[name] for name in ("features", "depth", "time"))
    products = 12 * depth * features**2 + parameters["vocabulary"] * features
    pairs = depth * features * (time + 1)
    return 2 * parameters["batch"] * time * (products + pairs) * (3 if mode == "gradient" else 1)


_SHAPES = tuple(Shape("x".join(map(str, size)), dict(zip(_AXES, size, strict=True))) for size in _SIZES)

CASE = Case(
    name="transformer",
    summary="a causal Transformer with learned positions and tied weights: its logits, or its loss and all gradients",
    shapes=_SHAPES,
    peers=("torch", "torch_compiled", "jax", "flax", "nnx", "keras", "equinox"),
    agreement={"y": 1e-4, "loss": 1e-5} | dict.fromkeys(_WEIGHTS, 1e-4),
    batch=batch,
    targets=(
        Target("torch_compiled", 1.0, tuple(shape.name for shape in _SHAPES), mode="gradient", device="gpu", each=True),
    ),
    modes=("forward", "gradient"),
    flops=_flops,
    seconds=0.4,
    unit="tokens",
    counted=("batch", "time"),
)
