"""Convolutions over one, two or three spatial axes, channels last."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from jaxnets.typing import Padding, Precision

Implementation = Literal["auto", "xla", "im2col"]


def conv(
    x: Shaped[Array, "b *spatial c"],
    kernel: Shaped[Array, "*window c_per_group f"],
    bias: Shaped[Array, " f"] | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> Shaped[Array, "b *spatial_out f"]:
    """Convolves (cross-correlates) x with a kernel."""
    rank = x.ndim - 2
    strides, dilation = per_axis("conv", "strides", strides, rank), per_axis("conv", "dilation", dilation, rank)
    window = kernel.shape[:-2]
    pads = explicit_padding("conv", padding, x.shape[1:-1], window, strides, dilation)
    y = lax.conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=_dimension_numbers(rank),
        feature_group_count=groups, precision=precision,
    )
    return y if bias is None else y + bias.reshape((1,) * (rank + 1) + (-1,))


def conv_transpose(
    x: Shaped[Array, "b *spatial c"],
    kernel: Shaped[Array, "*window c f"],
    bias: Shaped[Array, " f"] | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    precision: Precision = None,
) -> Shaped[Array, "b *spatial_out f"]:
    """Transposed convolution."""
    rank = x.ndim - 2
    strides = per_axis("conv_transpose", "strides", strides, rank)
    dilation = per_axis("conv_transpose", "dilation", dilation, rank)
    y = lax.conv_transpose(
        x, kernel, strides, padding if isinstance(padding, str) else tuple(padding), rhs_dilation=dilation,
        dimension_numbers=_dimension_numbers(rank), precision=precision,
    )
    return y if bias is None else y + bias.reshape((1,) * (rank + 1) + (-1,))


def per_axis(op: str, name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """`value` once for every spatial axis."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ValueError(f"{op}: {name} is {value} but wants {rank} positive integers, or one for all")
    return values


def explicit_padding(op, padding, spatial, window, strides, dilation):
    """`padding` as (before, after) for every spatial axis."""
    if isinstance(padding, int):
        return ((padding, padding),) * len(spatial)
    if not isinstance(padding, str):
        return tuple(tuple(p) for p in padding)
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if padding == "VALID":
        return ((0, 0),) * len(spatial)
    total = [max((math.ceil(n / s) - 1) * s + e - n, 0) for n, s, e in zip(spatial, strides, extent, strict=True)]
    same = [(t // 2, t - t // 2) for t in total]
    if padding == "SAME":
        return tuple(same)
    if padding == "CAUSAL":
        return ((extent[0] - 1, 0), *same[1:])
    raise ValueError(f"{op}: padding is {padding!r} but wants 'SAME', 'VALID', 'CAUSAL', an int or (before, after) pairs")


def _dimension_numbers(rank: int) -> tuple[str, str, str]:
    spatial = "DHW"[3 - rank :]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
