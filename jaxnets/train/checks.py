"""Checks inside the compiled step, for finding mistakes in data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxnets.train.paths import flatten
from jaxnets.typing import Batch, Mean


def with_checks(step: Callable[..., tuple[Any, dict[str, Mean]]]) -> Callable[..., tuple[Any, dict[str, Mean]]]:
    """The step with errors for what a compiled program takes without a word.

    These are lengths below 0 or above the time there is, and a loss that is not finite, which labels and ids out of
    range and tokens past a cache's capacity come to: the message holds the range of each array of the batch. The error
    is raised from inside the program, so it comes when results are read, as JAX's own with the message in it. Of a step
    that a guard keeps out nothing is said.

    Args:
      step: `step(state, batch) -> (state, metrics)`.
    """

    def checked(state: Any, batch: Batch) -> tuple[Any, dict[str, Mean]]:
        _check_lengths(batch)
        new_state, sums = step(state, batch)
        _check_loss(state.step, sums["loss"], batch)
        return new_state, sums

    functional = checkify.checkify(checked, errors=checkify.user_checks)

    def raising(state: Any, batch: Batch) -> tuple[Any, dict[str, Mean]]:
        error, results = functional(state, batch)
        jax.debug.callback(_throw, error)
        return results

    return raising


def _check_lengths(batch: Batch) -> None:
    if "lengths" in batch and "x" in batch:
        lengths, time = jnp.asarray(batch["lengths"]), jnp.shape(batch["x"])[1]
        checkify.check(
            jnp.all((lengths >= 0) & (lengths <= time)),
            f"make_step: batch['lengths'] holds {{least}} to {{most}}, wanted 0 to {time}",
            least=lengths.min(),
            most=lengths.max(),
        )


def _check_loss(step: Any, loss: Mean, batch: Batch) -> None:
    numbers = {path: jnp.asarray(leaf) for path, leaf in flatten(batch).items() if jnp.size(leaf)}
    numbers = {path: leaf for path, leaf in numbers.items() if jnp.issubdtype(leaf.dtype, jnp.number)}
    ranges = ", ".join(f"{path} {{least{i}}} to {{most{i}}}" for i, path in enumerate(numbers))
    values: dict[str, Any] = {f"least{i}": leaf.min() for i, leaf in enumerate(numbers.values())}
    values |= {f"most{i}": leaf.max() for i, leaf in enumerate(numbers.values())}
    message = f"make_step: the loss of the step after {{step}} is {{loss}}; the batch holds {ranges}"
    checkify.check(jnp.isfinite(loss.total), message, step=step, loss=loss.total, **values)


def _throw(error: checkify.Error) -> None:
    # Not by its own method, whose traceback is longer than what it says.
    if (message := error.get()) is not None:
        raise ValueError(message)
