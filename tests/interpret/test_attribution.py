"""Integrated gradients: completeness, what does not matter gets nothing, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.interpret import integrated_gradients
from jaxnets.models import TextClassifier, WordCNN

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 4, 5))


def network(x):
    weights = jnp.sin(jnp.arange(20.0)).reshape(1, 4, 5)
    return jnp.tanh(jnp.sum(weights * x, axis=(1, 2))) + jax.nn.softplus(x[:, 0, 0] * x[:, 1, 1])


@pytest.mark.parametrize("baseline", [None, "ones", "rows"])
def test_shares_add_up_to_the_difference(baseline):
    start = {None: None, "ones": jnp.ones((4, 5)), "rows": X[::-1]}[baseline]
    shares = integrated_gradients(network, X, baseline=start)
    begun = jnp.zeros_like(X) if start is None else jnp.broadcast_to(start, X.shape)
    np.testing.assert_allclose(shares.sum((1, 2)), network(X) - network(begun), rtol=1e-4, atol=1e-5)


def test_of_a_linear_function_they_are_exact_with_one_step():
    weights = jnp.arange(20.0).reshape(1, 4, 5)
    shares = integrated_gradients(lambda x: jnp.sum(weights * x, axis=(1, 2)) + 7, X, steps=1)
    np.testing.assert_allclose(shares, weights * X, rtol=1e-5, atol=1e-6)


def test_kinks_cost_little():
    def kinked(x):
        return jax.nn.relu(x.sum((1, 2)) - 0.3) + jnp.abs(x[:, 0, 0] - 0.1)

    gap = integrated_gradients(kinked, X, steps=64).sum((1, 2)) - (kinked(X) - kinked(jnp.zeros_like(X)))
    assert np.abs(gap).max() < 0.1


def test_what_is_not_looked_at_gets_nothing_and_rows_are_apart():
    shares = integrated_gradients(lambda x: x[:, 0, 0] ** 3, X)
    np.testing.assert_allclose(shares[:, 0, 0], X[:, 0, 0] ** 3, rtol=1e-5)
    assert not shares.at[:, 0, 0].set(0).any()
    np.testing.assert_allclose(integrated_gradients(network, X)[1:2], integrated_gradients(network, X[1:2]), rtol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("model", "atol"),
    [
        (TextClassifier(9, 4, 3, pooling="attention", pairs=5), 1e-5),
        (TextClassifier(9, 4, 3, WordCNN(4), pooling="max"), 2e-2),
    ],
    ids=["attention", "cnn"],
)
def test_words_of_a_classifier_add_up_and_padding_gets_nothing(model, atol):
    words, lengths = jax.random.randint(KEY, (3, 6), 0, 9), jnp.array([6, 2, 0])
    variables = model.init(KEY, words)
    embedded = model.apply(variables, words, lengths=lengths, method="embed")

    def score(embedded):
        return jax.nn.log_softmax(model.apply(variables, embedded, lengths=lengths, method="read"))[:, 1]

    shares = integrated_gradients(score, embedded).sum(-1)
    np.testing.assert_allclose(shares.sum(1), score(embedded) - score(jnp.zeros_like(embedded)), rtol=1e-3, atol=atol)
    assert not shares[1, 2:].any()
    assert not shares[2].any()


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="integrated_gradients: steps must be positive, got 0"):
        integrated_gradients(network, X, steps=0)
    with pytest.raises(ValueError, match=r"function wants to give shape \(3,\), got \(\)"):
        integrated_gradients(jnp.sum, X)
