"""What a run tells while it goes: a bar on the terminal and lines in a file."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.train.files import naming, replacing
from jaxnets.train.loop import Callback


@contextmanager
def progress(
    steps: int, *, file: Any = None, seconds: float | None = None, bar: bool | None = None
) -> Iterator[Callback]:
    """Shows how training goes: the metrics, steps per second and the time left.

        with progress(1000) as show:
            state, metrics = fit(state, step, data, steps=1000, callbacks=[show])

    No thread runs beside the training: it is drawn when `fit` calls, and no more often than asked.

    Args:
      steps: The last step.
      file: A text stream to write to; None means standard error.
      seconds: Least time between two drawings; by default 0.2 for a bar and 5 for lines.
      bar: Whether to draw a bar or to write plain lines; None draws on a terminal only.

    Yields:
      A callback for `fit`.
    """
    file = file or sys.stderr
    bar = file.isatty() if bar is None else bar
    meter = _Meter(steps, (0.2 if bar else 5.0) if seconds is None else seconds)
    if not bar:
        yield meter.callback(lambda step, text: file.write(f"step {step}/{steps}  {text}\n") and file.flush())
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.description}"))
    console = Console(file=file, force_terminal=True)
    # Standard output stays what it was: it may be read by a program.
    with Progress(*columns, console=console, auto_refresh=False, redirect_stdout=False) as drawing:
        task = drawing.add_task("compiling", total=steps)
        drawing.refresh()
        yield meter.callback(lambda step, text: drawing.update(task, completed=step, description=text, refresh=True))


class JsonLines:
    """A callback that writes a line of JSON for each record, `{"step": ..., "seconds": ..., "loss": ...}`.

    Seconds are counted from the making of the object, on top of those of the records kept, `seconds_before`.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: int = 0):
        """Opens the file for a run that goes on from a step.

        Args:
          path: The file; records past the step, those without one, such as the result of a run that ended there, and
            a line cut short by a crash, are dropped from it.
          step: The step restored; 0 starts the file anew.

        Raises:
          OSError: If the file cannot be written.
        """
        self.path = Path(path)
        kept = [record for record in read_json_lines(path) if record.get("step", step + 1) <= step] if step else []
        with replacing(path) as part:
            part.write_text("".join(to_json(record) + "\n" for record in kept))
        self.seconds_before: float = max((record.get("seconds") or 0.0 for record in kept), default=0.0)
        self._begun = time.monotonic() - self.seconds_before

    def __call__(self, step: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Writes a record, as a callback of `every`."""
        self.write({"step": step, "seconds": round(time.monotonic() - self._begun, 3), **metrics})

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record of any form."""
        with naming(self.path), self.path.open("a") as file:
            file.write(to_json(record) + "\n")


def to_json(record: Mapping[str, Any]) -> str:
    """One line of JSON, in which a number that is not finite is null: JSON has no other word for it.

    >>> to_json({"loss": float("nan")})
    '{"loss": null}'
    """
    return json.dumps(_finite(record), allow_nan=False)


class CompileClock:
    """Adds up the seconds that XLA compiles, from the making of the object on; `elapsed` are all that went by."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    @property
    def elapsed(self) -> float:
        """The seconds since the object was made."""
        return time.perf_counter() - self._begun

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The whole records of a file, none where there is no file."""
    path, records = Path(path), []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


class _Meter:
    """Turns what `fit` tells into a line of text, now and then."""

    def __init__(self, steps: int, seconds: float):
        self.steps = steps
        self.seconds = seconds
        self._first: tuple[int, float] | None = None
        self._shown = -math.inf

    def callback(self, show: Callable[[int, str], Any]) -> Callback:
        def told(step: int, state: Any, metrics: Mapping[str, Any]) -> None:
            now = time.monotonic()
            # Counted from the first call's end, which leaves the compilation out.
            self._first = self._first or (step, now)
            if now - self._shown < self.seconds and step < self.steps:
                return
            self._shown = now
            show(
                step, "  ".join([f"{name} {_short(value)}" for name, value in metrics.items()] + self._rate(step, now))
            )

        return told

    def _rate(self, step: int, now: float) -> list[str]:
        first, begun = self._first or (step, now)
        if step == first:
            return []
        rate = (step - first) / max(now - begun, 1e-9)
        left = int((self.steps - step) / rate)
        return [f"{rate:.4g} steps/s", f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    """A number, or for a sweep the least and the greatest of its members'."""
    return f"{np.nanmin(value):.4g} to {np.nanmax(value):.4g}" if isinstance(value, np.ndarray) else f"{value:.4g}"
