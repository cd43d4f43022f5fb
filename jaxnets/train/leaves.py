"""The leaves of a state as arrays that can be written, and a state of arrays that were read."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.train.paths import flatten
from jaxnets.train.processes import placed
from jaxnets.train.state import State


def check_keys(kinds: Mapping[str, str], leaves: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raises ValueError unless the index has the PRNG keys of the template."""
    dtypes = {
        path: jax.eval_shape(partial(jax.random.wrap_key_data, impl=kinds[path]), data[path]).dtype for path in kinds
    }
    if dtypes != {path: leaf.dtype for path, leaf in leaves.items() if is_key(leaf)}:
        raise ValueError("index is damaged")


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def data_of(leaf: Any) -> Any:
    """A leaf as plain numbers: typed PRNG keys by their words."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def described(leaf: Any) -> tuple[list[int], str]:
    """A leaf's shape and dtype, as JSON has them."""
    return list(jnp.shape(leaf)), str(leaf.dtype if is_key(leaf) else jnp.result_type(leaf))


def rebuilt(template: State, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> State:
    """The template's structure, key types and placement with the values of the arrays."""

    def leaf(path: str, like: Any) -> Any:
        # A copy: an array that shared NumPy's memory could not be donated.
        array = jnp.array(arrays[path])
        if path in keys:
            array = jax.random.wrap_key_data(array, impl=keys[path])
        # An array that was bound to no device stays so: programs compiled for the one do not fit the other.
        bound = getattr(like, "committed", True) and getattr(like, "sharding", None)
        return placed(array, bound, may_alias=None) if bound else array

    leaves = [leaf(path, like) for path, like in flatten(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
