"""Flax Linen modules: they declare parameters, check shapes and call the ops."""

from jaxnets.layers.alignment import AdditiveAttention, AlignmentCache, MultiplicativeAttention
from jaxnets.layers.attending import Attending, AttendingCarry
from jaxnets.layers.attention import SelfAttention
from jaxnets.layers.causal_conv import CausalConv, CausalConvCarry
from jaxnets.layers.conv_lstm import ConvLSTM
from jaxnets.layers.convolution import Conv, ConvTranspose
from jaxnets.layers.cross_attention import CrossAttention, MemoryCache
from jaxnets.layers.initializers import chrono, identity
from jaxnets.layers.instance_norm import InstanceScale, RevIN
from jaxnets.layers.linear_attention import LinearAttention
from jaxnets.layers.linear_units import LRU, RGLRU
from jaxnets.layers.memory import remembering
from jaxnets.layers.min_recurrent import MinGRU, MinLSTM
from jaxnets.layers.position import ALiBi, LearnedPosition, PositionCarry, RelativeBias, Rotary, SinusoidalPosition
from jaxnets.layers.recurrent import GRU, LSTM, RNN
from jaxnets.layers.sequence import Bidirectional, Stack, initial_carry
from jaxnets.layers.temporal_block import TemporalBlock
from jaxnets.layers.transformer import Repeated, TransformerBlock

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "RGLRU",
    "RNN",
    "ALiBi",
    "AdditiveAttention",
    "AlignmentCache",
    "Attending",
    "AttendingCarry",
    "Bidirectional",
    "CausalConv",
    "CausalConvCarry",
    "Conv",
    "ConvLSTM",
    "ConvTranspose",
    "CrossAttention",
    "InstanceScale",
    "LearnedPosition",
    "LinearAttention",
    "MemoryCache",
    "MinGRU",
    "MinLSTM",
    "MultiplicativeAttention",
    "PositionCarry",
    "RelativeBias",
    "Repeated",
    "RevIN",
    "Rotary",
    "SelfAttention",
    "SinusoidalPosition",
    "Stack",
    "TemporalBlock",
    "TransformerBlock",
    "chrono",
    "identity",
    "initial_carry",
    "remembering",
]
