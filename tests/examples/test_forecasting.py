"""The example as a user runs it: a wave with noise, every model for a few steps, wrong input, resume."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SHORT = ["--features", "8", "--batch-size", "8", "--steps", "4", "--checkpoint-every", "2"]
RESULT = {"test", "validation", "parameters", "steps", "seconds", "compile_seconds"}
MEASURED = {
    *("loss", "mse", "mae", "mase", "naive_mse", "naive_mae", "naive_mase"),
    *("seasonal_naive_mse", "seasonal_naive_mae", "seasonal_naive_mase"),
}


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    """Two columns of numbers, weekly, over five years of ten weeks."""
    path = tmp_path_factory.mktemp("series") / "wave.csv"
    rng, steps = np.random.default_rng(0), np.arange(200)
    days = np.datetime64("2020-01-04") + 7 * steps
    columns = [np.sin(2 * np.pi * (steps + shift) / 10) + 0.02 * steps + 0.1 * rng.normal(size=200) for shift in (0, 3)]
    lines = [f"{day},{a:.5f},{b:.5f}" for day, a, b in zip(days, *columns, strict=True)]
    path.write_text("\n".join(["date,sales,returns", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(example, wave, tmp_path_factory):
    """The folder of a run that learnt the wave."""
    folder = tmp_path_factory.mktemp("runs") / "wave"
    options = ["--horizon", "8", "--lookback", "20", "--season", "10", "--steps", "150", "--learning-rate", "0.02"]
    options += ["--checkpoint-every", "75"]
    assert example.cli.main(example.COMMANDS, ["train", "--data", str(wave), "--run", str(folder), *options]) == 0
    return folder


@pytest.mark.exhaustive
def test_a_wave_is_forecast_better_than_by_the_floors(trained, run):
    code, out, _ = run("evaluate", "--run", trained, "--json")
    assert code == 0
    test = json.loads(out)["test"]
    assert set(test) == {*MEASURED, "coverage"}
    assert test["mse"] < 0.5 * min(test["naive_mse"], test["seasonal_naive_mse"])
    assert test["mase"] < 0.9 < test["seasonal_naive_mase"] < test["naive_mase"]
    assert 0.4 < test["coverage"] <= 1
    code, out, _ = run("evaluate", "--run", trained)
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["test", "mse", "mae", "mase"]
    assert [row[0] for row in rows[1:4]] == ["nlinear", "naive", "seasonal"]
    assert float(rows[1][1]) == pytest.approx(test["mse"], abs=1e-4)


@pytest.mark.exhaustive
def test_the_run_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoints", "weights.safetensors", "bands.safetensors"),
        *("curves.png", "forecast.png"),
    }
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last) == RESULT


@pytest.mark.exhaustive
def test_predict_goes_on_after_the_end(trained, wave, run):
    code, out, _ = run("predict", "--run", trained)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["time"] for row in rows][:2] == ["2023-11-04", "2023-11-11"]
    assert (len(rows), len(rows[0])) == (8, 7)
    for row in rows:
        assert float(row["sales_low"]) <= float(row["sales"]) <= float(row["sales_high"])
    after = [np.sin(2 * np.pi * step / 10) + 0.02 * step for step in range(200, 208)]
    assert np.abs(np.array([float(row["sales"]) for row in rows]) - after).mean() < 0.3
    shorter = Path("shorter.csv")
    shorter.write_text("\n".join(wave.read_text().splitlines()[:-1]) + "\n")
    code, out, _ = run("predict", "--run", trained, shorter, "--json")
    answer = json.loads(out)
    assert answer["time"][0] == "2023-10-28"
    assert {*answer} == {"time", *(f"{name}{part}" for name in ("sales", "returns") for part in ("", "_low", "_high"))}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("dlinear", ["--loss", "huber", "--ahead", "3"]),
        ("lstm", ["--loss", "quantile", "--revin", "False"]),
        ("tcn", ["--loss", "absolute", "--depth", "2"]),
        ("patchtst", ["--loss", "squared", "--patch", "4"]),
    ],
)
def test_every_model_and_way_to_forecast(run, wave, model, options):
    shape = ["--horizon", "8", "--lookback", "20", "--season", "10"]
    code, out, last = run("train", "--data", wave, "--model", model, *shape, *options, *SHORT, "--json")
    assert code == 0, last
    result = json.loads(out)
    assert set(result) - {"best_step"} == RESULT
    assert set(result["test"]) == MEASURED | ({"coverage"} if "quantile" in options else set())
    code, out, _ = run("predict", "--run", "runs/wave.csv", "--json")
    assert code == 0
    assert len(json.loads(out)["sales_high"]) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "nowhere.csv"], "nowhere.csv"),
        (["train", "--data", "empty.csv"], "empty.csv is empty"),
        (["train", "--data", "latin.csv"], "latin.csv is not UTF-8: byte 0xe9 at 3"),
        (["train", "--data", "gap.csv"], "gap.csv, line 4: 2024-01-04 follows 2024-01-02"),
        (["train", "--data", "cell.csv"], "cell.csv, line 3, column a is empty"),
        (["train", "--data", "nan.csv"], "nan.csv, line 3, column a holds nan"),
        (["train", "--data", "text.csv"], "text.csv, line 3, column a holds 'many', wanted a number"),
        (["train", "--data", "short.csv"], "short.csv has 29 steps to choose by, shorter than a window"),
        (["train", "--data", "short.csv", "--lookback", "4", "--season", "7"], "--season 7 at most --lookback 4"),
        (["train", "--data", "short.csv", "--ahead", "90"], "--ahead 90 wants to be at most --horizon"),
        (["train", "--data", "short.csv", "--horizon", "3", "--ahead", "1"], "--loss quantile wants the whole horizon"),
        (["train", "--data", "short.csv", "--horizon", "0"], "--horizon"),
        (["train", "--model", "arima"], "--model"),
        (["train", "--data", "short.csv", "--dropout", "1"], "--dropout"),
        (["evaluate", "--run", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, arguments, words):
    days = [f"2024-01-{day:02},{day}" for day in range(1, 32)] + [f"2024-02-{day:02},{day}" for day in range(1, 20)]
    contents = {
        "empty.csv": b"",
        "latin.csv": b"caf\xe9,a\n",
        "gap.csv": b"date,a\n2024-01-01,1\n2024-01-02,1\n2024-01-04,1\n2024-01-05,1\n",
        "cell.csv": b"date,a\n2024-01-01,1\n2024-01-02,\n",
        "nan.csv": b"date,a\n2024-01-01,1\n2024-01-02,nan\n",
        "text.csv": b"date,a\n2024-01-01,1\n2024-01-02,many\n",
        "short.csv": "\n".join(["date,a", *days]).encode(),
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
    code, out, last = run(*arguments)
    assert (code, out) == (2, "")
    assert last.startswith("error: ")
    assert words in last
    assert {path.name for path in Path().iterdir()} == {*contents}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("date,sales,stock\n2024-01-06,1,2\n2024-01-13,1,2\n", "has the columns sales, stock but the run wants sales"),
        ("date,sales,returns\n2024-01-06,1,2\n2024-01-13,1,2\n", "has 2 steps but the run looks back 20"),
    ],
)
def test_another_series_must_fit(trained, run, content, words):
    Path("other.csv").write_text(content)
    for command in (["predict", "--run", trained, "other.csv"], ["evaluate", "--run", trained, "--data", "other.csv"]):
        code, out, last = run(*command)
        assert (code, out) == (2, "")
        assert words in last


@pytest.mark.exhaustive
def test_a_run_is_gone_on_with_by_any_name_of_its_series(example, run, wave, monkeypatch):
    load = example.jn.data.load_series
    monkeypatch.setattr(example.jn.data, "load_series", lambda name: dataclasses.replace(load(wave), name="Wave"))
    options = ["--horizon", "8", "--lookback", "20", "--season", "10"]
    assert run("train", "--data", "ripple", *options, *SHORT)[0] == 0
    for data in (["--data", "ripple"], ["--data", "Wave"], []):
        code, out, last = run("train", "--resume", *data, "--json")
        assert (code, json.loads(out)["steps"], last) == (0, 4, "going on from step 4 of runs/Wave")
    assert [path.name for path in Path("runs").iterdir()] == ["Wave"]


@pytest.mark.exhaustive
def test_ctrl_c_and_resume_give_the_same_bits(run, interrupted, wave):
    options = ["--data", str(wave), "--horizon", "8", "--lookback", "20", "--season", "10"]
    options += ["--steps", "20000", "--checkpoint-every", "8000"]
    assert run("train", *options, "--run", "whole")[0] == 0
    code, last = interrupted("train", *options, "--run", "cut")
    assert (code, last) == (130, "interrupted; go on with: train --resume --run cut")
    assert run("train", "--run", "cut", "--resume")[0] == 0
    assert Path("cut/weights.safetensors").read_bytes() == Path("whole/weights.safetensors").read_bytes()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("data", "mase"), [("co2", 0.412), ("sunspots", 1.322)])
def test_the_embedded_series_are_forecast_as_is_said(example, as_users_do, tmp_path, data, mase):
    pytest.importorskip("statsmodels")
    command = [sys.executable, example.__file__, "train", "--data", data, "--json", "--run", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=as_users_do, check=True, capture_output=True, text=True)
    test = json.loads(done.stdout)["test"]
    assert test["mase"] < mase / 0.9
    assert test["mase"] < min(test["naive_mase"], test["seasonal_naive_mase"])
