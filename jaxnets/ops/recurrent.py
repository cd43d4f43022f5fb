"""Recurrent networks over plain parameters: the tanh and ReLU network, the LSTM and the GRU, whole or step by step."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._lstm_variants import lstm_cell
from jaxnets.ops._recurrent_call import Params, check_params, one_step, over_time, state_dtype
from jaxnets.ops._recurrent_cell import Weights
from jaxnets.ops._recurrent_cells import Activation, GRUCarry, GRUCell, LSTMCarry, RNNCarry, RNNCell
from jaxnets.ops._recurrent_noise import DropoutKind, GRUWithDropout, noisy, update_rate
from jaxnets.ops._recurrent_solvers import Implementation, LSTMImplementation
from jaxnets.typing import Precision

__all__ = ["GRUCarry", "LSTMCarry", "RNNCarry", "gru", "gru_step", "lstm", "lstm_step", "rnn", "rnn_step"]


def lstm(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: LSTMCarry | None = None,
    initial_carry: LSTMCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: LSTMImplementation = "auto",
    checkpoint_every: int | None = None,
    coupled: bool = False,
    recurrent_dropout: float = 0.0,
    dropout_kind: DropoutKind = "variational",
    zoneout: float | tuple[float, float] = 0.0,
    key: Array | None = None,
) -> tuple[Float[Array, "b t h"], LSTMCarry]:
    """Runs an LSTM over time.

    c_t = f c_{t-1} + i g and h_t = o tanh(c_t), where [i, f, g, o] = [sigmoid, sigmoid, tanh, sigmoid](x_t kernel +
    h_{t-1} recurrent_kernel + bias). Variants come with their parameters, and may be combined: `peephole` adds
    p_i c_{t-1}, p_f c_{t-1} and p_o c_t to what the gates see; `projection` makes h_t = (o tanh(c_t)) projection; the
    layer norms N replace the gates' argument by N(x_t kernel) input_scale + N(h_{t-1} recurrent_kernel) recurrent_scale
    + bias, each N over all gates, and tanh(c_t) by tanh(N(c_t) cell_scale + cell_bias).

    Steps at or past `lengths` give y = 0, leave the carry as it was, and may hold NaN; a length below 0 acts as 0, one
    above T as T. States are in at least float32, y has the dtype of x.

    Args:
      params: `kernel` [D, 4H], `recurrent_kernel` [H, 4H] and `bias` [4H], in the dtype of x, gates ordered i, f, g, o;
        for the variants also `projection` [H, P], with `recurrent_kernel` [P, 4H]; and, in the dtype of the states,
        `peephole` [3H] (for i, f, o) or `input_scale` and `recurrent_scale` [4H], `cell_scale` and `cell_bias` [H].
      lengths: Steps of each row that count; None means all.
      starts: True where a new sequence begins: the state before that step is the initial one. With `reverse`, where
        time runs backwards, it is the last step of each sequence that begins afresh.
      carry: State to go on from, leaves [B, H]; None means the initial one.
      initial_carry: The initial state, leaves [H] or [B, H]; None means zeros.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      precision: Of the products, as in `jax.lax`.
      implementation: "scan" runs step by step, and is what "auto" takes. "newton" solves for all steps at once, and for
        rows where that fails step by step: see `Newton`, which may be given in its place, for the options. "cudnn" is
        NVIDIA's, on a GPU alone: float32 (in TF32 unless a precision says otherwise), reverse mode, no vmap. Where B or
        T is unknown (symbolic), all of them are "scan".
      checkpoint_every: Keeps only every so many states for the gradient, and computes those between anew: less memory
        for one more forward pass. The square root of T is least; with an unknown (symbolic) T it is not heeded.
      coupled: Whether f = 1 - i: gates are then i, g, o, with 3H for 4H everywhere (and peepholes [2H], for i and o).
      recurrent_dropout: Rate of dropout, where there is a key.
      dropout_kind: "variational" hides the same part of h_{t-1} from `recurrent_kernel` at every step of a sequence (of
        this call: a carry brings no mask along); "per_step" is dropout on g, with a mask for each step.
      zoneout: Part of h and c that stays as it was before the step, or a pair of them: at random where there is a key,
        else in expectation.
      key: For the noise; None means that there is none.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or rates do not fit, or the implementation does not know an option.
      RuntimeError: If the implementation needs a GPU and there is none.

    References:
      Hochreiter and Schmidhuber, 1997. Long short-term memory.
      Gers, Schmidhuber and Cummins, 2000. Learning to forget: continual prediction with LSTM.
      Gers and Schmidhuber, 2000. Recurrent nets that time and count (peepholes).
      Sak, Senior and Beaufays, 2014. Long short-term memory recurrent neural network architectures for large scale
        acoustic modeling (projection).
      Ba, Kiros and Hinton, 2016. Layer normalization.
      Greff et al., 2017. LSTM: a search space odyssey (coupled gates).
      Gal and Ghahramani, 2016. A theoretically grounded application of dropout in recurrent neural networks.
      Semeniuta, Severyn and Barth, 2016. Recurrent dropout without memory loss (per step).
      Krueger et al., 2017. Zoneout: regularizing RNNs by randomly preserving hidden activations.

    >>> params = {"kernel": jnp.ones((3, 16)), "recurrent_kernel": jnp.ones((4, 16)), "bias": jnp.zeros(16)}
    >>> y, carry = lstm(params, jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
    >>> y.shape, carry.c.shape
    ((2, 5, 4), (2, 4))
    """
    dropout = update_rate(recurrent_dropout, dropout_kind, key)
    cell, weights, template = lstm_cell("lstm", params, x, 3, coupled, dropout, precision)
    cell, masks = noisy("lstm", cell, template, x, starts, zoneout, recurrent_dropout, dropout_kind, key)
    return over_time(
        "lstm",
        cell,
        weights,
        x,
        template,
        lengths=lengths,
        starts=starts,
        carry=carry,
        initial_carry=initial_carry,
        reverse=reverse,
        precision=precision,
        checkpoint_every=checkpoint_every,
        extras=masks,
        implementation=implementation,
    )


def lstm_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: LSTMCarry | None = None,
    *,
    precision: Precision = None,
    coupled: bool = False,
    zoneout: float | tuple[float, float] = 0.0,
) -> tuple[Float[Array, "b h"], LSTMCarry]:
    """One step of `lstm`, without noise.

    Args:
      params: As for `lstm`.
      carry: State to go on from; None means zeros.
      precision: Of the products, as in `jax.lax`.
      coupled: As for `lstm`.
      zoneout: As for `lstm`.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or rates do not fit.

    >>> params = {"kernel": jnp.ones((3, 16)), "recurrent_kernel": jnp.ones((4, 16)), "bias": jnp.zeros(16)}
    >>> y, carry = lstm_step(params, jnp.ones((2, 3)))
    >>> y, carry = lstm_step(params, jnp.ones((2, 3)), carry)
    >>> y.shape
    (2, 4)
    """
    cell, weights, template = lstm_cell("lstm_step", params, x, 2, coupled, 0.0, precision)
    cell, masks = noisy("lstm_step", cell, template, x, None, zoneout)
    return one_step("lstm_step", cell, weights, x, template, carry=carry, precision=precision, extras=masks)


def gru(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: GRUCarry | None = None,
    initial_carry: GRUCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
    checkpoint_every: int | None = None,
    recurrent_dropout: float = 0.0,
    dropout_kind: DropoutKind = "variational",
    zoneout: float = 0.0,
    key: Array | None = None,
) -> tuple[Float[Array, "b t h"], GRUCarry]:
    """Runs a gated recurrent unit over time.

    h_t = (1 - z) n + z h_{t-1} with [r, z] = sigmoid(x_t kernel + bias + h_{t-1} recurrent_kernel) in their columns and
    n = tanh(x_t kernel + bias + r (h_{t-1} recurrent_kernel + recurrent_bias)) in its own: reset after the product.
    Padding, starts and types are as for `lstm`.

    Args:
      params: `kernel` [D, 3H], `recurrent_kernel` [H, 3H], `bias` [3H] and `recurrent_bias` [H], in the dtype of x,
        gates ordered r, z, n.
      lengths: As for `lstm`.
      starts: As for `lstm`.
      carry: As for `lstm`.
      initial_carry: As for `lstm`.
      reverse: As for `lstm`.
      precision: As for `lstm`.
      implementation: As for `lstm`.
      checkpoint_every: As for `lstm`.
      recurrent_dropout: As for `lstm`.
      dropout_kind: As for `lstm`, with n for g.
      zoneout: As for `lstm`.
      key: As for `lstm`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or rates do not fit, or the implementation does not know an option.

    References:
      Cho et al., 2014. Learning phrase representations using RNN encoder-decoder for statistical machine translation.

    >>> params = {"kernel": jnp.ones((3, 12)), "recurrent_kernel": jnp.ones((4, 12)), "bias": jnp.zeros(12)}
    >>> y, carry = gru({**params, "recurrent_bias": jnp.zeros(4)}, jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 4), (2, 4))
    """
    weights, template = _gru("gru", params, x, 3)
    dropout = update_rate(recurrent_dropout, dropout_kind, key)
    plain = GRUWithDropout(dropout) if dropout else GRUCell()
    cell, masks = noisy("gru", plain, template, x, starts, zoneout, recurrent_dropout, dropout_kind, key)
    return over_time(
        "gru",
        cell,
        weights,
        x,
        template,
        lengths=lengths,
        starts=starts,
        carry=carry,
        initial_carry=initial_carry,
        reverse=reverse,
        precision=precision,
        checkpoint_every=checkpoint_every,
        extras=masks,
        implementation=implementation,
    )


def gru_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: GRUCarry | None = None,
    *,
    precision: Precision = None,
    zoneout: float = 0.0,
) -> tuple[Float[Array, "b h"], GRUCarry]:
    """One step of `gru`, without noise.

    Args:
      params: As for `gru`.
      carry: State to go on from; None means zeros.
      precision: Of the products, as in `jax.lax`.
      zoneout: As for `lstm`.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or the rate do not fit.

    >>> params = {"kernel": jnp.ones((3, 12)), "recurrent_kernel": jnp.ones((4, 12)), "bias": jnp.zeros(12)}
    >>> gru_step({**params, "recurrent_bias": jnp.zeros(4)}, jnp.ones((2, 3)))[0].shape
    (2, 4)
    """
    weights, template = _gru("gru_step", params, x, 2)
    cell, masks = noisy("gru_step", GRUCell(), template, x, None, zoneout)
    return one_step("gru_step", cell, weights, x, template, carry=carry, precision=precision, extras=masks)


def rnn(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    activation: Activation = "tanh",
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: RNNCarry | None = None,
    initial_carry: RNNCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
    checkpoint_every: int | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    key: Array | None = None,
) -> tuple[Float[Array, "b t h"], RNNCarry]:
    """Runs a plain recurrent network over time: h_t = activation(x_t kernel + h_{t-1} recurrent_kernel + bias).

    Padding, starts and types are as for `lstm`.

    Args:
      params: `kernel` [D, H], `recurrent_kernel` [H, H] and `bias` [H], in the dtype of x.
      activation: "tanh" or "relu" (whose derivative at 0 is 0).
      lengths: As for `lstm`.
      starts: As for `lstm`.
      carry: As for `lstm`.
      initial_carry: As for `lstm`.
      reverse: As for `lstm`.
      precision: As for `lstm`.
      implementation: As for `lstm`.
      checkpoint_every: As for `lstm`.
      recurrent_dropout: As for `lstm`, of the variational kind.
      zoneout: As for `lstm`.
      key: As for `lstm`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes, the activation or the rates do not fit, or the implementation does not know an option.

    References:
      Elman, 1990. Finding structure in time.
      Le, Jaitly and Hinton, 2015. A simple way to initialize recurrent networks of rectified linear units.

    >>> params = {"kernel": jnp.ones((3, 4)), "recurrent_kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    >>> rnn(params, jnp.ones((2, 5, 3)), activation="relu")[1].h[0]
    Array([15., 15., 15., 15.], dtype=float32)
    """
    weights, template = _rnn("rnn", params, x, 3, activation)
    cell, masks = noisy("rnn", RNNCell(activation), template, x, starts, zoneout, recurrent_dropout, "variational", key)
    return over_time(
        "rnn",
        cell,
        weights,
        x,
        template,
        lengths=lengths,
        starts=starts,
        carry=carry,
        initial_carry=initial_carry,
        reverse=reverse,
        precision=precision,
        checkpoint_every=checkpoint_every,
        extras=masks,
        implementation=implementation,
    )


def rnn_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: RNNCarry | None = None,
    *,
    activation: Activation = "tanh",
    precision: Precision = None,
    zoneout: float = 0.0,
) -> tuple[Float[Array, "b h"], RNNCarry]:
    """One step of `rnn`, without noise.

    Args:
      params: As for `rnn`.
      carry: State to go on from; None means zeros.
      activation: "tanh" or "relu".
      precision: Of the products, as in `jax.lax`.
      zoneout: As for `lstm`.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes, the activation or the rate do not fit.

    >>> params = {"kernel": jnp.ones((3, 4)), "recurrent_kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    >>> rnn_step(params, jnp.ones((2, 3)))[0].shape
    (2, 4)
    """
    weights, template = _rnn("rnn_step", params, x, 2, activation)
    cell, masks = noisy("rnn_step", RNNCell(activation), template, x, None, zoneout)
    return one_step("rnn_step", cell, weights, x, template, carry=carry, precision=precision, extras=masks)


def _gru(op: str, params: Params, x: Array, rank: int) -> tuple[Weights, GRUCarry]:
    hidden = check_params(op, params, x, rank, gates=3, names=("recurrent_bias",))
    bias = params["recurrent_bias"]
    if bias.shape != (hidden,):
        raise ValueError(f"{op}: params['recurrent_bias'] wants shape {(hidden,)} but has {bias.shape}")
    bias = jnp.concatenate([jnp.zeros(2 * hidden, bias.dtype), bias])  # the other gates have theirs in `bias`
    leaf: Any = jax.ShapeDtypeStruct((hidden,), state_dtype(x))
    weights = Weights(params["kernel"], params["bias"], params["recurrent_kernel"], bias)
    return weights, GRUCarry(leaf)


def _rnn(op: str, params: Params, x: Array, rank: int, activation: str) -> tuple[Weights, RNNCarry]:
    if activation not in get_args(Activation):
        raise ValueError(f"{op}: activation is {activation!r} but wants one of {', '.join(get_args(Activation))}")
    hidden = check_params(op, params, x, rank, gates=1)
    leaf: Any = jax.ShapeDtypeStruct((hidden,), state_dtype(x))
    weights = Weights(params["kernel"], params["bias"], params["recurrent_kernel"])
    return weights, RNNCarry(leaf)
