"""Ours: the models of the library, its losses and its step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxnets as jn
from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers import fitted
from benchmarks.peers.compiled import CompiledStep, flattened, nested
from benchmarks.peers.host import checkpoint, loading, startup
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer
from benchmarks.peers.written import written

__all__ = [
    "attention",
    "checkpoint",
    "cnn",
    "convolution",
    "decode",
    "generation",
    "linear_recurrence",
    "loading",
    "newton",
    "pooling",
    "prefill",
    "recurrent",
    "resnet",
    "sharding",
    "startup",
    "sweep",
    "trainer",
    "transformer",
    "variants",
    "weights",
]


def _language_model(parameters: Mapping[str, int]) -> Any:
    block = jn.layers.TransformerBlock(jn.layers.SelfAttention(parameters["heads"]))
    layers = jn.layers.LearnedPosition(parameters["time"]), jn.layers.Repeated(block, parameters["depth"])
    sizes = parameters["vocabulary"], parameters["features"]
    return jn.models.LanguageModel(jn.layers.Stack(layers), *sizes, tied=True, norm=nn.LayerNorm)


def _attention(parameters: Mapping[str, int]) -> Any:
    return jn.layers.SelfAttention(parameters["heads"], parameters["width"])


_MODELS: dict[str, Callable[[Mapping[str, int]], Any]] = {
    "cnn": lambda parameters: jn.models.SmallCNN(),
    "resnet": lambda parameters: jn.models.ResNet(blocks=(parameters["blocks"],) * 4, width=parameters["width"]),
    "convolution": lambda parameters: jn.layers.Conv(parameters["features"], 3),
    "lstm": lambda parameters: jn.layers.LSTM(parameters["hidden"]),
    "gru": lambda parameters: jn.layers.GRU(parameters["hidden"]),
    "rnn": lambda parameters: jn.layers.RNN(parameters["hidden"]),
    "decode": _attention,
    "prefill": _attention,
    "transformer": _language_model,
    "lstm_generation": lambda parameters: jn.models.RecurrentLM(parameters["vocabulary"], parameters["features"]),
    "transformer_generation": lambda parameters: _language_model(
        {**parameters, "time": parameters["prompt"] + parameters["tokens"]}
    ),
    "sharding": fitted.model,
    "trainer": fitted.model,
    "sweep": fitted.model,
    "newton": lambda parameters: jn.layers.GRU(parameters["hidden"]),
    "variants": lambda parameters: jn.layers.LSTM(
        parameters["hidden"],
        projection=parameters.get("projection"),
        recurrent_dropout=parameters.get("dropout_percent", 0) / 100,
        zoneout=parameters.get("zoneout_percent", 0) / 100,
        **{name: bool(parameters.get(name)) for name in ("peephole", "layer_norm", "coupled")},
    ),
}


def weights(problem: Problem) -> Arrays:
    """What every contender starts from: He's variance for kernels, and noise about 0 and 1 for biases and scales.

    Models start biases at 0 and scales at 1 or 0; from there a contender that left one out would not be found out.
    In recurrent layers the variance is a third of 1 over the fan-in, so that no rounding error grows over time.
    """
    if problem.case == "attention":
        shape = tuple(problem.parameters[name] for name in ("batch", "time", "heads", "width"))
        rng = np.random.default_rng(1)
        return {name: rng.standard_normal(shape, dtype=np.float32) for name in "qkv"}
    if problem.case == "linear_recurrence":
        noise = np.random.default_rng(1).standard_normal(problem.batch["x"].shape, dtype=np.float32)
        return {"a": 1 / (1 + np.exp(-noise))}
    if problem.case not in _MODELS:
        return {}
    model = _MODELS[problem.case](problem.parameters)
    # The shapes alone: compiling the model's own initialisation takes longer than a step.
    shapes = jax.eval_shape(model.init, jax.random.key(0), problem.batch["x"])["params"]
    rng = np.random.default_rng(1)
    gain = 1 / 3 if problem.case in ("lstm", "gru", "rnn", "newton", "variants", "lstm_generation") else 2
    made: Arrays = {}
    for path, leaf in flattened(shapes).items():
        noise = rng.standard_normal(leaf.shape, dtype=np.float32)
        kernel = path.endswith(("kernel", "embedding", "table"))
        made[path] = noise * np.float32((gain / math.prod(leaf.shape[:-1])) ** 0.5) if kernel else noise / 100
        if path.endswith("scale"):
            made[path] += 1
    if problem.case == "gru":
        # Some reset the state before the product: here that is the same. The gradients tell all else apart.
        made["recurrent_bias"] *= 0
        r, z, n = np.split(made["recurrent_kernel"], 3, axis=1)
        made["recurrent_kernel"] = np.concatenate([r, z, np.diag(np.diag(n))], axis=1)
    return made


def cnn(problem: Problem) -> Contender:
    """SmallCNN with Adam."""
    return _training(problem, optax.adam(1e-3))


def resnet(problem: Problem) -> Contender:
    """ResNet-18 with momentum."""
    return _training(problem, optax.sgd(0.01, momentum=0.9))


def convolution(problem: Problem) -> Contender:
    """The layer by one of its implementations."""
    layer = _MODELS[problem.case](problem.parameters).copy(**problem.options)
    return CompiledLayer(problem, nested, lambda params, x: (layer.apply({"params": params}, x), {}))


def pooling(problem: Problem) -> Contender:
    """The op."""
    return CompiledLayer(problem, dict, lambda params, x: (jn.ops.max_pool(x, 2), {}))


def generation(problem: Problem) -> Contender:
    """A model of language that writes on."""
    return written(problem, _MODELS[problem.case](problem.parameters))


def sharding(problem: Problem) -> Contender:
    """The step on one device, or on a mesh of all."""
    return _training(problem, optax.adam(1e-3), problem.options.get("axis"))


def trainer(problem: Problem) -> Contender:
    """A run by `fit`, or in a bare loop."""
    return fitted.trainer(problem)


def sweep(problem: Problem) -> Contender:
    """Runs all at once, or one after the other."""
    return fitted.sweep(problem)


def recurrent(problem: Problem) -> Contender:
    """The layer as it is, with lengths, or by one of its implementations."""
    if problem.options.get("tuned"):
        jn.tune_cpu()
    layer = _MODELS[problem.case](problem.parameters)
    return _layer(problem, layer.copy(implementation=problem.options.get("implementation", "auto")))


def newton(problem: Problem) -> Contender:
    """The layer by one of its implementations."""
    jacobian = problem.options.get("jacobian")
    implementation = jn.ops.Newton(jacobian) if jacobian else problem.options.get("implementation", "auto")
    return _layer(problem, _MODELS[problem.case](problem.parameters).copy(implementation=implementation))


def variants(problem: Problem) -> Contender:
    """The layer, or a plain scan of its single step."""
    layer, key = _MODELS[problem.case](problem.parameters), jax.random.key(0)
    options = {"coupled": layer.coupled, "zoneout": layer.zoneout}

    def whole(params: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        train = layer.recurrent_dropout > 0
        y, carry = layer.apply({"params": params}, x, train=train, rngs={"dropout": key})
        return y, carry._asdict()

    def stepwise(params: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            y, carry = jn.ops.lstm_step(params, x, carry, **options)
            return carry, y

        first = jax.tree.map(jnp.zeros_like, jn.ops.lstm_step(params, x[:, 0], **options)[1])
        carry, y = lax.scan(step, first, x.swapaxes(0, 1))
        return y.swapaxes(0, 1), carry._asdict()

    return CompiledLayer(problem, nested, stepwise if problem.options.get("stepwise") else whole)


def linear_recurrence(problem: Problem) -> Contender:
    """The op by one of its implementations."""

    def apply(factors: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        y, carry = jn.ops.linear_recurrence(factors["a"], x, **problem.options)
        return y, {"h": carry}

    return CompiledLayer(problem, dict, apply)


def attention(problem: Problem) -> Contender:
    """Dot-product attention by one of its implementations."""

    def apply(heads: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        options = {name: value for name, value in problem.options.items() if name == "implementation"}
        return jn.ops.dot_product_attention(heads["q"], heads["k"], heads["v"], causal=True, **options), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))


def decode(problem: Problem) -> Contender:
    """The layer with a `KVCache`."""
    return _cached(problem, held=problem.batch["x"].shape[1] - 1)


def prefill(problem: Problem) -> Contender:
    """The same from an empty one."""
    return _cached(problem, held=0)


def transformer(problem: Problem) -> Contender:
    """Blocks, normalised first, repeated."""
    model = _MODELS[problem.case](problem.parameters)

    def apply(params: Any, tokens: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return model.apply({"params": params}, tokens)[0], {}

    return CompiledLayer(problem, nested, apply, loss=lambda y, labels: jn.ops.cross_entropy(y, labels).value)


def _cached(problem: Problem, held: int) -> Contender:
    """A layer of attention that takes what is not held already."""
    layer, x = _MODELS[problem.case](problem.parameters), problem.batch["x"]
    variables = {"params": nested(problem.weights)}
    cache = jn.layers.initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype))
    if held:
        _, cache = jax.jit(layer.apply)(variables, x[:, :held], carry=cache)

    def step(variables: Any, cache: Any, tokens: Any) -> tuple[Any, Any]:
        y, after = layer.apply(variables, tokens, carry=cache)
        return y, after._replace(length=cache.length)

    def keys(cache: Any) -> Mapping[str, Any]:
        return {} if held else {"k": cache.k.swapaxes(1, 2), "v": cache.v.swapaxes(1, 2)}

    return CompiledDecoder(step, variables, cache, x[:, held:], held=keys)


def _layer(problem: Problem, layer: Any) -> Contender:
    def apply(params: Any, x: jax.Array, lengths: jax.Array | None = None) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        y, carry = layer.apply({"params": params}, x, lengths=lengths)
        return y, carry._asdict()

    lengths = [problem.batch["lengths"]] if problem.options.get("lengths") else []
    return CompiledLayer(problem, nested, apply, *lengths)


def _training(problem: Problem, optimizer: optax.GradientTransformation, axis: str | None = None) -> Contender:
    if axis:
        jax.config.update("jax_num_cpu_devices", problem.parameters["devices"])
    if problem.options.get("tuned"):
        jn.tune_cpu()
    model = _MODELS[problem.case](problem.parameters)
    params, key = nested(problem.weights), jax.random.key(0)
    shapes = jax.eval_shape(lambda key: jn.train.create(model, optimizer, problem.batch, key=key), key)
    # Running statistics, which no step in training reads.
    collections = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes.collections)
    state = jn.train.State(np.int32(0), params, jax.jit(optimizer.init)(params), collections, None, key)
    batch = problem.batch
    if axis:
        mesh = jn.sharding.make_mesh(**{"data": 1, axis: problem.parameters["devices"]})
        state, batch = jn.sharding.place_state(state, mesh), jn.sharding.place_batch(batch, mesh)

    def logits(state: Any, batch: Any) -> Any:
        return model.apply(state.variables, batch["x"], train=True, mutable=list(state.collections))[0]

    step = jn.train.make_step(model, optimizer, lambda outputs, batch: jn.ops.cross_entropy(outputs, batch["y"]))
    return CompiledStep(step, state, batch, logits=logits, loss=lambda report: report["loss"].value)
