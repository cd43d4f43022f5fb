"""Metrics of classification as sums, exact whatever the sizes of the batches they are added up from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
