"""Image classification: trains a convolutional network, from scanned digits to CIFAR-10.

python examples/image_classification.py train                              # scikit-learn's digits, under a minute
python examples/image_classification.py train --data fashion_mnist
python examples/image_classification.py evaluate --run runs/digits
python examples/image_classification.py predict --run runs/digits scan.png folder/
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import jaxnets as jn
from jaxnets import models, ops, train
from jaxnets.train import cli

MODELS: dict[str, Callable[[int], Any]] = {
    "small_cnn": functools.partial(models.SmallCNN, padding="SAME", dropout=0.25),
    "lenet5": models.LeNet5,
    "mlp": models.MLP,
    "convnet": functools.partial(models.ConvNet, widths=(32, 64, 64), depth=2, dropout=0.25),
    "convnet_wide": functools.partial(models.ConvNet, widths=(32, 64, 128), depth=2, dropout=0.25),
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
}

AUGMENTATIONS: dict[str, tuple[jn.data.Augment, ...]] = {
    "none": (),
    "digits": (jn.data.random_affine(degrees=10.0, translate_pixels=1.0, scale=(0.9, 1.1)),),
    "mnist": (jn.data.random_affine(degrees=10.0, translate_pixels=2.0, scale=(0.9, 1.1)),),
    "flip": (jn.data.random_flip(), jn.data.random_crop(2)),
    "photos": (jn.data.random_flip(), jn.data.random_crop(4, fill="reflect")),
}


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains a network and keeps the run: configuration, metrics, checkpoints, weights and pictures."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, or a folder of images by class."""
    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """The network; by default what suits the data, as for every option that is None."""
    steps: int | None = None
    """Training steps in all."""
    schedule_steps: int | None = None
    """The schedule's horizon: --steps of the first run. More steps at a resume do not bend it."""
    batch_size: int | None = None
    """Images to a step."""
    optimizer: Literal[train.OPTIMIZERS] = "adamw"  # type: ignore[valid-type]
    """The update rule, by its usual name."""
    learning_rate: float | None = None
    """Its largest value, reached after the warm-up."""
    schedule: Literal[train.SCHEDULES] = "one_cycle"  # type: ignore[valid-type]
    """How the learning rate goes over the steps."""
    weight_decay: float = 0.02
    """Decay of the kernels, never of biases and norms."""
    smoothing: float = 0.1
    """Share of each label's weight that is spread over all classes, in training."""
    augment: Literal[tuple(AUGMENTATIONS)] | None = None  # type: ignore[valid-type]
    """How training images are changed at random."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Whether pairs of training images are mixed."""
    seed: int = 0
    """Of the parameters, the order of the data and whatever else is random."""
    run: Path | None = None
    """The run's folder; by default a new one below runs/ (with --resume the newest)."""
    resume: bool = False
    """Go on from the run's newest good checkpoint."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, at which the validation data is looked at too."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Trains, evaluates on the test data once, and draws the pictures."""
        begun = time.perf_counter()
        jn.tune_cpu()
        images = jn.data.load_images(self.data)
        folder = self.run or default_run(images.name, newest=self.resume)
        config = self.resolved(images, folder)
        if config.steps < 1 or config.batch_size < 1 or config.checkpoint_every < 1:
            raise ValueError("train: --steps, --batch-size and --checkpoint-every want to be at least 1")
        run = train.Run(folder, config.saved(images), may_change=("steps", "checkpoint_every"))

        training, validation = jn.data.split_validation(images.train)
        mean, std = jn.data.channel_statistics(images.train["x"])
        task = Task(MODELS[config.model](len(images.classes)), jn.data.normalise(mean, std))
        device = jn.data.DeviceData(training, min(config.batch_size, len(training["y"])), seed=config.seed)
        optimizer = train.optimizer(
            config.optimizer,
            config.learning_rate,
            schedule=config.schedule,
            steps=config.schedule_steps,
            weight_decay=config.weight_decay,
        )
        mixes = {"none": (), "mixup": (jn.data.mixup(0.2, len(images.classes)),)}
        mixes["cutmix"] = (jn.data.cutmix(1.0, len(images.classes)),)
        step = train.make_step(
            task.model,
            optimizer,
            lambda logits, batch: ops.cross_entropy(logits, batch["y"], smoothing=config.smoothing),
            metrics={"accuracy": train.accuracy},
            augment=jn.data.chain(*AUGMENTATIONS[config.augment], task.normalise, *mixes[config.mix]),
        )
        sample = next(task.prepared(training, 1))
        state = train.create(task.model, optimizer, sample, key=jax.random.key(config.seed))

        with train.Checkpoints(run / "checkpoints", report=say) as checkpoints:
            restored = checkpoints.restore(state) if self.resume else None
            if restored is None and checkpoints.steps():
                if not self.resume:
                    raise ValueError(f"{folder} holds a run already: add --resume to go on with it, or name another")
                say(f"no checkpoint of {folder} can be read: starting afresh")
            if restored is not None:
                state, _ = restored
                say(f"going on from step {int(state.step)} of {folder}")
            else:
                run.note(scan=train.runs_scanned(step, state, device))
            lines = train.JsonLines(run / "metrics.jsonl", step=int(state.step))

            def record(step: int, state: train.State, metrics: dict[str, float]) -> None:
                """Writes training and validation metrics of a moment."""
                lines(step, state, {**metrics, **prefixed("validation", task.evaluate(state, validation))})

            with train.progress(config.steps) as show:
                callbacks = [train.every(config.checkpoint_every, each) for each in (checkpoints, record)]
                try:
                    state, _ = train.fit(
                        state, step, device, steps=config.steps, callbacks=[show, *callbacks], scan=run.notes["scan"]
                    )
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(f"interrupted; go on with: --resume --run {folder}") from None
            if checkpoints.steps()[-1:] != [int(state.step)]:
                checkpoints.save(state)

        seconds = time.perf_counter() - begun
        result = {
            "test": task.evaluate(state, images.test),
            "validation": task.evaluate(state, validation),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            "steps": int(state.step),
            "seconds": round(seconds, 1),
            "compile_seconds": round(COMPILING.seconds, 1),
        }
        lines.write(result)
        train.save_weights(run / "weights.safetensors", state.variables)
        draw(run, task, state, images)
        tell(result, self.json, f"{images.note}\nrun: {folder}" if images.note else f"run: {folder}")

    def resolved(self, images: jn.data.Images, folder: Path) -> "Train":
        """Every option that is None given its value: the one of the run resumed, or what suits the data."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        old = train.read_config(folder) if self.resume and (folder / "config.json").exists() else {}
        kept = {name: old[name] for name in (*RECIPES["digits"], "schedule_steps", "checkpoint_every") if name in old}
        config = {**recipe(images), **kept, **given}
        config.setdefault("schedule_steps", config["steps"])
        config.setdefault("checkpoint_every", max(1, config["steps"] // 10))
        return Train(**config)

    def saved(self, images: jn.data.Images) -> dict[str, Any]:
        """What config.json holds: all that decides the result, and what the other commands need."""
        mean, std = jn.data.channel_statistics(images.train["x"])
        shape = list(images.train["x"].shape[1:])
        left_out = ("run", "resume", "json", "debug")
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}
        facts = {"classes": images.classes, "shape": shape, "mean": mean, "std": std, "data_sha256": images.fingerprint}
        return {**options, **facts}


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Other data of the same shape and classes; by default what the run was trained on."""
    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = opened(self.run)
        images = jn.data.load_images(self.data or config["data"])
        if list(images.test["x"].shape[1:]) != config["shape"] or list(images.classes) != config["classes"]:
            raise ValueError(f"{images.name} has other shapes or classes than the run {self.run} was trained on")
        tell({"test": task.evaluate(state, images.test)}, self.json, images.note)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Names the class of images."""

    images: tuple[Path, ...]
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
        task, state, config = opened(self.run)
        paths = [file for path in self.images for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        if not paths:
            raise ValueError(f"{' '.join(map(str, self.images)) or 'predict'}: no image to read")
        x = np.stack([fitted(path, config["shape"]) for path in paths])
        probabilities = task.probabilities(state, x)
        answers = {}
        for path, row in zip(paths, probabilities, strict=True):
            best = np.argsort(-row)[: self.top]
            answers[str(path)] = {config["classes"][i]: round(float(row[i]), 4) for i in best}
        if self.json:
            print(json.dumps(answers))
        for path, answer in {} if self.json else answers.items():
            print(path, "  ".join(f"{name} {probability:.1%}" for name, probability in answer.items()))


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and how images are brought to it."""

    model: Any
    normalise: jn.data.Augment

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
        return jax.nn.softmax(train.predict(self.model, state, x, batch_size=500))


RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"model": "small_cnn", "steps": 1500, "batch_size": 64, "learning_rate": 4e-3, "augment": "digits"},
    "mnist": {"model": "convnet", "steps": 3400, "batch_size": 128, "learning_rate": 5e-3, "augment": "mnist"},
    "fashion_mnist": {
        "model": "convnet_wide",
        "steps": 5000,
        "batch_size": 128,
        "learning_rate": 5e-3,
        "augment": "flip",
    },
    "cifar10": {"model": "convnet_wide", "steps": 2800, "batch_size": 128, "learning_rate": 5e-3, "augment": "photos"},
}


def recipe(images: jn.data.Images) -> dict[str, Any]:
    """What suits a data set: its own recipe, or one by the images' size."""
    named = {**RECIPES, "cifar10_jpeg": RECIPES["cifar10"]}.get(images.name)
    if named is not None:
        return named
    small = min(images.train["x"].shape[1:3]) < 16
    return {**RECIPES["digits" if small else "cifar10"], "augment": "none" if small else "photos"}


def default_run(name: str, *, newest: bool) -> Path:
    """runs/NAME, or the first free one of runs/NAME-2, -3, ...; with `newest` the last that is there."""
    stem = Path("runs") / Path(name).name
    taken = [path for path in [stem, *(stem.with_name(f"{stem.name}-{i}") for i in range(2, 1000))] if path.exists()]
    if newest:
        return max(taken, key=lambda path: path.stat().st_mtime, default=stem)
    return stem if stem not in taken else stem.with_name(f"{stem.name}-{len(taken) + 1}")


def opened(run: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run."""
    config = train.read_config(run)
    model = MODELS[config["model"]](len(config["classes"]))
    task = Task(model, jn.data.normalise(config["mean"], config["std"]))
    x = np.zeros((1, *config["shape"]), np.float32)
    state = train.create(model, train.optimizer("sgd", 0.0), {"x": x}, key=jax.random.key(0))
    variables = dict(train.load_weights(run / "weights.safetensors", state.variables))
    return task, state.replace(params=variables.pop("params"), collections=variables), config


def fitted(path: Path, shape: list[int]) -> np.ndarray:
    """An image file in the size and channels that the network takes."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if channels == 1 else "RGB").resize((width, height))).reshape(shape)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None


def draw(run: train.Run, task: Task, state: train.State, images: jn.data.Images) -> None:
    """The pictures of a run: learning curves, confusion matrix, and what it got wrong."""
    probabilities = task.probabilities(state, images.test["x"])
    labels = images.test["y"]
    records = [record for record in train.read_json_lines(run / "metrics.jsonl") if "step" in record]
    train.plots.curves(records, run / "curves.png", title=images.name)
    matrix = train.confusion_matrix(labels, probabilities.argmax(-1), len(images.classes))
    train.plots.confusion(matrix, images.classes, run / "confusion.png")
    train.plots.wrong(images.test["x"], labels, probabilities, images.classes, run / "wrong.png")


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics under the name of the data they were measured on."""
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def tell(result: dict[str, Any], as_json: bool, words: str) -> None:
    """Prints a result: one line of JSON, or words."""
    if as_json:
        print(json.dumps(result))
        return
    for part in ("validation", "test"):
        if part in result:
            print(f"{part}: " + "  ".join(f"{name} {value:.4f}" for name, value in result[part].items()))
    if words:
        print(words)


def say(words: str) -> None:
    """A line to the person watching; standard output is for results."""
    print(words, file=sys.stderr)


class CompileClock:
    """Adds up the seconds that XLA compiles."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration


COMPILING = CompileClock()

if __name__ == "__main__":
    sys.exit(cli.main({"train": Train, "evaluate": Evaluate, "predict": Predict}))
