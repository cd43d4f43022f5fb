"""Winograd's minimal filtering F(4x4, 3x3): 36 products for 16 outputs of a 3x3 window, where the direct form has 144.

Both axes are cut into tiles of 4 outputs, which see 6 inputs. In the basis of polynomial values at six points the
convolution of a tile is a product, value by value, so over channels it is 36 matrix products:

    output = A' [ (G kernel G') * (B' tile B) ] A        (' is the transpose, * a product for each of the 36 values)

The points are 0, +-5/8, +-3/2 and infinity rather than the textbook's 0, +-1, +-2, since the transforms are then
better conditioned. The float32 error still grows with the channels: below 1e-5 of the largest output at 512 of them,
several times that of the direct form.

What is not finite in a tile reaches all of its outputs, where the direct form keeps it within the window's reach.

References:
  Lavin and Gray, 2016. Fast algorithms for convolutional neural networks.
  Barabasz, Anderson, Soodhalter and Gregg, 2020. Error analysis and improving the accuracy of Winograd convolution.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxnets.ops._chunks import chunk_rows, map_chunks, sum_chunks
from jaxnets.ops._convolution_geometry import Geometry
from jaxnets.ops._dtype import accumulation_dtype

_TILE = 4
_POINTS = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)


def _toom_cook(points: tuple[float, ...], outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [values, outputs], B [inputs, values] and G [values, taps] for finite points and one at infinity."""
    values = outputs + taps - 1
    others = [np.delete(points, i) for i in range(len(points))]
    scale = np.array([np.prod(point - rest) for point, rest in zip(points, others, strict=True)])
    a = np.concatenate([np.vander(points, outputs, increasing=True), np.eye(outputs)[-1:]])
    g = np.concatenate([np.vander(points, taps, increasing=True) / scale[:, None], np.eye(taps)[-1:]])
    b = np.zeros((values, values))
    for i, rest in enumerate(others):
        b[:-1, i] = np.poly(rest)[::-1]  # the polynomial that vanishes at every other point
    b[:, -1] = np.poly(points)[::-1]
    return a, b, g


_A, _B, _G = _toom_cook(_POINTS, _TILE, 3)


def fits(geometry: Geometry) -> bool:
    """Whether the convolution is a plain 3x3 one; the padding of one to be transposed may be negative."""
    plain = geometry.window == (3, 3) and geometry.strides == geometry.dilation == (1, 1) and geometry.groups == 1
    return plain and all(pad >= 0 for pads in geometry.padding for pad in pads)


def tiles(geometry: Geometry, batch: int) -> int:
    """How many tiles a batch is cut into: what the transform of the kernel is shared by."""
    return batch * math.prod(_tiles(geometry))


def winograd(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """The output [B, H', W', F]."""
    weights = _both_axes(_G, kernel.astype(accumulation_dtype(x.dtype)))
    height, width = geometry.out_spatial

    def rows(x: Array) -> Array:
        values = jnp.matmul(_input_values(geometry, x.astype(weights.dtype)), weights, precision=geometry.precision)
        values = _by_tile(geometry, values, x.shape[0])
        values = lax.optimization_barrier(jnp.stack(_combine(_A.T, [values[:, j] for j in range(6)]), axis=4))
        y = jnp.stack(_combine(_A.T, list(values)), axis=2)  # [B, down, 4, across, 4, F]
        return _plane(y)[:, :height, :width].astype(x.dtype)

    return map_chunks(rows, x, chunk_rows(x.shape[0], _row_bytes(geometry, *kernel.shape[2:])))


def winograd_input_gradient(geometry: Geometry, g: Array, kernel: Array) -> Array:
    """The gradient of the input [B, H, W, C]: every step of `winograd` transposed, tiles added where they overlap."""
    weights = _both_axes(_G, kernel.astype(accumulation_dtype(g.dtype)))
    (top, _), (left, _) = geometry.padding
    height, width = geometry.in_spatial

    def rows(g: Array) -> Array:
        values = _output_values(geometry, g.astype(weights.dtype))
        values = jnp.einsum("vtf,vcf->vtc", values, weights, precision=geometry.precision)
        values = _by_tile(geometry, values, g.shape[0])
        values = lax.optimization_barrier(_overlap_add(_combine(_B, [values[:, j] for j in range(6)]), axis=3))
        x = _plane(_overlap_add(_combine(_B, list(values)), axis=1))
        return x[:, top : top + height, left : left + width].astype(g.dtype)

    return map_chunks(rows, g, chunk_rows(g.shape[0], _row_bytes(geometry, *kernel.shape[2:])))


def winograd_kernel_gradient(geometry: Geometry, x: Array, g: Array) -> Array:
    """The gradient of the kernel [3, 3, C, F]."""
    wide = accumulation_dtype(x.dtype)

    def rows(x: Array, g: Array) -> Array:
        inputs, outputs = _input_values(geometry, x.astype(wide)), _output_values(geometry, g.astype(wide))
        return jnp.einsum("vtc,vtf->vcf", inputs, outputs, precision=geometry.precision)

    values = sum_chunks(rows, x, g, chunk_rows(x.shape[0], _row_bytes(geometry, x.shape[-1], g.shape[-1])))
    kernel = _both_axes(_G.T, values.reshape(6, 6, *values.shape[1:]))
    return kernel.reshape(3, 3, *values.shape[1:]).astype(x.dtype)


def _tiles(geometry: Geometry) -> tuple[int, int]:
    down, across = (-(-n // _TILE) for n in geometry.out_spatial)
    return down, across


def _row_bytes(geometry: Geometry, channels: int, features: int) -> int:
    down, across = _tiles(geometry)
    return 36 * down * across * max(channels, features) * 4


def _both_axes(matrix: np.ndarray, grid: Array) -> Array:
    """The matrix applied along the first two axes of [n, n, C, F], which come out as one."""
    grid = lax.optimization_barrier(jnp.stack(_combine(matrix, list(grid))))
    grid = jnp.stack(_combine(matrix, [grid[:, j] for j in range(grid.shape[1])]), axis=1)
    return grid.reshape(-1, *grid.shape[2:])


def _input_values(geometry: Geometry, x: Array) -> Array:
    """B' tile B for every tile of 6x6 inputs, tiles overlapping by 2: [36, B * tiles, C]."""
    down, across = _tiles(geometry)
    # Two zero rows and columns more than the tiles need make the array whole blocks of 4.
    pads = [
        (low, (count + 1) * _TILE - size - low)
        for count, size, (low, _) in zip((down, across), x.shape[1:3], geometry.padding, strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x = x.reshape(x.shape[0], down + 1, _TILE, across + 1, _TILE, x.shape[-1])
    rows = [x[:, i // _TILE : i // _TILE + down, i % _TILE] for i in range(6)]
    # Without the barrier XLA would fuse both axes into one loop, and do the first anew for each value of the second.
    values = lax.optimization_barrier(jnp.stack(_combine(_B.T, rows)))
    columns = [values[:, :, :, j // _TILE : j // _TILE + across, j % _TILE] for j in range(6)]
    return jnp.stack(_combine(_B.T, columns), axis=1).reshape(36, -1, x.shape[-1])


def _output_values(geometry: Geometry, g: Array) -> Array:
    """A tile A' for every tile of 4x4 output gradients: [36, B * tiles, F]."""
    down, across = _tiles(geometry)
    pads = [(0, count * _TILE - size) for count, size in zip((down, across), g.shape[1:3], strict=True)]
    g = jnp.pad(g, ((0, 0), *pads, (0, 0)))
    g = g.reshape(g.shape[0], down, _TILE, across, _TILE, g.shape[-1])
    values = lax.optimization_barrier(jnp.stack(_combine(_A, [g[:, :, i] for i in range(_TILE)])))
    return jnp.stack(_combine(_A, [values[:, :, :, :, j] for j in range(_TILE)]), axis=1).reshape(36, -1, g.shape[-1])


def _by_tile(geometry: Geometry, values: Array, batch: Any) -> Array:
    """[36, B * tiles, C] as [6, 6, B, down, across, C]."""
    return values.reshape(6, 6, batch, *_tiles(geometry), values.shape[-1])


def _plane(x: Array) -> Array:
    """Tiles [B, down, 4, across, 4, C] as one image [B, H, W, C]."""
    return x.reshape(x.shape[0], x.shape[1] * _TILE, x.shape[3] * _TILE, x.shape[-1])


def _combine(matrix: np.ndarray, arrays: list[Array]) -> list[Array]:
    """The sums of `arrays` with each row of the matrix as weights. A loop beats a product this thin."""
    rows = [[(float(c), a) for c, a in zip(row, arrays, strict=True) if c] for row in matrix]
    return [functools.reduce(jnp.add, [a if c == 1 else c * a for c, a in row]) for row in rows]


def _overlap_add(arrays: list[Array], axis: int) -> Array:
    """Adds tiles of 6 that lie 4 apart: the last two of each to the first two of the next.

    Args:
      arrays: The six places of a tile, each with the tiles along `axis`.

    Returns:
      One tile more, and a new axis of 4 behind.
    """

    def shifted(array: Array, tiles: int) -> Array:
        pads = [(0, 0)] * array.ndim
        pads[axis] = (tiles, 1 - tiles)
        return jnp.pad(array, pads)

    heads = [shifted(array, 0) for array in arrays[:_TILE]]
    tails = [shifted(array, 1) for array in arrays[_TILE:]]
    return jnp.stack([*map(jnp.add, heads, tails), *heads[len(tails) :]], axis=axis + 1)
