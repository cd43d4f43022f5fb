"""Noise of recurrent networks, drawn before the loop: dropout of the state or of its update, and zoneout."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._recurrent_cell import Cell, settled
from jaxnets.ops._recurrent_cells import GRUCarry, GRUCell, sigmoid
from jaxnets.typing import Precision

DropoutKind = Literal["variational", "per_step"]


class Noise(NamedTuple):
    """Masks [B, T, H], True where something is kept; None where there is no such noise.

    `fed` is of the state that the recurrent kernel sees, `update` of what a step adds to the memory, and `zoneout` has,
    for each leaf of the state, True where it stays as it was.
    """

    fed: Array | None = None
    update: Array | None = None
    zoneout: tuple[Array, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Noisy(Cell):
    """A cell that sees a part of its state only, and keeps a part of it from one step to the next."""

    cell: Cell
    dropout: float = 0.0
    zoneout: tuple[float, ...] = ()

    @property
    def forced_by_state(self) -> bool:  # type: ignore[override]
        return self.cell.forced_by_state

    @property
    def projected_at_once(self) -> bool:  # type: ignore[override]
        return self.cell.projected_at_once

    def product(self, x: Array, kernel: Array, precision: Precision, dtype: Any) -> Array:
        return self.cell.product(x, kernel, precision, dtype)

    def looped_product(self, kernel: Array, precision: Precision, dtype: Any) -> Callable[[Array], Array]:
        return self.cell.looped_product(kernel, precision, dtype)

    def fed(self, h: Array, extras: Noise) -> Array:
        return dropped(h, extras.fed, self.dropout) if self.dropout else h

    def join(self, u: Array, v: Array) -> Any:
        return self.cell.join(u, v)

    def step(self, state: Any, a: Any, vectors: Any, extras: Noise) -> Any:
        return self._keep(state, self.cell.step(state, a, vectors, extras), extras)

    def linearise(self, state: Any, a: Any, vectors: Any, extras: Noise) -> tuple[Any, Any]:
        after, kept = self.cell.linearise(state, a, vectors, extras)
        return self._keep(state, after, extras), settled(kept, after.h) if self.zoneout else kept

    def tangent(self, kept: Any, vectors: Any, extras: Noise, dstate: Any, da: Any, dvectors: Any) -> Any:
        return self._keep(dstate, self.cell.tangent(kept, vectors, extras, dstate, da, dvectors), extras)

    def _keep(self, before: Any, after: Any, extras: Noise) -> Any:
        """Zoneout: linear in both states, so that it serves tangents too. Without masks it is its expectation."""
        if not self.zoneout:
            return after
        kind = type(after)
        if extras.zoneout is None:
            mixed = (p * b + (1 - p) * a for p, b, a in zip(self.zoneout, before, after, strict=True))
        else:
            mixed = (jnp.where(mask, b, a) for mask, b, a in zip(extras.zoneout, before, after, strict=True))
        return kind(*mixed)


@dataclasses.dataclass(frozen=True)
class GRUWithDropout(GRUCell):
    """h' = (1 - z) d(n) + z h, with dropout d."""

    update_dropout: float = 0.0

    def step(self, state: GRUCarry, a: Any, vectors: Any, extras: Noise) -> GRUCarry:
        return self.linearise(state, a, vectors, extras)[0]

    def linearise(self, state: GRUCarry, a: Any, vectors: Any, extras: Noise) -> tuple[GRUCarry, tuple[Array, ...]]:
        gates, u, v = a
        r, z = jnp.split(sigmoid(gates), 2, axis=-1)
        n = jnp.tanh(u + r * v)
        by_n = dropped((1 - z) * (1 - n**2), extras.update, self.update_dropout)
        n = dropped(n, extras.update, self.update_dropout)
        slopes = jnp.concatenate([by_n * v * r * (1 - r), (state.h - n) * z * (1 - z), by_n], axis=-1)
        return GRUCarry(n + z * (state.h - n)), (z, slopes, by_n * r)


def dropped(x: Array, mask: Array | None, rate: float) -> Array:
    """Dropout: what the mask keeps is scaled so that the expectation stays."""
    if mask is None:
        return x
    return jnp.where(mask, x / (1 - rate), jnp.zeros((), x.dtype))


def update_rate(recurrent_dropout: float, dropout_kind: str, key: Array | None) -> float:
    """The rate of dropout of what a step adds to the memory."""
    return recurrent_dropout if dropout_kind == "per_step" and key is not None else 0.0


def noisy(
    op: str,
    cell: Cell,
    template: Any,
    x: Array,
    starts: Array | None,
    zoneout: float | tuple[float, ...],
    recurrent_dropout: float = 0.0,
    dropout_kind: str = "variational",
    key: Array | None = None,
) -> tuple[Cell, Noise]:
    """The cell with its noise, and the masks, for the steps of x [B, T, ...] and a carry like `template`.

    Without a key there is no dropout, and zoneout is its expectation.
    """
    rates = zoneout if isinstance(zoneout, tuple) else (zoneout,) * len(template)
    if not 0 <= recurrent_dropout < 1:
        raise ValueError(f"{op}: recurrent_dropout wants a rate from 0 to below 1 but is {recurrent_dropout}")
    if dropout_kind not in get_args(DropoutKind):
        raise ValueError(f"{op}: dropout_kind is {dropout_kind!r} but wants one of {', '.join(get_args(DropoutKind))}")
    if len(rates) != len(template) or not all(0 <= rate < 1 for rate in rates):
        wanted = "a rate from 0 to below 1" + (", or one each for h and c," if len(template) > 1 else "")
        raise ValueError(f"{op}: zoneout wants {wanted} but is {zoneout}")

    masks = Noise()
    if key is not None:
        keys = jax.random.split(key, 2)
        masks = draw_dropout(keys[0], template, x.shape[:2], starts, recurrent_dropout, dropout_kind)
        masks = masks._replace(zoneout=draw_zoneout(keys[1], template, x.shape[:2], rates))
    if masks.fed is None and not any(rates):
        return cell, masks
    return Noisy(cell, recurrent_dropout if masks.fed is not None else 0.0, rates if any(rates) else ()), masks


def draw_dropout(
    key: Array, template: Any, shape: tuple[int, ...], starts: Array | None, rate: float, kind: str
) -> Noise:
    """One mask a step; or one a sequence, so that those that are packed in a row each have their own."""
    if not rate:
        return Noise()
    if kind == "per_step":
        return Noise(update=jax.random.bernoulli(key, 1 - rate, (*shape, *template[-1].shape)))
    state = template.h.shape
    mask = jax.random.bernoulli(key, 1 - rate, (shape[0], 1 if starts is None else shape[1], *state))
    if starts is not None:
        began = lax.cummax(jnp.where(starts, jnp.arange(shape[1])[None], 0), axis=1)
        mask = jnp.take_along_axis(mask, began.reshape(*shape, *(1 for _ in state)), axis=1)
    return Noise(fed=jnp.broadcast_to(mask, (*shape, *state)))


def draw_zoneout(
    key: Array, template: Any, shape: tuple[int, ...], rates: tuple[float, ...]
) -> tuple[Array, ...] | None:
    """For each leaf of the state one mask a step."""
    if not any(rates):
        return None
    leaves = zip(jax.random.split(key, len(rates)), rates, template, strict=True)
    return tuple(jax.random.bernoulli(key, rate, (*shape, *leaf.shape)) for key, rate, leaf in leaves)
