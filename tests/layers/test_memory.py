"""Layers made to remember: what each kind is given, and that the rest of it stays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.layers import GRU, LRU, LSTM, RGLRU, RNN, MinGRU, MinLSTM, Stack, chrono, remembering

LONG = {
    LSTM: {"forget_bias": 0.0, "bias_init": chrono(6, 50, (-1, 1, 0, 0))},
    GRU: {"bias_init": chrono(6, 50, (0, 1, 0))},
    MinGRU: {"bias_init": chrono(6, 50, (-1, 0))},
    MinLSTM: {"forget_bias": 0.0, "bias_init": chrono(6, 50, (-1, 1, 0))},
    LRU: {"r_min": 0.9, "r_max": 0.98, "max_phase": math.pi / 10},
    RGLRU: {"a_min": 0.9, "a_max": 0.98},
    RNN: {},
}


@pytest.mark.parametrize("kind", LONG)
def test_parameters_are_those_of_the_layer_made_for_it(kind):
    layer = remembering(kind(6, reverse=True), 50)
    assert (type(layer), layer.features, layer.reverse) == (kind, 6, True)
    got, want = (jax.jit(each.init)(jax.random.key(0), jnp.ones((1, 2, 6))) for each in (layer, kind(6, **LONG[kind])))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("layer", "steps", "error", "words"),
    [
        (Stack((GRU(6),)), 50, TypeError, "layer is of type Stack, wanted one of RNN, LSTM, GRU"),
        (LRU(6), 10, ValueError, "steps wants to be more than 10 but is 10"),
        (LSTM(6, coupled=True), 50, ValueError, "wants an LSTM whose gates are not coupled"),
    ],
)
def test_what_cannot_be_made_to_remember(layer, steps, error, words):
    with pytest.raises(error, match=words):
        remembering(layer, steps)
