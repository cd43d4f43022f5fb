"""A layer over time that looks into a memory at every step, which makes a decoder of a recurrent layer."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.layers.sequence import initial_carry_of
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.typing import Carry, Precision


class AttendingCarry(NamedTuple):
    """What `Attending` hands on.

    Attributes:
      layer: The layer's carry.
      memory: What was computed of the memory; None before there is one.
      fed: The last output, where the next step is fed with it, in at least float32; else ().
    """

    layer: Carry
    memory: Any
    fed: Any


class Attending(nn.Module):
    """A layer over time that looks into a memory: y_t = tanh(W [h_t, context_t]), where h_t is the layer's output.

    Parameters: those of `layer` and of `attention`, by these names, and W as the `kernel` of `out`.

    Attributes:
      layer: Any layer that keeps the sequence contract.
      attention: What makes the context of h_t and the memory: `AdditiveAttention`, `MultiplicativeAttention` or
        `CrossAttention`.
      features: Width of the output.
      feed: Whether the layer sees y_{t-1} beside x_t, and so knows where it has looked. The layer is then run step by
        step, and any noise of its own is drawn anew at each.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of W.
      precision: Precision of the product with W, as in `jax.lax`.
      kernel_init: Initialiser of W.

    References:
      Luong, Pham and Manning, 2015. Effective approaches to attention-based neural machine translation (`feed` is their
      input feeding).

    >>> layer = Attending(jn.layers.GRU(features=8), jn.layers.AdditiveAttention(features=4), features=3, feed=True)
    >>> x, memory = jnp.ones((2, 5, 2)), jnp.ones((2, 7, 6))
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), x, memory=memory)
    >>> y.shape, carry.layer.h.shape, carry.memory.k.shape, carry.fed.shape
    ((2, 5, 3), (2, 8), (2, 7, 4), (2, 3))
    """

    layer: Any
    attention: Any
    features: int
    feed: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: AttendingCarry | None = None,
        train: bool = False,
        memory: Float[Array, "b s e"] | None = None,
        memory_lengths: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t f"], AttendingCarry]:
        """Runs over the steps of x; sequences packed in one row look into one memory.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit, or there is neither a memory nor one in the carry, or both.
        """
        self._check(x, lengths, starts, carry)
        x = ops.zero_padding(x, lengths).astype(x.dtype if self.dtype is None else self.dtype)
        own, cache, fed = AttendingCarry(None, None, self._unfed(x)) if carry is None else carry
        attended = {"memory": memory, "memory_lengths": memory_lengths}
        if not self.feed:
            h, own = self.layer(x, lengths=lengths, starts=starts, carry=own, train=train)
            y, cache = self._look(h, lengths, train, carry=cache, **attended)
            return y, AttendingCarry(own, cache, fed)

        # No steps at all make the state to begin with and the memory's keys.
        h, own = self.layer(_beside(x, fed)[:, :0], carry=own)
        _, cache = self.attention(h, carry=cache, **attended)

        def step(self: Any, before: Any, inputs: Any) -> Any:
            (own, fed), (x, taken, start) = before, inputs
            seen = fed if start is None else jnp.where(start[:, None], jnp.zeros_like(fed), fed)
            start = None if start is None else start[:, None]
            h, own = self.layer(_beside(x[:, None], seen), lengths=taken, starts=start, carry=own, train=train)
            y, _ = self._look(h, taken, train, carry=cache)
            return (own, jnp.where(taken[:, None] > 0, y[:, 0].astype(fed.dtype), fed)), y[:, 0]

        taken = jnp.ones(x.shape[:2], jnp.int32)
        if lengths is not None:
            taken = ops.time_mask(lengths, x.shape[1]).astype(jnp.int32)
        starts = None if starts is None else starts & (taken > 0)
        over_time = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False, "dropout": True}, in_axes=1, out_axes=1
        )
        (own, fed), y = over_time(self, (own, fed), (x, taken, starts))
        return y, AttendingCarry(own, cache, fed)

    def initial_carry(self, spec: jax.ShapeDtypeStruct) -> AttendingCarry:
        """The layer's; the part of the memory is None until there is one."""
        dtype = spec.dtype if self.dtype is None else self.dtype
        fed = self._unfed(jnp.zeros((spec.shape[0], 0, spec.shape[2]), dtype))
        width = spec.shape[2] + (self.features if self.feed else 0)
        return AttendingCarry(
            initial_carry_of(self.layer, jax.ShapeDtypeStruct((*spec.shape[:2], width), dtype)), None, fed
        )

    def _look(self, h: Array, lengths: Array | None, train: bool, **memory: Any) -> tuple[Array, Any]:
        """The layer's output with its context, as one vector."""
        context, cache = self.attention(h, lengths=lengths, train=train, **memory)
        out = Dense(
            self.features,
            use_bias=False,
            dtype=h.dtype,
            param_dtype=self.param_dtype,
            precision=cast("Any", self.precision),
            kernel_init=self.kernel_init,
            name="out",
        )
        return ops.zero_padding(nn.tanh(out(jnp.concatenate([h, context], axis=-1))), lengths), cache

    def _unfed(self, x: Array) -> Any:
        """What a sequence is fed with at first."""
        return jnp.zeros((x.shape[0], self.features), accumulation_dtype(x.dtype)) if self.feed else ()

    def _check(self, x: Array, lengths: Array | None, starts: Array | None, carry: Any) -> None:
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        if self.features < 1:
            raise ValueError(f"{name}: features wants at least 1 but is {self.features}")
        if carry is not None and not isinstance(carry, AttendingCarry):
            raise TypeError(f"{name}: carry wants an AttendingCarry but is {type(carry).__name__}")
        if carry is not None and isinstance(carry.fed, tuple) == self.feed:
            raise ValueError(f"{name}: carry.fed does not go with feed={self.feed}")


def _beside(x: Array, fed: Array) -> Array:
    """Each step of x with what it is fed with."""
    fed = jnp.broadcast_to(fed.astype(x.dtype)[:, None], (*x.shape[:2], fed.shape[-1]))
    return jnp.concatenate([x, fed], axis=-1)
