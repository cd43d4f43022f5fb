"""Type aliases and small containers that every layer of the library shares."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
from jaxtyping import Array, Bool, Float, Int

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


class Count(Mean):
    """A number of times, told as it is: the weight is that of all that was looked at.

    >>> Count(total=jnp.float32(6), weight=jnp.float32(4)).value
    Array(6., dtype=float32)
    """

    __slots__ = ()

    @property
    def value(self) -> Any:
        """The count."""
        return self.total


Carry = Any
"""What a layer over time remembers: a NamedTuple of arrays with the batch axis first, a tuple of carries, or ()."""


class SequenceLayer(Protocol):
    """A layer over time: x [B, T, ...] to y [B, T', F], with a carry to go on from.

    At and past `lengths` [B] y is 0, and x is not looked at; `starts` [B, T] is True where a packed row begins a new
    sequence; the carry that comes back, put in with the next steps, goes on as if time had not been cut. What cannot
    be cut so returns () and raises on a carry. A layer that changes T has a method `output_lengths(lengths)`.
    """

    def __call__(
        self,
        x: Array,
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: Carry | None = None,
        train: bool = False,
    ) -> tuple[Array, Carry]:
        """Runs the layer over the steps of x."""
        ...
