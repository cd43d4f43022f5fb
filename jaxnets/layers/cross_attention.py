"""Attention to a memory, such as the states of an encoder."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.attention import head_sizes
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.ops.attention import Implementation
from jaxnets.typing import Precision


class MemoryCache(NamedTuple):
    """What was computed of a memory: the carry of attention to it.

    Attributes:
      k: Keys [B, S, K, H].
      v: Values [B, S, K, H].
      lengths: Steps of the memory that count.
    """

    k: Float[Array, "b s k h"]
    v: Float[Array, "b s k h"]
    lengths: Int[Array, " b"]


class CrossAttention(nn.Module):
    """Attention of each step to a memory, all of it.

    Parameters: `query`, `key`, `value` and `out`, each with a `kernel` and, with `use_bias`, a `bias`.

    Attributes:
      num_heads: Heads of queries.
      head_dim: Width of a head; None means that of x divided by `num_heads`.
      num_kv_heads: Heads of keys and values, a divisor of `num_heads`, which is what None means.
      features: Width of the output; None means that of x.
      dropout: Rate of dropout on the weights where `train` is set (key: "dropout").
      use_bias: Whether the projections have a bias.
      dtype: Type to compute in and of the output; None follows x. The softmax is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernels.
      implementation: See `ops.dot_product_attention`.

    References:
      Vaswani et al., 2017. Attention is all you need.

    >>> layer, memory = CrossAttention(num_heads=2), jnp.ones((2, 7, 6))
    >>> (y, cache), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)), memory=memory)
    >>> y.shape, cache.k.shape
    ((2, 5, 8), (2, 7, 2, 4))
    """

    num_heads: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    features: int | None = None
    dropout: float = 0.0
    use_bias: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: MemoryCache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], MemoryCache]:
        """Runs over the steps of x; the memory is given once, and is in the carry from then on.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit, there is neither memory nor carry, or both, or there are `starts`.
        """
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        head_dim, kv_heads = head_sizes(self, x)
        check_memory(name, x, memory, memory_lengths, starts, carry)
        dtype = x.dtype if self.dtype is None else self.dtype
        x = ops.zero_padding(x, lengths).astype(dtype)

        def heads(name: str, x: Array, count: int) -> Array:
            y = self._dense(count * head_dim, dtype, name)(x)
            return y.reshape(*y.shape[:2], count, head_dim)

        if memory is not None:
            memory, counted = clean_memory(memory, memory_lengths)
            memory = memory.astype(dtype)
            carry = MemoryCache(heads("key", memory, kv_heads), heads("value", memory, kv_heads), counted)
        assert carry is not None
        y = ops.dot_product_attention(
            heads("query", x, self.num_heads),
            carry.k.astype(dtype),
            carry.v.astype(dtype),
            lengths=jnp.full(x.shape[0], x.shape[1], jnp.int32) if lengths is None else lengths,
            key_lengths=carry.lengths,
            dropout=self.dropout if train else 0.0,
            key=self.make_rng("dropout") if train and self.dropout else None,
            precision=self.precision,
            implementation=self.implementation,
        )
        y = self._dense(self.features or x.shape[-1], dtype, "out")(y.reshape(*y.shape[:2], self.num_heads * head_dim))
        return ops.zero_padding(y, lengths), carry

    def _dense(self, features: int, dtype: Any, name: str) -> nn.Dense:
        return Dense(
            features,
            use_bias=self.use_bias,
            dtype=dtype,
            param_dtype=self.param_dtype,
            precision=cast("Any", self.precision),
            kernel_init=self.kernel_init,
            name=name,
        )


def check_memory(
    name: str, x: Array, memory: Array | None, memory_lengths: Array | None, starts: Array | None, carry: Any
) -> None:
    """Checks what a layer that attends to a memory is given beside x [B, T, D]."""
    if starts is not None:
        raise ValueError(f"{name}: starts wants None: sequences packed in one row would share its memory")
    if (memory is None) == (carry is None):
        raise ValueError(f"{name}: wants either memory or a carry, but has {'neither' if memory is None else 'both'}")
    if memory is not None:
        check_x(f"{name}, memory", memory, rank=3)
        check_time(f"{name}, memory", memory, memory_lengths, None, None)
        if memory.shape[0] != x.shape[0]:
            raise ValueError(f"{name}: memory has {memory.shape[0]} rows but x {x.shape[0]}")


def clean_memory(memory: Array, lengths: Array | None) -> tuple[Array, Array]:
    """A memory without its padding, and how many of its steps count."""
    counted = jnp.full(memory.shape[0], memory.shape[1], jnp.int32) if lengths is None else lengths.astype(jnp.int32)
    return ops.zero_padding(memory, lengths), counted
