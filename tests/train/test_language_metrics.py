"""Perplexity and bits by hand, under masks and in parts."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops, train


def test_perplexity_is_the_inverse_of_the_geometric_mean_of_the_probabilities():
    probabilities = np.array([[0.5, 0.25], [0.125, 0.9]])  # of the right token each
    logits = np.log(np.stack([probabilities, 1 - probabilities], -1)).astype(np.float32)
    logits[1, 1] = np.nan
    where = np.array([[True, True], [True, False]])
    labels = jnp.zeros((2, 2), jnp.int32)
    parts = [ops.cross_entropy(jnp.array(logits[i]), labels[i], where=jnp.array(where[i])) for i in (0, 1)]
    nats = sum(part.total for part in parts) / sum(part.weight for part in parts)
    assert train.perplexity(nats) == pytest.approx(1 / np.prod(probabilities[where]) ** (1 / 3), rel=1e-5)


def test_perplexity_at_its_ends():
    assert train.perplexity(0) == 1
    assert train.perplexity(1e4) == math.inf
    assert math.isnan(train.perplexity(math.nan))


def test_bits_do_not_depend_on_the_tokens():
    assert train.bits_per_character(3 * math.log(2)) == pytest.approx(3)
    nats = np.array([1.0, 2.0, 0.5, 0.5])  # of characters; then of two tokens of two each
    by_pairs = nats.reshape(2, 2).sum(1).mean()
    want = nats.sum() / math.log(2) / 4
    assert train.bits_per_character(nats.mean()) == pytest.approx(want)
    assert train.bits_per_character(by_pairs, tokens=2, characters=4) == pytest.approx(want)
    with pytest.raises(ValueError, match="tokens and characters want 1 or more, got 3 and 0"):
        train.bits_per_character(1.0, tokens=3, characters=0)
