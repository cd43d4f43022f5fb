"""The functions of `jax.nn`, and what is written around them without a library of layers, jitted."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledDecoder, CompiledLayer, blocks
from benchmarks.peers.started import Started


def attention(problem: Problem) -> Contender:
    """Its dot-product attention."""

    def apply(heads: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jax.nn.dot_product_attention(heads["q"], heads["k"], heads["v"], is_causal=True), {}

    return CompiledLayer(problem, dict, apply, leaves_out=("x",))


def decode(problem: Problem) -> Contender:
    """The same, with keys and values of the past in arrays [B, T, N, H]."""
    x = problem.batch["x"]
    past = {name: _heads(problem, x, name) for name in ("key", "value")}
    past = {name: np.concatenate([value[:, :-1], 0 * value[:, -1:]], axis=1) for name, value in past.items()}
    return _cached(problem, {**past, "length": np.int32(x.shape[1] - 1)})


def prefill(problem: Problem) -> Contender:
    """The same from arrays of zeros."""
    shape = tuple(problem.parameters[name] for name in ("batch", "time", "heads", "width"))
    return _cached(problem, {**{name: np.zeros(shape, np.float32) for name in ("key", "value")}, "length": np.int32(0)})


def transformer(problem: Problem) -> Contender:
    """Blocks, normalised first, by hand."""
    heads = problem.parameters["heads"]

    def normed(x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
        return jax.nn.standardize(x, epsilon=1e-6) * weights[f"{name}/scale"] + weights[f"{name}/bias"]

    def block(x: jax.Array, weights: Mapping[str, jax.Array]) -> jax.Array:
        y = normed(x, weights, "norm_mixer")
        q, k, v = (
            (y @ weights[f"mixer/{name}/kernel"]).reshape(*x.shape[:2], heads, -1) for name in ("query", "key", "value")
        )
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.reshape(x.shape) @ weights["mixer/out/kernel"]
        return x + jax.nn.gelu(normed(x, weights, "norm_mlp") @ weights["up/kernel"]) @ weights["down/kernel"]

    def apply(params: Any, tokens: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        x = params["embedding/embedding"][tokens] + params["layer/layers_0/table"]
        for weights in blocks(params):
            x = block(x, weights)
        return normed(x, params, "norm") @ params["embedding/embedding"].T, {}

    def loss(y: jax.Array, labels: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), labels[..., None], axis=-1))

    return CompiledLayer(problem, dict, apply, loss=loss)


def startup(problem: Problem) -> Contender:
    """JAX alone."""
    return Started("import jax, jax.numpy")


def _heads(problem: Problem, x: Any, name: str, weights: Mapping[str, Any] | None = None) -> Any:
    kernel = (problem.weights if weights is None else weights)[f"{name}/kernel"]
    return (x @ kernel).reshape(*x.shape[:2], problem.parameters["heads"], -1)


def _cached(problem: Problem, cache: Mapping[str, Any]) -> Contender:
    """What a layer of attention does with the tokens that the cache has room for."""
    held = int(cache["length"])

    def step(params: Any, cache: Any, tokens: Any) -> tuple[Any, Any]:
        q, k, v = (_heads(problem, tokens, name, params) for name in ("query", "key", "value"))
        place = 0, cache["length"], 0, 0
        after = {
            name: jax.lax.dynamic_update_slice(cache[name], new, place) for name, new in (("key", k), ("value", v))
        }
        if held:
            lengths = jnp.full(len(tokens), cache["length"] + 1)
            y = jax.nn.dot_product_attention(q, after["key"], after["value"], key_value_seq_lengths=lengths)
        else:
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return y.reshape(tokens.shape) @ params["out/kernel"], {**after, "length": cache["length"]}

    def keys(cache: Any) -> Mapping[str, Any]:
        return {} if held else {"k": cache["key"], "v": cache["value"]}

    return CompiledDecoder(step, problem.weights, cache, problem.batch["x"][:, held:], held=keys)
