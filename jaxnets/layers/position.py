"""What attention is told of positions."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxnets import ops
from jaxnets.ops.position import RotaryScaling


@runtime_checkable
class RotatingPosition(Protocol):
    """Positions that turn queries and keys."""

    def rotate(self, x: Array, positions: Array) -> Array:
        """Turns x [B, T, N, H] to positions [B, T]."""
        ...


@runtime_checkable
class BiasPosition(Protocol):
    """Positions that add to the scores."""

    def bias(self, num_heads: int, query_positions: Array, key_positions: Array) -> Array:
        """What to add, [B, N, T, S] or with a first axis of 1."""
        ...


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions: see `ops.rotary`."""

    base: float = 10000.0
    scaling: RotaryScaling | None = None
    fraction: float = 1.0

    def rotate(self, x: Float[Array, "b t n h"], positions: Int[Array, "b t"]) -> Float[Array, "b t n h"]:
        """Turns queries or keys."""
        return ops.rotary(x, positions, base=self.base, scaling=self.scaling, fraction=self.fraction)


@dataclasses.dataclass(frozen=True)
class ALiBi:
    """Linear biases: see `ops.alibi`."""

    def bias(self, num_heads: int, query_positions: Array, key_positions: Array) -> Array:
        """Minus each head's slope times the distance."""
        bias = ops.alibi(num_heads, query_positions, key_positions)
        return bias if bias.ndim == 4 else bias[None]


class RelativeBias(nn.Module):
    """A learned bias for each head and bucket of distances.

    Parameters: `table` [num_buckets, num_heads].

    References:
      Raffel et al., 2020. Exploring the limits of transfer learning with a unified text-to-text transformer.
    """

    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = False
    param_dtype: DTypeLike = jnp.float32
    table_init: Any = nn.initializers.normal(0.02)

    @nn.compact
    def bias(self, num_heads: int, query_positions: Array, key_positions: Array) -> Array:
        """The table's entries for all pairs of positions."""
        table = self.param("table", self.table_init, (self.num_buckets, num_heads), self.param_dtype)
        distance = key_positions[..., None, :] - query_positions[..., :, None]
        buckets = ops.relative_buckets(
            distance,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
        )
        bias = jnp.moveaxis(table[buckets], -1, -3)
        return bias if bias.ndim == 4 else bias[None]
