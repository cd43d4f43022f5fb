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
    Head,
    blank,
    heads_first,
    heads_last,
    put_head,
    put_keys,
    put_rows,
    summed_to,
    take_head,
    take_keys,
    take_rows,
)
from jaxnets.ops._attention_weights import Plan
from jaxnets.ops._dtype import widened

_ROWS = 256  # of queries, in a strip
_RANGES = 8  # of keys: strips that share one run in a loop, so that the program does not grow with time
_HEADS = 4  # of keys, at a time, at most: apart from each other, for the cores to share


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
    together = max(number for number in range(1, _HEADS + 1) if heads % number == 0)
    turns = heads // together
    if time > 2 * _ROWS:
        # Strips of queries share the keys: turned for each, they cost a tenth of the whole. A few strips do not pay
        # for the memory.
        arrays = arrays[0]._replace(turned=arrays[0].k.transpose(0, 2, 3, 1)), *arrays[1:]

    def of_head(own: Head) -> Any:
        local = _laid_out(map, _each(lambda kind, x: take_head(kind, x, own), map.takes, arrays), group)

        def empty(kind: Any, like: Any) -> Any:
            part = heads_first(kind, take_head(kind, _zeros(like), own), group)
            return part if kind == "queries" else widened(part)

        part = _each(empty, map.gives, like)
        for strips in _strips(plan, time, keys, max(1, _ROWS // group)):
            part = _run_strips(plan, map, local, part, strips)
        return part

    def turn(i: Any, results: Any) -> Any:
        for j in range(together):
            own = Head(i // turns, i % turns * together + j, group)
            part = _each(lambda kind, part: heads_last(kind, part), map.gives, of_head(own))
            results = _each(lambda kind, x, part: put_head(kind, x, part, own), map.gives, results, part)  # noqa: B023
        return results

    return lax.fori_loop(0, batch * turns, turn, jax.tree.map(_zeros, like))


class Strips(NamedTuple):
    """`number` strips of `rows` queries from `first` on, which all attend to keys from `low` up to `high`."""

    first: int
    number: int
    rows: int
    low: int
    high: int


def _strips(plan: Plan, time: int, keys: int, rows: int) -> Iterator[Strips]:
    """Strips that cover the queries, but for those that have no key."""
    whole, rest = divmod(time, rows)
    each = max(1, -(-whole // _RANGES))
    parts = [(first * rows, min(each, whole - first), rows) for first in range(0, whole, each)]
    if rest:
        parts.append((whole * rows, 1, rest))
    for first, number, rows in parts:
        low, high = 0, keys
        if plan.offset is not None and (plan.causal or plan.window is not None):
            high = min(keys, max(0, first + number * rows + plan.offset))
            if plan.window is not None:
                low = max(0, first + plan.offset - plan.window + 1)
        if low < high:
            yield Strips(first, number, rows, low, high)


def _run_strips(plan: Plan, map: Map, local: Any, part: Any, strips: Strips) -> Any:
    """Runs strips that attend to the same keys, and puts what they give into `part`."""
    first, number, rows, low, high = strips
    local = _each(lambda kind, x: take_keys(kind, x, low, high), map.takes, local)
    if local[0].turned is None:
        local = local[0]._replace(turned=local[0].k.swapaxes(-1, -2)), *local[1:]

    def own(kind: Any, x: Any) -> Any:
        return jnp.zeros_like(take_keys(kind, x, low, high)) if kind in ("keys", "weights") else x

    def run(i: Any, found: Any) -> Any:
        start = first + i * rows
        results = map.function(plan, *_each(lambda kind, x: take_rows(kind, x, start, rows), map.takes, local))
        return _each(lambda kind, x, part: put_rows(kind, x, part, start), map.gives, found, results)

    found = _each(own, map.gives, part)
    found = run(_zero_after(part), found) if number == 1 else lax.fori_loop(0, number, run, found)
    return _each(lambda kind, x, part: put_keys(kind, x, part, low, high), map.gives, part, found)


def _zero_after(part: Any) -> Any:
    """0, which for all that XLA knows depends on an array: a strip that starts from it waits for the one before.

    They would all run at once otherwise, and all their weights would be there at once.
    """
    x = jax.tree.leaves(part)[0].ravel()[0]
    return (jnp.isnan(x) & jnp.isinf(x)).astype(jnp.int32)


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
