"""Convolution as one matrix product: beside each output the inputs under its window, times the kernel.

The three functions are the members of the trilinear form <conv(x, kernel), g>: the output, the gradient of the input
and the gradient of the kernel.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxnets.ops._chunks import chunk_rows, map_chunks, sum_chunks
from jaxnets.ops._convolution_geometry import Geometry
from jaxnets.ops._dtype import accumulation_dtype


def row_bytes(geometry: Geometry, channels: int, itemsize: int = 4) -> int:
    """Bytes of the patches of one row of the batch."""
    return math.prod(geometry.out_spatial) * math.prod(geometry.window) * channels * itemsize


def im2col(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """The output [B, *out, F]."""
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def rows(x: Array) -> Array:
        return _matmul(geometry, _patches(geometry, x), matrix).astype(x.dtype)

    return map_chunks(rows, x, chunk_rows(x.shape[0], row_bytes(geometry, x.shape[-1])))


def im2col_input_gradient(geometry: Geometry, g: Array, kernel: Array) -> Array:
    """The gradient of the input [B, *in, C]: each patch's gradient, added back where the patch was cut."""
    channels = kernel.shape[-2]
    matrix = kernel.reshape(-1, kernel.shape[-1]).T

    def rows(g: Array) -> Array:
        patches = _matmul(geometry, g, matrix)
        x = jax.ShapeDtypeStruct((g.shape[0], *geometry.in_spatial, channels), patches.dtype)
        (gradient,) = jax.linear_transpose(functools.partial(_patches, geometry), x)(patches)
        return gradient.astype(g.dtype)

    return map_chunks(rows, g, chunk_rows(g.shape[0], row_bytes(geometry, channels)))


def im2col_kernel_gradient(geometry: Geometry, x: Array, g: Array) -> Array:
    """The gradient of the kernel [*window, C, F]: patches against output gradients."""

    def rows(x: Array, g: Array) -> Array:
        patches = _patches(geometry, x)
        return _matmul(geometry, patches.reshape(-1, patches.shape[-1]).T, g.reshape(-1, g.shape[-1]))

    matrix = sum_chunks(rows, x, g, chunk_rows(x.shape[0], row_bytes(geometry, x.shape[-1])))
    return matrix.astype(x.dtype).reshape(*geometry.window, x.shape[-1], g.shape[-1])


def _matmul(geometry: Geometry, a: Array, b: Array) -> Array:
    wide = accumulation_dtype(a.dtype)
    return jnp.matmul(a, b, precision=geometry.precision, preferred_element_type=wide)


def _patches(geometry: Geometry, x: Array) -> Array:
    """[B, *in, C] to [B, *out, window * C]."""
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in geometry.padding), (0, 0, 0)))
    columns = []
    for offset in np.ndindex(*geometry.window):
        index = [
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, geometry.dilation, geometry.out_spatial, geometry.strides, strict=True)
        ]
        columns.append(x[(slice(None), *index)])
    return jnp.concatenate(columns, axis=-1) if len(columns) > 1 else columns[0]
