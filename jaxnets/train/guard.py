"""The guard: steps whose loss or gradient is not finite leave everything as it was."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.train.precision import Precision, rescaled
from jaxnets.typing import Count, Mean

_REACH = 100
"""Steps over which the loss is averaged to tell a leap from its noise."""

_SEEN = 20
"""Losses to see before the first is called a leap."""


@dataclasses.dataclass(frozen=True)
class Guard:
    """What to keep out of training: `create` and `make_step` take the same one.

    A step that is kept out counts, and leaves parameters, optimizer, collections, carry and averages bit for bit as
    they were. The metrics have it in `"nonfinite"` or `"spikes"`, and no other metric has a part of it.

    Attributes:
      limit: After so many in a row nothing is changed any more, and `fit` raises `DivergedError`.
      spikes: How many standard deviations a loss may lie above its moving mean; None for any number.
    """

    limit: int = 10
    spikes: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a number is not positive."""
        if self.limit < 1 or (self.spikes is not None and not self.spikes > 0):
            raise ValueError(f"Guard: limit and spikes must be positive, got {self.limit} and {self.spikes}")

    def initial_state(self) -> "GuardState":
        """What `state.guard` is before the first step."""
        zero = jnp.float32(0)
        return GuardState(jnp.int32(0), jnp.int32(0), jnp.bool(False), jnp.int32(0), zero, zero + 0)


class GuardState(NamedTuple):
    """What the guard remembers.

    Attributes:
      in_row: Steps kept out without one between.
      since: The steps that had been taken before the first of them.
      stopped: Whether there were too many.
      seen: Losses that the mean is of.
      mean: The moving mean of the loss.
      variance: And its variance.
    """

    in_row: Int[Array, ""]
    since: Int[Array, ""]
    stopped: Bool[Array, ""]
    seen: Int[Array, ""]
    mean: Float[Array, ""]
    variance: Float[Array, ""]


class DivergedError(FloatingPointError):
    """Too many steps in a row were kept out; `locate_nan(step, error.state, batch)` tells what it came from.

    Attributes:
      step: The steps that had been taken before the first of them.
      state: The state; parameters and all that the guard keeps are those of that step.
    """

    def __init__(self, message: str, step: int, state: Any):
        super().__init__(message)
        self.step = step
        self.state = state


def guarded(
    guard: Guard | None,
    precision: Precision | None,
    state: Any,
    new_state: Any,
    gradient: Any,
    sums: dict[str, Mean],
) -> tuple[Any, dict[str, Mean]]:
    """The state after a step, or the one before where the step is kept out, and the metrics that say so."""
    finite = _all_finite((sums["loss"], gradient))
    taken, changes = finite, dict[str, Any]()
    if precision is not None and state.loss_scale is not None:
        changes["loss_scale"] = rescaled(precision, state.loss_scale, finite)
    counts = {"nonfinite": ~finite}
    if guard is not None:
        spike = _spikes(guard, state.guard, sums["loss"]) & finite
        taken = finite & ~spike & ~state.guard.stopped
        # A gradient that only its scale made too large is no trouble of the run's.
        overflow = jnp.isfinite(sums["loss"].total) & ~finite & _can_fall(state)
        changes["guard"] = _after(guard, state.guard, state.step, sums["loss"], taken, overflow)
        if guard.spikes is not None:
            counts["spikes"] = spike

    kept = ("params", "opt_state", "collections", "carry", "ema")
    new, old = ({field: getattr(each, field) for field in kept} for each in (new_state, state))
    changes |= jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, old)
    sums = jax.tree.map(lambda leaf: jnp.where(taken, leaf, 0), sums)
    counted = {name: Count(_float(count), jnp.float32(1)) for name, count in counts.items()}
    return new_state.replace(**changes), sums | counted


def _spikes(guard: Guard, seen: GuardState, loss: Mean) -> Bool[Array, ""]:
    if guard.spikes is None:
        return jnp.bool(False)
    highest = seen.mean + guard.spikes * jnp.sqrt(seen.variance)
    # By the total, since a batch of no weight has no mean.
    return (seen.seen >= _SEEN) & (loss.total > highest * loss.weight)


def _after(guard: Guard, old: GuardState, step: Any, loss: Mean, taken: Any, overflow: Any) -> GuardState:
    in_row = jnp.where(taken, 0, old.in_row + ~overflow)
    since = jnp.where(old.in_row == 0, step, old.since)
    counts = taken & (loss.weight > 0)
    rate = jnp.where(counts, 1 / jnp.minimum(old.seen + 1, _REACH), 0)
    away = jnp.where(counts, loss.total / loss.weight - old.mean, 0)
    new = GuardState(
        in_row=in_row,
        since=since,
        stopped=in_row >= guard.limit,
        seen=old.seen + counts,
        mean=old.mean + rate * away,
        variance=(1 - rate) * (old.variance + rate * away**2),
    )
    # Once stopped, it tells for ever of the steps that did it.
    return jax.tree.map(lambda new, old_leaf: jnp.where(old.stopped, old_leaf, new), new, old)


def _can_fall(state: Any) -> Any:
    return False if state.loss_scale is None else state.loss_scale.factor > 1


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _float(count: Any) -> Float[Array, ""]:
    return count.astype(jnp.float32)
