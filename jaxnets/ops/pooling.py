"""Pooling over windows of one, two or three spatial axes, channels last."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnets.ops._convolution_geometry import explicit_padding, per_axis
from jaxnets.ops._dtype import accumulation_dtype, widened
from jaxnets.typing import Padding

Pads = tuple[tuple[int, int], ...]


def max_pool(
    x: Float[Array, "b *spatial c"],
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "b *spatial_out c"]:
    """The maximum of each window.

    Where several elements of a window are largest, the first of them (in row-major order) takes the whole gradient.
    Padding never wins.

    Args:
      window: Its size in pixels: one number, or one for each spatial axis.
      strides: Steps between windows, in pixels; None means the window's size.
      padding: As for `conv`; a window must not lie in the padding altogether.

    Raises:
      ValueError: If x has no spatial axes or more than three, or window, strides or padding do not fit.

    >>> max_pool(jnp.ones((2, 28, 28, 3)), 2).shape
    (2, 14, 14, 3)
    """
    window, strides, pads = _check_windows("max_pool", x, window, strides, padding)
    # One axis after the other: the first winner of the rows' first winners is the window's first winner.
    for axis in reversed(range(len(window))):
        x = _max_along(axis + 1, window[axis], strides[axis], pads[axis], x)
    return x


def avg_pool(
    x: Float[Array, "b *spatial c"],
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_padding: bool = False,
) -> Float[Array, "b *spatial_out c"]:
    """The mean of each window, summed in at least float32.

    Args:
      window: Its size in pixels: one number, or one for each spatial axis.
      strides: Steps between windows, in pixels; None means the window's size.
      padding: As for `conv`; a window must not lie in the padding altogether.
      count_padding: Divide by the window's size everywhere, rather than by the number of x's own elements in it.

    Raises:
      ValueError: If x has no spatial axes or more than three, or window, strides or padding do not fit.

    >>> avg_pool(jnp.ones((2, 28, 28, 3)), 2).shape
    (2, 14, 14, 3)
    """
    window, strides, pads = _check_windows("avg_pool", x, window, strides, padding)
    total = widened(x)
    for axis, (size, stride, pad) in enumerate(zip(window, strides, pads, strict=True)):
        terms = _windows(total, axis + 1, size, stride, pad, 0.0)
        total = functools.reduce(jnp.add, terms)
        if count_padding:
            total = total / size
        else:
            real = jnp.ones((x.shape[axis + 1],), total.dtype)
            count = functools.reduce(jnp.add, _windows(real, 0, size, stride, pad, 0.0))
            total = total / jnp.expand_dims(count, [a for a in range(x.ndim) if a != axis + 1])
    return total.astype(x.dtype)


def global_max_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b c"]:
    """The maximum over all spatial axes; elements that share it share its gradient.

    Raises:
      ValueError: If x has no spatial axes or more than three.

    >>> global_max_pool(jnp.ones((2, 7, 7, 64))).shape
    (2, 64)
    """
    return jnp.max(x, axis=tuple(range(1, _check_rank("global_max_pool", x) + 1)))


def global_avg_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b c"]:
    """The mean over all spatial axes, summed in at least float32.

    Raises:
      ValueError: If x has no spatial axes or more than three.

    >>> global_avg_pool(jnp.ones((2, 7, 7, 64))).shape
    (2, 64)
    """
    axes = tuple(range(1, _check_rank("global_avg_pool", x) + 1))
    return jnp.mean(x, axis=axes, dtype=accumulation_dtype(x.dtype)).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _max_along(axis: int, size: int, stride: int, pad: tuple[int, int], x: Array) -> Array:
    return functools.reduce(jnp.maximum, _windows(x, axis, size, stride, pad, -jnp.inf))


@_max_along.defjvp
def _max_along_jvp(
    axis: int, size: int, stride: int, pad: tuple[int, int], primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    # The winner's tangent, by comparing again: the transpose of these selects is far cheaper than XLA's
    # select-and-scatter, the gradient of its windowed maximum.
    (x,), (dx,) = primals, tangents
    y = _max_along(axis, size, stride, pad, x)
    dy = jnp.zeros_like(y)
    candidates = zip(
        _windows(x, axis, size, stride, pad, -jnp.inf), _windows(dx, axis, size, stride, pad, 0.0), strict=True
    )
    for value, tangent in reversed(list(candidates)):
        dy = jnp.where(value == y, tangent, dy)
    return y, dy


def _windows(x: Array, axis: int, size: int, stride: int, pad: tuple[int, int], fill: float) -> list[Array]:
    """The first, second, ... element of every window along one axis."""
    low, high = pad
    if low or high:
        pads = [(low, high, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
        x = lax.pad(x, jnp.asarray(fill, x.dtype), pads)
    if isinstance(x.shape[axis], int) and x.shape[axis] < size:
        return [lax.slice_in_dim(x, 0, 0, axis=axis)] * size
    count = (x.shape[axis] - size) // stride + 1
    if size == stride:  # windows side by side: a split, whose transpose is one concatenation
        tiles = lax.slice_in_dim(x, 0, count * size, axis=axis)
        tiles = tiles.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
        return [jnp.squeeze(tile, axis + 1) for tile in jnp.split(tiles, size, axis + 1)]
    return [lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(size)]


def _check_windows(
    op: str, x: Array, window: int | Sequence[int], strides: int | Sequence[int] | None, padding: Padding
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    rank = _check_rank(op, x)
    window = per_axis(op, "window", window, rank)
    strides = window if strides is None else per_axis(op, "strides", strides, rank)
    pads = explicit_padding(op, padding, x.shape[1:-1], window, strides)
    if any(max(pad) >= size for pad, size in zip(pads, window, strict=True)):
        raise ValueError(f"{op}: padding {pads} wants to be smaller than the window {window}")
    padded = [n + sum(pad) for n, pad in zip(x.shape[1:-1], pads, strict=True)]
    concrete = all(isinstance(n, int) for n in padded)
    if concrete and 0 not in x.shape[1:-1] and any(n < size for n, size in zip(padded, window, strict=True)):
        raise ValueError(f"{op}: window {window} does not fit x with its padding (x.shape={x.shape}, padding={pads})")
    return window, strides, pads


def _check_rank(op: str, x: Array) -> int:
    rank = x.ndim - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"{op}: x wants [B, *spatial, C] with one to three spatial axes (x.shape={x.shape})")
    return rank
