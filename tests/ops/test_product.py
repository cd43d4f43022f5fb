"""The product over many axes: one product of matrices, forward and backward."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.layers._dense import Dense
from jaxnets.ops._product import looped_product, product


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_looped_product(dtype):
    """The gradients of a loop are those of `product`, but its transpose has no kernel to turn."""
    rng = np.random.default_rng(0)
    h, kernel = jnp.asarray(rng.standard_normal((3, 6)), dtype), jnp.asarray(rng.standard_normal((6, 6)) / 3, dtype)

    def loss(times, h, kernel):
        times = times(kernel, preferred_element_type=jnp.float32)
        h, _ = jax.lax.scan(lambda h, _: (jnp.tanh(times(h)).astype(dtype), None), h, length=4)
        return jnp.sum(h.astype(jnp.float32) ** 2)

    def step_by_step(kernel, **options):
        return functools.partial(product, kernel=kernel, **options)

    ours, plain = (
        jax.jit(jax.grad(functools.partial(loss, times), (0, 1))) for times in (looped_product, step_by_step)
    )
    for got, wanted in zip(ours(h, kernel), plain(h, kernel), strict=True):
        assert got.dtype == wanted.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), wanted.astype(jnp.float32), rtol=1e-6, atol=1e-7)
    turns = "contracting_dims = [1] x [1]"
    assert turns in plain.lower(h, kernel).as_text()
    assert turns not in ours.lower(h, kernel).as_text()
