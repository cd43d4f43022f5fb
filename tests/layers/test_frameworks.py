"""The same recurrent network in other libraries: NNX by its bridge, and the pure ops in modules of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnets import ops
from jaxnets.layers import GRU, LSTM, Bidirectional, Stack
from tests.reference.tolerance import tolerance

B, T, D, H = 2, 5, 3, 4
LENGTHS = jnp.array([5, 2])
X = jax.random.normal(jax.random.key(1), (B, T, D))


def same(got, want):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float32")), got, want)


def loss(y):
    return jnp.sum(jnp.sin(y))


def linen(layer):
    """Variables, y, and the gradients by parameters and x."""
    variables = layer.init(jax.random.key(0), X)

    def value(params, x):
        y, _ = layer.apply({"params": params}, x, lengths=LENGTHS)
        return loss(y), y

    (_, y), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(variables["params"], X)
    return variables["params"], y, gradients


LAYERS = {
    "lstm": LSTM(H, peephole=True, zoneout=0.1),
    "gru": GRU(H),
    "bidirectional": Bidirectional(LSTM(H)),
    "stack": Stack((LSTM(H), GRU(H)), residual=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bridge_to_nnx(name):
    params, y, (by_params, by_x) = linen(LAYERS[name])
    model = nnx.bridge.ToNNX(LAYERS[name], rngs=nnx.Rngs(0)).lazy_init(X)
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(model, state)

    def value(model, x):
        y, _ = model(x, lengths=LENGTHS)
        return loss(y), y

    run = nnx.jit(nnx.value_and_grad(value, argnums=(0, 1), has_aux=True))
    (_, got), (got_by_params, got_by_x) = run(model, X)
    same((got, got_by_x, nnx.to_pure_dict(got_by_params)), (y, by_x, by_params))


def test_in_an_nnx_module():
    params, y, (by_params, by_x) = linen(LSTM(H))

    class Recurrent(nnx.Module):
        def __init__(self, params):
            self.kernel, self.bias = nnx.Param(params["kernel"]), nnx.Param(params["bias"])
            self.recurrent_kernel = nnx.Param(params["recurrent_kernel"])

        def __call__(self, x):
            params = {
                "kernel": self.kernel[...],
                "recurrent_kernel": self.recurrent_kernel[...],
                "bias": self.bias[...],
            }
            return ops.lstm(params, x, lengths=LENGTHS)[0]

    model = Recurrent(params)
    same(model(X), y)
    got, got_by_x = nnx.grad(lambda model, x: loss(model(x)), argnums=(0, 1))(model, X)
    same((nnx.to_pure_dict(nnx.state(got)), got_by_x), (by_params, by_x))


def test_in_an_equinox_module():
    eqx = pytest.importorskip("equinox")
    params, y, (by_params, by_x) = linen(LSTM(H))

    class Recurrent(eqx.Module):
        params: dict

        def __call__(self, x):
            return ops.lstm(self.params, x, lengths=LENGTHS)[0]

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(inputs):
        model, x = inputs
        return loss(model(x))

    model = Recurrent(params)
    same(eqx.filter_jit(model)(X), y)
    got, got_by_x = gradient((model, X))
    same((got.params, got_by_x), (by_params, by_x))


def test_in_a_haiku_transform():
    hk = pytest.importorskip("haiku")
    params, y, (by_params, by_x) = linen(GRU(H))

    def network(x):
        names = {name: hk.get_parameter(name, leaf.shape, init=jnp.zeros) for name, leaf in params.items()}
        return ops.gru(names, x, lengths=LENGTHS)[0]

    network = hk.without_apply_rng(hk.transform(network))
    own = {"~": params}
    assert jax.tree.map(jnp.shape, network.init(jax.random.key(0), X)) == jax.tree.map(jnp.shape, own)
    same(network.apply(own, X), y)
    got = jax.jit(jax.grad(lambda params, x: loss(network.apply(params, x)), argnums=(0, 1)))(own, X)
    same((got[0]["~"], got[1]), (by_params, by_x))
