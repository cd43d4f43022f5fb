"""Pictures of a run, drawn without a window and written whole or not at all."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxnets.train.files import replacing
from jaxnets.train.logging import read_json_lines

_INK, _PALE, _COLOURS = "#22313f", "#d5dbe0", ("#2166ac", "#d6604d", "#4d9221", "#762a83", "#b8860b", "#35978f")


def curves(
    records: Sequence[Mapping[str, Any]] | str | os.PathLike[str], path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Draws each metric over the steps, metrics that differ in their prefix alone (`test_loss`, `loss`) together.

    Args:
      records: As `JsonLines` writes them, or the file itself.
      path: The PNG to write.
      title: What stands above.

    Raises:
      ValueError: If no record holds a step and a number.
      ImportError: If Matplotlib is not installed.
    """
    if isinstance(records, str | os.PathLike):
        records = read_json_lines(records)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for name, value in record.items():
            if name in ("step", "seconds") or "step" not in record or not isinstance(value, int | float):
                continue
            panels.setdefault(name.rsplit("_", 1)[-1], {}).setdefault(name, []).append((record["step"], value))
    if not panels:
        raise ValueError("curves: no record holds a step and a metric")

    figure = _figure(5.2 * len(panels), 3.6)
    for axes, (metric, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, (name, points) in zip(_cycled(_COLOURS, len(lines)), lines.items(), strict=True):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.6, label=name, marker="o" if len(x) == 1 else None)
        axes.set_xlabel("step")
        axes.set_ylabel(metric)
        axes.grid(color=_PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False)
    _write(figure, path, title)


def sweep(
    hyper: Mapping[str, Any],
    metrics: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metric: str = "loss",
    title: str = "",
) -> None:
    """Draws a metric of a sweep: each member over the steps, and the last of each over every hyperparameter.

    Args:
      hyper: Values [M] by name; those that are the same for all have no panel.
      metrics: As `sweep` returns them.
      path: The PNG to write.
      metric: Which one.
      title: What stands above.

    Raises:
      ImportError: If Matplotlib is not installed.
    """
    steps, values = metrics["step"], np.asarray(metrics[metric])
    varied = {name: np.asarray(column) for name, column in hyper.items() if len(set(np.asarray(column).tolist())) > 1}
    figure = _figure(4.2 * (1 + len(varied)), 3.6)
    first, *others = figure.subplots(1, 1 + len(varied), squeeze=False)[0]
    for i, colour in enumerate(_cycled(_COLOURS, values.shape[1])):
        first.plot(steps, values[:, i], color=colour, linewidth=1.2, label=str(i))
    first.set_xlabel("step")
    first.set_ylabel(metric)
    if values.shape[1] <= 8:
        first.legend(frameon=False, title="member")
    for axes, (name, column) in zip(others, varied.items(), strict=True):
        axes.plot(column, values[-1], "o", color=_COLOURS[0], markersize=4)
        # Values that are tried are mostly spread by factors.
        if column.min() > 0 and column.max() > 20 * column.min():
            axes.set_xscale("log")
        axes.set_xlabel(name)
    for axes in (first, *others):
        axes.grid(color=_PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path, title)


def confusion(matrix: Int[np.ndarray, "k k"], classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws a confusion matrix: labels down, predictions across, shaded by the part of the label's rows.

    Args:
      matrix: Counts, as `confusion_matrix` makes them.
      classes: Their names.
      path: The PNG to write.

    Raises:
      ValueError: If there is not a name for each class.
      ImportError: If Matplotlib is not installed.
    """
    if len(classes) != len(matrix):
        raise ValueError(f"confusion: {len(classes)} names for a matrix of {len(matrix)} classes")
    figure = _figure(*[max(4.0, 0.55 * len(matrix) + 1.5)] * 2)
    axes = figure.subplots()
    parts = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(len(matrix))
    axes.set_xticks(
        ticks, classes, rotation=45 if max(map(len, classes)) > 2 else 0, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(ticks, classes)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if len(matrix) <= 30:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if parts[row, column] > 0.5 else _INK
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    _write(figure, path, f"{np.trace(matrix) / max(matrix.sum(), 1):.2%} of {matrix.sum():,} right")


def reliability(table: Any, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws how often a classifier is right against how sure it is, and below how many rows there are.

    Args:
      table: As `calibration` makes it.
      path: The PNG to write.
      title: What stands above, before the expected calibration error.

    Raises:
      ImportError: If Matplotlib is not installed.
    """
    figure = _figure(4.4, 5.2)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    bins = len(table.rows)
    centres, some = (np.arange(bins) + 0.5) / bins, table.rows > 0
    upper.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle="--")
    upper.bar(centres[some], table.accuracy[some], width=0.94 / bins, color=_COLOURS[0], alpha=0.45)
    upper.plot(table.confidence[some], table.accuracy[some], "o", color=_COLOURS[0], markersize=4)
    upper.set_ylim(0, 1)
    upper.set_ylabel("part that is right")
    lower.bar(centres, table.rows / max(table.rows.sum(), 1), width=0.94 / bins, color=_COLOURS[1], alpha=0.45)
    lower.set_xlim(0, 1)
    lower.set_ylabel("part of the rows")
    lower.set_xlabel("probability of the class named")
    for axes in (upper, lower):
        axes.grid(color=_PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path, f"{title}{': ' if title else ''}expected calibration error {table.error:.2%}")


def wrong(
    images: Shaped[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    probabilities: Shaped[np.ndarray, "n k"],
    classes: Sequence[str],
    path: str | os.PathLike[str],
    *,
    most: int = 36,
) -> None:
    """Draws a grid of the images that were taken for another class, the surest mistakes first.

    Args:
      images: Of 1 or 3 channels, any range of values.
      labels: What they are.
      probabilities: What the model gave each class.
      classes: Their names.
      path: The PNG to write.
      most: How many to draw.

    Raises:
      ImportError: If Matplotlib is not installed.
    """
    predictions = probabilities.argmax(axis=1)
    sureness = probabilities.max(axis=1)
    mistakes = np.flatnonzero(predictions != labels)
    shown = mistakes[np.argsort(-sureness[mistakes], kind="stable")][:most]
    columns = min(max(len(shown), 1), 9)
    rows = max(math.ceil(len(shown) / columns), 1)
    figure = _figure(max(1.25 * columns, 4.0), 1.55 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, shown, strict=False):
        axes.imshow(_displayed(images[i]), cmap="gray", interpolation="nearest")
        axes.set_title(f"{classes[labels[i]]} as {classes[predictions[i]]}\n{sureness[i]:.0%}", fontsize=8, color=_INK)
    _write(figure, path, f"{len(mistakes):,} of {len(labels):,} wrong")


def gradient_flow(reports: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws what is left of the gradient at each lag, and how much of each gate is stuck.

    Args:
      reports: By name, as `jaxnets.interpret.gradient_flow` makes them.
      path: The PNG to write.
      title: What stands above.

    Raises:
      ValueError: If there is no report.
      ImportError: If Matplotlib is not installed.
    """
    if not reports:
        raise ValueError("gradient_flow: no report to draw")
    figure = _figure(11.0, 4.2)
    flow, gates = figure.subplots(1, 2, width_ratios=(3, 2))
    bars: list[tuple[str, float, float, str]] = []
    for colour, (name, report) in zip(_cycled(_COLOURS, len(reports)), reports.items(), strict=True):
        norms = np.asarray(report["norms"]["state"], np.float64)
        lags = np.arange(1, len(norms) + 1)
        # What has vanished altogether has no place on a logarithmic axis: the line ends there.
        left = np.where(norms > 0, norms, np.nan) / (norms[0] or np.nan)
        memory = report["memory_length"]
        label = f"{name}: {memory} steps{' or more' if memory == len(norms) else ''}"
        flow.plot(lags, left, color=colour, linewidth=1.6, label=label)
        bars += [
            (f"{name} {gate}", stuck["below"], stuck["above"], colour) for gate, stuck in report["saturation"].items()
        ]
    flow.set_yscale("log")
    flow.set_ylim(bottom=max(flow.get_ylim()[0], 1e-12))
    flow.set_xlabel("lag k, in steps")
    flow.set_ylabel("norm of dL/dh at lag k, over that at lag 1")
    flow.legend(frameon=False, title="memory", title_fontsize=9, fontsize=9)
    flow.grid(color=_PALE, linewidth=0.6)
    for row, (_, below, above, colour) in enumerate(bars):
        gates.barh(row, -below, color=colour, alpha=0.45)
        gates.barh(row, above, color=colour)
    gates.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    gates.invert_yaxis()
    gates.set_xlim(-1, 1)
    gates.set_xticks([-1, -0.5, 0, 0.5, 1], ["100%", "50%", "0", "50%", "100%"])
    gates.axvline(0, color=_INK, linewidth=0.8)
    gates.set_xlabel("gates stuck: under 0.1 (left), over 0.9 (right)")
    for axes in (flow, gates):
        axes.spines[["top", "right"]].set_visible(False)
    _write(figure, path, title)


def forecast(
    times: Shaped[np.ndarray, " t"],
    values: Float[np.ndarray, "t c"],
    forecast: Float[np.ndarray, "h c"],
    low: Float[np.ndarray, "h c"],
    high: Float[np.ndarray, "h c"],
    columns: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> None:
    """Draws what was observed of each column, and the forecast of its last steps with a band.

    Args:
      times: When.
      values: What was observed.
      forecast: Of the last H steps.
      low: Where the band begins.
      high: Where it ends.
      columns: Their names.
      path: The PNG to write.
      title: What stands above.

    Raises:
      ValueError: If there are fewer steps than are forecast, or not a name for each column.
      ImportError: If Matplotlib is not installed.
    """
    if len(forecast) > len(values) or len(columns) != values.shape[1]:
        raise ValueError(
            f"forecast: {len(forecast)} steps and {len(columns)} names do not fit values of shape {values.shape}"
        )
    across = min(len(columns), 2)
    down = math.ceil(len(columns) / across)
    figure = _figure(8.4 if across == 1 else 12.0, 0.6 + 2.7 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    begun = len(values) - len(forecast)
    for i, (axes, column) in enumerate(zip(grid, columns, strict=False)):
        axes.plot(times, values[:, i], color=_INK, linewidth=1.2, label="observed")
        axes.fill_between(times[begun:], low[:, i], high[:, i], color=_COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(times[begun:], forecast[:, i], color=_COLOURS[0], linewidth=1.6, label="forecast")
        axes.set_title(column, fontsize=10, color=_INK)
        axes.grid(color=_PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xticks(*_ticks(times))
    grid[0].legend(frameon=False, fontsize=9)
    for axes in grid[len(columns) :]:
        axes.axis("off")
    _write(figure, path, title)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'jaxnets[examples]'") from error
    # A figure of its own canvas: pyplot would keep it, and look for a screen.
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Any, path: str | os.PathLike[str], title: str) -> None:
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _ticks(times: Shaped[np.ndarray, " t"]) -> tuple[Any, list[str]]:
    """Four or five times at even distances, and how they are written: to the day, or coarser where they are."""
    shown = times[:: max(math.ceil(len(times) / 5), 1)]
    return shown, [str(time)[: len("2016-07-01")] for time in shown]


def _displayed(image: np.ndarray) -> np.ndarray:
    """Stretched to [0, 1]; one channel without its axis."""
    image = image.astype(np.float32)
    image = (image - image.min()) / max(float(image.max() - image.min()), 1e-9)
    return image[..., 0] if image.shape[-1] == 1 else image


def _cycled(items: Sequence[str], count: int) -> list[str]:
    return [items[i % len(items)] for i in range(count)]
