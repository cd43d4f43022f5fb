"""How a recurrence is run: its steps in blocks, its projection at once or by the block, its rows in halves or not."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._linear_map import varying_alike
from jaxnets.ops._recurrent_cell import Cell, State, Weights
from jaxnets.ops._recurrent_state import enter, under, where
from jaxnets.typing import Precision

_BLOCKS = {"cpu": (4, 5, 6, 7), None: (8, 10, 9, 7, 6, 5)}
"""How many steps may be unrolled, best first: more of them take longer to compile, and on a CPU gain little."""

_PROJECTED = 2 << 20
"""Bytes of the projection of a whole input up to which it is computed at once: so many stay in the cache."""

_HALVED = 256 << 10, 4 << 20
"""Bytes of the recurrent kernel between which a CPU takes the rows in halves: below, what it costs to begin a product
outweighs what is won, above, that the kernel is read twice."""


class Plan(NamedTuple):
    """How to run: everything that is not an array.

    Attributes:
      block: Steps to unroll, None where the time is unknown.
      halved: Whether each half of the rows takes its steps by itself.
    """

    cell: Cell
    reverse: bool
    precision: Precision
    block: int | None
    halved: bool

    @classmethod
    def of(cls, cell: Cell, reverse: bool, precision: Precision, kernel: Array, time: Any, rows: Any) -> "Plan":
        """The plan for so many steps of so many rows, either of which may be unknown, with this recurrent kernel."""
        if not (isinstance(time, int) and isinstance(rows, int)):
            return cls(cell, reverse, precision, None, False)
        return cls(cell, reverse, precision, block_of(time), _better_halved(cell, kernel, rows))


def block_of(time: int) -> int:
    """Steps to unroll: a divisor of the time where there is one (a remainder costs a copy)."""
    blocks = _BLOCKS.get(jax.default_backend(), _BLOCKS[None])
    return next((block for block in blocks if time % block == 0), min(time, blocks[0]))


def _better_halved(cell: Cell, kernel: Array, rows: int) -> bool:
    """Whether each half of the rows had better take its steps by itself.

    XLA gives a product as small as a step's to one core of a CPU, and what does not depend on each other it runs one
    after another, until an operation that the cores share ends on another: from then on each has a half of the rows.
    """
    least, most = _HALVED
    if rows % 2 or type(cell).product is not Cell.product or not least < kernel.size * kernel.dtype.itemsize <= most:
        return False
    return jax.default_backend() == "cpu" and jax.device_count() == 1  # of rows over devices, halves would be moved


def in_halves(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same step, all of whose arguments and results are arrays [B, ...], on each half of the rows."""

    def halved(*arrays: Any) -> Any:
        leaves, tree = jax.tree.flatten(arrays)
        halves = zip(*(jnp.split(leaf, 2) for leaf in leaves), strict=True)
        return jax.tree.map(lambda *a: jnp.concatenate(a), *(step(*jax.tree.unflatten(tree, half)) for half in halves))

    return halved


def in_blocks(
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


def forward(
    plan: Plan,
    advance: Callable[..., Any],
    weights: Weights,
    xs: Any,
    carry: State,
    initial: State,
    in_place: bool = False,
) -> tuple[Any, State]:
    """The recurrence: for each step (h, what `advance` keeps); the last state.

    In place, a part of that which is as large as the step's projection is written over it: that needs no more memory,
    and the projection is one large product. But to go backwards through it would take the whole array at every step.
    """
    cell, dtype = plan.cell, carry.h.dtype
    bias = weights.bias.astype(dtype)  # added step by step: there it costs nothing, in bulk another array
    x, *rest = xs

    def project(x: Array) -> Array:
        return cell.product(x, weights.kernel, plan.precision, dtype)

    def step(initial: State, state: State, inputs: Any) -> tuple[State, Any]:
        u, valid, start, extras = inputs
        entered = enter(start, initial, state)
        v = cell.product(cell.fed(entered.h, extras), weights.recurrent_kernel, plan.precision, dtype)
        if weights.recurrent_bias is not None:
            v = v + under(weights.recurrent_bias.astype(dtype), v)
        after, kept = advance(entered, cell.join(u + under(bias, u), v), weights.vectors, extras)
        if valid is not None:
            after = where(valid, after, state)
        return after, (after.h, kept)

    stepped = functools.partial(in_halves(step) if plan.halved else step, initial)
    if plan.block is None:
        state, out = lax.scan(stepped, carry, (project(x), *rest), reverse=plan.reverse)
        return out, state

    def steps(state: State, inputs: Any) -> tuple[State, Any]:
        time, out = len(inputs[0]), []
        for t in reversed(range(time)) if plan.reverse else range(time):
            state, kept = stepped(state, jax.tree.map(lambda a: a[t], inputs))  # noqa: B023
            out.append(kept)
        return state, jax.tree.map(lambda *a: jnp.stack(a), *(out[::-1] if plan.reverse else out))

    if in_place:
        u, others = jax.eval_shape(lambda x, *rest: (project(x)[0], jax.tree.map(lambda a: a[0], rest)), x, *rest)
        leaves, tree = jax.tree.flatten(jax.eval_shape(stepped, carry, (u, *others))[1])
        place = next((i for i, leaf in enumerate(leaves) if (leaf.shape, leaf.dtype) == (u.shape, u.dtype)), None)
        if place is not None:
            leaves, state = _replaced(steps, place, carry, project(x), tuple(rest), plan.block, plan.reverse)
            return jax.tree.unflatten(tree, leaves), state

    # The projection of a long input would be written to memory and read back: that of a block stays in the cache.
    size = math.prod(x.shape[:-1]) * weights.kernel.shape[-1] * dtype.itemsize
    if cell.projected_at_once and size <= _PROJECTED:
        return in_blocks(steps, carry, (project(x), *rest), plan.block, plan.reverse)

    def projected(state: State, inputs: Any) -> tuple[State, Any]:
        return steps(state, (project(inputs[0]), *inputs[1:]))

    return in_blocks(projected, carry, xs, plan.block, plan.reverse)


def _replaced(
    steps: Callable[..., Any], place: int, carry: State, memory: Array, rest: Any, size: int, reverse: bool
) -> tuple[list[Array], State]:
    """Scans `steps` over the projections in `memory`, each of which the result at this place takes the place of."""
    shape = memory.shape[1:]
    memory = varying_alike(memory, carry.h)[0]
    flat = (-1,) if jax.device_count() == 1 else shape  # over devices, each may have its own axis of the mesh

    def block(loop: tuple[State, Array], inputs: Any) -> tuple[tuple[State, Array], list[Array]]:
        (state, memory), (times, rest) = loop, inputs
        u = lax.dynamic_slice_in_dim(memory, times[0], len(times)).reshape(len(times), *shape)
        state, out = steps(state, (u, *rest))
        leaves = jax.tree.leaves(out)
        placed = leaves.pop(place).reshape(len(times), *flat)
        return (state, lax.dynamic_update_slice_in_dim(memory, placed, times[0], axis=0)), leaves

    xs = jnp.arange(len(memory)), rest
    leaves, (state, memory) = in_blocks(block, (carry, memory.reshape(len(memory), *flat)), xs, size, reverse)
    return [*leaves[:place], memory.reshape(len(memory), *shape), *leaves[place:]], state
