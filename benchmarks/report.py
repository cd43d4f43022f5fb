"""What the records say: tables in Markdown, verdicts on the targets, and a picture of the ratios."""

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from benchmarks.case import Case, Device, Target
from benchmarks.cases import CASES
from benchmarks.measure import Record, spread

_INK, _PALE, _BLUE, _RED = "#22313f", "#d5dbe0", "#2166ac", "#d6604d"


def write(records: Sequence[Record], path: Path) -> None:
    """Writes records to a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(list(records), indent=1) + "\n")
    os.replace(part, path)


def read(folder: Path) -> list[Record]:
    """The records of all cases in a folder.

    Raises:
      ValueError: If a file is damaged.
      FileNotFoundError: If there is none.
    """
    files = [folder / f"{name}.json" for name in CASES if (folder / f"{name}.json").exists()]
    if not files:
        raise FileNotFoundError(f"{folder} holds no results: python -m benchmarks run CASE --out {folder} writes them")
    records: list[Record] = []
    for file in files:
        try:
            records += [dict(record) for record in json.loads(file.read_bytes())]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
    return records


class Ratio(NamedTuple):
    """The time of one of ours over a peer's: at one shape, or over all the shapes of a case.

    Attributes:
      case: The case's name.
      shapes: The names of the shapes.
      mode: The case's mode.
      device: Where.
      us: Our contender.
      peer: The other.
      spread: Quartiles and extremes over the rounds, or over shapes; the median, or the geometric mean of medians.
      noisy: Whether one of the contenders was disturbed.
    """

    case: str
    shapes: tuple[str, ...]
    mode: str
    device: str
    us: str
    peer: str
    spread: dict[str, float]
    noisy: bool

    @property
    def place(self) -> str:
        """At which shape and in which mode."""
        name = self.shapes[0] if len(self.shapes) == 1 else f"all {len(self.shapes)}"
        return f"{name}, {self.mode}" if self.mode else name


def ratios(records: Sequence[Record]) -> list[Ratio]:
    """One for each peer and each of ours that it was compared with."""
    return [
        Ratio(r["case"], (r["shape"],), r["mode"], r["device"], us, r["contender"], ratio, ratio["noisy"])
        for r in records
        for us, ratio in r.get("ratio", {}).items()
    ]


def means(rows: Sequence[Ratio]) -> list[Ratio]:
    """The same over all shapes, where there are more than two."""
    groups: dict[tuple[str, ...], list[Ratio]] = {}
    for row in rows:
        groups.setdefault((row.case, row.mode, row.device, row.us, row.peer), []).append(row)
    return [
        group[0]._replace(
            shapes=tuple(row.shapes[0] for row in group),
            spread={**spread(medians), "median": statistics.geometric_mean(medians)},
            noisy=any(row.noisy for row in group),
        )
        for group in groups.values()
        if len(group) > 2
        for medians in [[row.spread["median"] for row in group]]
    ]


def table(records: Sequence[Record]) -> str:
    """Times, ratios, targets, what is not there, and the circumstances."""
    timed = [record for record in records if "times" in record]
    parts = [
        markdown(
            (
                "case",
                "shape",
                "contender",
                "ms a step",
                "quartiles",
                "a second",
                "of peak",
                "of bandwidth",
                "compile s",
                "process MiB",
                "program MiB",
            ),
            map(_time_row, timed),
        ),
        markdown(
            ("case", "shape", "ours / peer", "time ratio", "quartiles", "extremes", ""),
            map(_ratio_row, [*ratios(timed), *means(ratios(timed))]),
        ),
        markdown(("case", "target", "shapes", "wanted", "reached", ""), _target_rows(records)),
        "\n".join(_remarks(records)),
    ]
    return "\n\n".join(filter(None, parts))


def reached(target: Target, case: Case, records: Sequence[Record]) -> tuple[float, bool] | None:
    """The ratio that a target is about, and whether it is noisy: over its shapes the geometric mean, or the greatest.

    None where one of the shapes is not measured.
    """
    found = {
        (record["shape"], record["contender"]): record
        for record in records
        if (record["case"], record["mode"], record["device"]) == (case.name, target.mode, target.device)
    }
    values, noisy = [], False
    for shape in target.shapes:
        ours, peer = (found.get((shape, name), {}) for name in (target.ours, target.peer))
        if target.quantity == "time":
            ratio = peer.get("ratio", {}).get(target.ours)
            if ratio is None:
                return None
            values.append(ratio["median"])
            noisy |= ratio["noisy"]
        else:
            programs = [record.get("memory", {}).get("program") for record in (ours, peer)]
            if not all(programs):
                return None
            values.append(programs[0]["temporaries"] / max(programs[1]["temporaries"], 1))
    return max(values) if target.each else statistics.geometric_mean(values), noisy


def plot(records: Sequence[Record], path: Path) -> None:
    """Draws the ratios of one case: medians, quartiles, extremes, and the targets.

    Raises:
      ValueError: If there is no ratio to draw.
      ImportError: If Matplotlib is not installed.
    """
    every = ratios(records)
    rows = means(every) or every
    if not rows:
        raise ValueError(f"{path.name}: no ratio was measured")
    picture, ((axes,),) = figure(1, 1, size=(7.5, 1.4 + 0.42 * len(rows)))
    for y, row in enumerate(rows):
        ratio = row.spread
        axes.plot([ratio["min"], ratio["max"]], [y, y], color=_BLUE, linewidth=1)
        axes.plot([ratio["q1"], ratio["q3"]], [y, y], color=_BLUE, linewidth=5, solid_capstyle="butt", alpha=0.5)
        axes.plot(ratio["median"], y, "o", color=_BLUE, markerfacecolor="white" if row.noisy else _BLUE)
        axes.annotate(f"{ratio['median']:.2f}", (ratio["median"], y), (0, 7), textcoords="offset points", ha="center")
        for target in CASES[row.case].targets:
            place = (target.shapes, target.mode, target.device, target.ours, target.peer)
            if place == row[1:6] and (target.stage, target.quantity, target.each) == ("first", "time", False):
                axes.plot(target.ratio, y, "|", color=_RED, markersize=16, markeredgewidth=2)
    axes.plot([], [], "o", color=_BLUE, label="ours / peer")
    if any(row.noisy for row in rows):
        axes.plot([], [], "o", color=_BLUE, markerfacecolor="white", label="the same, noisy")
    axes.plot([], [], "|", color=_RED, markersize=12, markeredgewidth=2, label="target")
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
    low, high = min(row.spread["min"] for row in rows), max(row.spread["max"] for row in rows)
    axes.set_xlim(min(low, 0.3) * 0.9, max(high, 1.0) * 1.15)
    axes.set_xticks([tick for tick in ticks if min(low, 0.3) * 0.9 <= tick <= max(high, 1.0) * 1.15])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [f"{row.place}: {row.us} / {row.peer}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel("time ratio, lower is better for us")
    axes.grid(axis="x", color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside lower right", ncols=3, frameon=False)
    first = records[0]
    picture.suptitle(f"{first['case']}: {CASES[first['case']].summary}\n{_machine(first)}", fontsize=10, color=_INK)
    save(picture, path)


def figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of so many inches, without a window, and its axes [rows, columns].

    Raises:
      ImportError: If Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'jaxnets[benchmarks]'") from error
    made = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def save(picture: Any, path: Path) -> None:
    """Writes a figure to a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    picture.savefig(part, format="png")
    os.replace(part, path)


def _time_row(record: Record) -> tuple[str, ...]:
    times, program = record["times"], record["memory"]["program"]
    name = f"{record['contender']} ({record['variant']})" if record["variant"] else record["contender"]
    return (
        record["case"],
        _place(record),
        name,
        f"{1e3 * times['median']:.3g}",
        f"{1e3 * times['q1']:.3g} to {1e3 * times['q3']:.3g}",
        ", ".join(f"{rate:,.0f} {unit}" for unit, rate in record.get("per_second", {}).items()),
        *(f"{record[name]:.0%}" if name in record else "" for name in ("peak_fraction", "bandwidth_fraction")),
        "" if record["compile_seconds"] is None else f"{record['compile_seconds']:.1f}",
        f"{record['memory']['process_peak_bytes'] / 2**20:.0f}",
        "" if program is None else f"{(program['temporaries'] + program['arguments']) / 2**20:.1f}",
    )


def _ratio_row(row: Ratio) -> tuple[str, ...]:
    ratio = row.spread
    return (
        row.case,
        row.place,
        f"{row.us} / {row.peer}",
        f"{ratio['median']:.2f}",
        f"{ratio['q1']:.2f} to {ratio['q3']:.2f}",
        f"{ratio['min']:.2f} to {ratio['max']:.2f}",
        "noisy" if row.noisy else "",
    )


def _target_rows(records: Sequence[Record]) -> Iterable[tuple[str, ...]]:
    for name in dict.fromkeys(record["case"] for record in records):
        case = CASES[name]
        devices = {record["device"] for record in records if record["case"] == name}
        for target in (target for target in case.targets if target.device in devices):
            ratio, noisy = reached(target, case, records) or (None, False)
            verdict = "not measured" if ratio is None else "pass" if ratio <= target.ratio else "shortfall"
            what = (f"{target.ours} / {target.peer}", target.device, target.mode)
            shapes = ", ".join(target.shapes) if len(target.shapes) < 3 else f"all {len(target.shapes)}"
            yield (
                name,
                ", ".join(filter(None, (*what, "temporaries" if target.quantity == "temporaries" else ""))),
                f"each of {shapes}" if target.each else shapes,
                f"{target.ratio:g}{' (then)' if target.stage == 'then' else ''}",
                "" if ratio is None else f"{ratio:.2f}",
                verdict + (", noisy" if noisy else ""),
            )


def _remarks(records: Sequence[Record]) -> Iterable[str]:
    for record in records:
        if record["status"] != "measured":
            yield f"{record['case']}, {_place(record)}: {record['contender']} was not timed: {record['note']}"
    yield from dict.fromkeys(f"{r['case']}: {r['contender']} {r['differs']}" for r in records if r.get("differs"))
    noisy = dict.fromkeys(f"{r['case']}, {_place(r)}: {r['contender']}" for r in records if r.get("noisy"))
    if noisy:
        yield f"The machine was too noisy to rely on the ratios of these: {'; '.join(noisy)}"
    measured = dict.fromkeys((record["case"], record["device"]) for record in records)
    cases = dict.fromkeys(name for name, _ in measured)
    for device in get_args(Device):
        elsewhere = [CASES[name] for name in cases if (name, device) not in measured]
        if count := sum(target.device == device for case in elsewhere for target in case.targets):
            how = f"python -m benchmarks all --device {device}"
            yield f"Targets on a {device}, not measured here: {count}; {how} judges them"
    yield from dict.fromkeys(f"Measured on: {_machine(record)}, load {record['load']:.1f}" for record in records)
    limits = {"matmul_flops": "GFLOP/s in one large product of matrices", "memory_bandwidth": "GB/s of memory"}
    for name, unit in limits.items():
        found = dict.fromkeys(r["hardware"][name] for r in records if name in r["hardware"])
        yield from (f"Peak: {limit / 1e9:.0f} {unit}" for limit in found)
    versions = {item for record in records for item in record.get("versions", {}).items()}
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions))


def _place(record: Record) -> str:
    return f"{record['shape']}, {record['mode']}" if record["mode"] else str(record["shape"])


def _machine(record: Record) -> str:
    hardware: dict[str, Any] = record["hardware"]
    cpu = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_bytes'] / 2**30:.0f} GiB"
    return f"{hardware['gpu']} ({cpu})" if "gpu" in hardware else cpu


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns line up as plain text too; nothing where there are no rows."""
    cells = [list(head), *map(list, rows)]
    if len(cells) == 1:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * max(width, 3) for width in widths) + " |", *lines[1:]])
