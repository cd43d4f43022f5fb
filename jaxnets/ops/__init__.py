"""Pure functions on arrays: the mathematics of the library, without Flax."""

from jaxnets.ops.convolution import conv, conv_transpose
from jaxnets.ops.losses import (
    absolute_error,
    binary_cross_entropy,
    cross_entropy,
    focal,
    gaussian_nll,
    huber,
    kl_divergence,
    kl_standard_normal,
    squared_error,
)
from jaxnets.ops.pooling import avg_pool, global_avg_pool, global_max_pool, max_pool

__all__ = [
    "absolute_error",
    "avg_pool",
    "binary_cross_entropy",
    "conv",
    "conv_transpose",
    "cross_entropy",
    "focal",
    "gaussian_nll",
    "global_avg_pool",
    "global_max_pool",
    "huber",
    "kl_divergence",
    "kl_standard_normal",
    "max_pool",
    "squared_error",
]
