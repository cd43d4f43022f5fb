"""Convolutions over one, two or three spatial axes, channels last."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnets.ops import _convolution_primitive as primitive
from jaxnets.ops import _winograd
from jaxnets.ops._convolution_geometry import Geometry, explicit_padding, per_axis
from jaxnets.typing import Padding, Precision

Implementation = Literal["auto", "xla", "im2col", "winograd"]


def conv(
    x: Float[Array, "b *spatial c"],
    kernel: Float[Array, "*window c_per_group f"],
    bias: Float[Array, " f"] | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> Float[Array, "b *spatial_out f"]:
    """Convolves x with a kernel (without turning the kernel round, as the field does).

    y[b, o, f] = bias[f] + sum over w, c of xpadded[b, o * strides + w * dilation, c] * kernel[w, c, f]. One, two or
    three spatial axes; sums are in at least float32, y has the dtype of x.

    Args:
      strides: Steps between outputs, in pixels: one number, or one for each spatial axis.
      padding: Zeros around x: "SAME" gives ceil(n / stride) outputs, "VALID" none of them, "CAUSAL" puts all of it
        before the first spatial axis (and "SAME" on the others), a number is for every side, pairs are (before, after).
      dilation: Distance between the kernel's taps, in pixels.
      groups: Channels and features are cut into as many independent groups.
      precision: Of the products, as in `jax.lax`; None takes `jax.default_matmul_precision`. Where either is set,
        "auto" keeps from Winograd.
      implementation: "xla" is XLA's own convolution, "im2col" one matrix product, "winograd" 36 small ones (a 3x3
        window, strides and dilation 1; what is not finite spreads over its 4x4 tile). "auto" is "xla" but on a CPU,
        where it takes one of the three by the convolution's size.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If ranks, channels, groups, padding or implementation do not fit.

    References:
      LeCun, Bottou, Bengio and Haffner, 1998. Gradient-based learning applied to document recognition.
      Chellapilla, Puri and Simard, 2006. High performance convolutional neural networks for document processing.

    >>> conv(jnp.ones((2, 28, 28, 1)), jnp.ones((3, 3, 1, 32)), padding="VALID").shape
    (2, 26, 26, 32)
    """
    rank = _check_arrays("conv", x, kernel, bias)
    if groups < 1 or kernel.shape[-2] * groups != x.shape[-1] or kernel.shape[-1] % groups:
        raise ValueError(
            f"conv: x has {x.shape[-1]} channels but kernel expects {kernel.shape[-2]} in each of {groups} groups, "
            f"and its {kernel.shape[-1]} features must divide by them (x.shape={x.shape}, kernel.shape={kernel.shape})"
        )
    strides, dilation = per_axis("conv", "strides", strides, rank), per_axis("conv", "dilation", dilation, rank)
    window = kernel.shape[:-2]
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    pads = explicit_padding("conv", padding, x.shape[1:-1], extent, strides)
    geometry = Geometry(x.shape[1:-1], window, strides, pads, dilation, groups, _precision(precision), implementation)
    _check_implementation("conv", geometry)
    y = primitive.output(x, kernel, geometry)
    return y if bias is None else y + jnp.expand_dims(bias, range(rank + 1))


def conv_transpose(
    x: Float[Array, "b *spatial c"],
    kernel: Float[Array, "*window c f"],
    bias: Float[Array, " f"] | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> Float[Array, "b *spatial_out f"]:
    """Convolves x, spread out by `strides`, with a kernel: the shape of a strided convolution's gradient.

    x is spread out with strides - 1 zeros between its pixels and convolved by steps of 1 (without turning the kernel
    round, like `jax.lax.conv_transpose`). "SAME" gives n * stride outputs, "VALID" all of
    (n - 1) * stride + extent (and no fewer than n * stride); pairs are the zeros around the spread-out x.

    Args:
      implementation: As for `conv`, of whose input gradient this is an instance.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If ranks, channels, padding or implementation do not fit; "CAUSAL" is not known here.

    References:
      Dumoulin and Visin, 2016. A guide to convolution arithmetic for deep learning.

    >>> conv_transpose(jnp.ones((2, 7, 7, 8)), jnp.ones((4, 4, 8, 3)), strides=2).shape
    (2, 14, 14, 3)
    """
    rank = _check_arrays("conv_transpose", x, kernel, bias)
    if kernel.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"conv_transpose: x has {x.shape[-1]} channels but kernel expects {kernel.shape[-2]} "
            f"(x.shape={x.shape}, kernel.shape={kernel.shape})"
        )
    strides = per_axis("conv_transpose", "strides", strides, rank)
    dilation = per_axis("conv_transpose", "dilation", dilation, rank)
    window = kernel.shape[:-2]
    extent = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    pads = _spread_padding(padding, extent, strides)
    # The convolution whose input gradient this is: from the spread-out side to x.
    sizes = list(zip(x.shape[1:-1], strides, extent, pads, strict=True))
    spatial = tuple(jax.core.max_dim((n - 1) * s + 2 + low + high - e, 0) for n, s, e, (low, high) in sizes)
    inverse = tuple((e - 1 - low, e - 1 - high) for _, _, e, (low, high) in sizes)
    geometry = Geometry(spatial, window, strides, inverse, dilation, 1, _precision(precision), implementation)
    _check_implementation("conv_transpose", geometry)
    turned = jnp.flip(kernel, range(rank)).swapaxes(-1, -2)
    y = primitive.input_gradient(x, turned, geometry)
    return y if bias is None else y + jnp.expand_dims(bias, range(rank + 1))


def _check_arrays(op: str, x: Array, kernel: Array, bias: Array | None) -> int:
    rank = x.ndim - 2
    if not 1 <= rank <= 3 or kernel.ndim != x.ndim:
        raise ValueError(
            f"{op}: x wants [B, *spatial, C] with one to three spatial axes and kernel [*window, C, F] with as many "
            f"(x.shape={x.shape}, kernel.shape={kernel.shape})"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{op}: x wants a floating dtype but has {x.dtype}")
    if kernel.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise TypeError(
            f"{op}: x, kernel and bias want one dtype but have {x.dtype}, {kernel.dtype}"
            + ("" if bias is None else f" and {bias.dtype}")
        )
    if bias is not None and bias.shape != kernel.shape[-1:]:
        raise ValueError(f"{op}: bias has shape {bias.shape} but kernel has {kernel.shape[-1]} features")
    return rank


def _precision(precision: Precision) -> Precision:
    # Read now: the primitives are lowered when the context manager that sets it may be gone.
    return jax.config.jax_default_matmul_precision if precision is None else precision  # type: ignore[attr-defined]


def _check_implementation(op: str, geometry: Geometry) -> None:
    name = geometry.implementation
    if name not in get_args(Implementation):
        raise ValueError(f"{op}: implementation is {name!r} but wants one of {', '.join(get_args(Implementation))}")
    if name == "winograd" and not _winograd.fits(geometry):
        raise ValueError(
            f"{op}: implementation 'winograd' wants a 3x3 window, strides, dilation and groups of 1 and no negative "
            f"padding, but got window {geometry.window}, strides {geometry.strides}, dilation {geometry.dilation}, "
            f"groups {geometry.groups}, padding {geometry.padding}"
        )
    if name == "im2col" and geometry.groups > 1:
        raise ValueError(f"{op}: implementation 'im2col' wants groups=1 but got {geometry.groups}; 'xla' has groups")


def _spread_padding(padding: Padding, extent: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The zeros around a spread-out x that give n * stride outputs, or all that touch it."""
    if padding == "SAME":
        total = [e + s - 2 for e, s in zip(extent, strides, strict=True)]
        low = [e - 1 if s > e - 1 else -(-t // 2) for e, s, t in zip(extent, strides, total, strict=True)]
        return tuple((a, t - a) for a, t in zip(low, total, strict=True))
    if padding == "VALID":
        return tuple((e - 1, e - 1 + max(s - e, 0)) for e, s in zip(extent, strides, strict=True))
    if padding == "CAUSAL":
        raise ValueError("conv_transpose: padding is 'CAUSAL' but wants 'SAME', 'VALID', an integer >= 0 or pairs")
    return explicit_padding("conv_transpose", padding, extent, extent, strides)
