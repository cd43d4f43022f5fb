"""The layers MinGRU and MinLSTM, whose gates do not see the state; the mathematics is in `jaxnets.ops`."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._linear_cells import check, gates
from jaxnets.ops import MinGRUCarry, MinLSTMCarry
from jaxnets.ops._affine_scan import Implementation
from jaxnets.ops.min_recurrent import Candidate
from jaxnets.typing import Precision

Initializer = Callable[..., Array]


class MinGRU(nn.Module):
    """A GRU whose gate does not see the state: h_t = (1 - z_t) h_{t-1} + z_t n_t.

    Parameters: `kernel` [D, 2 features] and `bias` [2 features], ordered z, n.

    Attributes:
      features: Width of the state and of the output.
      candidate: What n_t is of its pre-activation, "linear" or "positive"; see `ops.min_gru`.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. The state is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.linear_recurrence`.

    References:
      Feng et al., 2024. Were RNNs all we needed?

    >>> layer = MinGRU(features=8)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 8), (2, 8))
    """

    features: int
    candidate: Candidate = "linear"
    reverse: bool = False
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
        carry: MinGRUCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], MinGRUCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        del train
        check(self, x, lengths, starts, carry, MinGRUCarry)
        x, params = gates(self, x, 2)
        return ops.min_gru(
            params,
            x,
            candidate=self.candidate,
            lengths=lengths,
            starts=starts,
            carry=carry,
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
        )


class MinLSTM(nn.Module):
    """An LSTM whose gates do not see the state, and share it out: h_t = (f_t h_{t-1} + i_t n_t) / (f_t + i_t).

    Parameters: `kernel` [D, 3 features] and `bias` [3 features], ordered i, f, n.

    Attributes:
      features: Width of the state and of the output.
      forget_bias: Added to the forget gate's bias when it is made: above 0 the memory is kept at first.
      candidate: What n_t is of its pre-activation, "linear" or "positive"; see `ops.min_gru`.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. The state is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.linear_recurrence`.

    References:
      Feng et al., 2024. Were RNNs all we needed?

    >>> layer = MinLSTM(features=8)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((2, 5, 8), (3, 24))
    """

    features: int
    forget_bias: float = 1.0
    candidate: Candidate = "linear"
    reverse: bool = False
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
        carry: MinLSTMCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], MinLSTMCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        del train
        check(self, x, lengths, starts, carry, MinLSTMCarry)
        x, params = gates(self, x, 3, offsets=(0.0, self.forget_bias, 0.0))
        return ops.min_lstm(
            params,
            x,
            candidate=self.candidate,
            lengths=lengths,
            starts=starts,
            carry=carry,
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
        )
