"""Causal attention that goes on: the keys and values of the steps so far are its carry."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._attention import attend
from jaxnets.ops._attention_weights import Context, Operands, Plan, Steps
from jaxnets.ops.attention import Implementation, check_operands, check_options, dot_product_attention
from jaxnets.ops.masking import time_mask
from jaxnets.typing import Precision


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


def empty_cache(
    batch: Any,
    heads: int,
    capacity: Any,
    head_dim: int,
    *,
    value_dim: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> KVCache:
    """A cache with room for `capacity` positions, none of them taken.

    Args:
      batch: Rows B.
      heads: Heads of keys and values.
      capacity: Room of each row; with a window, at least that.
      head_dim: Width of keys.
      value_dim: Width of values; None means that of keys.
      dtype: Of both.

    >>> empty_cache(2, heads=4, capacity=16, head_dim=8).k.shape
    (2, 4, 16, 8)
    """
    value_dim = head_dim if value_dim is None else value_dim
    k, v = (jnp.zeros((batch, heads, capacity, width), dtype) for width in (head_dim, value_dim))
    # One array for both could not be given away.
    length, start = (jnp.zeros(batch, jnp.int32) for _ in range(2))
    return KVCache(k, v, length, start)


class Positions(NamedTuple):
    """Where steps stand: from the beginning of the row, and where in the row their sequence began; both [B, T]."""

    absolute: Int[Array, "b t"]
    first: Int[Array, "b t"]

    @property
    def relative(self) -> Int[Array, "b t"]:
        """Steps since the sequence began."""
        return self.absolute - self.first

    def after(self, before: Any, taken: Bool[Array, "b t"]) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
        """`length` and `start` of a carry that has both, after those of the steps that were taken."""
        length = jnp.max(jnp.where(taken, self.absolute + 1, before.length[:, None]), axis=1, initial=0)
        start = jnp.max(jnp.where(taken, self.first, before.start[:, None]), axis=1, initial=0)
        return jnp.maximum(before.length, length), jnp.maximum(before.start, start)


def step_positions(
    batch: Any,
    time: Any,
    cache: Any = None,
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
) -> Positions:
    """The positions of `time` steps that follow those in a cache, or in anything with its `length` and `start`.

    Args:
      batch: Rows B.
      time: Steps T.
      cache: What came before; None means nothing.
      lengths: Steps of each row that count; those past them begin nothing.
      starts: Where a new sequence begins.

    >>> step_positions(1, 4, starts=jnp.array([[False, False, True, False]])).relative
    Array([[0, 1, 0, 1]], dtype=int32)
    """
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
    q: Float[Array, "b t n h"],
    k: Float[Array, "b t k h"],
    v: Float[Array, "b t k v"],
    cache: KVCache | None = None,
    *,
    window: int | None = None,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    key: Any = None,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t n v"], KVCache]:
    """Causal attention of new steps to themselves and to those in a cache, and the cache with the new steps in it.

    Any split of the steps of a sequence into calls gives what one call does. With a window the cache is a ring, and has
    room for any number of steps; without, a row whose steps do not fit gives NaN and leaves its cache as it was. Where
    the cache is given away (`donate_argnums`, or the carry of a loop) it is written in place.

    Rotary positions come before: `rotary(q, step_positions(batch, time, cache).relative)`, and likewise for k.

    Args:
      cache: From the call before, or `empty_cache`; None stands for an empty one with just the room.
      window: Keeps the keys of so many positions, the query's own and those before it.
      lengths: Steps of each row that count; the others give 0, may hold NaN, and are not put into the cache.
      starts: Where a new sequence begins, which sees nothing of what came before.
      bias: Makes what is added to the scores [B, N, T, S] from positions in the row, [B, T] of queries and [B, S] of
        keys (2^31 - 1 where there is no key); B may be 1.
      scale: See `dot_product_attention`, as for all below.
      implementation: With a cache, "cudnn" stands for "auto".

    Raises:
      TypeError: If the dtypes differ or are not floating, or the cache is none.
      ValueError: If shapes or options do not fit, or the cache has no room.

    References:
      Milakov and Gimelshein, 2018. Online normalizer calculation for softmax.

    >>> cache, token = empty_cache(1, heads=2, capacity=8, head_dim=4), jnp.ones((1, 1, 2, 4))
    >>> for _ in range(3):
    ...     y, cache = cached_attention(token, token, token, cache)
    >>> y.shape, cache.length
    ((1, 1, 2, 4), Array([3], dtype=int32))
    """
    check_operands("cached_attention", q, k, v)
    check_options("cached_attention", window, soft_cap, dropout, key, implementation)
    batch, time, heads, width = k.shape
    if q.shape[1] != time:
        raise ValueError(f"cached_attention: q has {q.shape[1]} steps but k {time}")
    if cache is not None:
        check_cache("cached_attention", "cache", cache, k.shape, v.shape, window)
    positions = step_positions(batch, time, cache, lengths=lengths, starts=starts)
    taken = jnp.full(batch, time, jnp.int32) if lengths is None else jnp.clip(lengths, 0, time).astype(jnp.int32)
    if cache is None:
        steps = jnp.arange(time, dtype=jnp.int32)[None, :]
        y = dot_product_attention(
            q,
            k,
            v,
            causal=True,
            window=window,
            lengths=lengths,
            segment_ids=None if starts is None else jnp.cumsum(starts, axis=1, dtype=jnp.int32),
            bias=None if bias is None else bias(steps, steps),
            scale=scale,
            soft_cap=soft_cap,
            dropout=dropout,
            key=key,
            precision=precision,
            implementation=implementation,
        )
        capacity = time if window is None else window
        cache = empty_cache(batch, heads, capacity, width, value_dim=v.shape[-1], dtype=k.dtype)
        return y, _written(cache, k, v, positions, taken, window is not None)
    plan = Plan(
        scale=width**-0.5 if scale is None else scale,
        causal=True,
        window=window,
        soft_cap=soft_cap,
        dropout=dropout,
        precision=precision,
        implementation="auto" if implementation == "cudnn" else implementation,
    )
    y = _to_both(plan, Operands(q, k, v), positions, cache, lengths, bias, key if dropout else None)
    # Nothing is both NaN and infinite. XLA writes to a cache in place, and makes no copy, if it knows that it is read
    # before: so what is written depends on what was read.
    never = jnp.any(jnp.isnan(y) & jnp.isinf(y), axis=(1, 2, 3))
    fits = ~never if window is not None else ~never & (cache.length + taken <= cache.k.shape[2])
    written = _written(cache, k, v, positions, jnp.where(fits, taken, jnp.zeros_like(taken)), window is not None)
    lost = ~fits[:, None] if lengths is None else ~fits[:, None] & time_mask(lengths, time)
    return jnp.where(lost[:, :, None, None], jnp.full((), jnp.nan, y.dtype), y), written


def _to_both(
    plan: Plan, x: Operands, positions: Positions, cache: KVCache, lengths: Any, bias: Bias | None, key: Any
) -> Array:
    """Attention to the steps in the cache and to the new ones, apart, and then one mean of both."""
    time, valid = x.q.shape[1], None if lengths is None else time_mask(lengths, x.q.shape[1])
    steps, slots = jnp.arange(time, dtype=jnp.int32)[None, :], _slots(cache, plan.window is not None)
    keys = (None, None) if key is None else jax.random.split(key)

    def biased(x: Operands, keys: Array) -> Operands:
        return x if bias is None else x._replace(bias=bias(positions.absolute, keys))

    first = positions.first - cache.length[:, None]
    among_new = Context(Steps(steps, valid, first=first), Steps(steps, valid), key=keys[0])
    new = attend(dataclasses.replace(plan, offset=0), biased(x, positions.absolute), among_new)

    k, v = (leaf.swapaxes(1, 2).astype(x.k.dtype) for leaf in (cache.k, cache.v))
    held = biased(x._replace(k=k, v=v), slots)
    to_held = Context(Steps(positions.absolute, valid, first=positions.first), Steps(slots), key=keys[1])
    if isinstance(time, int) and time == 1:
        return _merged(attend(plan, held, to_held), new)
    # A prompt is often the first there is.
    nothing = jnp.zeros_like(new[0]), jnp.full_like(new[1], jnp.inf)
    old = lax.cond(jnp.any(cache.length > 0), lambda: attend(plan, held, to_held), lambda: nothing)
    return _merged(old, new)


def _merged(old: tuple[Array, Array], new: tuple[Array, Array]) -> Array:
    """The output over all keys from those over two parts of them, each with the logarithm of its sum."""
    (a, lse_a), (b, lse_b) = old, new
    inf = jnp.full((), jnp.inf, lse_a.dtype)
    # That of a part without keys is inf.
    odds = jnp.where(lse_a == inf, inf, jnp.where(lse_b == inf, -inf, lse_b - lse_a))
    share = jax.nn.sigmoid(odds).swapaxes(1, 2)[..., None]
    return ((1 - share) * a.astype(share.dtype) + share * b.astype(share.dtype)).astype(a.dtype)


def _slots(cache: KVCache, ring: bool) -> Array:
    """The position in each slot [B, C]; one that no query has reached where there is none."""
    capacity = cache.k.shape[2]
    slots = jnp.arange(capacity, dtype=jnp.int32)[None, :]
    last = cache.length[:, None] - 1
    position = slots + (last - slots) // capacity * capacity if ring else slots
    beyond = jnp.full((), jnp.iinfo(jnp.int32).max, jnp.int32)
    return jnp.where((position >= 0) & (position <= last), position, beyond)


def _written(cache: KVCache, k: Array, v: Array, positions: Positions, taken: Array, ring: bool) -> KVCache:
    """The cache with the first `taken` steps of each row in it."""
    (batch, time), capacity = k.shape[:2], cache.k.shape[2]
    steps, rows = jnp.arange(time, dtype=jnp.int32)[None, :], jnp.arange(batch, dtype=jnp.int32)[:, None]
    writes = steps < taken[:, None]
    length, start = positions.after(cache, writes)
    if ring:
        writes &= steps >= taken[:, None] - capacity
    slots = jnp.where(writes, positions.absolute % capacity if ring else positions.absolute, capacity)

    def put(old: Array, new: Array) -> Array:
        return old.at[rows, :, slots].set(new.astype(old.dtype), mode="drop")

    return KVCache(put(cache.k, k), put(cache.v, v), length, start)


def check_cache(
    name: str, argument: str, cache: Any, keys: tuple[Any, ...], values: tuple[Any, ...], window: int | None
) -> None:
    """Raises unless new keys [B, T, K, H] and values [B, T, K, V] of these shapes fit to what is in the cache."""
    if not isinstance(cache, KVCache):
        raise TypeError(f"{name}: {argument} wants a KVCache but is {type(cache).__name__}")
    (batch, time, heads, width), capacity = keys, cache.k.shape[2]
    wanted = (batch, heads, capacity, width), (batch, heads, capacity, values[-1])
    if (cache.k.shape, cache.v.shape) != wanted:
        raise ValueError(
            f"{name}: {argument} has keys {cache.k.shape} and values {cache.v.shape} but wants {wanted[0]} and "
            f"{wanted[1]}"
        )
    if window is None and isinstance(time, int) and time > capacity:
        raise ValueError(f"{name}: there are {time} new steps but the cache has room for {capacity} in all")
    if window is not None and capacity < window:
        raise ValueError(f"{name}: the cache has room for {capacity} steps but window={window} wants as many")
