"""Attention of the recurrent encoder-decoder to its memory, with its parameters; see `jaxnets.ops.alignment`."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.cross_attention import check_memory, clean_memory
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.typing import Precision


class AlignmentCache(NamedTuple):
    """What was computed of a memory: the carry of additive and multiplicative attention to it.

    Attributes:
      k: Its keys, projected once.
      v: The memory itself, 0 in its padding.
      lengths: Steps of the memory that count.
    """

    k: Float[Array, "b s a"]
    v: Float[Array, "b s e"]
    lengths: Int[Array, " b"]


class AdditiveAttention(nn.Module):
    """Each step's mean of a memory, weighted by the softmax of score . tanh(x query_kernel + memory key_kernel + bias).

    Parameters: `query_kernel` [D, features], `key_kernel` [E, features], `bias` [features] and `score` [features].

    Attributes:
      features: Width of the network that scores.
      dtype: Type to compute in and of the output; None follows x. The softmax is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernels and of the score.

    References:
      Bahdanau, Cho and Bengio, 2015. Neural machine translation by jointly learning to align and translate.

    >>> layer, memory = AdditiveAttention(features=4), jnp.ones((2, 7, 6))
    >>> (context, cache), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)), memory=memory)
    >>> context.shape, cache.k.shape
    ((2, 5, 6), (2, 7, 4))
    """

    features: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: AlignmentCache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t e"], AlignmentCache]:
        """Runs over the steps of x; the memory is given once, and is in the carry from then on.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit, there is neither memory nor carry, or both, or there are `starts`.
        """
        if self.features < 1:
            raise ValueError(f"{label(self)}: features wants at least 1 but is {self.features}")

        def score(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
            return self.kernel_init(key, (*shape, 1), dtype)[:, 0]

        def params(width: int) -> dict[str, Any]:
            size, dtype = self.features, self.param_dtype
            return {
                "query_kernel": self.param("query_kernel", self.kernel_init, (x.shape[-1], size), dtype),
                "key_kernel": self.param("key_kernel", self.kernel_init, (width, size), dtype),
                "bias": self.param("bias", nn.initializers.zeros, (size,), dtype),
                "score": self.param("score", score, (size,), dtype),
            }

        given = memory, memory_lengths, lengths, starts, carry
        return _attended(self, ops.additive_attention, ops.additive_keys, params, x, *given)


class MultiplicativeAttention(nn.Module):
    """Each step's mean of a memory, weighted by the softmax of x kernel memory.

    Parameters: `kernel` [D, E].

    Attributes:
      dtype: Type to compute in and of the output; None follows x. The softmax is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.

    References:
      Luong, Pham and Manning, 2015. Effective approaches to attention-based neural machine translation ("general").

    >>> layer, memory = MultiplicativeAttention(), jnp.ones((2, 7, 6))
    >>> (context, cache), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)), memory=memory)
    >>> context.shape, cache.k.shape
    ((2, 5, 6), (2, 7, 8))
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: AlignmentCache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t e"], AlignmentCache]:
        """Runs over the steps of x, as `AdditiveAttention` does."""

        def params(width: int) -> dict[str, Any]:
            return {"kernel": self.param("kernel", self.kernel_init, (x.shape[-1], width), self.param_dtype)}

        given = memory, memory_lengths, lengths, starts, carry
        return _attended(self, ops.multiplicative_attention, ops.multiplicative_keys, params, x, *given)


def _attended(
    layer: Any,
    attend: Callable[..., tuple[Array, Array]],
    project: Callable[..., Array],
    make_params: Callable[[int], dict[str, Any]],
    x: Array,
    memory: Array | None,
    memory_lengths: Array | None,
    lengths: Array | None,
    starts: Array | None,
    carry: Any,
) -> tuple[Array, Any]:
    """The context of every step; parameters are made for a memory of so many features."""
    name = label(layer)
    check_x(name, x, rank=3)
    check_time(name, x, lengths, starts, None)
    check_memory(name, x, memory, memory_lengths, starts, carry)
    if carry is not None and not isinstance(carry, AlignmentCache):
        raise TypeError(f"{name}: carry wants an AlignmentCache but is {type(carry).__name__}")
    dtype = x.dtype if layer.dtype is None else layer.dtype
    width = (carry.v if carry is not None else cast("Array", memory)).shape[-1]
    params = {key: jnp.asarray(param, dtype) for key, param in make_params(width).items()}
    if carry is None:
        memory, counted = clean_memory(cast("Array", memory).astype(dtype), memory_lengths)
        keys = project(params, memory, key_lengths=counted, precision=layer.precision)
        carry = AlignmentCache(keys, memory, counted)
    context, _ = attend(
        params,
        x.astype(dtype),
        carry.k.astype(dtype),
        carry.v.astype(dtype),
        lengths=lengths,
        key_lengths=carry.lengths,
        projected=True,
        precision=layer.precision,
    )
    return context, carry
