"""Forecasters: from the last steps of a series, x [B, L, C], to the steps that follow, [B, horizon, C].

With `quantiles` each number is forecast by so many, [B, horizon, C, quantiles]. The linear ones and `PatchTST` read
every channel by itself, with the same weights; a `SequenceForecaster` reads them together, unless told otherwise.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnets import ops
from jaxnets.layers import Repeated, RevIN, SelfAttention, TransformerBlock
from jaxnets.layers._dense import Dense
from jaxnets.layers.recurrent import label
from jaxnets.ops._recurrent_call import check_x

Windows = Float[Array, "b l c"]
Forecasts = Float[Array, "b h c"] | Float[Array, "b h c q"]
_LECUN = nn.initializers.lecun_normal()


class NLinear(nn.Module):
    """One linear map over time, of the differences to the last step; untrained it repeats that step.

    Parameters: `steps`, a kernel [L, horizon * quantiles] and a bias.

    Attributes:
      horizon: Steps to forecast.
      quantiles: How many of each number; None for one number, without an axis.

    References:
      Zeng et al., 2023. Are Transformers effective for time series forecasting?

    >>> model = NLinear(horizon=3)
    >>> model.init_with_output(jax.random.key(0), jnp.arange(8.0).reshape(1, 4, 2))[0][0].tolist()
    [[6.0, 7.0], [6.0, 7.0], [6.0, 7.0]]
    """

    horizon: int
    quantiles: int | None = None

    @nn.compact
    def __call__(self, x: Windows, *, train: bool = False) -> Forecasts:
        """Forecasts the steps after x."""
        _check(self, x)
        last = x[:, -1:]
        y = _by_step(self, _linear(self, "steps", (x - last).swapaxes(1, 2), nn.initializers.zeros))
        return y + (last if self.quantiles is None else last[..., None])


class DLinear(nn.Module):
    """Two linear maps over time, of the trend, a moving average, and of what is left.

    Parameters: `trend` and `rest`, each a kernel [L, horizon * quantiles] and a bias.

    Attributes:
      horizon: Steps to forecast.
      kernel_size: Steps that are averaged over, an odd number; before the first step and after the last one, these
        are repeated.
      quantiles: How many of each number; None for one number, without an axis.

    References:
      Zeng et al., 2023. Are Transformers effective for time series forecasting?

    >>> model = DLinear(horizon=3)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((1, 30, 2)))[0].shape
    (1, 3, 2)
    """

    horizon: int
    kernel_size: int = 25
    quantiles: int | None = None

    @nn.compact
    def __call__(self, x: Windows, *, train: bool = False) -> Forecasts:
        """Forecasts the steps after x."""
        _check(self, x)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"{label(self)}: kernel_size wants to be odd and positive but is {self.kernel_size}")
        trend = moving_average(x, self.kernel_size)
        # Both maps begin as the mean over time: the forecast too.
        mean = nn.initializers.constant(1 / x.shape[1])
        y = _linear(self, "trend", trend.swapaxes(1, 2), mean) + _linear(self, "rest", (x - trend).swapaxes(1, 2), mean)
        return _by_step(self, y)


class PatchTST(nn.Module):
    """A Transformer over the patches of each channel, all channels by the same weights.

    Parameters: `embedding`, a kernel [patch, features] and a bias; `position` [patches, features]; those of the blocks
    in `layer`; `norm`; and `steps`, from the features of all patches to the horizon.

    Attributes:
      horizon: Steps to forecast.
      patch: Steps of a patch.
      stride: Steps from one patch to the next; the last step is repeated as often before patches are cut.
      features: Width of the residual.
      depth: Number of blocks, which are compiled once.
      num_heads: Heads of attention.
      hidden: Width inside the blocks' networks; None means twice `features`.
      dropout: Rate of dropout on what is added to the residual, on the embedded patches, and under the head.
      quantiles: How many of each number; None for one number, without an axis.

    References:
      Nie et al., 2023. A time series is worth 64 words: long-term forecasting with Transformers. (Here a block
      normalises what it sees, by the layer; there what it adds up, by the batch.)

    >>> model = PatchTST(horizon=3, patch=4, stride=2, features=8, depth=2, num_heads=2)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((1, 12, 2)))[0].shape
    (1, 3, 2)
    """

    horizon: int
    patch: int = 16
    stride: int = 8
    features: int = 16
    depth: int = 3
    num_heads: int = 4
    hidden: int | None = None
    dropout: float = 0.3
    quantiles: int | None = None

    @nn.compact
    def __call__(self, x: Windows, *, train: bool = False) -> Forecasts:
        """Forecasts the steps after x; dropout acts only in training."""
        _check(self, x)
        batch, time, channels = x.shape
        if min(self.patch, self.stride) < 1 or time + self.stride < self.patch:
            raise ValueError(f"{label(self)}: x has {time} steps, too few for patches of {self.patch}")
        rows = jnp.pad(x, ((0, 0), (0, self.stride), (0, 0)), mode="edge").swapaxes(1, 2).reshape(batch * channels, -1)
        count = (rows.shape[1] - self.patch) // self.stride + 1
        patches = rows[:, self.stride * jnp.arange(count)[:, None] + jnp.arange(self.patch)[None]]
        y = Dense(self.features, dtype=x.dtype, name="embedding")(patches)
        position = self.param("position", nn.initializers.normal(0.02), (count, self.features), jnp.float32)
        y = nn.Dropout(self.dropout, deterministic=not train)(y + jnp.asarray(position, y.dtype)[None])
        block = TransformerBlock(
            SelfAttention(self.num_heads, causal=False, use_bias=True, parent=None),
            hidden=2 * self.features if self.hidden is None else self.hidden,
            use_bias=True,
            dropout=self.dropout,
            parent=None,  # It is the blocks' own, below.
        )
        y, _ = Repeated(block, self.depth, name="layer")(y, train=train)
        y = nn.LayerNorm(dtype=y.dtype, name="norm")(y).reshape(batch, channels, -1)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return _by_step(self, _linear(self, "steps", y))


class SequenceForecaster(nn.Module):
    """A layer over time that reads the window, and a linear map of its last output to the whole horizon.

    With `GRU` or `LSTM` for its layer this is a recurrent forecaster, with a `Stack` of `TemporalBlock` a temporal
    convolutional network.

    Parameters: those of `layer`, and `steps`.

    Attributes:
      layer: Any layer that keeps the sequence contract.
      horizon: Steps to forecast.
      apart: Whether it reads each channel by itself, all by the same weights.
      dropout: Rate of dropout on the last output, in training.
      quantiles: How many of each number; None for one number, without an axis.

    >>> model = SequenceForecaster(jn.layers.LSTM(features=8), horizon=3)
    >>> model.init_with_output(jax.random.key(0), jnp.ones((1, 12, 2)))[0].shape
    (1, 3, 2)
    """

    layer: Any
    horizon: int
    apart: bool = False
    dropout: float = 0.0
    quantiles: int | None = None

    @nn.compact
    def __call__(self, x: Windows, *, train: bool = False) -> Forecasts:
        """Forecasts the steps after x; dropout acts only in training."""
        _check(self, x)
        batch, time, channels = x.shape
        rows = x.swapaxes(1, 2).reshape(batch * channels, time, 1) if self.apart else x
        y, _ = self.layer(rows, train=train)
        y = nn.Dropout(self.dropout, deterministic=not train)(y[:, -1])
        y = _linear(self, "steps", y, times=1 if self.apart else channels)
        return _by_step(self, y.reshape(batch, channels, -1))


class InstanceNormalised(nn.Module):
    """A forecaster that sees each window normalised by `RevIN`, and whose forecast is brought back from that.

    Parameters: those of `model`, and with `affine` those of `revin`.

    Attributes:
      model: Any forecaster.
      affine: See `RevIN`.

    >>> model = InstanceNormalised(NLinear(horizon=3))
    >>> model.init_with_output(jax.random.key(0), jnp.arange(8.0).reshape(1, 4, 2))[0][0, 0].round(2).tolist()
    [6.0, 7.0]
    """

    model: Any
    affine: bool = True

    @nn.compact
    def __call__(self, x: Windows, *, train: bool = False) -> Forecasts:
        """Forecasts the steps after x."""
        x, scale = RevIN(self.affine, name="revin")(x)
        return scale.restore(self.model(x, train=train))


def roll_out(model: Any, variables: Any, x: Windows, horizon: int) -> Float[Array, "b h c"]:
    """Forecasts step after step: what a model says is added to its window, for it to go on from.

    Args:
      model: A forecaster of one number each, whose own horizon are the steps it says at once, one or more.
      variables: Its variables.
      x: Windows.
      horizon: Steps to forecast.

    Raises:
      ValueError: If the horizon is not positive, or the model forecasts quantiles: they are not those of a path.

    >>> model = NLinear(horizon=2)
    >>> x = jnp.arange(8.0).reshape(1, 4, 2)
    >>> roll_out(model, model.init(jax.random.key(0), x), x, 5).shape
    (1, 5, 2)
    """
    if horizon < 1:
        raise ValueError(f"roll_out: horizon must be positive, got {horizon}")
    said = jax.eval_shape(lambda variables, x: model.apply(variables, x), variables, x)
    if said.ndim != 3:
        raise ValueError(f"roll_out: the model's forecast has shape {said.shape}, wanted one number for each")

    def block(window: Array, _: None) -> tuple[Array, Array]:
        y = model.apply(variables, window)
        return jnp.concatenate([window, y], axis=1)[:, y.shape[1] :], y

    _, blocks = lax.scan(block, x, None, length=-(-horizon // said.shape[1]))
    return jnp.moveaxis(blocks, 0, 1).reshape(x.shape[0], -1, x.shape[2])[:, :horizon]


def moving_average(x: Windows, kernel_size: int) -> Windows:
    """The mean of each step and its neighbours on both sides, an odd number; the ends are repeated beyond themselves.

    >>> moving_average(jnp.array([[[0.0], [3.0], [6.0]]]), 3)[0, :, 0].tolist()
    [1.0, 3.0, 5.0]
    """
    side = (kernel_size - 1) // 2
    padded = jnp.pad(x, ((0, 0), (side, side), (0, 0)), mode="edge")
    return ops.avg_pool(padded, kernel_size, strides=1)


def _linear(model: Any, name: str, x: Array, kernel_init: Any = _LECUN, *, times: int = 1) -> Array:
    """A linear map of the last axis to every quantile of every step of the horizon, `times` over."""
    outputs = times * model.horizon * (model.quantiles or 1)
    return Dense(outputs, dtype=x.dtype, kernel_init=kernel_init, name=name, parent=model)(x)


def _by_step(model: Any, y: Float[Array, "b c hq"]) -> Forecasts:
    y = y.reshape(*y.shape[:2], model.horizon, -1).swapaxes(1, 2)
    return y[..., 0] if model.quantiles is None else y


def _check(model: Any, x: Array) -> None:
    check_x(label(model), x, rank=3)
    if min(model.horizon, 1 if model.quantiles is None else model.quantiles) < 1:
        raise ValueError(
            f"{label(model)}: horizon and quantiles want at least 1 but are {model.horizon} and {model.quantiles}"
        )
    if x.shape[1] == 0:
        raise ValueError(f"{label(model)}: x has shape {x.shape} but wants a step or more to forecast from")
