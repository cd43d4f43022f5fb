"""Keras 3 on JAX: training by `train_on_batch`, as its users call it, which reads the loss back at every step.

A layer alone is jitted through `stateless_call`.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

# Keras reads it when it is imported.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np

from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers.layer import CompiledLayer


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
