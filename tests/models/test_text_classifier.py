"""Classifiers of texts: padding, pooling, pairs, dropout of words, and what is refused; the laws of the word CNN."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, testing
from jaxnets.models import TextClassifier, WordCNN
from jaxnets.models.text_classifier import _hashed

KEY = jax.random.key(0)
WORDS = jax.random.randint(KEY, (4, 6), 0, 9)
LENGTHS = jnp.array([6, 2, 0, 1])


def transformer():
    return layers.Repeated(layers.TransformerBlock(layers.SelfAttention(2, causal=False), parent=None), 1)


def check_padding(layer, pooling, pairs=0):
    """Padding may hold anything, in value and gradient; a text alone equals the text in its batch."""
    model = TextClassifier(9, 4, 3, layer, pooling=pooling, pairs=pairs)
    variables = jax.jit(model.init)(KEY, WORDS, lengths=LENGTHS)

    @jax.jit
    def value(variables, words):
        logits = model.apply(variables, words, lengths=LENGTHS)
        return jnp.sum(logits**2), logits

    gradient = jax.jit(jax.grad(value, has_aux=True))
    filled = jnp.where(jnp.arange(6)[None] < LENGTHS[:, None], WORDS, 10**6)
    (one, logits), (other, filled_logits) = gradient(variables, WORDS), gradient(variables, filled)
    np.testing.assert_array_equal(logits, filled_logits)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    np.testing.assert_allclose(logits[1:2], model.apply(variables, WORDS[1:2, :2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits[2], variables["params"]["head"]["bias"])
    return variables


@pytest.mark.parametrize(
    ("layer", "pooling", "pairs"),
    [
        pytest.param(None, "attention", 7, id="attention"),
        pytest.param(WordCNN(4, widths=(2, 3)), "max", 0, id="cnn", marks=pytest.mark.exhaustive),
        pytest.param(layers.GRU(4), "last", 0, id="gru", marks=pytest.mark.exhaustive),
        pytest.param(layers.Bidirectional(layers.LSTM(4)), "attention", 0, id="bilstm", marks=pytest.mark.exhaustive),
        pytest.param(transformer(), "mean", 0, id="transformer", marks=pytest.mark.exhaustive),
    ],
)
def test_padding_counts_nowhere(layer, pooling, pairs):
    params = check_padding(layer, pooling, pairs)["params"]
    wanted = {"embedding", "head"} | ({"layer"} if layer else set()) | ({"pair_embedding"} if pairs else set())
    assert set(params) == wanted | ({"attention", "score"} if pooling == "attention" else set())


@pytest.mark.exhaustive
def test_poolings_by_hand():
    models = {name: TextClassifier(9, 4, 3, pooling=name) for name in ("mean", "max", "last", "attention")}
    variables = models["attention"].init(KEY, WORDS, lengths=LENGTHS)
    params = variables["params"]
    plain = {"params": {name: params[name] for name in ("embedding", "head")}}
    row = params["embedding"]["embedding"][WORDS[1, :2]]
    scores = np.tanh(row @ params["attention"]["kernel"] + params["attention"]["bias"]) @ params["score"]["kernel"]
    weights = np.exp(scores) / np.exp(scores).sum()
    pooled = {"mean": row.mean(0), "max": row.max(0), "last": row[1], "attention": (weights * row).sum(0)}
    for name, model in models.items():
        want = pooled[name] @ params["head"]["kernel"] + params["head"]["bias"]
        got = model.apply(variables if name == "attention" else plain, WORDS, lengths=LENGTHS)[1]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    attended = models["attention"].apply(variables, WORDS, lengths=LENGTHS, method="attend")
    np.testing.assert_allclose(attended[1], [*weights[:, 0], 0, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(attended.sum(1), [1, 1, 0, 1], rtol=1e-6)


def test_ngrams_by_hand_and_where_there_are_none():
    grams = jnp.array([[[5, 6, 0], [5, 0, 0]], [[1, 2, 3], [0, 0, 0]]])  # of words 1, 2 and 3; the last is padding
    x = jnp.concatenate([jnp.array([[1, 2], [3, 8]])[..., None], grams], axis=-1)
    model = TextClassifier(9, 4, 3, pooling="sqrt", ngrams=7, scale=0.1)
    logits, variables = model.init_with_output(KEY, x, lengths=jnp.array([2, 1]))
    params = variables["params"]
    words, table = params["embedding"]["embedding"], params["ngram_embedding"]["embedding"]
    assert 0.02 < float(jnp.std(words)) < 0.1  # a tenth of 1 / sqrt(4)
    first = (words[1] + table[5] + table[6] + words[2] + table[5]) / np.sqrt(2)
    want = jnp.stack([first, words[3] + table[1] + table[2] + table[3]]) @ params["head"]["kernel"]
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"x wants \[B, T, 1 \+ n-grams\] but has shape \(4, 6\)"):
        model.apply(variables, WORDS)


@pytest.mark.exhaustive
def test_pairs_know_the_order():
    model = TextClassifier(9, 4, 3, pairs=1009)
    variables = model.init(KEY, WORDS)
    one, other = (model.apply(variables, jnp.array([words])) for words in ([1, 2, 3], [3, 2, 1]))
    assert not np.allclose(one, other)
    embedded = model.apply(variables, jnp.array([[1, 2, 3, 1, 2]]), method="embed")[0]
    words = variables["params"]["embedding"]["embedding"]
    np.testing.assert_array_equal(embedded[0], words[1])
    np.testing.assert_array_equal(embedded[1], embedded[4])
    assert not np.allclose(embedded[1], words[2])


def test_pairs_spread_over_the_table():
    first, second = (jnp.asarray(grid.reshape(1, -1)) for grid in np.mgrid[:200, :200].astype(np.int32))
    counts = np.bincount(np.asarray(_hashed(first, second, 64))[0], minlength=64)
    assert counts.min() > 0.8 * 625
    assert counts.max() < 1.2 * 625


def test_whole_words_are_dropped_in_training_alone():
    model = TextClassifier(9, 4, 3, layer=None, word_dropout=0.5)
    ones = {"params": model.init(KEY, WORDS)["params"] | {"embedding": {"embedding": jnp.ones((9, 4))}}}

    def pooled(train):
        rngs = {"dropout": KEY} if train else {}
        params = ones["params"] | {"head": {"kernel": jnp.eye(4, 3), "bias": jnp.zeros(3)}}
        return model.apply({"params": params}, WORDS, train=train, rngs=rngs)

    np.testing.assert_allclose(pooled(False), 1)
    kept = np.asarray(pooled(True))  # the same in all features: 2 of each 6 words that are kept
    np.testing.assert_allclose(kept, kept[:, :1].repeat(3, 1))
    assert len(np.unique(kept)) > 1
    np.testing.assert_allclose(kept * 3, np.round(kept * 3), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "x", "call", "error", "words"),
    [
        (
            {"pooling": "sum"},
            WORDS,
            "__call__",
            ValueError,
            "pooling must be one of mean, sqrt, max, last, attention, got",
        ),
        ({}, jnp.ones((1, 2)), "__call__", TypeError, "x wants tokens, of an integer dtype, but has float32"),
        ({}, WORDS, "attend", ValueError, "attend wants pooling='attention', got 'mean'"),
    ],
)
def test_wrong_use_is_named(own_errors, options, x, call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        TextClassifier(9, 4, 3, **options).init(KEY, x, method=call)


@pytest.mark.exhaustive
def test_the_word_cnn_obeys_the_laws():
    testing.check_sequence_layer(WordCNN(3, widths=(1, 3)))
