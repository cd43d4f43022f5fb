"""Flax Linen modules: they declare parameters, check shapes and call the ops."""

from jaxnets.layers.conv_lstm import ConvLSTM
from jaxnets.layers.convolution import Conv, ConvTranspose
from jaxnets.layers.initializers import chrono
from jaxnets.layers.linear_units import LRU, RGLRU
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
    "initial_carry",
]
