"""Convolutions as lists of multiply-adds in float64: slow, and plain to see.

A convolution is a sum of products `y[i] += x[j] * kernel[k]`, and the list of its (i, j, k) is all there is to it: the
gradients run over the same list, `dx[j] += dy[i] * kernel[k]` and `dkernel[k] += dy[i] * x[j]`.
"""

import math
from collections.abc import Iterator

import numpy as np

Index = tuple[int, ...]


def per_axis(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pads_of(padding, sizes, window, strides, dilation):
    """(before, after) for each axis; SAME as TensorFlow and XLA have it, the odd one behind."""
    pads = []
    for axis, (n, k, s, d) in enumerate(zip(sizes, window, strides, dilation, strict=True)):
        extent = (k - 1) * d + 1
        if padding == "CAUSAL" and axis == 0:
            pads.append((extent - 1, 0))
        elif padding in ("SAME", "CAUSAL"):
            total = max((math.ceil(n / s) - 1) * s + extent - n, 0)
            pads.append((total // 2, total - total // 2))
        elif padding == "VALID":
            pads.append((0, 0))
        elif isinstance(padding, int):
            pads.append((padding, padding))
        else:
            pads.append(tuple(padding[axis]))
    return pads


def out_sizes(sizes, window, strides, dilation, pads):
    """How many whole windows fit on each padded axis."""
    return tuple(
        max((lo + n + hi - ((k - 1) * d + 1)) // s + 1, 0)
        for n, k, s, d, (lo, hi) in zip(sizes, window, strides, dilation, pads, strict=True)
    )


class Conv:
    """A convolution of fixed shapes and settings; x [B, *spatial, C], kernel [*window, C // groups, F]."""

    def __init__(self, x_shape, kernel_shape, *, strides=1, padding="SAME", dilation=1, groups=1):
        rank = len(x_shape) - 2
        self.x_shape, self.kernel_shape, self.groups = x_shape, kernel_shape, groups
        self.strides, self.dilation = per_axis(strides, rank), per_axis(dilation, rank)
        self.sizes, self.window = x_shape[1:-1], kernel_shape[:rank]
        self.pads = pads_of(padding, self.sizes, self.window, self.strides, self.dilation)
        out = out_sizes(self.sizes, self.window, self.strides, self.dilation, self.pads)
        self.y_shape = (x_shape[0], *out, kernel_shape[-1])

    def source(self, place: Index, tap: Index) -> Index | None:
        """The place in x that this tap of the window at this place of y sees, or None for padding."""
        seen = tuple(
            p * s + t * d - lo
            for p, t, s, d, (lo, _) in zip(place, tap, self.strides, self.dilation, self.pads, strict=True)
        )
        return seen if all(0 <= q < n for q, n in zip(seen, self.sizes, strict=True)) else None

    def products(self) -> Iterator[tuple[Index, Index, Index]]:
        """The (y, x, kernel) indices of every multiply-add."""
        batch, *out, features = self.y_shape
        channels = self.kernel_shape[-2]
        for place in np.ndindex(*out):
            for tap in np.ndindex(*self.window):
                seen = self.source(place, tap)
                if seen is None:
                    continue
                for b, f, c in np.ndindex(batch, features, channels):
                    group = f // (features // self.groups)
                    yield (b, *place, f), (b, *seen, group * channels + c), (*tap, c, f)

    def __call__(self, x, kernel, bias=None):
        y = np.zeros(self.y_shape)
        for i, j, k in self.products():
            y[i] += x[j] * kernel[k]
        return y if bias is None else y + bias

    def gradients(self, x, kernel, dy):
        """(dx, dkernel, dbias) of sum(y * dy)."""
        dx, dkernel, dbias = np.zeros(self.x_shape), np.zeros(self.kernel_shape), np.zeros(self.kernel_shape[-1])
        for i, j, k in self.products():
            dx[j] += dy[i] * kernel[k]
            dkernel[k] += dy[i] * x[j]
        for i in np.ndindex(*self.y_shape):
            dbias[i[-1]] += dy[i]
        return dx, dkernel, dbias


class ConvTranspose(Conv):
    """A convolution of stride 1 over x with s - 1 zeros set between neighbours; kernel [*window, C, F], not flipped.

    With e = (k - 1) * d + 1, the extent of the window, SAME pads so that n grows to n * s, with e - 1 zeros before if
    s > e - 1, else ceil((e + s - 2) / 2); VALID pads e - 1 before, so that n grows to n * s + max(e - s, 0).
    Explicit pairs and an int pad the spread x as they are. All as in `lax.conv_transpose` with transpose_kernel=False.
    """

    def __init__(self, x_shape, kernel_shape, *, strides=1, padding="SAME", dilation=1):
        rank = len(x_shape) - 2
        self.x_shape, self.kernel_shape, self.groups = x_shape, kernel_shape, 1
        self.strides, self.dilation = per_axis(strides, rank), per_axis(dilation, rank)
        self.sizes, self.window = x_shape[1:-1], kernel_shape[:rank]
        self.pads, out = [], []
        for axis, (n, k, s, d) in enumerate(zip(self.sizes, self.window, self.strides, self.dilation, strict=True)):
            extent, spread = (k - 1) * d + 1, (n - 1) * s + 1
            if padding == "SAME":
                total = extent + s - 2
                before = extent - 1 if s > extent - 1 else math.ceil(total / 2)
            elif padding == "VALID":
                total = extent + s - 2 + max(extent - s, 0)
                before = extent - 1
            else:
                before, after = (padding, padding) if isinstance(padding, int) else padding[axis]
                total = before + after
            self.pads.append((before, total - before))
            out.append(spread + total - extent + 1)
        self.y_shape = (x_shape[0], *out, kernel_shape[-1])

    def source(self, place: Index, tap: Index) -> Index | None:
        """The place in x that this tap sees, or None for padding and for the zeros between."""
        seen = [p + t * d - lo for p, t, d, (lo, _) in zip(place, tap, self.dilation, self.pads, strict=True)]
        if any(q % s for q, s in zip(seen, self.strides, strict=True)):
            return None
        seen = tuple(q // s for q, s in zip(seen, self.strides, strict=True))
        return seen if all(0 <= q < n for q, n in zip(seen, self.sizes, strict=True)) else None
