"""The static side of a convolution: windows, strides and padding, checked once and hashable."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxnets.typing import Padding


class Geometry(NamedTuple):
    """Everything about a convolution but its arrays. Sizes are per spatial axis."""

    in_spatial: tuple[Any, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any
    implementation: str

    @property
    def extent(self) -> tuple[int, ...]:
        """The window's reach with its dilation."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def out_spatial(self) -> tuple[Any, ...]:
        """The output's spatial shape; 0 where the window does not fit."""
        sizes = zip(self.in_spatial, self.padding, self.extent, self.strides, strict=True)
        return tuple(jax.core.max_dim((n + low + high - e) // s + 1, 0) for n, (low, high), e, s in sizes)

    @property
    def is_concrete(self) -> bool:
        """Whether every spatial size is a number, rather than the symbol of an export."""
        return all(isinstance(n, int) for n in self.in_spatial)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.window)


def per_axis(op: str, name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """`value` once for every spatial axis.

    Raises:
      ValueError: If it is neither one positive integer nor one for each axis.
    """
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ValueError(f"{op}: {name} is {value} but wants a positive integer, or {rank} of them")
    return values


def explicit_padding(
    op: str,
    padding: Padding,
    spatial: Sequence[Any],
    extent: Sequence[int],
    strides: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """`padding` as (before, after) for every spatial axis.

    SAME gives ceil(n / stride) outputs, the odd element after. CAUSAL is all before on the first spatial axis, so that
    no output sees a later input, and SAME on the others.

    Raises:
      ValueError: If it is none of the known forms.
    """
    if isinstance(padding, int) and padding >= 0:
        return ((padding, padding),) * len(spatial)
    if padding == "VALID":
        return ((0, 0),) * len(spatial)
    if padding == "CAUSAL":
        others = explicit_padding(op, "SAME", spatial[1:], extent[1:], strides[1:])
        return ((extent[0] - 1, 0), *others)
    if padding == "SAME":
        sizes = zip(spatial, strides, extent, strict=True)
        # By steps of 1 the padding does not depend on the size, which may then be symbolic.
        total = [e - 1 if s == 1 else max((-(-n // s) - 1) * s + e - n, 0) for n, s, e in sizes]
        return tuple((t // 2, t - t // 2) for t in total)
    if not isinstance(padding, str | int):
        pairs = tuple(tuple(pair) for pair in padding)
        if len(pairs) == len(spatial) and all(len(pair) == 2 and min(pair) >= 0 for pair in pairs):
            return pairs  # type: ignore[return-value]
    raise ValueError(
        f"{op}: padding is {padding!r} but wants 'SAME', 'VALID', 'CAUSAL', an integer >= 0, "
        f"or {len(spatial)} pairs (before, after) of integers >= 0"
    )
