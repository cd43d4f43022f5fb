"""What a case is: what is measured, at which shapes, against whom, and what counts as the same result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Device = Literal["cpu", "gpu"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shape:
    """One size at which a case is measured.

    Attributes:
      name: As it stands in the tables, such as "batch 32".
      parameters: Numbers by name, which the case and every contender read.
      ours: Our contenders; the first makes the weights and the results that all others are held to.
    """

    name: str
    parameters: Mapping[str, int]
    ours: tuple[str, ...] = ("jaxnets",)


@dataclass(frozen=True)
class Target:
    """The greatest ratio of our time, or of our program's temporaries, to a peer's that is good enough.

    Attributes:
      peer: The contender that ours is compared with.
      ratio: Of ours to the peer's; over several shapes their geometric mean.
      shapes: Names of the shapes it holds for.
      ours: Which of our contenders.
      stage: What is wanted first, or what is wanted then.
      device: Where it holds.
      mode: Which of the case's modes.
      quantity: What is compared.
      each: Whether it holds for each of the shapes, not for their mean alone.
    """

    peer: str
    ratio: float
    shapes: tuple[str, ...]
    ours: str = "jaxnets"
    stage: Literal["first", "then"] = "first"
    device: Device = "cpu"
    mode: str = ""
    quantity: Literal["time", "temporaries"] = "time"
    each: bool = False


@dataclass(frozen=True)
class Case:
    """A thing to measure. Every peer's module holds a function of the case's name that makes the contender.

    Several cases that one function makes are a group: the function has the group's name, which stands for all of them
    on the command line too.

    Attributes:
      name: As on the command line.
      summary: What one step does, in a sentence.
      shapes: The sizes it is measured at.
      peers: The contenders there are beside ours.
      agreement: The results that every contender must share with ours, and how far each may be off:
        max|difference| / max|ours|. A name that ours does not give in some mode is not asked for.
      batch: Makes the input from a shape's parameters, the same in every process.
      targets: What ours must reach.
      group: The group it belongs to, if any.
      modes: What is done at each shape, such as "forward"; the contenders' processes serve them one after the other.
      flops: The work in matrix products of a step, from a shape's parameters and the mode.
      moved: The bytes that a step must at least read from memory and write to it, from the same.
      seconds: About how long a turn is if nothing else is asked for.
      unit: What a step makes or takes that is counted by the second, such as "tokens".
      counted: The parameters whose product is how many of these there are in a step.
    """

    name: str
    summary: str
    shapes: tuple[Shape, ...]
    peers: tuple[str, ...]
    agreement: Mapping[str, float]
    batch: Callable[[Mapping[str, int]], Arrays]
    targets: tuple[Target, ...] = ()
    group: str = ""
    modes: tuple[str, ...] = ("",)
    flops: Callable[[Mapping[str, int], str], float] | None = None
    moved: Callable[[Mapping[str, int], str], float] | None = None
    seconds: float = 0.4
    unit: str = ""
    counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """What a contender is made from.

    Attributes:
      case: The case's name.
      parameters: Of the shape.
      batch: The input.
      weights: What to start from, by path (`"conv_1/kernel"`), in our layout; empty only for whom makes them.
      device: Where to run.
      options: What sets this contender apart from others of the same module.
      mode: Which of the case's modes.
    """

    case: str
    parameters: Mapping[str, int]
    batch: Arrays
    weights: Arrays
    device: Device = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = ""


class Contender(Protocol):
    """One implementation of a case, made and compiled, in its own process.

    One that cannot express quite what ours does says so in an attribute `differs`, and may leave out of its results
    what cannot agree.
    """

    @property
    def variant(self) -> str:
        """What it chose where it had a choice, such as a memory layout; "" where there was none."""

    @property
    def compile_seconds(self) -> float | None:
        """From Python to a program; None where nothing is compiled."""

    @property
    def program_bytes(self) -> Mapping[str, int] | None:
        """Memory that the compiled program asks for, by kind; None where that cannot be known."""

    def results(self) -> Arrays:
        """What must agree with ours, from the weights of the problem on; called once, before any `run`."""

    def run(self, steps: int) -> float | None:
        """Takes steps, and returns when the last is done; the seconds that count, where not all do."""
