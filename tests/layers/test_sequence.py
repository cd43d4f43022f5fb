"""Layers of layers: both directions, stacks, and the carry to begin with."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.layers import GRU, LSTM, RNN, Bidirectional, Stack, initial_carry

KEY = jax.random.key(0)
SPEC = jax.ShapeDtypeStruct((2, 6, 3), jnp.float32)


def ramp(*shape):
    return jnp.sin(jnp.arange(np.prod(shape))).reshape(shape).astype(jnp.float32)


class Halve(nn.Module):
    """A layer without a `reverse` of its own that keeps every second step, doubled in width."""

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        y = jnp.concatenate([x, x], -1)[:, ::2]
        return ops.zero_padding(y, self.output_lengths(lengths)), ()

    def output_lengths(self, lengths):
        return None if lengths is None else (lengths + 1) // 2


class Sum(nn.Module):
    """A layer without a `reverse` of its own: a running sum over each packed sequence."""

    @nn.compact
    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        x = ops.zero_padding(x, lengths)

        def step(h, inputs):
            x, start = inputs
            h = jnp.where(start[:, None], 0, h) + x
            return h, h

        starts = jnp.zeros(x.shape[:2], bool) if starts is None else starts
        h, y = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), (x.swapaxes(0, 1), starts.T))
        return ops.zero_padding(y.swapaxes(0, 1), lengths), h


@pytest.mark.parametrize("masked", [False, True])
def test_bidirectional_is_two_layers(masked):
    x = ramp(2, 6, 3)
    masks = {"lengths": jnp.array([6, 3]), "starts": jnp.zeros((2, 6), bool).at[0, 4].set(True)} if masked else {}
    layer = Bidirectional(LSTM(4))
    (y, carry), variables = layer.init_with_output(KEY, x, **masks)
    params = variables["params"]
    assert carry == ()
    assert np.any(params["forward"]["kernel"] != params["backward"]["kernel"])
    forward, _ = ops.lstm(params["forward"], x, **masks)
    backward, _ = ops.lstm(params["backward"], x, reverse=True, **masks)
    np.testing.assert_array_equal(y, jnp.concatenate([forward, backward], -1))
    mixed = Bidirectional(LSTM(4), GRU(2))
    assert mixed.init_with_output(KEY, x, **masks)[0][0].shape == (2, 6, 6)
    assert initial_carry(layer, variables, SPEC) == ()


def test_bidirectional_turns_round_what_cannot_run_backwards():
    x, lengths = ramp(2, 6, 3), jnp.array([6, 3])
    starts = jnp.array([[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]], bool)
    y, _ = Bidirectional(Sum()).apply({}, x, lengths=lengths, starts=starts)
    want = np.zeros((2, 6, 3))
    for b, spans in enumerate([[(0, 4), (4, 6)], [(0, 1), (1, 3)]]):
        for begin, end in spans:
            want[b, begin:end] = np.cumsum(x[b, begin:end][::-1], 0)[::-1]
    np.testing.assert_allclose(y[..., 3:], want, atol=1e-5)


def test_bidirectional_refuses_a_carry_and_shared_weights():
    layer, x = Bidirectional(LSTM(4)), ramp(2, 6, 3)
    carry = LSTM(4).init_with_output(KEY, x)[0][1]
    with pytest.raises(ValueError, match=r"^Bidirectional: carry is LSTMCarry but wants None or \(\)"):
        layer.init(KEY, x, carry=carry)
    layer.init(KEY, x, carry=())
    same = LSTM(4)
    with pytest.raises(ValueError, match=r"^Bidirectional: forward and backward are one module"):
        Bidirectional(same, same)


@pytest.mark.parametrize("residual", [False, True])
def test_stack_is_its_layers_and_streams(residual):
    x, lengths = ramp(2, 6, 3), jnp.array([5, 0])
    layer = Stack((LSTM(4), GRU(4), RNN(4)), residual=residual)
    (y, carry), variables = layer.init_with_output(KEY, x, lengths=lengths)
    h = x
    for i, op in enumerate((ops.lstm, ops.gru, ops.rnn)):
        below, (h, last) = h, op(variables["params"][f"layers_{i}"], h, lengths=lengths)
        h = h + below if residual and i else h
        jax.tree.map(np.testing.assert_array_equal, carry[i], last)
    np.testing.assert_array_equal(y, h)

    whole, end = layer.apply(variables, x)
    first, carry = layer.apply(variables, x[:, :4], carry=initial_carry(layer, variables, SPEC))
    second, carry = layer.apply(variables, x[:, 4:], carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, end)


def test_residual_lets_no_padding_through():
    x = ramp(2, 6, 4).at[1, 2:].set(jnp.nan)
    y, _ = Stack((LSTM(4),), residual=True).init_with_output(KEY, x, lengths=jnp.array([6, 2]))[0]
    assert np.all(np.isfinite(y))
    assert not np.any(y[1, 2:])


def test_dropout_is_between_layers_and_only_in_training():
    x, layer = ramp(2, 6, 3), Stack((RNN(8), RNN(8)), dropout=0.5)
    variables = layer.init(KEY, x)
    still = Stack(layer.layers).apply(variables, x)[0]
    np.testing.assert_array_equal(layer.apply(variables, x)[0], still)
    rngs = {"dropout": KEY}
    dropped = layer.apply(variables, x, train=True, rngs=rngs)[0]
    assert np.any(dropped != still)
    assert np.all(dropped != 0)  # none on what the last layer puts out
    one = Stack((RNN(8),), dropout=0.5)
    np.testing.assert_array_equal(
        one.apply(one.init(KEY, x), x, train=True, rngs=rngs)[0], one.apply(one.init(KEY, x), x)[0]
    )


def test_learned_carries_in_a_stack():
    layer = Stack(
        (LSTM(4), Stack((GRU(5, learned_carry=True, carry_init=nn.initializers.ones), Bidirectional(RNN(2)))))
    )
    variables = layer.init(KEY, ramp(2, 6, 3))
    first, (second, third) = initial_carry(layer, variables, SPEC)
    assert not np.any(first.c)
    np.testing.assert_array_equal(second.h, np.ones((2, 5)))
    assert third == ()


def test_a_layer_that_changes_time():
    x, lengths = ramp(2, 6, 3), jnp.array([6, 3])
    layer = Stack((Halve(), LSTM(4)))
    (y, _), variables = layer.init_with_output(KEY, x, lengths=lengths)
    np.testing.assert_array_equal(layer.output_lengths(lengths), [3, 2])
    want, _ = ops.lstm(variables["params"]["layers_1"], jnp.concatenate([x, x], -1)[:, ::2], lengths=jnp.array([3, 2]))
    np.testing.assert_array_equal(y, want)
    with pytest.raises(ValueError, match=r"^Stack: layer 0 changes time, so starts cannot go to layer 1"):
        layer.init(KEY, x, starts=jnp.zeros((2, 6), bool))


def test_bad_stacks_are_named():
    same = LSTM(4)
    with pytest.raises(ValueError, match=r"^Stack: layers has one module more than once"):
        Stack((same, same))
    with pytest.raises(TypeError, match=r"^Stack: layers wants a tuple of at least one module"):
        Stack(())
    with pytest.raises(ValueError, match=r"^Stack: dropout wants a rate from 0 to below 1 but is 1"):
        Stack((same,), dropout=1.0)
    layer, x = Stack((LSTM(4), LSTM(4))), ramp(2, 6, 3)
    with pytest.raises(ValueError, match=r"^Stack: carry has 1 parts but wants one for each of 2"):
        layer.init(KEY, x, carry=((),))


def test_inside_a_compact_model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            y, _ = Bidirectional(LSTM(4))(x)
            return Stack((GRU(3), GRU(3)))(y)[0]

    y, variables = Model().init_with_output(KEY, ramp(2, 6, 3))
    assert y.shape == (2, 6, 3)
    leaves = jax.tree.leaves(variables)
    assert sum(leaf.size for leaf in leaves) == 2 * (3 + 4 + 1) * 16 + (8 + 3 + 1) * 9 + 3 + (3 + 3 + 1) * 9 + 3
