"""Causal attention of heads that are there already, and a layer of it that takes a prompt, and one token more."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape, Target

_SIZES = ((8, 512, 8, 64), (2, 2048, 8, 64))
_AXES = ("batch", "time", "heads", "width")


def _shapes(sizes: tuple[tuple[int, ...], ...], *ours: str) -> tuple[Shape, ...]:
    return tuple(Shape("x".join(map(str, size)), dict(zip(_AXES, size, strict=True)), ours=ours) for size in sizes)


def _nothing(parameters: Mapping[str, int]) -> Arrays:
    """The heads stand among the weights, so that each contender has them as it likes."""
    return {"x": np.zeros(1, np.float32)}


def _flops(parameters: Mapping[str, int], mode: str) -> float:
    """Of what the mask leaves."""
    pairs = parameters["batch"] * parameters["heads"] * parameters["time"] * (parameters["time"] + 1) / 2
    return 4 * pairs * parameters["width"] * (3.5 if mode == "gradient" else 1)


SHAPES = _shapes(_SIZES, "jaxnets", "jaxnets_xla")
_SHORT, _LONG = (shape.name for shape in SHAPES)

ATTENTION = Case(
    name="attention",
    summary="causal dot-product attention from [B, T, N, H] (PyTorch: [B, N, T, H]), and its gradient",
    shapes=SHAPES,
    peers=("torch", "torch_compiled", "jax", "flax", "nnx", "keras"),
    agreement={"y": 1e-5, "loss": 1e-5, "q": 1e-4, "k": 1e-4, "v": 1e-4},
    batch=_nothing,
    targets=(
        Target("torch", 1.0, (_SHORT,), mode="gradient"),
        Target("torch", 1.2, (_LONG,), mode="gradient"),
        Target("flax", 0.6, (_SHORT,), mode="gradient"),
        Target("flax", 0.45, (_LONG,), mode="gradient"),
        Target("flax", 1 / 5, (_SHORT,), mode="gradient", quantity="temporaries"),
        Target("flax", 1 / 9, (_LONG,), mode="gradient", quantity="temporaries"),
        Target("torch", 0.8, (_SHORT, _LONG), mode="gradient", stage="then"),
        Target("flax", 1 / 12, (_SHORT, _LONG), mode="gradient", quantity="temporaries", stage="then"),
    ),
    modes=("forward", "gradient"),
    flops=_flops,
    seconds=0.4,
)


def _tokens(parameters: Mapping[str, int]) -> Arrays:
    """Noise `x` [batch, time, heads * width]."""
    shape = parameters["batch"], parameters["time"], parameters["heads"] * parameters["width"]
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def _moved(parameters: Mapping[str, int], mode: str) -> float:
    """Keys, values and four kernels are read."""
    features = parameters["heads"] * parameters["width"]
    return 4 * (2 * parameters["batch"] * parameters["time"] * features + 4 * features**2)


_DECODED = _shapes(((1, 1024, 8, 64), (8, 1024, 8, 64)), "jaxnets")

DECODE = Case(
    name="decode",
    summary="a layer of causal self-attention takes the last token, the others being in its cache",
    shapes=_DECODED,
    peers=("torch", "torch_compiled", "jax", "flax", "nnx"),
    agreement={"y": 1e-5},
    batch=_tokens,
    targets=(Target("flax", 0.5, tuple(shape.name for shape in _DECODED), mode="forward", each=True),),
    modes=("forward",),
    moved=_moved,
    seconds=0.1,
)

PREFILL = Case(
    name="prefill",
    summary="a layer of causal self-attention takes a prompt into an empty cache, with room for just that",
    shapes=_shapes(((1, 1024, 8, 64), (8, 256, 8, 64)), "jaxnets"),
    peers=("torch", "torch_compiled", "jax", "flax", "nnx"),
    agreement={"y": 1e-5, "k": 1e-5, "v": 1e-5},
    batch=_tokens,
    modes=("forward",),
    seconds=0.4,
)
