"""Gradient accumulation: the gradient of a whole batch from parts of it, one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.typing import Batch

Objective = Callable[[Any, Any, Batch, Any], tuple[jax.Array, tuple[dict[str, Any], Any]]]
"""`objective(params, collections, batch, keys) -> (mean, (sums, collections))`: the mean of `sums["loss"]`."""


def gradient_of(
    objective: Objective, params: Any, collections: Any, batch: Batch, keys: Any, *, parts: int = 1
) -> tuple[Any, dict[str, Any], Any]:
    """The gradient of the mean over a batch, its sums, and the collections after it.

    With `parts` above 1 the rows are cut and taken in turn: each part hands its collections to the next, and draws
    numbers of its own. The means of parts make up that of the whole by their weights,

        gradient = sum_i weight_i gradient_i / sum_i weight_i

    so the parts may differ in size and in what is masked. The weights must not depend on the parameters.

    Args:
      objective: What is minimised.
      params: The parameters.
      collections: The other variables.
      batch: Arrays [B, ...] by name; one of no dimensions is the same for every part.
      keys: PRNG keys in any structure.
      parts: How many; the last has fewer rows where B does not divide.

    Raises:
      ValueError: If the arrays to be cut differ in B.
    """
    gradient = jax.grad(objective, has_aux=True)
    if parts == 1:
        total, (sums, collections) = gradient(params, collections, batch, keys)
        return total, sums, collections

    whole, rest = _cut(batch, parts)

    def first(params: Any, collections: Any, whole: Batch, keys: Any) -> Any:
        return gradient(params, collections, jax.tree.map(lambda leaf: leaf[0], whole), keys)

    def add(carry: tuple[Any, Any, Any], numbered: tuple[Any, Batch]) -> tuple[tuple[Any, Any, Any], None]:
        total, sums, collections = carry
        i, part = numbered
        own = jax.tree.map(lambda key: jax.random.fold_in(key, i), keys)
        new, (new_sums, collections) = gradient(params, collections, part, own)
        total = jax.tree.map(lambda total, new: total + new_sums["loss"].weight * new, total, new)
        return (total, jax.tree.map(jnp.add, sums, new_sums), collections), None

    shapes, (sums_shape, _) = jax.eval_shape(first, params, collections, whole, keys)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes, sums_shape))
    numbers = jnp.arange(jax.tree.leaves(whole)[0].shape[0])

    def added(unroll: bool) -> Callable[[Any], Any]:
        return lambda carry: lax.scan(add, carry, (numbers, whole), unroll=unroll)[0]

    carry = (*zeros, collections)
    if _holds_convolution(first, params, collections, whole, keys):
        # On a CPU the gradient of XLA's convolution is many times slower inside a loop.
        carry = lax.platform_dependent(carry, cpu=added(True), default=added(False))
    else:
        carry = added(False)(carry)
    if rest is not None:
        carry, _ = add(carry, (numbers.size, rest))
    total, sums, collections = carry
    weight = sums["loss"].weight
    scale = jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1), 0)
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), total), sums, collections


def _cut(batch: Batch, parts: int) -> tuple[Batch, Batch | None]:
    """The parts of full size along a new first axis, and the rest of the rows if there is one."""
    sizes = {name: leaf.shape[0] for name, leaf in _named_leaves(batch) if leaf.ndim}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"make_step: accumulate wants arrays of as many rows each, and at least one, got {sizes}")
    rows = next(iter(sizes.values()))
    size = -(-rows // parts)
    count = rows // size
    whole = jax.tree.map(lambda leaf: _stacked(leaf, count, size), batch)
    rest = jax.tree.map(lambda leaf: leaf[count * size :] if leaf.ndim else leaf, batch) if rows % size else None
    return whole, rest


def _stacked(leaf: Any, count: int, size: int) -> Any:
    if not leaf.ndim:
        return jnp.broadcast_to(leaf, (count,))
    return leaf[: count * size].reshape(count, size, *leaf.shape[1:])


def _named_leaves(batch: Batch) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path, simple=True), leaf) for path, leaf in jax.tree.leaves_with_path(batch)]


def _holds_convolution(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether it does once it is lowered for a CPU: some convolutions are matrix products there."""
    shapes = jax.eval_shape(lambda arguments: arguments, arguments)
    return "stablehlo.convolution" in jax.jit(function).trace(*shapes).lower(lowering_platforms=("cpu",)).as_text()
