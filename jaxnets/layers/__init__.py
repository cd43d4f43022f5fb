"""Flax Linen modules: they declare parameters, check shapes and call the ops."""

from jaxnets.layers.conv_lstm import ConvLSTM
from jaxnets.layers.convolution import Conv, ConvTranspose
from jaxnets.layers.initializers import chrono, identity
from jaxnets.layers.linear_units import LRU, RGLRU
from jaxnets.layers.memory import remembering
from jaxnets.layers.min_recurrent import MinGRU, MinLSTM
from jaxnets.layers.recurrent import GRU, LSTM, RNN
from jaxnets.layers.sequence import Bidirectional, Stack, initial_carry

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "RGLRU",
    "RNN",
    "Bidirectional",
    "Conv",
    "ConvLSTM",
    "ConvTranspose",
    "MinGRU",
    "MinLSTM",
    "Stack",
    "chrono",
    "identity",
    "initial_carry",
    "remembering",
]
