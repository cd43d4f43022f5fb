"""Normalisation of each window by itself, which a forecast of it is brought back from."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnets.layers.recurrent import label
from jaxnets.ops._dtype import widened
from jaxnets.ops._recurrent_call import check_x


class InstanceScale(NamedTuple):
    """Where the numbers of each window lie, x = center + scale (y - shift), in at least float32."""

    center: Float[Array, "b 1 d"]
    scale: Float[Array, "b 1 d"]
    shift: Float[Array, "b 1 d"] | Float[Array, "1 1 d"]

    def restore(self, y: Float[Array, "b u d"] | Float[Array, "b u d q"]) -> Float[Array, "b u d *q"]:
        """What is forecast of the normalised window, on the scale of the window itself; `q` are quantiles, say."""
        center, scale, shift = (part.reshape(*part.shape, *(1,) * (y.ndim - 3)) for part in self)
        return (center + scale * (widened(y) - shift)).astype(y.dtype)


class RevIN(nn.Module):
    """Reversible instance normalisation: y = gamma (x - mean) / std + beta, by the mean and std of each window.

    A network between this and `restore` sees windows of one level and spread, however both drift over the years. Mean
    and std are taken as numbers: no gradient goes through them. A window that never changes becomes beta.

    Parameters: with `affine`, `gamma` and `beta` [D].

    Attributes:
      affine: Whether to learn gamma and beta; else they are 1 and 0.
      epsilon: Added to the variance.
      param_dtype: Type of the parameters.

    References:
      Kim et al., 2022. Reversible instance normalization for accurate time-series forecasting against distribution
      shift.

    >>> x = jnp.array([[[1.0], [2.0], [3.0]]])
    >>> (y, scale), variables = RevIN().init_with_output(jax.random.key(0), x)
    >>> y[0, :, 0].round(2).tolist(), scale.restore(y)[0, :, 0].round(2).tolist()
    ([-1.2200000286102295, 0.0, 1.2200000286102295], [1.0, 2.0, 3.0])
    """

    affine: bool = True
    epsilon: float = 1e-5
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> tuple[Float[Array, "b t d"], InstanceScale]:
        """Normalises the windows x, and tells where they lie.

        Raises:
          TypeError: If x is not floating.
          ValueError: If x is not [B, T, D], or has no steps.
        """
        check_x(label(self), x, rank=3)
        if x.shape[1] == 0:
            raise ValueError(f"{label(self)}: x has shape {x.shape} but wants a step or more to be normalised by")
        wide = widened(x)
        center = lax.stop_gradient(jnp.mean(wide, axis=1, keepdims=True))
        variance = lax.stop_gradient(jnp.var(wide, axis=1, keepdims=True))
        scale = jnp.sqrt(variance + self.epsilon)
        shift = jnp.zeros((1, 1, x.shape[-1]), wide.dtype)
        if self.affine:
            shape = x.shape[-1:]
            gamma = self.param("gamma", nn.initializers.ones, shape, self.param_dtype).astype(wide.dtype)[None, None]
            shift = self.param("beta", nn.initializers.zeros, shape, self.param_dtype).astype(wide.dtype)[None, None]
            scale = scale / gamma
        return ((wide - center) / scale + shift).astype(x.dtype), InstanceScale(center, scale, shift)
