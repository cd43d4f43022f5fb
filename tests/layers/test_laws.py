"""The recurrent layers, and what is made of them, obey the laws of the sequence contract."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxnets import testing
from jaxnets.layers import GRU, LRU, LSTM, RNN, Bidirectional, Stack

LAYERS = [
    LSTM(4, learned_carry=True),
]
MORE_LAYERS = [
    Stack((LSTM(3), GRU(4))),
    Bidirectional(LSTM(3)),
    RNN(4),
    GRU(4),
    GRU(4, implementation="newton"),
    LSTM(4, reverse=True),
    RNN(4, activation="relu", learned_carry=True),
    GRU(4, learned_carry=True, checkpoint_every=2),
    LSTM(4),
    LSTM(4, checkpoint_every=4),
    Stack((GRU(4), GRU(4)), residual=True),
    Bidirectional(GRU(3), LRU(4)),
]
NO_CARRY = (Bidirectional,)


def spelt(layer):
    """The layer as it was written: its fields but those left as they were."""
    if isinstance(layer, tuple):
        return "(" + ", ".join(map(spelt, layer)) + ")"
    if not dataclasses.is_dataclass(layer):
        return repr(layer)
    given = [f for f in dataclasses.fields(layer) if f.name not in ("parent", "name")]
    given = [(f.name, getattr(layer, f.name)) for f in given if getattr(layer, f.name) is not f.default]
    return f"{type(layer).__name__}({', '.join(f'{name}={spelt(value)}' for name, value in given)})"


def check(layer, *spec):
    testing.check_sequence_layer(layer, *spec, carry=not isinstance(layer, NO_CARRY))


@pytest.mark.optimised
@pytest.mark.parametrize("layer", LAYERS, ids=spelt)
def test_laws(layer):
    check(layer)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", MORE_LAYERS, ids=spelt)
def test_laws_of_more_layers(layer):
    check(layer)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [LSTM(3), GRU(2)], ids=spelt)
@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 9, 3)])
def test_laws_of_other_shapes(layer, shape):
    check(layer, jax.ShapeDtypeStruct(shape, jnp.float32))
