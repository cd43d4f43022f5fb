"""The block of a temporal convolutional network: its equation, what it sees, and the laws."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import testing
from jaxnets.layers import Stack, TemporalBlock
from tests.reference.tolerance import tolerance

X = jnp.sin(jnp.arange(2 * 9 * 3.0)).reshape(2, 9, 3)


@pytest.mark.exhaustive
def test_laws():
    """Of keys 0 to 8 the first has a number so near a kink of ReLU that bfloat16 is on its other side."""
    layer = TemporalBlock(3, kernel_size=2, dilation=2)
    testing.check_sequence_layer(layer, key=jax.random.key(1))


def test_is_its_equation():
    layer = TemporalBlock(4, kernel_size=2, dilation=3)
    (y, _), variables = jax.jit(layer.init_with_output)(jax.random.key(0), X)
    params = jax.tree.map(np.asarray, variables["params"])

    def convolved(x, kernel, bias, dilation):
        out = np.zeros((*x.shape[:2], kernel.shape[2]))
        for t in range(x.shape[1]):
            for j in range(len(kernel)):
                at = t - (len(kernel) - 1 - j) * dilation
                if at >= 0:
                    out[:, t] += x[:, at] @ kernel[j]
        return out + bias

    inner = np.maximum(convolved(np.asarray(X), **params["first"], dilation=3), 0)
    inner = np.maximum(convolved(inner, **params["second"], dilation=3), 0)
    want = np.maximum(inner + convolved(np.asarray(X), **params["residual"], dilation=1), 0)
    np.testing.assert_allclose(y, want, **tolerance("float32"))


@pytest.mark.exhaustive
def test_a_stack_sees_as_far_as_is_said():
    layer = Stack(tuple(TemporalBlock(2, kernel_size=2, dilation=2**i) for i in range(2)))
    x = jnp.ones((1, 12, 2))
    variables = jax.tree.map(np.abs, jax.jit(layer.init)(jax.random.key(0), x))
    gradient = np.asarray(jax.jit(jax.grad(lambda x: layer.apply(variables, x)[0][0, -1].sum()))(x))
    seen = np.flatnonzero(np.abs(gradient[0]).sum(-1))
    np.testing.assert_array_equal(seen, np.arange(12 - (1 + 2 * (2 - 1) * (2**2 - 1)), 12))


def test_a_carry_of_another_layer_is_refused(own_errors):
    with pytest.raises(ValueError, match="TemporalBlock: carry has 1 parts but wants one for each convolution"):
        TemporalBlock(3).init(jax.random.key(0), X, carry=(nn.initializers.zeros,))
