"""The product over many axes: one product of matrices, forward and backward."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.layers._dense import Dense
from jaxnets.ops._product import product


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 0), (2, 3, 4)])
def test_matches_numpy(lead):
    rng = np.random.default_rng(0)
    x, kernel, g = rng.standard_normal((*lead, 5)), rng.standard_normal((5, 6)), rng.standard_normal((*lead, 6))
    with jax.enable_x64(True):
        y, pull = jax.vjp(product, jnp.asarray(x), jnp.asarray(kernel))
        dx, dkernel = pull(jnp.asarray(g))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-12)
    np.testing.assert_allclose(dx, g @ kernel.T, rtol=1e-12)
    np.testing.assert_allclose(dkernel, x.reshape(-1, 5).T @ g.reshape(-1, 6), rtol=1e-12, atol=1e-12)


def test_dense_layers_multiply_matrices_alone():
    layer, x = Dense(6), jnp.ones((2, 3, 5))
    variables = layer.init(jax.random.key(0), x)
    traced = jax.make_jaxpr(jax.grad(lambda variables, x: jnp.sum(jnp.sin(layer.apply(variables, x))), argnums=(0, 1)))
    products = [equation for equation in traced(variables, x).eqns if equation.primitive.name == "dot_general"]
    assert len(products) == 3
    assert all(operand.aval.ndim == 2 for equation in products for operand in equation.invars)


def test_any_batch_and_time_are_exported():
    b, t = jax.export.symbolic_shape("b, t")
    shapes = jax.ShapeDtypeStruct((b, t, 5), jnp.float32), jax.ShapeDtypeStruct((5, 6), jnp.float32)
    exported = jax.export.export(jax.jit(product))(*shapes)
    assert exported.call(jnp.ones((2, 3, 5)), jnp.ones((5, 6))).shape == (2, 3, 6)
