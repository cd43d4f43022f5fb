"""Forecasting: trains a forecaster of a series, from the air over Mauna Loa to the heat of a transformer.

python examples/forecasting.py train                                   # weekly CO2, under a minute
python examples/forecasting.py train --data sunspots --model gru
python examples/forecasting.py train --data ETTh1
python examples/forecasting.py train --data sales.csv --horizon 28 --season 7
python examples/forecasting.py evaluate --run runs/co2
python examples/forecasting.py predict --run runs/co2 > next_year.csv
"""

import csv
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import jaxnets as jn
from jaxnets import layers, models, ops, train
from jaxnets.train import cli, trainer

QUANTILES = (0.1, 0.5, 0.9)
"""What a model trained with the loss `quantile` forecasts: a band that four of five numbers fall in, and the median."""


def recurrent(cell: Callable[[int], Any], options: "Train", quantiles: int | None) -> Any:
    """Cells one on another read the window; a linear map of what they remember is the forecast."""
    stack = layers.Stack(tuple(cell(options.features) for _ in range(options.depth)), options.dropout)
    return models.SequenceForecaster(stack, options.ahead, dropout=options.dropout, quantiles=quantiles)


def convolutional(options: "Train", quantiles: int | None) -> Any:
    """Causal convolutions, each with twice the dilation of the one below."""
    blocks = tuple(layers.TemporalBlock(options.features, 3, 2**i, options.dropout) for i in range(options.depth))
    return models.SequenceForecaster(layers.Stack(blocks), options.ahead, dropout=options.dropout, quantiles=quantiles)


def patches(options: "Train", quantiles: int | None) -> Any:
    """Attention between the patches of each channel, in heads of 4 features or more."""
    return models.PatchTST(
        options.ahead,
        options.patch,
        options.patch,
        options.features,
        options.depth,
        num_heads=min(options.features // 4, 8) or 1,
        dropout=options.dropout,
        quantiles=quantiles,
    )


MODELS: dict[str, Callable[["Train", int | None], Any]] = {
    "nlinear": lambda options, quantiles: models.NLinear(options.ahead, quantiles),
    "dlinear": lambda options, quantiles: models.DLinear(options.ahead, quantiles=quantiles),
    "lstm": functools.partial(recurrent, layers.LSTM),
    "gru": functools.partial(recurrent, layers.GRU),
    "tcn": convolutional,
    "patchtst": patches,
}

LOSSES: dict[str, Callable[..., jn.typing.Mean]] = {
    "squared": ops.squared_error,
    "absolute": ops.absolute_error,
    "huber": functools.partial(ops.huber, delta=0.5),
    "quantile": functools.partial(ops.pinball, quantiles=QUANTILES),
}

RECIPES: dict[str, dict[str, Any]] = {
    "co2": {"model": "nlinear", "lookback": 156, "horizon": 52, "loss": "quantile"},
    "sunspots": {"model": "nlinear", "lookback": 66, "horizon": 11, "loss": "quantile"},
    "ETTh1": {"model": "dlinear", "lookback": 336, "horizon": 96, "loss": "huber", "batch_size": 128},
}
"""What suits a data set; a csv is looked at for three seasons to forecast one."""

RECURRENT = {"learning_rate": 2e-3, "features": 64, "dropout": 0.1, "keep": "best"}
SHAPES: dict[str, dict[str, Any]] = {
    "nlinear": {"learning_rate": 1e-2},
    "dlinear": {"learning_rate": 2e-3, "revin": False},
    "lstm": RECURRENT,
    "gru": RECURRENT,
    "tcn": {"learning_rate": 2e-3, "features": 32, "depth": 6, "dropout": 0.1, "keep": "best"},
    "patchtst": {"learning_rate": 5e-3, "features": 32, "depth": 2, "dropout": 0.2, "keep": "best"},
}
"""What suits the model."""

DEFAULTS = {
    "data": "co2",
    "loss": "quantile",
    "revin": True,
    "patch": 16,
    "features": 32,
    "depth": 1,
    "dropout": 0.0,
    "steps": 500,
    "batch_size": 64,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "weight_decay": 0.0,
    "seed": 0,
}
"""What holds for all. At a resume the run's own configuration stands in place of these and of what suits."""


@dataclasses.dataclass(frozen=True)
class Train(cli.Choosing):
    """Trains a forecaster and keeps the run: configuration, metrics, checkpoints, weights and pictures."""

    data: str | None = None
    """co2, sunspots, ETTh1, or a csv with a line of names and the time in the first column. By default co2."""
    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """What forecasts. By default what suits the data: nlinear for co2."""
    lookback: int | None = None
    """Steps that it sees. By default what suits the data: 156 for co2."""
    horizon: int | None = None
    """Steps to forecast. By default what suits the data: 52 for co2."""
    ahead: int | None = None
    """Steps that the model says at once; it goes on from its own forecast. By default the whole horizon."""
    season: int | None = None
    """Steps to a season, for the floor and the scale of errors. By default by the times: 52 where steps are weeks."""
    loss: Literal[tuple(LOSSES)] | None = None  # type: ignore[valid-type]
    """What is minimised. By default what suits the data: quantile for co2, which gives a band."""
    revin: bool | None = None
    """Whether each window is normalised by itself. By default it is, but for dlinear."""
    features: int | None = None
    """Width of the model, unless it is linear. By default what suits it: 64 for lstm."""
    depth: int | None = None
    """Layers, or blocks. By default what suits the model: 1 for lstm."""
    dropout: float | None = None
    """Share of what is dropped in training. By default what suits the model: 0.1 for lstm."""
    patch: int | None = None
    """Steps of a patch, for patchtst. By default 16."""
    steps: int | None = None
    """Training steps in all. By default what suits the data: 500 for co2."""
    schedule_steps: int | None = None
    """The schedule's horizon. By default --steps of the first run: more steps at a resume do not bend it."""
    batch_size: int | None = None
    """Windows to a step. By default 64."""
    optimizer: Literal[train.OPTIMIZERS] | None = None  # type: ignore[valid-type]
    """The update rule, by its usual name. By default adamw."""
    learning_rate: float | None = None
    """Its largest value. By default what suits the model: 0.01 for nlinear."""
    schedule: Literal[train.SCHEDULES] | None = None  # type: ignore[valid-type]
    """How the learning rate goes over the steps. By default one_cycle."""
    weight_decay: float | None = None
    """Decay of the kernels, never of biases and norms. By default 0."""
    seed: int | None = None
    """Of the parameters, of dropout, and of the order of the windows. By default 0."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, at which validation data is looked at too. By default a tenth of --steps."""
    run: Path | None = None
    """The run's folder. By default a new one below runs/; with --resume the newest."""
    resume: bool = False
    """Go on from the run's newest good checkpoint, with the options that it was begun with."""

    def __call__(self) -> None:
        """Trains, evaluates on the test data once, and draws the pictures."""
        clock = train.CompileClock()
        jn.tune_cpu()
        given = jn.data.load_series(self.data) if self.data else None
        name = given.name if given else None  # the run's; a series may be asked for by several
        folder, old = trainer.earlier(self.run, name, resume=self.resume, read=read_run)
        series = given or jn.data.load_series(old.get("data", DEFAULTS["data"]))
        folder = folder or train.new_run(series.name)
        config = self.resolved(series, old)
        saved = config.saved(series)
        task = Task.of(saved)
        training, validation, test = task.parts(series)
        same_data = ["data"] if old.get("data_sha256") == series.fingerprint else []  # by another path, perhaps
        run, state, result = trainer.train(
            folder,
            saved,
            *config.learner(task, training["values"]),
            evaluate=task.evaluate,
            validation=validation,
            test=test,
            resumed=bool(old),
            clock=clock,
            may_change=[*trainer.MAY_CHANGE, *same_data],
        )
        with trainer.resumable(folder):
            train.save_weights(run / "bands.safetensors", task.bands(state, validation))
        tell(result, self.json, config.model, [series.note, f"run: {folder}"])
        with trainer.resumable(folder):
            draw(run, task, state, series)

    def resolved(self, series: jn.data.Series, old: Mapping[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits data and model."""
        season = self.season or old.get("season") or series.season
        one_season = {"model": "nlinear", "horizon": max(season, 8), "lookback": 3 * max(season, 8)}
        recipe = RECIPES.get(series.name, one_season)
        model = self.model or old.get("model") or recipe["model"]
        counts = (
            *("lookback", "horizon", "ahead", "season", "features", "depth", "patch"),
            *("steps", "batch_size", "checkpoint_every"),
        )
        horizon = self.horizon or old.get("horizon") or recipe["horizon"]
        defaults = {**DEFAULTS, **SHAPES[model], **recipe, "model": model, "season": season, "ahead": horizon}
        config = cli.resolved(self, defaults, {**old}, counts=counts)
        if not (0 <= config.dropout < 1 and 0 <= config.seed < 2**32):
            raise ValueError("train: --dropout wants to be from 0 to below 1, and --seed from 0 to 2**32 - 1")
        if config.ahead > config.horizon or config.season > config.lookback:
            raise ValueError(
                f"train: --ahead {config.ahead} wants to be at most --horizon {config.horizon}, and --season "
                f"{config.season} at most --lookback {config.lookback}"
            )
        if config.ahead < config.horizon and config.loss == "quantile":
            raise ValueError(
                "train: --loss quantile wants the whole horizon at once: leave --ahead, or take --loss huber"
            )
        return config

    def saved(self, series: jn.data.Series) -> dict[str, Any]:
        """What config.json holds: all that decides the result, and what the other commands need."""
        mean, deviation = series.scale()
        series.parts(self.lookback, self.horizon)
        naive = train.naive_scale(series.values[: series.ends[0]] / deviation, self.season)
        facts = {
            "columns": series.columns,
            "mean": mean.tolist(),
            "std": deviation.tolist(),
            # What never changes has no error of its own to be measured by.
            "mase_scale": np.where(naive > 0, naive, 1.0).tolist(),
            "data_sha256": series.fingerprint,
        }
        return {**cli.saved_options(self), **facts}

    def learner(self, task: "Task", values: np.ndarray) -> tuple[Any, train.State, jn.data.DeviceWindows]:
        """The step, the state before the first one, and the data on the device."""
        optimizer = train.optimizer(
            self.optimizer,
            self.learning_rate,
            schedule=self.schedule,
            steps=self.schedule_steps,
            weight_decay=self.weight_decay,
        )
        count = len(values) - self.lookback - self.ahead + 1
        data = jn.data.DeviceWindows(
            values,
            lookback=self.lookback,
            horizon=self.ahead,
            batch_size=min(self.batch_size, count),
            seed=self.seed,
        )
        step = train.make_step(task.model, optimizer, task.loss)
        state = train.create(task.model, optimizer, data.batch(data.order(0), 0), key=jax.random.key(self.seed))
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate(cli.Options):
    """Measures a trained run on the test data, beside the naive forecasts."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Another series of the same columns, of which the test part is taken. By default what the run was trained on."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = trained(self.run)
        series = task.checked(jn.data.load_series(self.data or config["data"]))
        tell({"test": task.evaluate(state, task.parts(series)[2])}, self.json, config["model"], [series.note])


@dataclasses.dataclass(frozen=True)
class Predict(cli.Options):
    """Forecasts past the end of a series, as lines of a csv: each number, and the band that four of five fall in."""

    run: Path
    """The run's folder."""
    data: tyro.conf.Positional[str | None] = None
    """A series of the same columns, as long as the lookback or longer. By default what the run was trained on."""

    def __call__(self) -> None:
        """Loads the weights and forecasts."""
        task, state, config = trained(self.run)
        series = task.checked(jn.data.load_series(self.data or config["data"]))
        bands = train.load_weights(self.run / "bands.safetensors")
        x = task.scaled(series.values[-task.lookback :])[None]
        forecast, low, high = (part[0] for part in task.forecast(state, x, bands))
        times = [str(time) for time in series.times_after(task.horizon)]
        names = [f"{column}{which}" for column in series.columns for which in ("", "_low", "_high")]
        table = np.stack([forecast, low, high], axis=-1).reshape(len(times), -1)
        if self.json:
            cli.tell({"time": times, **{name: table[:, i].tolist() for i, name in enumerate(names)}}, True)
            return
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(["time", *names])
        lines.writerows([time, *(f"{number:.6g}" for number in row)] for time, row in zip(times, table, strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A forecaster, and how a series is brought to it."""

    model: Any
    lookback: int
    horizon: int
    ahead: int
    season: int
    loss_name: str
    columns: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    mase_scale: np.ndarray

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Task":
        """The task of a run's configuration."""
        names = {field.name for field in dataclasses.fields(Train)}
        options = Train(**{name: value for name, value in config.items() if name in names})
        quantiles = len(QUANTILES) if options.loss == "quantile" else None
        model = MODELS[options.model](options, quantiles)
        return cls(
            models.InstanceNormalised(model) if options.revin else model,
            *(options.lookback, options.horizon, options.ahead, options.season, options.loss),
            tuple(config["columns"]),
            *(np.asarray(config[name], np.float64) for name in ("mean", "std", "mase_scale")),
        )

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Numbers by the mean and deviation of the training data, in which errors are measured too."""
        return ((values - self.mean) / self.std).astype(np.float32)

    def parts(self, series: jn.data.Series) -> list[dict[str, np.ndarray]]:
        """The parts of a series to train on, to choose by and to test on."""
        return [{"values": self.scaled(series.values[part])} for part in series.parts(self.lookback, self.horizon)]

    def checked(self, series: jn.data.Series) -> jn.data.Series:
        """The series, if it is one to forecast."""
        if series.columns != self.columns:
            raise ValueError(
                f"{series.name} has the columns {', '.join(series.columns)} but the run wants {', '.join(self.columns)}"
            )
        if len(series.values) < self.lookback:
            raise ValueError(f"{series.name} has {len(series.values)} steps but the run looks back {self.lookback}")
        return series

    def loss(self, outputs: jax.Array, batch: jn.typing.Batch) -> jn.typing.Mean:
        """What is minimised."""
        return LOSSES[self.loss_name](outputs, batch["y"], where=batch.get("where"))

    def apply(self, variables: Any, batch: jn.typing.Batch, train: bool, rngs: Any) -> tuple[jax.Array, Any]:
        """The forecast of the whole horizon: at once, or from one forecast to the next."""
        if self.ahead < self.horizon:
            return models.roll_out(self.model, variables, batch["x"], self.horizon), {}
        return self.model.apply(variables, batch["x"]), {}

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """Those of the forecast, and of two floors: the last step, and the last season, again and again."""
        measures = {"mse": train.mse, "mae": train.mae, "mase": train.mase(self.mase_scale)}
        forecasts = {
            "": lambda outputs, batch: self.point(outputs),
            "naive_": lambda outputs, batch: train.naive_forecast(batch["x"], self.horizon),
            "seasonal_naive_": lambda outputs, batch: train.naive_forecast(batch["x"], self.horizon, self.season),
        }

        def measured(measure: Any, forecast: Any) -> Any:
            return lambda outputs, batch: measure(forecast(outputs, batch), batch)

        coverage = {"coverage": train.coverage(0, len(QUANTILES) - 1)} if self.loss_name == "quantile" else {}
        return coverage | {
            f"{whose}{name}": measured(measure, forecast)
            for whose, forecast in forecasts.items()
            for name, measure in measures.items()
        }

    @functools.cached_property
    def eval_step(self) -> Callable[..., Any]:
        """Loss and metrics of a batch."""
        return jax.jit(train.make_eval_step(self.model, self.loss, metrics=self.metrics, apply=self.apply))

    def evaluate(self, state: train.State, part: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss and metrics over every window of a part."""
        windows = jn.data.every_window(part["values"], self.lookback, self.horizon)
        measured = train.evaluate(self.eval_step, state, windows)
        return {name: measured[name] for name in ("loss", *self.metrics)}

    def point(self, outputs: Any) -> Any:
        """One number for each: the median of quantiles."""
        return outputs[..., QUANTILES.index(0.5)] if self.loss_name == "quantile" else outputs

    def bands(self, state: train.State, part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far the numbers that were to be foretold lay from the forecast: quantiles for each step and column."""
        errors = [
            (batch["y"] - self.point(self.outputs(state, batch["x"])))[batch["where"].ravel()]
            for batch in jn.data.every_window(part["values"], self.lookback, self.horizon)
        ]
        low, high = np.quantile(np.concatenate(errors), [QUANTILES[0], QUANTILES[-1]], axis=0)
        return {"low": low, "high": high}

    def outputs(self, state: train.State, x: np.ndarray) -> np.ndarray:
        """What the model says for windows."""
        return train.predict(self.model, state, x, batch_size=128, apply=self.apply)

    def forecast(self, state: train.State, x: np.ndarray, bands: Mapping[str, Any]) -> list[np.ndarray]:
        """The forecast for scaled windows, and its band, in the series' own units.

        The band is of the model's quantiles; where it has none, of what its errors were on the validation data.
        """
        outputs = self.outputs(state, x)
        point = self.point(outputs)
        if self.loss_name == "quantile":
            low, high = outputs[..., 0], outputs[..., -1]
        else:
            low, high = point + np.asarray(bands["low"]), point + np.asarray(bands["high"])
        return [part * self.std + self.mean for part in (point, np.minimum(low, point), np.maximum(high, point))]


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    fields = {
        **dict.fromkeys(("data", "model", "loss"), str),
        **dict.fromkeys(("lookback", "horizon", "ahead", "season", "features", "depth", "patch"), int),
        **dict.fromkeys(("columns", "mean", "std", "mase_scale"), list),
        "dropout": (int, float),
        "revin": bool,
    }
    return train.read_config(folder, fields=fields, choices={"model": MODELS, "loss": LOSSES})


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    weights = trainer.weights_of(folder)
    task = Task.of(config)
    x = np.zeros((1, task.lookback, len(task.columns)), np.float32)
    state = train.create(task.model, train.optimizer("sgd", 0.0), {"x": x}, key=jax.random.key(0))
    return task, state.with_variables(train.load_weights(weights, state.variables)), config


def tell(result: Mapping[str, Any], as_json: bool, model: str, words: list[str]) -> None:
    """Writes a result: as one line of JSON, or in columns, the model and below it the floors."""
    if as_json:
        cli.tell(result, True)
        return
    for part, measured in result.items():
        if isinstance(measured, Mapping):
            names = [name for name in measured if f"naive_{name}" in measured]
            sys.stdout.write(f"{part:16}" + "".join(f"{name:>9}" for name in names) + "\n")
            for row, prefix in ((model, ""), ("naive", "naive_"), ("seasonal naive", "seasonal_naive_")):
                sys.stdout.write(f"{row:16}" + "".join(f"{measured[prefix + name]:9.4f}" for name in names) + "\n")
            if "coverage" in measured:
                words = [*words, f"{part}: {measured['coverage']:.1%} in the band that is to hold four of five"]
    cli.tell({}, False, "\n".join(filter(None, words)))


def draw(run: train.Run, task: Task, state: train.State, series: jn.data.Series) -> None:
    """The pictures of a run: learning curves, and the forecast of the last window of the test data."""
    trainer.draw_curves(run, f"{run.config['model']} on {series.name}")
    begun = series.ends[2] - task.horizon
    seen = slice(max(begun - 3 * task.horizon, begun - task.lookback, 0), series.ends[2])
    x = task.scaled(series.values[begun - task.lookback : begun])[None]
    bands = train.load_weights(run / "bands.safetensors")
    forecast, low, high = (part[0] for part in task.forecast(state, x, bands))
    train.plots.forecast(
        *(series.times[seen], series.values[seen], forecast, low, high, series.columns),
        run / "forecast.png",
        title=f"{run.config['model']} on {series.name}: the end of the test data, with the band of four in five",
    )


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
