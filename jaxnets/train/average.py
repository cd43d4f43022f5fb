"""The exponential moving average of what a model has learnt."""

from typing import Any

import jax
import jax.numpy as jnp


def averaged(average: Any, variables: Any, decay: Any, step: Any) -> Any:
    """The average moved towards the variables by one step.

    The decay rises to its value as min(decay, (1 + step) / (10 + step)), so that the beginning is soon forgotten.
    What is no floating point number is taken as it is.

    Args:
      average: A tree like the variables.
      variables: As they are after the step.
      decay: How much of the average stays, in [0, 1).
      step: Steps taken before this one.

    References:
      Polyak and Juditsky, 1992. Acceleration of stochastic approximation by averaging.

    >>> averaged(jnp.float32(0), jnp.float32(1), 0.99, 0)
    Array(0.9, dtype=float32)
    """
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def moved(old: Any, new: Any) -> Any:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + rate.astype(old.dtype) * (new - old)

    return jax.tree.map(moved, average, variables)
