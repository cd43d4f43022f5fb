"""Working through a batch in chunks whose temporaries stay in cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# Of temporaries: well inside a server core complex's last-level cache. Writing more to memory and reading it back costs
# more than the arithmetic between.
_CHUNK_BYTES = 6 << 20


def chunk_rows(batch: Any, bytes_per_row: int) -> Any:
    """How many rows to take at once, all of them where the batch is symbolic.

    The chunks are as equal as can be, and up to twice as many as need be where that leaves no rest: a rest is compiled
    once more.
    """
    if not isinstance(batch, int) or batch == 0:
        return batch
    fewest = min(batch, -(-batch // max(1, _CHUNK_BYTES // max(1, bytes_per_row))))
    count = next((n for n in range(fewest, min(2 * fewest, batch + 1)) if batch % n == 0), fewest)
    return -(-batch // count)


def map_chunks(function: Callable[[Array], Array], x: Array, size: Any) -> Array:
    """`function` on chunks of rows, their results concatenated."""
    if size == x.shape[0]:
        return function(x)

    def chunk(i: Any, y: Array) -> Array:
        rows = function(lax.dynamic_slice_in_dim(x, i * size, size))
        return lax.dynamic_update_slice_in_dim(y, rows, i * size, axis=0)

    count = x.shape[0] // size
    result = jax.eval_shape(function, x)
    # Every row is written, so what the array holds at first does not matter: but as a value of x it is made just when
    # it is needed, while zeros would be made once for several loops, early, and copied for each.
    y = lax.fori_loop(0, count, chunk, jnp.full(result.shape, x.ravel()[0], result.dtype))
    rest = x[count * size :]
    return lax.dynamic_update_slice_in_dim(y, function(rest), count * size, axis=0) if len(rest) else y


def sum_chunks(function: Callable[[Array, Array], Array], x: Array, g: Array, size: Any) -> Array:
    """`function` on chunks of rows of both arguments, their results added up."""
    if size == x.shape[0]:
        return function(x, g)
    (x, x_rest), (g, g_rest) = _cut(x, size), _cut(g, size)
    result = jax.eval_shape(function, x[0], g[0])
    start = function(x_rest, g_rest) if len(x_rest) else jnp.zeros(result.shape, result.dtype)
    return lax.scan(lambda total, chunk: (total + function(*chunk), None), start, (x, g))[0]


def _cut(x: Array, size: int) -> tuple[Array, Array]:
    """Whole chunks [count, size, ...] and the rows that are left."""
    count = x.shape[0] // size
    return x[: count * size].reshape(count, size, *x.shape[1:]), x[count * size :]
