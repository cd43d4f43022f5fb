"""Causal attention that goes on: the keys and values of the steps so far are its carry."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._attention import attend
from jaxnets.ops._attention_weights import Context, Operands, Plan, Steps
from jaxnets.ops.masking import time_mask


class KVCache(NamedTuple):
    """Keys and values by position: the carry of causal attention.

    Position p is in slot p, or, in a ring, in slot p modulo the capacity C.

    Attributes:
      k: Keys [B, K, C, H], as they are attended to (rotated already, say).
      v: Values [B, K, C, V].
      length: Positions taken so far, of each row.
      start: Position at which the row's present sequence began.
    """

    k: Float[Array, "b k c h"]
    v: Float[Array, "b k c v"]
    length: Int[Array, " b"]
    start: Int[Array, " b"]


def empty_cache(batch: Any, heads: int, capacity: int, head_dim: int, value_dim: int, dtype: Any) -> KVCache:
    """A cache with room for `capacity` positions, none of them taken.

    >>> empty_cache(2, 4, 16, 8, 8, jnp.float32).k.shape
    (2, 4, 16, 8)
    """
    none = jnp.zeros(batch, jnp.int32)
    shape = batch, heads, capacity
    return KVCache(jnp.zeros((*shape, head_dim), dtype), jnp.zeros((*shape, value_dim), dtype), none, none)


class Positions(NamedTuple):
    """Where steps stand: from the beginning of the row, and where in the row their sequence began; both [B, T]."""

    absolute: Int[Array, "b t"]
    first: Int[Array, "b t"]

    @property
    def relative(self) -> Int[Array, "b t"]:
        """Steps since the sequence began."""
        return self.absolute - self.first


def step_positions(
    batch: Any,
    time: Any,
    cache: Any,
    lengths: Int[Array, " b"] | None,
    starts: Bool[Array, "b t"] | None,
) -> Positions:
    """The positions of `time` steps that follow those in a cache, or in anything with its `length` and `start`."""
    steps = jnp.arange(time, dtype=jnp.int32)[None, :]
    absolute = jnp.broadcast_to(steps, (batch, time)) if cache is None else cache.length[:, None] + steps
    first = jnp.zeros((batch, 1), jnp.int32) if cache is None else cache.start[:, None]
    if starts is not None:
        begins = starts if lengths is None else starts & time_mask(lengths, time)
        first = jnp.maximum(first, lax.cummax(jnp.where(begins, absolute, jnp.zeros_like(absolute)), axis=1))
    return Positions(absolute, jnp.broadcast_to(first, (batch, time)))


Bias = Callable[[Array, Array], Array]
"""Makes the bias [B, N, T, S] (or what broadcasts to it) of the positions of queries [B, T] and of keys [B, S]."""


def cached_attention(
    plan: Plan,
    x: Operands,
    positions: Positions,
    cache: KVCache | None,
    *,
    lengths: Int[Array, " b"] | None,
    starts: Bool[Array, "b t"] | None,
    bias: Bias | None = None,
    key: Array | None = None,
) -> tuple[Float[Array, "b t n v"], KVCache]:
    """Attention of new steps to themselves and to those in a cache, and the cache with the new steps in it.

    With a window the cache is a ring, and has room for any number of steps; without, a row whose steps do not fit gives
    NaN and leaves its cache as it was. No cache stands for an empty one with just the room.
    """
    (batch, time), valid = x.q.shape[:2], None if lengths is None else time_mask(lengths, x.q.shape[1])
    queries = Steps(positions.absolute, valid, first=positions.first)
    whole = cache is None
    if cache is None:
        capacity = time if plan.window is None else plan.window
        cache = empty_cache(batch, x.k.shape[2], capacity, x.k.shape[3], x.v.shape[3], x.k.dtype)
    after, overflow = _written(plan, x, positions, cache, lengths)
    if whole:
        position = jnp.arange(time, dtype=jnp.int32)[None, :]
        queries = Steps(position, valid, first=None if starts is None else positions.first)
        keys = Steps(position, valid)
    elif plan.window is None or time == 1:
        keys = Steps(_slots(plan, after))
        k, v = (leaf.swapaxes(1, 2).astype(x.k.dtype) for leaf in (after.k, after.v))
        x = x._replace(k=k, v=v)
    else:  # the new steps may take the place of old ones that the first of them attend to
        held = _slots(plan, cache)
        keys = Steps(
            jnp.concatenate([held, positions.absolute], axis=1),
            None if valid is None else jnp.concatenate([jnp.ones_like(held, bool), valid], axis=1),
        )
        k, v = (
            jnp.concatenate([old.swapaxes(1, 2).astype(new.dtype), new], axis=1)
            for old, new in ((cache.k, x.k), (cache.v, x.v))
        )
        x = x._replace(k=k, v=v)
    if bias is not None:
        x = x._replace(bias=bias(queries.position, keys.position))
    y, _ = attend(dataclasses.replace(plan, offset=0 if whole else None), x, Context(queries, keys, key=key))
    lost = overflow if valid is None else overflow[:, None] & valid
    nan = jnp.full((), jnp.nan, y.dtype)
    return jnp.where(lost.reshape(batch, -1, 1, 1), nan, y), after


def _slots(plan: Plan, cache: KVCache) -> Array:
    """The position in each slot [B, C]; one that no query has reached where there is none."""
    capacity = cache.k.shape[2]
    slots = jnp.arange(capacity, dtype=jnp.int32)[None, :]
    last = cache.length[:, None] - 1
    position = slots + (last - slots) // capacity * capacity if plan.window is not None else slots
    beyond = jnp.full((), jnp.iinfo(jnp.int32).max, jnp.int32)
    return jnp.where((position >= 0) & (position <= last), position, beyond)


def _written(
    plan: Plan, x: Operands, positions: Positions, cache: KVCache, lengths: Array | None
) -> tuple[KVCache, Array]:
    """The cache with the steps in it, and the rows that had no room for them."""
    (batch, time), capacity = x.k.shape[:2], cache.k.shape[2]
    taken = jnp.full(batch, time, jnp.int32) if lengths is None else jnp.clip(lengths, 0, time).astype(jnp.int32)
    steps = jnp.arange(time, dtype=jnp.int32)[None, :]
    ring = plan.window is not None
    overflow = jnp.zeros(batch, bool) if ring else cache.length + taken > capacity
    writes = (steps < taken[:, None]) & ~overflow[:, None]
    if ring:
        writes &= steps >= taken[:, None] - capacity
    slots = jnp.where(writes, positions.absolute % capacity if ring else positions.absolute, capacity)
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None]

    def put(old: Array, new: Array) -> Array:
        return old.at[rows, :, slots].set(new.astype(old.dtype), mode="drop")

    length, start = advanced(cache, positions, writes)
    return KVCache(put(cache.k, x.k), put(cache.v, x.v), length, start), overflow


def advanced(before: Any, positions: Positions, taken: Bool[Array, "b t"]) -> tuple[Array, Array]:
    """`length` and `start` of what has both, after the steps that were taken."""
    length = jnp.max(jnp.where(taken, positions.absolute + 1, before.length[:, None]), axis=1, initial=0)
    start = jnp.max(jnp.where(taken, positions.first, before.start[:, None]), axis=1, initial=0)
    return jnp.maximum(before.length, length), jnp.maximum(before.start, start)
