"""The command line: `python -m benchmarks`, then `list`, `run`, `table` or `plot`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks import peers, report
from benchmarks.case import Case, Device, Shape
from benchmarks.cases import CASES
from benchmarks.measure import Protocol, Record, measure
from jaxnets.train import cli


@dataclasses.dataclass(frozen=True)
class List:
    """Lists the cases and the contenders."""

    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Prints them."""
        print("cases:")
        for case in CASES.values():
            print(f"  {case.name:14} {case.summary}; {', '.join(shape.name for shape in case.shapes)}")
        print("contenders:")
        for name, peer in peers.PEERS.items():
            lacking = f" (not installed: {', '.join(peer.lacking)})" if peer.lacking else ""
            print(f"  {name:14} {peer.summary}{lacking}")


@dataclasses.dataclass(frozen=True)
class Run:
    """Measures cases: our time and that of the peers, in turns."""

    cases: tyro.conf.Positional[tuple[str, ...]]
    """Their names, or `all`."""
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
    seconds: float = 0.4
    """About how long a turn is."""
    shape: Annotated[str | None, tyro.conf.arg(metavar="NAME=NUMBER,...")] = None
    """One shape of your own: the first of the case with these numbers, such as batch=64."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Measures, prints and writes; ends with code 1 if a contender failed or disagreed."""
        if self.rounds < 1 or self.seconds <= 0:
            raise ValueError(f"--rounds and --seconds must be positive, got {self.rounds} and {self.seconds:g}")
        chosen = [(case, _shapes(case, self.shape), self._peers(case)) for case in _cases(self.cases)]
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        protocol = Protocol(self.device, self.rounds, self.seconds, say=lambda line: print(line, file=sys.stderr))
        everything: list[Record] = []
        for case, shapes, names in chosen:
            records: list[Record] = []
            for shape in shapes:
                measured = measure(case, shape, names, protocol)
                records += measured
                if self.json:
                    print("\n".join(map(json.dumps, measured)), flush=True)
            if self.out is not None:
                report.write(records, self.out / f"{case.name}.json")
                _plot(records, self.out)
            everything += records
        if not self.json:
            print(report.table(everything))
        if any(record["status"] in ("failed", "disagrees") for record in everything):
            sys.exit(1)

    def _peers(self, case: Case) -> list[str]:
        if self.peers is None:
            return list(case.peers)
        names = [name for name in self.peers.split(",") if name]
        # A name may be there for the sake of another case.
        there = [name for name in names if name in case.peers or name not in peers.PEERS or peers.find(name).is_ours]
        for name in names:
            peers.find(name)
            if name not in there:
                print(f"{case.name}: {name} has nothing for this case", file=sys.stderr)
        return there


@dataclasses.dataclass(frozen=True)
class Table:
    """Prints the tables and the verdicts on the targets from results."""

    folder: tyro.conf.Positional[Path]
    """Where `run --out` wrote them."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Prints them."""
        print(report.table(report.read(self.folder)))


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draws the ratios again from results: CASE.png beside each CASE.json."""

    folder: tyro.conf.Positional[Path]
    """Where `run --out` wrote them."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Draws them."""
        _plot(report.read(self.folder), self.folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; without one the cases are listed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return cli.main({"list": List, "run": Run, "table": Table, "plot": Plot}, arguments or ["list"])


def _cases(names: Sequence[str]) -> list[Case]:
    unknown = [name for name in names if name not in (*CASES, "all")]
    if unknown or not names:
        got = f"no case {unknown[0]!r}" if unknown else "no case given"
        raise ValueError(f"{got}: there are {', '.join(CASES)}, or all")
    return list(CASES.values()) if "all" in names else [CASES[name] for name in dict.fromkeys(names)]


def _shapes(case: Case, asked: str | None) -> Sequence[Shape]:
    if asked is None:
        return case.shapes
    first = case.shapes[0]
    parameters = dict(first.parameters)
    for part in asked.split(","):
        name, _, number = part.partition("=")
        if name not in parameters or not number.isdecimal() or int(number) < 1:
            raise ValueError(
                f"--shape: {part!r} is not NAME=NUMBER, with a name of {', '.join(parameters)} ({case.name})"
            )
        parameters[name] = int(number)
    return (dataclasses.replace(first, name=asked, parameters=parameters),)


def _plot(records: Sequence[Record], folder: Path) -> None:
    for name in dict.fromkeys(record["case"] for record in records):
        own = [record for record in records if record["case"] == name]
        if any(record.get("ratio") for record in own):
            report.plot(own, folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
