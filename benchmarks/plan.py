"""What is measured in one go: parts of cases, and about how long that takes."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks import peers
from benchmarks.case import Case, Device, Shape
from benchmarks.cases import CASES

# Of a contender at one shape: imports, compiling and what is checked, two at a time.
_BEGINNING = 6.0
# In each mode, of one that has a C++ compiler make its program.
_COMPILER = 20.0
# Rounds that a contender warms up for.
_WARM_UP = 3


class Part(NamedTuple):
    """One shape of a case, in some of its modes, against some of its peers."""

    case: Case
    shape: Shape
    peers: tuple[str, ...]


def everything() -> list[Part]:
    """Every shape of every case, in every mode, against every peer."""
    return [Part(case, shape, case.peers) for case in CASES.values() for shape in case.shapes]


def headline(device: Device = "cpu") -> list[Part]:
    """Of each case the first shape against every peer, and of the others what its targets are about."""
    found = []
    for case in CASES.values():
        found.append(Part(case, case.shapes[0], case.peers))
        for shape in case.shapes[1:]:
            targets = [target for target in case.targets if shape.name in target.shapes and target.device == device]
            names = {name for target in targets for name in (target.ours, target.peer)}
            modes = tuple(mode for mode in case.modes if mode in {target.mode for target in targets})
            # The first of ours makes the weights, and is what all are held to.
            ours = tuple(name for name in shape.ours if name == shape.ours[0] or name in names)
            if targets:
                part = dataclasses.replace(case, modes=modes), dataclasses.replace(shape, ours=ours)
                found.append(Part(*part, tuple(name for name in case.peers if name in names)))
    return found


def by_case(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """The parts of each case, in order."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.case.name, []).append(part)
    return groups


def minutes(parts: Sequence[Part], rounds: int, seconds: float | None = None, device: Device = "cpu") -> float:
    """About how long measuring takes if no step is longer than a turn: each contender's beginning, and its turns."""
    total = 0.0
    for case, shape, names in parts:
        ours = [name for name in shape.ours if device in peers.find(name).devices]
        turn = case.seconds if seconds is None else seconds
        for name in dict.fromkeys([*ours, *names]):
            begins = _COMPILER if peers.find(name).compiler else 0.0
            total += _BEGINNING + len(case.modes) * (begins + (rounds + _WARM_UP) * turn)
    return total / 60
