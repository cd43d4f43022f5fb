"""Pure functions on arrays: the mathematics of the library, without Flax."""

from jaxnets.ops._explain import Choice, explain
from jaxnets.ops._newton import Convergence, Newton
from jaxnets.ops._rotary_scaling import RotaryLinear, RotaryLlama3, RotaryNTK, RotaryScaling, RotaryYarn
from jaxnets.ops.alignment import (
    additive_attention,
    additive_keys,
    multiplicative_attention,
    multiplicative_keys,
)
from jaxnets.ops.attention import dot_product_attention
from jaxnets.ops.beams import Beams, beam_search
from jaxnets.ops.conv_lstm import conv_lstm
from jaxnets.ops.convolution import conv, conv_transpose
from jaxnets.ops.decoding import Decoding, Generated, generate, prefill
from jaxnets.ops.kv_cache import KVCache, Positions, cached_attention, empty_cache, step_positions
from jaxnets.ops.linear_attention import LinearAttentionCarry, elu_plus_one, linear_attention
from jaxnets.ops.linear_recurrence import linear_recurrence
from jaxnets.ops.linear_units import LRUCarry, RGLRUCarry, lru, lru_step, rg_lru, rg_lru_step
from jaxnets.ops.losses import (
    absolute_error,
    binary_cross_entropy,
    cross_entropy,
    focal,
    gaussian_nll,
    huber,
    kl_divergence,
    kl_standard_normal,
    pinball,
    squared_error,
)
from jaxnets.ops.masking import (
    last_valid,
    masked_max,
    masked_mean,
    reverse_sequence,
    starts_from_segment_ids,
    time_mask,
    zero_padding,
)
from jaxnets.ops.min_recurrent import (
    MinGRUCarry,
    MinLSTMCarry,
    min_gru,
    min_gru_step,
    min_lstm,
    min_lstm_step,
)
from jaxnets.ops.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxnets.ops.position import alibi, alibi_slopes, relative_buckets, rotary, sinusoidal
from jaxnets.ops.recurrent import (
    GRUCarry,
    LSTMCarry,
    RNNCarry,
    gru,
    gru_step,
    lstm,
    lstm_step,
    rnn,
    rnn_step,
)
from jaxnets.ops.sampling import filter_logits, penalise_repetition, sample

__all__ = [
    "Beams",
    "Choice",
    "Convergence",
    "Decoding",
    "GRUCarry",
    "Generated",
    "KVCache",
    "LRUCarry",
    "LSTMCarry",
    "LinearAttentionCarry",
    "MinGRUCarry",
    "MinLSTMCarry",
    "Newton",
    "Positions",
    "RGLRUCarry",
    "RNNCarry",
    "RotaryLinear",
    "RotaryLlama3",
    "RotaryNTK",
    "RotaryScaling",
    "RotaryYarn",
    "absolute_error",
    "additive_attention",
    "additive_keys",
    "alibi",
    "alibi_slopes",
    "avg_pool",
    "beam_search",
    "binary_cross_entropy",
    "cached_attention",
    "conv",
    "conv_lstm",
    "conv_transpose",
    "cross_entropy",
    "dot_product_attention",
    "elu_plus_one",
    "empty_cache",
    "explain",
    "filter_logits",
    "focal",
    "gaussian_nll",
    "generate",
    "global_avg_pool",
    "global_max_pool",
    "gru",
    "gru_step",
    "huber",
    "kl_divergence",
    "kl_standard_normal",
    "last_valid",
    "linear_attention",
    "linear_recurrence",
    "lru",
    "lru_step",
    "lstm",
    "lstm_step",
    "masked_max",
    "masked_mean",
    "max_pool",
    "min_gru",
    "min_gru_step",
    "min_lstm",
    "min_lstm_step",
    "multiplicative_attention",
    "multiplicative_keys",
    "penalise_repetition",
    "pinball",
    "prefill",
    "relative_buckets",
    "reverse_sequence",
    "rg_lru",
    "rg_lru_step",
    "rnn",
    "rnn_step",
    "rotary",
    "sample",
    "sinusoidal",
    "squared_error",
    "starts_from_segment_ids",
    "step_positions",
    "time_mask",
    "zero_padding",
]
