"""The smallest gated networks, minGRU and minLSTM, whose gates do not see the state."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._affine_scan import Implementation
from jaxnets.ops._linear_cells import Params, check_call, check_gates, over_time, project
from jaxnets.ops._recurrent_call import check_x
from jaxnets.ops._recurrent_cells import sigmoid
from jaxnets.ops.masking import zero_padding
from jaxnets.typing import Precision

Candidate = Literal["linear", "positive"]


class MinGRUCarry(NamedTuple):
    """The state of a minGRU."""

    h: Float[Array, "*b h"]


class MinLSTMCarry(NamedTuple):
    """The state of a minLSTM."""

    h: Float[Array, "*b h"]


def min_gru(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    candidate: Candidate = "linear",
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: MinGRUCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t h"], MinGRUCarry]:
    """Runs a minGRU over time: h_t = (1 - z_t) h_{t-1} + z_t n_t, with gates that do not see the state.

    z_t = sigmoid(u) and n_t = g(v) for [u, v] = x_t kernel + bias. Since both weights lie in [0, 1] the recurrence is
    run as it stands; the paper's logarithms serve scans that divide by products of 1 - z_t, which none here does.
    Steps at or past `lengths` give y = 0, leave the carry as it was, and may hold NaN; a length below 0 acts as 0, one
    above T as T. The state is in at least float32, y has the dtype of x.

    Args:
      params: `kernel` [D, 2H] and `bias` [2H], in the dtype of x, ordered z, n.
      candidate: g: "linear" is v itself, "positive" is v + 1/2 for v >= 0 and sigmoid(v) below.
      lengths: Steps of each row that count; None means all.
      starts: True where a new sequence begins: the state before that step is 0. With `reverse`, where time runs
        backwards, it is the last step of each sequence that begins afresh.
      carry: State to go on from; None means zeros.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      precision: Of the products, as in `jax.lax`.
      implementation: As for `linear_recurrence`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes, the candidate or the implementation do not fit.

    References:
      Feng et al., 2024. Were RNNs all we needed?

    >>> params = {"kernel": jnp.ones((3, 8)), "bias": jnp.zeros(8)}
    >>> y, carry = min_gru(params, jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
    >>> y.shape, carry.h.shape
    ((2, 5, 4), (2, 4))
    """
    _check_candidate("min_gru", candidate)
    check_call("min_gru", x, lengths, starts, implementation)
    check_gates("min_gru", params, x, 2)
    u, v = jnp.split(project(params, zero_padding(x, lengths), precision), 2, axis=-1)
    z = sigmoid(u)
    a, b = 1 - z, z * _candidate(candidate, v)
    return over_time("min_gru", MinGRUCarry, a, b, x.dtype, lengths, starts, carry, reverse, implementation)


def min_gru_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: MinGRUCarry | None = None,
    *,
    candidate: Candidate = "linear",
    precision: Precision = None,
) -> tuple[Float[Array, "b h"], MinGRUCarry]:
    """One step of `min_gru`, with its arguments.

    >>> params = {"kernel": jnp.ones((3, 8)), "bias": jnp.zeros(8)}
    >>> min_gru_step(params, jnp.ones((2, 3)))[0].shape
    (2, 4)
    """
    check_x("min_gru_step", x, 2)
    y, carry = min_gru(params, x[:, None], candidate=candidate, carry=carry, precision=precision)
    return y[:, 0], carry


def min_lstm(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    candidate: Candidate = "linear",
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: MinLSTMCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t h"], MinLSTMCarry]:
    """Runs a minLSTM over time: h_t = (f_t h_{t-1} + i_t n_t) / (f_t + i_t), with gates that do not see the state.

    i_t = sigmoid(u), f_t = sigmoid(v) and n_t = g(w) for [u, v, w] = x_t kernel + bias. The quotient is taken as
    f / (f + i) = sigmoid(log f - log i), which holds where both gates have vanished. Padding, starts and types are as
    for `min_gru`.

    Args:
      params: `kernel` [D, 3H] and `bias` [3H], in the dtype of x, ordered i, f, n.
      candidate: As for `min_gru`.
      lengths: As for `min_gru`.
      starts: As for `min_gru`.
      carry: As for `min_gru`.
      reverse: As for `min_gru`.
      precision: As for `min_gru`.
      implementation: As for `linear_recurrence`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes, the candidate or the implementation do not fit.

    References:
      Feng et al., 2024. Were RNNs all we needed?

    >>> params = {"kernel": jnp.ones((3, 12)), "bias": jnp.zeros(12)}
    >>> min_lstm(params, jnp.ones((2, 5, 3)))[1].h.shape
    (2, 4)
    """
    _check_candidate("min_lstm", candidate)
    check_call("min_lstm", x, lengths, starts, implementation)
    check_gates("min_lstm", params, x, 3)
    u, v, w = jnp.split(project(params, zero_padding(x, lengths), precision), 3, axis=-1)
    a = sigmoid(jax.nn.softplus(-u) - jax.nn.softplus(-v))
    b = (1 - a) * _candidate(candidate, w)
    return over_time("min_lstm", MinLSTMCarry, a, b, x.dtype, lengths, starts, carry, reverse, implementation)


def min_lstm_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: MinLSTMCarry | None = None,
    *,
    candidate: Candidate = "linear",
    precision: Precision = None,
) -> tuple[Float[Array, "b h"], MinLSTMCarry]:
    """One step of `min_lstm`, with its arguments.

    >>> params = {"kernel": jnp.ones((3, 12)), "bias": jnp.zeros(12)}
    >>> min_lstm_step(params, jnp.ones((2, 3)))[0].shape
    (2, 4)
    """
    check_x("min_lstm_step", x, 2)
    y, carry = min_lstm(params, x[:, None], candidate=candidate, carry=carry, precision=precision)
    return y[:, 0], carry


def _candidate(candidate: Candidate, v: Array) -> Array:
    return v if candidate == "linear" else jnp.where(v >= 0, v + 0.5, sigmoid(v))


def _check_candidate(op: str, candidate: str) -> None:
    if candidate not in get_args(Candidate):
        raise ValueError(f"{op}: candidate is {candidate!r} but wants one of {', '.join(get_args(Candidate))}")
