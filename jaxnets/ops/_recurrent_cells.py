"""The plain cells and their partial derivatives: tanh and ReLU networks, LSTM and GRU."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnets.ops._recurrent_cell import Cell, Output

Activation = Literal["tanh", "relu"]


class RNNCarry(NamedTuple):
    """The state of a plain recurrent network."""

    h: Float[Array, "*b h"]


class GRUCarry(NamedTuple):
    """The state of a GRU."""

    h: Float[Array, "*b h"]


class LSTMCarry(NamedTuple):
    """The state of an LSTM: what it puts out, and its memory."""

    h: Float[Array, "*b h"]
    c: Float[Array, "*b h"]


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)) by way of tanh, which XLA computes several times faster on a CPU."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


@dataclasses.dataclass(frozen=True)
class RNNCell(Cell):
    """h' = activation(a)."""

    activation: Activation = "tanh"
    forced_by_state: ClassVar[bool] = False

    def step(self, state: RNNCarry, a: Array, vectors: Any, extras: Any) -> RNNCarry:
        return RNNCarry(jnp.tanh(a) if self.activation == "tanh" else jnp.maximum(a, jnp.zeros_like(a)))

    def linearise(self, state: RNNCarry, a: Array, vectors: Any, extras: Any) -> tuple[RNNCarry, Any]:
        return self.step(state, a, vectors, extras), Output()

    def tangent(self, kept: Array, vectors: Any, extras: Any, dstate: RNNCarry, da: Array, dvectors: Any) -> RNNCarry:
        slope = 1 - kept**2 if self.activation == "tanh" else (kept > 0).astype(kept.dtype)
        return RNNCarry(slope * da)


@dataclasses.dataclass(frozen=True)
class LSTMCell(Cell):
    """c' = f c + i g, h' = o tanh(c'), with [i, f, g, o] = [sigmoid, sigmoid, tanh, sigmoid](a)."""

    forced_by_state: ClassVar[bool] = False

    def gates(self, a: Array) -> list[Array]:
        # sigmoid(z) = (tanh(z / 2) + 1) / 2: one tanh over all four gates.
        scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], a.dtype), a.shape[-1] // 4)
        i, f, g, o = jnp.split(jnp.tanh(a * scale.reshape((1,) * (a.ndim - 1) + scale.shape)), 4, axis=-1)
        return [0.5 * i + 0.5, 0.5 * f + 0.5, g, 0.5 * o + 0.5]

    def step(self, state: LSTMCarry, a: Array, vectors: Any, extras: Any) -> LSTMCarry:
        i, f, g, o = self.gates(a)
        c = f * state.c + i * g
        return LSTMCarry(o * jnp.tanh(c), c)

    def linearise(self, state: LSTMCarry, a: Array, vectors: Any, extras: Any) -> tuple[LSTMCarry, tuple[Array, ...]]:
        i, f, g, o = self.gates(a)
        c = f * state.c + i * g
        tanh_c = jnp.tanh(c)
        by_gate = [g * i * (1 - i), state.c * f * (1 - f), i * (1 - g**2), tanh_c * o * (1 - o)]
        return LSTMCarry(o * tanh_c, c), (f, o * (1 - tanh_c**2), jnp.concatenate(by_gate, axis=-1))

    def tangent(
        self, kept: tuple[Array, ...], vectors: Any, extras: Any, dstate: LSTMCarry, da: Array, dvectors: Any
    ) -> LSTMCarry:
        f, slope, by_gate = kept
        i, forget, g, o = jnp.split(by_gate * da, 4, axis=-1)
        dc = f * dstate.c + i + forget + g
        return LSTMCarry(o + slope * dc, dc)


@dataclasses.dataclass(frozen=True)
class GRUCell(Cell):
    """h' = (1 - z) n + z h, with [r, z] = sigmoid(u + v) and n = tanh(u + r v), reset after the product."""

    projected_at_once: ClassVar[bool] = False

    def join(self, u: Array, v: Array) -> tuple[Array, Array, Array]:
        width = u.shape[-1] // 3
        u_gates, u_n = jnp.split(u, [2 * width], axis=-1)
        v_gates, v_n = jnp.split(v, [2 * width], axis=-1)
        return u_gates + v_gates, u_n, v_n

    def step(self, state: GRUCarry, a: Any, vectors: Any, extras: Any) -> GRUCarry:
        gates, u, v = a
        r, z = jnp.split(sigmoid(gates), 2, axis=-1)
        n = jnp.tanh(u + r * v)
        return GRUCarry(n + z * (state.h - n))

    def linearise(self, state: GRUCarry, a: Any, vectors: Any, extras: Any) -> tuple[GRUCarry, tuple[Array, ...]]:
        gates, u, v = a
        r, z = jnp.split(sigmoid(gates), 2, axis=-1)
        n = jnp.tanh(u + r * v)
        by_n = (1 - z) * (1 - n**2)
        slopes = jnp.concatenate([by_n * v * r * (1 - r), (state.h - n) * z * (1 - z), by_n], axis=-1)
        return GRUCarry(n + z * (state.h - n)), (z, slopes, by_n * r)

    def tangent(
        self, kept: tuple[Array, ...], vectors: Any, extras: Any, dstate: GRUCarry, da: Any, dvectors: Any
    ) -> GRUCarry:
        z, slopes, by_v = kept
        gates, u, v = da
        r, z_part, n = jnp.split(slopes * jnp.concatenate([gates, u], axis=-1), 3, axis=-1)
        return GRUCarry(z * dstate.h + r + z_part + n + by_v * v)
