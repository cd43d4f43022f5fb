"""Training runs of ours: by `fit`, as a sweep, one after the other, and in a bare loop."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxnets as jn
from benchmarks.case import Arrays, Problem
from benchmarks.peers.compiled import nested

_LEARNING_RATE = 1e-3


class Fitted:
    """A contender that takes its steps by `fit`, one run after the other.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: The first steps, which compile everything.
      program_bytes: Not asked for.
    """

    variant = ""
    program_bytes: Mapping[str, int] | None = None

    def __init__(self, runs: Sequence[tuple[Any, Any]], data: Any, *, watched: bool = False):
        """Takes three steps.

        Args:
          runs: Pairs of a state and a step.
          data: On the device.
          watched: Whether progress is shown, records are written, and checkpoints at every 100,000 steps.
        """
        self._data, self._watched = data, watched
        start = time.perf_counter()
        losses: list[Any] = []
        first = [jn.train.every(1, lambda step, state, metrics: losses.append(metrics["loss"]))]
        self._runs = [(jn.train.fit(*run, data, steps=3, callbacks=first)[0], run[1]) for run in runs]
        self._losses = np.stack(losses).reshape(len(runs), 3, -1)
        self.compile_seconds = time.perf_counter() - start

    def results(self) -> Arrays:
        """The losses of the first three steps, [3, members]."""
        return {"losses": np.concatenate(list(self._losses), axis=1)}

    def run(self, steps: int) -> None:
        """Takes steps in every run."""
        for i, (state, step) in enumerate(self._runs):
            with self._callbacks(int(state.step) + steps) as callbacks:
                state, _ = jn.train.fit(state, step, self._data, steps=int(state.step) + steps, callbacks=callbacks)
            self._runs[i] = state, step

    @contextlib.contextmanager
    def _callbacks(self, steps: int) -> Any:
        if not self._watched:
            yield []
            return
        with contextlib.ExitStack() as stack:
            shown = stack.enter_context(open(os.devnull, "w"))
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            show = stack.enter_context(jn.train.progress(steps, file=shown, bar=False))
            checkpoints = stack.enter_context(jn.train.Checkpoints(os.path.join(folder, "checkpoints")))
            lines = jn.train.JsonLines(os.path.join(folder, "metrics.jsonl"))
            yield [show, lines, jn.train.every(100_000, checkpoints)]


class Bare:
    """A contender that takes its steps in one compiled loop, over the same batches, with nothing around it.

    Attributes:
      variant: Nothing was chosen.
      compile_seconds: From Python to a program.
      program_bytes: Not asked for.
    """

    variant = ""
    program_bytes: Mapping[str, int] | None = None

    def __init__(self, state: Any, step: Callable[..., Any], data: Any):
        """Compiles the loop and takes three steps."""

        def loop(state: Any, data: Any, order: Any, count: Any) -> Any:
            def body(_: Any, carry: Any) -> Any:
                state, _, order = carry
                epoch, begun = jnp.divmod(state.step, data.steps_per_epoch)
                order = lax.cond(begun == 0, lambda: data.order(epoch), lambda: order)
                state, sums = step(state, data.batch(order, state.step))
                return state, sums["loss"], order

            shapes = jax.eval_shape(step, state, first)[1]["loss"]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return lax.fori_loop(0, count, body, (state, zeros, order))

        order = data.order(0)
        first = data.batch(order, 0)
        self._loop, self._data, self._order, self._state = jax.jit(loop, donate_argnums=0), data, order, state
        start = time.perf_counter()
        self._losses = [self._take(1) for _ in range(3)]
        self.compile_seconds = time.perf_counter() - start

    def results(self) -> Arrays:
        """The losses of the first three steps."""
        return {"losses": np.array(self._losses)[:, None]}

    def run(self, steps: int) -> None:
        """Takes steps in one call."""
        self._take(steps)

    def _take(self, steps: int) -> float:
        self._state, loss, self._order = self._loop(self._state, self._data, self._order, np.int32(steps))
        return float(loss.value)


def trainer(problem: Problem) -> Fitted | Bare:
    """One run."""
    data, model, loss = _made(problem)
    optimizer = jn.train.optimizer("adam", _LEARNING_RATE)
    state = jn.train.create(model, optimizer, data.batch(data.order(0), 0), key=jax.random.key(0))
    state = state.with_variables({"params": jax.tree.map(jnp.array, nested(problem.weights))})
    step = jn.train.make_step(model, optimizer, loss)
    if problem.options.get("bare"):
        return Bare(state, step, data)
    return Fitted([(state, step)], data, watched=True)


def sweep(problem: Problem) -> Fitted:
    """All members at once, or one after the other."""
    data, model, loss = _made(problem)
    members = problem.parameters["members"]
    keys, rates = jax.random.split(jax.random.key(0), members), np.geomspace(1e-4, 1e-2, members)
    batch = data.batch(data.order(0), 0)

    def make_optimizer(hyper: Mapping[str, Any]) -> Any:
        return jn.train.optimizer("adam", hyper["learning_rate"])

    if not problem.options.get("separate"):
        hyper = {"learning_rate": rates}
        return Fitted([jn.train.make_sweep(model, make_optimizer, loss, batch, keys=keys, hyper=hyper)], data)
    runs = []
    for key, rate in zip(keys, rates, strict=True):
        optimizer = make_optimizer({"learning_rate": float(rate)})
        step = jn.train.make_step(model, optimizer, loss)
        runs.append((jn.train.create(model, optimizer, batch, key=key), step))
    return Fitted(runs, data)


def model(parameters: Mapping[str, int]) -> Any:
    """The network that is trained."""
    return jn.models.MLP((parameters["hidden"],))


def _made(problem: Problem) -> tuple[Any, Any, Any]:
    def loss(logits: Any, batch: Any) -> Any:
        return jn.ops.cross_entropy(logits, batch["y"])

    data = jn.data.DeviceData(problem.batch, problem.parameters["batch"], seed=0)
    return data, model(problem.parameters), loss
