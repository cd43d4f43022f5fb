"""Equinox: a cell scanned over time, or a Transformer, mapped over the batch, and jitted."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from benchmarks.case import Contender, Problem
from benchmarks.peers.layer import CompiledLayer, blocks


class _Tanh(eqx.Module):
    """Equinox has no such cell."""

    input: eqx.nn.Linear
    hidden: eqx.nn.Linear

    def __init__(self, input_size: int, hidden_size: int, *, key: jax.Array):
        keys = jax.random.split(key)
        self.input = eqx.nn.Linear(input_size, hidden_size, key=keys[0])
        self.hidden = eqx.nn.Linear(hidden_size, hidden_size, use_bias=False, key=keys[1])

    def __call__(self, x: jax.Array, h: jax.Array) -> jax.Array:
        return jnp.tanh(self.input(x) + self.hidden(h))


class _Block(eqx.Module):
    norm_mixer: eqx.nn.LayerNorm
    mixer: eqx.nn.MultiheadAttention
    norm_mlp: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, features: int, heads: int, key: jax.Array):
        self.norm_mixer, self.norm_mlp = (eqx.nn.LayerNorm(features, eps=1e-6) for _ in range(2))
        self.mixer = eqx.nn.MultiheadAttention(heads, features, key=key)
        self.up = eqx.nn.Linear(features, 4 * features, use_bias=False, key=key)
        self.down = eqx.nn.Linear(4 * features, features, use_bias=False, key=key)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        y = jax.vmap(self.norm_mixer)(x)
        x = x + self.mixer(y, y, y, mask=mask)
        return x + jax.vmap(lambda x: self.down(jax.nn.gelu(self.up(self.norm_mlp(x)))))(x)


class _Transformer(eqx.Module):
    embedding: eqx.nn.Embedding
    table: jax.Array
    blocks: list[_Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, key: jax.Array, vocabulary: int, time: int, features: int, heads: int, depth: int):
        self.embedding = eqx.nn.Embedding(vocabulary, features, key=key)
        self.table = jnp.zeros((time, features))
        self.blocks = [_Block(features, heads, key) for _ in range(depth)]
        self.norm = eqx.nn.LayerNorm(features, eps=1e-6)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, mask = jax.vmap(self.embedding)(tokens) + self.table, jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T


_CELLS: Mapping[str, Any] = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell, "rnn": _Tanh}


def recurrent(problem: Problem) -> Contender:
    """Its cell under `lax.scan`."""
    hidden = problem.parameters["hidden"]
    initial = _CELLS[problem.case](problem.parameters["input"], hidden, key=jax.random.key(0))

    def arrays(cell: Any) -> list[Any]:
        if problem.case == "rnn":
            return [cell.input.weight, cell.hidden.weight, cell.input.bias]
        return [cell.weight_ih, cell.weight_hh, cell.bias, *([cell.bias_n] if problem.case == "gru" else [])]

    def convert(weights: Mapping[str, Any]) -> Any:
        names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
        return eqx.tree_at(arrays, initial, [weights[name].T for name in names if name in weights])

    def sequence(cell: Any, x: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            state = cell(x, state)
            return state, state[0] if problem.case == "lstm" else state

        zeros = jnp.zeros(hidden)
        state, y = jax.lax.scan(step, (zeros, zeros) if problem.case == "lstm" else zeros, x)
        return y, dict(zip("hc", state, strict=True)) if problem.case == "lstm" else {"h": state}

    variant = "a tanh cell of our own" if problem.case == "rnn" else ""
    return CompiledLayer(problem, convert, jax.vmap(sequence, in_axes=(None, 0)), variant=variant)


def transformer(problem: Problem) -> Contender:
    """`eqx.nn.MultiheadAttention` in blocks."""
    names = "vocabulary", "time", "features", "heads", "depth"
    initial = _Transformer(jax.random.key(0), *(problem.parameters[name] for name in names))
    arrays, rest = eqx.partition(initial, eqx.is_inexact_array)

    def leaves(model: Any) -> list[Any]:
        found = [model.embedding.weight, model.table, model.norm.weight, model.norm.bias]
        for block in model.blocks:
            mixer = block.mixer
            found += [mixer.query_proj.weight, mixer.key_proj.weight, mixer.value_proj.weight, mixer.output_proj.weight]
            found += [block.norm_mixer.weight, block.norm_mixer.bias, block.norm_mlp.weight, block.norm_mlp.bias]
            found += [block.up.weight, block.down.weight]
        return found

    def convert(weights: Mapping[str, Any]) -> Any:
        found = [weights[name] for name in ("embedding/embedding", "layer/layers_0/table", "norm/scale", "norm/bias")]
        for own in blocks(weights):
            found += [own[f"mixer/{name}/kernel"].T for name in ("query", "key", "value", "out")]
            found += [own[f"{norm}/{name}"] for norm in ("norm_mixer", "norm_mlp") for name in ("scale", "bias")]
            found += [own[f"{name}/kernel"].T for name in ("up", "down")]
        return eqx.tree_at(leaves, arrays, found)

    def apply(params: Any, tokens: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        return jax.vmap(eqx.combine(params, rest))(tokens), {}

    def loss(y: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    return CompiledLayer(problem, convert, apply, loss=loss)
