"""The laws about transformations: batch and export."""

import operator
from typing import Any

import jax
import jax.export
import numpy as np

from jaxnets.testing._findings import differences
from jaxnets.testing._subject import Inputs, Subject, differentiable, inexact
from jaxnets.testing._time import Found, labelled

_PLATFORMS = ("cpu", "cuda", "tpu")


def batch(s: Subject) -> Found:
    """A row alone equals the row in its batch, vmap equals the loop, jit equals no jit."""
    weights = s.weights(s.small)
    want = s.run(s.small, weights)
    yield from labelled("each row alone", differences(_row_by_row(s, weights), want, s.tolerance))

    scaled = jax.tree.map(lambda p: p * np.asarray(1.1, p.dtype) if inexact(p) else p, s.params)
    reverse = _rows(s.small, slice(None, None, -1))._replace(carry=s.small.carry)
    calls = ((s.params, s.small), (scaled, reverse))
    mapped = s.jit(jax.vmap(s.derive, (0, 0, None)))(*jax.tree.map(lambda a, b: np.stack([a, b]), *calls), weights)
    for n, call in enumerate(calls):
        one = jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), mapped)
        loop = jax.tree.map(np.asarray, s.program(*call, weights))
        yield from labelled("jax.vmap", differences(one, loop, s.tolerance))

    y, carry = s.apply(s.params, s.small)
    values = {"y": want["y"], "carry": want["carry"]}
    yield from labelled("without jax.jit", differences({"y": y, "carry": carry}, values, s.tolerance))
    yield from labelled(
        "without jax.jit", differences(s.derive(s.params, s.small, weights, apply=s.apply), want, s.tolerance)
    )


def _row_by_row(s: Subject, weights: Any) -> Any:
    """Every row run alone, put together again."""
    results = []
    for row in range(s.rows):
        one = _rows(s.small, slice(row, row + 1))._replace(carry=s.row(s.small.carry, row))
        results.append(s.run(one, (weights[0][row : row + 1], s.row(weights[1], row))))
    gradients = [result["gradient"] for result in results]
    params = gradients[0]["params"]
    for gradient in gradients[1:]:
        params = jax.tree.map(operator.add, params, gradient["params"])
    x = jax.tree.map(lambda *rows: np.concatenate(rows), *(gradient["x"] for gradient in gradients))
    return {
        "y": np.concatenate([result["y"] for result in results]),
        "carry": s.join([result["carry"] for result in results]),
        "gradient": {"params": params, "x": x, "carry": s.join([gradient["carry"] for gradient in gradients])},
    }


def _rows(inputs: Inputs, rows: slice) -> Inputs:
    """Some rows of all but the carry."""
    return Inputs(inputs.x[rows], inputs.lengths[rows], None if inputs.starts is None else inputs.starts[rows], None)


def export(s: Subject) -> Found:
    """The layer's program is made once for any batch and time, for every platform."""
    params, inputs = _symbolic(s)
    fresh = inputs._replace(carry=None)
    if not s.has_capacity:
        _exported(s.forward, (params, fresh))
    weights = differentiable(s.forward.eval_shape(params, inputs))
    exported = _exported(s.derive, (params, inputs, weights))

    # Sizes that the program has never seen.
    want = s.run(s.small)
    got = s.jit(exported.call)(*jax.tree.leaves((s.params, s.small, s.weights(s.small))))
    got = jax.tree.unflatten(jax.tree.structure(want), map(np.asarray, got))
    yield from labelled("the exported program", differences(got, want, s.tolerance))


def _symbolic(s: Subject) -> tuple[Any, Inputs]:
    """Shapes of the parameters and of inputs of any batch and time."""
    b, t = jax.export.symbolic_shape(f"b, {s.block}*t" if s.block > 1 else "b, t")
    leaves, structure = jax.tree.flatten(s.inputs.carry)
    carry = [
        jax.ShapeDtypeStruct([b if i == axis else n for i, n in enumerate(leaf.shape)], leaf.dtype)
        for leaf, axis in zip(leaves, s.batch_axes, strict=True)
    ]
    inputs = Inputs(
        x=jax.ShapeDtypeStruct((b, t, *s.spec.shape[2:]), s.spec.dtype),
        lengths=jax.ShapeDtypeStruct((b,), np.int32),
        starts=jax.ShapeDtypeStruct((b, t), np.bool_) if s.has_starts else None,
        carry=jax.tree.unflatten(structure, carry),
    )
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), s.params), inputs


def _exported(function: Any, arguments: Any) -> Any:
    """Exports from leaves to leaves: a program in a file knows no types of a carry's own."""
    leaves, structure = jax.tree.flatten(arguments)
    flat = jax.jit(lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves))))
    try:
        return jax.export.export(flat, platforms=_PLATFORMS)(*leaves)
    except Exception:
        # Which of them it was is not in every message.
        for platform in _PLATFORMS:
            try:
                jax.export.export(flat, platforms=(platform,))(*leaves)
            except Exception as error:
                raise RuntimeError(f"lowering for {platform}: {type(error).__name__}: {error}") from error
        raise
