"""Layers broken in one way each, by the law that must notice, in value or in gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import linear_call

from tests.testing.honest import GRU, Carry


class Call(NamedTuple):
    """A call of the layer, with `lengths` and `starts` filled in."""

    x: Any
    lengths: Any
    starts: Any
    carry: Any

    @property
    def valid(self):
        return (jnp.arange(self.x.shape[1], dtype=jnp.int32)[None] < self.lengths[:, None])[..., None]


class Mutant(GRU):
    """The honest layer with a hand in its inputs and outputs."""

    tamper: Callable[..., Any] | None = None

    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        rows, time = x.shape[:2]
        lengths = jnp.full(rows, time, jnp.int32) if lengths is None else lengths
        starts = jnp.zeros((rows, time), bool) if starts is None else starts

        def honest(call):
            return super(Mutant, self).__call__(call.x, lengths=call.lengths, starts=call.starts, carry=call.carry)

        return self.tamper(honest, Call(x, lengths, starts, carry))


class Case(NamedTuple):
    """A mutant, the law that must catch it, and the other laws that cannot help catching it too."""

    law: str
    kind: str
    tamper: Callable[..., Any]
    also: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def breaks(law: str, kind: str, also: tuple[str, ...] = ()):
    """Enters a mutant in the list. Whatever bends a gradient is seen by small steps, too."""
    also = (*also, "both_modes") if kind == "gradient" else also

    def enter(tamper):
        CASES[tamper.__name__] = Case(law, kind, tamper, also)
        return tamper

    return enter


def twist(value, change):
    """The value, with its tangent changed."""

    @jax.custom_jvp
    def identity(value):
        return value

    @identity.defjvp
    def rule(primals, tangents):
        return primals[0], change(tangents[0])

    return identity(value)


def lend(right, wrong):
    """The value of one and the derivatives of the other."""
    return jax.tree.map(lambda r, w: jax.lax.stop_gradient(r) + (w - jax.lax.stop_gradient(w)), right, wrong)


def masked(call, y):
    return jnp.where(call.valid, y, jnp.zeros((), y.dtype))


# Chunks


@breaks("chunks", "value", also=("empty_rows", "packing"))
def forgets_the_carry(honest, call):
    return honest(call._replace(carry=None))


@breaks("chunks", "value", also=("packing",))
def window_without_memory(honest, call):
    y, carry = honest(call)
    return masked(call, y + jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, : y.shape[1]]), carry


@breaks("chunks", "value", also=("packing", "padding", "empty_rows"))
def counts_time_from_the_call(honest, call):
    y, carry = honest(call)
    return masked(call, y * (1 + jnp.arange(y.shape[1]).astype(y.dtype))[None, :, None]), carry


@breaks("chunks", "gradient", also=("empty_rows", "packing"))
def cuts_the_gradient_between_chunks(honest, call):
    return honest(call._replace(carry=jax.lax.stop_gradient(call.carry)))


@breaks("chunks", "gradient", also=("empty_rows", "packing"))
def cuts_the_gradient_of_the_last_carry(honest, call):
    y, carry = honest(call)
    return y, jax.lax.stop_gradient(carry)


# Padding


@breaks("padding", "value", also=("empty_rows", "packing"))
def repeats_y_in_padding(honest, call):
    y, carry = honest(call)
    return jnp.where(call.valid, y, jnp.ones((), y.dtype)), carry


@breaks("padding", "value", also=("empty_rows", "packing", "chunks"))
def runs_on_over_zeros(honest, call):
    full = jnp.full_like(call.lengths, call.x.shape[1])
    y, carry = honest(call._replace(x=masked(call, call.x), lengths=full, starts=call.starts & call.valid[..., 0]))
    return masked(call, y), carry


@breaks("padding", "value")
def multiplies_by_the_mask(honest, call):
    y, carry = honest(call)
    seen = jnp.sum(call.x * call.valid.astype(call.x.dtype), (1, 2), keepdims=True)
    return masked(call, y + 0 * seen.astype(y.dtype)), carry


@breaks("padding", "value", also=("empty_rows", "packing"))
def starts_in_padding(honest, call):
    y, carry = honest(call)
    late = jnp.any(call.starts & ~call.valid[..., 0], 1)[:, None]
    return y, Carry(jnp.where(late, jnp.zeros((), carry.h.dtype), carry.h))


@breaks("padding", "gradient")
def masks_after_the_function(honest, call):
    """0 * NaN is NaN: the mask must come before what it is to protect."""
    y, carry = honest(call)
    seen = jnp.sum(jnp.where(call.valid, jnp.sin(call.x), jnp.zeros((), call.x.dtype)), -1, keepdims=True)
    return masked(call, y + seen.astype(y.dtype)), carry


@breaks("padding", "gradient", also=("empty_rows", "packing"))
def passes_back_the_loss_in_padding(honest, call):
    y, carry = honest(call)
    return y + linear_in_padding(call, carry.h).astype(y.dtype), carry


def linear_in_padding(call, h):
    """0 in value, and the carry in derivatives, past the lengths."""
    held = jnp.broadcast_to(h[:, None], (*call.x.shape[:2], h.shape[1]))
    return jnp.where(call.valid, jnp.zeros((), h.dtype), held - jax.lax.stop_gradient(held))


# Empty rows


@breaks("empty_rows", "value", also=("chunks", "padding", "packing"))
def takes_at_least_one_step(honest, call):
    y, carry = honest(call._replace(x=masked(call, call.x), lengths=jnp.maximum(call.lengths, 1)))
    return masked(call, y), carry


@breaks("empty_rows", "value", also=("chunks",))
def begins_anew_where_time_is_empty(honest, call):
    y, carry = honest(call)
    return y, carry if call.x.shape[1] else Carry(jnp.zeros_like(carry.h))


@breaks("empty_rows", "gradient", also=("chunks", "packing"))
def empty_rows_have_no_gradient(honest, call):
    y, carry = honest(call)
    return y, Carry(jnp.where(call.lengths[:, None] == 0, jax.lax.stop_gradient(carry.h), carry.h))


# Packing


@breaks("packing", "value")
def ignores_starts(honest, call):
    return honest(call._replace(starts=None))


@breaks("packing", "value", also=("chunks",))
def starts_a_step_late(honest, call):
    return honest(call._replace(starts=jnp.pad(call.starts, ((0, 0), (1, 0)))[:, : call.starts.shape[1]]))


@breaks("packing", "gradient", also=("chunks",))
def ignores_starts_in_gradient(honest, call):
    return lend(honest(call), honest(call._replace(starts=None)))


# Batch


@breaks("batch", "value", also=("packing", "padding", "empty_rows", "chunks"))
def mixes_the_rows(honest, call):
    y, carry = honest(call)
    return masked(call, y + jnp.mean(y, 0, keepdims=True)), carry


@breaks("batch", "value")
def differs_without_jit(honest, call):
    y, carry = honest(call)
    return y if isinstance(call.x, jax.core.Tracer) else 2 * y, carry


@breaks("batch", "value")
def differs_under_vmap(honest, call):
    @custom_vmap
    def one(value):
        return jnp.ones_like(value)

    @one.def_vmap
    def rule(size, mapped, value):
        return 2 * jnp.ones_like(value), mapped[0]

    y, carry = honest(call)
    return y * one(jax.lax.stop_gradient(call.x[:, :, :1])).astype(y.dtype), carry


@breaks("batch", "gradient", also=("packing", "padding", "empty_rows", "chunks"))
def mixes_the_rows_in_gradient(honest, call):
    y, carry = honest(call)
    return masked(call, twist(y, lambda t: t + jnp.mean(t, 0, keepdims=True))), carry


# Precision


@breaks("precision", "value")
def answers_in_float32(honest, call):
    y, carry = honest(call)
    return y.astype(jnp.promote_types(y.dtype, jnp.float32) if y.dtype == jnp.bfloat16 else y.dtype), carry


@breaks("precision", "value")
def keeps_a_narrow_carry(honest, call):
    y, carry = honest(call)
    return y, Carry(carry.h.astype(y.dtype))


@breaks("precision", "value", also=("both_modes",))
def works_in_float32(honest, call):
    carry = None if call.carry is None else Carry(call.carry.h.astype(jnp.float32))
    y, after = honest(call._replace(x=call.x.astype(narrow(call.x.dtype)), carry=carry))
    return y.astype(call.x.dtype), Carry(after.h.astype(wide(call.x.dtype)))


def narrow(dtype):
    return jnp.float32 if dtype == jnp.float64 else dtype


def wide(dtype):
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


@breaks("precision", "value")
def rounds_bfloat16_coarsely(honest, call):
    y, carry = honest(call)
    return coarse(y) if y.dtype == jnp.bfloat16 else y, carry


def coarse(value):
    return value.astype(jnp.float8_e5m2).astype(value.dtype)


@breaks("precision", "gradient")
def rounds_the_gradient_of_bfloat16(honest, call):
    y, carry = honest(call)
    return twist(y, coarse) if y.dtype == jnp.bfloat16 else y, carry


@breaks("precision", "gradient")
def narrows_the_gradient_of_float64(honest, call):
    y, carry = honest(call)
    return twist(y, lambda t: t.astype(narrow(t.dtype)).astype(t.dtype)), carry


# Both modes


@breaks("both_modes", "gradient")
def moves_in_stairs(honest, call):
    """Of its value and its gradient either is fine; they do not belong together."""
    y, carry = honest(call)
    stairs = jnp.round(y * 64) / 64
    return y + jax.lax.stop_gradient(stairs - y), carry


@breaks("both_modes", "gradient")
def has_no_forward_mode(honest, call):
    @jax.custom_vjp
    def identity(value):
        return value

    identity.defvjp(lambda value: (value, None), lambda _, g: (g,))
    y, carry = honest(call)
    return identity(y), carry


@breaks("both_modes", "gradient")
def turns_back_more_than_it_goes_forth(honest, call):
    def forth(_, t):
        return t

    def back(_, t):
        return 2 * t

    y, carry = honest(call)
    return twist(y, lambda t: linear_call(forth, back, (), t)), carry


@breaks("both_modes", "gradient")
def doubles_both_modes(honest, call):
    y, carry = honest(call)
    return twist(y, lambda t: 2 * t), carry


@breaks("both_modes", "gradient")
def forgets_the_second_derivative(honest, call):
    @jax.custom_jvp
    def sine(value):
        return jnp.sin(value)

    @sine.defjvp
    def rule(primals, tangents):
        return jnp.sin(primals[0]), jax.lax.stop_gradient(jnp.cos(primals[0])) * tangents[0]

    y, carry = honest(call)
    return sine(y), carry


# Export


@breaks("export", "value")
def asks_how_long_time_is(honest, call):
    y, carry = honest(call)
    return -y if call.x.shape[1] > 64 else y, carry


@breaks("export", "value")
def has_no_program_for_tpu(honest, call):
    y, carry = honest(call)
    return jax.lax.platform_dependent(y, cpu=jnp.negative, cuda=jnp.negative), carry


@breaks("export", "value")
def differs_where_time_is_open(honest, call):
    y, carry = honest(call)
    return y if isinstance(call.x.shape[1], int) else 2 * y, carry


@breaks("export", "gradient")
def asks_how_long_time_is_in_gradient(honest, call):
    y, carry = honest(call)
    return twist(y, lambda t: -t if t.shape[1] > 64 else t), carry


@breaks("export", "gradient")
def differs_in_gradient_where_time_is_open(honest, call):
    y, carry = honest(call)
    return twist(y, lambda t: t if isinstance(t.shape[1], int) else 2 * t), carry


class NeedsKey(GRU):
    """Draws at `train=False`."""

    def __call__(self, x, **arguments):
        y, carry = super().__call__(x, **arguments)
        return y + jax.random.normal(self.make_rng("dropout"), y.shape, y.dtype), carry


class HalfParameters(nn.Module):
    """Stores its parameters in bfloat16."""

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        scale = self.param("scale", nn.initializers.ones, (1,), jnp.bfloat16)
        y, carry = GRU()(x, lengths=lengths, starts=starts, carry=carry)
        return y * scale.astype(y.dtype)[None, None], carry
