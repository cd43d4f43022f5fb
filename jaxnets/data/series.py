"""Series of numbers to forecast: by name, or from a csv."""

import gzip
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from jaxnets.data.sources import SOURCES, fetch, local_path
from jaxnets.data.table import read_csv, time_of
from jaxnets.data.text import decoded

_DAY = 86_400
_SEASONS = {3_600: 24, 1_800: 48, 900: 96, 600: 144, 60: 1_440, _DAY: 7, 7 * _DAY: 52}
"""Steps to a season by the seconds of a step: a day of hours or less, a week of days, a year of weeks."""
_NAMES = ("co2", "sunspots", "ETTh1")


@dataclass(frozen=True, eq=False)
class Series:
    """Numbers observed together, at even distances in time.

    Attributes:
      name: The name or path it was loaded by.
      values: What was observed.
      columns: The names of the numbers.
      times: When, as `datetime64`; or the numbers of the steps, from 0.
      season: Steps after which things are much as they were, 1 where nothing is known of such.
      ends: Where the parts end: to train on, to choose by, to test on. What is later belongs to none.
      note: What a reader of figures measured on it must know; often empty.
    """

    name: str
    values: Float[np.ndarray, "t c"]
    columns: tuple[str, ...]
    times: Shaped[np.ndarray, " t"]
    season: int
    ends: tuple[int, int, int]
    note: str = ""

    @property
    def fingerprint(self) -> str:
        """The sha256 of names, numbers and times: equal only for an equal series."""
        told = repr((self.columns, self.ends)).encode()
        return hashlib.sha256(told + self.values.tobytes() + self.times.astype(np.int64).tobytes()).hexdigest()

    def scale(self) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
        """Mean and standard deviation of the part to train on; 1 for what never changes in it."""
        training = self.values[: self.ends[0]]
        deviation = training.std(axis=0)
        return training.mean(axis=0), np.where(deviation > 0, deviation, 1.0)

    def parts(self, lookback: int, horizon: int) -> tuple[slice, slice, slice]:
        """The steps of the parts to train on, to choose by and to test on.

        The latter two begin `lookback` steps early, so that every step that is theirs is forecast, and no other.

        Raises:
          ValueError: If a part is shorter than a window of lookback and horizon.

        >>> load_series("sunspots").parts(lookback=22, horizon=11)
        (slice(0, 216, None), slice(194, 248, None), slice(226, 309, None))
        """
        train, validation, test = self.ends
        parts = slice(0, train), slice(max(train - lookback, 0), validation), slice(validation - lookback, test)
        for use, part in zip(("train on", "choose by", "test on"), parts, strict=True):
            length = part.stop - part.start
            if min(lookback, horizon) < 1 or part.start < 0 or length < lookback + horizon:
                raise ValueError(
                    f"{self.name} has {length} steps to {use}, shorter than a window of lookback {lookback} and "
                    f"horizon {horizon}: make these smaller"
                )
        return parts

    def times_after(self, count: int) -> Shaped[np.ndarray, " n"]:
        """The times of so many steps after the last.

        >>> load_series("sunspots").times_after(2).astype(str).tolist()
        ['2009', '2010']
        """
        step = self.times[-1] - self.times[-2]
        return self.times[-1] + step * np.arange(1, count + 1)


def load_series(name_or_path: str | Path) -> Series:
    """Loads a series by its name, or from a csv.

    Names: `co2`, in the air over Mauna Loa, weekly from 1958 to 2001 in parts per million, of whose 2,284 weeks 59 were
    not observed: they are filled in by straight lines between their neighbours; `sunspots`, yearly from 1700 to 2008
    (both come with the package statsmodels); `ETTh1`, or `ett`: load and oil temperature of a transformer, seven
    numbers hourly over two years.

    A csv is in UTF-8, with a line of names above, the time in the first column (ISO dates or years; numbers in a column
    of another name than date, time, year and the like are a number like others, and steps are then counted) and a
    number in every other. Of a series the first seven tenths are to train on and the last fifth to test on; of ETT, by
    name or in a file that is called as it comes, 12, 4 and 4 months of 30 days, as in the literature.

    Raises:
      ValueError: If a csv is empty, not UTF-8, not even in time, or holds anything but a finite number in a cell;
        names the line and the column.
      FileNotFoundError: If there is no such file.
      OSError: If a file cannot be read or downloaded.
      ImportError: If the package that a series comes with is not installed.

    References:
      Keeling and Whorf, 2004. Atmospheric CO2 concentrations derived from flask air samples (co2).
      Zhou et al., 2021. Informer: beyond efficient transformer for long sequence time-series forecasting (ETT).

    >>> series = load_series("co2")
    >>> series.values.shape, series.season, str(series.times[-1])
    ((2284, 1), 52, '2001-12-29')
    """
    name = str(name_or_path)
    if name == "co2":
        return _co2()
    if name == "sunspots":
        return _made(name, _with_statsmodels("sunspots"), {"SUNACTIVITY": "sunspots"}, season=11)
    if name.lower() in ("ett", "etth1"):
        return _made("ETTh1", _ett("ETTh1.csv"))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"load_series: {name!r} is none of {', '.join(_NAMES)}, nor a file")
    return _made(name, path.read_bytes())


def _made(name: str, data: bytes, renamed: dict[str, str] | None = None, season: int | None = None) -> Series:
    """The series that the bytes of a csv hold."""
    columns, values, times = read_csv(name, data)
    columns = tuple((renamed or {}).get(column, column) for column in columns)
    return Series(name, values, columns, times, season or _season(times), _ends(name, len(values)))


def _co2() -> Series:
    lines = decoded("co2", _with_statsmodels("co2")).splitlines()[1:]
    cells = [line.split(",") for line in lines]
    observed = np.array([float(number) if number else np.nan for _, number in cells])
    steps, there = np.arange(len(cells)), ~np.isnan(observed)
    filled = np.interp(steps, steps[there], observed[there])[:, None]
    times = np.array([time_of(text) for text, _ in cells], "datetime64[D]")
    note = f"{np.sum(~there)} weeks of co2 that were not observed are filled in by straight lines"
    return Series("co2", filled, ("co2",), times, 52, _ends("co2", len(filled)), note)


def _with_statsmodels(name: str) -> bytes:
    # The file alone: an import would take seconds.
    found = importlib.util.find_spec("statsmodels")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{name} comes with the package statsmodels: pip install 'jaxnets[examples]'")
    return Path(found.submodule_search_locations[0], "datasets", name, f"{name}.csv").read_bytes()


def _ett(filename: str) -> bytes:
    source = SOURCES["ett"]
    packed = local_path(source, f"{filename}.gz")
    if packed is not None and packed.exists():
        return gzip.decompress(fetch(source, f"{filename}.gz").read_bytes())
    return fetch(source, filename).read_bytes()


def _ends(name: str, length: int) -> tuple[int, int, int]:
    ett = re.fullmatch(r"ETT([hm])\d", Path(name).stem)
    month = 30 * 24 * (4 if ett and ett[1] == "m" else 1)
    if ett and length >= 20 * month:
        return 12 * month, 16 * month, 20 * month
    train, test = 7 * length // 10, length // 5
    return train, length - test, length


def _season(times: Shaped[np.ndarray, " t"]) -> int:
    """Steps to a season, by the distance of the first two."""
    if not np.issubdtype(times.dtype, np.datetime64):
        return 1
    if (unit := np.datetime_data(times.dtype)[0]) in ("M", "Y"):
        months: Any = (times[1] - times[0]).astype(int) * (12 if unit == "Y" else 1)
        return max(12 // int(months), 1)
    seconds: Any = (times[1] - times[0]).astype("timedelta64[s]").astype(int)
    return _SEASONS.get(int(seconds), 1)
