"""Pooling over windows of one, two or three spatial axes, channels last."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

from jaxnets.ops.convolution import explicit_padding, per_axis
from jaxnets.typing import Padding


def max_pool(x, window, *, strides=None, padding="VALID"):
    """Maximum over windows."""
    rank = x.ndim - 2
    window = per_axis("max_pool", "window", window, rank)
    strides = window if strides is None else per_axis("max_pool", "strides", strides, rank)
    pads = explicit_padding("max_pool", padding, x.shape[1:-1], window, strides, (1,) * rank)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))


def avg_pool(x, window, *, strides=None, padding="VALID", count_padding=False):
    """Mean over windows."""
    rank = x.ndim - 2
    window = per_axis("avg_pool", "window", window, rank)
    strides = window if strides is None else per_axis("avg_pool", "strides", strides, rank)
    pads = explicit_padding("avg_pool", padding, x.shape[1:-1], window, strides, (1,) * rank)
    total = lambda a: lax.reduce_window(a, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))
    if count_padding:
        size = 1
        for w in window:
            size *= w
        return total(x) / size
    return total(x) / total(jnp.ones_like(x))


def global_max_pool(x):
    """Maximum over all spatial axes: [B, *spatial, C] -> [B, C]."""
    return jnp.max(x, axis=tuple(range(1, x.ndim - 1)))


def global_avg_pool(x):
    """Mean over all spatial axes: [B, *spatial, C] -> [B, C]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
