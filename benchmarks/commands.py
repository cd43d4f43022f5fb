"""The commands that measure: `run`, `all` and `growth`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import growth, peers, plan, report
from benchmarks.case import Case, Device, Shape
from benchmarks.cases import CASES
from benchmarks.measure import Protocol, Record, measure


@dataclasses.dataclass(frozen=True)
class Run:
    """Measures cases: our time and that of the peers, in turns."""

    cases: tyro.conf.Positional[tuple[str, ...]]
    """Their names, those of groups, or `all`."""
    peers: str | None = None
    """Names with commas between, or Python files of your own; those of the case if not given, none if empty."""
    device: Device = "cpu"
    """Where to run."""
    json: bool = False
    """Print a line of JSON for each contender and shape, in place of tables."""
    out: Path | None = None
    """A folder to write CASE.json and CASE.png to."""
    rounds: int = 10
    """How often each contender has its turn."""
    seconds: float | None = None
    """About how long a turn is; as the case asks if not given."""
    shape: Annotated[str | None, tyro.conf.arg(metavar="SHAPE,...|NAME=NUMBER,...")] = None
    """Some of the case's shapes, or one of your own: the first with these numbers, such as batch=64."""
    mode: Annotated[str | None, tyro.conf.arg(metavar="MODE")] = None
    """One mode, such as gradient; all of the case's if not given."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Measures, prints and writes; ends with code 1 if a contender failed or disagreed."""
        protocol = _protocol(self.device, self.rounds, self.seconds)
        cases = [_in_mode(case, self.mode) for case in _cases(self.cases)]
        chosen = [(case, _shapes(case, self.shape), self._peers(case)) for case in cases]
        parts = [plan.Part(case, shape, names) for case, shapes, names in chosen for shape in shapes]
        _measure(parts, protocol, self.out, self.json)

    def _peers(self, case: Case) -> tuple[str, ...]:
        if self.peers is None:
            return case.peers
        names = [name for name in self.peers.split(",") if name]
        # A name may be there for the sake of another case.
        there = [name for name in names if name in case.peers or name not in peers.PEERS or peers.find(name).is_ours]
        for name in names:
            peers.find(name)
            if name not in there:
                print(f"{case.name}: {name} has nothing for this case", file=sys.stderr)
        return tuple(there)


@dataclasses.dataclass(frozen=True)
class All:
    """Measures every case: what the targets are about, and the first shape against every peer."""

    full: bool = False
    """Every shape, in every mode, against every peer."""
    device: Device = "cpu"
    """Where to run."""
    json: bool = False
    """Print a line of JSON for each contender and shape, in place of tables."""
    out: Path | None = None
    """A folder to write CASE.json and CASE.png to."""
    rounds: int = 10
    """How often each contender has its turn."""
    seconds: float | None = None
    """About how long a turn is; as each case asks if not given."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Measures, prints and writes; ends with code 1 if a contender failed or disagreed."""
        protocol = _protocol(self.device, self.rounds, self.seconds)
        parts = plan.everything() if self.full else plan.headline(self.device)
        minutes = plan.minutes(parts, self.rounds, self.seconds, self.device)
        protocol.say(f"{len(plan.by_case(parts))} cases at {len(parts)} shapes: about {minutes:.0f} minutes")
        _measure(parts, protocol, self.out, self.json)


@dataclasses.dataclass(frozen=True)
class Growth:
    """Measures how time and memory of a case grow, one number after another being doubled."""

    case: tyro.conf.Positional[str]
    """Its name."""
    along: Annotated[str | None, tyro.conf.arg(metavar="NAME,...")] = None
    """The numbers to double, such as time,batch; all of the case's if not given."""
    points: int = 4
    """How many sizes of each, from that of the shape on."""
    peers: str = ""
    """Names with commas between, of those to measure beside ours."""
    device: Device = "cpu"
    """Where to run."""
    json: bool = False
    """Print a line of JSON for each contender and size, in place of a table."""
    out: Path | None = None
    """A folder to write CASE-growth.json and CASE-growth.png to."""
    rounds: int = 5
    """How often each contender has its turn."""
    seconds: float | None = None
    """About how long a turn is; as the case asks if not given."""
    shape: Annotated[str | None, tyro.conf.arg(metavar="SHAPE|NAME=NUMBER,...")] = None
    """Where to begin; at the case's first shape if not given."""
    mode: Annotated[str | None, tyro.conf.arg(metavar="MODE")] = None
    """One mode, such as gradient; all of the case's if not given."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Measures, prints and writes."""
        protocol = _protocol(self.device, self.rounds, self.seconds)
        if self.points < 2:
            raise ValueError(f"--points must be 2 or more, for a slope, got {self.points}")
        if self.case not in CASES:
            raise ValueError(f"no case {self.case!r}: there are {', '.join(CASES)}")
        case = _in_mode(CASES[self.case], self.mode)
        shape = _shapes(case, self.shape)[0]
        names = [name for name in self.peers.split(",") if name]
        for name in names:
            peers.find(name)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        records: list[Record] = []
        found: list[growth.Curve] = []
        along = growth.check(case, shape, self.along)
        for name, own in growth.measured(case, shape, along, self.points, names, protocol):
            records += own
            found += growth.curves(name, own)
            if self.json:
                print("\n".join(map(json.dumps, own)), flush=True)
        if not self.json:
            print(growth.table(case, found))
        if self.out is not None:
            report.write(records, self.out / f"{case.name}-growth.json")
            growth.plot(case, found, self.out / f"{case.name}-growth.png")


def _protocol(device: Device, rounds: int, seconds: float | None) -> Protocol:
    if rounds < 1 or (seconds is not None and seconds <= 0):
        raise ValueError(f"--rounds and --seconds must be positive, got {rounds} and {seconds}")
    return Protocol(device, rounds, seconds, say=lambda line: print(line, file=sys.stderr))


def _measure(parts: Sequence[plan.Part], protocol: Protocol, out: Path | None, lines: bool) -> None:
    """Measures part after part; ends the process with code 1 if a contender failed or disagreed."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    everything: list[Record] = []
    for name, own in plan.by_case(parts).items():
        records: list[Record] = []
        for case, shape, names in own:
            measured = measure(case, shape, names, protocol)
            records += measured
            if lines:
                print("\n".join(map(json.dumps, measured)), flush=True)
        if out is not None:
            report.write(records, out / f"{name}.json")
            plot(records, out)
        everything += records
    if not lines:
        print(report.table(everything))
    if any(record["status"] in ("failed", "disagrees") for record in everything):
        sys.exit(1)


def _cases(names: Sequence[str]) -> list[Case]:
    groups = list(dict.fromkeys(case.group for case in CASES.values() if case.group))
    unknown = [name for name in names if name not in (*CASES, *groups, "all")]
    if unknown or not names:
        got = f"no case {unknown[0]!r}" if unknown else "no case given"
        raise ValueError(f"{got}: there are {', '.join([*CASES, *groups])}, or all")
    return [case for case in CASES.values() if not {case.name, case.group, "all"}.isdisjoint(names)]


def _in_mode(case: Case, mode: str | None) -> Case:
    if mode is None:
        return case
    if mode not in case.modes or not mode:
        there = f"there are {', '.join(case.modes)}" if any(case.modes) else "it has none"
        raise ValueError(f"--mode: {case.name} has no mode {mode!r}, {there}")
    return dataclasses.replace(case, modes=(mode,))


def _shapes(case: Case, asked: str | None) -> Sequence[Shape]:
    if asked is None:
        return case.shapes
    by_name = {shape.name: shape for shape in case.shapes}
    if all(name in by_name for name in asked.split(",")):
        return [by_name[name] for name in dict.fromkeys(asked.split(","))]
    first = case.shapes[0]
    parameters = dict(first.parameters)
    for part in asked.split(","):
        name, _, number = part.partition("=")
        if name not in parameters or not number.isdecimal() or int(number) < 1:
            there = f"NAME=NUMBER, with a name of {', '.join(parameters)}, nor a shape's name"
            raise ValueError(f"--shape: {part!r} is not {there} ({case.name})")
        parameters[name] = int(number)
    return (dataclasses.replace(first, name=asked, parameters=parameters),)


def plot(records: Sequence[Record], folder: Path) -> None:
    """Draws the picture of each case that has a ratio."""
    for name in dict.fromkeys(record["case"] for record in records):
        own = [record for record in records if record["case"] == name]
        if any(record.get("ratio") for record in own):
            report.plot(own, folder / f"{name}.png")
