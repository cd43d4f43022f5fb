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
        loss: Callable[[Any, Any], Any] | None = None,
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
          loss: From y and the batch's own `y` to the number whose gradient with regard to the weights is wanted; None
            means half the sum of squares, and the gradient with regard to x too.
          time_major: Whether x and y have time first.
          variant: What it is, where that is not plain.
          differs: In what it cannot express ours.
          leaves_out: The results that cannot agree for this reason.
        """
        self._forward, self._time_major, self._leaves_out = problem.mode == "forward", time_major, leaves_out
        self.variant, self.differs = variant, differs
        params, self._back = jax.vjp(convert, jax.tree.map(jnp.asarray, dict(problem.weights)))
        inputs: tuple[Any, ...] = params, self._swapped(problem.batch["x"]), *others
        if loss is not None and not self._forward:
            inputs = *inputs, problem.batch["y"]

        def objective(params: Any, x: Any, *others: Any) -> Any:
            if loss is not None:
                return loss(apply(params, x)[0], *others)
            return jnp.sum(jnp.square(apply(params, x, *others)[0])) / 2

        gradient = jax.value_and_grad(objective, argnums=(0, 1) if loss is None else (0,))
        self._step, self._inputs = jax.jit(apply if self._forward else gradient), jax.device_put(inputs)
        start = time.perf_counter()
        # The jitted function finds this program again at its first call.
        compiled = self._step.lower(*self._inputs).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program_bytes = program_bytes(compiled)

    def results(self) -> Arrays:
        """The outputs and last states; or the loss, and its gradients with regard to our weights and, maybe, x."""
        found: dict[str, Any]
        if self._forward:
            y, states = self._step(*self._inputs)
            found = {"y": self._swapped(y), **states}
        else:
            loss, (params, *x) = self._step(*self._inputs)
            (weights,) = self._back(params)
            found = {"loss": loss, **dict(zip("x", map(self._swapped, x), strict=False)), **weights}
        return {name: np.asarray(value) for name, value in found.items() if name not in self._leaves_out}

    def run(self, steps: int) -> None:
        """Takes steps, each of which waits for the last: a CPU would run several at once."""
        for _ in range(steps):
            jax.block_until_ready(self._step(*self._inputs))

    def _swapped(self, array: Any) -> Any:
        return array.swapaxes(0, 1) if self._time_major else array


class CompiledDecoder:
    """A contender around `step(params, cache, tokens) -> (y, cache)`, jitted, its cache donated.

    The cache that a step gives back says again that the tokens are missing, so every step does the same work.

    Attributes:
      variant: What it is, where that is not plain.
      compile_seconds: Tracing, lowering and compiling.
      program_bytes: Of the program's temporaries, arguments and outputs.
    """

    def __init__(
        self,
        step: Callable[[Any, Any, Any], tuple[Any, Any]],
        params: Any,
        cache: Any,
        tokens: Any,
        *,
        held: Callable[[Any], Mapping[str, Any]] = lambda cache: {},
        variant: str = "",
    ):
        """Compiles the step.

        Args:
          step: The layer.
          params: Its weights.
          cache: Without the tokens.
          tokens: What is to be taken.
          held: From a cache to the keys `k` and values `v` [B, T, N, H] in it, where they must agree with ours.
          variant: What it is, where that is not plain.
        """
        self._step, self._held, self.variant = jax.jit(step, donate_argnums=1), held, variant
        self._params, self._cache, self._tokens = jax.device_put((params, cache, tokens))
        start = time.perf_counter()
        compiled = self._step.lower(self._params, self._cache, self._tokens).compile()
        self.compile_seconds = time.perf_counter() - start
        self.program_bytes = program_bytes(compiled)

    def results(self) -> Arrays:
        """The output, and what is held."""
        y = np.asarray(self._take())
        return {"y": y, **{name: np.asarray(value) for name, value in self._held(self._cache).items()}}

    def run(self, steps: int) -> None:
        """Takes steps, each of which waits for the last."""
        for _ in range(steps):
            jax.block_until_ready(self._take())

    def _take(self) -> Any:
        y, self._cache = self._step(self._params, self._cache, self._tokens)
        return y


def blocks(weights: Mapping[str, Any], place: str = "layer/layers_1/layer") -> list[dict[str, Any]]:
    """The weights of each block of our Transformer by their path in it: there they are stacked."""
    stacked = {path.removeprefix(f"{place}/"): value for path, value in weights.items() if path.startswith(place)}
    return [{path: value[i] for path, value in stacked.items()} for i in range(len(next(iter(stacked.values()))))]


def split_heads(path: str, value: Any, heads: int) -> Any:
    """A weight as Flax and Keras have it: in the kernels of attention the heads are an axis of their own."""
    if path.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return value.reshape(len(value), heads, -1)
    return value.reshape(heads, -1, value.shape[-1]) if path.endswith("out/kernel") else value
