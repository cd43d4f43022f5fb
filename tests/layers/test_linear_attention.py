"""Linear attention as a layer: it equals its op, streams, and obeys the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops, testing
from jaxnets.layers import LinearAttention, Repeated, TransformerBlock
from tests.reference.tolerance import tolerance

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 8)), jnp.float32)
LENGTHS = jnp.array([7, 4])
LAYERS = {
    "none": LinearAttention(2, use_bias=True),
    "fixed": LinearAttention(2, head_dim=3, decay="fixed", features=5),
    "gated": LinearAttention(2, decay="gated", normalize=False),
}
MORE_LAYERS = {
    **LAYERS,
    "blocks": Repeated(TransformerBlock(LinearAttention(2, decay="gated"), hidden=6), times=2),
    "scan": LinearAttention(2, implementation="scan"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MORE_LAYERS)
def test_laws(name):
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms promote
        testing.check_sequence_layer(MORE_LAYERS[name], jax.ShapeDtypeStruct((3, 5, 8), jnp.float32))


def test_its_weights_are_products_of_features():
    """By hand: the softmax's exponential in attention becomes phi(q) . phi(k), and each weight fades with distance."""
    layer = LAYERS["fixed"]
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    q, k, v = (
        (np.asarray(X) @ np.asarray(variables["params"][name]["kernel"])).reshape(2, 7, 2, 3)
        for name in ("query", "key", "value")
    )
    phi_q, phi_k = (np.where(part > 0, part + 1, np.exp(np.minimum(part, 0))) for part in (q, k))
    distance = np.maximum(np.arange(7)[:, None] - np.arange(7)[None], 0)
    faded = np.tril(np.ones((7, 7))) * (1 - 2.0 ** -np.array([5, 6]))[:, None, None] ** distance
    weights = np.einsum("btnh,bsnh->bnts", phi_q, phi_k) * faded
    weights /= weights.sum(-1, keepdims=True)
    mean = np.einsum("bnts,bsnh->btnh", weights, v).reshape(2, 7, 6)
    want = mean @ np.asarray(variables["params"]["out"]["kernel"])
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, X)[0], want, **tolerance("float32"))


@pytest.mark.parametrize(
    "name", ["gated", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in LAYERS if name != "gated")]
)
def test_streams_and_does_not_see_padding(name):
    layer = LAYERS[name]
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    dirty = jnp.where(ops.time_mask(LENGTHS, 7)[..., None], X, jnp.nan)
    step = jax.jit(layer.apply)
    whole, last = step(variables, dirty, lengths=LENGTHS)
    carry, parts = jax.tree.map(jnp.zeros_like, last), []
    for t in range(7):
        y, carry = step(variables, dirty[:, t : t + 1], lengths=(t < LENGTHS).astype(jnp.int32), carry=carry)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, **tolerance("float32"))
    for got, want in zip(carry, last, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "x has 8 features but wants a multiple of num_heads=3"),
        ({"num_heads": 0}, "wants a multiple of num_heads=0"),
        ({"num_heads": 2, "decay": "slow"}, "decay is 'slow' but wants one of none, fixed, gated"),
        ({"num_heads": 2, "implementation": "fast"}, "implementation is 'fast' but wants one of"),
    ],
)
def test_errors(own_errors, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(LinearAttention(**options).init, jax.random.key(0), X)
