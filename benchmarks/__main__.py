"""The command line: `python -m benchmarks`, then `list`, `run`, `all`, `growth`, `table`, `plot` or `compare`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from benchmarks import peers, repeat, report
from benchmarks.cases import CASES
from benchmarks.commands import All, Growth, Run, plot
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
            group = f" (of {case.group})" if case.group else ""
            print(f"  {case.name:22} {case.summary}{group}; {', '.join(shape.name for shape in case.shapes)}")
        print("contenders:")
        for name, peer in peers.PEERS.items():
            lacking = f" (not installed: {', '.join(peer.lacking)})" if peer.lacking else ""
            print(f"  {name:16} {peer.summary}{lacking}")


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
        plot(report.read(self.folder), self.folder)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Says whether a second run came to the ratios of the first, within 10 %, or was noisy."""

    first: tyro.conf.Positional[Path]
    """Where `run --out` wrote the first."""
    second: tyro.conf.Positional[Path]
    """Where it wrote the second."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Prints both; ends with code 1 if ratios lie apart and no noise was seen."""
        table, apart = repeat.compared(report.read(self.first), report.read(self.second))
        print(table)
        if apart:
            print(f"\nMore than {repeat.TOLERANCE:.0%} apart on a quiet machine: {'; '.join(apart)}")
            sys.exit(1)


_COMMANDS = {"list": List, "run": Run, "all": All, "growth": Growth, "table": Table, "plot": Plot, "compare": Compare}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; without one the cases are listed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return cli.main(_COMMANDS, arguments or ["list"])


if __name__ == "__main__":
    sys.exit(main())
