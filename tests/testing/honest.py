"""A GRU written as plainly as can be, with the hooks that a mutant takes hold of."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Carry(NamedTuple):
    h: Any


class GRU(nn.Module):
    """One scan over time; everything is in the loop."""

    features: int = 5
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        dtype = x.dtype if self.dtype is None else self.dtype
        wide = dtype if jnp.finfo(dtype).bits > 32 else jnp.float32
        (rows, time), width, features = x.shape[:2], x.shape[-1], self.features
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (width, 3 * features)).astype(dtype)
        recurrent = self.param("recurrent_kernel", init, (features, 3 * features)).astype(dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * features,)).astype(wide)
        initial = self.param("initial", nn.initializers.zeros, (features,)).astype(wide)
        initial = jnp.broadcast_to(initial[None], (rows, features))

        lengths = jnp.full(rows, time, jnp.int32) if lengths is None else lengths
        starts = jnp.zeros((rows, time), bool) if starts is None else starts
        valid = jnp.arange(time, dtype=jnp.int32)[None] < lengths[:, None]
        x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype)).astype(dtype)

        def step(h, inputs):
            x, start, valid = inputs
            old = jnp.where(start, initial, h)
            new = cell(kernel, recurrent, bias, old, x)
            return jnp.where(valid, new, h), jnp.where(valid, new, jnp.zeros((), wide))

        by_step = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), (x, starts[..., None], valid[..., None]))
        h, y = jax.lax.scan(step, initial if carry is None else carry.h, by_step)
        return y.swapaxes(0, 1).astype(dtype), Carry(h)


def cell(kernel, recurrent, bias, h, x):
    """Cho et al., 2014, with the reset gate after the product."""
    wide = bias.dtype
    inputs = (x @ kernel).astype(wide) + bias[None]
    states = (h.astype(x.dtype) @ recurrent).astype(wide)
    r, z, n = jnp.split(inputs, 3, -1)
    s, u, m = jnp.split(states, 3, -1)
    r, z = jax.nn.sigmoid(r + s), jax.nn.sigmoid(z + u)
    return (1 - z) * jnp.tanh(n + r * m) + z * h


class Tokens(nn.Module):
    """The same for tokens."""

    vocabulary: int = 7
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        valid = jnp.ones(x.shape, bool) if lengths is None else steps(x) < lengths[:, None]
        x = nn.Embed(self.vocabulary, 4, dtype=self.dtype)(jnp.where(valid, x, 0))
        return GRU(dtype=self.dtype)(x, lengths=lengths, starts=starts, carry=carry)


def steps(x):
    return jnp.arange(x.shape[1], dtype=jnp.int32)[None]


class Pairs(nn.Module):
    """Takes two steps at a time: time becomes half as long."""

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        rows, time, width = x.shape
        if lengths is not None:
            x = jnp.where((steps(x) < lengths[:, None])[..., None], x, jnp.zeros((), x.dtype))
            lengths = self.output_lengths(lengths)
        x = x.reshape(rows, time // 2, 2 * width)
        starts = None if starts is None else starts[:, ::2]
        return GRU()(x, lengths=lengths, starts=starts, carry=carry)

    def output_lengths(self, lengths):
        return (lengths + 1) // 2


class Frames(nn.Module):
    """The same for [B, T, H, W], without packed rows."""

    @nn.compact
    def __call__(self, x, *, lengths=None, carry=None, train=False):
        return GRU()(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]), lengths=lengths, carry=carry)


class Whole(nn.Module):
    """Adds the mean of all that counts: it sees the future, so it cannot stream."""

    refuse: bool = True

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        if self.refuse and (carry is not None or starts is not None):
            raise ValueError("Whole: sees the whole row at once, so it takes neither starts nor a carry")
        lengths = jnp.full(x.shape[0], x.shape[1], jnp.int32) if lengths is None else lengths
        valid = (steps(x) < lengths[:, None])[..., None]
        y = nn.Dense(5, dtype=x.dtype)(jnp.where(valid, x, jnp.zeros((), x.dtype)))
        total = jnp.sum(jnp.where(valid, jnp.tanh(y), 0), 1, keepdims=True, dtype=jnp.promote_types(x.dtype, "float32"))
        mean = total / jnp.maximum(lengths, 1)[:, None, None].astype(total.dtype)
        return jnp.where(valid, y + mean.astype(y.dtype), jnp.zeros((), y.dtype)), ()


class Cache(NamedTuple):
    """What attention keeps: `used` entries of each row, of which the sequence began at `begin`."""

    keys: Any
    values: Any
    used: Any
    begin: Any


class Attention(nn.Module):
    """Attends to its own past, a step at a time, with room for as many steps as the first x has, or the spec says."""

    features: int = 4

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        rows, time = x.shape[:2]
        lengths = jnp.full(rows, time, jnp.int32) if lengths is None else lengths
        starts = jnp.zeros((rows, time), bool) if starts is None else starts
        valid = steps(x) < lengths[:, None]
        x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype))
        q, k, v = (nn.Dense(self.features, name=name)(x) for name in ("q", "k", "v"))
        carry = self.empty(rows, time, x.dtype) if carry is None else carry
        place = jnp.arange(carry.keys.shape[1], dtype=jnp.int32)[None]

        def step(cache, inputs):
            q, k, v, start, valid = inputs
            here = (place == cache.used[:, None]) & valid[:, None]
            keys = jnp.where(here[..., None], k[:, None].astype(cache.keys.dtype), cache.keys)
            values = jnp.where(here[..., None], v[:, None].astype(cache.keys.dtype), cache.values)
            begin = jnp.where(start & valid, cache.used, cache.begin)
            seen = (place >= begin[:, None]) & (place <= cache.used[:, None])
            scores = jnp.sum(q.astype(keys.dtype)[:, None] * keys, 2)
            weights = jax.nn.softmax(jnp.where(seen, scores, -1e30))
            y = jnp.where(valid[:, None], jnp.sum(weights[..., None] * values, 1), 0)
            return Cache(keys, values, cache.used + valid, begin), y

        by_step = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), (q, k, v, starts, valid))
        carry, y = jax.lax.scan(step, carry, by_step)
        return y.swapaxes(0, 1).astype(x.dtype), carry

    def empty(self, rows, time, dtype):
        room = jnp.zeros((rows, time, self.features), jnp.promote_types(dtype, "float32"))
        return Cache(room, room, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.int32))


class Linear(nn.Module):
    """A complex diagonal recurrence; its carry is complex."""

    reverse: bool = False

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        (rows, time, width), dtype = x.shape, x.dtype
        wide = x.dtype if jnp.finfo(x.dtype).bits > 32 else jnp.float32
        size, angle = (self.param(name, nn.initializers.normal(), (width,)) for name in ("size", "angle"))
        decay = jax.lax.complex(jax.nn.sigmoid(size.astype(wide)), angle.astype(wide))
        lengths = jnp.full(rows, time, jnp.int32) if lengths is None else lengths
        starts = jnp.zeros((rows, time), bool) if starts is None else starts
        valid = steps(x) < lengths[:, None]
        starts = starts & valid
        if self.reverse:
            starts = jnp.pad(starts[:, 1:], ((0, 0), (0, min(time, 1) if isinstance(time, int) else 1)))
        x = jnp.where(valid[..., None], x, jnp.zeros((), x.dtype)).astype(decay.dtype)

        def step(h, inputs):
            x, start, valid = inputs
            new = decay[None] * jnp.where(start[:, None], 0, h) + x
            return jnp.where(valid[:, None], new, h), jnp.where(valid[:, None], new.real + new.imag, 0)

        by_step = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), (x, starts, valid))
        initial = jnp.zeros((rows, width), decay.dtype)
        h, y = jax.lax.scan(step, initial if carry is None else carry, by_step, reverse=self.reverse)
        return y.swapaxes(0, 1).astype(dtype), h
