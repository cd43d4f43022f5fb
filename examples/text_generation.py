"""Text generation: trains a model of language, from the standard library's own source to Shakespeare, and has it write.

python examples/text_generation.py train                                  # Python source, under a minute
python examples/text_generation.py train --data tiny_shakespeare
python examples/text_generation.py train --data novel.txt --model gru
python examples/text_generation.py evaluate --run runs/stdlib
python examples/text_generation.py predict --run runs/stdlib --prompt "def main(" --tokens 500
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxnets as jn
from jaxnets import layers, models, ops, train
from jaxnets.train import cli, trainer
from jaxnets.train.files import replacing

BLOCK = 256
"""Tokens that a Transformer sees, and those of the blocks that `nats` is measured on."""


def recurrent(cell: Callable[[int], Any], vocabulary: int, features: int, depth: int, dropout: float) -> Any:
    """Cells one on another; an embedding wider than the vocabulary would hold no more, one as narrow spares nothing."""
    layer = cell(features) if depth == 1 else layers.Stack(tuple(cell(features) for _ in range(depth)), dropout)
    into = 0.0 if vocabulary < features else dropout
    return models.LanguageModel(layer, vocabulary, min(features, vocabulary), dropout=dropout, input_dropout=into)


def gated(cell: Callable[[int], Any], vocabulary: int, features: int, depth: int, dropout: float) -> Any:
    """Cells that are linear in their state, each in a block with a network at every step."""
    blocks = tuple(layers.TransformerBlock(cell(features), gated=True, dropout=dropout) for _ in range(depth))
    return models.LanguageModel(layers.Stack(blocks), vocabulary, features, norm=nn.LayerNorm, dropout=dropout)


def transformer(vocabulary: int, features: int, depth: int, dropout: float) -> Any:
    """Attention to the last `BLOCK` tokens, in heads of 32 features."""
    heads = max(features // 32, 1)
    return models.TransformerLM(vocabulary, features, depth, heads, window=BLOCK, dropout=dropout)


def hybrid(vocabulary: int, features: int, depth: int, dropout: float) -> Any:
    """RG-LRUs, and attention to the last 64 tokens in every third block."""
    return models.HybridLM(vocabulary, features, depth, max(features // 32, 1), window=64, dropout=dropout)


MODELS: dict[str, Callable[[int, int, int, float], Any]] = {
    "lstm": functools.partial(recurrent, layers.LSTM),
    "gru": functools.partial(recurrent, layers.GRU),
    "rnn": functools.partial(recurrent, layers.RNN),
    "mingru": functools.partial(gated, layers.MinGRU),
    "lru": functools.partial(gated, layers.LRU),
    "transformer": transformer,
    "hybrid": hybrid,
}

TOKENS: dict[str, Callable[[str, int], jn.data.Tokenizer]] = {
    "byte": lambda text, size: jn.data.ByteTokenizer(),
    "char": lambda text, size: jn.data.CharTokenizer.of(text),
    "word": jn.data.WordTokenizer.of,
    "subword": jn.data.SubwordTokenizer.of,
}

SMALL = {"features": 256, "steps": 400, "dropout": 0.0, "weight_decay": 0.01}
LONG = {"features": 384, "steps": 5500, "dropout": 0.3, "weight_decay": 0.1}
RECIPES = {"stdlib": SMALL, "tiny_shakespeare": LONG}
"""What suits the data; a text of one's own is taken like the first."""

RECURRENT = {"depth": 1, "batch_size": 32, "time": 64, "learning_rate": 2e-2}
LINEAR = {"depth": 3, "batch_size": 32, "time": 64, "learning_rate": 1e-2}
SHAPES = {
    **dict.fromkeys(("lstm", "gru"), RECURRENT),
    "rnn": {**RECURRENT, "learning_rate": 1e-2},
    **dict.fromkeys(("mingru", "lru", "hybrid"), LINEAR),
    "transformer": {**LINEAR, "depth": 4, "batch_size": 8, "time": BLOCK, "restarts": 0.0},
}
"""What suits the model."""

TOGETHER = {("tiny_shakespeare", "lstm"): {"steps": 4200, "learning_rate": 4.5e-2}}
"""What suits a model on some data, in place of the above."""

DEFAULTS = {
    "data": "stdlib",
    "model": "lstm",
    "tokens": "char",
    "vocabulary": 4096,
    "restarts": 0.05,
    "optimizer": "muon",
    "schedule": "linear",
    "clip": 1.0,
    "seed": 0,
}
"""What holds for all. At a resume the run's own configuration stands in place of these and of what suits."""


@dataclasses.dataclass(frozen=True)
class Train(cli.Choosing):
    """Trains a model of language and keeps the run: configuration, tokenizer, metrics, checkpoints, weights, curves."""

    data: str | None = None
    """stdlib, tiny_shakespeare, or a file in UTF-8, whose last tenth is held out. By default stdlib."""
    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """What reads and writes. By default lstm."""
    features: int | None = None
    """Its width. By default what suits the data: 256 for stdlib."""
    depth: int | None = None
    """Layers, or blocks. By default what suits the model: 1 for lstm."""
    dropout: float | None = None
    """Share of what is dropped in training. By default what suits the data: 0 for stdlib."""
    tokens: Literal[tuple(TOKENS)] | None = None  # type: ignore[valid-type]
    """What the text is cut into. By default char."""
    vocabulary: int | None = None
    """How many words or subwords there are at most. By default 4096."""
    time: int | None = None
    """Tokens that the gradient goes back through. By default 64, for transformer 256."""
    steps: int | None = None
    """Training steps in all. By default what suits the data: 400 for stdlib."""
    schedule_steps: int | None = None
    """The schedule's horizon. By default --steps of the first run: more steps at a resume do not bend it."""
    restarts: float | None = None
    """How often a row forgets: the share of steps before which its state is new. By default 0.05, for transformer 0."""
    batch_size: int | None = None
    """Rows to a step. By default 32, for transformer 8."""
    optimizer: Literal[train.OPTIMIZERS] | None = None  # type: ignore[valid-type]
    """The update rule, by its usual name. By default muon."""
    learning_rate: float | None = None
    """Its largest value. By default what suits the model and the data: 0.02 for lstm on stdlib."""
    schedule: Literal[train.SCHEDULES] | None = None  # type: ignore[valid-type]
    """How the learning rate goes over the steps. By default linear."""
    weight_decay: float | None = None
    """Decay of the kernels, never of biases and norms. By default what suits the data: 0.01 for stdlib."""
    clip: float | None = None
    """Largest norm of the gradient. By default 1."""
    seed: int | None = None
    """Of the parameters, of dropout, and of the windows that a Transformer sees. By default 0."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints, at which validation data is looked at too. By default a tenth of --steps."""
    run: Path | None = None
    """The run's folder. By default a new one below runs/; with --resume the newest."""
    resume: bool = False
    """Go on from the run's newest good checkpoint, with the options that it was begun with."""

    def __call__(self) -> None:
        """Trains, evaluates on the test data once, and draws the curves."""
        clock = train.CompileClock()
        jn.tune_cpu()
        folder, old = trainer.earlier(self.run, self.data, resume=self.resume, read=read_run)
        text = jn.data.load_text(self.data or old.get("data") or DEFAULTS["data"])
        folder = folder or train.new_run(text.name)
        config = self.resolved(old)
        training, validation, test = text.split()
        tokenizer = TOKENS[config.tokens](text.text if config.tokens == "char" else training, config.vocabulary)
        task = Task.of(dataclasses.asdict(config), tokenizer)
        run, _, result = trainer.train(
            folder,
            {**cli.saved_options(config), "data_sha256": text.fingerprint},
            *config.learner(task, training),
            evaluate=task.evaluate,
            validation=task.part(validation),
            test=task.part(test),
            resumed=bool(old),
            clock=clock,
            may_change=[*trainer.MAY_CHANGE, *(["data"] if old.get("data_sha256") == text.fingerprint else [])],
            better=("nats", "min"),
        )
        with replacing(run / "tokenizer.json") as part:
            part.write_text(json.dumps(tokenizer.to_json()) + "\n")
        cli.tell(result, self.json, "\n".join(filter(None, [text.note, f"run: {folder}"])))
        trainer.draw_curves(run, f"{config.model} on {text.name}")

    def resolved(self, old: dict[str, Any]) -> "Train":
        """Every option with a value: the one given, else that of the run resumed, else what suits data and model."""
        data, model = (getattr(self, name) or old.get(name) or DEFAULTS[name] for name in ("data", "model"))
        counts = ("features", "depth", "vocabulary", "time", "steps", "batch_size", "checkpoint_every")
        suits = {**SHAPES[model], **RECIPES.get(data, SMALL), **TOGETHER.get((data, model), {})}
        config = cli.resolved(self, {**DEFAULTS, **suits}, old, counts=counts)
        if not (0 <= config.dropout < 1 and config.clip > 0 and 0 <= config.seed < 2**32):
            raise ValueError(
                "train: --dropout wants to be from 0 to below 1, --clip positive, and --seed from 0 to 2**32 - 1"
            )
        return config

    def learner(self, task: "Task", training: str) -> tuple[Any, train.State, jn.data.DeviceText]:
        """The step, the state before the first one, and the data on the device."""
        optimizer = train.optimizer(
            self.optimizer,
            self.learning_rate,
            schedule=self.schedule,
            steps=self.schedule_steps,
            weight_decay=self.weight_decay,
            clip=self.clip,
        )
        # What a Transformer has seen is no state to go on from: it learns from windows, each from an empty context.
        windows = self.model == "transformer"
        drawn = {"windows": windows, "restarts": self.restarts, "seed": self.seed}
        data = jn.data.DeviceText(task.tokenizer.encode(training), self.batch_size, self.time, **drawn)
        step = train.make_step(task.model, optimizer, task.loss, apply=train.carried(task.model))
        batch = data.batch(data.order(0), 0)
        state = train.create(task.model, optimizer, batch, key=jax.random.key(self.seed), keep_carry=not windows)
        return step, state, data


@dataclasses.dataclass(frozen=True)
class Evaluate(cli.Options):
    """Measures a trained run on the test data."""

    run: Path
    """The run's folder."""
    data: str | None = None
    """Another text, of which the last tenth is taken. By default what the run was trained on."""

    def __call__(self) -> None:
        """Loads the weights and measures."""
        task, state, config = trained(self.run)
        text = jn.data.load_text(self.data or config["data"])
        cli.tell({"test": task.evaluate(state, task.part(text.split()[2]))}, self.json, text.note)


@dataclasses.dataclass(frozen=True)
class Predict(cli.Options):
    """Writes on from a prompt, token by token."""

    run: Path
    """The run's folder."""
    prompt: str = "\n"
    """What the text begins with."""
    tokens: int = 500
    """How many tokens follow at most."""
    seed: int = 0
    """What they are drawn from."""
    temperature: float = 0.8
    """Below 1 the likely gets likelier; 0 takes the likeliest."""
    top_k: int | None = None
    """Only the likeliest so many."""
    top_p: float | None = None
    """Only the likeliest, as many as have this probability."""
    min_p: float | None = None
    """Only what is at least this times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1 what was said gets less likely."""
    stop: tuple[str, ...] = ()
    """Texts at which to stop."""

    def __call__(self) -> None:
        """Loads the weights and writes."""
        task, state, _ = trained(self.run)
        if self.tokens < 1 or not 0 <= self.seed < 2**32 or not self.temperature >= 0:
            raise ValueError("predict: --tokens wants 1 or more, --seed 0 to 2**32 - 1, --temperature 0 or more")
        writer = models.Writer(
            task.model,
            temperature=self.temperature or 1.0,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )
        encode, key = task.tokenizer.encode, jax.random.key(self.seed) if self.temperature else None
        stop = [encode(text).tolist() for text in self.stop]
        written = writer.write(state.averages, encode(self.prompt), self.tokens, key=key, stop=stop)
        if self.json:
            tokens, log_probs = zip(*written, strict=True)
            text = task.tokenizer.decode(np.array(tokens))
            answer = {"prompt": self.prompt, "text": text, "tokens": len(tokens), "nats": -float(np.mean(log_probs))}
            cli.tell(answer, True)
            return
        sys.stdout.write(self.prompt)
        for piece in jn.data.decode_stream(task.tokenizer, (token for token, _ in written)):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model of language, and how text is brought to it."""

    model: Any
    tokenizer: jn.data.Tokenizer
    words: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], tokenizer: jn.data.Tokenizer) -> "Task":
        """The task of a configuration."""
        shape = config["features"], config["depth"], config["dropout"]
        return cls(MODELS[config["model"]](tokenizer.vocabulary, *shape), tokenizer, config["tokens"] == "word")

    def loss(self, logits: jax.Array, batch: jn.typing.Batch) -> jn.typing.Mean:
        """The cross entropy of the token that follows each."""
        return ops.cross_entropy(logits, batch["y"], where=batch.get("where"))

    def part(self, text: str) -> dict[str, np.ndarray]:
        """A part of the text to evaluate on."""
        return {"tokens": self.tokenizer.encode(text), "characters": np.array(len(text))}

    def evaluate(self, state: train.State, part: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nats a token in blocks from an empty context, and with the carry kept; of the latter bits and perplexity."""
        tokens, blocks = part["tokens"], cut(part["tokens"], BLOCK)
        nats = train.evaluate(self.eval_step, state, jn.data.batches(blocks, 64))["loss"]
        read = jax.device_get(self.read(state.averages, {name: array[:, None] for name, array in blocks.items()}))
        carried = float(read.value)
        result = {"nats": nats, "nats_carried": carried}
        result["bits"] = train.bits_per_character(carried, tokens=len(tokens), characters=int(part["characters"]))
        if self.words:
            result["perplexity"] = train.perplexity(carried)
        return result

    @functools.cached_property
    def eval_step(self) -> Callable[..., Any]:
        """The loss of a batch, each row from an empty context."""
        return jax.jit(train.make_eval_step(self.model, self.loss, apply=train.carried(self.model)))

    @functools.cached_property
    def read(self) -> Callable[..., jn.typing.Mean]:
        """The loss of blocks [N, 1, T] that follow one another, the carry kept from first to last."""

        def block(variables: Any, carry: Any, batch: Any) -> tuple[Any, jn.typing.Mean]:
            logits, carry = self.model.apply(variables, batch["x"], carry=carry)
            return carry, self.loss(logits, batch)

        @jax.jit
        def read(variables: Any, blocks: Any) -> jn.typing.Mean:
            spec = jax.ShapeDtypeStruct(blocks["x"].shape[1:], jnp.int32)
            carry = layers.initial_carry(self.model, variables, spec)
            _, means = lax.scan(functools.partial(block, variables), carry, blocks)
            return jax.tree.map(jnp.sum, means)

        return read

    def untrained(self) -> train.State:
        """The state before training."""
        batch = {"x": np.zeros((1, 2), np.int32)}
        return train.create(self.model, train.optimizer("sgd", 0.0), batch, key=jax.random.key(0))


def cut(tokens: np.ndarray, time: int) -> dict[str, np.ndarray]:
    """Blocks of so many tokens, and those that follow them; `where` is False past the end of the text."""
    x, y = tokens[:-1], tokens[1:]
    room = -(-len(x) // time) * time
    rows = {"x": x, "y": y, "where": np.ones(len(x), bool)}
    return {name: np.pad(row, (0, room - len(x))).reshape(-1, time) for name, row in rows.items()}


def read_run(folder: Path) -> dict[str, Any]:
    """The configuration of a run of this program."""
    names, counts = ("data", "model", "tokens"), ("features", "depth", "vocabulary")
    fields = {**dict.fromkeys(names, str), **dict.fromkeys(counts, int), "dropout": int | float}
    return train.read_config(folder, fields=fields, choices={"model": MODELS, "tokens": TOKENS})


def trained(folder: Path) -> tuple[Task, train.State, dict[str, Any]]:
    """The task, the weights as a state, and the configuration of a run that has ended."""
    config = read_run(folder)
    weights = trainer.weights_of(folder)
    task = Task.of(config, jn.data.read_tokenizer(folder / "tokenizer.json"))
    state = task.untrained()
    return task, state.with_variables(train.load_weights(weights, state.variables)), config


COMMANDS = {"train": Train, "evaluate": Evaluate, "predict": Predict}

if __name__ == "__main__":
    sys.exit(cli.main(COMMANDS))
