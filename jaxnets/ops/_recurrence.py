"""One engine for every recurrent cell: differentiable in both modes, to any order, with its products in bulk.

A cell has pre-activations `u_t = x_t W + b`, which need no state, and `v_t = h_{t-1} R + b'`, which do, and a map
without products of its own from the state before a step to the state after it:

    a_t = join(u_t, v_t),    state_t = step(state_{t-1}, a_t).

Its tangent is a linear recurrence in the tangent of the state, with the partial derivatives J of `step` along the way:

    dstate_t = J_state dstate_{t-1} + J_a join(0, dh_{t-1} R) + f_t,
    f_t      = J_a join(dx_t W + x_t dW + db, h_{t-1} dR + db') + J_vectors dvectors,

where all products of f are computed at once, over T * B rows, and only dh R is left to the loop. JAX transposes this by
itself into the ideal backward pass: the loop gathers the cotangents of f, or of what J_a multiplies in it
(`Cell.forced_by_state`), and each weight gradient is one large product after it, never a sum over steps.

A new cell subclasses `Cell`, as a frozen dataclass (it must hash), and writes `step`. That is enough: `linearise` and
`tangent` then come from `jax.jvp` of the step, which keeps (state, a) for each step. A cell for which speed matters
writes the two by hand, so that what is kept are the partial derivatives themselves. The other methods say what the
products are (`product`: a convolution's cell has its own), what enters them (`fed`: dropout on the state) and how they
meet (`join`: a layer norm keeps them apart).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._linear_map import varying_alike
from jaxnets.ops._recurrent_cell import Cell, State, Weights, settled
from jaxnets.ops._recurrent_loop import Plan, block_of, forward, in_blocks, in_halves
from jaxnets.ops._recurrent_state import before, enter, filled, given, under, where
from jaxnets.typing import Precision


def recurrence(
    cell: Cell,
    weights: Weights,
    x: Array,
    *,
    valid: Array | None,
    starts: Array | None,
    extras: Any,
    carry: State,
    initial: State,
    reverse: bool,
    precision: Precision,
    checkpoint_every: int | None = None,
) -> tuple[Array, State]:
    """Runs a cell over time: x [T, B, ...] to the states' h [T, B, ...] (not masked) and the last state.

    Where `valid` [T, B] is False the state stays; where `starts` [T, B] is True it is `initial` before the step. The
    extras are constants: nothing flows back into them.
    """
    time = x.shape[0]
    concrete = isinstance(time, int) and isinstance(x.shape[1], int)
    if concrete and time == 0:
        return jnp.zeros((0, *carry.h.shape), carry.h.dtype), carry
    plan = Plan.of(cell, reverse, precision, weights.recurrent_kernel, *x.shape[:2])
    xs = x, valid, starts, jax.tree.map(lax.stop_gradient, extras)
    leaves, tree = jax.tree.flatten(carry)
    carry = jax.tree.unflatten(tree, varying_alike(*leaves, *jax.tree.leaves((xs, weights, initial)))[: len(leaves)])
    if checkpoint_every is None or not concrete or checkpoint_every >= time:
        return _run(plan, weights, xs, carry, initial)
    return _segments(plan, weights, xs, carry, initial, checkpoint_every)


def _segments(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State, every: int) -> tuple[Array, State]:
    """The same in segments, of which only the states between are kept: the backward pass runs each of them again."""

    def segment(carry: State, xs: Any) -> tuple[State, Array]:
        h, carry = _run(plan._replace(block=block_of(len(xs[0]))), weights, xs, carry, initial)
        return carry, h

    segment = jax.checkpoint(segment, prevent_cse=False)
    return in_blocks(segment, carry, xs, every, plan.reverse)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State) -> tuple[Array, State]:
    def advance(state: State, a: Any, vectors: Any, extras: Any) -> tuple[State, None]:
        return plan.cell.step(state, a, vectors, extras), None

    (h, _), state = forward(plan, advance, weights, xs, carry, initial, in_place=True)
    return h, state


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _linearised(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State) -> tuple[Any, State]:
    """The recurrence, and for each step what its tangent needs."""
    return forward(plan, plan.cell.linearise, weights, xs, carry, initial, in_place=True)


@_linearised.defjvp
def _linearised_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(forward, plan, plan.cell.linearise), primals, tangents)


@functools.partial(_run.defjvp, symbolic_zeros=True)
def _run_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    weights, xs, carry, initial = primals
    dweights, (dx, *_), dcarry, dinitial = given(tangents)
    cell, dtype = plan.cell, carry.h.dtype
    x, valid, starts, extras = xs
    (h, kept), state = _linearised(plan, weights, xs, carry, initial)
    kept = settled(kept, h)

    fed = cell.fed(enter(starts, initial.h, before(h, carry.h, plan.reverse)), extras)
    du, dv = bulk_products(cell, plan.precision, weights, dweights, x, dx, fed)
    forcing, dvectors = cell.join(du, dv), filled(dweights.vectors, weights.vectors)
    if cell.forced_by_state:
        at_rest = jax.tree.map(lambda leaf: jnp.zeros((h.shape[0], *leaf.shape), leaf.dtype), carry)
        forcing = cell.tangent(kept, weights.vectors, extras, at_rest, forcing, dvectors)
        dvectors = jax.tree.map(jnp.zeros_like, dvectors)
    dcarry, dinitial = filled(dcarry, carry), filled(dinitial, initial)

    # A row's state stays as it is past its length. A tangent carried through those steps would be a chain that XLA
    # fuses, at twice the time, over all unrolled steps: so it is read off at the row's last step, or, backwards, put
    # in there, and what the loop makes of padding is not looked at.
    last = None if valid is None else valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    nothing = jax.tree.map(jnp.zeros_like, carry)
    times = cell.looped_product(weights.recurrent_kernel, plan.precision, dtype)

    def step(rows: Any, dstates: tuple[State, State], inputs: Any) -> tuple[tuple[State, State], Array]:
        (dstate, final), (forcing, kept, last, start, extras) = dstates, inputs
        dcarry, dinitial, nothing = rows
        if last is not None and plan.reverse:
            dstate = where(last, dcarry, dstate)
        dentered = enter(start, dinitial, dstate)
        dv = times(cell.fed(dentered.h, extras))
        da = cell.join(jnp.zeros_like(dv), dv)
        if not cell.forced_by_state:
            da = jax.tree.map(jnp.add, da, forcing)
        after = cell.tangent(kept, weights.vectors, extras, dentered, da, dvectors)
        if cell.forced_by_state:
            after = jax.tree.map(jnp.add, after, forcing)
        if last is not None and not plan.reverse:
            final = jax.tree.map(jnp.add, final, where(last, after, nothing))
        return (after, final), after.h

    rowwise = functools.partial(in_halves(step) if plan.halved else step, (dcarry, dinitial, nothing))
    # Rematerialised, so that what does not depend on the tangent (a mask's broadcast, say) is not kept for each step.
    stepped = jax.checkpoint(rowwise, prevent_cse=False)
    inputs = forcing, kept, last, starts, extras
    (dstate, final), dh = lax.scan(stepped, (dcarry, nothing), inputs, reverse=plan.reverse, unroll=plan.block or 1)
    if valid is not None:
        dstate = where(jnp.any(valid, axis=0), dstate if plan.reverse else final, dcarry)
    return (h, state), (dh, dstate)


def bulk_products(
    cell: Cell, precision: Precision, weights: Weights, dweights: Weights, x: Array, dx: Array | None, fed: Array
) -> tuple[Array, Array]:
    """The tangents of (u, v) that come from weights and inputs, for all steps at once; None stands for zeros."""
    dtype = fed.dtype

    def product(a: Array | None, b: Array | None) -> Array | None:
        return None if a is None or b is None else cell.product(a, b, precision, dtype)

    def total(*terms: Array | None) -> Array:
        sums = jnp.zeros((*fed.shape[:-1], weights.recurrent_kernel.shape[-1]), dtype)
        for term in terms:
            sums = sums if term is None else sums + under(term.astype(dtype), sums)
        return sums

    du = total(product(dx, weights.kernel), product(x, dweights.kernel), dweights.bias)
    return du, total(product(fed, dweights.recurrent_kernel), dweights.recurrent_bias)
