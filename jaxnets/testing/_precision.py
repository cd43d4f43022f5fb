"""The law about types: what is computed in which, and how far narrow types are off."""

import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.testing._findings import Difference, differences, name
from jaxnets.testing._subject import Subject, differentiable, inexact, widen
from jaxnets.testing._time import Found, labelled


def precision(s: Subject) -> Found:
    """Parameters and carry in at least float32, y in the type to compute in, and an error bounded for each."""
    stored = jnp.dtype(getattr(s.layer, "param_dtype", jnp.float32))
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": s.params}):
        if inexact(leaf) and leaf.dtype != stored:
            yield "parameters", Difference(name(path), f"is {leaf.dtype}, not {stored}")
    for dtype in ("bfloat16", "float32"):
        yield from labelled(f"in {dtype}", _types(s, dtype))
    with jax.enable_x64(True):
        yield from labelled("in float64", _types(s, "float64"))
        yield from labelled("in float64", _narrowed(s))
    yield from labelled("bfloat16 against float32", _bfloat16(s))


def _in(s: Subject, dtype: str) -> tuple[Subject, Any]:
    """The layer and its x in another type; for tokens the type is the layer's own."""
    if s.vocabulary is None:
        return s, s.small._replace(x=s.small.x.astype(jnp.dtype(dtype)))
    other = copy.copy(s)
    if hasattr(s.layer, "dtype"):
        other.layer = s.layer.clone(dtype=dtype)
        other.forward = jax.jit(other.apply)
    return other, s.small


def _types(s: Subject, dtype: str) -> Iterator[Difference]:
    other, inputs = _in(s, dtype)
    if s.vocabulary is not None and not hasattr(s.layer, "dtype"):
        return
    least = jnp.dtype("float64" if dtype == "float64" else "float32")
    y_dtype = jnp.dtype(getattr(other.layer, "dtype", None) or dtype)
    for carry in (s.small.carry, s.fresh()):
        if dtype == "float64" and y_dtype == least:
            carry = widen(carry)
        y, after = other.forward.eval_shape(s.params, inputs._replace(carry=carry))
        begin = "" if carry is not None else " from carry=None"
        if y.dtype != y_dtype:
            yield Difference("y", f"is {y.dtype}{begin}, not {y_dtype}")
        for path, leaf in jax.tree_util.tree_leaves_with_path({"carry": after}):
            if inexact(leaf) and y_dtype.itemsize <= least.itemsize and jnp.finfo(leaf.dtype).bits < 8 * least.itemsize:
                yield Difference(name(path), f"is {leaf.dtype}{begin}, less than {least}")


def _narrowed(s: Subject) -> Iterator[Difference]:
    """Operations of a float64 program that give less: value and gradients alike."""
    other, inputs = _in(s, "float64")
    params, inputs = widen(s.params), inputs._replace(carry=widen(inputs.carry))
    shapes = other.forward.eval_shape(params, inputs)
    if shapes[0].dtype != np.float64:
        return  # The layer's own dtype, or already found.
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), differentiable(shapes))
    seen = set()
    for jaxpr, result in (
        (jax.make_jaxpr(other.forward)(params, inputs), "y"),
        (jax.make_jaxpr(other.derive)(params, inputs, weights), "gradient"),
    ):
        for equation in _equations(jaxpr.jaxpr):
            message = f"{equation.primitive} {equation.source_info.name_stack}"
            if message not in seen:
                seen.add(message)
                yield Difference(result, f"passes through less than float64: {message}")


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The innermost equations that take float64 and give a narrower floating type."""
    for equation in jaxpr.eqns:
        inner = [p for p in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr) if _is_jaxpr(p)]
        for sub in inner:
            yield from _equations(getattr(sub, "jaxpr", sub))
        if inner:
            continue
        wide = any(_bits(v) == 64 for v in equation.invars)
        if wide and any(0 < _bits(v) < 64 for v in equation.outvars):
            yield equation


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _bits(variable: Any) -> int:
    """Bits of a real number of the type; 0 where it is not floating."""
    dtype = getattr(variable.aval, "dtype", None)
    return jnp.finfo(dtype).bits if dtype is not None and jnp.issubdtype(dtype, jnp.inexact) else 0


def _bfloat16(s: Subject) -> Iterator[Difference]:
    other, narrow = _in(s, "bfloat16")
    y, carry = s.weights(s.small)
    shapes = other.forward.eval_shape(s.params, narrow)
    weights = (y.astype(jnp.bfloat16), carry)
    seeds = jax.tree.map(lambda leaf, w: None if w is None else np.asarray(w, leaf.dtype), shapes, weights)
    got = s.jit(other.derive)(s.params, narrow, seeds)
    exact = s.small._replace(x=narrow.x.astype(s.spec.dtype))
    want = s.run(exact, (weights[0].astype(y.dtype), carry))
    got = jax.tree.map(lambda a, b: np.asarray(a).astype(b.dtype), got, want)
    yield from differences(got, want, s.bfloat16_tolerance)
