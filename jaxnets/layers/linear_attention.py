"""Causal linear attention with its parameters: its carry does not grow; the mathematics is in `jaxnets.ops`."""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops import LinearAttentionCarry
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.ops.linear_attention import Implementation
from jaxnets.typing import Precision

Decay = Literal["none", "fixed", "gated"]


class LinearAttention(nn.Module):
    """Attention weighted by products of features of query and key, run as a recurrence; see `ops.linear_attention`.

    Parameters: `query`, `key`, `value` and `out`, each with a `kernel` and, with `use_bias`, a `bias`; with the decay
    "gated" also `gate`, with a `kernel` [D, num_heads] and a `bias`.

    Attributes:
      num_heads: Number of heads.
      head_dim: Width of a head; None means that of x divided by `num_heads`.
      decay: How a key fades with every step after it: "none", not at all; "fixed", by 1 - 2^(-5 - n) in head n;
        "gated", by that step's sigmoid(x gate)^(1/16).
      feature_map: Makes the features of queries and keys, from [..., H] to [..., M].
      normalize: Whether the weights of a query add up to 1.
      features: Width of the output; None means that of x.
      use_bias: Whether the projections have a bias.
      dtype: Type to compute in and of the output; None follows x. Sums are in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernels.
      implementation: See `ops.linear_attention`.

    References:
      Katharopoulos et al., 2020. Transformers are RNNs: fast autoregressive transformers with linear attention.
      Sun et al., 2023. Retentive network: a successor to Transformer for large language models (the fixed decay).
      Yang et al., 2024. Gated linear attention transformers with hardware-efficient training (the gate's root).

    >>> layer = LinearAttention(num_heads=2, decay="gated")
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, carry.kv.shape, carry.normalizer.shape
    ((2, 5, 8), (2, 2, 4, 4), (2, 2, 4))
    """

    num_heads: int
    head_dim: int | None = None
    decay: Decay = "none"
    feature_map: Callable[[Array], Array] = ops.elu_plus_one
    normalize: bool = True
    features: int | None = None
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
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: LinearAttentionCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], LinearAttentionCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        head_dim = self._check(x, lengths, starts)
        x = ops.zero_padding(x, lengths).astype(x.dtype if self.dtype is None else self.dtype)

        def heads(name: str) -> Array:
            y = self._dense(self.num_heads * head_dim, x.dtype, name)(x)
            return y.reshape(*y.shape[:2], self.num_heads, head_dim)

        y, carry = ops.linear_attention(
            heads("query"),
            heads("key"),
            heads("value"),
            log_decay=self._log_decay(x),
            lengths=lengths,
            starts=starts,
            carry=carry,
            feature_map=self.feature_map,
            normalize=self.normalize,
            precision=self.precision,
            implementation=self.implementation,
        )
        y = self._dense(self.features or x.shape[-1], x.dtype, "out")(
            y.reshape(*y.shape[:2], self.num_heads * head_dim)
        )
        return ops.zero_padding(y, lengths), carry

    def _log_decay(self, x: Array) -> Array | None:
        dtype = accumulation_dtype(x.dtype)
        if self.decay == "none":
            return None
        if self.decay == "fixed":
            return jnp.log1p(-jnp.exp2(-5 - jnp.arange(self.num_heads, dtype=dtype)))
        gate = self._dense(self.num_heads, x.dtype, "gate", use_bias=True)(x)
        return jax.nn.log_sigmoid(gate.astype(dtype)) / 16

    def _dense(self, features: int, dtype: Any, name: str, use_bias: bool | None = None) -> nn.Dense:
        return Dense(
            features,
            use_bias=self.use_bias if use_bias is None else use_bias,
            dtype=dtype,
            param_dtype=self.param_dtype,
            precision=cast("Any", self.precision),
            kernel_init=self.kernel_init,
            name=name,
        )

    def _check(self, x: Array, lengths: Array | None, starts: Array | None) -> int:
        """Checks the input; returns the width of a head."""
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        if self.decay not in get_args(Decay):
            raise ValueError(f"{name}: decay is {self.decay!r} but wants one of {', '.join(get_args(Decay))}")
        if self.num_heads < 1 or (self.head_dim is None and x.shape[-1] % self.num_heads):
            raise ValueError(
                f"{name}: x has {x.shape[-1]} features but wants a multiple of num_heads={self.num_heads}, or head_dim "
                f"(x.shape={x.shape})"
            )
        return x.shape[-1] // self.num_heads if self.head_dim is None else self.head_dim
