"""The loop: many steps in one compiled program, cut into calls short enough to be watched and stopped."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.train.guard import DivergedError, GuardState
from jaxnets.train.interruption import interruption
from jaxnets.train.memory import enough_memory
from jaxnets.train.processes import agreed, shared
from jaxnets.train.programs import (
    DeviceResident,
    Sums,
    from_host,
    in_place,
    is_resident,
    runs_scanned,
    scanned_runner,
    single_runner,
    streamed_runner,
)
from jaxnets.train.state import State
from jaxnets.train.step import EvalStep, Step
from jaxnets.typing import Batch, Count

Callback = Callable[[int, State | None, dict[str, Any]], object]
"""`callback(step, state, metrics)`; one that returns True ends the training."""

_LOGGER = logging.getLogger(__name__)


def fit(
    state: State,
    step: Step,
    data: DeviceResident | Iterable[Batch],
    *,
    steps: int,
    callbacks: Sequence[Callback] = (),
    seconds_per_call: float = 0.5,
    scan: bool | None = None,
) -> tuple[State, dict[str, Any]]:
    """Trains until `state.step` is `steps`; a state that has steps behind it goes on from there.

    Over device-resident data a call is one compiled program of many steps, as many as fit in `seconds_per_call`, cut
    at the multiples of every `every`. How the steps are cut into calls changes no bit of the result. The state is
    donated: use the one returned, and copy what a callback keeps.

    Ctrl-C ends the call in progress, runs the callbacks marked `on_interrupt` (checkpoints are) if a step was taken,
    and then raises KeyboardInterrupt; a second Ctrl-C raises at once. SIGTERM does the same where the program has no
    handler of its own for it, and raises `Terminated`. Where `fit` does not come to that within two seconds, as while a
    program is compiled, these callbacks run beside it, their `wait` too where they have one, and the process ends with
    code 143. All of this holds in a notebook's cell and in a coroutine. Other threads than the main one are not reached
    by signals: `fit` says so there, and a callback that returns True ends it. Processes that share the state stop
    together.

    Batches may come from anywhere: PyTorch's `DataLoader` and Grain's datasets are iterables of them. To go on where it
    stopped a run needs one that is told where to begin, as `data.ByStep` is, or that has a position to be saved:

        fit(state, step, ByStep(dataset), steps=1000)  # a grain.MapDataset of batches

        batches = iter(dataset)  # a grain.IterDataset of batches
        position = lambda: {"data": batches.get_state()}
        with Checkpoints(run / "checkpoints", extra=position) as checkpoints:
            state, extra = checkpoints.restore(state) or (state, {})
            if extra:
                batches.set_state(extra["data"])
            fit(state, step, batches, steps=1000, callbacks=[every(100, checkpoints)])

    Args:
      state: From `create`, or restored.
      step: From `make_step`; compiled here, once for every length of call.
      data: Device-resident, or an iterable of batches, which are mappings of NumPy's arrays, or of others that NumPy
        reads. An iterable with `seek(step)` is told where to begin; one that ends is begun again. A batch must not be
        written to once it was handed over.
      steps: Where to stop, counted from the first step of all.
      callbacks: Called with (step, state, metrics). One made by `every` is given the state; a plain one runs after
        each call, one call late so that the device never waits, and is given None for the state, which is gone by then.
        One that returns True ends the training there, and those of the same step or with `at_end` still run.
      seconds_per_call: About how long a call lasts.
      scan: Whether many steps go in one program, for device-resident data; None leaves it to `runs_scanned`. The two
        ways differ in the last bits: a resumed run must be told the way it began with.

    Returns:
      The state, and the metrics of the last call.

    Raises:
      ValueError: If the data ends early or `scan` is asked of data from the host.
      TypeError: If the data is neither a pytree with `batch` nor an iterable, or a batch is no mapping.
      MemoryError: If a device has too little memory, with what to change.
      DivergedError: If the guard kept too many steps in a row out, or in a sweep that of every member did.
      KeyboardInterrupt: After Ctrl-C; Terminated, which is one too, after SIGTERM.
    """
    step = in_place(step, state)
    if is_resident(data):
        scan = runs_scanned(step, state, data) if scan is None else scan
        run = (scanned_runner if scan else single_runner)(step, data)
    elif scan:
        raise ValueError("fit: scan=True needs device-resident data, got an iterable of batches")
    else:
        run = streamed_runner(step, data, int(state.step))

    done = begun_at = int(state.step)
    pace = _Pace(seconds_per_call)
    timed = [(callback, _Totals()) for callback in callbacks if isinstance(callback, _Every)]
    plain = [callback for callback in callbacks if not isinstance(callback, _Every)]
    metrics: dict[str, Any] = {}
    late: _Call | None = None
    ends = False

    def is_due(timer: _Every) -> bool:
        return done % timer.n == 0 or (timer.at_end and done == steps)

    def run_timed(timer: _Every, totals: _Totals) -> None:
        nonlocal ends
        ends |= timer.callback(done, state, totals.means()) is True
        totals.clear()

    def report(call: _Call) -> None:
        nonlocal metrics, ends
        sums, guard = jax.device_get((call.sums, call.guard))
        pace.saw(call)
        if guard is not None and np.all(guard.stopped):
            raise _diverged(state, guard, data)
        metrics = _Totals().add(sums).means()
        for _, totals in timed:
            totals.add(sums)
        for callback in plain:
            ends |= callback(call.end, None, metrics) is True

    def save_beside() -> None:
        for timer, totals in timed:
            if timer.on_interrupt:
                if done > begun_at and not shared(state):
                    timer.callback(done, state, totals.means())
                getattr(timer.callback, "wait", lambda: None)()

    with enough_memory("fit"), interruption(save_beside) as interrupted:
        while True:
            length, stop = agreed(state, pace.length, interrupted.first)
            if done >= steps or ends or stop is not None:
                break
            cuts = [steps, done + length] + [done + timer.n - done % timer.n for timer, _ in timed]
            count, begun = min(cuts) - done, time.perf_counter()
            state, sums = run(state, done, count)
            done += count
            call, late = late, _Call(done, count, sums, begun, jax.tree.map(jnp.copy, state.guard))
            if call is not None:
                report(call)
            due = [(timer, totals) for timer, totals in timed if is_due(timer)]
            if due:
                report(late)
                late = None
            for timer, totals in due:
                with interrupted.saving if timer.on_interrupt else nullcontext():
                    run_timed(timer, totals)
        if stop is not None:
            _LOGGER.warning("stopping after this call")
        if late is not None:
            report(late)
        # It may have come while the last call was reported.
        _, stop = agreed(state, 0, stop or interrupted.first)
        if stop is not None:
            with interrupted.saving:
                interrupted.ends.set()
                for timer, totals in timed:
                    if timer.on_interrupt and done > begun_at and not is_due(timer):
                        run_timed(timer, totals)
            raise stop
        if ends:
            for timer, totals in timed:
                if timer.at_end and not is_due(timer):
                    run_timed(timer, totals)
    return state, metrics


def every(n: int, callback: Callback, *, on_interrupt: bool | None = None, at_end: bool = False) -> Callback:
    """Makes a callback for `fit` that runs at the multiples of n steps, with the state and the means since it last ran.

    Args:
      n: Steps between two runs.
      callback: Called with (step, state, metrics); the state must be copied to be kept.
      on_interrupt: Whether Ctrl-C runs it too, wherever it falls; by default as the attribute `on_interrupt` of the
        callback says, False without one.
      at_end: Whether the last step that `fit` takes runs it too, wherever it falls.

    Raises:
      ValueError: If n is not positive.
    """
    if n < 1:
        raise ValueError(f"every: n must be positive, got {n}")
    if on_interrupt is None:
        on_interrupt = getattr(callback, "on_interrupt", False)
    return _Every(n, callback, on_interrupt, at_end)


def evaluate(eval_step: EvalStep, state: State, data: Iterable[Batch]) -> dict[str, Any]:
    """The means over all of the data, exact whatever the sizes of the batches.

    Args:
      eval_step: From `make_eval_step`; compiled here, once for each shape of batch.
      state: Not donated.
      data: Batches; one pass is made.

    Raises:
      ValueError: If there is no batch.
    """
    program, totals, late = jax.jit(eval_step), _Totals(), None
    for batch in data:
        late, ended = program(state, from_host("evaluate", batch)), late
        if ended is not None:
            totals.add(jax.device_get(ended))
    if late is None:
        raise ValueError("evaluate: data has no batch")
    return totals.add(jax.device_get(late)).means()


@dataclasses.dataclass(frozen=True)
class _Every:
    n: int
    callback: Callback
    on_interrupt: bool
    at_end: bool

    def __call__(self, step: int, state: State | None, metrics: dict[str, Any]) -> None:
        self.callback(step, state, metrics)


@dataclasses.dataclass
class _Call:
    """Steps under way on the device: where they end, their sums, when they were handed over, and the guard after."""

    end: int
    count: int
    sums: Sums
    begun: float
    guard: GuardState | None


class _Pace:
    """How many steps a call should have, from how long the last ones took."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.length = 1
        self._last_end = 0.0

    def saw(self, call: _Call) -> None:
        """Takes note of a call that has just ended."""
        now = time.perf_counter()
        elapsed = now - max(call.begun, self._last_end)
        self._last_end = now
        wanted = self.seconds * call.count / max(elapsed, 1e-9)
        # A call seen late looks shorter than it was; growth by two at most keeps that harmless.
        self.length = int(min(max(wanted, 1), 2 * self.length))


class _Totals:
    """Sums on the host in float64, so that no count is too large."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Any, Any]] = {}
        self._counts: set[str] = set()

    def add(self, sums: Sums) -> "_Totals":
        self._counts |= {name for name, mean in sums.items() if isinstance(mean, Count)}
        for name, mean in sums.items():
            total, weight = self._sums.get(name, (0, 0))
            self._sums[name] = total + np.asarray(mean.total, np.float64), weight + np.asarray(mean.weight, np.float64)
        return self

    def means(self) -> dict[str, Any]:
        # The loss first: what comes out of a program is sorted by name.
        sums = sorted(self._sums.items(), key=lambda item: item[0] != "loss")
        return {name: self._value(name, *pair) for name, pair in sums}

    def _value(self, name: str, total: Any, weight: Any) -> Any:
        value = total
        if name not in self._counts:
            value = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight != 0)
        # A sweep has an array, a number for each member.
        return float(value) if value.ndim == 0 else value

    def clear(self) -> None:
        self._sums.clear()


def _diverged(state: State, guard: GuardState, data: Any) -> DivergedError:
    # In a sweep each member has its own: the first that stopped is told of.
    since, in_row = int(np.min(guard.since)), int(np.max(guard.in_row))
    where = f"batch {since} of the data"
    if is_resident(data):
        epoch, i = divmod(since, data.steps_per_epoch)
        where = f"batch {i} of epoch {epoch}"
    message = (
        f"fit: the loss or its gradient was not finite, or leapt, in {in_row} steps in a row after step {since}; the "
        f"first took {where}, counted from 0. The parameters are those after step {since}"
    )
    return DivergedError(message, since, state)
