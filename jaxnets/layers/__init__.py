"""Flax Linen modules: they declare parameters, check shapes and call the ops."""

from jaxnets.layers.convolution import Conv, ConvTranspose
from jaxnets.layers.recurrent import GRU, LSTM, RNN
from jaxnets.layers.sequence import Bidirectional, Stack, initial_carry

__all__ = ["GRU", "LSTM", "RNN", "Bidirectional", "Conv", "ConvTranspose", "Stack", "initial_carry"]
