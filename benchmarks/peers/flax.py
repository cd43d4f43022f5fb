"""Flax Linen with Optax, as its users write it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.case import Contender, Problem
from benchmarks.peers.compiled import CompiledStep, nested
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer


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


def cnn(problem: Problem) -> Contender:
    """The small network with Adam."""
    return _training(problem, _SmallCNN(), optax.adam(1e-3))


def resnet(problem: Problem) -> Contender:
    """ResNet-18 with momentum."""
    model = _ResNet(problem.parameters["blocks"], problem.parameters["width"])
    return _training(problem, model, optax.sgd(0.01, momentum=0.9))


def recurrent(problem: Problem) -> Contender:
    """`nn.RNN` over its cell."""
    make, convert = {
        "lstm": (nn.OptimizedLSTMCell, _lstm),
        "gru": (nn.GRUCell, _gru),
        "rnn": (nn.SimpleCell, _rnn),
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
    heads, width, x = problem.parameters["heads"], problem.parameters["width"], problem.batch["x"]
    layer = nn.MultiHeadDotProductAttention(heads, qkv_features=heads * width, use_bias=False, decode=True)
    own = nested(problem.weights)
    params = {name: {"kernel": own[name]["kernel"].reshape(-1, heads, width)} for name in ("query", "key", "value")}
    params["out"] = {"kernel": own["out"]["kernel"].reshape(heads, width, -1)}
    time, cached = np.int32(x.shape[1] - 1), {}
    for name in ("key", "value"):
        cached[f"cached_{name}"] = np.einsum("btd,dnh->btnh", x, params[name]["kernel"])
        cached[f"cached_{name}"][:, -1] = 0

    def step(params: Any, cache: Any, token: Any) -> tuple[Any, Any]:
        y, changed = layer.apply({"params": params, "cache": cache}, token, mutable=["cache"])
        return y, {**changed["cache"], "cache_index": cache["cache_index"]}

    return CompiledDecoder(step, params, {**cached, "cache_index": time}, x[:, -1:])


def _lstm(weights: Mapping[str, Any]) -> Any:
    kernels, recurrent_kernels, biases = (
        dict(zip("ifgo", jnp.split(weights[name], 4, axis=-1), strict=True))
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    return {
        **{f"i{gate}": {"kernel": kernels[gate]} for gate in "ifgo"},
        **{f"h{gate}": {"kernel": recurrent_kernels[gate], "bias": biases[gate]} for gate in "ifgo"},
    }


def _gru(weights: Mapping[str, Any]) -> Any:
    kernels, recurrent_kernels, biases = (
        dict(zip("rzn", jnp.split(weights[name], 3, axis=-1), strict=True))
        for name in ("kernel", "recurrent_kernel", "bias")
    )
    return {
        **{f"i{gate}": {"kernel": kernels[gate], "bias": biases[gate]} for gate in "rzn"},
        **{f"h{gate}": {"kernel": recurrent_kernels[gate]} for gate in "rz"},
        "hn": {"kernel": recurrent_kernels["n"], "bias": weights["recurrent_bias"]},
    }


def _rnn(weights: Mapping[str, Any]) -> Any:
    return {
        "i": {"kernel": weights["kernel"], "bias": weights["bias"]},
        "h": {"kernel": weights["recurrent_kernel"]},
    }


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
