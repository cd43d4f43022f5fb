"""A convolutional LSTM over frames: its products are convolutions, its state an image."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._lstm_variants import Extra, LSTMVariant
from jaxnets.ops._recurrent_call import Params, over_time, state_dtype
from jaxnets.ops._recurrent_cell import Weights
from jaxnets.ops._recurrent_cells import LSTMCarry
from jaxnets.ops._recurrent_noise import DropoutKind, noisy, update_rate
from jaxnets.ops.convolution import conv
from jaxnets.typing import Precision


def conv_lstm(
    params: Params,
    x: Float[Array, "b t h w c"],
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: LSTMCarry | None = None,
    initial_carry: LSTMCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    checkpoint_every: int | None = None,
    recurrent_dropout: float = 0.0,
    dropout_kind: DropoutKind = "variational",
    zoneout: float | tuple[float, float] = 0.0,
    key: Array | None = None,
) -> tuple[Float[Array, "b t h w f"], LSTMCarry]:
    """Runs a convolutional LSTM over frames.

    c_t = f c_{t-1} + i g and h_t = o tanh(c_t), where [i, f, g, o] = [sigmoid, sigmoid, tanh, sigmoid](x_t * kernel +
    h_{t-1} * recurrent_kernel + bias) and * is a convolution that keeps the frame's size, with zeros around it. With
    `peephole` the gates also see p_i c_{t-1}, p_f c_{t-1} and p_o c_t. Padding, starts and types are as for `lstm`.

    Args:
      params: `kernel` [*window, C, 4F], `recurrent_kernel` [*window, F, 4F] (of another window, perhaps) and `bias`
        [4F], in the dtype of x, gates ordered i, f, g, o; perhaps `peephole` [H, W, 3F], or [3F] for all places
        alike, in the dtype of the states.
      lengths: As for `lstm`.
      starts: As for `lstm`.
      carry: State to go on from, leaves [B, H, W, F]; None means the initial one.
      initial_carry: The initial state, leaves [H, W, F] or [B, H, W, F]; None means zeros.
      reverse: As for `lstm`.
      precision: Of the convolutions, as in `jax.lax`.
      checkpoint_every: As for `lstm`.
      recurrent_dropout: As for `lstm`.
      dropout_kind: As for `lstm`.
      zoneout: As for `lstm`.
      key: As for `lstm`.

    Returns:
      y, and the state after the last frame.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or rates do not fit.

    References:
      Shi et al., 2015. Convolutional LSTM network: a machine learning approach for precipitation nowcasting.

    >>> params = {"kernel": jnp.ones((3, 3, 1, 8)), "recurrent_kernel": jnp.ones((3, 3, 2, 8)), "bias": jnp.zeros(8)}
    >>> y, carry = conv_lstm(params, jnp.ones((2, 5, 6, 6, 1)))
    >>> y.shape, carry.c.shape
    ((2, 5, 6, 6, 2), (2, 6, 6, 2))
    """
    weights, template = _checked(params, x)
    cell = _ConvLSTMCell(update_dropout=update_rate(recurrent_dropout, dropout_kind, key))
    noisy_cell, masks = noisy("conv_lstm", cell, template, x, starts, zoneout, recurrent_dropout, dropout_kind, key)
    return over_time(
        "conv_lstm",
        noisy_cell,
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
    )


def check_frames(op: str, x: Array) -> None:
    """Checks that x is floating, and [B, T, H, W, C]."""
    if x.ndim != 5:
        raise ValueError(f"{op}: x wants [B, T, H, W, C] but has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{op}: x wants a floating dtype but has {x.dtype} (scale integers, such as pixels, first)")


def _checked(params: Params, x: Array) -> tuple[Weights, LSTMCarry]:
    check_frames("conv_lstm", x)
    for name in ("kernel", "recurrent_kernel", "bias"):
        if name not in params:
            raise ValueError(f"conv_lstm: params has no {name!r}, only {sorted(params)}")
        if params[name].dtype != x.dtype:
            raise TypeError(
                f"conv_lstm: params[{name!r}] wants the dtype of x, {x.dtype}, but has {params[name].dtype}"
            )
    recurrent = params["recurrent_kernel"].shape
    if len(recurrent) != 4 or recurrent[3] != 4 * recurrent[2]:
        raise ValueError(f"conv_lstm: params['recurrent_kernel'] wants [*window, F, 4 * F] but has shape {recurrent}")
    kernel, features = params["kernel"].shape, recurrent[2]
    if len(kernel) != 4 or kernel[3] != 4 * features:
        raise ValueError(f"conv_lstm: params['kernel'] wants [*window, C, {4 * features}] but has shape {kernel}")
    if kernel[2] != x.shape[-1]:
        raise ValueError(
            f"conv_lstm: x has {x.shape[-1]} channels but params['kernel'] expects {kernel[2]} "
            f"(x.shape={x.shape}, kernel.shape={kernel})"
        )
    if params["bias"].shape != (4 * features,):
        raise ValueError(f"conv_lstm: params['bias'] wants shape {(4 * features,)} but has {params['bias'].shape}")
    leaf: Any = jax.ShapeDtypeStruct((*x.shape[2:4], features), state_dtype(x))
    peephole = params.get("peephole")
    if peephole is not None:
        everywhere, alike = (*x.shape[2:4], 3 * features), (3 * features,)
        if peephole.shape not in (everywhere, alike):
            raise ValueError(
                f"conv_lstm: params['peephole'] wants shape {everywhere} or {alike} but has {peephole.shape}"
            )
        if peephole.dtype != leaf.dtype:
            raise TypeError(
                f"conv_lstm: params['peephole'] wants the dtype of the state, {leaf.dtype}, but has {peephole.dtype}"
            )
    weights = Weights(params["kernel"], params["bias"], params["recurrent_kernel"], vectors=Extra(peephole))
    return weights, LSTMCarry(leaf, leaf)


@dataclasses.dataclass(frozen=True)
class _ConvLSTMCell(LSTMVariant):
    """An LSTM whose products are convolutions."""

    def product(self, x: Array, kernel: Array, precision: Precision, dtype: Any) -> Array:
        frames = x.astype(kernel.dtype).reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        y = conv(frames, kernel, precision=precision)
        return y.reshape(*x.shape[:-1], kernel.shape[-1]).astype(dtype)
