"""Metrics of forecasts as sums, and the naive forecasts that they stand beside.

Outputs and `batch["y"]` are [B, H, C]; `batch["where"]`, if there, keeps entries and may have 1 in place of a size.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnets import ops
from jaxnets.typing import Batch, Mean


def mse(outputs: Float[Array | np.ndarray, "*s"], batch: Batch) -> Mean:
    """Mean squared error.

    Raises:
      ValueError: If the shapes do not fit.

    >>> mse(jnp.array([1.0, 5.0]), {"y": jnp.array([3.0, 5.0])}).value
    Array(2., dtype=float32)
    """
    return _over(ops.squared_error, outputs, batch)


def mae(outputs: Float[Array | np.ndarray, "*s"], batch: Batch) -> Mean:
    """Mean absolute error.

    Raises:
      ValueError: If the shapes do not fit.

    >>> mae(jnp.array([1.0, 5.0]), {"y": jnp.array([3.0, 5.0])}).value
    Array(1., dtype=float32)
    """
    return _over(ops.absolute_error, outputs, batch)


def mase(scale: Float[Array | np.ndarray, " c"]) -> Callable[[Any, Batch], Mean]:
    """Makes the metric of the mean absolute scaled error: 1 is the seasonal naive forecast of the training data.

    Args:
      scale: Of each channel, from `naive_scale`.

    Raises:
      ValueError: If a scale is not positive; the metric: if the shapes do not fit.

    References:
      Hyndman and Koehler, 2006. Another look at measures of forecast accuracy.

    >>> scale = naive_scale(np.array([[0.0], [2.0], [0.0]]))
    >>> mase(scale)(jnp.array([[[1.0]]]), {"y": jnp.array([[[5.0]]])}).value
    Array(2., dtype=float32)
    """
    scale = np.asarray(scale)
    if not np.all(scale > 0):
        raise ValueError(f"mase: scale must be positive, got {scale}")

    def metric(outputs: Any, batch: Batch) -> Mean:
        factor = jnp.asarray(1 / scale, outputs.dtype)
        return _over(ops.absolute_error, outputs * factor, {**batch, "y": batch["y"] * factor})

    return metric


def naive_scale(
    values: Float[np.ndarray, "t c"], season: int = 1, *, where: Bool[np.ndarray, "t c"] | None = None
) -> Float[np.ndarray, " c"]:
    """How much a series changes from season to season: the mean of |x_t - x_{t - season}|, for each channel.

    Args:
      values: The training data.
      season: Steps to a season.
      where: Numbers to keep; a change is kept if both of its ends are.

    Raises:
      ValueError: If season is not positive, or a channel has no change to take.

    >>> naive_scale(np.array([[0.0], [1.0], [3.0]])).tolist()
    [1.5]
    """
    if not 0 < season < len(values):
        raise ValueError(f"naive_scale: season must be from 1 to {len(values) - 1}, below the steps, got {season}")
    keep = np.ones(values.shape, bool) if where is None else where
    both = keep[season:] & keep[:-season]
    if not both.any(axis=0).all():
        raise ValueError("naive_scale: where leaves a channel no step and the one a season before it")
    return np.abs(values[season:] - values[:-season]).mean(axis=0, where=both)


def coverage(low: int | None, high: int | None) -> Callable[[Any, Batch], Mean]:
    """Makes the metric of the part of targets from one of the outputs [..., Q] up to another, both included.

    `coverage(None, 1)` is the part at or below the second: q, where that is a quantile q that is right.

    Args:
      low: Which of the outputs bounds from below; None for no bound.
      high: Which of them bounds from above; None for no bound.

    Raises:
      ValueError: The metric: if the shapes do not fit, or there are not so many outputs.

    >>> bands = jnp.array([[0.0, 1.0], [0.0, 1.0]])
    >>> coverage(0, 1)(bands, {"y": jnp.array([0.5, 2.0])}).value
    Array(0.5, dtype=float32)
    """

    def metric(outputs: Any, batch: Batch) -> Mean:
        outputs, targets = jnp.asarray(outputs), jnp.asarray(batch["y"])
        if outputs.shape[:-1] != targets.shape:
            raise ValueError(f"coverage: outputs has shape {outputs.shape}, wanted {targets.shape} and an axis more")
        if not all(0 <= i < outputs.shape[-1] for i in (low, high) if i is not None):
            raise ValueError(f"coverage: there are {outputs.shape[-1]} outputs, wanted number {low} and {high}")
        inside = jnp.ones(targets.shape, bool)
        if low is not None:
            inside &= outputs[..., low] <= targets
        if high is not None:
            inside &= targets <= outputs[..., high]
        where = batch.get("where")
        keep = jnp.ones(targets.shape, bool) if where is None else jnp.broadcast_to(where, targets.shape)
        return Mean(jnp.sum(inside & keep, dtype=jnp.float32), jnp.sum(keep, dtype=jnp.float32))

    return metric


def naive_forecast(x: Float[Array | np.ndarray, "b l c"], horizon: int, season: int = 1) -> Float[Array, "b h c"]:
    """The last season of each window again and again; with a season of 1, its last step.

    Raises:
      ValueError: If horizon is not positive, or season not from 1 to the steps of x.

    >>> naive_forecast(jnp.array([[[7.0], [1.0], [2.0]]]), 3, season=2)[0, :, 0].tolist()
    [1.0, 2.0, 1.0]
    """
    if horizon < 1 or not 0 < season <= x.shape[1]:
        raise ValueError(
            f"naive_forecast: horizon {horizon} and season {season} want at least 1, and the latter at most "
            f"{x.shape[1]}, the steps of x"
        )
    return jnp.asarray(x)[:, x.shape[1] - season + jnp.arange(horizon) % season]


def _over(error: Callable[..., Mean], outputs: Any, batch: Batch) -> Mean:
    """An error of every entry that is kept; NumPy arrays are taken too."""
    where = batch.get("where")
    return error(jnp.asarray(outputs), jnp.asarray(batch["y"]), where=None if where is None else jnp.asarray(where))
