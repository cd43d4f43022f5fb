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
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxnets as jn
from jaxnets import interpret, layers, models, ops, train
from jaxnets.train import cli
from jaxnets.train.files import replacing

CELLS: dict[str, Callable[..., Any]] = {
    "rnn": layers.RNN,
    "irnn": lambda hidden: layers.RNN(hidden, activation="relu", recurrent_kernel_init=identity),
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "min_gru": layers.MinGRU,
    "min_lstm": layers.MinLSTM,
    "lru": layers.LRU,
    "rg_lru": layers.RGLRU,
}

LONG: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "lstm": lambda hidden, steps: {"forget_bias": 0.0, "bias_init": layers.chrono(hidden, steps, (-1, 1, 0, 0))},
    "gru": lambda hidden, steps: {"bias_init": layers.chrono(hidden, steps, (0, 1, 0))},
    "min_gru": lambda hidden, steps: {"bias_init": layers.chrono(hidden, steps, (-1, 0))},
    "min_lstm": lambda hidden, steps: {"forget_bias": 0.0, "bias_init": layers.chrono(hidden, steps, (-1, 1, 0))},
    "lru": lambda hidden, steps: {"r_min": 0.9, "r_max": 1 - 1 / steps, "max_phase": 0.1 * np.pi},
    "rg_lru": lambda hidden, steps: {"a_min": 0.9, "a_max": 1 - 1 / steps},
}
"""What makes a cell of some width begin with a memory of so many steps."""

DENSE = ("min_gru", "min_lstm", "lru", "rg_lru")
"""The cells that do nothing nonlinear with their state: a dense layer goes under each, and one over it."""

IMAGES = {"digits": "digits", "permuted_digits": "digits", "mnist": "mnist", "permuted_mnist": "mnist"}
"""The data that is read pixel by pixel, and the images behind it."""

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

HELD_OUT = 1000
"""Sequences to validate on, and to test on, of a task that makes its own."""

COMPILING = train.CompileClock()


@dataclasses.dataclass(frozen=True)
class Train:
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
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Trains, evaluates on the test data once, and draws the pictures."""
        begun = time.perf_counter()
        jn.tune_cpu()
        folder, old = self.earlier()
        config = self.resolved(old)
        folder = folder or train.new_run(config.data)
        task = Task.of(dataclasses.asdict(config))
        saved = config.saved(task)
        step, state, data = config.learner(task)

        with train.Checkpoints(folder / "checkpoints", report=cli.say) as checkpoints:
            if old:
                train.check_config(folder, saved, may_change=("steps", "checkpoint_every"))
                state = going_on(folder, checkpoints, state, config.steps)
            # Nothing is written before this line, so that a command that is refused leaves no trace.
            run = train.Run(folder, saved, may_change=tuple(saved))
            if "scan" not in run.notes:
                run.note(scan=train.runs_scanned(step, state, data))
            lines = train.JsonLines(run / "metrics.jsonl", step=int(state.step))

            def record(step: int, state: train.State, metrics: dict[str, float]) -> None:
                """Writes training and validation metrics of a moment."""
                measured = task.evaluate(state, task.problem.validation)
                lines(step, state, {**metrics, **{f"validation_{name}": value for name, value in measured.items()}})

            with train.progress(config.steps) as show:
                timed = [train.every(config.checkpoint_every, each, at_end=True) for each in (checkpoints, record)]
                try:
                    state, _ = train.fit(
                        state, step, data, steps=config.steps, callbacks=[show, *timed], scan=run.notes["scan"]
                    )
                except KeyboardInterrupt as stop:
                    raise type(stop)(f"interrupted; go on with: train --resume --run {folder}") from None

        train.save_weights(run / "weights.safetensors", state.variables)
        result = {
            "test": task.evaluate(state, task.problem.test),
            "validation": task.evaluate(state, task.problem.validation),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "steps": int(state.step),
            "seconds": round(lines.seconds_before + time.perf_counter() - begun, 1),
            "compile_seconds": round(COMPILING.seconds, 1),
        }
        lines.write(result)
        cli.tell(result, self.json, f"run: {folder}")
        if records := [record for record in train.read_json_lines(run / "metrics.jsonl") if "step" in record]:
            train.plots.curves(records, run / "curves.png", title=f"{config.model} on {task.problem.title}")

    def earlier(self) -> tuple[Path | None, dict[str, Any]]:
        """The folder named or to be gone on with, None for a new one, and the configuration of the run it holds."""
        folder = self.run
        if self.resume and folder is None:
            folder = train.newest_run(self.data or "")
        if folder is None or not (folder / "config.json").exists():
            return folder, {}
        if not self.resume:
            raise ValueError(f"{folder} holds a run already: add --resume to go on with it, or name another folder")
        return folder, read_run(folder)

    def resolved(self, old: dict[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits the task."""
        kept = {field.name: old[field.name] for field in dataclasses.fields(self) if field.name in old}
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        data = given.get("data") or kept.get("data") or DEFAULTS["data"]
        config = {**DEFAULTS, **RECIPES[data], **kept, **given}
        config.setdefault("schedule_steps", config["steps"])
        config.setdefault("checkpoint_every", max(1, config["steps"] // 10))
        if min(config[name] for name in ("hidden", "steps", "batch_size", "checkpoint_every")) < 1:
            raise ValueError("train: --hidden, --steps, --batch-size and --checkpoint-every want to be at least 1")
        if not (config["clip"] > 0 and 0 <= config["seed"] < 2**32):
            raise ValueError("train: --clip wants to be positive, and --seed from 0 to 2**32 - 1")
        return Train(**config)

    def saved(self, task: "Task") -> dict[str, Any]:
        """What config.json holds: all that decides the result."""
        left_out = ("run", "resume", "json", "debug")
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        return {**options, "data_sha256": task.problem.fingerprint}

    def learner(self, task: "Task") -> tuple[Any, train.State, train.DeviceResident]:
        """The step, the state before the first one, and the data on the device."""
        optimizer = train.optimizer(
            self.optimizer, self.learning_rate, schedule=self.schedule, steps=self.schedule_steps, clip=self.clip
        )
        problem = task.problem
        step = train.make_step(task.model, optimizer, problem.loss, metrics=problem.metrics, augment=problem.prepare)
        data = problem.training(self.batch_size, self.seed)
        sample = next(task.batches(problem.validation, 1))
        state = train.create(task.model, optimizer, sample, key=jax.random.key(self.seed))
        # Options that do not fit the data fail here, in a trace, and not once the run has begun.
        jax.eval_shape(lambda state, data: jax.jit(step)(state, data.batch(data.order(0), 0)), state, data)
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: Literal[tuple(RECIPES)] | None = None  # type: ignore[valid-type]
    """Another task of the same kind. By default what the run was trained on."""
    length: int | None = None
    """Another length of the same task, to see whether what was learnt holds there."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        _, state, config = trained(self.run)
        data = self.data or config["data"]
        if IMAGES.get(data, data) != IMAGES.get(config["data"], config["data"]):
            raise ValueError(f"the run {self.run} was trained on {config['data']}: it cannot be measured on {data}")
        other = Task.of({**config, "data": data, "length": config["length"] if self.length is None else self.length})
        cli.tell({"test": other.evaluate(state, other.problem.test)}, self.json)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Adds up, copies, or names the class of images."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """For adding CSV files, a line of value and mark for each step; for copy symbols, 3141526837 say; else images."""
    run: Path
    """The run's folder."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Loads the weights and answers."""
        task, state, _ = trained(self.run)
        if not self.inputs:
            raise ValueError("predict: no input to read")
        answers = {name: task.answer(state, name) for name in self.inputs}
        if self.json:
            print(train.to_json(answers))
        for name, answer in {} if self.json else answers.items():
            print(name, answer)


@dataclasses.dataclass(frozen=True)
class GradientFlow:
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
    json: bool = False
    """Print the report as one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Measures, writes and draws."""
        if min(self.hidden, self.rows) < 1 or not 0 <= self.seed < 2**32:
            raise ValueError("gradient_flow: --hidden and --rows want to be at least 1, --seed from 0 to 2**32 - 1")
        reports = {name: task.gradient_flow(state, self.rows) for name, task, state in self.subjects()}
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(self.out / "gradient_flow.json") as part:
            part.write_text(train.to_json(reports) + "\n")
        train.plots.gradient_flow(reports, self.out / "gradient_flow.png")
        if self.json:
            print(train.to_json(reports))
        for name, report in {} if self.json else reports.items():
            gates = "  ".join(f"{gate} {sum(stuck.values()):.0%}" for gate, stuck in report["saturation"].items())
            norms = report["norms"]["state"]
            print(f"{name}: memory {report['memory_length']} of {len(norms)} steps  saturated: {gates or 'no gates'}")

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
class Problem:
    """What is to be learnt, and the data to learn it from."""

    title: str
    steps: int
    """Time steps of a sequence."""
    network: Mapping[str, Any]
    """What `SequenceClassifier` must know of the problem."""
    loss: Callable[[Any, Any], jn.typing.Mean]
    metrics: Mapping[str, Callable[[Any, Any], jn.typing.Mean]]
    training: Callable[[int, int], train.DeviceResident]
    """Of a batch size and a seed."""
    validation: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    read: Callable[[str], np.ndarray]
    """What `predict` is given, as an entry of `"x"`."""
    say: Callable[[np.ndarray], Any]
    """The network's output for it, in words."""
    prepare: jn.data.Augment = lambda key, batch: dict(batch)
    """What is done to a batch before the network sees it."""
    fingerprint: str | None = None
    """Of data that is not made from a seed."""


def adding(length: int) -> Problem:
    """Adding up the two marked values of a sequence."""
    generate = functools.partial(jn.data.adding_problem, length=length)
    error = lambda outputs, batch: ops.squared_error(outputs[:, 0], batch["y"])  # noqa: E731

    def read(name: str) -> np.ndarray:
        x = np.loadtxt(name, np.float32, delimiter=",", ndmin=2)
        if x.shape[1] != 2 or not len(x) or not np.isfinite(x).all():
            raise ValueError(f"{name}: wanted lines of two numbers, a value and a mark of 0 or 1")
        return x

    return Problem(
        title=f"the adding problem of {length} steps",
        steps=length,
        network={"outputs": 1},
        loss=error,
        metrics={"mse": error},
        training=lambda batch_size, seed: jn.data.GeneratedData(generate, batch_size, seed=seed),
        **held_out(generate),
        read=read,
        say=lambda y: round(float(y[0]), 4),
    )


def copying(length: int) -> Problem:
    """Saying symbols again after a blank."""
    generate = functools.partial(jn.data.copy_task, length=length)

    def read(name: str) -> np.ndarray:
        if not name or set(name) - set("12345678"):
            raise ValueError(f"{name}: wanted symbols from 1 to 8, such as 3141526837")
        return np.array([*map(int, name), *[0] * (length - 1), 9, *[0] * len(name)], np.int32)

    return Problem(
        title=f"the copy task of {length} steps",
        steps=length + 20,
        network={"outputs": 9, "vocabulary": 10, "pooling": "none"},
        loss=lambda outputs, batch: ops.cross_entropy(outputs, batch["y"]),
        metrics={"accuracy": train.accuracy},
        training=lambda batch_size, seed: jn.data.GeneratedData(generate, batch_size, seed=seed),
        **held_out(generate),
        read=read,
        say=lambda y: "".join(map(str, y.argmax(-1)[(len(y) + length) // 2 :])),
    )


def pixels(name: str, length: int | None) -> Problem:
    """Telling what an image shows, having seen one pixel after the other."""
    if length is not None:
        raise ValueError(f"--length is for adding and copy: {name} has a step for each pixel")
    images = jn.data.load_images(IMAGES[name])
    training, validation = jn.data.split_validation(images.train)
    (mean,), (std,) = jn.data.channel_statistics(images.train["x"])
    height, width = images.train["x"].shape[1:3]
    order = np.random.default_rng(0).permutation(height * width) if name.startswith("permuted") else None

    def read(path: str) -> np.ndarray:
        from PIL import Image

        pixels = jn.data.decode_image(Path(path).read_bytes(), path)
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        return np.asarray(image.convert("L").resize((width, height)))[..., None]

    return Problem(
        title=f"{name}, {height * width} pixels one by one",
        steps=height * width,
        network={"outputs": len(images.classes)},
        loss=lambda outputs, batch: ops.cross_entropy(outputs, batch["y"]),
        metrics={"accuracy": train.accuracy},
        training=lambda batch_size, seed: jn.data.DeviceData(training, min(batch_size, len(training["y"])), seed=seed),
        validation=validation,
        test=images.test,
        read=read,
        say=lambda y: images.classes[y.argmax()],
        prepare=jn.data.pixel_sequence(mean, std, permutation=order),
        fingerprint=images.fingerprint,
    )


def held_out(generate: jn.data.Generate) -> dict[str, dict[str, np.ndarray]]:
    """The sequences to validate and to test on, the same for every run; no batch of training has these numbers."""
    make = jax.jit(generate, static_argnums=1)
    keys = {name: jax.random.fold_in(jax.random.key(0), 2**32 - i) for i, name in ((1, "test"), (2, "validation"))}
    return {name: jax.tree.map(np.asarray, make(key, HELD_OUT)) for name, key in keys.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A problem and the network that is to solve it."""

    problem: Problem
    model: models.SequenceClassifier

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Task":
        """The task of a configuration."""
        name, cell, hidden = config["data"], config["model"], config["hidden"]
        made = {"adding": adding, "copy": copying}.get(name, functools.partial(pixels, name))
        problem = made(config["length"])
        long = cell in LONG and config["init"] == "long"
        layer = CELLS[cell](hidden, **LONG[cell](hidden, max(problem.steps, 20)) if long else {})
        dense = hidden if cell in DENSE else None
        model = models.SequenceClassifier(layer, **problem.network, encoder_features=dense, hidden_features=dense)
        return cls(problem, model)

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
        return jax.jit(train.make_eval_step(self.model, self.problem.loss, metrics=self.problem.metrics))

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

        def loss(y: jax.Array) -> jax.Array:
            return self.problem.loss(self.model.apply(state.variables, y, method="decode"), batch).total

        x = self.model.apply(state.variables, batch["x"], method="encode")
        return interpret.gradient_flow(self.model.layer, {"params": state.params["layer"]}, x, loss=loss)


def identity(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """The recurrent kernel of an IRNN (Le, Jaitly and Hinton, 2015)."""
    return jnp.eye(*shape, dtype=dtype)


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    config = train.read_config(folder)
    if missing := [name for name in ("data", "length", "model", "hidden", "init") if name not in config]:
        raise ValueError(f"{folder / 'config.json'} lacks {', '.join(missing)}: it is no run of this program")
    for name, known in (("data", RECIPES), ("model", CELLS)):
        if config[name] not in known:
            raise ValueError(f"{folder / 'config.json'} has {name} {config[name]!r}, wanted one of {', '.join(known)}")
    return config


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    if not (folder / "weights.safetensors").exists():
        raise ValueError(f"{folder} is unfinished: go on with train --resume --run {folder}")
    task = Task.of(config)
    state = task.untrained(seed=0)
    variables = dict(train.load_weights(folder / "weights.safetensors", state.variables))
    return task, state.replace(params=variables.pop("params"), collections=variables), config


def going_on(folder: Path, checkpoints: train.Checkpoints, state: train.State, steps: int) -> train.State:
    """The state of the run's newest good checkpoint, or the one given where the run has none yet."""
    restored = checkpoints.restore(state)
    if restored is None and checkpoints.steps():
        raise ValueError(
            f"no checkpoint in {checkpoints.directory} can be read: put a good copy there, or remove that folder to "
            "begin the run anew"
        )
    if restored is not None:
        state, _ = restored
        if int(state.step) > steps:
            raise ValueError(f"{folder} is at step {int(state.step)} already: --steps {steps} wants to be that or more")
    cli.say(f"going on from step {int(state.step)} of {folder}")
    return state


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict, "gradient_flow": GradientFlow}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
