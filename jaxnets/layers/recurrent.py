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
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._recurrent_call import check_time, check_x, states
from jaxnets.ops._recurrent_cells import Activation
from jaxnets.ops._recurrent_noise import DropoutKind
from jaxnets.ops._recurrent_solvers import Implementation, LSTMImplementation
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
      recurrent_dropout: Rate of variational dropout where `train` is set (key: "dropout"): one part of the state is
        hidden from the recurrent kernel through a whole sequence.
      zoneout: Part of the state that stays as it was before a step: at random where `train` is set (key: "dropout"),
        else in expectation.
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
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
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
            recurrent_dropout=self.recurrent_dropout,
            zoneout=self.zoneout,
            key=noise_key(self, train),
        )


class LSTM(nn.Module):
    """Long short-term memory, with the variants of the papers, which may be combined; see `ops.lstm`.

    Parameters: `kernel` [D, 4 features], `recurrent_kernel` [features, 4 features] and `bias` [4 features], gates
    ordered i, f, g, o; with `learned_carry` also `initial_h` and `initial_c` [features]; with `peephole` also
    `peephole` [3 features]; with `projection` also `projection` [features, projection], which is then the width of h,
    and so of `recurrent_kernel` and `initial_h`; with `layer_norm` also `input_scale` and `recurrent_scale`
    [4 features], `cell_scale` and `cell_bias` [features]. With `coupled` there is no f: one gate less in all of these.

    Attributes:
      features: Width of the memory c, and, without a projection, of the output.
      forget_bias: Added to the forget gate's bias when it is made: at 1 the memory is kept at first.
      peephole: Whether the gates see the memory too.
      projection: Width of the output and of what goes on to the next step; None leaves it at `features`.
      layer_norm: Whether what x and h give to the gates, and the memory on its way out, is normalised.
      coupled: Whether the forget gate is 1 - i.
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      recurrent_dropout: Rate of dropout where `train` is set (key: "dropout").
      dropout_kind: "variational" hides one part of the state from the recurrent kernel through a whole sequence;
        "per_step" is dropout on what a step adds to the memory.
      zoneout: Part of h and c, or a pair of them, that stays as it was before a step: at random where `train` is set
        (key: "dropout"), else in expectation.
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
    peephole: bool = False
    projection: int | None = None
    layer_norm: bool = False
    coupled: bool = False
    learned_carry: bool = False
    recurrent_dropout: float = 0.0
    dropout_kind: DropoutKind = "variational"
    zoneout: float | tuple[float, float] = 0.0
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_kernel_init: Initializer = nn.initializers.orthogonal()
    bias_init: Initializer = nn.initializers.zeros
    carry_init: Initializer = nn.initializers.zeros
    checkpoint_every: int | None = None
    implementation: LSTMImplementation = "auto"

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
        check(self, x, lengths, starts, carry, LSTMCarry)
        offsets = (-self.forget_bias, 0.0, 0.0) if self.coupled else (0.0, self.forget_bias, 0.0, 0.0)
        x, params = parameters(self, x, gates=len(offsets), offsets=offsets)
        return ops.lstm(
            {**params, **self._variants(x, gates=len(offsets))},
            x,
            lengths=lengths,
            starts=starts,
            carry=carry,
            initial_carry=learned(self, x, LSTMCarry),
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
            checkpoint_every=self.checkpoint_every,
            coupled=self.coupled,
            recurrent_dropout=self.recurrent_dropout,
            dropout_kind=self.dropout_kind,
            zoneout=self.zoneout,
            key=noise_key(self, train),
        )

    def _variants(self, x: Array, gates: int) -> dict[str, Array]:
        """The parameters of the variants that were asked for, in the types that `ops.lstm` wants."""
        width, dtype, ones, vectors = self.features, self.param_dtype, nn.initializers.ones, {}
        if self.peephole:
            vectors["peephole"] = self.param("peephole", self.bias_init, ((gates - 1) * width,), dtype)
        if self.layer_norm:
            vectors["input_scale"] = self.param("input_scale", ones, (gates * width,), dtype)
            vectors["recurrent_scale"] = self.param("recurrent_scale", ones, (gates * width,), dtype)
            vectors["cell_scale"] = self.param("cell_scale", ones, (width,), dtype)
            vectors["cell_bias"] = self.param("cell_bias", self.bias_init, (width,), dtype)
        made = {name: jnp.asarray(vector, state_dtype(self, x)) for name, vector in vectors.items()}
        if self.projection is not None:
            projection = self.param("projection", self.kernel_init, (width, self.projection), dtype)
            made["projection"] = jnp.asarray(projection, x.dtype)
        return made


class GRU(nn.Module):
    """Gated recurrent unit, reset after the product.

    Parameters: `kernel` [D, 3 features], `recurrent_kernel` [features, 3 features], `bias` [3 features] and
    `recurrent_bias` [features], gates ordered r, z, n; with `learned_carry` also `initial_h` [features].

    Attributes:
      features: Width of the state and of the output.
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      recurrent_dropout: Rate of dropout where `train` is set (key: "dropout").
      dropout_kind: "variational" hides one part of the state from the recurrent kernel through a whole sequence;
        "per_step" is dropout on what a step adds to the memory.
      zoneout: Part of the state that stays as it was before a step: at random where `train` is set (key: "dropout"),
        else in expectation.
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
    recurrent_dropout: float = 0.0
    dropout_kind: DropoutKind = "variational"
    zoneout: float = 0.0
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
            recurrent_dropout=self.recurrent_dropout,
            dropout_kind=self.dropout_kind,
            zoneout=self.zoneout,
            key=noise_key(self, train),
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
    if width(layer, "h") < 1:
        raise ValueError(f"{name}: projection wants at least 1 or None but is {layer.projection}")
    check_x(name, x, rank=3)
    check_time(name, x, lengths, starts, layer.checkpoint_every)
    leaves = (jax.ShapeDtypeStruct((width(layer, field),), state_dtype(layer, x)) for field in kind._fields)
    states(name, kind(*leaves), x.shape[0], carry, None)


def width(layer: Any, field: str) -> int:
    """The width of a leaf of the carry: h may be projected."""
    projection: int | None = getattr(layer, "projection", None)
    return layer.features if field != "h" or projection is None else projection


def noise_key(layer: Any, train: bool) -> Array | None:
    """The key of a training step's noise, drawn only where there is some."""
    noise = layer.recurrent_dropout or (any(layer.zoneout) if isinstance(layer.zoneout, tuple) else layer.zoneout)
    return layer.make_rng("dropout") if train and noise else None


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
        return jnp.concatenate([layer.recurrent_kernel_init(k, (shape[0], hidden), dtype) for k in keys], axis=1)

    def bias(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
        made = layer.bias_init(key, shape, dtype)
        return made if offsets is None else made + jnp.repeat(jnp.array(offsets, dtype), hidden)

    made = {
        "kernel": layer.param("kernel", layer.kernel_init, shape, layer.param_dtype),
        "recurrent_kernel": layer.param(
            "recurrent_kernel", recurrent_kernel, (width(layer, "h"), shape[1]), layer.param_dtype
        ),
        "bias": layer.param("bias", bias, shape[1:], layer.param_dtype),
    }
    return jnp.asarray(x, dtype), {name: jnp.asarray(param, dtype) for name, param in made.items()}


def learned(layer: Any, x: Array, kind: type[Any]) -> Any:
    """The learned initial carry, leaves of one axis, or None for zeros."""
    if not layer.learned_carry:
        return None
    dtype = state_dtype(layer, x)
    leaves = (
        layer.param(f"initial_{field}", layer.carry_init, (width(layer, field),), layer.param_dtype)
        for field in kind._fields
    )
    return kind(*(jnp.asarray(leaf, dtype) for leaf in leaves))


def state_dtype(layer: Any, x: Array) -> Any:
    """What states are kept in: at least float32."""
    return accumulation_dtype(jnp.dtype(x.dtype if layer.dtype is None else layer.dtype))
