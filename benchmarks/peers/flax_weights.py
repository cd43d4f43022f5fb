"""Our weights of recurrent layers as those of the cells of Flax Linen."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp


def lstm(weights: Mapping[str, Any]) -> Any:
    """Of `OptimizedLSTMCell`."""
    kernels, recurrent_kernels, biases = (
        dict(zip("ifgo", jnp.split(weights[name], 4, axis=-1), strict=True))
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    return {
        **{f"i{gate}": {"kernel": kernels[gate]} for gate in "ifgo"},
        **{f"h{gate}": {"kernel": recurrent_kernels[gate], "bias": biases[gate]} for gate in "ifgo"},
    }


def gru(weights: Mapping[str, Any]) -> Any:
    """Of `GRUCell`."""
    kernels, recurrent_kernels, biases = (
        dict(zip("rzn", jnp.split(weights[name], 3, axis=-1), strict=True))
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    return {
        **{f"i{gate}": {"kernel": kernels[gate], "bias": biases[gate]} for gate in "rzn"},
        **{f"h{gate}": {"kernel": recurrent_kernels[gate]} for gate in "rz"},
        "hn": {"kernel": recurrent_kernels["n"], "bias": weights["recurrent_bias"]},
    }


def rnn(weights: Mapping[str, Any]) -> Any:
    """Of `SimpleCell`."""
    return {
        "i": {"kernel": weights["kernel"], "bias": weights["bias"]},
        "h": {"kernel": weights["recurrent_kernel"]},
    }
