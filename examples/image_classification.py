"""Image classification: trains a convolutional network, from scanned digits to CIFAR-10.

python examples/image_classification.py train                              # scikit-learn's digits, under a minute
python examples/image_classification.py train --data fashion_mnist
python examples/image_classification.py evaluate --run runs/digits
python examples/image_classification.py predict --run runs/digits scan.png folder/
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import jaxnets as jn
from jaxnets import models, ops, train
from jaxnets.train import cli, trainer

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
MIRRORED = ("clothes", "photos")
"""With these a network learns mirror images as well, so it is asked about both."""

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


@dataclasses.dataclass(frozen=True)
class Train(cli.Choosing):
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

    def __call__(self) -> None:
        """Trains, evaluates on the test data once, and draws the pictures."""
        clock = train.CompileClock()
        jn.tune_cpu()
        folder, old = trainer.earlier(self.run, self.data, resume=self.resume, read=read_run)
        images = jn.data.load_images(self.data or old.get("data") or DEFAULTS["data"])
        folder = folder or train.new_run(images.name)
        config = cli.resolved(self, {**DEFAULTS, **recipe(images)}, old)
        saved = config.saved(images)
        same_data = ["data"] if old.get("data_sha256") == images.fingerprint else []  # by another path, perhaps

        task = Task.of(saved)
        training, validation = jn.data.split_validation(images.train)
        run, state, result = trainer.train(
            folder,
            saved,
            *config.learner(task, training),
            evaluate=task.evaluate,
            validation=validation,
            test=images.test,
            resumed=bool(old),
            clock=clock,
            may_change=[*trainer.MAY_CHANGE, *same_data],
            better=("accuracy", "max"),
        )
        cli.tell(result, self.json, f"{images.note}\nrun: {folder}" if images.note else f"run: {folder}")
        with trainer.resumable(folder):
            draw(run, task, state, images)

    def saved(self, images: jn.data.Images) -> dict[str, Any]:
        """What config.json holds: all that decides the result, and what the other commands need."""
        mean, std = jn.data.channel_statistics(images.train["x"])
        shape = list(images.train["x"].shape[1:])
        facts = {"classes": images.classes, "shape": shape, "mean": mean, "std": std, "data_sha256": images.fingerprint}
        return {**cli.saved_options(self), **facts}

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
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate(cli.Options):
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Other data of the same shape and classes. By default what the run was trained on."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = trained(self.run)
        images = jn.data.load_images(self.data or config["data"])
        for name, came in (("shape", list(images.test["x"].shape[1:])), ("classes", list(images.classes))):
            if came != config[name]:
                raise ValueError(f"{images.name} has {name} {came} but the run {self.run} wants {config[name]}")
        cli.tell({"test": task.evaluate(state, images.test)}, self.json, images.note)


@dataclasses.dataclass(frozen=True)
class Predict(cli.Options):
    """Names the class of images."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, and folders of them."""
    run: Path
    """The run's folder."""
    top: int = 3
    """How many classes to name."""

    def __call__(self) -> None:
        """Loads the weights and names the classes."""
        task, state, config = trained(self.run)
        paths = [file for path in self.images for file in (jn.data.picture_files(path) if path.is_dir() else [path])]
        if not paths:
            raise ValueError(f"{' '.join(map(str, self.images)) or 'predict'}: no image to read")
        x = np.stack([jn.data.read_image(path, config["shape"]) for path in paths])
        probabilities = task.probabilities(state, x)
        answers = {}
        for path, row in zip(paths, probabilities, strict=True):
            best = np.argsort(-row)[: self.top]
            answers[str(path)] = {config["classes"][i]: round(float(row[i]), 4) for i in best}
        cli.tell_each(answers, self.json, in_words)


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
        model = MODELS[config["model"]](classes=len(classes))
        if config["augment"] in MIRRORED:
            model = models.Mirrored(model)
        return cls(model, classes, jn.data.normalise(config["mean"], config["std"]))

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
    names, lists = ("model", "data", "augment"), ("classes", "shape", "mean", "std")
    fields = {**dict.fromkeys(names, str), **dict.fromkeys(lists, list)}
    return train.read_config(folder, fields=fields, choices={"model": MODELS, "augment": AUGMENTATIONS})


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    weights = trainer.weights_of(folder)
    task = Task.of(config)
    x = np.zeros((1, *config["shape"]), np.float32)
    state = train.create(task.model, train.optimizer("sgd", 0.0), {"x": x}, key=jax.random.key(0))
    return task, state.with_variables(train.load_weights(weights, state.variables)), config


def in_words(path: str, answer: dict[str, float]) -> str:
    """The answer for an image in one line."""
    return f"{path} " + "  ".join(f"{name} {probability:.1%}" for name, probability in answer.items())


def draw(run: train.Run, task: Task, state: train.State, images: jn.data.Images) -> None:
    """The pictures of a run: learning curves, confusion matrix, and what it got wrong."""
    probabilities = task.probabilities(state, images.test["x"])
    labels = images.test["y"]
    trainer.draw_curves(run, images.name)
    matrix = train.confusion_matrix(labels, probabilities.argmax(-1), len(images.classes))
    train.plots.confusion(matrix, images.classes, run / "confusion.png")
    train.plots.wrong(images.test["x"], labels, probabilities, images.classes, run / "wrong.png")


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
