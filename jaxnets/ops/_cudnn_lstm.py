"""The LSTM of NVIDIA's cuDNN, by way of `jax.experimental.rnn`, brought under the sequence contract."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnets.ops._recurrent_cell import Weights
from jaxnets.ops._recurrent_cells import LSTMCarry
from jaxnets.ops._recurrent_state import where
from jaxnets.ops.masking import reverse_sequence
from jaxnets.typing import Precision


def available() -> bool:
    """Whether programs run on a GPU by default: the library is called without a choice at lowering."""
    return jax.default_backend() == "gpu"


def cudnn_lstm(
    weights: Weights,
    x: Array,
    *,
    valid: Array | None,
    starts: None,
    carry: LSTMCarry,
    initial: LSTMCarry,
    reverse: bool,
    precision: Precision,
) -> tuple[Array, LSTMCarry]:
    """As `recurrence`, for a plain LSTM in float32 without starts."""
    from jax.experimental import rnn  # only when it is asked for

    del starts, initial
    time, batch, width = x.shape
    if 0 in (time, batch):
        return jnp.zeros((time, *carry.h.shape), carry.h.dtype), carry
    x = jnp.swapaxes(x, 0, 1).astype(jnp.float32)
    lengths = jnp.full(batch, time, jnp.int32) if valid is None else jnp.sum(valid, axis=0, dtype=jnp.int32)
    if reverse:
        x = reverse_sequence(x, lengths)
    h, last_h, last_c = rnn.lstm(
        x,
        carry.h[None],
        carry.c[None],
        packed(weights),
        jnp.maximum(lengths, 1),  # cuDNN refuses an empty row: it takes a step, of which nothing is kept
        input_size=width,
        hidden_size=carry.h.shape[-1],
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=precision,
    )
    if reverse:
        h = reverse_sequence(h, lengths)
    return jnp.swapaxes(h, 0, 1), where(lengths > 0, LSTMCarry(last_h[0], last_c[0]), carry)


def packed(weights: Weights) -> Array:
    """The parameters as cuDNN lays them out: kernels [4H, D] and [4H, H], then a bias for each, gates i, f, g, o."""
    parts = weights.kernel.T, weights.recurrent_kernel.T, weights.bias, jnp.zeros_like(weights.bias)
    return jnp.concatenate([part.reshape(-1).astype(jnp.float32) for part in parts])
