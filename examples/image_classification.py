"""Image classification: trains a convolutional network, from scanned digits to CIFAR-10.

python examples/image_classification.py train                              # scikit-learn's digits, under a minute
python examples/image_classification.py train --data fashion_mnist
python examples/image_classification.py evaluate --run runs/digits
python examples/image_classification.py predict --run runs/digits scan.png folder/
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import jaxnets as jn
from jaxnets import models, ops, train
from jaxnets.train import cli

MODELS: dict[str, Callable[..., Any]] = {
    "small_cnn": functools.partial(models.SmallCNN, padding="SAME", dropout=0.25),
    "lenet5": models.LeNet5,
    "mlp": models.MLP,
    "convnet": functools.partial(models.ConvNet, widths=(32, 64, 64), depth=2, dropout=0.25),
    "convnet_wide": functools.partial(models.ConvNet, widths=(32, 64, 128), depth=2, dropout=0.25),
    "convnet_wider": functools.partial(models.ConvNet, widths=(48, 96, 192), depth=2, dropout=0.25),
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
}

AUGMENTATIONS: dict[str, tuple[jn.data.Augment, ...]] = {
    "none": (),
    "digits": (jn.data.random_affine(degrees=10.0, translate_pixels=1.0, scale=(0.9, 1.1)),),
    "mnist": (jn.data.random_affine(degrees=10.0, translate_pixels=2.0, scale=(0.9, 1.1)),),
    "clothes": (jn.data.random_flip(), jn.data.random_crop(2), jn.data.cutout(8)),
    "photos": (jn.data.random_flip(), jn.data.random_crop(4, fill="reflect")),
}

_MUON = {"batch_size": 128, "optimizer": "muon", "learning_rate": 1e-2}

RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "steps": 1500, "batch_size": 64, "learning_rate": 4e-3, "augment": "digits"},
    "mnist": {**_MUON, "model": "convnet", "steps": 2400, "augment": "mnist"},
    "fashion_mnist": {
        **_MUON,
        "model": "convnet_wider",
        "steps": 3600,
        "weight_decay": 0.05,
        "augment": "clothes",
    },
    "cifar10": {**_MUON, "model": "convnet_wide", "steps": 4000, "augment": "photos"},
}

DEFAULTS = {
    "data": "digits",
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "weight_decay": 0.02,
    "smoothing": 0.1,
    "mix": "none",
    "seed": 0,
}
"""What holds for every data set. At a resume the run's own configuration stands in place of these and of a recipe."""

COMPILING = train.CompileClock()


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a network and keeps the run: configuration, metrics, checkpoints, weights and pictures."""

    data: str | None = None
    """digits, mnist, fashion_mnist, cifar10, or a folder of images by class. By default digits."""
    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """The network. By default what suits the data: small_cnn for digits."""
    steps: int | None = None
    """Training steps in all. By default what suits the data: 1500 for digits."""
    schedule_steps: int | None = None
    """The schedule's horizon. By default --steps of the first run: more steps at a resume do not bend it."""
    batch_size: int | None = None
    """Images to a step. By default what suits the data: 64 for digits, otherwise 128."""
    optimizer: Literal[train.OPTIMIZERS] | None = None  # type: ignore[valid-type]
    """The update rule, by its usual name. By default what suits the data: adamw for digits, otherwise muon."""
    learning_rate: float | None = None
    """Its largest value, reached after the warm-up. By default what suits the data: 0.004 for digits."""
    schedule: Literal[train.SCHEDULES] | None = None  # type: ignore[valid-type]
    """How the learning rate goes over the steps. By default one_cycle."""
    weight_decay: float | None = None
    """Decay of the kernels, never of biases and norms. By default 0.02."""
    smoothing: float | None = None
    """Share of each label's weight that is spread over all classes, in training. By default 0.1."""
    augment: Literal[tuple(AUGMENTATIONS)] | None = None  # type: ignore[valid-type]
    """How training images are changed at random. By default what suits the data."""
    mix: Literal["none", "mixup", "cutmix"] | None = None
    """Whether pairs of training images are mixed. By default none."""
    seed: int | None = None
    """Of the parameters, the order of the data and whatever else is random. By default 0."""
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
        images = jn.data.load_images(self.data or old.get("data") or DEFAULTS["data"])
        folder = folder or train.new_run(images.name)
        config = self.resolved(images, old)
        saved = config.saved(images)

        task = Task.of(saved)
        training, validation = jn.data.split_validation(images.train)
        step, state, data = config.learner(task, training)

        with train.Checkpoints(folder / "checkpoints", report=cli.say) as checkpoints:
            if old:
                may_change = ["steps", "checkpoint_every"]
                if old.get("data_sha256") == images.fingerprint:
                    may_change.append("data")  # the same data by another path
                train.check_config(folder, saved, may_change=may_change)
                state = going_on(folder, checkpoints, state, config.steps)
            # Nothing is written before this line, so that a command that is refused leaves no trace.
            run = train.Run(folder, saved, may_change=tuple(saved))
            if "scan" not in run.notes:
                run.note(scan=train.runs_scanned(step, state, data))
            lines = train.JsonLines(run / "metrics.jsonl", step=int(state.step))

            def record(step: int, state: train.State, metrics: dict[str, float]) -> None:
                """Writes training and validation metrics of a moment."""
                measured = task.evaluate(state, validation)
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
            "test": task.evaluate(state, images.test),
            "validation": task.evaluate(state, validation),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "steps": int(state.step),
            "seconds": round(lines.seconds_before + time.perf_counter() - begun, 1),
            "compile_seconds": round(COMPILING.seconds, 1),
        }
        lines.write(result)
        cli.tell(result, self.json, f"{images.note}\nrun: {folder}" if images.note else f"run: {folder}")
        draw(run, task, state, images)

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

    def resolved(self, images: jn.data.Images, old: dict[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits the data."""
        kept = {field.name: old[field.name] for field in dataclasses.fields(self) if field.name in old}
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        config = {**DEFAULTS, **recipe(images), **kept, **given}
        config.setdefault("schedule_steps", config["steps"])
        config.setdefault("checkpoint_every", max(1, config["steps"] // 10))
        if min(config[name] for name in ("steps", "batch_size", "checkpoint_every")) < 1:
            raise ValueError("train: --steps, --batch-size and --checkpoint-every want to be at least 1")
        return Train(**config)

    def saved(self, images: jn.data.Images) -> dict[str, Any]:
        """What config.json holds: all that decides the result, and what the other commands need."""
        left_out = ("run", "resume", "json", "debug")
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        mean, std = jn.data.channel_statistics(images.train["x"])
        shape = list(images.train["x"].shape[1:])
        facts = {"classes": images.classes, "shape": shape, "mean": mean, "std": std, "data_sha256": images.fingerprint}
        return {**options, **facts}

    def learner(self, task: "Task", training: dict[str, np.ndarray]) -> tuple[Any, train.State, jn.data.DeviceData]:
        """The step, the state before the first one, and the data on the device."""
        optimizer = train.optimizer(
            self.optimizer,
            self.learning_rate,
            schedule=self.schedule,
            steps=self.schedule_steps,
            weight_decay=self.weight_decay,
        )
        classes = len(task.classes)
        mix = {"none": (), "mixup": (jn.data.mixup(0.2, classes),), "cutmix": (jn.data.cutmix(1.0, classes),)}
        step = train.make_step(
            task.model,
            optimizer,
            lambda logits, batch: ops.cross_entropy(logits, batch["y"], smoothing=self.smoothing),
            metrics={"accuracy": train.accuracy},
            augment=jn.data.chain(*AUGMENTATIONS[self.augment], task.normalise, *mix[self.mix]),
        )
        data = jn.data.DeviceData(training, min(self.batch_size, len(training["y"])), seed=self.seed)
        sample = next(task.prepared(training, 1))
        state = train.create(task.model, optimizer, sample, key=jax.random.key(self.seed))
        # Options that do not fit the data fail here, in a trace, and not once the run has begun.
        jax.eval_shape(lambda state, data: jax.jit(step)(state, data.batch(data.order(0), 0)), state, data)
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Other data of the same shape and classes. By default what the run was trained on."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = trained(self.run)
        images = jn.data.load_images(self.data or config["data"])
        for name, came in (("shape", list(images.test["x"].shape[1:])), ("classes", list(images.classes))):
            if came != config[name]:
                raise ValueError(f"{images.name} has {name} {came} but the run {self.run} wants {config[name]}")
        cli.tell({"test": task.evaluate(state, images.test)}, self.json, images.note)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Names the class of images."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, and folders of them."""
    run: Path
    """The run's folder."""
    top: int = 3
    """How many classes to name."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Loads the weights and names the classes."""
        task, state, config = trained(self.run)
        paths = [file for path in self.images for file in (jn.data.picture_files(path) if path.is_dir() else [path])]
        if not paths:
            raise ValueError(f"{' '.join(map(str, self.images)) or 'predict'}: no image to read")
        probabilities = task.probabilities(state, np.stack([fitted(path, config["shape"]) for path in paths]))
        answers = {}
        for path, row in zip(paths, probabilities, strict=True):
            best = np.argsort(-row)[: self.top]
            answers[str(path)] = {config["classes"][i]: round(float(row[i]), 4) for i in best}
        if self.json:
            print(train.to_json(answers))
        for path, answer in {} if self.json else answers.items():
            print(path, "  ".join(f"{name} {probability:.1%}" for name, probability in answer.items()))


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, the classes it tells apart, and how images are brought to it."""

    model: Any
    classes: list[str]
    normalise: jn.data.Augment

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Task":
        """The task of a run's configuration."""
        classes = config["classes"]
        return cls(
            MODELS[config["model"]](classes=len(classes)), classes, jn.data.normalise(config["mean"], config["std"])
        )

    def prepared(self, arrays: dict[str, np.ndarray], batch_size: int = 500) -> Iterator[dict[str, Any]]:
        """The batches of one pass over the data, normalised."""
        for batch in jn.data.batches(arrays, batch_size):
            yield self.normalise(jax.random.key(0), batch)

    @functools.cached_property
    def eval_step(self) -> Callable[..., Any]:
        """Loss and accuracy of a batch."""
        loss = lambda logits, batch: ops.cross_entropy(logits, batch["y"])  # noqa: E731
        return jax.jit(train.make_eval_step(self.model, loss, metrics={"accuracy": train.accuracy}))

    def evaluate(self, state: train.State, arrays: dict[str, np.ndarray]) -> dict[str, float]:
        """Loss in nats and accuracy over all of the data."""
        return train.evaluate(self.eval_step, state, self.prepared(arrays))

    def probabilities(self, state: train.State, x: np.ndarray) -> np.ndarray:
        """The probability of each class for uint8 images: [N, classes]."""
        x = np.concatenate([batch["x"] for batch in self.prepared({"x": x})])
        return np.asarray(jax.nn.softmax(train.predict(self.model, state, x, batch_size=500)))


def recipe(images: jn.data.Images) -> dict[str, Any]:
    """What suits a data set: its own recipe, or one by the images' size and channels."""
    named = {**RECIPES, "cifar10_jpeg": RECIPES["cifar10"]}.get(images.name)
    if named is not None:
        return named
    height, width, channels = images.train["x"].shape[1:]
    if min(height, width) < 16:
        return {**RECIPES["digits"], "augment": "none"}
    return RECIPES["mnist" if channels == 1 else "cifar10"]


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    config = train.read_config(folder)
    if missing := [name for name in ("model", "data", "classes", "shape", "mean", "std") if name not in config]:
        raise ValueError(f"{folder / 'config.json'} lacks {', '.join(missing)}: it is no run of this program")
    if config["model"] not in MODELS:
        raise ValueError(f"{folder / 'config.json'} has model {config['model']!r}, wanted one of {', '.join(MODELS)}")
    return config


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    if not (folder / "weights.safetensors").exists():
        raise ValueError(f"{folder} is unfinished: go on with train --resume --run {folder}")
    task = Task.of(config)
    x = np.zeros((1, *config["shape"]), np.float32)
    state = train.create(task.model, train.optimizer("sgd", 0.0), {"x": x}, key=jax.random.key(0))
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


def fitted(path: Path, shape: list[int]) -> np.ndarray:
    """An image file in the size and channels that the network takes."""
    from PIL import Image

    height, width, channels = shape
    pixels = jn.data.decode_image(path.read_bytes(), str(path))
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return np.asarray(image.convert("L" if channels == 1 else "RGB").resize((width, height))).reshape(shape)


def draw(run: train.Run, task: Task, state: train.State, images: jn.data.Images) -> None:
    """The pictures of a run: learning curves, confusion matrix, and what it got wrong."""
    probabilities = task.probabilities(state, images.test["x"])
    labels = images.test["y"]
    if records := [record for record in train.read_json_lines(run / "metrics.jsonl") if "step" in record]:
        train.plots.curves(records, run / "curves.png", title=images.name)
    matrix = train.confusion_matrix(labels, probabilities.argmax(-1), len(images.classes))
    train.plots.confusion(matrix, images.classes, run / "confusion.png")
    train.plots.wrong(images.test["x"], labels, probabilities, images.classes, run / "wrong.png")


if __name__ == "__main__":
    sys.exit(cli.main({"train": Train, "evaluate": Evaluate, "predict": Predict}))
