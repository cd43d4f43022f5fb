"""Masks of time: what lies past a row's length, and where a packed row begins a new sequence."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxnets.ops._dtype import widened


def time_mask(lengths: Int[Array, " b"], time: Any) -> Bool[Array, "b t"]:
    """True at the steps before each row's length: a length below 0 acts as 0, one above `time` as `time`.

    `time` is an integer, or the symbolic size of an axis.

    >>> time_mask(jnp.array([0, 2]), 3).astype(int)
    Array([[0, 0, 0],
           [1, 1, 0]], dtype=int32)
    """
    return jnp.arange(time, dtype=lengths.dtype)[None, :] < lengths[:, None]


def zero_padding(x: Shaped[Array, "b t *features"], lengths: Int[Array, " b"] | None) -> Shaped[Array, "b t *features"]:
    """Sets the steps at and past `lengths` to 0, NaN or inf among them, in the value and in the gradient.

    >>> zero_padding(jnp.array([[1.0, 2.0, jnp.nan]]), jnp.array([2]))
    Array([[1., 2., 0.]], dtype=float32)
    """
    if lengths is None:
        return x
    # A product with the mask would let NaN through: NaN * 0 is NaN.
    return jnp.where(_over_features(time_mask(lengths, x.shape[1]), x), x, jnp.zeros((), x.dtype))


def last_valid(
    y: Float[Array, "b t *features"], lengths: Int[Array, " b"] | None = None
) -> Float[Array, "b *features"]:
    """The last step before each row's length, and 0 for a row of length 0; a length past the end means the end.

    >>> last_valid(jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([2]))
    Array([[2.]], dtype=float32)
    """
    batch, time = y.shape[:2]
    if lengths is None:
        lengths = jnp.full(batch, time, jnp.int32)
    # One more step, of zeros, is where the empty rows look: it makes T = 0 valid too.
    padded = jnp.concatenate([jnp.zeros_like(y, shape=(batch, 1, *y.shape[2:])), zero_padding(y, lengths)], axis=1)
    index = jnp.clip(lengths, 0, time).reshape((-1, 1) + (1,) * (y.ndim - 2))
    return jnp.take_along_axis(padded, index, axis=1).squeeze(1)


def masked_mean(
    y: Float[Array, "b t *features"], lengths: Int[Array, " b"] | None = None
) -> Float[Array, "b *features"]:
    """The mean over the steps before each row's length, summed in at least float32; 0 for a row of length 0.

    >>> masked_mean(jnp.array([[1.0, 3.0, jnp.inf]]), jnp.array([2]))
    Array([2.], dtype=float32)
    """
    batch, time = y.shape[:2]
    if lengths is None:
        lengths = jnp.full(batch, time, jnp.int32)
    total = jnp.sum(widened(zero_padding(y, lengths)), axis=1)
    count = jnp.clip(lengths, 0, time).astype(total.dtype).reshape((-1,) + (1,) * (y.ndim - 2))
    return (total / jnp.maximum(count, jnp.ones_like(count))).astype(y.dtype)


def masked_max(
    y: Float[Array, "b t *features"], lengths: Int[Array, " b"] | None = None
) -> Float[Array, "b *features"]:
    """The largest of the steps before each row's length; 0 for a row of length 0.

    >>> masked_max(jnp.array([[-1.0, -3.0, jnp.inf]]), jnp.array([2]))
    Array([-1.], dtype=float32)
    """
    batch, time = y.shape[:2]
    if lengths is None:
        lengths = jnp.full(batch, time, jnp.int32)
    lowest = jnp.full((), jnp.finfo(y.dtype).min, y.dtype)
    largest = jnp.max(jnp.where(_over_features(time_mask(lengths, time), y), y, lowest), axis=1, initial=lowest)
    some = jnp.clip(lengths, 0, time) > 0
    return jnp.where(_over_features(some, largest), largest, jnp.zeros((), y.dtype))


def starts_from_segment_ids(segment_ids: Int[Array, "b t"]) -> Bool[Array, "b t"]:
    """True where a packed row begins a new sequence: at its first step, and wherever the id changes.

    >>> starts_from_segment_ids(jnp.array([[7, 7, 8, 8, 8, 9]])).astype(int)
    Array([[1, 0, 1, 0, 0, 1]], dtype=int32)
    """
    first = jnp.ones_like(segment_ids, bool)[:, :1]
    return jnp.concatenate([first, segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)


def reverse_sequence(
    x: Shaped[Array, "b t *features"], lengths: Int[Array, " b"] | None = None
) -> Shaped[Array, "b t *features"]:
    """Turns the steps before each row's length round in time; padding stays where it is.

    >>> reverse_sequence(jnp.array([[1, 2, 3, 4]]), jnp.array([3]))
    Array([[3, 2, 1, 4]], dtype=int32)
    """
    if lengths is None:
        return jnp.flip(x, axis=1)
    mask = time_mask(lengths, x.shape[1])
    steps = jnp.arange(x.shape[1], dtype=jnp.int32)[None, :]
    last = jnp.sum(mask, axis=1, keepdims=True, dtype=jnp.int32) - jnp.ones((), jnp.int32)
    return jnp.take_along_axis(x, _over_features(jnp.where(mask, last - steps, steps), x), axis=1)


def _over_features(mask: Array, x: Array) -> Array:
    """The mask [B, T] with as many axes as x."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
