"""Keras 3 on JAX: training by `train_on_batch`, as its users call it, which reads the loss back at every step.

A layer alone is jitted through `stateless_call`.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

# Keras reads it when it is imported.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np

from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers.layer import CompiledLayer, blocks, split_heads


def cnn(problem: Problem) -> Contender:
    """The small network with Adam."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(problem.batch["x"].shape[1:]),
            layers.Conv2D(32, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu", name="conv_2"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu", name="conv_3"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dense(10, name="head"),
        ]
    )
    # Its own epsilon is 1e-7, that of the others 1e-8.
    return _TrainOnBatch(problem, model, keras.optimizers.Adam(1e-3, epsilon=1e-8))


def recurrent(problem: Problem) -> Contender:
    """Its layer, by `stateless_call`."""
    make = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[problem.case]
    layer = make(problem.parameters["hidden"], return_sequences=True, return_state=True)
    layer.build(problem.batch["x"].shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def convert(weights: Mapping[str, Any]) -> list[Any]:
        return _gru(weights) if problem.case == "gru" else [weights[n] for n in ("kernel", "recurrent_kernel", "bias")]

    def apply(params: list[Any], x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        (y, *states), _ = layer.stateless_call(params, fixed, x)
        return y, dict(zip("hc", states, strict=False))

    return CompiledLayer(problem, convert, apply, variant="stateless_call")


def attention(problem: Problem) -> Contender:
    """`keras.ops.dot_product_attention`."""

    def apply(heads: Mapping[str, Any], x: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return keras.ops.dot_product_attention(heads["q"], heads["k"], heads["v"], is_causal=True), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))


def transformer(problem: Problem) -> Contender:
    """`MultiHeadAttention` in blocks, by `stateless_call`."""
    names = "vocabulary", "time", "features", "heads", "depth"
    model, heads = _Transformer(*(problem.parameters[name] for name in names)), problem.parameters["heads"]
    model(problem.batch["x"])
    fixed = [variable.value for variable in model.non_trainable_variables]

    def convert(weights: Mapping[str, Any]) -> list[Any]:
        top = {name: weights[path] for name, path in model.paths.items()}
        for i, own in enumerate(blocks(weights)):
            top |= {f"{i}/{path}": split_heads(path, value, heads) for path, value in own.items()}
        return [top[name] for name in model.order()]

    def apply(params: list[Any], tokens: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return model.stateless_call(params, fixed, tokens)[0], {}

    def loss(y: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(keras.ops.sparse_categorical_crossentropy(labels, y, from_logits=True))

    return CompiledLayer(problem, convert, apply, loss=loss, variant="stateless_call")


class _Transformer(keras.Model):
    paths: ClassVar = {
        "embedding": "embedding/embedding",
        "table": "layer/layers_0/table",
        "scale": "norm/scale",
        "bias": "norm/bias",
    }

    def __init__(self, vocabulary: int, time: int, features: int, heads: int, depth: int):
        super().__init__()
        layers = keras.layers
        self.embedding = layers.Embedding(vocabulary, features)
        self.table = self.add_weight(shape=(time, features))
        self.blocks = [
            {
                "norm_mixer": layers.LayerNormalization(epsilon=1e-6),
                "mixer": layers.MultiHeadAttention(heads, features // heads, use_bias=False),
                "norm_mlp": layers.LayerNormalization(epsilon=1e-6),
                "up": layers.Dense(4 * features, use_bias=False),
                "down": layers.Dense(features, use_bias=False),
            }
            for _ in range(depth)
        ]
        self.norm = layers.LayerNormalization(epsilon=1e-6)

    def call(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens) + self.table
        for block in self.blocks:
            y = block["norm_mixer"](x)
            x = x + block["mixer"](y, y, use_causal_mask=True)
            y = keras.ops.gelu(block["up"](block["norm_mlp"](x)), approximate=True)
            x = x + block["down"](y)
        return keras.ops.matmul(self.norm(x), keras.ops.transpose(self.embedding.embeddings))

    def order(self) -> list[str]:
        """The names of the trainable variables, in their order: ours for a block's."""
        names = {"embedding": self.embedding.embeddings, "table": self.table}
        names |= {"scale": self.norm.gamma, "bias": self.norm.beta}
        for i, block in enumerate(self.blocks):
            for norm in ("norm_mixer", "norm_mlp"):
                names |= {f"{i}/{norm}/scale": block[norm].gamma, f"{i}/{norm}/bias": block[norm].beta}
            names |= {f"{i}/{name}/kernel": block[name].kernel for name in ("up", "down")}
            mixer = block["mixer"]
            denses = (mixer.query_dense, mixer.key_dense, mixer.value_dense, mixer.output_dense)
            for name, dense in zip(("query", "key", "value", "out"), denses, strict=True):
                names[f"{i}/mixer/{name}/kernel"] = dense.kernel
        places = {id(variable): name for name, variable in names.items()}
        return [places[id(variable)] for variable in self.trainable_variables]


def _gru(weights: Mapping[str, Any]) -> list[Any]:
    # Gates z, r, n, and two biases for each.
    def reordered(array: jax.Array) -> jax.Array:
        r, z, n = jnp.split(array, 3, axis=-1)
        return jnp.concatenate([z, r, n], axis=-1)

    recurrent_bias = jnp.pad(weights["recurrent_bias"], (2 * weights["recurrent_bias"].size, 0))
    biases = jnp.stack([reordered(weights["bias"]), recurrent_bias])
    return [reordered(weights["kernel"]), reordered(weights["recurrent_kernel"]), biases]


class _TrainOnBatch:
    variant = "train_on_batch"
    program_bytes = None

    def __init__(self, problem: Problem, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        self._model = model
        self._batch = jax.device_put((problem.batch["x"], problem.batch["y"]))
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        for path, value in problem.weights.items():
            # The layouts are ours.
            layer, name = path.split("/")
            getattr(model.get_layer(layer), name).assign(value)
        optimizer.build(model.trainable_variables)
        variables = [*model.variables, *optimizer.variables]
        before = [np.array(variable) for variable in variables]
        start = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - start
        # The one way to compile is to take a step, so it is undone.
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    def results(self) -> Arrays:
        logits = np.asarray(self._model(self._batch[0], training=True))
        losses = []
        for _ in range(3):
            # What is returned is a mean since the last reset.
            self._model.reset_metrics()
            losses.append(float(self._model.train_on_batch(*self._batch)))
        return {"logits": logits, "losses": np.array(losses)}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._model.train_on_batch(*self._batch)
