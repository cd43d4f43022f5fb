"""Attention with its derivatives, each run in the way that suits the platform."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._attention_blocks import COTANGENT, FORWARD, TANGENT, Map, at_once, in_strips
from jaxnets.ops._attention_weights import Context, Operands, Plan
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._linear_map import linear_map
from jaxnets.ops._recurrent_state import given

_FEWEST_QUERIES = 64  # on a CPU, for strips: with fewer there is one strip, and no mask worth skipping
_LARGEST_WEIGHTS = 1 << 30  # bytes, elsewhere: more are not made at once


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def attend(plan: Plan, x: Operands, context: Context) -> tuple[Array, Array]:
    """The output [B, T, N, V], and the logarithm of each query's sum [B, N, T] of exponentials (inf for no key)."""
    batch, time, heads, _ = x.q.shape
    o = jax.ShapeDtypeStruct((batch, time, heads, x.v.shape[-1]), x.v.dtype)
    lse = jax.ShapeDtypeStruct((batch, heads, time), accumulation_dtype(x.q.dtype))
    return _run(plan, FORWARD, (x, context), (o, lse))


@functools.partial(attend.defjvp, symbolic_zeros=True)
def _attend_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    x, context = primals
    dx: Operands = given(tangents[0])
    o, lse = attend(plan, x, context)

    def tangent(constants: Any, dx: Operands) -> tuple[Array, Array]:
        return _run(plan, TANGENT, (*constants, dx), constants[2:])

    def cotangent(constants: Any, outputs: tuple[Array, Array]) -> Operands:
        return _run(plan, COTANGENT, (*constants, *outputs), wanted)

    if not jax.tree.leaves(dx):
        return (o, lse), (jnp.zeros_like(o), jnp.zeros_like(lse))
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dx)
    return (o, lse), linear_map(tangent, cotangent, (x, context, o, lse), dx)


def _run(plan: Plan, map: Map, arrays: Any, like: Any) -> Any:
    cpu, elsewhere = _choice(plan, arrays[0], "cpu"), _choice(plan, arrays[0], "other")
    runs = {"chunked": in_strips, "xla": at_once}

    def run(name: str, arrays: Any) -> Any:
        with jax.named_scope(f"dot_product_attention.{name}"):
            return runs[name](plan, map, arrays, like)

    if cpu == elsewhere:
        return run(cpu, arrays)
    return lax.platform_dependent(arrays, cpu=functools.partial(run, cpu), default=functools.partial(run, elsewhere))


def _choice(plan: Plan, x: Operands, platform: str) -> str:
    """The implementation taken on a platform."""
    batch, time, heads, _ = x.q.shape
    keys = x.k.shape[1]
    if not all(isinstance(size, int) for size in (batch, time, heads, keys)):
        return "xla"  # strips want sizes that are known
    if plan.implementation != "auto":
        return plan.implementation
    if platform == "cpu":
        return "xla" if time < _FEWEST_QUERIES else "chunked"
    return "chunked" if batch * heads * time * keys * 4 > _LARGEST_WEIGHTS else "xla"
