"""Haiku: its cores unrolled by `dynamic_unroll`, time first, and jitted."""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledLayer


class _Tanh(hk.RNNCore):
    """Haiku's own, `VanillaRNN`, is ReLU's."""

    def __init__(self, hidden: int):
        super().__init__(name="tanh")
        self._hidden = hidden

    def __call__(self, inputs: jax.Array, prev_state: jax.Array) -> tuple[jax.Array, jax.Array]:
        linear = hk.Linear(self._hidden, name="input")
        state = jnp.tanh(linear(inputs) + hk.Linear(self._hidden, with_bias=False, name="hidden")(prev_state))
        return state, state

    def initial_state(self, batch_size: int | None) -> jax.Array:
        return jnp.zeros((batch_size, self._hidden))


def _lstm(weights: Mapping[str, Any]) -> Any:
    # One product of x and h together, gates i, g, f, o, and 1 is added to the forget gate.
    kernel = jnp.concatenate([weights["kernel"], weights["recurrent_kernel"]])
    i, f, g, o = jnp.split(kernel, 4, axis=1)
    bi, bf, bg, bo = jnp.split(weights["bias"], 4)
    return {"lstm/linear": {"w": jnp.concatenate([i, g, f, o], axis=1), "b": jnp.concatenate([bi, bg, bf - 1, bo])}}


def _gru(weights: Mapping[str, Any]) -> Any:
    # Gates z, r, n, where z is the part that is new, ours the part that is kept.
    def reordered(array: jax.Array) -> jax.Array:
        r, z, n = jnp.split(array, 3, axis=-1)
        return jnp.concatenate([-z, r, n], axis=-1)

    names = {"w_i": "kernel", "w_h": "recurrent_kernel", "b": "bias"}
    return {"gru": {name: reordered(weights[ours]) for name, ours in names.items()}}


def _tanh(weights: Mapping[str, Any]) -> Any:
    return {
        "tanh/input": {"w": weights["kernel"], "b": weights["bias"]},
        "tanh/hidden": {"w": weights["recurrent_kernel"]},
    }


def recurrent(problem: Problem) -> Contender:
    """`dynamic_unroll` of its core."""
    make, convert = {"lstm": (hk.LSTM, _lstm), "gru": (hk.GRU, _gru), "rnn": (_Tanh, _tanh)}[problem.case]

    def forward(x: jax.Array) -> Any:
        core = make(problem.parameters["hidden"])
        return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))

    network: Any = hk.without_apply_rng(hk.transform(forward))

    def apply(params: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        y, state = network.apply(params, x)
        return y, {"h": state.hidden, "c": state.cell} if problem.case == "lstm" else {"h": state}

    if problem.case == "gru":
        return CompiledLayer(
            problem,
            convert,
            apply,
            time_major=True,
            differs="resets the state before the product, not after, and has no recurrent bias: compared where the two "
            "are the same, without the gradients of recurrent weights",
            leaves_out=("recurrent_kernel", "recurrent_bias"),
        )
    variant = "a tanh core of our own" if problem.case == "rnn" else ""
    return CompiledLayer(problem, convert, apply, time_major=True, variant=variant)
