"""The variants of recurrent layers obey the laws of the sequence contract."""

import jax
import jax.numpy as jnp
import pytest

from jaxnets import testing
from jaxnets.layers import GRU, LSTM, ConvLSTM
from tests.layers.test_laws import spelt

QUICK = testing.quick_compile()
LAYERS = [
    GRU(3, zoneout=0.2, recurrent_dropout=0.2, dropout_kind="per_step"),
    LSTM(3, peephole=True, zoneout=(0.1, 0.3), reverse=True),
    LSTM(4, coupled=True, projection=2, learned_carry=True, checkpoint_every=2),
    LSTM(6, layer_norm=True, recurrent_dropout=0.2),
]
FRAMES = [
    ConvLSTM(2, zoneout=0.1),
    ConvLSTM(2, kernel_size=(1, 2), peephole=True, learned_carry=True, reverse=True),
]


@pytest.mark.parametrize("layer", LAYERS, ids=spelt)
def test_laws(layer):
    testing.check_sequence_layer(layer, compiler_options=QUICK)


@pytest.mark.parametrize("layer", FRAMES, ids=spelt)
def test_laws_of_frames(layer):
    testing.check_sequence_layer(layer, jax.ShapeDtypeStruct((2, 5, 2, 3, 2), jnp.float32), compiler_options=QUICK)
