"""Equinox: a cell scanned over time, mapped over the batch, and jitted."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledLayer


class _Tanh(eqx.Module):
    """Equinox has no such cell."""

    input: eqx.nn.Linear
    hidden: eqx.nn.Linear

    def __init__(self, input_size: int, hidden_size: int, *, key: jax.Array):
        keys = jax.random.split(key)
        self.input = eqx.nn.Linear(input_size, hidden_size, key=keys[0])
        self.hidden = eqx.nn.Linear(hidden_size, hidden_size, use_bias=False, key=keys[1])

    def __call__(self, x: jax.Array, h: jax.Array) -> jax.Array:
        return jnp.tanh(self.input(x) + self.hidden(h))


_CELLS: Mapping[str, Any] = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell, "rnn": _Tanh}


def recurrent(problem: Problem) -> Contender:
    """Its cell under `lax.scan`."""
    hidden = problem.parameters["hidden"]
    initial = _CELLS[problem.case](problem.parameters["input"], hidden, key=jax.random.key(0))

    def arrays(cell: Any) -> list[Any]:
        if problem.case == "rnn":
            return [cell.input.weight, cell.hidden.weight, cell.input.bias]
        return [cell.weight_ih, cell.weight_hh, cell.bias, *([cell.bias_n] if problem.case == "gru" else [])]

    def convert(weights: Mapping[str, Any]) -> Any:
        names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
        return eqx.tree_at(arrays, initial, [weights[name].T for name in names if name in weights])

    def sequence(cell: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            state = cell(x, state)
            return state, state[0] if problem.case == "lstm" else state

        zeros = jnp.zeros(hidden)
        state, y = jax.lax.scan(step, (zeros, zeros) if problem.case == "lstm" else zeros, x)
        return y, dict(zip("hc", state, strict=True)) if problem.case == "lstm" else {"h": state}

    variant = "a tanh cell of our own" if problem.case == "rnn" else ""
    return CompiledLayer(problem, convert, jax.vmap(sequence, in_axes=(None, 0)), variant=variant)
