"""The recurrent layers: their parameters, the op they call, their types and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.layers import GRU, LSTM, RNN, initial_carry

KEY = jax.random.key(0)
LAYERS = {LSTM: ops.lstm, GRU: ops.gru, RNN: ops.rnn}
GATES = {LSTM: 4, GRU: 3, RNN: 1}


def ramp(*shape):
    return jnp.sin(jnp.arange(np.prod(shape))).reshape(shape).astype(jnp.float32)


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_is_its_op(kind):
    x, lengths, starts = ramp(2, 5, 3), jnp.array([5, 2]), jnp.zeros((2, 5), bool).at[0, 3].set(True)
    layer = kind(4, reverse=True)
    (y, carry), variables = layer.init_with_output(KEY, x, lengths=lengths, starts=starts)
    params = variables["params"]
    want, want_carry = LAYERS[kind](params, x, lengths=lengths, starts=starts, reverse=True)
    np.testing.assert_array_equal(y, want)
    jax.tree.map(np.testing.assert_array_equal, carry, want_carry)
    width = 4 * GATES[kind]
    shapes = {"kernel": (3, width), "recurrent_kernel": (4, width), "bias": (width,)}
    assert jax.tree.map(jnp.shape, params) == {**shapes, **({"recurrent_bias": (4,)} if kind is GRU else {})}
    for block in jnp.split(params["recurrent_kernel"], GATES[kind], axis=1):
        np.testing.assert_allclose(block @ block.T, jnp.eye(4), atol=1e-5)
    other = kind(4, reverse=True, checkpoint_every=2).apply(variables, x, lengths=lengths, starts=starts)
    np.testing.assert_allclose(other[0], y, atol=1e-6)


def test_forget_bias():
    for value in (0.0, 1.0):
        bias = LSTM(4, forget_bias=value).init(KEY, ramp(1, 1, 3))["params"]["bias"]
        np.testing.assert_array_equal(bias, np.repeat([0, value, 0, 0], 4))


@pytest.mark.parametrize("kind", LAYERS)
def test_learned_carry_is_what_no_carry_and_starts_stand_for(kind):
    x, layer = ramp(2, 4, 3), kind(4, learned_carry=True, carry_init=jax.nn.initializers.normal(1.0))
    (y, _), variables = layer.init_with_output(KEY, x)
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype))
    for field, leaf in carry._asdict().items():
        np.testing.assert_array_equal(leaf, jnp.stack([variables["params"][f"initial_{field}"]] * 2))
    np.testing.assert_array_equal(layer.apply(variables, x, carry=carry)[0], y)
    packed = jnp.concatenate([x, x], axis=1)
    starts = jnp.zeros((2, 8), bool).at[:, 4].set(True)
    np.testing.assert_allclose(layer.apply(variables, packed, starts=starts)[0][:, 4:], y, atol=1e-6)
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, x)[0] ** 2))(variables)["params"]
    assert all(np.abs(gradient[f"initial_{field}"]).min() > 0 for field in carry._fields)
    zeros = initial_carry(kind(4), kind(4).init(KEY, x), jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert not any(np.any(leaf) for leaf in zeros)


@pytest.mark.parametrize("kind", LAYERS)
def test_types(kind, x64):
    for x_dtype, dtype, want, state in (
        ("float32", None, "float32", "float32"),
        ("bfloat16", None, "bfloat16", "float32"),
        ("float64", None, "float64", "float64"),
        ("float32", jnp.bfloat16, "bfloat16", "float32"),
        ("bfloat16", jnp.float32, "float32", "float32"),
    ):
        layer = kind(4, dtype=dtype, learned_carry=True)
        spec = jax.ShapeDtypeStruct((2, 4, 3), x_dtype)
        (y, carry), variables = jax.eval_shape(layer.init_with_output, KEY, spec)
        assert y.dtype == want
        assert {leaf.dtype for leaf in carry} == {jnp.dtype(state)}
        assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


X = jnp.zeros((2, 5, 3))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("x", "settings", "error", "message"),
    [
        (X[0], {}, ValueError, r"x wants \[B, T, D\] but has shape \(5, 3\)"),
        (X.astype(jnp.int32), {}, TypeError, "x wants a floating dtype but has int32"),
        (X, {"lengths": jnp.zeros(3, jnp.int32)}, ValueError, r"lengths wants shape \(2,\) but has \(3,\)"),
        (X, {"starts": jnp.zeros((2, 4), bool)}, ValueError, r"starts wants shape \(2, 5\) but has \(2, 4\)"),
        (X, {"carry": ()}, TypeError, "carry wants .*Carry but is tuple"),
    ],
)
def test_bad_input_is_named_before_any_parameter(kind, x, settings, error, message, own_errors):
    def never(*_):
        raise AssertionError("a parameter was made")

    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(8, kernel_init=never, recurrent_kernel_init=never).init(KEY, x, **settings)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_kernel_of_another_width_and_a_carry_of_another_batch(kind, own_errors):
    layer = kind(4)
    (_, carry), variables = layer.init_with_output(KEY, X)
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: x has 2 features, which take a kernel \(2, .*\(3, "):
        layer.apply(variables, X[..., :2])
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: carry.h wants shape \(1, 4\) but has \(2, 4\)"):
        layer.apply(variables, X[:1], carry=carry)
    with pytest.raises(ValueError, match=f"^{kind.__name__}: features wants at least 1 but is 0"):
        kind(0).init(KEY, X)
