"""RevIN against its formula, and the way back from what it normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.layers import RevIN
from tests.reference.tolerance import tolerance

X = np.random.default_rng(0).normal(3, 2, (2, 7, 3))
PARAMS = {"params": {"gamma": np.array([0.5, 1.0, -2.0]), "beta": np.array([0.1, 0.0, -1.0])}}


def normalised(x, gamma, beta):
    """Window by window and channel by channel."""
    y = np.zeros_like(x)
    for b in range(x.shape[0]):
        for d in range(x.shape[2]):
            mean = sum(x[b, :, d]) / x.shape[1]
            variance = sum((x[b, :, d] - mean) ** 2) / x.shape[1]
            y[b, :, d] = gamma[d] * (x[b, :, d] - mean) / np.sqrt(variance + 1e-5) + beta[d]
    return y


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_matches_its_formula_and_comes_back(dtype, x64):
    x = jnp.asarray(X, dtype)
    y, scale = jax.jit(RevIN().apply)(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS), x)
    want = normalised(np.asarray(x, np.float64), *(np.float32(PARAMS["params"][name]) for name in ("gamma", "beta")))
    assert y.dtype == dtype
    assert scale.center.dtype == scale.scale.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
    np.testing.assert_allclose(np.asarray(y, np.float64), want, **tolerance(dtype))
    back = scale.restore(y)
    assert back.dtype == dtype
    np.testing.assert_allclose(np.asarray(back, np.float64), np.asarray(x, np.float64), **tolerance(dtype))


def test_quantiles_come_back_alike():
    y, scale = RevIN(affine=False).apply({}, jnp.asarray(X, jnp.float32))
    both = scale.restore(jnp.stack([y, 2 * y], axis=-1))
    for i, part in enumerate((y, 2 * y)):
        np.testing.assert_array_equal(both[..., i], scale.restore(part))


def test_no_gradient_goes_through_the_statistics():
    x = jnp.asarray(X, jnp.float32)
    gradient = jax.grad(lambda x: RevIN(affine=False).apply({}, x)[0].sum())(x)
    deviation = np.sqrt(X.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(gradient, np.broadcast_to(1 / deviation, X.shape), rtol=1e-5)


def test_gradients_of_its_parameters(x64):
    @jax.jit
    def loss(params, x):
        y, scale = RevIN().apply({"params": params}, x)
        return jnp.sum(jnp.sin(scale.restore(jnp.square(y))))

    params = jax.tree.map(jnp.asarray, PARAMS["params"])
    gradient = jax.jit(jax.grad(loss))(params, jnp.asarray(X))
    for name, at in (("gamma", 0), ("gamma", 2), ("beta", 1)):
        ahead, behind = (
            loss({**params, name: params[name].at[at].add(step)}, jnp.asarray(X)) for step in (1e-6, -1e-6)
        )
        np.testing.assert_allclose(gradient[name][at], (ahead - behind) / 2e-6, rtol=1e-6)


def test_a_window_that_never_changes_stays_finite():
    x = jnp.full((1, 5, 3), 1e4)
    y, scale = RevIN().apply(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS), x)
    np.testing.assert_allclose(y, np.broadcast_to([0.1, 0, -1.0], y.shape), atol=1e-6)
    np.testing.assert_allclose(scale.restore(y), x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((2, 3)), ValueError, "RevIN: x"),
        (jnp.ones((2, 3, 1), jnp.int32), TypeError, "int32"),
        (jnp.ones((2, 0, 1)), ValueError, "RevIN: x has shape .* a step or more"),
    ],
)
def test_what_cannot_be_normalised(x, error, message, own_errors):
    with pytest.raises(error, match=message):
        RevIN().init(jax.random.key(0), x)
