"""Flax NNX: the modules split into a graph and parameters, and a jitted function of these."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.case import Contender, Problem
from benchmarks.peers.compiled import nested
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer

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


def decode(problem: Problem) -> Contender:
    """`nnx.MultiHeadAttention` with `decode=True`."""
    heads, width, x = problem.parameters["heads"], problem.parameters["width"], problem.batch["x"]
    layer = nnx.MultiHeadAttention(heads, heads * width, use_bias=False, decode=True, rngs=nnx.Rngs(0))
    layer.init_cache(x.shape)
    own = nested(problem.weights)
    for name in ("query", "key", "value"):
        getattr(layer, name).kernel[...] = own[name]["kernel"].reshape(-1, heads, width)
    layer.out.kernel[...] = own["out"]["kernel"].reshape(heads, width, -1)
    for name in ("key", "value"):
        past = np.einsum("btd,dnh->btnh", x, own[name]["kernel"].reshape(-1, heads, width))
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
