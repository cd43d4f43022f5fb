"""The options of the recurrent layers: their parameters, the op they call, their noise and their errors."""

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.layers import GRU, LSTM, RNN, Bidirectional, ConvLSTM, Stack

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 5, 3))
FRAMES = jax.random.normal(jax.random.key(2), (2, 3, 4, 5, 1))

SHAPES = {
    "peephole": {"peephole": (12,)},
    "projection": {"projection": (4, 2), "recurrent_kernel": (2, 16)},
    "layer_norm": {"input_scale": (16,), "recurrent_scale": (16,), "cell_scale": (4,), "cell_bias": (4,)},
    "coupled": {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,)},
}


@pytest.mark.parametrize("option", SHAPES)
def test_options_are_parameters_of_the_op(option):
    layer = LSTM(4, **{option: 2 if option == "projection" else True}, zoneout=0.1, learned_carry=True)
    (y, carry), variables = layer.init_with_output(KEY, X)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    hidden = 2 if option == "projection" else 4
    plain = {"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (16,), "initial_h": (hidden,), "initial_c": (4,)}
    assert shapes == {**plain, **SHAPES[option]}
    want, want_carry = ops.lstm(variables["params"], X, coupled=option == "coupled", zoneout=0.1)
    np.testing.assert_array_equal(y, want)
    jax.tree.map(np.testing.assert_array_equal, carry, want_carry)
    assert y.shape == (2, 5, hidden)


def test_coupled_gates_begin_with_a_memory():
    bias = LSTM(4, coupled=True, forget_bias=2.0).init(KEY, X)["params"]["bias"]
    np.testing.assert_array_equal(bias, np.repeat([-2, 0, 0], 4))


NOISY = {
    "lstm": LSTM(4, recurrent_dropout=0.5),
    "lstm_per_step": LSTM(4, recurrent_dropout=0.5, dropout_kind="per_step"),
    "lstm_zoneout": LSTM(4, zoneout=(0.0, 0.5)),
    "gru": GRU(4, recurrent_dropout=0.5, dropout_kind="per_step"),
    "rnn": RNN(4, zoneout=0.5),
    "conv_lstm": ConvLSTM(2, recurrent_dropout=0.5),
    "stack": Stack((LSTM(4, zoneout=0.5), Bidirectional(GRU(3, recurrent_dropout=0.5)))),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_drawn_in_training_only(name):
    layer, x = NOISY[name], FRAMES if name == "conv_lstm" else X
    variables = layer.init(KEY, x)
    run = jax.jit(lambda key: layer.apply(variables, x, train=True, rngs={"dropout": key})[0])
    once, again, other = run(jax.random.key(3)), run(jax.random.key(3)), run(jax.random.key(4))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, other)
    assert not np.allclose(once, layer.apply(variables, x)[0])
    with pytest.raises(flax.errors.InvalidRngError):
        layer.apply(variables, x, train=True)


def test_without_noise_training_needs_no_key():
    layer = LSTM(4, peephole=True)
    variables = layer.init(KEY, X)
    np.testing.assert_array_equal(layer.apply(variables, X, train=True)[0], layer.apply(variables, X)[0])


@pytest.mark.parametrize("layer", [LSTM(4, peephole=True, layer_norm=True, projection=2), ConvLSTM(2, peephole=True)])
def test_types(layer):
    x = FRAMES if isinstance(layer, ConvLSTM) else X
    variables = layer.init(KEY, x)
    y, carry = layer.apply(variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert carry.h.dtype == carry.c.dtype == jnp.float32
    clone = layer.clone(dtype=jnp.bfloat16)
    np.testing.assert_array_equal(clone.apply(variables, x)[0], y)


WRONG = {
    "projection": (LSTM(4, projection=0), X, None, ValueError, "projection wants at least 1 or None but is 0"),
    "carry": (LSTM(4, projection=2), X, (4, 4), ValueError, r"carry.h wants shape \(2, 2\) but has \(2, 4\)"),
    "zoneout": (LSTM(4, zoneout=1.0), X, None, ValueError, "zoneout wants a rate"),
    "rank": (ConvLSTM(2), X, None, ValueError, r"x wants \[B, T, H, W, C\]"),
    "window": (ConvLSTM(2, kernel_size=0), FRAMES, None, ValueError, "at least 1"),
    "integers": (ConvLSTM(2), FRAMES.astype(int), None, TypeError, "floating"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors(wrong, own_errors):
    layer, x, widths, error, message = WRONG[wrong]
    carry = None if widths is None else ops.LSTMCarry(*(jnp.zeros((2, width)) for width in widths))
    with pytest.raises(error, match=message):
        layer.init(KEY, x, carry=carry)


def test_frames_of_another_size():
    variables = ConvLSTM(2, peephole=True).init(KEY, FRAMES)
    for x in (FRAMES[:, :, 1:], jnp.concatenate([FRAMES] * 2, axis=-1)):
        with pytest.raises(ValueError, match=r"ConvLSTM: params\['(kernel|peephole)'\] of shape"):
            ConvLSTM(2, peephole=True).apply(variables, x)
