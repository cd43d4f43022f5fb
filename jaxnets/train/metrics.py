"""Metrics of classification: sums, exact whatever batches they are added up from, and what all rows at once tell."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxnets.typing import Batch, Mean


def accuracy(outputs: Float[Array | np.ndarray, "*b k"], batch: Batch) -> Mean:
    """The part of the rows whose largest output is the label's.

    Args:
      outputs: A score for each class.
      batch: `"y"` holds class numbers [*b] or one-hot labels [*b, k]; `"where"` [*b], if there, the rows to count.

    Raises:
      ValueError: If the shapes do not fit.

    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), {"y": jnp.array([1, 1])}).value
    Array(0.5, dtype=float32)
    """
    return _top("accuracy", outputs, batch, 1)


def top_k_accuracy(k: int) -> Callable[[Any, Batch], Mean]:
    """Makes the metric that counts a row whose label is among its k largest outputs.

    Raises:
      ValueError: If k is not positive; the metric: if there are fewer than k classes or the shapes do not fit.

    >>> top_k_accuracy(2)(jnp.array([[0.1, 0.9, 0.5]]), {"y": jnp.array([2])}).value
    Array(1., dtype=float32)
    """
    if k < 1:
        raise ValueError(f"top_k_accuracy: k must be positive, got {k}")
    return lambda outputs, batch: _top("top_k_accuracy", outputs, batch, k)


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " m"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts the rows of each label (down) given each prediction (across).

    Raises:
      ValueError: If the lengths differ or a class is outside 0 to classes - 1.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    if len(labels) != len(predictions):
        raise ValueError(f"confusion_matrix: labels has {len(labels)} rows but predictions {len(predictions)}")
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"confusion_matrix: {name} holds {wrong}, outside 0 to {classes - 1}")
    counts = np.bincount(labels.astype(np.int64) * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def macro_f1(
    labels: Int[np.ndarray, "*n"],
    predictions: Int[np.ndarray, "*n"],
    classes: int,
    *,
    where: Bool[np.ndarray, "*n"] | None = None,
) -> float:
    """The mean over the classes of F1 = 2 TP / (2 TP + FP + FN), each class counting alike, however rare.

    A class that is neither a label nor a prediction is left out, and without any row the mean is NaN.

    Args:
      labels: What the rows are.
      predictions: What they were taken for.
      classes: How many classes there are.
      where: The rows to count; None for all. What the others hold is not looked at.

    Raises:
      ValueError: If the shapes differ or a class is outside 0 to classes - 1.

    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
    0.7333333333333334
    """
    labels, predictions = _kept("macro_f1", where, labels=labels, predictions=predictions)
    matrix = confusion_matrix(labels, predictions, classes)
    both = matrix.sum(axis=0) + matrix.sum(axis=1)
    each = 2 * np.diag(matrix)[both > 0] / both[both > 0]
    return float(each.mean()) if each.size else math.nan


class Calibration(NamedTuple):
    """How often a classifier is right where it is so sure, in bins of equal width (i / bins, (i + 1) / bins].

    Attributes:
      confidence: The mean probability of the class named; NaN in an empty bin, like the next.
      accuracy: The part of the rows where that class is the label.
      rows: How many there are.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    rows: Int[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean over all rows of |accuracy - confidence| of their bin."""
        gaps = np.abs(self.accuracy - self.confidence)[self.rows > 0]
        return float(np.average(gaps, weights=self.rows[self.rows > 0])) if gaps.size else math.nan


def calibration(
    probabilities: Float[Array | np.ndarray, "*n k"],
    labels: Int[np.ndarray, "*n"],
    *,
    bins: int = 15,
    where: Bool[np.ndarray, "*n"] | None = None,
) -> Calibration:
    """Compares how sure a classifier is of the class it names with how often it is right.

    Args:
      probabilities: Of each class.
      labels: What the rows are.
      bins: How many there are.
      where: The rows to count; None for all. What the others hold is not looked at.

    Raises:
      ValueError: If the shapes differ, bins is not positive, or a probability is outside 0 to 1.

    References:
      Guo, Pleiss, Sun and Weinberger, 2017. On calibration of modern neural networks.

    >>> table = calibration(np.array([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3]]), np.array([0, 0, 1]), bins=2)
    >>> table.rows.tolist(), round(table.error, 4)
    ([0, 3], 0.1)
    """
    if bins < 1:
        raise ValueError(f"calibration: bins must be positive, got {bins}")
    probabilities = np.asarray(probabilities, np.float64)
    sure, named, labels = _kept(
        "calibration", where, probabilities=probabilities.max(-1), predictions=probabilities.argmax(-1), labels=labels
    )
    if not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise ValueError(f"calibration: probabilities want values from 0 to 1, got {sure.min()} to {sure.max()}")
    at = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(at, minlength=bins)
    confidence, right = (
        np.divide(np.bincount(at, values, bins), rows, out=np.full(bins, np.nan), where=rows > 0)
        for values in (sure, named == labels)
    )
    return Calibration(confidence, right, rows)


def expected_calibration_error(
    probabilities: Float[Array | np.ndarray, "*n k"],
    labels: Int[np.ndarray, "*n"],
    *,
    bins: int = 15,
    where: Bool[np.ndarray, "*n"] | None = None,
) -> float:
    """The `error` of `calibration`: 0 where a classifier is right as often as it is sure to be; NaN without any row.

    Raises:
      ValueError: As `calibration` does.

    References:
      Naeini, Cooper and Hauskrecht, 2015. Obtaining well calibrated probabilities using Bayesian binning.

    >>> round(expected_calibration_error(np.array([[0.8, 0.2]]), np.array([0])), 4)
    0.2
    """
    return calibration(probabilities, labels, bins=bins, where=where).error


def _kept(op: str, where: Any, **arrays: np.ndarray) -> list[np.ndarray]:
    """The rows to count of each array, in one line."""
    shapes = {name: array.shape for name, array in (arrays | ({} if where is None else {"where": where})).items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{op}: wanted one shape for all rows, got {shapes}")
    return [array.reshape(-1) if where is None else array[where] for array in arrays.values()]


def _top(op: str, outputs: Any, batch: Batch, k: int) -> Mean:
    outputs, labels = jnp.asarray(outputs), jnp.asarray(batch["y"])
    if labels.shape == outputs.shape:
        labels = labels.argmax(-1)
    if labels.shape != outputs.shape[:-1]:
        raise ValueError(f"{op}: batch['y'] has shape {labels.shape}, wanted {outputs.shape[:-1]} or {outputs.shape}")
    if k > outputs.shape[-1]:
        raise ValueError(f"{op}: k={k} but there are {outputs.shape[-1]} classes")
    # argmax is far cheaper than a sort, and both give the lower class where outputs are equal.
    best = outputs.argmax(-1)[..., None] if k == 1 else jax.lax.top_k(outputs, k)[1]
    hits = (best == labels[..., None]).any(-1)
    where = batch.get("where")
    keep = jnp.ones_like(hits) if where is None else jnp.broadcast_to(where, hits.shape)
    return Mean(jnp.sum(hits & keep, dtype=jnp.float32), jnp.sum(keep, dtype=jnp.float32))
