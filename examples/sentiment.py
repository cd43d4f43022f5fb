"""Text classification: from which package a docstring is, whether a film is liked, or any labels of one's own.

python examples/sentiment.py train                                    # Python's docstrings, under a minute
python examples/sentiment.py train --data sst2
python examples/sentiment.py train --data reviews.tsv --model gru
python examples/sentiment.py evaluate --run runs/sst2
echo "not bad at all" | python examples/sentiment.py predict --run runs/sst2 --explain gradients --html words.html
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxnets as jn
from jaxnets import interpret, layers, models, ops, train
from jaxnets.data.text import decoded
from jaxnets.train import cli, trainer
from jaxnets.train.files import replacing

BUCKETS = 4
"""Lengths to which texts are padded: so many shapes to compile for, in training and again in evaluation."""


def transformer(features: int) -> Any:
    """Two blocks of attention to the whole text, in heads of 32 features."""
    attention = layers.SelfAttention(max(features // 32, 1), causal=False, position=layers.Rotary())
    return layers.Repeated(layers.TransformerBlock(attention, dropout=0.1), 2)


READERS: dict[str, tuple[Callable[[int], Any], str]] = {
    "bag": (lambda features: None, "mean"),
    "sum": (lambda features: None, "sqrt"),
    "attention": (lambda features: None, "attention"),
    "cnn": (models.WordCNN, "max"),
    "gru": (layers.GRU, "attention"),
    "lstm": (layers.LSTM, "attention"),
    "bilstm": (lambda features: layers.Bidirectional(layers.LSTM(features)), "attention"),
    "transformer": (transformer, "mean"),
}
"""What reads the embedded words, and how its output is pooled."""

SMALL = {
    "model": "bag",
    "features": 64,
    "vocabulary": 20_000,
    "least": 1,
    "pairs": 0,
    "ngrams": 0,
    "scale": 1.0,
    "length": 200,
    "word_dropout": 0.3,
    "dropout": 0.5,
    "learning_rate": 5e-3,
    "steps": 600,
}
RECIPES: dict[str, dict[str, Any]] = {
    "docstrings": SMALL,
    "sst2": {
        **SMALL,
        "model": "sum",
        "features": 16,
        "pairs": 2**16,
        "ngrams": 2**16,
        "scale": 0.01,
        "dropout": 0.0,
        "learning_rate": 1.5e-3,
        "steps": 300,
    },
    "imdb": {
        **SMALL,
        "features": 32,
        "vocabulary": 30_000,
        "least": 2,
        "pairs": 2**18,
        "length": 400,
        "word_dropout": 0.5,
        "learning_rate": 3e-3,
        "steps": 3000,
    },
}
"""What suits the data and its model; files of one's own are taken like the first."""

DEFAULTS = {
    "data": "docstrings",
    "batch_size": 64,
    "optimizer": "adamw",
    "schedule": "linear",
    "weight_decay": 0.01,
    "average": 0.99,
    "seed": 0,
}
"""What holds for all. At a resume the run's own configuration stands in place of these and of what suits."""


@dataclasses.dataclass(frozen=True)
class Train(cli.Choosing):
    """Trains a classifier and keeps the run: configuration, words, metrics, checkpoints, weights, pictures."""

    data: str | None = None
    """docstrings, sst2, imdb, a .tsv or .jsonl file, or a folder of such. By default docstrings."""
    model: Literal[tuple(READERS)] | None = None  # type: ignore[valid-type]
    """What reads. By default what suits the data: bag for docstrings."""
    features: int | None = None
    """Its width. By default what suits the data: 64 for docstrings."""
    vocabulary: int | None = None
    """How many words it knows at most. By default what suits the data: 20,000 for docstrings."""
    least: int | None = None
    """How often a word occurs at least in the training data. By default what suits the data: 1 for docstrings."""
    pairs: int | None = None
    """Rows of the table of pairs of words; 0 for none. By default what suits the data: none for docstrings."""
    ngrams: int | None = None
    """Rows of the table of the n-grams of words; 0 for none. By default what suits the data: 0 for docstrings."""
    scale: float | None = None
    """How large the tables begin, as a part of the usual. By default what suits the data: 1 for docstrings."""
    length: int | None = None
    """Words of a text; of a longer one the middle is left out. By default what suits the data: 200 for docstrings."""
    word_dropout: float | None = None
    """Share of the words that are left out in training. By default what suits the data: 0.3 for docstrings."""
    dropout: float | None = None
    """Share of what is dropped before the logits in training. By default what suits the data: 0.5 for docstrings."""
    steps: int | None = None
    """Training steps in all. By default what suits the data: 600 for docstrings."""
    schedule_steps: int | None = None
    """The schedule's horizon. By default --steps of the first run: more steps at a resume do not bend it."""
    batch_size: int | None = None
    """Texts to a step. By default 64."""
    optimizer: Literal[train.OPTIMIZERS] | None = None  # type: ignore[valid-type]
    """The update rule, by its usual name. By default adamw."""
    learning_rate: float | None = None
    """Its largest value. By default what suits the data: 0.005 for docstrings."""
    schedule: Literal[train.SCHEDULES] | None = None  # type: ignore[valid-type]
    """How the learning rate goes over the steps. By default linear."""
    weight_decay: float | None = None
    """Decay of the kernels and tables, never of biases. By default 0.01."""
    average: float | None = None
    """How much of the moving average of the weights, which is what is kept, stays at a step. By default 0.99."""
    seed: int | None = None
    """Of the parameters, dropout, and the order of the data. By default 0."""
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
        texts = jn.data.load_labelled(config.data)
        folder = folder or train.new_run(texts.name)
        same_data = ["data"] if old.get("data_sha256") == texts.fingerprint else []  # by another path, perhaps
        saved, task, learner = config.prepared(texts)
        run, state, result = trainer.train(
            folder,
            saved,
            *learner,
            evaluate=task.evaluate,
            validation=task.part(texts.validation),
            test=(test := task.part(texts.test)),
            resumed=bool(old),
            clock=clock,
            may_change=[*trainer.MAY_CHANGE, *same_data],
            better=("accuracy", "max"),
        )
        with trainer.resumable(folder), replacing(run / "words.json") as part:
            part.write_text(json.dumps(task.tokenizer.to_json()) + "\n")
        cli.tell(result, self.json, "\n".join(filter(None, [texts.note, f"run: {folder}"])))
        with trainer.resumable(folder):
            draw(run, task, state, test, f"{config.model} on {texts.name}")

    def resolved(self, old: dict[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits the data."""
        data = self.data or old.get("data") or DEFAULTS["data"]
        counts = ("features", "vocabulary", "least", "length", "steps", "batch_size", "checkpoint_every")
        recipe = RECIPES.get(data, SMALL)
        if self.model not in (None, recipe["model"]):  # another reader takes the sizes of the data alone
            recipe = {**SMALL, **{name: recipe[name] for name in ("vocabulary", "least", "length")}}
        config = cli.resolved(self, {**DEFAULTS, **recipe}, old, counts=counts)
        rates = config.word_dropout, config.dropout, config.average
        if not (all(0 <= rate < 1 for rate in rates) and config.scale > 0 and 0 <= config.seed < 2**32):
            raise ValueError(
                "train: --word-dropout, --dropout and --average want to be from 0 to below 1, --scale above 0, and "
                "--seed from 0 to 2**32 - 1"
            )
        if config.pairs < 0 or config.ngrams < 0 or config.ngrams == 1:
            raise ValueError("train: --pairs wants to be 0 or more, and --ngrams 0, or 2 or more")
        return config

    def prepared(self, texts: jn.data.LabelledTexts) -> tuple[dict[str, Any], "Task", tuple[Any, train.State, Any]]:
        """What config.json holds, the task, and what learns: the step, the first state, the loader of the data."""
        spaced = [jn.data.spaced_words(text) for text in texts.train.texts]
        tokenizer = jn.data.WordTokenizer.of(spaced, self.vocabulary, least=self.least, spell=False)
        words = [encoded(tokenizer, text, self.length, self.ngrams) for text in spaced]
        bounds = jn.data.bucket_bounds(np.array([len(each) for each in words]), BUCKETS)
        facts = {"classes": list(texts.classes), "bounds": list(bounds), "data_sha256": texts.fingerprint}
        saved = {**cli.saved_options(self), **facts}
        task = Task.of(saved, tokenizer)
        return saved, task, self.learner(task, words, texts.train.y)

    def learner(self, task: "Task", words: list[np.ndarray], y: np.ndarray) -> tuple[Any, train.State, Any]:
        """The step, the state before the first one, and the loader of the data."""
        optimizer = train.optimizer(
            self.optimizer,
            self.learning_rate,
            schedule=self.schedule,
            steps=self.schedule_steps,
            weight_decay=self.weight_decay,
        )
        step = train.make_step(
            task.model,
            optimizer,
            lambda logits, batch: ops.cross_entropy(logits, batch["y"], where=batch["where"]),
            metrics={"accuracy": train.accuracy},
            ema=self.average,
        )
        data = jn.data.BucketLoader(words, {"y": y}, self.batch_size, bounds=task.bounds, seed=self.seed)
        state = train.create(task.model, optimizer, data.batch(0), key=jax.random.key(self.seed), ema=self.average)
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate(cli.Options):
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Other data of the same classes. By default what the run was trained on."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = trained(self.run)
        texts = jn.data.load_labelled(self.data or config["data"])
        if list(texts.classes) != config["classes"]:
            raise ValueError(
                f"{texts.name} has classes {list(texts.classes)} but the run {self.run} wants {config['classes']}"
            )
        cli.tell({"test": task.evaluate(state, task.part(texts.test))}, self.json, texts.note)


@dataclasses.dataclass(frozen=True)
class Predict(cli.Options):
    """Names the class of each line of standard input."""

    run: Path
    """The run's folder."""
    explain: Literal["none", "gradients", "attention"] = "none"
    """Which words decided: by integrated gradients, in nats of the class named, or by the weights of attention."""
    html: Path | None = None
    """A page to write, with the words coloured by what they added."""

    def __call__(self) -> None:
        """Loads the weights and names the classes."""
        task, state, _ = trained(self.run)
        if self.html is not None and self.explain == "none":
            raise ValueError("predict: --html wants --explain gradients or attention")
        said = decoded("predict: standard input", sys.stdin.buffer.read())
        lines = [line for line in said.splitlines() if line.strip()]
        probabilities = task.probabilities(state, words := [task.words(line) for line in lines])
        marks = [None] * len(lines) if self.explain == "none" else task.marks(state, lines, words, self.explain)
        answers = [Answer.of(*each, task.classes) for each in zip(lines, probabilities, marks, strict=True)]
        if self.html is not None:
            page = interpret.coloured_html(f"What {self.run.name} read", [answer.row() for answer in answers])
            with replacing(self.html) as part:
                part.write_text(page, encoding="utf-8")
        if self.json:
            cli.tell({"lines": [answer.to_json() for answer in answers]}, True)
        else:
            show(answers)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A text, the probability of each class from the likeliest on, and what each word added."""

    text: str
    classes: dict[str, float]
    marks: list[interpret.Span] | None

    @classmethod
    def of(cls, text: str, probabilities: np.ndarray, marks: Any, classes: Sequence[str]) -> "Answer":
        """The answer of a model."""
        best = np.argsort(-probabilities, kind="stable")
        return cls(text, {classes[i]: round(float(probabilities[i]), 4) for i in best}, marks)

    def heading(self) -> str:
        """The class named and how likely it is."""
        name, probability = next(iter(self.classes.items()))
        return f"{name} {probability:.1%}"

    def row(self) -> tuple[str, str, list[interpret.Span]]:
        """What a page shows."""
        return self.heading(), self.text, self.marks or []

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        told = {"text": self.text, "label": next(iter(self.classes)), "probabilities": self.classes}
        if self.marks is not None:
            told["words"] = [[self.text[begin:end], round(value, 5)] for begin, end, value in self.marks]
        return told


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A classifier, and how texts are brought to it."""

    model: models.TextClassifier
    tokenizer: jn.data.WordTokenizer
    classes: list[str]
    bounds: list[int]
    length: int

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: jn.data.WordTokenizer) -> "Task":
        """The task of a configuration."""
        reader, pooling = READERS[config["model"]]
        model = models.TextClassifier(
            tokenizer.vocabulary,
            config["features"],
            len(config["classes"]),
            reader(config["features"]),
            pooling=pooling,
            pairs=config["pairs"],
            ngrams=config["ngrams"],
            scale=config["scale"],
            word_dropout=config["word_dropout"],
            dropout=config["dropout"],
        )
        return cls(model, tokenizer, config["classes"], config["bounds"], config["length"])

    def words(self, text: str) -> np.ndarray:
        """The words of a text, those in the middle of a long one left out."""
        return encoded(self.tokenizer, jn.data.spaced_words(text), self.length, self.model.ngrams)

    def part(self, labelled: jn.data.Labelled) -> dict[str, np.ndarray]:
        """A part of the data to evaluate on; the words are an array of arrays, since texts differ in length."""
        words = np.empty(len(labelled.texts), object)
        words[:] = [self.words(text) for text in labelled.texts]
        return {"words": words, "y": labelled.y}

    def evaluate(self, state: train.State, part: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss in nats, accuracy, macro F1 and expected calibration error over all of the part."""
        probabilities, y = self.probabilities(state, part["words"]), part["y"]
        named = probabilities.argmax(-1)
        return {
            "loss": float(-np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-30)).mean()),
            "accuracy": float((named == y).mean()),
            "macro_f1": train.macro_f1(y, named, len(self.classes)),
            "calibration_error": train.expected_calibration_error(probabilities, y),
        }

    def probabilities(self, state: train.State, words: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """The probability of each class for each text: [N, classes]."""
        forward = functools.partial(self.forward, state.averages)
        return np.stack(jn.data.in_buckets(forward, list(words), 256, bounds=self.bounds))

    def marks(
        self, state: train.State, texts: Sequence[str], words: list[np.ndarray], by: str
    ) -> list[list[interpret.Span]]:
        """For each word of each text where it stands and what it added."""
        program = functools.partial(self.gradients if by == "gradients" else self.attention, state.averages)
        values = jn.data.in_buckets(program, words, 8, bounds=self.bounds)
        spans = [jn.data.without_middle(jn.data.word_spans(text), self.length) for text in texts]
        return [
            [(*span, float(value)) for span, value in zip(places, row, strict=False)]
            for places, row in zip(spans, values, strict=True)
        ]

    @functools.cached_property
    def forward(self) -> Callable[..., Any]:
        """Probabilities of a batch."""
        return jax.jit(lambda variables, x, lengths: jax.nn.softmax(self.model.apply(variables, x, lengths=lengths)))

    @functools.cached_property
    def attention(self) -> Callable[..., Any]:
        """The weight of each word in a batch."""
        return jax.jit(lambda variables, x, lengths: self.model.apply(variables, x, lengths=lengths, method="attend"))

    @functools.cached_property
    def gradients(self) -> Callable[..., Any]:
        """What each word in a batch adds to the log-probability of the class named."""

        @jax.jit
        def gradients(variables: Any, x: Any, lengths: Any) -> Any:
            apply = functools.partial(self.model.apply, variables, lengths=lengths)
            embedded = apply(x, method="embed")
            named = apply(embedded, method="read").argmax(-1)

            def log_probability(embedded: Any) -> Any:
                scores = jax.nn.log_softmax(apply(embedded, method="read"))
                return jnp.take_along_axis(scores, named[:, None], axis=1)[:, 0]

            return interpret.integrated_gradients(log_probability, embedded).sum(-1)

        return gradients

    def untrained(self) -> train.State:
        """The state before training."""
        batch = {"x": self.words("no words")[None]}
        return train.create(self.model, train.optimizer("sgd", 0.0), batch, key=jax.random.key(0))


def encoded(tokenizer: jn.data.WordTokenizer, spaced: str, length: int, ngrams: int) -> np.ndarray:
    """The words of a text, with their n-grams where those count; of a long text the middle is left out."""
    words = tokenizer.encode(spaced)
    if ngrams:
        words = np.concatenate([words[:, None], jn.data.word_ngrams(spaced.split(), ngrams)], axis=1)
    return jn.data.without_middle(words, length)


def show(answers: Sequence[Answer]) -> None:
    """Writes a line for each text: the class, how likely it is, and the text, its words coloured."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for answer in answers:
        console.print(f"{answer.heading()}  ", end="", markup=False)
        console.print(interpret.coloured_text(answer.text, answer.marks or []))


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    fields = (
        "data",
        "model",
        "features",
        "pairs",
        "ngrams",
        "scale",
        "length",
        "word_dropout",
        "dropout",
        "classes",
        "bounds",
    )
    return train.read_config(folder, fields=fields, choices={"model": READERS})


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    weights = trainer.weights_of(folder)
    task = Task.of(config, jn.data.read_tokenizer(folder / "words.json"))
    state = task.untrained()
    return task, state.with_variables(train.load_weights(weights, state.variables)), config


def draw(run: train.Run, task: Task, state: train.State, part: Mapping[str, np.ndarray], title: str) -> None:
    """The pictures of a run: learning curves, confusion matrix, and how sure it is against how often it is right."""
    probabilities, y = task.probabilities(state, part["words"]), part["y"]
    trainer.draw_curves(run, title)
    matrix = train.confusion_matrix(y, probabilities.argmax(-1), len(task.classes))
    train.plots.confusion(matrix, task.classes, run / "confusion.png")
    train.plots.reliability(train.calibration(probabilities, y), run / "reliability.png", title=title)


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
