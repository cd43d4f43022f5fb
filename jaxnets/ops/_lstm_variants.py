"""The LSTMs of the papers as one cell: peepholes, a projection, layer norms, coupled gates, dropout of the update."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._recurrent_call import Params, check_params, state_dtype
from jaxnets.ops._recurrent_cell import Cell, Weights
from jaxnets.ops._recurrent_cells import LSTMCarry, LSTMCell, sigmoid
from jaxnets.ops._recurrent_noise import dropped
from jaxnets.typing import Precision

_EPSILON = 1e-5
_NORMS = ("input_scale", "recurrent_scale", "cell_scale", "cell_bias")


class Norms(NamedTuple):
    """What layer norms have beside the kernels; `bias` is the gates', which is added after two of them."""

    bias: Array
    input_scale: Array
    recurrent_scale: Array
    cell_scale: Array
    cell_bias: Array


class Extra(NamedTuple):
    """The vectors of a variant, None for what it has not."""

    peephole: Array | None = None
    projection: Array | None = None
    norms: Norms | None = None


class Normal(NamedTuple):
    """An array with mean 0 and variance 1 over its last axis, and what it was multiplied by to have that variance."""

    value: Array
    factor: Array


class Kept(NamedTuple):
    """Partial derivatives of a step, and what meets the tangents of its vectors."""

    forget: Array
    slope: Array
    by_gate: Array
    memories: tuple[Array, Array] | None
    out: Array | None
    norms: tuple[Normal, Normal, Normal] | None


@dataclasses.dataclass(frozen=True)
class LSTMVariant(Cell):
    """c' = f c + i g, h' = (o tanh(norm(c'))) projection, with gates that may look at c and c', or f = 1 - i."""

    coupled: bool = False
    layer_norm: bool = False
    update_dropout: float = 0.0
    precision: Precision = None

    def join(self, u: Array, v: Array) -> Any:
        return (u, v) if self.layer_norm else u + v

    def step(self, state: LSTMCarry, a: Any, vectors: Any, extras: Any) -> LSTMCarry:
        return self.linearise(state, a, vectors, extras)[0]

    def linearise(self, state: LSTMCarry, a: Any, vectors: Any, extras: Any) -> tuple[LSTMCarry, Kept]:
        peephole, projection, norms = vectors
        if self.layer_norm:
            u, v = normalise(a[0]), normalise(a[1])
            a = scaled(u, norms.input_scale) + scaled(v, norms.recurrent_scale) + _row(norms.bias, u.value)
        i, f, g, o = self._gates(a)
        if peephole is not None:
            p_i, p_f, p_o = self._peepholes(peephole, i)
            i, f = i + p_i * state.c, f if f is None or p_f is None else f + p_f * state.c
        i, g = sigmoid(i), jnp.tanh(g)
        f = 1 - i if f is None else sigmoid(f)
        update = dropped(g, extras.update, self.update_dropout) if self.update_dropout else g
        c = f * state.c + i * update
        o = sigmoid(o if peephole is None else o + p_o * c)
        cell = c
        if self.layer_norm:
            normal = normalise(c)
            cell = scaled(normal, norms.cell_scale) + _row(norms.cell_bias, c)
        tanh_c = jnp.tanh(cell)
        out = o * tanh_c
        h = out if projection is None else self._project(out, projection)

        by_g = i * (1 - g**2)
        by_g = dropped(by_g, extras.update, self.update_dropout) if self.update_dropout else by_g
        by_i_f = [(update - state.c) * i * f] if self.coupled else [update * i * (1 - i), state.c * f * (1 - f)]
        kept = Kept(
            forget=f,
            slope=o * (1 - tanh_c**2),
            by_gate=jnp.concatenate([*by_i_f, by_g, tanh_c * o * (1 - o)], axis=-1),
            memories=None if peephole is None else (state.c, c),
            out=None if projection is None else out,
            norms=(u, v, normal) if self.layer_norm else None,
        )
        return LSTMCarry(h, c), kept

    def tangent(self, kept: Kept, vectors: Any, extras: Any, dstate: LSTMCarry, da: Any, dvectors: Any) -> LSTMCarry:
        peephole, projection, norms = vectors
        if kept.norms is not None:
            (u, v, cell), dnorms = kept.norms, dvectors.norms
            da = (
                scaled(tangent_of_normal(u, da[0]), norms.input_scale)
                + scaled(tangent_of_normal(v, da[1]), norms.recurrent_scale)
                + scaled(u, dnorms.input_scale)
                + scaled(v, dnorms.recurrent_scale)
                + _row(dnorms.bias, u.value)
            )
        i, f, g, o = self._gates(da)
        if kept.memories is not None:
            before, after = kept.memories
            p_i, p_f, p_o = self._peepholes(peephole, i)
            dp_i, dp_f, dp_o = self._peepholes(dvectors.peephole, i)
            i = i + p_i * dstate.c + before * dp_i
            f = f if f is None else f + p_f * dstate.c + before * dp_f
        by_i, by_f, by_g, by_o = self._gates(kept.by_gate)
        dc = kept.forget * dstate.c + by_i * i + by_g * g
        dc = dc if f is None or by_f is None else dc + by_f * f
        if kept.memories is not None:
            o = o + p_o * dc + after * dp_o
        dcell = dc
        if kept.norms is not None:
            dcell = scaled(tangent_of_normal(cell, dc), norms.cell_scale)
            dcell = dcell + scaled(cell, dnorms.cell_scale) + _row(dnorms.cell_bias, dc)
        dh = by_o * o + kept.slope * dcell
        if kept.out is not None:
            dh = self._project(dh, projection) + self._project(kept.out, dvectors.projection)
        return LSTMCarry(dh, dc)

    def _gates(self, a: Array) -> tuple[Array, Array | None, Array, Array]:
        """The parts of i, f, g and o; f has none where it is 1 - i."""
        if self.coupled:
            i, g, o = jnp.split(a, 3, axis=-1)
            return i, None, g, o
        i, f, g, o = jnp.split(a, 4, axis=-1)
        return i, f, g, o

    def _peepholes(self, peephole: Any, like: Array) -> tuple[Array, Any, Array]:
        """The parts of i, f and o, likewise."""
        parts = [_row(part, like) for part in jnp.split(peephole, 2 if self.coupled else 3, axis=-1)]
        return parts[0], None if self.coupled else parts[1], parts[-1]

    def _project(self, out: Array, projection: Any) -> Array:
        return Cell.product(self, out, projection, self.precision, out.dtype)


def normalise(x: Array) -> Normal:
    """An array with mean 0 and variance 1 over its last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    factor = lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + jnp.asarray(_EPSILON, x.dtype))
    return Normal(centred * factor, factor)


def tangent_of_normal(normal: Normal, dx: Array) -> Normal:
    """The tangent of the normalised array, given that of what it was made from."""
    along = jnp.mean(normal.value * dx, axis=-1, keepdims=True)
    value = normal.factor * (dx - jnp.mean(dx, axis=-1, keepdims=True) - normal.value * along)
    return normal._replace(value=value)


def scaled(normal: Normal, scale: Array) -> Array:
    """What is normalised, with another variance."""
    return normal.value * _row(scale, normal.value)


def _row(vector: Array, like: Array) -> Array:
    """A vector with as many axes as an array."""
    return vector.reshape((1,) * (like.ndim - vector.ndim) + vector.shape)


def lstm_cell(
    op: str,
    params: Params,
    x: Array,
    rank: int,
    coupled: bool,
    update_dropout: float,
    precision: Precision,
) -> tuple[Cell, Weights, LSTMCarry]:
    """Checks the parameters of an LSTM; gives its cell, its weights and the shape of a row of its carry.

    Peepholes, a projection and layer norms are there if their parameters are.
    """
    gates = 3 if coupled else 4
    dtype = jnp.dtype(state_dtype(x))
    extra = [name for name in ("peephole", "projection", *_NORMS) if name in params]
    names = tuple(name for name in extra if name == "projection")
    recurrent = params.get("recurrent_kernel")
    if "projection" in extra and recurrent is not None:
        projection = params["projection"]
        if len(projection.shape) != 2 or recurrent.shape != (projection.shape[1], gates * projection.shape[0]):
            raise ValueError(
                f"{op}: params['projection'] wants [H, P] and params['recurrent_kernel'] [P, {gates} * H] but they "
                f"have shapes {projection.shape} and {recurrent.shape}"
            )
        # As if there were no projection, for the checks that are left.
        recurrent = jax.ShapeDtypeStruct((projection.shape[0], recurrent.shape[1]), recurrent.dtype)
        hidden = check_params(op, {**params, "recurrent_kernel": recurrent}, x, rank, gates, names)
    else:
        hidden = check_params(op, params, x, rank, gates, names)
    layer_norm = any(name in params for name in _NORMS)
    wanted = {"peephole": (gates - 1) * hidden} if "peephole" in params else {}
    if layer_norm:
        wanted |= dict(zip(_NORMS, (gates * hidden, gates * hidden, hidden, hidden), strict=True))
    for name, width in wanted.items():
        if name not in params:
            raise ValueError(f"{op}: a layer norm wants params {', '.join(_NORMS)} but there is no {name!r}")
        if params[name].shape != (width,):
            raise ValueError(f"{op}: params[{name!r}] wants shape {(width,)} but has {params[name].shape}")
        if params[name].dtype != dtype:
            raise TypeError(
                f"{op}: params[{name!r}] wants the dtype of the state, {dtype}, but has {params[name].dtype}"
            )

    c: Any = jax.ShapeDtypeStruct((hidden,), dtype)
    h: Any = jax.ShapeDtypeStruct(params["projection"].shape[1:], dtype) if "projection" in params else c
    weights = Weights(params["kernel"], params["bias"], params["recurrent_kernel"])
    if not extra and not coupled and not update_dropout:
        return LSTMCell(), weights, LSTMCarry(h, c)
    norms = None
    if layer_norm:
        norms = Norms(params["bias"].astype(dtype), *(params[name] for name in _NORMS))
        weights = weights._replace(bias=jnp.zeros((), dtype))
    weights = weights._replace(vectors=Extra(params.get("peephole"), params.get("projection"), norms))
    return LSTMVariant(coupled, layer_norm, update_dropout, precision), weights, LSTMCarry(h, c)
