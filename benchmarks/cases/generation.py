"""Text from models of language: a prompt, and the likeliest tokens after it, one from another."""

from collections.abc import Mapping

import numpy as np

from benchmarks.case import Arrays, Case, Shape


def _prompts(parameters: Mapping[str, int]) -> Arrays:
    """Tokens `x` [batch, prompt]."""
    shape = parameters["batch"], parameters["prompt"]
    return {"x": np.random.default_rng(0).integers(parameters["vocabulary"], size=shape, dtype=np.int32)}


def _shape(name: str, batch: int, **sizes: int) -> Shape:
    return Shape(
        name,
        {"batch": batch, "prompt": 32, "tokens": 128, "vocabulary": 256, **sizes},
        ours=("jaxnets", "jaxnets_streaming") if batch == 1 else ("jaxnets",),
    )


def _case(name: str, summary: str, *more: Shape, **sizes: int) -> Case:
    return Case(
        name=name,
        summary=summary,
        shapes=(*(_shape(f"batch {batch}", batch, **sizes) for batch in (1, 16)), *more),
        peers=("torch", "flax"),
        # The tokens themselves.
        agreement={"y": 0.0},
        batch=_prompts,
        group="generation",
        modes=("forward",),
        unit="tokens",
        counted=("batch", "tokens"),
    )


LSTM = _case(
    "lstm_generation",
    "a prompt and the tokens after it by an LSTM with tied weights",
    _shape("a long text", 1, tokens=1000, features=256),  # from a small model, as the trainer writes
    features=512,
)
TRANSFORMER = _case(
    "transformer_generation",
    "a prompt and the tokens after it by a Transformer with its cache",
    features=256,
    heads=4,
    depth=4,
)
