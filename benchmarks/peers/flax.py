"""Flax Linen with Optax, as its users write it."""

import time
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Contender, Problem
from benchmarks.peers import flax_weights
from benchmarks.peers.compiled import CompiledStep, nested
from benchmarks.peers.flax_generation import generation
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer, blocks, split_heads
from benchmarks.peers.started import Started

__all__ = [
    "attention",
    "cnn",
    "decode",
    "generation",
    "pooling",
    "prefill",
    "recurrent",
    "resnet",
    "startup",
    "trainer",
    "transformer",
]


class _SmallCNN(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, features in enumerate((32, 64, 64), start=1):
            x = nn.relu(nn.Conv(features, (3, 3), padding="VALID", name=f"conv_{i}")(x))
            if i < 3:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(64, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


class _Block(nn.Module):
    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(_norm("norm_1")(_conv(self.features, 3, self.strides, "conv_1")(x)))
        y = _norm("norm_2")(_conv(self.features, 3, 1, "conv_2")(y))
        if x.shape != y.shape:
            x = _norm("shortcut_norm")(_conv(self.features, 1, self.strides, "shortcut")(x))
        return nn.relu(x + y)


class _ResNet(nn.Module):
    blocks: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_norm("stem_norm")(_conv(self.width, 3, 1, "stem")(x)))
        for stage in range(4):
            for i in range(self.blocks):
                strides = 2 if stage > 0 and i == 0 else 1
                x = _Block(self.width * 2**stage, strides, name=f"stage{stage + 1}_block{i + 1}")(x)
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


class _TransformerBlock(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        y = nn.LayerNorm(name="norm_mixer")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, use_bias=False, name="mixer")(y, mask=mask)
        y = nn.Dense(4 * x.shape[-1], use_bias=False, name="up")(nn.LayerNorm(name="norm_mlp")(x))
        return x + nn.Dense(x.shape[-1], use_bias=False, name="down")(nn.gelu(y))


class _Transformer(nn.Module):
    vocabulary: int
    features: int
    heads: int
    depth: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(self.vocabulary, self.features, name="embedding")
        table = self.param("table", nn.initializers.normal(), (tokens.shape[1], self.features))
        x, mask = embed(tokens) + table, nn.make_causal_mask(tokens)
        for i in range(self.depth):
            x = _TransformerBlock(self.heads, name=f"block_{i}")(x, mask)
        return embed.attend(nn.LayerNorm(name="norm")(x))


def cnn(problem: Problem) -> Contender:
    """The small network with Adam."""
    return _training(problem, _SmallCNN(), optax.adam(1e-3))


def resnet(problem: Problem) -> Contender:
    """ResNet-18 with momentum."""
    model = _ResNet(problem.parameters["blocks"], problem.parameters["width"])
    return _training(problem, model, optax.sgd(0.01, momentum=0.9))


def pooling(problem: Problem) -> Contender:
    """`nn.max_pool`."""
    return CompiledLayer(problem, dict, lambda params, x: (nn.max_pool(x, (2, 2), strides=(2, 2)), {}))


def startup(problem: Problem) -> Contender:
    """What a program of Flax imports at least."""
    return Started("import jax, flax.linen")


def trainer(problem: Problem) -> Contender:
    """A Python loop over a jitted step, the batches cut in NumPy."""
    return _PythonLoop(problem)


def recurrent(problem: Problem) -> Contender:
    """`nn.RNN` over its cell."""
    make, convert = {
        "lstm": (nn.OptimizedLSTMCell, flax_weights.lstm),
        "gru": (nn.GRUCell, flax_weights.gru),
        "rnn": (nn.SimpleCell, flax_weights.rnn),
    }[problem.case]
    layer = nn.RNN(make(problem.parameters["hidden"]), return_carry=True)

    def apply(params: Any, x: jax.Array) -> tuple[Any, Mapping[str, Any]]:
        carry, y = layer.apply({"params": {"cell": params}}, x)
        return y, dict(zip("ch", carry, strict=True)) if problem.case == "lstm" else {"h": carry}

    return CompiledLayer(problem, convert, apply)


def attention(problem: Problem) -> Contender:
    """`nn.dot_product_attention` with a causal mask."""

    def apply(heads: Mapping[str, Any], x: jax.Array) -> tuple[Any, Mapping[str, Any]]:
        mask = nn.make_causal_mask(jnp.ones(heads["q"].shape[:2]))
        return nn.dot_product_attention(heads["q"], heads["k"], heads["v"], mask=mask), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))


def decode(problem: Problem) -> Contender:
    """`nn.MultiHeadDotProductAttention` with `decode=True`."""
    layer, params, cache = _decoder(problem)
    x = problem.batch["x"]
    for name in ("key", "value"):
        cache[f"cached_{name}"] = np.einsum("btd,dnh->btnh", x, params[name]["kernel"])
        cache[f"cached_{name}"][:, -1] = 0
    cache["cache_index"] = np.int32(x.shape[1] - 1)

    def step(params: Any, cache: Any, token: Any) -> tuple[Any, Any]:
        y, changed = layer.apply({"params": params, "cache": cache}, token, mutable=["cache"])
        return y, {**changed["cache"], "cache_index": cache["cache_index"]}

    return CompiledDecoder(step, params, cache, x[:, -1:])


def prefill(problem: Problem) -> Contender:
    """The same over all tokens: it takes one at a time."""
    layer, params, cache = _decoder(problem)

    def take(params: Any, cache: Any, token: Any) -> tuple[Any, Any]:
        y, changed = layer.apply({"params": params, "cache": cache}, token[:, None], mutable=["cache"])
        return changed["cache"], y[:, 0]

    def step(params: Any, cache: Any, tokens: Any) -> tuple[Any, Any]:
        after, y = jax.lax.scan(lambda cache, token: take(params, cache, token), cache, tokens.swapaxes(0, 1))
        return y.swapaxes(0, 1), {**after, "cache_index": cache["cache_index"]}

    def keys(cache: Any) -> Mapping[str, Any]:
        return {"k": cache["cached_key"], "v": cache["cached_value"]}

    return CompiledDecoder(step, params, cache, problem.batch["x"], held=keys, variant="a scan over tokens")


def transformer(problem: Problem) -> Contender:
    """`nn.MultiHeadDotProductAttention` in blocks."""
    model = _Transformer(*(problem.parameters[name] for name in ("vocabulary", "features", "heads", "depth")))

    def convert(weights: Mapping[str, Any]) -> Any:
        params = {"embedding": {"embedding": weights["embedding/embedding"]}, "table": weights["layer/layers_0/table"]}
        params["norm"] = {name: weights[f"norm/{name}"] for name in ("scale", "bias")}
        for i, own in enumerate(blocks(weights)):
            params[f"block_{i}"] = nested({path: split_heads(path, value, model.heads) for path, value in own.items()})
        return params

    def apply(params: Any, tokens: jax.Array) -> tuple[Any, Mapping[str, Any]]:
        return model.apply({"params": params}, tokens), {}

    def loss(y: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    return CompiledLayer(problem, convert, apply, loss=loss)


class _MLP(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(self.hidden, name="dense_1")(x)))


class _PythonLoop:
    """Epochs of steps, as they stand in the examples of Flax.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: The first steps.
      program_bytes: Not asked for.
    """

    variant = ""
    program_bytes: Mapping[str, int] | None = None

    def __init__(self, problem: Problem):
        model, self._optimizer = _MLP(problem.parameters["hidden"]), optax.adam(1e-3)
        params = jax.tree.map(jnp.array, nested(problem.weights))
        self._state = params, self._optimizer.init(params)
        self._data, self._size, self._taken = problem.batch, problem.parameters["batch"], 0
        self._order: np.ndarray = np.array([])

        def step(state: Any, batch: Any) -> Any:
            def objective(params: Any) -> Any:
                logits = model.apply({"params": params}, batch["x"])
                return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

            params, opt_state = state
            loss, gradient = jax.value_and_grad(objective)(params)
            updates, opt_state = self._optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        self._step = jax.jit(step, donate_argnums=0)
        start = time.perf_counter()
        self._losses = [self._take(1)[0] for _ in range(3)]
        self.compile_seconds = time.perf_counter() - start

    def results(self) -> Mapping[str, np.ndarray]:
        """The losses of the first three steps."""
        return {"losses": np.array(self._losses)[:, None]}

    def run(self, steps: int) -> None:
        """Takes steps; the losses are kept on the device and read at the end."""
        self._take(steps)

    def _take(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            epoch, i = divmod(self._taken, len(self._data["x"]) // self._size)
            if i == 0 or not self._order.size:
                key = jax.random.fold_in(jax.random.key(0), epoch)
                self._order = np.asarray(jax.random.permutation(key, len(self._data["x"])))
            rows = self._order[i * self._size : (i + 1) * self._size]
            batch = {name: array[rows] for name, array in self._data.items()}
            self._state, loss = self._step(self._state, batch)
            losses.append(loss)
            self._taken += 1
        return [float(loss) for loss in losses]


def _decoder(problem: Problem) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The layer, its weights and an empty cache."""
    heads, width = problem.parameters["heads"], problem.parameters["width"]
    layer = nn.MultiHeadDotProductAttention(heads, qkv_features=heads * width, use_bias=False, decode=True)
    params = nested({path: split_heads(path, value, heads) for path, value in problem.weights.items()})
    shape = *problem.batch["x"].shape[:2], heads, width
    cache: dict[str, Any] = {f"cached_{name}": np.zeros(shape, np.float32) for name in ("key", "value")}
    return layer, params, {**cache, "cache_index": np.int32(0)}


def _training(problem: Problem, model: nn.Module, optimizer: optax.GradientTransformation) -> Contender:
    # Names and layouts are ours, so the weights fit as they are.
    params = nested(problem.weights)
    shapes = jax.eval_shape(model.init, jax.random.key(0), problem.batch["x"]).get("batch_stats", {})
    statistics = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)

    def forward(params: Any, statistics: Any, x: Any) -> tuple[Any, Any]:
        logits, changed = model.apply({"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"])
        return logits, changed.get("batch_stats", {})

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        params, statistics, opt_state = state

        def objective(params: Any) -> tuple[Any, Any]:
            logits, changed = forward(params, statistics, batch["x"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), changed

        (loss, statistics), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), loss

    def logits(state: Any, batch: Any) -> Any:
        return forward(state[0], state[1], batch["x"])[0]

    return CompiledStep(step, (params, statistics, jax.jit(optimizer.init)(params)), problem.batch, logits=logits)


def _conv(features: int, window: int, strides: int, name: str) -> nn.Conv:
    padding = ((window // 2, window // 2),) * 2
    return nn.Conv(features, (window, window), strides, padding, use_bias=False, name=name)


def _norm(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, name=name)
