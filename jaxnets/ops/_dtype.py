"""The types that half precision is widened to."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype to sum in, and to keep states in: at least float32."""
    dtype = jnp.dtype(dtype)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def widened(x: Array) -> Array:
    """The array in the dtype to sum in."""
    return jnp.asarray(x, accumulation_dtype(x.dtype))
