"""Type aliases and small containers that every layer of the library shares."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
from jaxtyping import Array, Float

Batch = Mapping[str, Any]
"""Arrays by name, the batch axis first: `"x"` feeds the model, the rest is for the loss and the metrics."""

Padding = Literal["SAME", "VALID", "CAUSAL"] | int | tuple[tuple[int, int], ...]
"""A named padding, one number for every side, or (before, after) for each spatial axis."""

Precision = jax.lax.PrecisionLike


class Mean(NamedTuple):
    """A mean kept as its sum and its weight, so that means of parts add up to the mean of the whole.

    Add two with `jax.tree.map(operator.add, a, b)`.

    >>> Mean(total=jnp.float32(6), weight=jnp.float32(4)).value
    Array(1.5, dtype=float32)
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def value(self) -> Any:
        """The mean; NaN where the weight is 0."""
        return self.total / self.weight
