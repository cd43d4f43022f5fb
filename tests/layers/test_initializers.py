"""Chrono biases: what each gate is given, and that the memory is as long as was asked for; identity kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.layers import GRU, LSTM, chrono, identity


def test_each_gate_has_its_sign_of_one_logarithm():
    bias = np.asarray(chrono(500, 40, (-1, 1, 0, 0))(jax.random.key(0), (2000,), jnp.float32))
    i, f, g, o = np.split(bias, 4)
    np.testing.assert_array_equal(i, -f)
    assert not g.any()
    assert not o.any()
    steps = np.exp(f)
    assert 1 <= steps.min() < 2
    assert 38 < steps.max() <= 39.001
    assert abs(steps.mean() - 20) < 1.5


@pytest.mark.parametrize(
    "layer",
    [LSTM(6, forget_bias=0.0, bias_init=chrono(6, 30, (-1, 1, 0, 0))), GRU(6, bias_init=chrono(6, 30, (0, 1, 0)))],
    ids=["lstm", "gru"],
)
def test_layers_take_it(layer):
    params = jax.jit(layer.init)(jax.random.key(0), jnp.ones((1, 2, 3)))["params"]
    assert (jnp.split(params["bias"], len(params["bias"]) // 6)[1] > 0).all()
    assert not np.any(params.get("recurrent_bias", 0))


def test_too_short_a_memory_is_refused():
    with pytest.raises(ValueError, match="steps wants 3 or more but is 2"):
        chrono(4, 2, (0, 1, 0))


def test_identity_has_the_type_asked_for():
    kernel = identity(jax.random.key(0), (3, 3), jnp.bfloat16)
    np.testing.assert_array_equal(kernel, np.eye(3))
    assert kernel.dtype == jnp.bfloat16
