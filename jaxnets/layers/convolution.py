"""Convolutions with their parameters; the mathematics is in `jaxnets.ops`."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnets import ops
from jaxnets.ops.convolution import Implementation
from jaxnets.typing import Padding, Precision

Initializer = Callable[..., Array]


class Conv(nn.Module):
    """Convolution over the spatial axes of x [B, *spatial, C]: one, two or three of them.

    Parameters: `kernel` [*window, C // groups, features] and `bias` [features], as in `flax.linen.Conv`.

    Attributes:
      features: Channels of the output.
      kernel_size: Size of the window: one number for every spatial axis, or one for each.
      strides: Step of the window, likewise.
      padding: "SAME", "VALID", "CAUSAL", a number, or (before, after) for each spatial axis; see `ops.conv`.
      dilation: Distance between the elements that the window sees.
      groups: Parts of the channels that are convolved apart; as many as there are channels is depthwise.
      use_bias: Whether to add a bias.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.conv`.

    >>> layer = Conv(features=8, kernel_size=3, strides=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((2, 14, 14, 8), (3, 3, 1, 8))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *spatial_out f"]:
        """Convolves x.

        Raises:
          ValueError: If the shape of x does not fit the window, the groups or the kernel.
          TypeError: If x is not floating.
        """
        window, channels = _window(self, x), x.shape[-1]
        if self.groups < 1 or channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{_label(self)}: groups={self.groups} must divide x's {channels} channels and features={self.features}"
            )
        kernel, bias = _parameters(self, (*window, channels // self.groups, self.features), x)
        return ops.conv(
            jnp.asarray(x, kernel.dtype),
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            precision=self.precision,
            implementation=self.implementation,
        )


class ConvTranspose(nn.Module):
    """Transposed convolution over the spatial axes of x [B, *spatial, C], which strides make larger.

    Parameters: `kernel` [*window, C, features] and `bias` [features], as in `flax.linen.ConvTranspose`.

    Attributes:
      features: Channels of the output.
      kernel_size: Size of the window: one number for every spatial axis, or one for each.
      strides: How much larger the output is, likewise.
      padding: See `ops.conv_transpose`.
      dilation: Distance between the elements of the window.
      use_bias: Whether to add a bias.
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.conv_transpose`.

    >>> layer = ConvTranspose(features=8, kernel_size=4, strides=2)
    >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 7, 7, 3)))[0].shape
    (2, 14, 14, 8)
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *spatial_out f"]:
        """Convolves x, transposed.

        Raises:
          ValueError: If the shape of x does not fit the window or the kernel.
          TypeError: If x is not floating.
        """
        kernel, bias = _parameters(self, (*_window(self, x), x.shape[-1], self.features), x)
        return ops.conv_transpose(
            jnp.asarray(x, kernel.dtype),
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            precision=self.precision,
            implementation=self.implementation,
        )


def _label(layer: nn.Module) -> str:
    """The layer's class, and where it is in the model that it is part of."""
    path = "/".join(layer.path)
    return f"{type(layer).__name__} ({path})" if path else type(layer).__name__


def _window(layer: Conv | ConvTranspose, x: Array) -> tuple[int, ...]:
    """Checks x, and gives the window's size for each of its spatial axes."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{_label(layer)}: x must be floating, got {x.dtype} (scale integers, such as pixels, first)")
    rank = x.ndim - 2
    if rank not in (1, 2, 3):
        raise ValueError(f"{_label(layer)}: x must be [B, *spatial, C] with 1 to 3 spatial axes, got x.shape={x.shape}")
    size = layer.kernel_size
    window = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(window) != rank or any(k < 1 for k in window):
        raise ValueError(
            f"{_label(layer)}: kernel_size={size} must be {rank} positive integers, or one for all; x.shape={x.shape}"
        )
    return window


def _parameters(layer: Conv | ConvTranspose, shape: tuple[int, ...], x: Array) -> tuple[Array, Array | None]:
    """Kernel and bias in the type to compute in; a stored kernel of another shape is named before Linen does."""
    if layer.has_variable("params", "kernel"):
        stored: tuple[int, ...] = layer.get_variable("params", "kernel").shape
        if stored != shape:
            raise ValueError(
                f"{_label(layer)}: x has {x.shape[-1]} channels, which take a kernel {shape}, but params['kernel'] is "
                f"{stored} (x.shape={x.shape})"
            )
    dtype = x.dtype if layer.dtype is None else layer.dtype
    kernel = layer.param("kernel", layer.kernel_init, shape, layer.param_dtype)
    bias = layer.param("bias", layer.bias_init, shape[-1:], layer.param_dtype) if layer.use_bias else None
    return jnp.asarray(kernel, dtype), bias if bias is None else jnp.asarray(bias, dtype)
