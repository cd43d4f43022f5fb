"""States that differ in every leaf from step to step, so that a mix of two is told from either."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import train
from jaxnets.train.paths import flatten


def state(step, size):
    """Four leaves of `size` random floats, and small ones of other types."""
    rng = np.random.default_rng(step)
    params = {f"layer_{i}": {"kernel": jnp.asarray(rng.random(size, np.float32))} for i in range(4)}
    small = {
        "half": jnp.asarray(rng.random(33), jnp.bfloat16),
        "count": jnp.int32(step),
        "bytes": jnp.asarray(rng.integers(0, 256, (3, 5)), jnp.uint8),
        "mask": jnp.asarray(rng.random(9) < 0.5).at[0].set(step % 2 == 0),
    }
    key = jax.random.fold_in(jax.random.key(0), step)
    return train.State(jnp.int32(step), params, small, {}, None, key)


def bits(state):
    """The bytes of each leaf, by path."""
    plain = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf  # noqa: E731
    return {path: np.asarray(plain(leaf)).tobytes() for path, leaf in flatten(state).items()}


def different(found, size):
    """The paths at which a state is not that of its step."""
    found, want = bits(found), bits(state(int(found.step), size))
    return sorted(path for path in found.keys() | want.keys() if found.get(path) != want.get(path))
