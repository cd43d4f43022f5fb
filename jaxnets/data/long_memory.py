"""Tasks of long memory as a whole: what is trained on and held out, how an input is read, and an answer said."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from jaxnets.data.augment import Augment, channel_statistics
from jaxnets.data.decode import read_image
from jaxnets.data.device import DeviceData
from jaxnets.data.images import load_images
from jaxnets.data.splits import split_validation
from jaxnets.data.synthetic import GeneratedData, adding_problem, copy_task, held_out, pixel_sequence

_NAMES = ("adding", "copy", "digits", "permuted_digits", "mnist", "permuted_mnist")
_HELD_OUT = 1000


@dataclass(frozen=True, eq=False)
class MemoryTask:
    """What is to be learnt, and the data to learn it from.

    Attributes:
      title: What the task is called.
      steps: Time steps of a sequence.
      answer: What is wanted: a "number", the "class" of the sequence, or the "symbols", a class for each step.
      outputs: Classes, or numbers to predict.
      vocabulary: How many tokens there are, if x holds tokens.
      training: Of a batch size and a seed: data on the device.
      validation: Arrays by name; `"x"` is what `prepare` takes.
      test: Likewise.
      read: What an input is, a file or the symbols themselves, as an entry of `"x"`.
      say: A network's outputs for it, in words or as a number.
      prepare: What is done to a batch before a network sees it.
      fingerprint: Of data that is not made from a seed; None for what is.
    """

    title: str
    steps: int
    answer: Literal["number", "class", "symbols"]
    outputs: int
    training: Callable[[int, int], GeneratedData | DeviceData]
    validation: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    read: Callable[[str], np.ndarray]
    say: Callable[[np.ndarray], Any]
    vocabulary: int | None = None
    prepare: Augment = lambda key, batch: dict(batch)
    fingerprint: str | None = None


def memory_task(name: str, length: int | None = None) -> MemoryTask:
    """Makes a task of long memory by its name.

    Names: `adding`, of so many steps (see `adding_problem`), read from a CSV file with a value and a mark in each line;
    `copy`, with so many steps between symbols and answer (see `copy_task`), read from the symbols themselves; `digits`
    and `mnist`, images seen pixel by pixel, row by row (see `pixel_sequence`), read from a picture file;
    `permuted_digits` and `permuted_mnist`, with the pixels in an order drawn by seed 0.

    Args:
      name: One of these.
      length: Wanted by `adding` and `copy`, and by no other.

    Raises:
      ValueError: If the name is unknown, or the length is missing, too small, or not for this task.
      OSError: If data cannot be read or downloaded.

    >>> task = memory_task("copy", 5)
    >>> task.steps, task.test["x"].shape, task.read("314")
    (25, (1000, 25), array([3, 1, 4, 0, 0, 0, 0, 9, 0, 0, 0], dtype=int32))
    """
    if name not in _NAMES:
        raise ValueError(f"memory_task: {name!r} is none of {', '.join(_NAMES)}")
    if name not in ("adding", "copy"):
        if length is not None:
            raise ValueError(f"memory_task: length is for adding and copy: {name} has a step for each pixel")
        return _pixels(name)
    if length is None:
        raise ValueError(f"memory_task: {name} wants a length")
    return _adding(length) if name == "adding" else _copy(length)


def read_numbers(name: str) -> Float32[np.ndarray, "n 2"]:
    """Reads lines of two numbers from a file, which may come from anywhere.

    Raises:
      ValueError: If it holds something else.
      OSError: If it cannot be read.
    """
    # Given a name NumPy would also fetch addresses, and unpack what is packed.
    try:
        lines = filter(str.strip, Path(name).read_text("utf-8").splitlines())
        x = np.array([line.split(",") for line in lines], np.float32)
    except ValueError:
        x = np.empty((0, 0), np.float32)
    if x.shape[1:] != (2,) or not np.isfinite(x).all():
        raise ValueError(f"{name}: wanted lines of two numbers, such as 0.25,1: a value and a mark of 0 or 1")
    return x


def _adding(length: int) -> MemoryTask:
    generate = functools.partial(adding_problem, length=length)
    parts = held_out(generate, _HELD_OUT)

    return MemoryTask(
        title=f"the adding problem of {length} steps",
        steps=length,
        answer="number",
        outputs=1,
        training=lambda batch_size, seed: GeneratedData(generate, batch_size, seed=seed),
        validation=parts["validation"],
        test=parts["test"],
        read=read_numbers,
        say=lambda y: round(float(y[0]), 4),
    )


def _copy(length: int) -> MemoryTask:
    generate = functools.partial(copy_task, length=length)
    parts = held_out(generate, _HELD_OUT)

    def read(name: str) -> np.ndarray:
        if not name or set(name) - set("12345678"):
            raise ValueError(f"{name}: wanted symbols from 1 to 8, such as 3141526837")
        return np.array([*map(int, name), *[0] * (length - 1), 9, *[0] * len(name)], np.int32)

    return MemoryTask(
        title=f"the copy task of {length} steps",
        steps=length + 20,
        answer="symbols",
        outputs=9,
        vocabulary=10,
        training=lambda batch_size, seed: GeneratedData(generate, batch_size, seed=seed),
        validation=parts["validation"],
        test=parts["test"],
        read=read,
        say=lambda y: "".join(map(str, y.argmax(-1)[(len(y) + length) // 2 :])),
    )


def _pixels(name: str) -> MemoryTask:
    images = load_images(name.removeprefix("permuted_"))
    training, validation = split_validation(images.train)
    (mean,), (std,) = channel_statistics(images.train["x"])
    height, width = images.train["x"].shape[1:3]
    order = np.random.default_rng(0).permutation(height * width) if name.startswith("permuted") else None
    return MemoryTask(
        title=f"{name}, {height * width} pixels one by one",
        steps=height * width,
        answer="class",
        outputs=len(images.classes),
        training=lambda batch_size, seed: DeviceData(training, min(batch_size, len(training["y"])), seed=seed),
        validation=validation,
        test=images.test,
        read=lambda path: read_image(path, (height, width, 1)),
        say=lambda y: images.classes[y.argmax()],
        prepare=pixel_sequence(mean, std, permutation=order),
        fingerprint=images.fingerprint,
    )
