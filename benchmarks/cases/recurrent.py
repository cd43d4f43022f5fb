"""Recurrent layers over whole sequences: LSTM, GRU and the plain network with tanh."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape, Target

_SIZES = (
    (32, 100, 64, 64),
    (64, 35, 200, 200),
    (20, 35, 650, 650),
    (32, 512, 128, 256),
    (1, 1000, 128, 256),
    (128, 28, 28, 128),
)


def shape(size: tuple[int, int, int, int], *ours: str) -> Shape:
    """A shape of (batch, time, input, hidden), and which of ours run there."""
    parameters = dict(zip(("batch", "time", "input", "hidden"), size, strict=True))
    return Shape("x".join(map(str, size)), parameters, ours=ours)


_OURS = "jaxnets", "jaxnets_tuned", "jaxnets_lengths"
_NAMES = tuple(shape(size).name for size in _SIZES)
# Where the recurrent weights of an LSTM, 16 bytes * hidden**2, fit on a chip with the rest of a step.
_SMALL = tuple(shape(size).name for size in _SIZES if size[-1] <= 128)
_VALUES, _GRADIENTS = ("y", "h", "c", "loss"), ("x", "kernel", "recurrent_kernel", "bias", "recurrent_bias")


def batch(parameters: Mapping[str, int]) -> Arrays:
    """Noise `x` [batch, time, input], and `lengths` [batch], which cost the same at any value."""
    shape = parameters["batch"], parameters["time"], parameters["input"]
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return {"x": x, "lengths": np.full(shape[0], shape[1], np.int32)}


def _case(name: str, summary: str, gates: int, *targets: Target, ours: tuple[str, ...] = _OURS) -> Case:
    def flops(parameters: Mapping[str, int], mode: str) -> float:
        forward = 2 * gates * parameters["hidden"] * (parameters["input"] + parameters["hidden"])
        # Each product has two gradients, each a product of the same size.
        return forward * parameters["batch"] * parameters["time"] * (3 if mode == "gradient" else 1)

    return Case(
        name=name,
        summary=summary,
        shapes=tuple(shape(size, *ours) for size in _SIZES),
        peers=("torch", "keras", "flax", "nnx", "haiku", "equinox"),
        agreement=dict.fromkeys(_VALUES, 1e-5) | dict.fromkeys(_GRADIENTS, 1e-4),
        batch=batch,
        targets=(
            *targets,
            Target("jaxnets", 1.1, _NAMES, ours="jaxnets_lengths", mode="forward"),
            Target("jaxnets", 1.1, _NAMES, ours="jaxnets_lengths", mode="gradient"),
            Target("flax", 1.1, _NAMES, mode="gradient", quantity="temporaries", each=True),
            Target("flax", 1.25, _NAMES, ours="jaxnets_lengths", mode="gradient", quantity="temporaries", each=True),
        ),
        group="recurrent",
        modes=("forward", "gradient"),
        flops=flops,
        seconds=0.1,
    )


LSTM = _case(
    "lstm",
    "an LSTM over a batch of sequences, and its gradient",
    4,
    Target("flax", 0.7, _NAMES, mode="gradient"),
    Target("torch", 1.15, _NAMES, mode="gradient"),
    Target("torch", 0.8, _NAMES, mode="gradient", stage="then"),
    # On a GPU PyTorch's is that of cuDNN.
    Target("torch", 1.2, _NAMES, mode="gradient", device="gpu"),
    Target("torch", 1.2, _NAMES, ours="jaxnets_cudnn", mode="gradient", device="gpu"),
    Target("torch", 1.0, _SMALL, mode="gradient", device="gpu", stage="then", each=True),
    ours=(*_OURS, "jaxnets_cudnn"),
)
GRU = _case(
    "gru",
    "a GRU over a batch of sequences, and its gradient",
    3,
    Target("torch", 0.75, _NAMES, mode="gradient"),
    Target("flax", 0.75, _NAMES, mode="gradient"),
    Target("flax", 1.0, _NAMES, mode="forward", each=True),
    Target("torch", 0.5, _NAMES, mode="gradient", stage="then"),
    Target("torch", 2.0, _NAMES, mode="gradient", device="gpu"),
)
RNN = _case(
    "rnn",
    "a tanh RNN over a batch of sequences, and its gradient",
    1,
    Target("torch", 0.5, _NAMES, mode="gradient"),
    Target("flax", 0.6, _NAMES, mode="gradient"),
    Target("torch", 0.3, _NAMES, mode="gradient", stage="then"),
)
