"""Pooling and its gradients, one window at a time, in float64."""

from collections.abc import Iterator

import numpy as np

from tests.reference.convolution import out_sizes, pads_of, per_axis


class Pool:
    """Windows of fixed shapes and settings over x [B, *spatial, C]."""

    def __init__(self, x_shape, window, *, strides=None, padding="VALID"):
        rank = len(x_shape) - 2
        self.x_shape, self.sizes = x_shape, x_shape[1:-1]
        self.window = per_axis(window, rank)
        self.strides = self.window if strides is None else per_axis(strides, rank)
        self.pads = pads_of(padding, self.sizes, self.window, self.strides, (1,) * rank)
        out = out_sizes(self.sizes, self.window, self.strides, (1,) * rank, self.pads)
        self.y_shape = (x_shape[0], *out, x_shape[-1])

    def windows(self) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
        """Each index of y with the indices of x in its window, padding left out, in row-major order."""
        for b, *place, c in np.ndindex(*self.y_shape):
            members = []
            for tap in np.ndindex(*self.window):
                seen = [p * s + t - lo for p, s, t, (lo, _) in zip(place, self.strides, tap, self.pads, strict=True)]
                if all(0 <= q < n for q, n in zip(seen, self.sizes, strict=True)):
                    members.append((b, *seen, c))
            yield (b, *place, c), members


class MaxPool(Pool):
    """The largest of each window; -inf for a window of padding alone."""

    def __call__(self, x):
        y = np.full(self.y_shape, -np.inf)
        for i, members in self.windows():
            for j in members:
                y[i] = max(y[i], x[j])
        return y

    def gradient(self, x, dy):
        """Gradient of sum(y * dy): of equals in a window the first in row-major order takes it all."""
        dx = np.zeros(self.x_shape)
        for i, members in self.windows():
            winner = None
            for j in members:
                if winner is None or x[j] > x[winner]:
                    winner = j
            if winner is not None:
                dx[winner] += dy[i]
        return dx


class AvgPool(Pool):
    """The mean of each window, over its elements in x or, with `count_padding`, over all of its size."""

    def __init__(self, x_shape, window, *, count_padding=False, **settings):
        super().__init__(x_shape, window, **settings)
        self.count_padding = count_padding

    def count(self, members):
        return np.prod(self.window) if self.count_padding else len(members)

    def __call__(self, x):
        y = np.zeros(self.y_shape)
        for i, members in self.windows():
            for j in members:
                y[i] += x[j] / self.count(members)
        return y

    def gradient(self, x, dy):
        """Gradient of sum(y * dy)."""
        dx = np.zeros(self.x_shape)
        for i, members in self.windows():
            for j in members:
                dx[j] += dy[i] / self.count(members)
        return dx
