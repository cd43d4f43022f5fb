"""Two ways to run the maps of attention: on whole arrays at once, or in strips of queries, a few heads at a time.

A strip holds the weights of some queries for all the keys that they may attend to: keys that the mask rules out for
the whole strip are skipped. What is in use stays in cache and grows with the number of keys, not with its square;
heads are cut from the arrays and put back in place, so that none is laid out anew.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.ops import _attention_weights as weights
from jaxnets.ops._attention_layout import (
    CONTEXT,
    OPERANDS,
    Heads,
    Strip,
    blank,
    heads_first,
    heads_last,
    put_heads,
    put_steps,
    summed_to,
    take_heads,
    take_steps,
)
from jaxnets.ops._attention_weights import Plan
from jaxnets.ops._convolution_geometry import accumulation_dtype

_ROWS = 128  # queries in a strip
_RANGES = 16  # of keys: strips that share one run in a loop, so that the program does not grow with time


class Map(NamedTuple):
    """A function of a plan and arrays, and the kinds of arrays that it takes (operands, context, ...) and gives."""

    function: Callable[..., Any]
    takes: Any
    gives: Any


FORWARD = Map(weights.forward, (OPERANDS, CONTEXT), ("queries", "rows"))
TANGENT = Map(weights.tangent, (OPERANDS, CONTEXT, "queries", "rows", OPERANDS), ("queries", "rows"))
COTANGENT = Map(weights.cotangent, (OPERANDS, CONTEXT, "queries", "rows", "queries", "rows"), OPERANDS)


def at_once(plan: Plan, map: Map, arrays: Any, like: Any) -> Any:
    """The map on whole arrays: all weights are there at once. `like` are shapes of results, or None if unwanted."""
    group = _group(arrays)
    results = map.function(plan, *_laid_out(map, arrays, group))

    def back(kind: Any, like: Any, x: Any) -> Any:
        shape = jax.eval_shape(lambda: heads_first(kind, _zeros(like), group)).shape
        return heads_last(kind, summed_to(x, shape)).astype(like.dtype)

    return _each(back, map.gives, like, results)


def in_strips(plan: Plan, map: Map, arrays: Any, like: Any) -> Any:
    """The same, strip by strip: memory grows with the number of keys, and the shapes must be known."""
    (batch, time), (keys, heads), group = arrays[0].q.shape[:2], arrays[0].k.shape[1:3], _group(arrays)
    count = 2 if group == 1 and heads % 2 == 0 else 1  # that cores find something to share
    turns = heads // count

    def turn(i: Any, results: Any) -> Any:
        own = Heads(i // turns, i % turns * count, count, group)
        local = _laid_out(map, _each(lambda kind, x: take_heads(kind, x, own), map.takes, arrays), group)

        def empty(kind: Any, like: Any) -> Any:
            part = heads_first(kind, take_heads(kind, _zeros(like), own), group)
            return part if kind == "queries" else part.astype(accumulation_dtype(part.dtype))

        part = _each(empty, map.gives, like)
        for strip, repeats in _strips(plan, time, keys):
            part = _run_strips(plan, map, local, part, strip, repeats)
        return _each(lambda kind, x, part: put_heads(kind, x, heads_last(kind, part), own), map.gives, results, part)

    return lax.fori_loop(0, batch * turns, turn, jax.tree.map(_zeros, like))


def _run_strips(plan: Plan, map: Map, local: Any, part: Any, strip: Strip, repeats: int) -> Any:
    """Runs a strip, and those that follow it with the same keys, and adds what they give to `part`."""

    def run(i: Any, part: Any) -> Any:
        own = strip._replace(first=strip.first + i * strip.rows)
        results = map.function(plan, *_each(lambda kind, x: take_steps(kind, x, own), map.takes, local))
        return _each(lambda kind, part, x: put_steps(kind, part, x, own), map.gives, part, results)

    return run(0, part) if repeats == 1 else lax.fori_loop(0, repeats, run, part)


def _strips(plan: Plan, time: int, keys: int) -> Iterator[tuple[Strip, int]]:
    """Strips that cover the queries, and how many others follow each with the same keys; not those without a key."""
    whole, rest = divmod(time, _ROWS)
    each = max(1, -(-whole // _RANGES))
    parts = [(first * _ROWS, min(each, whole - first), _ROWS) for first in range(0, whole, each)]
    if rest:
        parts.append((whole * _ROWS, 1, rest))
    for first, repeats, rows in parts:
        low, high = 0, keys
        if plan.offset is not None and (plan.causal or plan.window is not None):
            high = min(keys, max(0, first + repeats * rows + plan.offset))
            if plan.window is not None:
                low = max(0, first + plan.offset - plan.window + 1)
        if low < high:
            yield Strip(first, rows, low, high), repeats


def _laid_out(map: Map, arrays: Any, group: int) -> Any:
    """The arrays heads first, without what is not valid."""
    arrays = _each(lambda kind, x: heads_first(kind, x, group), map.takes, arrays)
    return _each(lambda kind, x: blank(kind, x, arrays[1]), map.takes, arrays)


def _each(function: Callable[..., Any], kinds: Any, *trees: Any) -> Any:
    """`function(kind, ...)` of the leaves of trees that are like the tree of kinds; None where the first has none."""
    return jax.tree.map(lambda kind, x, *rest: None if x is None else function(kind, x, *rest), kinds, *trees)


def _group(arrays: Any) -> int:
    return arrays[0].q.shape[2] // arrays[0].k.shape[2]


def _zeros(like: Any) -> Any:
    return jnp.zeros(like.shape, like.dtype)
