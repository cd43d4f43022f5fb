"""Flax NNX: the modules split into a graph and parameters, and a jitted function of these."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledLayer

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
