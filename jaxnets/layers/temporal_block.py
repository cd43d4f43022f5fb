"""A block of a temporal convolutional network: two causal convolutions beside a residual."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers.causal_conv import CausalConv, CausalConvCarry
from jaxnets.layers.recurrent import label
from jaxnets.typing import Precision


class TemporalBlock(nn.Module):
    """Two causal convolutions over time with ReLU, added to what they see: y = relu(x + f(x)).

    In a `Stack` of blocks whose dilations are 1, 2, 4, ... the last one sees 1 + 2 (kernel_size - 1) (2^n - 1) steps.
    The kernels are as they are, without the paper's weight normalisation.

    Parameters: those of the convolutions, `first` and `second`; `residual`, a kernel [1, D, features] and a bias, where
    x has not as many features.

    Attributes:
      features: Width of the output.
      kernel_size: Steps that each convolution sees.
      dilation: Distance between them.
      dropout: Rate of dropout after each convolution, where `train` is set (key: "dropout").
      dtype: Type to compute in and of the output; None follows x.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.

    References:
      Bai, Kolter and Koltun, 2018. An empirical evaluation of generic convolutional and recurrent networks for sequence
      modeling.

    >>> layer = jn.layers.Stack(tuple(TemporalBlock(features=4, dilation=2**i) for i in range(3)))
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 8)))
    >>> y.shape, [part[0].x.shape for part in carry]
    ((2, 5, 4), [(2, 2, 8), (2, 4, 4), (2, 8, 4)])
    """

    features: int
    kernel_size: int = 3
    dilation: int = 1
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: tuple[CausalConvCarry, CausalConvCarry] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], tuple[CausalConvCarry, CausalConvCarry]]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape does not fit.
        """
        if carry is not None and len(carry) != 2:
            raise ValueError(f"{label(self)}: carry has {len(carry)} parts but wants one for each convolution")
        y, carries = x, []
        for i, name in enumerate(("first", "second")):
            y, part = self._conv(name, self.kernel_size, self.dilation)(
                y, lengths=lengths, starts=starts, carry=None if carry is None else carry[i]
            )
            y = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(y))
            carries.append(part)
        if x.shape[-1] == self.features:
            x = ops.zero_padding(x, lengths).astype(y.dtype)
        else:
            x, _ = self._conv("residual", 1, 1)(x, lengths=lengths, starts=starts)
        return ops.zero_padding(nn.relu(x + y), lengths), (carries[0], carries[1])

    def _conv(self, name: str, kernel_size: int, dilation: int) -> CausalConv:
        return CausalConv(
            self.features,
            kernel_size,
            dilation,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            kernel_init=nn.initializers.he_normal(),
            name=name,
        )
