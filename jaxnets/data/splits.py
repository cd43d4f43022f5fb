"""Splits of labelled data that keep the share of every class."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxnets.data.loader import generator


def stratified_split(
    y: Int[np.ndarray, " n"], fraction: float, *, seed: int, classes: Sequence[str] | None = None
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Returns the indices that stay and those held out, each in the order of the data.

    Each class gives `fraction` of its examples, rounded, but at least one and never all.

    Args:
      y: The class of each example.
      fraction: The share that is held out.
      seed: What the choice is drawn from.
      classes: Names for the error message.

    Raises:
      ValueError: If the fraction is not between 0 and 1, a class has a single example, or the seed is negative.

    >>> stratified_split(np.array([0, 0, 0, 0, 1, 1]), 0.25, seed=0)[1].size
    2
    """
    if not 0 < fraction < 1:
        raise ValueError(f"stratified_split: fraction is {fraction} but wants a value between 0 and 1")
    held = np.zeros(len(y), bool)
    for stream, label in enumerate(np.unique(y)):
        members = np.flatnonzero(y == label)
        if len(members) < 2:
            name = classes[label] if classes else label
            raise ValueError(f"stratified_split: class {name} has one example but a split wants two or more: add some")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[generator("stratified_split", seed, stream).permutation(members)[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def split_validation(
    train: Mapping[str, np.ndarray], fraction: float = 0.1, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cuts a part stratified by `train["y"]` from training data: (what is left to train on, validation).

    Raises:
      ValueError: As `stratified_split` does.
    """
    kept, held = stratified_split(train["y"], fraction, seed=seed)
    return {name: array[kept] for name, array in train.items()}, {name: array[held] for name, array in train.items()}
