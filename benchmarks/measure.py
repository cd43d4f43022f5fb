"""The protocol: contenders in processes of their own, checked against ours, then timed in turns."""

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, peers
from benchmarks.case import Arrays, Case, Device, Shape
from benchmarks.peak import limits
from benchmarks.remote import ContenderError, Remote

Record = dict[str, Any]
"""One contender at one shape, as it is written to JSON; README.md says what the fields are."""

# A contender was disturbed if the middle half of its rounds spreads wider than this, relative to the median; and a
# ratio is not known well enough if the bounds of its median lie further apart.
_SPREAD = 0.10
# It was also disturbed if other processes had more than this part of the machine in its turns: a steady load spreads
# nothing.
_OTHERS = 0.05


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
      device: Where.
      rounds: How often each contender has its turn.
      seconds: About how long a turn is, None for what the case asks; a step that takes longer is a turn of its own.
      say: Takes a line about what goes on.
    """

    device: Device = "cpu"
    rounds: int = 10
    seconds: float | None = None
    say: Callable[[str], object] = lambda line: None


def measure(case: Case, shape: Shape, names: Sequence[str], protocol: Protocol) -> list[Record]:
    """Measures one shape, in each of the case's modes: our contenders and the peers of these names.

    A peer that is not installed, fails, or comes to another result than ours is not timed; its record says so.

    Raises:
      ContenderError: If the first of ours fails.
    """
    ours = [name for name in shape.ours if protocol.device in peers.find(name).devices]
    load, hardware = os.getloadavg()[0], machine.hardware(protocol.device)
    if case.flops or case.moved:
        hardware |= limits(protocol.device)
    common = {
        "case": case.name,
        "shape": shape.name,
        "parameters": dict(shape.parameters),
        "device": protocol.device,
        "hardware": hardware,
        "load": load,
    }
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        remotes: dict[str, Remote] = {}
        faults: dict[str, Record] = {}
        for name in dict.fromkeys([*ours, *names]):
            if lacking := peers.find(name).lacking:
                faults[name] = {"status": "missing", "note": f"not installed: {', '.join(lacking)}"}
            else:
                remotes[name] = stack.enter_context(Remote(case, shape, name, protocol.device))
        for i, (name, remote) in enumerate(remotes.items()):
            try:
                remote.loaded()
                if i == 0:
                    remote("make_weights", path=str(Path(folder, "weights.npz")))
            except ContenderError as error:
                if i == 0:
                    raise
                faults[name] = _failed(error)
        for mode in case.modes:
            counts = {"flops": case.flops, "moved_bytes": case.moved}
            work = {name: count(shape.parameters, mode) for name, count in counts.items() if count is not None}
            found = {
                name: {**common, "mode": mode, "contender": name, **work, **faults.get(name, {})}
                for name in dict.fromkeys([*ours, *names])
            }
            _measure_mode(case, ours, found, remotes, Path(folder, "weights.npz"), protocol)
            records += found.values()
    return records


def _measure_mode(
    case: Case,
    ours: Sequence[str],
    records: Mapping[str, Record],
    remotes: Mapping[str, Remote],
    weights: Path,
    protocol: Protocol,
) -> None:
    """Completes the records of one shape and mode; those that have a status already are left as they are."""
    wanted: Arrays | None = None
    running: dict[str, Remote] = {}
    for name, record in records.items():
        if "status" not in record:
            try:
                results = _prepare(remotes[name], record, weights)
                wanted = results if wanted is None else wanted
                record |= _judged(case.agreement, wanted, results, differs=record["differs"])
            except ContenderError as error:
                if wanted is None:
                    raise
                record |= _failed(error)
            if record["status"] == "measured":
                running[name] = remotes[name]
            elif not running:
                raise ContenderError(f"{name}: its own results are not finite: {record['note']}")
        label = ", ".join(filter(None, (case.name, record["shape"], record["mode"])))
        protocol.say(f"{label}: {name} {_told(record)}")
    turns = {name: _Turns(remote) for name, remote in running.items()}
    seconds = case.seconds if protocol.seconds is None else protocol.seconds
    times, steps = alternate(turns, protocol.rounds, seconds)
    for name, remote in running.items():
        record = records[name]
        record["memory"]["process_peak_bytes"] = remote("memory")["peak_bytes"]
        record |= _timed(times[name], steps[name], turns[name].others)
        if case.unit:
            count = math.prod(record["parameters"][name] for name in case.counted)
            record["per_second"] = {case.unit: count / record["times"]["median"]}
        for work, limit, part in (
            ("flops", "matmul_flops", "peak_fraction"),
            ("moved_bytes", "memory_bandwidth", "bandwidth_fraction"),
        ):
            if work in record:
                record[part] = record[work] / record["times"]["median"] / record["hardware"][limit]
    for name in times:
        over = [us for us in ours if us in times and _compared(us, name, ours)]
        records[name]["ratio"] = {us: _ratio(records[us], records[name]) for us in over}


def alternate(
    turns: Mapping[str, Callable[[int], float]], rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Warms every contender up, then gives each its turn in every round, in an order that turns round each time.

    Args:
      turns: For each contender what takes a number of steps and gives the seconds they took.
      rounds: How many rounds there are.
      seconds: About how long a turn is.

    Returns:
      The seconds of one step for each round, and the number of steps in a turn.
    """
    steps = {}
    for name, turn in turns.items():
        turn(1)
        some = max(1, round(seconds / turn(1)))
        steps[name] = max(1, round(seconds * some / turn(some)))
    times: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(rounds):
        # Whoever comes second finds the caches and the clock as the first left them: each is second equally often.
        for name in list(turns)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(turns[name](steps[name]) / steps[name])
    return times, steps


def deviations(wanted: Arrays, got: Arrays) -> dict[str, float]:
    """How far each result is off: max|difference| / max|wanted|; infinite where it is missing or not finite.

    Results are floating point arrays.
    """
    found = {}
    for name, value in wanted.items():
        other = got.get(name)
        if other is None or other.shape != value.shape or not np.isfinite(other).all():
            found[name] = float("inf")
        else:
            found[name] = float(np.abs(other - value).max() / max(np.abs(value).max(), np.finfo(value.dtype).tiny))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes."""
    names = ("min", "q1", "median", "q3", "max")
    return dict(zip(names, map(float, np.percentile(values, (0, 25, 50, 75, 100))), strict=True))


def _prepare(remote: Remote, record: Record, weights: Path) -> Arrays:
    facts = remote("build", weights=str(weights), mode=record["mode"])
    record |= {
        "differs": facts["differs"],
        "versions": facts["versions"],
        "variant": facts["variant"],
        "compile_seconds": facts["compile_seconds"],
        "memory": {"program": facts["program_bytes"]},
    }
    path = weights.with_name("results.npz")
    remote("results", path=str(path))
    with np.load(path) as arrays:
        return dict(arrays)


def _failed(error: ContenderError) -> Record:
    return {"status": "failed", "note": " ".join(str(error).split())}


def _judged(agreement: Mapping[str, float], wanted: Arrays, results: Arrays, differs: str = "") -> Record:
    found = deviations(wanted, results)
    # Whoever says that it differs has left out what cannot agree.
    off = {name: found[name] for name in agreement if name in found and (name in results or not differs)}
    wrong = [
        f"{name} off by {value:.1e}, {agreement[name]:g} allowed"
        for name, value in off.items()
        if value > agreement[name]
    ]
    if not off:
        wrong = ["no result to compare"]
    # JSON has no word for infinity.
    told = {name: value if np.isfinite(value) else None for name, value in off.items()}
    return {
        "agreement": {"tolerance": dict(agreement), "deviation": told},
        "status": "disagrees" if wrong else "measured",
        "note": "; ".join(wrong),
    }


def _timed(times: Sequence[float], steps: int, others: float | None) -> Record:
    own = spread(times)
    unsteady = own["q3"] - own["q1"] > _SPREAD * own["median"]
    return {
        "times": {**own, "rounds": list(times), "steps_per_round": steps},
        "others": others,
        "noisy": unsteady or (others or 0.0) > _OTHERS,
    }


def _compared(us: str, name: str, ours: Sequence[str]) -> bool:
    """Whether the ratio of our contender `us` to this one is told; two of ours are compared one way round only."""
    beside = peers.find(us).beside
    return name == beside if beside else name not in ours or ours.index(name) < ours.index(us)


def _ratio(ours: Record, theirs: Record) -> dict[str, Any]:
    """Of the rounds, each to its own neighbour: what slows the whole machine down slows both."""
    ratios = [a / b for a, b in zip(ours["times"]["rounds"], theirs["times"]["rounds"], strict=True)]
    own = spread(ratios)
    low, high = bounds(ratios)
    unsure = high - low > _SPREAD * own["median"]
    return {**own, "noisy": ours["noisy"] or theirs["noisy"] or unsure}


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Between which the median lies that ever more such values would have, in at least 95 of 100 cases.

    They are two of the values themselves, whatever these are distributed like: each lies below the true median as often
    as above. Of five values or fewer even the extremes are less sure than that.
    """
    ordered, n, cut = sorted(values), len(values), 0
    while 2 * sum(math.comb(n, below) for below in range(cut + 2)) <= 0.05 * 2**n:
        cut += 1
    return ordered[cut], ordered[-1 - cut]


class _Turns:
    """The turns of one contender, and what others had of the machine meanwhile."""

    def __init__(self, remote: Remote):
        self._remote = remote
        self._seconds = 0.0
        self._taken: float | None = 0.0

    def __call__(self, steps: int) -> float:
        before = machine.busy_seconds()
        answer = self._remote("run", steps=steps)
        after = machine.busy_seconds()
        self._seconds += answer["elapsed_seconds"]
        if before is None or after is None or self._taken is None:
            self._taken = None
        else:
            self._taken += after - before - answer["cpu_seconds"]
        return float(answer["seconds"])

    @property
    def others(self) -> float | None:
        """The part of all processor time that other processes, or the host, had; None where it cannot be known."""
        return None if self._taken is None else max(0.0, self._taken / (self._seconds * machine.cores()))


def _told(record: Record) -> str:
    if record["status"] != "measured":
        return f"is left out ({record['status']}): {record['note']}"
    worst = max(record["agreement"]["deviation"].values(), default=0.0)
    variant = f" ({record['variant']})" if record["variant"] else ""
    return f"is ready{variant}, within {worst:.0e} of ours"
