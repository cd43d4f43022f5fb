"""Flax NNX: the modules split into a graph and parameters, and a jitted function of these."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.case import Contender, Problem
from benchmarks.peers.compiled import nested
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer, blocks, split_heads


class _Block(nnx.Module):
    def __init__(self, features: int, heads: int, rngs: nnx.Rngs):
        self.norm_mixer, self.norm_mlp = (nnx.LayerNorm(features, rngs=rngs) for _ in range(2))
        self.mixer = nnx.MultiHeadAttention(heads, features, use_bias=False, decode=False, rngs=rngs)
        self.up = nnx.Linear(features, 4 * features, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(4 * features, features, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.mixer(self.norm_mixer(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm_mlp(x))))


class _Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, vocabulary: int, time: int, features: int, heads: int, depth: int):
        self.embedding = nnx.Embed(vocabulary, features, rngs=rngs)
        self.table = nnx.Param(jnp.zeros((time, features)))
        self.blocks = nnx.List([_Block(features, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(features, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, mask = self.embedding(tokens) + self.table[...], nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.norm(x))


_CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}


def recurrent(problem: Problem) -> Contender:
    """`nnx.RNN` over its cell."""
    cell = _CELLS[problem.case](problem.parameters["input"], problem.parameters["hidden"], rngs=nnx.Rngs(0))
    graph, initial = nnx.split(nnx.RNN(cell, return_carry=True, rngs=False))
    # Where the one bias is.
    biased = "dense_h" if problem.case == "lstm" else "dense_i"

    def convert(weights: Mapping[str, Any]) -> Any:
        dense = {"dense_i": {"kernel": weights["kernel"]}, "dense_h": {"kernel": weights["recurrent_kernel"]}}
        dense[biased]["bias"] = weights["bias"]
        params = jax.tree.map(jnp.zeros_like, initial)
        nnx.replace_by_pure_dict(params, {"cell": dense})
        return params

    def apply(params: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        carry, y = nnx.merge(graph, params)(x, rngs=nnx.Rngs(0))
        return y, dict(zip("ch", carry, strict=True)) if problem.case == "lstm" else {"h": carry}

    if problem.case != "gru":
        return CompiledLayer(problem, convert, apply)
    differs = "has no recurrent bias: compared with that at zero, without its gradient"
    return CompiledLayer(problem, convert, apply, differs=differs, leaves_out=("recurrent_bias",))


def attention(problem: Problem) -> Contender:
    """`nnx.dot_product_attention` with a causal mask."""

    def apply(heads: Mapping[str, Any], x: jax.Array) -> tuple[Any, Mapping[str, Any]]:
        mask = nnx.make_causal_mask(jnp.ones(heads["q"].shape[:2]))
        return nnx.dot_product_attention(heads["q"], heads["k"], heads["v"], mask=mask), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))


def decode(problem: Problem) -> Contender:
    """`nnx.MultiHeadAttention` with `decode=True`."""
    layer, x = _decoder(problem), problem.batch["x"]
    for name in ("key", "value"):
        past = np.einsum("btd,dnh->btnh", x, np.asarray(getattr(layer, name).kernel[...]))
        past[:, -1] = 0
        getattr(layer, f"cached_{name}")[...] = past
    layer.cache_index[...] = np.int32(x.shape[1] - 1)
    graph, params, cache = nnx.split(layer, nnx.Param, ...)

    def step(params: Any, cache: Any, token: Any) -> tuple[Any, Any]:
        merged = nnx.merge(graph, params, cache)
        index = merged.cache_index[...]
        y = merged(token, rngs=nnx.Rngs(0))
        merged.cache_index[...] = index
        return y, nnx.split(merged, nnx.Param, ...)[2]

    return CompiledDecoder(step, params, cache, x[:, -1:])


def prefill(problem: Problem) -> Contender:
    """The same over all tokens: it takes one at a time."""
    graph, params, cache = nnx.split(_decoder(problem), nnx.Param, ...)

    def step(params: Any, cache: Any, tokens: Any) -> tuple[Any, Any]:
        def take(cache: Any, token: Any) -> tuple[Any, Any]:
            merged = nnx.merge(graph, params, cache)
            y = merged(token[:, None], rngs=nnx.Rngs(0))
            return nnx.split(merged, nnx.Param, ...)[2], y[:, 0]

        after, y = jax.lax.scan(take, cache, tokens.swapaxes(0, 1))
        merged = nnx.merge(graph, params, after)
        merged.cache_index[...] = nnx.merge(graph, params, cache).cache_index[...]
        return y.swapaxes(0, 1), nnx.split(merged, nnx.Param, ...)[2]

    def keys(cache: Any) -> Mapping[str, Any]:
        merged = nnx.merge(graph, params, cache)
        return {"k": merged.cached_key[...], "v": merged.cached_value[...]}

    return CompiledDecoder(step, params, cache, problem.batch["x"], held=keys, variant="a scan over tokens")


def transformer(problem: Problem) -> Contender:
    """`nnx.MultiHeadAttention` in blocks."""
    names = "vocabulary", "time", "features", "heads", "depth"
    graph, initial = nnx.split(_Transformer(nnx.Rngs(0), *(problem.parameters[name] for name in names)))
    heads = problem.parameters["heads"]

    def convert(weights: Mapping[str, Any]) -> Any:
        own: dict[str, Any] = {"embedding": {"embedding": weights["embedding/embedding"]}}
        own |= {"table": weights["layer/layers_0/table"], "norm": {n: weights[f"norm/{n}"] for n in ("scale", "bias")}}
        own["blocks"] = {
            i: nested({path: split_heads(path, value, heads) for path, value in block.items()})
            for i, block in enumerate(blocks(weights))
        }
        params = jax.tree.map(jnp.zeros_like, initial)
        nnx.replace_by_pure_dict(params, own)
        return params

    def apply(params: Any, tokens: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return nnx.merge(graph, params)(tokens), {}

    def loss(y: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    return CompiledLayer(problem, convert, apply, loss=loss)


def _decoder(problem: Problem) -> nnx.MultiHeadAttention:
    """The layer with our weights, and an empty cache."""
    heads, width = problem.parameters["heads"], problem.parameters["width"]
    layer = nnx.MultiHeadAttention(heads, heads * width, use_bias=False, decode=True, rngs=nnx.Rngs(0))
    layer.init_cache(problem.batch["x"].shape)
    for path, value in problem.weights.items():
        getattr(layer, path.split("/")[0]).kernel[...] = split_heads(path, value, heads)
    return layer
