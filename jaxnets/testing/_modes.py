"""The law about differentiation: forward and reverse mode, once and twice, and recomputation."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.testing._findings import Difference, differences, name
from jaxnets.testing._subject import Subject, differentiable, draw, inexact, widen
from jaxnets.testing._time import Found, labelled


def both_modes(s: Subject) -> Found:
    """Forward and reverse mode agree, once and twice, and with what small steps say."""
    lines = _Lines(s, np.float32)
    origin = np.zeros(len(lines.names), np.float32)
    forward = _attempt(lambda: s.jit(jax.jacfwd(lines.outputs))(origin))
    hessian = _attempt(lambda: s.jit(jax.hessian(lines.loss))(origin))
    for case, result in (("jax.jacfwd", forward), ("jax.hessian", hessian)):
        if isinstance(result, Exception):
            yield case, Difference("", f"raised {type(result).__name__}: {result}")
    if not isinstance(forward, Exception):
        yield from labelled("jax.jvp against jax.vjp", _dot_products(s, lines, forward))
    if not isinstance(hessian, Exception):
        found = differences(lines.rows(hessian), lines.rows(hessian.T), 10 * s.tolerance)
        yield from labelled("jax.hessian against its transpose", found)
    if not isinstance(forward, Exception) and not isinstance(hessian, Exception):
        yield from _small_steps(s, lines, forward, hessian)
    checkpointed = s.jit(functools.partial(s.derive, wrap=jax.checkpoint))
    got = jax.tree.map(np.asarray, checkpointed(s.params, s.small, s.weights(s.small)))
    yield from labelled("jax.checkpoint", differences(got, s.run(s.small), s.tolerance))


class _Lines:
    """A straight line through each parameter, x and each leaf of the carry, so that a derivative is a few numbers."""

    def __init__(self, s: Subject, dtype: Any):
        rng = np.random.default_rng(1)
        self._s, self._weights = s, s.weights(s.small)
        given = {"params": s.params, "x": s.small.x, "carry": s.small.carry}
        paths, self._structure = jax.tree_util.tree_flatten_with_path(given)
        self._leaves = [leaf for _, leaf in paths]
        self._moved = [n for n, leaf in enumerate(self._leaves) if inexact(leaf)]
        self.names = [name(paths[n][0]) for n in self._moved]
        self.directions = [draw(rng, self._leaves[n].shape, self._leaves[n].dtype) for n in self._moved]
        self.directions = [d / np.asarray(np.linalg.norm(d), d.real.dtype) for d in self.directions]
        if dtype == np.float64:
            self._leaves, self.directions = widen(self._leaves), widen(self.directions)

    def outputs(self, along: Any) -> Any:
        """What the layer returns where each line is followed so far, without integers."""
        leaves = list(self._leaves)
        for n, a, direction in zip(self._moved, along, self.directions, strict=True):
            leaves[n] = leaves[n] + jnp.asarray(a, direction.dtype) * direction
        given = jax.tree.unflatten(self._structure, leaves)
        y, carry = self._s.forward(given["params"], self._s.small._replace(x=given["x"], carry=given["carry"]))
        return differentiable({"y": y, "carry": carry})

    def loss(self, along: Any) -> Any:
        """A number that is curved in every output."""
        terms = jax.tree.map(
            lambda out, w: jnp.sum(jnp.real(jnp.asarray(w, out.dtype) * out + out * jnp.conj(out)), dtype=along.dtype),
            jax.tree.leaves(self.outputs(along)),
            jax.tree.leaves({"y": self._weights[0], "carry": self._weights[1]}),
        )
        return sum(terms[1:], terms[0])

    def rows(self, hessian: np.ndarray) -> Any:
        """The rows of a matrix by the names of the lines."""
        return {"gradient": {"twice": dict(zip(self.names, hessian, strict=True))}}


def _dot_products(s: Subject, lines: _Lines, forward: Any) -> Iterator[Difference]:
    weights = s.weights(s.small)
    nothing = jax.tree.map(np.zeros_like, weights)
    places, structure = jax.tree_util.tree_flatten_with_path(dict(zip(("y", "carry"), weights, strict=True)))
    zeros = jax.tree.leaves({"y": nothing[0], "carry": nothing[1]})
    for n, ((path, weight), tangent) in enumerate(zip(places, jax.tree.leaves(forward), strict=True)):
        only = jax.tree.unflatten(structure, [*zeros[:n], weight, *zeros[n + 1 :]])
        gradient = s.run(s.small, (only["y"], only["carry"]))["gradient"]
        for k, (leaf, direction) in enumerate(zip(jax.tree.leaves(dict(gradient)), lines.directions, strict=True)):
            ahead, size_ahead = _product(weight, tangent[..., k])
            back, size_back = _product(leaf, direction)
            allowed = s.tolerance * max(size_ahead, size_back)
            if not abs(ahead - back) <= allowed:
                yield Difference(
                    f"gradient {lines.names[k]}",
                    f"of {name(path)}, along a line: {ahead:.6g} in forward and {back:.6g} in reverse mode, off by "
                    f"{abs(ahead - back):.2g}, {allowed:.1g} is allowed",
                )


def _product(a: Any, b: Any) -> tuple[float, float]:
    """The real part of sum(a * b), and how large it could be."""
    wide_a, wide_b = widen((a, b))
    return float(np.sum(wide_a * wide_b).real), float(np.linalg.norm(wide_a) * np.linalg.norm(wide_b))


def _small_steps(s: Subject, lines: _Lines, forward: Any, hessian: np.ndarray) -> Found:
    """Derivatives against central differences, in double precision unless the layer forbids it."""
    with jax.enable_x64(True):
        wide = _Lines(s, np.float64)
        origin = np.zeros(len(lines.names))
        dtype = jax.eval_shape(wide.outputs, origin)["y"].dtype
        if dtype.itemsize < 8:
            return
        step = 1e-6
        points = step * np.concatenate([np.eye(len(origin)), -np.eye(len(origin))])
        both = s.jit(lambda points: jax.lax.map(lambda a: (wide.outputs(a), jax.grad(wide.loss)(a)), points))
        outputs, gradients = jax.tree.map(np.asarray, both(points))
    half = len(points) // 2
    slopes = jax.tree.map(lambda leaf: (leaf[:half] - leaf[half:]) / (2 * step), outputs)
    for k, line in enumerate(lines.names):
        got = jax.tree.map(lambda leaf, k=k: widen(leaf[..., k]), forward)
        want = jax.tree.map(lambda leaf, k=k: widen(leaf[k]), slopes)
        found = (d._replace(leaf=f"gradient {line} of {d.leaf}") for d in differences(got, want, s.tolerance))
        yield from labelled("jax.jvp against small steps", found)
    slopes = (gradients[:half] - gradients[half:]) / (2 * step)
    got, want = lines.rows(widen(hessian)), lines.rows(slopes)
    yield from labelled("jax.hessian against small steps", differences(got, want, 10 * s.tolerance))


def _attempt(make: Any) -> Any:
    try:
        return jax.tree.map(np.asarray, make())
    except Exception as error:
        return error
