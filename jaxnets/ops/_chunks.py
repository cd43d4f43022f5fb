"""Working through a batch in chunks whose temporaries stay in cache."""

from collections.abc import Callable
from typing import Any

from jax import lax
from jaxtyping import Array

# Of temporaries: about a third of a server core complex's last-level cache. Writing more to memory and reading it back
# costs more than the arithmetic between.
_CHUNK_BYTES = 10 << 20


def chunk_rows(batch: Any, bytes_per_row: int) -> Any:
    """How many rows to take at once: a divisor of `batch`, or all of it where the batch is symbolic."""
    if not isinstance(batch, int) or batch == 0:
        return batch
    most = max(1, _CHUNK_BYTES // max(1, bytes_per_row))
    return max(d for d in range(1, min(most, batch) + 1) if batch % d == 0)


def map_chunks(function: Callable[[Array], Array], x: Array, size: Any) -> Array:
    """`function` on chunks of rows, their results concatenated."""
    if size == x.shape[0]:
        return function(x)
    y = lax.map(function, x.reshape(x.shape[0] // size, size, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def sum_chunks(function: Callable[[Array, Array], Array], x: Array, g: Array, size: Any) -> Array:
    """`function` on chunks of rows of both arguments, their results added up."""
    if size == x.shape[0]:
        return function(x, g)
    count = x.shape[0] // size
    chunks = tuple(a.reshape(count, size, *a.shape[1:]) for a in (x, g))
    first = function(chunks[0][0], chunks[1][0])
    rest = tuple(a[1:] for a in chunks)
    return lax.scan(lambda total, c: (total + function(*c), None), first, rest)[0]
