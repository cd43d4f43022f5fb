"""Mixed precision: the model computes in 16 bits, everything that is kept stays in 32."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.train.paths import name


@dataclasses.dataclass(frozen=True)
class Precision:
    """How a step computes: `create` and `make_step` take the same one.

    Parameters, the optimizer, statistics, averages, the loss and the metrics stay in single precision. For each step
    the parameters and the inputs are narrowed, the model computes with them, and its outputs are widened again. A
    model, or a part of it, that was given a `dtype` of its own computes in that.

    float16 reaches up to 65504 and holds nothing below 6e-8, so its gradients are made of a loss that is scaled up.
    The scale halves at each gradient that is not finite, and that step is kept out; it doubles after
    `growth_every` steps without one.

    Attributes:
      compute: The type to compute in.
      keep: Regular expressions for the paths of parameters that are not narrowed, such as `"LRU_0/"`.
      loss_scale: What the scale begins with; by default 32768 for float16, and for bfloat16 there is none.
      growth_every: Steps from one doubling of the scale to the next.

    References:
      Micikevicius et al., 2018. Mixed precision training.
    """

    compute: str = "bfloat16"
    keep: tuple[str, ...] = ()
    loss_scale: float | None = None
    growth_every: int = 1000

    def __post_init__(self) -> None:
        """Raises ValueError for a type that is not half as wide, or a scale that is none."""
        if self.compute not in ("bfloat16", "float16"):
            raise ValueError(f"Precision: compute is {self.compute!r}, choose bfloat16 or float16")
        if self.loss_scale is not None and not self.loss_scale >= 1:
            raise ValueError(f"Precision: loss_scale is {self.loss_scale} but wants at least 1")

    def initial_scale(self) -> "LossScale | None":
        """What `state.loss_scale` is before the first step."""
        first = 2.0**15 if self.loss_scale is None and self.compute == "float16" else self.loss_scale
        return None if first is None else LossScale(jnp.float32(first), jnp.int32(0))


class LossScale(NamedTuple):
    """The factor of the loss, and the steps since it changed or a gradient was not finite."""

    factor: Float[Array, ""]
    steady: Int[Array, ""]


def in_precision(apply: Callable[..., Any], precision: Precision | None) -> Callable[..., Any]:
    """The function `apply(variables, batch, ...) -> (outputs, collections)`, computing in a precision.

    >>> def apply(variables, batch):
    ...     return variables["params"] * batch["x"], {}
    >>> y, _ = in_precision(apply, Precision())({"params": jnp.float32(1 / 3)}, {"x": jnp.float32(3)})
    >>> y
    Array(1., dtype=float32)
    """
    if precision is None:
        return apply

    def narrowed(path: Any, leaf: Any) -> Any:
        kept = any(re.search(pattern, name(path)) for pattern in precision.keep)
        return leaf if kept or not _is_float(leaf) else jnp.asarray(leaf, precision.compute)

    def wrapped(variables: Any, batch: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        params = jax.tree.map_with_path(narrowed, variables["params"])
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, precision.compute) if _is_float(leaf) else leaf, batch)
        outputs, after = apply({**variables, "params": params}, inputs, *arguments, **options)
        return jax.tree.map(_widened, (outputs, after))

    return wrapped


def scaled(loss: Any, scale: LossScale | None) -> Any:
    """The loss, or its gradient's source, times the scale."""
    return loss if scale is None else loss * scale.factor


def unscaled(gradient: Any, scale: LossScale | None) -> Any:
    """The gradient of the loss itself."""
    if scale is None:
        return gradient
    return jax.tree.map(lambda leaf: leaf * (1 / scale.factor).astype(leaf.dtype), gradient)


def rescaled(precision: Precision, scale: LossScale, finite: Bool[Array, ""]) -> LossScale:
    """The scale after a step."""
    steady = jnp.where(finite, scale.steady + 1, 0)
    grows = steady >= precision.growth_every
    factor = jnp.where(finite, jnp.where(grows, 2 * scale.factor, scale.factor), jnp.maximum(scale.factor / 2, 1))
    # Beyond this the scale itself would leave single precision behind.
    return LossScale(jnp.minimum(factor, 2.0**100), jnp.where(grows, 0, steady))


def _widened(leaf: Any) -> Any:
    return leaf.astype(jnp.float32) if _is_float(leaf) and leaf.dtype.itemsize == 2 else leaf


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
