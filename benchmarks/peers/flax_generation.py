"""Flax Linen's text token by token: a jitted step in a loop of Python's."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.case import Problem
from benchmarks.peers.compiled import nested
from benchmarks.peers.flax_weights import lstm
from benchmarks.peers.layer import blocks, split_heads
from benchmarks.peers.looped import Texts, looped


class _Recurrent(nn.Module):
    vocabulary: int
    features: int

    @nn.compact
    def __call__(self, token: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        embed = nn.Embed(self.vocabulary, self.features, name="embedding")
        carry, y = nn.OptimizedLSTMCell(self.features, name="cell")(carry, embed(token))
        return embed.attend(y), carry


class _Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(name="norm_mixer")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, use_bias=False, decode=True, name="mixer")(y)
        y = nn.Dense(4 * x.shape[-1], use_bias=False, name="up")(nn.LayerNorm(name="norm_mlp")(x))
        return x + nn.Dense(x.shape[-1], use_bias=False, name="down")(nn.gelu(y))


class _Transformer(nn.Module):
    vocabulary: int
    time: int
    features: int
    heads: int
    depth: int

    @nn.compact
    def __call__(self, tokens: jax.Array, place: Any) -> jax.Array:
        embed = nn.Embed(self.vocabulary, self.features, name="embedding")
        table = self.param("table", nn.initializers.normal(), (self.time, self.features))
        x = embed(tokens) + jax.lax.dynamic_slice_in_dim(table, place, tokens.shape[1])
        for i in range(self.depth):
            x = _Block(self.heads, name=f"block_{i}")(x)
        return embed.attend(nn.LayerNorm(name="norm")(x))


def generation(problem: Problem) -> Texts:
    """The cell, or attention with `decode=True`; either takes a prompt token by token, under `lax.scan`."""
    begin, step = (_recurrent if problem.case == "lstm_generation" else _transformer)(problem)

    def likeliest(carry: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        logits, carry = step(token, carry)
        return carry, jnp.argmax(logits, axis=-1)

    @jax.jit
    def first(prompts: jax.Array) -> tuple[jax.Array, Any]:
        carry, tokens = jax.lax.scan(likeliest, begin(), prompts.T)
        return tokens[-1], carry

    @jax.jit
    def more(token: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        return likeliest(carry, token)[::-1]

    return looped(problem, lambda: first(problem.batch["x"]), more)


def _recurrent(problem: Problem) -> tuple[Callable[[], Any], Callable[[Any, Any], Any]]:
    features, weights = problem.parameters["features"], problem.weights
    model = _Recurrent(problem.parameters["vocabulary"], features)
    layer = {name: weights[f"layer/layers_0/{name}"] for name in ("kernel", "recurrent_kernel", "bias")}
    params = {"embedding": {"embedding": weights["embedding/embedding"]}, "cell": lstm(layer)}
    zeros = jnp.zeros((len(problem.batch["x"]), features))
    return lambda: (zeros, zeros), lambda token, carry: model.apply({"params": params}, token, carry)


def _transformer(problem: Problem) -> tuple[Callable[[], Any], Callable[[Any, Any], Any]]:
    sizes, weights = problem.parameters, problem.weights
    room = sizes["prompt"] + sizes["tokens"]
    model = _Transformer(sizes["vocabulary"], room, *(sizes[name] for name in ("features", "heads", "depth")))
    params = {"embedding": {"embedding": weights["embedding/embedding"]}, "table": weights["layer/layers_0/table"]}
    params["norm"] = {name: weights[f"norm/{name}"] for name in ("scale", "bias")}
    for i, own in enumerate(blocks(weights)):
        params[f"block_{i}"] = nested({path: split_heads(path, value, model.heads) for path, value in own.items()})

    def begin() -> tuple[Any, jax.Array]:
        whole = jax.ShapeDtypeStruct((len(problem.batch["x"]), room), jnp.int32)
        shapes = jax.eval_shape(model.init, jax.random.key(0), whole, 0)["cache"]
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), jnp.int32(0)

    def step(token: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        cache, place = carry
        logits, changed = model.apply({"params": params, "cache": cache}, token[:, None], place, mutable=["cache"])
        return logits[:, 0], (changed["cache"], place + 1)

    return begin, step
