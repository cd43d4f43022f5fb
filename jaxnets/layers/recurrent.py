"""Recurrent layers with their parameters; the mathematics is in `jaxnets.ops`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.ops import GRUCarry, LSTMCarry, RNNCarry
from jaxnets.ops._convolution_geometry import accumulation_dtype
from jaxnets.ops._recurrent_call import check_time, check_x, states
from jaxnets.ops._recurrent_cells import Activation
from jaxnets.ops.recurrent import Implementation
from jaxnets.typing import Precision

Initializer = Callable[..., Array]


class RNN(nn.Module):
    """A plain recurrent network: h_t = activation(x_t kernel + h_{t-1} recurrent_kernel + bias).

    Parameters: `kernel` [D, features], `recurrent_kernel` [features, features] and `bias` [features]; with
    `learned_carry` also `initial_h` [features].

    Attributes:
      features: Width of the state and of the output.
      activation: "tanh" or "relu".
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. States are in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      recurrent_kernel_init: Initialiser of the recurrent kernel.
      bias_init: Initialiser of the bias.
      carry_init: Initialiser of the learned carry.
      checkpoint_every: See `ops.lstm`.
      implementation: See `ops.lstm`.

    References:
      Elman, 1990. Finding structure in time.

    >>> layer = RNN(features=8)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 8), (2, 8))
    """

    features: int
    activation: Activation = "tanh"
    learned_carry: bool = False
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros
    carry_init: Initializer = nn.initializers.zeros
    checkpoint_every: int | None = None
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: RNNCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], RNNCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        del train
        check(self, x, lengths, starts, carry, RNNCarry)
        x, params = parameters(self, x, gates=1)
        return ops.rnn(
            params,
            x,
            activation=self.activation,
            lengths=lengths,
            starts=starts,
            carry=carry,
            initial_carry=learned(self, x, RNNCarry),
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
            checkpoint_every=self.checkpoint_every,
        )


class LSTM(nn.Module):
    """Long short-term memory.

    Parameters: `kernel` [D, 4 features], `recurrent_kernel` [features, 4 features] and `bias` [4 features], gates
    ordered i, f, g, o; with `learned_carry` also `initial_h` and `initial_c` [features].

    Attributes:
      features: Width of the state and of the output.
      forget_bias: Added to the forget gate's bias when it is made: at 1 the memory is kept at first.
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. States are in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      recurrent_kernel_init: Initialiser of each gate's part [features, features] of the recurrent kernel.
      bias_init: Initialiser of the bias.
      carry_init: Initialiser of the learned carry.
      checkpoint_every: See `ops.lstm`.
      implementation: See `ops.lstm`.

    References:
      Hochreiter and Schmidhuber, 1997. Long short-term memory.
      Jozefowicz, Zaremba and Sutskever, 2015. An empirical exploration of recurrent network architectures.

    >>> layer = LSTM(features=8)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.c.shape, variables["params"]["kernel"].shape
    ((2, 5, 8), (2, 8), (3, 32))
    """

    features: int
    forget_bias: float = 1.0
    learned_carry: bool = False
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros
    carry_init: Initializer = nn.initializers.zeros
    checkpoint_every: int | None = None
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: LSTMCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], LSTMCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        del train
        check(self, x, lengths, starts, carry, LSTMCarry)
        x, params = parameters(self, x, gates=4, offsets=(0.0, self.forget_bias, 0.0, 0.0))
        return ops.lstm(
            params,
            x,
            lengths=lengths,
            starts=starts,
            carry=carry,
            initial_carry=learned(self, x, LSTMCarry),
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
            checkpoint_every=self.checkpoint_every,
        )


class GRU(nn.Module):
    """Gated recurrent unit, reset after the product.

    Parameters: `kernel` [D, 3 features], `recurrent_kernel` [features, 3 features], `bias` [3 features] and
    `recurrent_bias` [features], gates ordered r, z, n; with `learned_carry` also `initial_h` [features].

    Attributes:
      features: Width of the state and of the output.
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. States are in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      recurrent_kernel_init: Initialiser of each gate's part [features, features] of the recurrent kernel.
      bias_init: Initialiser of the biases.
      carry_init: Initialiser of the learned carry.
      checkpoint_every: See `ops.lstm`.
      implementation: See `ops.lstm`.

    References:
      Cho et al., 2014. Learning phrase representations using RNN encoder-decoder for statistical machine translation.

    >>> layer = GRU(features=8)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 8), (2, 8))
    """

    features: int
    learned_carry: bool = False
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros
    carry_init: Initializer = nn.initializers.zeros
    checkpoint_every: int | None = None
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: GRUCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], GRUCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        del train
        check(self, x, lengths, starts, carry, GRUCarry)
        x, params = parameters(self, x, gates=3)
        bias = self.param("recurrent_bias", self.bias_init, (self.features,), self.param_dtype)
        return ops.gru(
            {**params, "recurrent_bias": jnp.asarray(bias, x.dtype)},
            x,
            lengths=lengths,
            starts=starts,
            carry=carry,
            initial_carry=learned(self, x, GRUCarry),
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
            checkpoint_every=self.checkpoint_every,
        )


def label(layer: nn.Module) -> str:
    """The layer's class, and where it is in the model that it is part of."""
    path = "/".join(layer.path)
    return f"{type(layer).__name__} ({path})" if path else type(layer).__name__


def check(layer: Any, x: Array, lengths: Array | None, starts: Array | None, carry: Any, kind: type[Any]) -> None:
    """Checks the input of a recurrent layer, before any parameter is made."""
    name = label(layer)
    if layer.features < 1:
        raise ValueError(f"{name}: features wants at least 1 but is {layer.features}")
    check_x(name, x, rank=3)
    check_time(name, x, lengths, starts, layer.checkpoint_every)
    leaf = jax.ShapeDtypeStruct((layer.features,), state_dtype(layer, x))
    states(name, kind(*(leaf for _ in kind._fields)), x.shape[0], carry, None)


def parameters(
    layer: Any, x: Array, gates: int, offsets: tuple[float, ...] | None = None
) -> tuple[Array, dict[str, Array]]:
    """x, `kernel`, `recurrent_kernel` and `bias` in the type to compute in; `offsets` go on the gates' biases."""
    hidden, dtype = layer.features, x.dtype if layer.dtype is None else layer.dtype
    shape = (x.shape[-1], gates * hidden)
    if layer.has_variable("params", "kernel"):
        stored: tuple[int, ...] = layer.get_variable("params", "kernel").shape
        if stored != shape:
            raise ValueError(
                f"{label(layer)}: x has {x.shape[-1]} features, which take a kernel {shape}, but params['kernel'] is "
                f"{stored} (x.shape={x.shape})"
            )

    def recurrent_kernel(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([layer.recurrent_kernel_init(k, (hidden, hidden), dtype) for k in keys], axis=1)

    def bias(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
        made = layer.bias_init(key, shape, dtype)
        return made if offsets is None else made + jnp.repeat(jnp.array(offsets, dtype), hidden)

    made = {
        "kernel": layer.param("kernel", layer.kernel_init, shape, layer.param_dtype),
        "recurrent_kernel": layer.param("recurrent_kernel", recurrent_kernel, (hidden, shape[1]), layer.param_dtype),
        "bias": layer.param("bias", bias, shape[1:], layer.param_dtype),
    }
    return jnp.asarray(x, dtype), {name: jnp.asarray(param, dtype) for name, param in made.items()}


def learned(layer: Any, x: Array, kind: type[Any]) -> Any:
    """The learned initial carry, leaves [features], or None for zeros."""
    if not layer.learned_carry:
        return None
    dtype = state_dtype(layer, x)
    names = [f"initial_{field}" for field in kind._fields]
    leaves = [layer.param(name, layer.carry_init, (layer.features,), layer.param_dtype) for name in names]
    return kind(*(jnp.asarray(leaf, dtype) for leaf in leaves))


def state_dtype(layer: Any, x: Array) -> Any:
    """What states are kept in: at least float32."""
    return accumulation_dtype(jnp.dtype(x.dtype if layer.dtype is None else layer.dtype))
