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


FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Compiler options that make the many small programs of a check in a quarter of the time."""
