"""A linear function with a transpose of its own, as a JAX primitive.

JAX transposes a linear function by transposing its every operation. That is right, but for a loop that writes parts of
an array it is slow: each part's cotangent becomes a whole array. Here the transpose is written by hand as well, and all
else still follows: the derivative in x is the function itself, that in other arrays is JAX's own, and the transpose of
the transpose is the function again. So both modes work, to any order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Flat = Callable[..., Sequence[Any]]

linear_map_p = Primitive("jaxnets_linear_map")
linear_map_p.multiple_results = True


def linear_map(
    function: Callable[[Any, Any], Any], transposed: Callable[[Any, Any], Any], constants: Any, x: Any
) -> Any:
    """`function(constants, x)`, linear in the arrays of x, with `transposed(constants, y)` for its cotangents.

    Neither may close over arrays that are differentiated or mapped: those belong among the constants.
    """
    c_leaves, c_tree = jax.tree.flatten(constants)
    x_leaves, x_tree = jax.tree.flatten(x)
    count = len(c_leaves)

    def flat(function: Callable[[Any, Any], Any], tree: Any) -> Flat:
        def run(*leaves: Any) -> Sequence[Any]:
            parts = jax.tree.unflatten(c_tree, leaves[:count]), jax.tree.unflatten(tree, leaves[count:])
            return jax.tree.leaves(function(*parts))

        return run

    y_tree = jax.tree.structure(jax.eval_shape(function, constants, x))
    leaves = _bind(flat(function, x_tree), flat(transposed, y_tree), count, *c_leaves, *x_leaves)
    return jax.tree.unflatten(y_tree, leaves)


def _bind(function: Flat, transposed: Flat, count: int, *leaves: Any) -> list[Any]:
    leaves = varying_alike(*leaves)
    traced = jax.make_jaxpr(function)(*leaves)
    return linear_map_p.bind(*leaves, function=traced, transposed=transposed, count=count)


def varying_alike(*arrays: Any) -> tuple[Any, ...]:
    """All marked as differing between devices along the same axes, as `shard_map` asks of a primitive's arguments."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    together = frozenset().union(*axes)
    lacking = [tuple(sorted(together - own)) for own in axes]
    return tuple(
        lax.pcast(array, to="varying", axis_name=names) if names else array
        for array, names in zip(arrays, lacking, strict=True)
    )


def _run(*leaves: Any, function: ClosedJaxpr, transposed: Flat, count: int) -> list[Any]:
    return jaxpr_as_fun(function)(*leaves)


def _jvp(primals: Any, tangents: Any, *, function: ClosedJaxpr, transposed: Flat, count: int) -> Any:
    constants, x = primals[:count], primals[count:]
    y = linear_map_p.bind(*primals, function=function, transposed=transposed, count=count)
    dy = [ad.Zero(jax.typeof(leaf).to_tangent_aval()) for leaf in y]
    if any(type(dx) is not ad.Zero for dx in tangents[count:]):
        dx = map(ad.instantiate_zeros, tangents[count:])
        dy = linear_map_p.bind(*varying_alike(*constants, *dx), function=function, transposed=transposed, count=count)
    moving = [i for i, dc in enumerate(tangents[:count]) if type(dc) is not ad.Zero]
    if moving:

        def at(*given: Any) -> Sequence[Any]:
            all_constants = list(constants)
            for i, value in zip(moving, given, strict=True):
                all_constants[i] = value
            return jaxpr_as_fun(function)(*all_constants, *x)

        _, more = jax.jvp(at, [constants[i] for i in moving], [tangents[i] for i in moving])
        dy = [ad.add_tangents(a, b) for a, b in zip(dy, more, strict=True)]
    return y, dy


def _transpose(cotangents: Any, *leaves: Any, function: ClosedJaxpr, transposed: Flat, count: int) -> list[Any]:
    cotangents = map(ad.instantiate_zeros, cotangents)
    dx = _bind(transposed, jaxpr_as_fun(function), count, *leaves[:count], *cotangents)
    return [None] * count + dx


def _batch(
    leaves: Any, axes: Any, *, function: ClosedJaxpr, transposed: Flat, count: int
) -> tuple[list[Any], list[int]]:
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    leaves = [leaf if axis is None else jnp.moveaxis(leaf, axis, 0) for leaf, axis in zip(leaves, axes, strict=True)]
    own = [None if axis is None else 0 for axis in axes[:count]]
    x = [
        jnp.broadcast_to(leaf, (size, *leaf.shape)) if axis is None else leaf
        for leaf, axis in zip(leaves[count:], axes[count:], strict=True)
    ]

    def mapped(function: Flat) -> Flat:
        def run(*leaves: Any) -> Sequence[Any]:
            return jax.vmap(function, in_axes=(*own, *[0] * (len(leaves) - count)))(*leaves)

        return run

    y = _bind(mapped(jaxpr_as_fun(function)), mapped(transposed), count, *leaves[:count], *x)
    return y, [0] * len(y)


linear_map_p.def_impl(_run)
linear_map_p.def_abstract_eval(lambda *_, function, transposed, count: function.out_avals)
mlir.register_lowering(linear_map_p, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[linear_map_p] = _jvp
ad.primitive_transposes[linear_map_p] = _transpose
batching.primitive_batchers[linear_map_p] = _batch
