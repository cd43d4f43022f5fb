"""Numbers by time from a csv, every cell of which is looked at."""

import contextlib
import csv
import math
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from jaxnets.data.text import decoded

_TIME_NAMES = {"date", "time", "datetime", "timestamp", "ds", "year"}
"""Under these a number is a time: the year 2001, the day 20010203."""


def read_csv(name: str, data: bytes) -> tuple[tuple[str, ...], Float[np.ndarray, "t c"], Shaped[np.ndarray, " t"]]:
    r"""The names of the columns, the numbers, and the times: the first column, or else the numbers of the steps.

    Args:
      name: What the file is called in messages.
      data: What it holds.

    Raises:
      ValueError: If it is empty, not UTF-8, not even in time, or a cell holds no finite number; names the line and the
        column.

    >>> read_csv("a.csv", b"date,price\n2024-01-31,1.5\n2024-02-29,2\n")[1].tolist()
    [[1.5], [2.0]]
    """
    reader = csv.reader(decoded(name, data).splitlines())
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: {error}") from error
    (_, header), *body = rows or [(0, [])]
    if len(body) < 2:
        raise ValueError(f"{name} has {len(body)} lines of numbers below its names, wanted 2 or more")
    if all(map(_is_number, header)):
        raise ValueError(f"{name} has numbers in its first line, wanted the names of the columns")
    if len(set(header)) < len(header):
        raise ValueError(f"{name} has columns of one name: {', '.join(header)}")
    for line, row in body:
        if len(row) != len(header):
            raise ValueError(f"{name}, line {line} has {len(row)} cells but there are {len(header)} columns")
    first = body[0][1][0]
    timed = header[0].lower() in _TIME_NAMES or not (_is_number(first) or _time(first) is None)
    columns = header[timed:]
    if not columns:
        raise ValueError(f"{name} has no column of numbers, only {header[0]}")
    values = _numbers(name, columns, [(line, row[timed:]) for line, row in body])
    times = _times(name, [(line, row[0]) for line, row in body]) if timed else np.arange(len(body))
    return tuple(columns), values, times


def time_of(text: str) -> str:
    """A time as NumPy reads it: 19580329 is a day, and not a year."""
    return re.sub(r"^(\d{4})(\d\d)(\d\d)(?!\d)", r"\1-\2-\3", text.strip()).removesuffix("Z")


def _time(text: str) -> np.datetime64 | None:
    try:
        time = None if re.fullmatch(r"[+-]?\d*\.\d*|\d{0,3}", text) else np.datetime64(time_of(text))
    except ValueError:
        return None
    return None if time is None or np.isnat(time) else time


def _times(name: str, cells: Sequence[tuple[int, str]]) -> Shaped[np.ndarray, " t"]:
    """The times of a column, at even distances in one of the units that it may be counted in."""
    try:
        times = np.array([time_of(cell) for _, cell in cells], "datetime64")
        missing = np.isnat(times)
    except ValueError:
        times, missing = np.array([]), np.array([_time(cell) is None for _, cell in cells])
    if missing.any():
        line, cell = cells[int(missing.argmax())]
        raise ValueError(f"{name}, line {line} has {cell!r} for its time, wanted an ISO date or a year")
    steps = np.diff(times).astype(int)
    if steps[0] > 0 and np.all(steps == steps[0]):
        return times
    # Months and years are not of one length, so they are even in these units alone.
    months = times.astype("datetime64[M]")
    steps_of_months = np.diff(months).astype(int)
    if steps_of_months[0] > 0 and np.all(steps_of_months == steps_of_months[0]):
        return months
    usual = int(np.median(steps))
    wrong, unit = int(np.argmax(steps != usual)) + 1, np.datetime_data(times.dtype)[0]
    raise ValueError(
        f"{name}, line {cells[wrong][0]}: {cells[wrong][1]} follows {cells[wrong - 1][1]}, but steps are mostly of "
        f"{np.array(usual, f'timedelta64[{unit}]')}: fill the gaps, or put the lines in order"
    )


def _numbers(name: str, columns: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> Float[np.ndarray, "t c"]:
    """The numbers of all cells; what is none is looked for only once there is such."""
    with contextlib.suppress(ValueError):
        values = np.array([row for _, row in rows], np.float64)
        if np.isfinite(values).all():
            return values
    cells = ((line, *cell) for line, row in rows for cell in zip(columns, row, strict=True))
    line, column, cell = next(cell for cell in cells if not (_is_number(cell[2]) and math.isfinite(float(cell[2]))))
    where = f"{name}, line {line}, column {column}"
    if not cell:
        raise ValueError(f"{where} is empty: fill the gap first")
    raise ValueError(
        f"{where} holds {cell}: fill the gap first" if _is_number(cell) else f"{where} holds {cell!r}, wanted a number"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
