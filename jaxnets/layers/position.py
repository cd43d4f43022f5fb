"""What layers are told of positions: by attention, or by what is added to its input."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.ops.kv_cache import Positions
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
    table_init: Initializer = nn.initializers.normal(0.02)

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
        bias = jnp.moveaxis(jnp.asarray(table)[buckets], -1, -3)
        return bias if bias.ndim == 4 else bias[None]


class PositionCarry(NamedTuple):
    """Positions taken so far, and the one at which the present sequence began, of each row [B]."""

    length: Int[Array, " b"]
    start: Int[Array, " b"]


class SinusoidalPosition(nn.Module):
    """Adds `ops.sinusoidal` of each step's position in its sequence.

    >>> (y, carry), _ = SinusoidalPosition().init_with_output(jax.random.key(0), jnp.zeros((1, 2, 4)))
    >>> y[0, 0], carry.length
    (Array([0., 1., 0., 1.], dtype=float32), Array([2], dtype=int32))
    """

    base: float = 10000.0

    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: PositionCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t d"], PositionCarry]:
        """Runs over the steps of x."""
        positions, after = _positions(self, x, lengths, starts, carry)
        added = ops.sinusoidal(positions.relative, x.shape[-1], base=self.base).astype(x.dtype)
        return ops.zero_padding(x + added, lengths), after


class LearnedPosition(nn.Module):
    """Adds a learned vector for each step's position in its sequence.

    Parameters: `table` [capacity, D].

    Attributes:
      capacity: Positions that there are vectors for; a step beyond them gives NaN, or, where that is known before it
        runs, an error.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      table_init: Initialiser of the table.

    >>> layer = LearnedPosition(capacity=8)
    >>> layer.init_with_output(jax.random.key(0), jnp.zeros((1, 2, 4)))[0][0].shape
    (1, 2, 4)
    """

    capacity: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    table_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: PositionCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t d"], PositionCarry]:
        """Runs over the steps of x.

        Raises:
          ValueError: If there are more steps than positions, and none begins a sequence.
        """
        if starts is None and isinstance(x.shape[1], int) and x.shape[1] > self.capacity:
            raise ValueError(f"{label(self)}: x has {x.shape[1]} steps but capacity is {self.capacity}")
        x = x.astype(x.dtype if self.dtype is None else self.dtype)
        positions, after = _positions(self, x, lengths, starts, carry)
        table = self.param("table", self.table_init, (self.capacity, x.shape[-1]), self.param_dtype)
        added = jnp.asarray(table, x.dtype).at[positions.relative].get(mode="fill", fill_value=jnp.nan)
        return ops.zero_padding(x + added, lengths), after


def _positions(layer: nn.Module, x: Array, lengths: Any, starts: Any, carry: Any) -> tuple[Positions, PositionCarry]:
    """The positions of the steps of x, and the carry after them."""
    name = label(layer)
    check_x(name, x, rank=3)
    check_time(name, x, lengths, starts, None)
    if carry is not None and not isinstance(carry, PositionCarry):
        raise TypeError(f"{name}: carry wants a PositionCarry but is {type(carry).__name__}")
    none = jnp.zeros(x.shape[0], jnp.int32)
    carry = PositionCarry(none, none) if carry is None else carry
    positions = ops.step_positions(x.shape[0], x.shape[1], carry, lengths=lengths, starts=starts)
    taken = jnp.ones(x.shape[:2], bool) if lengths is None else ops.time_mask(lengths, x.shape[1])
    return positions, PositionCarry(*positions.after(carry, taken))
