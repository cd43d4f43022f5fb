"""States along time, and tangents of which some are known to be zero."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from jaxnets.ops._recurrent_cell import State


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


def given(tangents: Any) -> Any:
    """The tangents, with None for those that are known to be zero."""
    return jax.tree.map(
        lambda leaf: None if isinstance(leaf, SymbolicZero) else leaf,
        tangents,
        is_leaf=lambda leaf: isinstance(leaf, SymbolicZero),
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
