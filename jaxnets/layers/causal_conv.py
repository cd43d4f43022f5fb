"""A convolution over time that sees no later step, and goes on from a carry."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.recurrent import Initializer, label
from jaxnets.ops._dtype import widened
from jaxnets.ops._recurrent_call import check_time, check_x
from jaxnets.ops.convolution import Implementation
from jaxnets.typing import Precision


class CausalConvCarry(NamedTuple):
    """The last steps of x [B, (kernel_size - 1) dilation, D]; zeros stand for what the sequence has not had."""

    x: Float[Array, "b p d"]


class CausalConv(nn.Module):
    """Convolution over time: y_t = sum_j x_{t - j dilation} kernel_{kernel_size - 1 - j} + bias.

    Parameters: `kernel` [kernel_size, D // groups, features] and `bias` [features], as in `flax.linen.Conv`.

    Attributes:
      features: Width of the output.
      kernel_size: Steps that the window sees.
      dilation: Distance between them.
      groups: Parts of the features that are convolved apart; as many as x has is depthwise.
      use_bias: Whether to add a bias.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.conv`.

    References:
      Bai, Kolter and Koltun, 2018. An empirical evaluation of generic convolutional and recurrent networks for sequence
      modeling.

    >>> layer = CausalConv(features=4, kernel_size=3)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, carry.x.shape
    ((2, 5, 4), (2, 2, 8))
    """

    features: int
    kernel_size: int
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: CausalConvCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], CausalConvCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        self._check(x, lengths, starts, carry)
        batch, time, width = x.shape
        dtype, past = x.dtype if self.dtype is None else self.dtype, (self.kernel_size - 1) * self.dilation
        shape = (self.kernel_size, width // self.groups, self.features)
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, shape, self.param_dtype), dtype)
        bias = None
        if self.use_bias:
            bias = jnp.asarray(self.param("bias", self.bias_init, shape[-1:], self.param_dtype), dtype)
        before = jnp.zeros((batch, past, width), dtype) if carry is None else carry.x.astype(dtype)
        seen = jnp.concatenate([before, ops.zero_padding(x, lengths).astype(dtype)], axis=1)
        if starts is None:
            y = ops.conv(
                seen,
                kernel,
                bias,
                padding="VALID",
                dilation=self.dilation,
                groups=self.groups,
                precision=self.precision,
                implementation=self.implementation,
            )
            return ops.zero_padding(y, lengths), CausalConvCarry(_last(seen, past, lengths, None))
        begun = _last_starts(starts if lengths is None else starts & ops.time_mask(lengths, time))
        y = self._in_sequences(seen, begun, kernel, time)
        y = y if bias is None else y + bias.reshape(1, 1, -1)
        return ops.zero_padding(y, lengths), CausalConvCarry(_last(seen, past, lengths, begun))

    def _in_sequences(self, seen: Array, begun: Array, kernel: Array, time: Any) -> Array:
        """The convolution where each step sees its own sequence alone, tap by tap."""
        steps = jnp.arange(time, dtype=jnp.int32)[None, :]
        parts = kernel.reshape(*kernel.shape[:2], self.groups, -1).swapaxes(1, 2)
        taps = []
        for j in range(self.kernel_size):
            back = (self.kernel_size - 1 - j) * self.dilation
            tap = jnp.where((steps - back >= begun)[..., None], seen[:, j * self.dilation :][:, :time], 0)
            tap = tap.reshape(*tap.shape[:2], self.groups, parts.shape[2])
            taps.append(jnp.einsum("btgd,gdf->btgf", tap, parts[j], precision=self.precision))
        return sum(taps[1:], taps[0]).reshape(*tap.shape[:2], self.features)

    def _check(self, x: Array, lengths: Array | None, starts: Array | None, carry: CausalConvCarry | None) -> None:
        name = label(self)
        check_x(name, x, rank=3)
        check_time(name, x, lengths, starts, None)
        if min(self.features, self.kernel_size, self.dilation, self.groups) < 1:
            raise ValueError(
                f"{name}: features, kernel_size, dilation and groups want at least 1 but are {self.features}, "
                f"{self.kernel_size}, {self.dilation} and {self.groups}"
            )
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise ValueError(
                f"{name}: groups={self.groups} must divide x's {x.shape[-1]} features and features={self.features}"
            )
        wanted = x.shape[0], (self.kernel_size - 1) * self.dilation, x.shape[-1]
        if carry is not None and carry.x.shape != wanted:
            raise ValueError(f"{name}: carry.x wants shape {wanted} but has {carry.x.shape}")


def _last_starts(starts: Array) -> Array:
    """For each step the last one at which a sequence began; far back if there is none."""
    steps = jnp.arange(starts.shape[1], dtype=jnp.int32)[None, :]
    return lax.cummax(jnp.where(starts, steps, jnp.full((), jnp.iinfo(jnp.int32).min, jnp.int32)), axis=1)


def _last(seen: Array, past: int, lengths: Array | None, begun: Array | None) -> Array:
    """The last `past` steps that count, with zeros for those before the sequence that is going on."""
    batch, time = seen.shape[0], seen.shape[1] - past
    taken = jnp.full(batch, time, jnp.int32) if lengths is None else jnp.clip(lengths, 0, time).astype(jnp.int32)
    places = taken[:, None] + jnp.arange(past, dtype=jnp.int32)[None, :]
    last = widened(jnp.take_along_axis(seen, places[..., None], axis=1))
    if begun is None or (isinstance(time, int) and time == 0):
        return last
    latest = jnp.take_along_axis(begun, jnp.maximum(taken - 1, 0)[:, None], axis=1)
    own = (places - past >= latest) | (taken == 0)[:, None]
    return jnp.where(own[..., None], last, jnp.zeros((), last.dtype))
