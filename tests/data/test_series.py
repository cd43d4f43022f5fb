"""Series by name and from a csv, how they are cut, and what is said of those that cannot be forecast."""

import gzip
import hashlib

import numpy as np
import pytest

from jaxnets import data
from jaxnets.data import series as module
from jaxnets.data.sources import RemoteFile, Source

HOURS = [f"2016-07-01 {hour:02}:00:00" for hour in range(24)]


def written(path, times, columns=("a", "b"), header="date"):
    """A csv of the numbers 0, 1, 2, ... and their squares."""
    lines = [",".join([header, *columns])]
    lines += [",".join([time, *(str(i**power) for power, _ in enumerate(columns, 1))]) for i, time in enumerate(times)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_co2_has_no_gap():
    pytest.importorskip("statsmodels")
    series = data.load_series("co2")
    assert (series.values.shape, series.columns, series.season) == ((2284, 1), ("co2",), 52)
    assert "59 weeks" in series.note
    assert np.isfinite(series.values).all()
    assert series.values[:2, 0].tolist() == [316.1, 317.3]
    assert np.all(np.diff(series.times) == np.timedelta64(7, "D"))
    assert series.times_after(1)[0] == np.datetime64("2002-01-05")


def test_sunspots():
    pytest.importorskip("statsmodels")
    series = data.load_series("sunspots")
    assert (series.values.shape, series.columns, series.season, series.ends) == (
        (309, 1),
        ("sunspots",),
        11,
        (216, 248, 309),
    )
    assert (series.values[0, 0], str(series.times[0]), str(series.times[-1])) == (5.0, "1700", "2008")


def test_without_statsmodels(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"co2 comes with the package statsmodels: pip install 'jaxnets\[examples\]'"):
        data.load_series("co2")


def test_ett_packed_or_not(tmp_path, monkeypatch):
    plain = written(tmp_path / "plain.csv", HOURS).read_bytes()
    packed = gzip.compress(plain)
    files = {
        "ETTh1.csv": RemoteFile((hashlib.sha256(plain).hexdigest(),)),
        "ETTh1.csv.gz": RemoteFile((hashlib.sha256(packed).hexdigest(),)),
    }
    monkeypatch.setattr(module, "SOURCES", {"ett": Source("ett", files, "")})
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / "ett").mkdir()
    (tmp_path / "ett" / "ETTh1.csv").write_bytes(plain)
    unpacked = data.load_series("ETTh1")
    (tmp_path / "ett" / "ETTh1.csv.gz").write_bytes(packed)
    (tmp_path / "ett" / "ETTh1.csv").unlink()
    assert data.load_series("ett").fingerprint == unpacked.fingerprint
    assert (unpacked.name, unpacked.columns, unpacked.season) == ("ETTh1", ("a", "b"), 24)


def test_real_etth1_is_split_as_in_the_literature(real_data):
    series = data.load_series("ETTh1")
    assert (series.values.shape, series.season, series.ends) == ((17420, 7), 24, (8640, 11520, 14400))
    assert series.columns[-1] == "OT"
    train, validation, test = series.parts(336, 96)
    assert (train, validation, test) == (slice(0, 8640), slice(8304, 11520), slice(11184, 14400))
    windows = data.every_window(series.values[test], 336, 96, batch_size=256)
    assert sum(int(batch["where"].sum()) for batch in windows) == 2880 - 96 + 1
    mean, deviation = series.scale()
    scaled = (series.values[train] - mean) / deviation
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("times", "season", "after"),
    [
        (HOURS, 24, "2016-07-02T00"),
        ([f"2016-07-01T00:{minute:02}" for minute in range(0, 60, 15)] + ["2016-07-01T01:00"], 96, "2016-07-01T01:15"),
        (["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02"], 7, "2024-03-03"),
        (["20240228", "20240306", "20240313", "20240320"], 52, "2024-03-27"),
        (["2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31"], 12, "2024-04"),
        (["2023-01", "2023-04", "2023-07", "2023-10"], 4, "2024-01"),
        (["1999", "2000", "2001", "2002"], 1, "2003"),
    ],
)
def test_times_and_seasons(tmp_path, times, season, after):
    series = data.load_series(written(tmp_path / "a.csv", times))
    assert series.season == season
    assert str(series.times_after(1)[0]).startswith(after)
    np.testing.assert_array_equal(series.values[:, 1], np.arange(len(times)) ** 2)


def test_a_csv_without_times_and_with_quotes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeff"price, net",b\n1.5, 2\n\n-1e3,"4"\n2,3\n')
    series = data.load_series(path)
    assert (series.columns, series.season, series.times.tolist()) == (("price, net", "b"), 1, [0, 1, 2])
    assert series.values.tolist() == [[1.5, 2], [-1000, 4], [2, 3]]
    assert series.times_after(2).tolist() == [3, 4]


def test_numbers_are_times_under_a_name_of_time_alone(tmp_path):
    path = tmp_path / "a.csv"
    for header, columns in (("price", ("price", "b")), ("year", ("b",))):
        path.write_text(f"{header},b\n2000,1\n2001,2\n2002,4\n")
        assert data.load_series(path).columns == columns


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.csv is empty"),
        (b" \n", "a.csv is empty"),
        (b",,\n,,\n", "a.csv has 0 lines of numbers"),
        (b"date,a\n2024\xff,1\n", "a.csv is not UTF-8: byte 0xff at 11"),
        (b"date,a\n2024-01-01,1\n", "a.csv has 1 lines of numbers below its names, wanted 2 or more"),
        (b"1,2\n3,4\n5,6\n", "has numbers in its first line, wanted the names"),
        (b"date,a,a\n2001,1,2\n2002,1,2\n", "has columns of one name: date, a, a"),
        (b"date\n2001\n2002\n", "has no column of numbers, only date"),
        (b"date,a\n2001,1\n2002\n", "a.csv, line 3 has 1 cells but there are 2 columns"),
        (b"date,a\n2001,1\n2002,\n2003,1\n", "a.csv, line 3, column a is empty: fill the gap first"),
        (b"date,a\n2001,1\n2002,NaN\n", "a.csv, line 3, column a holds NaN: fill the gap first"),
        (b"date,a\n2001,1\n2002,-inf\n", "a.csv, line 3, column a holds -inf"),
        (b"date,a\n2001,1\n2002,n/a\n", "a.csv, line 3, column a holds 'n/a', wanted a number"),
        (b"a,b\nx,1\ny,2\n", "a.csv, line 2, column a holds 'x', wanted a number"),
        (b"date,a\nMonday,1\nTuesday,2\n", "a.csv, line 2 has 'Monday' for its time, wanted an ISO date or a year"),
        (
            b"date,a\n2024-01-01,1\n2024-01-02,1\n2024-01-04,1\n2024-01-05,1\n",
            "a.csv, line 4: 2024-01-04 follows 2024-01-02, but steps are mostly of 1 days: fill the gaps",
        ),
        (b"date,a\n2002,1\n2001,1\n2000,1\n", "a.csv, line 3: 2001 follows 2002"),
        (b'date,a\n2001,"1\n', "a.csv"),
    ],
)
def test_what_cannot_be_forecast_is_told(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.csv") as told:
        data.load_series(path)
    assert words in str(told.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv' is none of co2, sunspots, ETTh1, nor a file"):
        data.load_series(tmp_path / "nowhere.csv")


def test_parts_hold_whole_windows_or_are_refused(tmp_path):
    series = data.load_series(written(tmp_path / "a.csv", [str(year) for year in range(1900, 2000)]))
    assert series.ends == (70, 80, 100)
    train, validation, test = series.parts(lookback=30, horizon=10)
    assert (train, validation, test) == (slice(0, 70), slice(40, 80), slice(50, 100))
    with pytest.raises(ValueError, match=r"a.csv has 40 steps to choose by, shorter than a window of lookback 30"):
        series.parts(lookback=30, horizon=11)
    with pytest.raises(ValueError, match="has 70 steps to train on"):
        series.parts(lookback=60, horizon=11)
    with pytest.raises(ValueError, match="horizon 0"):
        series.parts(lookback=3, horizon=0)


def test_scale_of_what_never_changes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "".join(f"{i},7\n" for i in range(10)))
    mean, deviation = data.load_series(path).scale()
    np.testing.assert_allclose(mean, [3, 7])
    np.testing.assert_allclose(deviation, [2, 1])
