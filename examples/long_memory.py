"""Long memory: trains any recurrent cell to remember, from the adding problem to permuted MNIST.

python examples/long_memory.py train                                      # the adding problem, about a minute
python examples/long_memory.py train --data adding --length 600 --model gru
python examples/long_memory.py train --data digits --model lru
python examples/long_memory.py evaluate --run runs/adding
python examples/long_memory.py predict --run runs/digits scan.png
python examples/long_memory.py gradient_flow                              # rnn, lstm, gru and lru side by side
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxnets as jn
from jaxnets import interpret, layers, models, ops, train
from jaxnets.train import cli, trainer
from jaxnets.train.files import replacing

CELLS: dict[str, Callable[[int], Any]] = {
    "rnn": layers.RNN,
    "irnn": functools.partial(layers.RNN, activation="relu", recurrent_kernel_init=layers.identity),
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "min_gru": layers.MinGRU,
    "min_lstm": layers.MinLSTM,
    "lru": layers.LRU,
    "rg_lru": layers.RGLRU,
}

DENSE = ("min_gru", "min_lstm", "lru", "rg_lru")
"""The cells that do nothing nonlinear with their state: a dense layer goes under each, and one over it."""

ADDING = {"length": 100, "model": "gru", "hidden": 64, "steps": 1500, "batch_size": 64, "learning_rate": 4e-3}
RECIPES: dict[str, dict[str, Any]] = {
    "adding": ADDING,
    "copy": {**ADDING, "length": 30, "hidden": 128, "steps": 4000},
    "digits": {"model": "gru", "hidden": 64, "steps": 1500, "batch_size": 64, "learning_rate": 4e-3},
    "mnist": {"model": "gru", "hidden": 128, "steps": 6000, "batch_size": 128, "learning_rate": 2e-3},
}
RECIPES |= {"permuted_digits": RECIPES["digits"], "permuted_mnist": RECIPES["mnist"]}

DEFAULTS = {
    "data": "adding",
    "length": None,
    "init": "long",
    "optimizer": "adam",
    "schedule": "cosine",
    "clip": 1.0,
    "seed": 0,
}
"""What holds for every task. At a resume the run's own configuration stands in place of these and of a recipe."""


@dataclasses.dataclass(frozen=True)
class Train(cli.Choosing):
    """Trains a recurrent network and keeps the run: configuration, metrics, checkpoints, weights and pictures."""

    data: Literal[tuple(RECIPES)] | None = None  # type: ignore[valid-type]
    """The task. By default adding."""
    length: int | None = None
    """Steps of the adding problem, or of the copy task's blank. By default 100 and 30."""
    model: Literal[tuple(CELLS)] | None = None  # type: ignore[valid-type]
    """The cell. By default gru."""
    hidden: int | None = None
    """Its width. By default 64, for copy and mnist 128."""
    init: Literal["long", "plain"] | None = None
    """Whether the cell's memory is as long as the task from the beginning, or what the layer makes of itself. By
    default long."""
    steps: int | None = None
    """Training steps in all. By default what suits the task: 1500 for adding."""
    schedule_steps: int | None = None
    """The schedule's horizon. By default --steps of the first run: more steps at a resume do not bend it."""
    batch_size: int | None = None
    """Sequences to a step. By default 64, for mnist 128."""
    optimizer: Literal[train.OPTIMIZERS] | None = None  # type: ignore[valid-type]
    """The update rule, by its usual name. By default adam."""
    learning_rate: float | None = None
    """Its largest value. By default what suits the task: 0.004 for adding."""
    schedule: Literal[train.SCHEDULES] | None = None  # type: ignore[valid-type]
    """How the learning rate goes over the steps. By default cosine."""
    clip: float | None = None
    """Largest norm of the gradient. By default 1."""
    seed: int | None = None
    """Of the parameters, of the data that is made, and of the order of what is not. By default 0."""
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
        folder, old = trainer.earlier(self.run, self.data, resume=self.resume, read=read_run)
        config = self.resolved(old)
        folder = folder or train.new_run(config.data)
        task = Task.of(dataclasses.asdict(config))
        run, _, result = trainer.train(
            folder,
            {**cli.saved_options(config), "data_sha256": task.problem.fingerprint},
            *config.learner(task),
            evaluate=task.evaluate,
            validation=task.problem.validation,
            test=task.problem.test,
            resumed=bool(old),
            clock=clock,
        )
        cli.tell(result, self.json, f"run: {folder}")
        trainer.draw_curves(run, f"{config.model} on {task.problem.title}")

    def resolved(self, old: dict[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits the task."""
        defaults = {**DEFAULTS, **RECIPES[self.data or old.get("data") or DEFAULTS["data"]]}
        config = cli.resolved(self, defaults, old, counts=("hidden", "steps", "batch_size", "checkpoint_every"))
        if not (config.clip > 0 and 0 <= config.seed < 2**32):
            raise ValueError("train: --clip wants to be positive, and --seed from 0 to 2**32 - 1")
        return config

    def learner(self, task: "Task") -> tuple[Any, train.State, train.DeviceResident]:
        """The step, the state before the first one, and the data on the device."""
        optimizer = train.optimizer(
            self.optimizer, self.learning_rate, schedule=self.schedule, steps=self.schedule_steps, clip=self.clip
        )
        prepare = task.problem.prepare
        step = train.make_step(task.model, optimizer, task.loss, metrics=task.metrics, augment=prepare)
        data = task.problem.training(self.batch_size, self.seed)
        sample = next(task.batches(task.problem.validation, 1))
        state = train.create(task.model, optimizer, sample, key=jax.random.key(self.seed))
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate(cli.Options):
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: Literal[tuple(RECIPES)] | None = None  # type: ignore[valid-type]
    """Another task of the same kind. By default what the run was trained on."""
    length: int | None = None
    """Another length of the same task, to see whether what was learnt holds there."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        _, state, config = trained(self.run)
        data = self.data or config["data"]
        if data.removeprefix("permuted_") != config["data"].removeprefix("permuted_"):
            raise ValueError(f"the run {self.run} was trained on {config['data']}: it cannot be measured on {data}")
        other = Task.of({**config, "data": data, "length": config["length"] if self.length is None else self.length})
        cli.tell({"test": other.evaluate(state, other.problem.test)}, self.json)


@dataclasses.dataclass(frozen=True)
class Predict(cli.Options):
    """Adds up, copies, or names the class of images."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """For adding CSV files, a line of value and mark for each step; for copy symbols, 3141526837 say; else images."""
    run: Path
    """The run's folder."""

    def __call__(self) -> None:
        """Loads the weights and answers."""
        task, state, _ = trained(self.run)
        if not self.inputs:
            raise ValueError("predict: no input to read")
        answers = {name: task.answer(state, name) for name in self.inputs}
        cli.tell_each(answers, self.json)


@dataclasses.dataclass(frozen=True)
class GradientFlow(cli.Options):
    """Reports how far back the gradient reaches: of runs, or of every cell before training."""

    run: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Folders of trained runs; without any, cells are looked at untrained."""
    data: Literal[tuple(RECIPES)] = "adding"  # type: ignore[valid-type]
    """The task that untrained cells look at."""
    length: int | None = None
    """Its length."""
    models: tuple[Literal[tuple(CELLS)], ...] = ("rnn", "lstm", "gru", "lru")  # type: ignore[valid-type]
    """The untrained cells."""
    hidden: int = 64
    """Their width."""
    init: Literal["long", "plain"] = "long"
    """How they are made, as in training."""
    rows: int = 16
    """Sequences to take the mean over."""
    seed: int = 0
    """Of the parameters."""
    out: Path = Path("runs")
    """Where to write gradient_flow.json and gradient_flow.png."""

    def __call__(self) -> None:
        """Measures, writes and draws."""
        if min(self.hidden, self.rows) < 1 or not 0 <= self.seed < 2**32:
            raise ValueError("gradient_flow: --hidden and --rows want to be at least 1, --seed from 0 to 2**32 - 1")
        reports = {name: task.gradient_flow(state, self.rows) for name, task, state in self.subjects()}
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(self.out / "gradient_flow.json") as part:
            part.write_text(train.to_json(reports) + "\n")
        train.plots.gradient_flow(reports, self.out / "gradient_flow.png")
        cli.tell_each(reports, self.json, in_words)

    def subjects(self) -> Iterator[tuple[str, "Task", train.State]]:
        """What is looked at: a name, the task and the state."""
        for folder in self.run:
            task, state, config = trained(folder)
            yield f"{config['model']} ({folder.name})", task, state
        for name in () if self.run else self.models:
            length = RECIPES[self.data].get("length") if self.length is None else self.length
            options = {"data": self.data, "length": length, "model": name, "hidden": self.hidden, "init": self.init}
            task = Task.of(options)
            yield name, task, task.untrained(self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is to be learnt, and the network that is to learn it."""

    problem: jn.data.MemoryTask
    model: models.SequenceClassifier

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Task":
        """The task of a configuration."""
        problem = jn.data.memory_task(config["data"], config["length"])
        layer = CELLS[config["model"]](config["hidden"])
        if config["init"] == "long":
            layer = layers.remembering(layer, max(problem.steps, 20))
        dense = config["hidden"] if config["model"] in DENSE else None
        model = models.SequenceClassifier(
            layer,
            problem.outputs,
            pooling="none" if problem.answer == "symbols" else "last",
            vocabulary=problem.vocabulary,
            encoder_features=dense,
            hidden_features=dense,
        )
        return cls(problem, model)

    def loss(self, outputs: jax.Array, batch: jn.typing.Batch) -> jn.typing.Mean:
        """The squared error of the number wanted, or the cross entropy of the class, or of the class of each step."""
        if self.problem.answer == "number":
            return ops.squared_error(outputs[:, 0], batch["y"])
        return ops.cross_entropy(outputs, batch["y"])

    @property
    def metrics(self) -> dict[str, Callable[..., jn.typing.Mean]]:
        """What is measured beside the loss."""
        return {"mse": self.loss} if self.problem.answer == "number" else {"accuracy": train.accuracy}

    def untrained(self, seed: int) -> train.State:
        """The state before training."""
        sample = next(self.batches(self.problem.validation, 1))
        return train.create(self.model, train.optimizer("sgd", 0.0), sample, key=jax.random.key(seed))

    def batches(self, arrays: Mapping[str, np.ndarray], batch_size: int = 250) -> Iterator[dict[str, Any]]:
        """The batches of one pass over the data, as the network takes them."""
        for batch in jn.data.batches(arrays, batch_size):
            yield self.problem.prepare(jax.random.key(0), batch)

    @functools.cached_property
    def eval_step(self) -> Callable[..., Any]:
        """Loss and metrics of a batch."""
        return jax.jit(train.make_eval_step(self.model, self.loss, metrics=self.metrics))

    def evaluate(self, state: train.State, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss and metrics over all of the data."""
        return train.evaluate(self.eval_step, state, self.batches(arrays))

    def answer(self, state: train.State, name: str) -> Any:
        """What the network says of an input."""
        (batch,) = self.batches({"x": self.problem.read(name)[None]})
        return self.problem.say(train.predict(self.model, state, batch["x"], batch_size=1)[0])

    def gradient_flow(self, state: train.State, rows: int) -> dict[str, Any]:
        """The report of the cell on the task's loss, on the first rows of the test data."""
        batch = jax.tree.map(jnp.asarray, next(self.batches(self.problem.test, rows)))
        return interpret.classifier_gradient_flow(self.model, state.variables, batch, loss=self.loss)


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    fields = {"data": str, "length": int | None, "model": str, "hidden": int, "init": str}
    return train.read_config(folder, fields=fields, choices={"data": RECIPES, "model": CELLS})


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    weights = trainer.weights_of(folder)
    task = Task.of(config)
    state = task.untrained(seed=0)
    return task, state.with_variables(train.load_weights(weights, state.variables)), config


def in_words(name: str, report: dict[str, Any]) -> str:
    """A report of the gradient's flow in one line."""
    gates = "  ".join(f"{gate} {sum(stuck.values()):.0%}" for gate, stuck in report["saturation"].items())
    steps = len(report["norms"]["state"])
    return f"{name}: memory {report['memory_length']} of {steps} steps  saturated: {gates or 'no gates'}"


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict, "gradient_flow": GradientFlow}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
