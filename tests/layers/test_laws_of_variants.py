"""The variants of recurrent layers obey the laws of the sequence contract."""

import jax
import jax.numpy as jnp
import pytest

from jaxnets import testing
from jaxnets.layers import GRU, LSTM, RNN, ConvLSTM
from tests.layers.test_laws import spelt

FRAMES = jax.ShapeDtypeStruct((2, 5, 2, 3, 2), jnp.float32)
LAYERS = {
    LSTM(4, coupled=True, projection=2, learned_carry=True, checkpoint_every=2): None,
    LSTM(3, peephole=True, zoneout=(0.1, 0.3), reverse=True): None,
    LSTM(6, layer_norm=True, recurrent_dropout=0.2): None,
    ConvLSTM(2, zoneout=0.1): FRAMES,
    GRU(3, zoneout=0.2, recurrent_dropout=0.2, dropout_kind="per_step"): None,
    RNN(3, zoneout=0.2, recurrent_dropout=0.2): None,
    LSTM(6, peephole=True, projection=4, layer_norm=True, coupled=True, zoneout=0.1): None,
    ConvLSTM(2, kernel_size=(1, 2), peephole=True, learned_carry=True, reverse=True): FRAMES,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", LAYERS, ids=spelt)
def test_laws(layer):
    testing.check_sequence_layer(layer, LAYERS[layer])
