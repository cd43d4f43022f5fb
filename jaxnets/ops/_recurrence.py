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

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from jaxnets.ops._linear_map import varying_alike
from jaxnets.ops._product import looped_product, product
from jaxnets.typing import Precision

State = Any
"""A NamedTuple of arrays [B, ...], the first of which, `h`, is what the layer puts out."""

_BLOCK = 8

_PROJECTED = 2 << 20
"""Bytes of the projection of a whole input up to which it is computed at once: so many stay in the cache."""


class Weights(NamedTuple):
    """The parameters of a recurrence; `vectors` are the cell's own, a pytree of arrays that are small."""

    kernel: Array
    bias: Array
    recurrent_kernel: Array
    recurrent_bias: Array | None = None
    vectors: Any = ()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Output:
    """Stands, among what `linearise` keeps, for the step's own output h: that is there anyway."""


class Cell:
    """What a step does; every method works on arrays with any leading axes ([B, ...] and [T, B, ...])."""

    forced_by_state: ClassVar[bool] = True
    """Where the tangents of weights and inputs enter the tangent's loop: as what they add to the state, or before, as
    what they add to the pre-activations. The former is less to store where there are more of those than of states; the
    latter saves a pass over what `linearise` kept."""

    def product(self, x: Array, kernel: Array, precision: Precision, dtype: Any) -> Array:
        """The bilinear map of an input, or of a state, with its kernel."""
        return product(x.astype(kernel.dtype), kernel, precision=precision, preferred_element_type=dtype)

    def looped_product(self, kernel: Array, precision: Precision, dtype: Any) -> Callable[[Array], Array]:
        """The same of one state after another with one kernel, for a loop that is transposed."""
        if type(self).product is not Cell.product:
            return lambda h: self.product(h, kernel, precision, dtype)
        times = looped_product(kernel, precision=precision, preferred_element_type=dtype)
        return lambda h: times(h.astype(kernel.dtype))

    def fed(self, h: Array, extras: Any) -> Array:
        """What the recurrent kernel multiplies: linear in the state's h."""
        del extras
        return h

    def join(self, u: Array, v: Array) -> Any:
        """The pre-activations that `step` sees: linear in (u, v)."""
        return u + v

    def step(self, state: State, a: Any, vectors: Any, extras: Any) -> State:
        """The state after a step; `extras` are its entries of arrays [T, B, ...], masks of dropout say."""
        raise NotImplementedError

    def linearise(self, state: State, a: Any, vectors: Any, extras: Any) -> tuple[State, Any]:
        """The state after a step, and what `tangent` needs of it."""
        return self.step(state, a, vectors, extras), (state, a)

    def tangent(self, kept: Any, vectors: Any, extras: Any, dstate: State, da: Any, dvectors: Any) -> State:
        """The tangent of `step`: linear in (dstate, da, dvectors)."""
        state, a = kept
        return jax.jvp(
            lambda state, a, vectors: self.step(state, a, vectors, extras),
            (state, a, vectors),
            (dstate, da, dvectors),
        )[1]


class Plan(NamedTuple):
    """How to run: everything that is not an array; `block` steps to unroll, None where the time is unknown."""

    cell: Cell
    reverse: bool
    precision: Precision
    block: int | None


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
    plan = Plan(cell, reverse, precision, _block(time) if concrete else None)
    xs = x, valid, starts, jax.tree.map(lax.stop_gradient, extras)
    leaves, tree = jax.tree.flatten(carry)
    carry = jax.tree.unflatten(tree, varying_alike(*leaves, *jax.tree.leaves((xs, weights, initial)))[: len(leaves)])
    if checkpoint_every is None or not concrete or checkpoint_every >= time:
        return _run(plan, weights, xs, carry, initial)
    return _segments(plan, weights, xs, carry, initial, checkpoint_every)


def _block(time: int) -> int:
    """Steps to unroll: about eight, and a divisor of the time where there is one (a remainder costs a copy)."""
    return next((block for block in (8, 10, 9, 7, 6, 5) if time % block == 0), min(time, _BLOCK))


def _segments(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State, every: int) -> tuple[Array, State]:
    """The same in segments, of which only the states between are kept: the backward pass runs each of them again."""

    def segment(carry: State, xs: Any) -> tuple[State, Array]:
        h, carry = _run(plan._replace(block=_block(len(xs[0]))), weights, xs, carry, initial)
        return carry, h

    segment = jax.checkpoint(segment, prevent_cse=False)
    return _in_blocks(segment, carry, xs, every, plan.reverse)


def _in_blocks(
    block: Callable[[State, Any], tuple[State, Any]], state: State, xs: Any, size: int, reverse: bool
) -> tuple[Any, State]:
    """Scans a function of `size` steps; the steps that are left over are a block of their own, at the end of time."""
    time = len(jax.tree.leaves(xs)[0])
    whole = time - time % size
    main = jax.tree.map(lambda a: a[:whole].reshape(whole // size, size, *a.shape[1:]), xs)
    rest = jax.tree.map(lambda a: a[whole:], xs)
    if reverse and whole < time:
        state, rest = block(state, rest)
    state, main = lax.scan(block, state, main, reverse=reverse)
    main = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), main)
    if whole == time:
        return main, state
    if not reverse:
        state, rest = block(state, rest)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), main, rest), state


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State) -> tuple[Array, State]:
    def advance(state: State, a: Any, vectors: Any, extras: Any) -> tuple[State, None]:
        return plan.cell.step(state, a, vectors, extras), None

    (h, _), state = _forward(plan, advance, weights, xs, carry, initial)
    return h, state


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _linearised(plan: Plan, weights: Weights, xs: Any, carry: State, initial: State) -> tuple[Any, State]:
    """The recurrence, and for each step what its tangent needs.

    Where a part of that is as large as the step's projection, it takes its place in memory.
    """
    return _forward(plan, plan.cell.linearise, weights, xs, carry, initial, in_place=True)


@_linearised.defjvp
def _linearised_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    # Backwards through a loop that writes in place there would be the whole array's cotangent at every step.
    return jax.jvp(functools.partial(_forward, plan, plan.cell.linearise), primals, tangents)


def _forward(
    plan: Plan,
    advance: Callable[..., Any],
    weights: Weights,
    xs: Any,
    carry: State,
    initial: State,
    in_place: bool = False,
) -> tuple[Any, State]:
    """The recurrence: for each step (h, what `advance` keeps); the last state."""
    cell, dtype = plan.cell, carry.h.dtype
    bias = weights.bias.astype(dtype)  # added step by step: there it costs nothing, in bulk another array
    x, *rest = xs

    def project(x: Array) -> Array:
        return cell.product(x, weights.kernel, plan.precision, dtype)

    def step(state: State, inputs: Any) -> tuple[State, Any]:
        u, valid, start, extras = inputs
        entered = enter(start, initial, state)
        v = cell.product(cell.fed(entered.h, extras), weights.recurrent_kernel, plan.precision, dtype)
        if weights.recurrent_bias is not None:
            v = v + under(weights.recurrent_bias.astype(dtype), v)
        after, kept = advance(entered, cell.join(u + under(bias, u), v), weights.vectors, extras)
        if valid is not None:
            after = where(valid, after, state)
        return after, (after.h, kept)

    if plan.block is None:
        state, out = lax.scan(step, carry, (project(x), *rest), reverse=plan.reverse)
        return out, state

    def steps(state: State, inputs: Any) -> tuple[State, Any]:
        time, out = len(inputs[0]), []
        for t in reversed(range(time)) if plan.reverse else range(time):
            state, stepped = step(state, jax.tree.map(lambda a: a[t], inputs))  # noqa: B023
            out.append(stepped)
        return state, jax.tree.map(lambda *a: jnp.stack(a), *(out[::-1] if plan.reverse else out))

    if in_place:
        u = jax.eval_shape(project, x)
        first = jax.tree.map(lambda a: a[0], rest)
        _, out = jax.eval_shape(step, carry, (jax.ShapeDtypeStruct(u.shape[1:], u.dtype), *first))
        leaves, tree = jax.tree.flatten(out)
        place = next((i for i, leaf in enumerate(leaves) if (leaf.shape, leaf.dtype) == (u.shape[1:], u.dtype)), None)
        if place is not None:

            def replace(loop: tuple[State, Array], inputs: Any) -> tuple[tuple[State, Array], list[Array]]:
                (state, memory), (times, rest) = loop, inputs
                u = lax.dynamic_slice_in_dim(memory, times[0], len(times))
                state, out = steps(state, (u, *rest))
                leaves = jax.tree.leaves(out)
                memory = lax.dynamic_update_slice_in_dim(memory, leaves.pop(place), times[0], axis=0)
                return (state, memory), leaves

            xs = jnp.arange(len(x)), rest
            leaves, (state, memory) = _in_blocks(replace, (carry, project(x)), xs, plan.block, plan.reverse)
            leaves.insert(place, memory)
            return jax.tree.unflatten(tree, leaves), state

    # The projection of a long input would be written to memory and read back: that of a block stays in the cache.
    projected = math.prod(x.shape[:-1]) * weights.kernel.shape[-1] * dtype.itemsize
    if projected <= _PROJECTED:
        return _in_blocks(steps, carry, (project(x), *rest), plan.block, plan.reverse)
    return _in_blocks(
        lambda state, inputs: steps(state, (project(inputs[0]), *inputs[1:])), carry, xs, plan.block, plan.reverse
    )


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

    # Rematerialised, so that what does not depend on the tangent (a mask's broadcast, say) is not kept for each step.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(dstates: tuple[State, State], inputs: Any) -> tuple[tuple[State, State], Array]:
        (dstate, final), (forcing, kept, last, start, extras) = dstates, inputs
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

    inputs = forcing, kept, last, starts, extras
    (dstate, final), dh = lax.scan(step, (dcarry, nothing), inputs, reverse=plan.reverse, unroll=plan.block or 1)
    if valid is not None:
        dstate = where(jnp.any(valid, axis=0), dstate if plan.reverse else final, dcarry)
    return (h, state), (dh, dstate)


def before(states: State, first: State, reverse: bool = False) -> State:
    """The state before each step, of which there is one more than steps: [T, B, ...]."""

    def shifted(later: Array, first: Array) -> Array:
        return jnp.concatenate([later[1:], first[None]] if reverse else [first[None], later[:-1]])

    return jax.tree.map(shifted, states, first)


def enter(starts: Array | None, initial: State, previous: State) -> State:
    """The state that a step is taken from: the initial one where a sequence starts."""
    if starts is None:
        return previous
    return where(starts, jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), initial, previous), previous)


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


def given(tangents: Any) -> Any:
    """The tangents, with None for those that are known to be zero."""
    return jax.tree.map(
        lambda leaf: None if isinstance(leaf, SymbolicZero) else leaf,
        tangents,
        is_leaf=lambda leaf: isinstance(leaf, SymbolicZero),
    )


def settled(kept: Any, h: Array) -> Any:
    """What `linearise` kept, with the output where it stands for it."""
    return jax.tree.map(
        lambda leaf: h if isinstance(leaf, Output) else leaf, kept, is_leaf=lambda leaf: isinstance(leaf, Output)
    )


def filled(tangent: Any, primal: Any) -> Any:
    """The tangent with zeros for the leaves that it has not."""
    return jax.tree.map(lambda p, t: jnp.zeros_like(p) if t is None else t, primal, tangent)


def where(mask: Array, chosen: State, other: State) -> State:
    """The one state where the mask [B] or [T, B] is True, the other elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(over(mask, b), a, b), chosen, other)


def under(bias: Array, x: Array) -> Array:
    """The bias with as many axes as x."""
    return bias.reshape((1,) * (x.ndim - bias.ndim) + bias.shape)


def over(mask: Array, leaf: Array) -> Array:
    """The mask with as many axes as the leaf."""
    return mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))
