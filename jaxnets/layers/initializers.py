"""Initialisers of recurrent layers that Flax has none of."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array


def identity(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Initialises a recurrent kernel as the identity, by which a rectifying network adds up what it is given.

    References:
      Le, Jaitly and Hinton, 2015. A simple way to initialize recurrent networks of rectified linear units.

    >>> layer = jn.layers.RNN(features=2, activation="relu", recurrent_kernel_init=identity)
    >>> layer.init(jax.random.key(0), jnp.ones((1, 1, 1)))["params"]["recurrent_kernel"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return jnp.eye(*shape, dtype=dtype)


def chrono(features: int, steps: int, gates: Sequence[int]) -> Callable[..., Array]:
    """Makes an initialiser of biases by which a layer's units remember for 1 to `steps` steps, spread evenly.

    A gate of sigmoid(log u) keeps about u steps. Each unit draws one u, uniform in [1, steps - 1], and every gate's
    bias is its sign times log u. A bias of another size than a gate a unit (a GRU's `recurrent_bias`) is made 0.

    Args:
      features: Units of the layer.
      steps: The longest memory wanted, 3 or more.
      gates: A sign for each gate in order: 1 where an open gate keeps, -1 where it writes, 0 for the others: (-1, 1, 0,
        0) for `LSTM` (made with forget_bias=0), (0, 1, 0) for `GRU`, (-1, 0) for `MinGRU`, (-1, 1, 0) for `MinLSTM`.

    Raises:
      ValueError: If steps is less than 3.

    References:
      Tallec and Ollivier, 2018. Can recurrent neural networks warp time?

    >>> layer = jn.layers.GRU(features=8, bias_init=chrono(8, 100, (0, 1, 0)))
    >>> bias = layer.init(jax.random.key(0), jnp.ones((2, 5, 3)))["params"]["bias"]
    >>> [bool((part == 0).all()) for part in jnp.split(bias, 3)]
    [True, False, True]
    """
    if steps < 3:
        raise ValueError(f"chrono: steps wants 3 or more but is {steps}")

    def initialise(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        if shape != (len(gates) * features,):
            return jnp.zeros(shape, dtype)
        log = jnp.log(jax.random.uniform(key, (features,), jnp.float32, 1, steps - 1))
        return jnp.concatenate([gate * log for gate in gates]).astype(dtype)

    return initialise
