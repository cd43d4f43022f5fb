"""Texts of ours: in one compiled loop, or as they are read, row by row."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnets as jn
from benchmarks.case import Contender, Problem
from benchmarks.peers.compiled import nested
from benchmarks.peers.layer import CompiledLayer
from benchmarks.peers.looped import Texts


def written(problem: Problem, model: Any) -> Contender:
    """The likeliest tokens after the prompts."""
    prompts, tokens = problem.batch["x"], problem.parameters["tokens"]
    spec = jax.ShapeDtypeStruct((len(prompts), prompts.shape[1] + tokens), prompts.dtype)

    def begun(params: Any, prompts: jax.Array) -> tuple[Any, jn.ops.Decoding]:
        def step(tokens: Any, carry: Any, lengths: Any) -> tuple[Any, Any]:
            return model.apply({"params": params}, tokens, lengths=lengths, carry=carry)

        return step, jn.ops.prefill(step, prompts, jn.layers.initial_carry(model, {"params": params}, spec))

    def whole(params: Any, prompts: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        text, _ = jn.ops.generate(*begun(params, prompts), tokens)
        return text.tokens.astype(jnp.float32), {}

    if not problem.options.get("streaming"):
        return CompiledLayer(problem, nested, whole)

    params, writer = jax.device_put(nested(problem.weights)), jn.models.Writer(model)

    def streamed() -> np.ndarray:
        return np.array([[token for token, _ in writer.write({"params": params}, row, tokens)] for row in prompts])

    return Texts(streamed, "a few to a call")
