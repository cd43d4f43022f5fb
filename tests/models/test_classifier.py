"""The sequence classifier: shapes, padding, pooling, tokens, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers
from jaxnets.models import SequenceClassifier

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 6, 2))
LENGTHS = jnp.array([6, 2, 0])


@pytest.mark.parametrize(
    ("layer", "options", "names"),
    [
        (layers.GRU(4), {}, {"layer", "head"}),
        (layers.Bidirectional(layers.RNN(4)), {"pooling": "mean"}, {"layer", "head"}),
        (layers.RGLRU(5), {"encoder_features": 5, "hidden_features": 7}, {"layer", "head", "encoder", "hidden"}),
    ],
    ids=["gru", "bidirectional", "rg_lru"],
)
def test_padding_does_not_count(layer, options, names):
    model = SequenceClassifier(layer, outputs=3, **options)
    variables = jax.jit(model.init)(KEY, X)
    assert set(variables["params"]) == names
    padded = jnp.where(jnp.arange(6)[None, :, None] < LENGTHS[:, None, None], X, jnp.nan)
    got = model.apply(variables, padded, lengths=LENGTHS)
    assert got.shape == (3, 3)
    np.testing.assert_allclose(got[1:2], model.apply(variables, X[1:2, :2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[:1], model.apply(variables, X, lengths=LENGTHS)[:1])


def test_pooling():
    models = {
        name: SequenceClassifier(layers.GRU(4), outputs=3, pooling=name) for name in ("last", "first", "mean", "none")
    }
    variables = jax.jit(models["none"].init)(KEY, X)
    each = models["none"].apply(variables, X)
    assert each.shape == (3, 6, 3)
    np.testing.assert_allclose(models["last"].apply(variables, X), each[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(models["first"].apply(variables, X), each[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(models["mean"].apply(variables, X), each.mean(1), rtol=1e-5, atol=1e-6)


def test_tokens_are_embedded_and_packed_rows_go_through():
    model = SequenceClassifier(layers.GRU(4), outputs=3, vocabulary=9, pooling="none")
    tokens = jnp.array([[1, 8, 0, 4, 4]])
    starts = jnp.array([[False, False, True, False, False]])
    variables = jax.jit(model.init)(KEY, tokens)
    assert variables["params"]["embedding"]["embedding"].shape == (9, 9)
    packed = model.apply(variables, tokens, starts=starts)
    np.testing.assert_allclose(packed[:, 2:], model.apply(variables, tokens[:, 2:]), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_alone():
    model = SequenceClassifier(layers.GRU(4), outputs=3, dropout=0.5)
    variables = jax.jit(model.init)(KEY, X)
    train = [model.apply(variables, X, train=True, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert not np.allclose(*train)
    np.testing.assert_array_equal(model.apply(variables, X), model.apply(variables, X, train=False))


@pytest.mark.parametrize(
    ("options", "x", "call", "error", "words"),
    [
        ({"pooling": "max"}, X, {}, ValueError, "pooling must be 'last', 'first', 'mean' or 'none', got 'max'"),
        ({}, jnp.ones((1, 2), jnp.int32), {}, TypeError, "x has dtype int32 but wants floating"),
        ({"vocabulary": 4}, X, {}, TypeError, "x has dtype float32 but wants integer"),
        ({}, X, {"starts": jnp.zeros((3, 6), bool)}, ValueError, "starts want pooling='none', got 'last'"),
    ],
)
def test_wrong_use_is_named(own_errors, options, x, call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        SequenceClassifier(layers.GRU(4), outputs=3, **options).init(KEY, x, **call)
