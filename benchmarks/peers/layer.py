"""One layer compiled by JAX, or its gradient: what the peers written in JAX share."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.case import Arrays, Problem
from benchmarks.peers.compiled import program_bytes


class CompiledLayer:
    """A contender around `apply(params, x, *others) -> (y, states)`: that, or its gradient, jitted.

    Attributes:
      variant: What it is, where that is not plain.
      differs: In what it cannot express ours.
      compile_seconds: Tracing, lowering and compiling.
      program_bytes: Of the program's temporaries, arguments and outputs.
    """

    def __init__(
        self,
        problem: Problem,
        convert: Callable[[Mapping[str, Any]], Any],
        apply: Callable[..., tuple[Any, Mapping[str, Any]]],
        *others: Any,
        time_major: bool = False,
        variant: str = "",
        differs: str = "",
        leaves_out: tuple[str, ...] = (),
    ):
        """Compiles the step.

        Args:
          problem: What to solve.
          convert: From our weights to the contender's, an affine map: its transpose brings gradients back.
          apply: The layer, from x to y, and the last states by name where it has any.
          *others: More arguments for it.
          time_major: Whether x and y have time first.
          variant: What it is, where that is not plain.
          differs: In what it cannot express ours.
          leaves_out: The results that cannot agree for this reason.
        """
        self._forward, self._time_major, self._leaves_out = problem.mode == "forward", time_major, leaves_out
        self.variant, self.differs = variant, differs
        params, self._back = jax.vjp(convert, jax.tree.map(jnp.asarray, dict(problem.weights)))
        self._inputs = jax.device_put((params, self._swapped(problem.batch["x"]), *others))

        def objective(params: Any, x: Any, *others: Any) -> Any:
            y, _ = apply(params, x, *others)
            return jnp.sum(jnp.square(y)) / 2

        self._step = jax.jit(apply if self._forward else jax.value_and_grad(objective, argnums=(0, 1)))
        start = time.perf_counter()
        # The jitted function finds this program again at its first call.
        compiled = self._step.lower(*self._inputs).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program_bytes = program_bytes(compiled)

    def results(self) -> Arrays:
        """The outputs and last states; or the loss, and its gradients with regard to x and our weights."""
        found: dict[str, Any]
        if self._forward:
            y, states = self._step(*self._inputs)
            found = {"y": self._swapped(y), **states}
        else:
            loss, (params, x) = self._step(*self._inputs)
            (weights,) = self._back(params)
            found = {"loss": loss, "x": self._swapped(x), **weights}
        return {name: np.asarray(value) for name, value in found.items() if name not in self._leaves_out}

    def run(self, steps: int) -> None:
        """Takes steps, each of which waits for the last: a CPU would run several at once."""
        for _ in range(steps):
            jax.block_until_ready(self._step(*self._inputs))

    def _swapped(self, array: Any) -> Any:
        return array.swapaxes(0, 1) if self._time_major else array


class CompiledDecoder:
    """A contender around `step(params, cache, token) -> (y, cache)`, jitted, its cache donated.

    The cache that a step gives back says again that the last token is missing, so every step does the same work.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: Tracing, lowering and compiling.
      program_bytes: Of the program's temporaries, arguments and outputs.
    """

    variant = ""

    def __init__(self, step: Callable[[Any, Any, Any], tuple[Any, Any]], params: Any, cache: Any, token: Any):
        """Compiles the step."""
        self._step = jax.jit(step, donate_argnums=1)
        self._params, self._cache, self._token = jax.device_put((params, cache, token))
        start = time.perf_counter()
        compiled = self._step.lower(self._params, self._cache, self._token).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program_bytes = program_bytes(compiled)

    def results(self) -> Arrays:
        """The output of the last token."""
        return {"y": np.asarray(self._take())}

    def run(self, steps: int) -> None:
        """Takes steps, each of which waits for the last."""
        for _ in range(steps):
            jax.block_until_ready(self._take())

    def _take(self) -> Any:
        y, self._cache = self._step(self._params, self._cache, self._token)
        return y
