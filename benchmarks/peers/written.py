"""Texts of ours: in one compiled loop, or token by token as they are read."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxnets as jn
from benchmarks.case import Contender, Problem
from benchmarks.peers.compiled import nested
from benchmarks.peers.layer import CompiledLayer
from benchmarks.peers.looped import Looped


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

    @jax.jit
    def first(params: Any, prompts: jax.Array) -> tuple[jax.Array, Any]:
        _, state = begun(params, prompts)
        return jnp.argmax(state.logits, axis=-1), state.carry

    @jax.jit
    def more(params: Any, token: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        logits, carry = model.apply({"params": params}, token[:, None], carry=carry)
        return jnp.argmax(logits[:, 0], axis=-1), carry

    params = jax.device_put(nested(problem.weights))
    return Looped(problem, lambda: first(params, prompts), lambda token, carry: more(params, token, carry))
