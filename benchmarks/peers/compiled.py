"""A training step compiled by JAX: what the peers written in JAX share."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.case import Arrays


class CompiledStep:
    """A contender around `step(state, batch) -> (state, report)`, jitted, its state donated.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: Tracing, lowering and compiling.
      program_bytes: Of the program's temporaries, arguments and outputs; the outputs reuse `aliased` of the arguments.
    """

    variant = ""

    def __init__(
        self,
        step: Callable[[Any, Any], tuple[Any, Any]],
        state: Any,
        batch: Any,
        *,
        logits: Callable[[Any, Any], Any],
        loss: Callable[[Any], Any] = lambda report: report,
    ):
        """Compiles the step.

        Args:
          step: The training step, not jitted.
          state: Where it starts.
          batch: What every step takes.
          logits: From a state and a batch to the logits in training.
          loss: From a step's report to the loss, as it was before the step.
        """
        self._step = jax.jit(step, donate_argnums=0)
        self._state, self._batch = jax.device_put((state, batch))
        self._logits, self._loss = jax.jit(logits), loss
        start = time.perf_counter()
        # The jitted function finds this program again at its first call.
        compiled = self._step.lower(self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program_bytes = program_bytes(compiled)

    def results(self) -> Arrays:
        """The logits, and the losses before the first step and after one and two."""
        logits = np.asarray(self._logits(self._state, self._batch))
        losses = []
        for _ in range(3):
            self._state, report = self._step(self._state, self._batch)
            losses.append(float(self._loss(report)))
        return {"logits": logits, "losses": np.array(losses)}

    def run(self, steps: int) -> None:
        """Takes steps, and waits for the last."""
        for _ in range(steps):
            self._state, _ = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree of parameters by path."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flattened(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that `flattened` came from."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def program_bytes(compiled: Any) -> dict[str, int] | None:
    """The memory that a compiled program asks for, by kind; None where the backend does not tell."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return {
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
    }
