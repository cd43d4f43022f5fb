"""What larger problems cost: time and memory of one case as one number after another is doubled, and their slopes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import report
from benchmarks.case import Case, Shape
from benchmarks.measure import Protocol, Record, measure


class Curve(NamedTuple):
    """How one contender's cost grows along one parameter.

    Attributes:
      contender: Whose.
      mode: The case's mode.
      along: The parameter.
      sizes: Its values, each twice the one before.
      seconds: Of a step, at each.
      memory: In bytes, at each: of the compiled program, or where that is not known the most of the process.
      noisy: Whether the machine was, at one of them.
    """

    contender: str
    mode: str
    along: str
    sizes: list[int]
    seconds: list[float]
    memory: list[int]
    noisy: bool


def doubled(shape: Shape, along: str, points: int) -> list[Shape]:
    """The shape, and those whose parameter is twice, four times, ... as large, for the first of ours alone."""
    shapes = []
    for i in range(points):
        size = shape.parameters[along] << i
        parameters = {**shape.parameters, along: size}
        shapes.append(Shape(f"{along}={size}", parameters, ours=shape.ours[:1]))
    return shapes


def measured(
    case: Case, shape: Shape, along: Sequence[str], points: int, peers: Sequence[str], protocol: Protocol
) -> Iterator[tuple[str, list[Record]]]:
    """Each parameter, and the records along it; the shape itself is measured once.

    Raises:
      ContenderError: If ours fails.
    """
    first: list[Record] = []
    for name in along:
        shapes = doubled(shape, name, points)
        first = first or measure(case, shapes[0], peers, protocol)
        begun = [{**record, "shape": shapes[0].name} for record in first]
        yield name, begun + [record for other in shapes[1:] for record in measure(case, other, peers, protocol)]


def curves(along: str, records: Sequence[Record]) -> list[Curve]:
    """Of each contender that was timed at every size, in each mode."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["contender"], record["mode"]), []).append(record)
    return [
        Curve(
            contender,
            mode,
            along,
            [record["parameters"][along] for record in own],
            [record["times"]["median"] for record in own],
            [_bytes(record) for record in own],
            any(record["noisy"] for record in own),
        )
        for (contender, mode), own in groups.items()
        if all("times" in record for record in own)
    ]


def slope(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent p of the power law costs ~ sizes**p that is the nearest, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(case: Case, found: Sequence[Curve]) -> str:
    """The costs at each size and their slopes, over all sizes and over the last doubling alone."""

    def told(sizes: Sequence[int], costs: Sequence[float], scale: float) -> tuple[str, str, str]:
        numbers = ", ".join(f"{scale * cost:.3g}" for cost in costs)
        return numbers, f"{slope(sizes, costs):.2f}", f"{slope(sizes[-2:], costs[-2:]):.2f}"

    rows = [
        (
            ", ".join(filter(None, (case.name, curve.mode))),
            curve.contender,
            f"{curve.along} {', '.join(map(str, curve.sizes))}",
            *told(curve.sizes, curve.seconds, 1e3),
            *told(curve.sizes, curve.memory, 2**-20),
            "noisy" if curve.noisy else "",
        )
        for curve in found
    ]
    head = "case", "contender", "along", "ms a step", "slope", "last", "MiB", "slope", "last", ""
    return report.markdown(head, rows)


def plot(case: Case, found: Sequence[Curve], path: Path) -> None:
    """Draws time and memory against how much larger the parameter is, both logarithmic.

    Raises:
      ImportError: If Matplotlib is not installed.
    """
    figure, axes = report.figure(2, len(case.modes), size=(5.5 * len(case.modes), 8.0))
    for row, (name, unit) in enumerate((("seconds", "seconds a step"), ("memory", "bytes"))):
        for column, mode in enumerate(case.modes):
            panel = axes[row][column]
            for curve in found:
                if curve.mode == mode:
                    costs = getattr(curve, name)
                    label = f"{curve.contender}, {curve.along} from {curve.sizes[0]}: {slope(curve.sizes, costs):.2f}"
                    panel.loglog([size / curve.sizes[0] for size in curve.sizes], costs, "o-", label=label)
            panel.set_title(mode)
            panel.set_xlabel("times as large")
            panel.set_ylabel(unit)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.grid(alpha=0.3)
            panel.legend(title="slope", fontsize=8)
    figure.suptitle(f"{case.name}: {case.summary}", fontsize=10)
    report.save(figure, path)


def check(case: Case, shape: Shape, along: str | None) -> list[str]:
    """The parameters to double: those that are named, with commas between, or all.

    Raises:
      ValueError: If the case has none, or not one of these.
    """
    names = list(shape.parameters) if along is None else along.split(",")
    for name in names or [""]:
        if name not in shape.parameters:
            there = f"there are {', '.join(shape.parameters)}" if shape.parameters else "it has none"
            raise ValueError(f"--along: {case.name} has no parameter {name!r}, {there}")
    return names


def _bytes(record: Record) -> int:
    program = record["memory"]["program"]
    if program is None:
        return int(record["memory"]["process_peak_bytes"])
    return int(program["temporaries"] + program["arguments"] + program["outputs"] - program["aliased"])
