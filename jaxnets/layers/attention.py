"""Attention layers with their parameters; the mathematics is in `jaxnets.ops`."""

from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.position import BiasPosition, RotatingPosition
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.ops.attention import Implementation
from jaxnets.ops.kv_cache import KVCache, check_cache
from jaxnets.typing import Precision


class SelfAttention(nn.Module):
    """Attention of each step to the steps before it (or to all) of its own sequence.

    Parameters: `query`, `key`, `value` and `out`, each with a `kernel` and, with `use_bias`, a `bias`; those of
    `position`, if it has any.

    Attributes:
      num_heads: Heads of queries.
      head_dim: Width of a head; None means that of x divided by `num_heads`.
      num_kv_heads: Heads of keys and values, a divisor of `num_heads`, which is what None means.
      causal: Whether a step attends to itself and what comes before it. Only then is there a carry, a `KVCache`.
      window: Steps that a step attends to, itself and those before it; None means all. The cache is then a ring.
      position: What is told of positions: `Rotary()`, `ALiBi()`, `RelativeBias()`, or None.
      features: Width of the output; None means that of x.
      dropout: Rate of dropout on the weights where `train` is set (key: "dropout").
      soft_cap: Bound of the scores, or None.
      use_bias: Whether the projections have a bias.
      dtype: Type to compute in and of the output; None follows x. The softmax is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernels.
      implementation: See `ops.dot_product_attention`.

    References:
      Vaswani et al., 2017. Attention is all you need.
      Ainslie et al., 2023. GQA: training generalized multi-query Transformer models from multi-head checkpoints.

    >>> layer = SelfAttention(num_heads=2)
    >>> (y, cache), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, cache.k.shape, cache.length
    ((2, 5, 8), (2, 2, 5, 4), Array([5, 5], dtype=int32))
    """

    num_heads: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    causal: bool = True
    window: int | None = None
    position: Any = None
    features: int | None = None
    dropout: float = 0.0
    soft_cap: float | None = None
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
        carry: KVCache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], Any]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit, or the cache has no room for the steps.
        """
        head_dim, kv_heads = self._check(x, lengths, starts, carry)
        x = ops.zero_padding(x, lengths).astype(x.dtype if self.dtype is None else self.dtype)

        def heads(name: str, count: int) -> Array:
            y = self._dense(count * head_dim, x.dtype, name)(x)
            return y.reshape(*y.shape[:2], count, head_dim)

        q, k, v = heads("query", self.num_heads), heads("key", kv_heads), heads("value", kv_heads)
        positions = ops.step_positions(x.shape[0], x.shape[1], carry, lengths=lengths, starts=starts)
        if isinstance(self.position, RotatingPosition):
            q, k = (self.position.rotate(part, positions.relative) for part in (q, k))
        options: dict[str, Any] = {
            "soft_cap": self.soft_cap,
            "dropout": self.dropout if train else 0.0,
            "key": self.make_rng("dropout") if train and self.dropout else None,
            "precision": self.precision,
            "implementation": self.implementation,
        }
        after: Any = ()
        if self.causal:
            y, after = ops.cached_attention(
                q, k, v, carry, window=self.window, lengths=lengths, starts=starts, bias=self._bias(), **options
            )
        else:
            bias, steps = self._bias(), jnp.arange(x.shape[1], dtype=jnp.int32)[None, :]
            y = ops.dot_product_attention(
                q,
                k,
                v,
                lengths=lengths,
                segment_ids=None if starts is None else jnp.cumsum(starts, axis=1, dtype=jnp.int32),
                bias=None if bias is None else bias(steps, steps),
                **options,
            )
        y = self._dense(self.features or x.shape[-1], x.dtype, "out")(
            y.reshape(*y.shape[:2], self.num_heads * head_dim)
        )
        return ops.zero_padding(y, lengths), after

    def initial_carry(self, spec: Any) -> Any:
        """An empty cache with room for the steps of an x like `spec`: any number of them where there is a window."""
        if not self.causal:
            return ()
        head_dim, kv_heads = head_sizes(self, spec)
        capacity = spec.shape[1] if self.window is None else self.window
        dtype = spec.dtype if self.dtype is None else self.dtype
        return ops.empty_cache(spec.shape[0], kv_heads, capacity, head_dim, dtype=dtype)

    def _bias(self) -> Any:
        """Makes the bias of positions, if there is one."""
        if isinstance(self.position, BiasPosition):
            position = self.position
            return lambda queries, keys: position.bias(self.num_heads, queries, keys)
        return None

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

    def _check(self, x: Array, lengths: Any, starts: Any, carry: Any) -> tuple[int, int]:
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        head_dim, kv_heads = head_sizes(self, x)
        if self.window is not None and self.window < 1:
            raise ValueError(f"{name}: window wants at least 1 step but is {self.window}")
        if self.window is not None and not self.causal:
            raise ValueError(f"{name}: window={self.window} looks back alone, and wants causal=True")
        if not self.causal:
            if carry is not None and carry != ():
                raise ValueError(
                    f"{name}: carry is {type(carry).__name__} but wants None or (): attention to all steps cannot go "
                    "on from a carry"
                )
        elif carry is not None:
            new = *x.shape[:2], kv_heads, head_dim
            check_cache(name, "carry", carry, new, new, self.window)
        return head_dim, kv_heads


def head_sizes(layer: Any, x: Any) -> tuple[int, int]:
    """Width of a head, and heads of keys, of a layer of attention; checks its attributes."""
    name, heads = label(layer), layer.num_heads
    kv_heads = heads if layer.num_kv_heads is None else layer.num_kv_heads
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"{name}: num_heads is {heads} but wants a multiple of num_kv_heads, which is {kv_heads}")
    if not 0 <= layer.dropout < 1:
        raise ValueError(f"{name}: dropout wants a rate from 0 to below 1 but is {layer.dropout}")
    if layer.head_dim is not None:
        return layer.head_dim, kv_heads
    if x.shape[-1] % heads:
        raise ValueError(
            f"{name}: x has {x.shape[-1]} features but wants a multiple of num_heads={heads}, or head_dim "
            f"(x.shape={x.shape})"
        )
    return x.shape[-1] // heads, kv_heads
