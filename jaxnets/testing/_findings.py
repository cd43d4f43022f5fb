"""What a law found: where two results differ, and by how much against what is allowed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

# A leaf much smaller than its siblings holds mostly their rounding (a gradient that is 0 in exact arithmetic, say):
# it is measured against this part of the largest of them.
_SMALL_LEAF = 0.1


class Finding(NamedTuple):
    """One way in which a layer breaks a law.

    Attributes:
      law: Name of the law.
      case: What was done: "NaN in padding", "time in chunks of 1, 0, 5".
      leaf: The output or the gradient that is wrong, by its path; empty where the layer raised an error.
      message: Where in the leaf, and by how much against what is allowed; or the error.
    """

    law: str
    case: str
    leaf: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.case, self.leaf, self.message) if part)


class LawError(AssertionError):
    """A layer breaks laws of the sequence contract; `findings` holds each way in which it does."""

    def __init__(self, layer: nn.Module, findings: tuple[Finding, ...]):
        self.findings = findings
        lines = [f"{type(layer).__name__} breaks {', '.join(self.laws)}"]
        for law in self.laws:
            leaves: dict[str, list[Finding]] = {}
            for finding in findings:
                if finding.law == law:
                    leaves.setdefault(finding.leaf or finding.message, []).append(finding)
            for first, *others in leaves.values():
                lines.append(f"  {law}: {first}" + (f" (and in {len(others)} more cases)" if others else ""))
        super().__init__("\n".join([*lines, f"The layer: {layer!r}"]))

    @property
    def laws(self) -> tuple[str, ...]:
        """Names of the broken laws, in their order."""
        return tuple(dict.fromkeys(finding.law for finding in self.findings))


class Difference(NamedTuple):
    """A leaf that is not as it should be."""

    leaf: str
    message: str


def differences(got: Any, want: Any, tolerance: float) -> Iterator[Difference]:
    """Yields each leaf of `got` that is further than the tolerance from `want`, or of another shape or dtype.

    The measure is max|got - want| / max|want|. A tolerance of 0 asks for equal bits.
    """
    got_leaves, got_tree = jax.tree_util.tree_flatten_with_path(got)
    want_leaves, want_tree = jax.tree_util.tree_flatten_with_path(want)
    if str(got_tree) != str(want_tree):
        yield Difference("", f"the results have the structures {got_tree} and {want_tree}")
        return
    scales: dict[str, float] = {}
    for path, leaf in want_leaves:
        scales[_group(path)] = max(scales.get(_group(path), 0.0), _largest(leaf))
    for (path, a), (_, b) in zip(got_leaves, want_leaves, strict=True):
        if message := _difference(np.asarray(a), np.asarray(b), tolerance, _SMALL_LEAF * scales[_group(path)], path):
            yield Difference(name(path), message)


def nonzeros(got: Any, keep: Any) -> Iterator[Difference]:
    """Yields each leaf of `got` that is not exactly 0 where `keep`, an array of its leading axes, is True."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(got):
        array = np.asarray(leaf)
        wrong = (array != 0) & np.asarray(keep).reshape(np.shape(keep) + (1,) * (array.ndim - np.ndim(keep)))
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            yield Difference(name(path), f"is {array[index]:.3g} at {_place(path, index)}, not 0")


def name(path: Any) -> str:
    """A leaf's path as a reader would write it: y, carry.h, gradient params['kernel']."""
    text = "".join(_key(key) for key in path)
    return text.removeprefix(".").replace("gradient.", "gradient ")


def _difference(a: np.ndarray, b: np.ndarray, tolerance: float, floor: float, path: Any) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
    if not a.size:
        return ""
    wide_a, wide_b = _widen(a), _widen(b)
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(wide_a - wide_b)
    gap = np.where(np.isfinite(gap), gap, np.inf)
    exact = tolerance == 0 or b.dtype.kind in "biu"
    if exact:
        # The bits of each element: -0 is not 0, and a NaN is itself.
        wrong = (_bits(a) != _bits(b)).any(-1)
        gap = np.where(wrong, gap, -1)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(gap), gap.shape))
    scale = max(_largest(b), floor)
    if exact and not wrong.any() and np.isfinite(wide_b).all():
        return ""
    if not exact and gap[index] <= tolerance * scale:
        return ""
    if exact and not wrong.any():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(wide_b))[0])
    relative = gap[index] / scale if scale else np.inf
    allowed = "bit-equal is wanted" if exact else f"{tolerance:.1g} is allowed"
    return (
        f"is {a[index]:.6g}, not {b[index]:.6g}, at {_place(path, index)}: off by {relative:.2g} of the largest value, "
        f"{allowed}"
    )


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)[..., None].view(np.uint8)


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _largest(leaf: Any) -> float:
    wide = np.abs(_widen(np.asarray(leaf)))
    return float(np.max(wide, initial=0.0, where=np.isfinite(wide)))


def _key(key: Any) -> str:
    return f".{key.key}" if isinstance(key, jax.tree_util.DictKey) and key.key in _ROOTS else str(key)


_ROOTS = ("y", "continued", "carry", "gradient", "params", "x")


def _group(path: Any) -> str:
    keys = [_key(key) for key in path[:2]]
    return "".join(keys if keys[0] == ".gradient" else keys[:1])


def _place(path: Any, index: tuple[int, ...]) -> str:
    axes = {".y": 2, ".continued": 2, ".gradient.x": 2, ".carry": 1, ".gradient.carry": 1}.get(_group(path), 0)
    named = [f"{axis} {i}" for axis, i in zip(("row", "step"), index[:axes], strict=False)]
    return ", ".join(named + ([str(list(index[axes:]))] if index[axes:] else [])) or "[]"
