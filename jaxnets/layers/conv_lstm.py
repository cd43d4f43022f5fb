"""A convolutional LSTM with its parameters; the mathematics is in `jaxnets.ops`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.recurrent import Initializer, label, noise_key, state_dtype
from jaxnets.ops import LSTMCarry
from jaxnets.ops._recurrent_call import check_time, states
from jaxnets.ops._recurrent_noise import DropoutKind
from jaxnets.ops.conv_lstm import check_frames
from jaxnets.typing import Precision


class ConvLSTM(nn.Module):
    """A convolutional LSTM over frames [B, T, H, W, C], whose state is an image of `features` channels.

    Parameters: `kernel` [*kernel_size, C, 4 features], `recurrent_kernel` [*recurrent_kernel_size, features,
    4 features] and `bias` [4 features], gates ordered i, f, g, o; with `peephole` also `peephole` [H, W, 3 features];
    with `learned_carry` also `initial_h` and `initial_c` [features], the same at all places.

    Attributes:
      features: Channels of the state and of the output.
      kernel_size: Height and width of the window on the frame; one number for both.
      recurrent_kernel_size: Those of the window on the state; None takes `kernel_size`.
      forget_bias: Added to the forget gate's bias when it is made: at 1 the memory is kept at first.
      peephole: Whether the gates see the memory too, as in the paper; this fixes the frame's size.
      learned_carry: Whether the state that `carry=None` stands for is learned; it is zero otherwise.
      recurrent_dropout: As for `LSTM`.
      dropout_kind: As for `LSTM`.
      zoneout: As for `LSTM`.
      reverse: Whether to run from the last frame (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. States are in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the convolutions, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      recurrent_kernel_init: Initialiser of the recurrent kernel.
      bias_init: Initialiser of the bias and the peepholes.
      carry_init: Initialiser of the learned carry.
      checkpoint_every: See `ops.lstm`.

    References:
      Shi et al., 2015. Convolutional LSTM network: a machine learning approach for precipitation nowcasting.

    >>> layer = ConvLSTM(features=4)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 6, 6, 1)))
    >>> y.shape, carry.c.shape, variables["params"]["kernel"].shape
    ((2, 5, 6, 6, 4), (2, 6, 6, 4), (3, 3, 1, 16))
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    recurrent_kernel_size: int | tuple[int, int] | None = None
    forget_bias: float = 1.0
    peephole: bool = False
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

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: LSTMCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h w f"], LSTMCarry]:
        """Runs over the frames of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        self._check(x, lengths, starts, carry)
        window, channels, hidden = _pair(self.kernel_size), x.shape[-1], self.features
        recurrent = window if self.recurrent_kernel_size is None else _pair(self.recurrent_kernel_size)

        def bias(key: Array, shape: tuple[int], dtype: DTypeLike) -> Array:
            return self.bias_init(key, shape, dtype).at[hidden : 2 * hidden].add(self.forget_bias)

        made = {
            "kernel": self.param("kernel", self.kernel_init, (*window, channels, 4 * hidden), self.param_dtype),
            "recurrent_kernel": self.param(
                "recurrent_kernel", self.recurrent_kernel_init, (*recurrent, hidden, 4 * hidden), self.param_dtype
            ),
            "bias": self.param("bias", bias, (4 * hidden,), self.param_dtype),
        }
        x = jnp.asarray(x, self.dtype)
        params = {name: jnp.asarray(param, x.dtype) for name, param in made.items()}
        if self.peephole:
            peephole = self.param("peephole", self.bias_init, (*x.shape[2:4], 3 * hidden), self.param_dtype)
            params["peephole"] = jnp.asarray(peephole, state_dtype(self, x))
        return ops.conv_lstm(
            params,
            x,
            lengths=lengths,
            starts=starts,
            carry=carry,
            initial_carry=self._learned(x),
            reverse=self.reverse,
            precision=self.precision,
            checkpoint_every=self.checkpoint_every,
            recurrent_dropout=self.recurrent_dropout,
            dropout_kind=self.dropout_kind,
            zoneout=self.zoneout,
            key=noise_key(self, train),
        )

    def _check(self, x: Array, lengths: Array | None, starts: Array | None, carry: LSTMCarry | None) -> None:
        """Checks the input before any parameter is made."""
        name = label(self)
        sizes = (*_pair(self.kernel_size), *_pair(self.recurrent_kernel_size or 1))
        if self.features < 1 or min(sizes) < 1:
            raise ValueError(f"{name}: features and window want at least 1 but are {self.features} and {sizes}")
        check_frames(name, x)
        check_time(name, x, lengths, starts, self.checkpoint_every)
        leaf: Any = jax.ShapeDtypeStruct((*x.shape[2:4], self.features), state_dtype(self, x))
        states(name, LSTMCarry(leaf, leaf), x.shape[0], carry, None)
        for param, axes, wanted in (("kernel", slice(2, 3), x.shape[-1:]), ("peephole", slice(0, 2), x.shape[2:4])):
            stored = self.get_variable("params", param).shape if self.has_variable("params", param) else None
            if stored is not None and stored[axes] != wanted:
                raise ValueError(f"{name}: params[{param!r}] of shape {stored} does not fit x.shape={x.shape}")

    def _learned(self, x: Array) -> LSTMCarry | None:
        """The learned initial carry, leaves [H, W, features], or None for zeros."""
        if not self.learned_carry:
            return None
        dtype, shape = state_dtype(self, x), (*x.shape[2:4], self.features)
        leaves = [
            self.param(f"initial_{field}", self.carry_init, (self.features,), self.param_dtype)
            for field in LSTMCarry._fields
        ]
        return LSTMCarry(*(jnp.broadcast_to(jnp.asarray(leaf, dtype)[None, None], shape) for leaf in leaves))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
