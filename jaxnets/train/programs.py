"""The compiled programs behind `fit`: many steps in one, or one step at a time."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnets.train.paths import flatten
from jaxnets.train.state import State
from jaxnets.train.step import Step
from jaxnets.typing import Batch, Mean

_LOGGER = logging.getLogger(__name__)

Sums = dict[str, Mean]
Runner = Callable[[State, int, int], tuple[State, Sums]]
"""`run(state, done, count)` takes `count` steps from step `done` on; returns without waiting for the device."""


@runtime_checkable
class DeviceResident(Protocol):
    """Data that lives on the device: a pytree whose leaves are its arrays, so that no program has them built in."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    def order(self, epoch: Any) -> Any:
        """The order of an epoch's rows, an array; a pure function of a traced epoch."""

    def batch(self, order: Any, i: Any) -> Batch:
        """The i-th batch of an epoch, a pure function of a traced i."""


def runs_scanned(step: Step, state: State, data: Any) -> bool:
    """Whether `fit` puts many steps in one program: always, save for what a CPU does badly inside a loop.

    On a CPU the gradient of XLA's convolution is many times slower inside a loop than outside, so a step that
    holds one runs alone. Batches from the host run alone too.
    """
    if not is_resident(data):
        return False
    if next(iter(state.step.devices())).platform != "cpu":
        return True
    shapes, structure = jax.tree.flatten(jax.eval_shape(lambda *trees: trees, state, _batch_shape(data)))
    return not _holds_convolution(step, structure, tuple(shapes))


@functools.lru_cache(maxsize=64)
def _holds_convolution(step: Step, structure: Any, shapes: tuple[Any, ...]) -> bool:
    # Lowering takes a tenth of a second, which short runs, one after the other, would feel.
    state, batch = jax.tree.unflatten(structure, shapes)
    return "stablehlo.convolution" in jax.jit(step).lower(state, batch).as_text()


def in_place(step: Step, state: State) -> Step:
    """The step with every leaf of its state left on the devices where the given state has it.

    A compiler free to choose would place some anew, and the next call would be compiled for that.
    """
    if len(state.step.sharding.device_set) == 1:
        return step
    return _InPlace(step, tuple(leaf.sharding for leaf in jax.tree.leaves(state)))


@dataclasses.dataclass(frozen=True)
class _InPlace:
    """Equal to another of the same step and places, so that one program serves every call of `fit`."""

    step: Step
    places: tuple[Any, ...]

    def __call__(self, state: State, batch: Batch) -> tuple[State, Sums]:
        state, sums = self.step(state, batch)
        return self.put(state), sums

    def put(self, state: State) -> State:
        """The state where it belongs."""
        leaves, structure = jax.tree.flatten(state)
        return jax.tree.unflatten(structure, map(lax.with_sharding_constraint, leaves, self.places))


def scanned_runner(step: Step, data: Any) -> Runner:
    """Each call is one program, whatever its number of steps."""
    order = None

    def run(state: State, done: int, count: int) -> tuple[State, Sums]:
        nonlocal order
        if order is None:
            # The program makes the order of an epoch at its beginning; only one begun earlier must be brought along.
            epoch, begun = divmod(done, data.steps_per_epoch)
            order = data.order(epoch) if begun else _zeros(jax.eval_shape(data.order, epoch))
        state, sums, order = _many_steps(step, state, data, order, np.int32(count))
        return state, sums

    return run


def single_runner(step: Step, data: Any) -> Runner:
    """Each step is one program, which cuts its own batch."""
    epoch, order = -1, None
    zeros: Any = None

    def run(state: State, done: int, count: int) -> tuple[State, Sums]:
        nonlocal epoch, order, zeros
        if zeros is None:
            zeros = _zeros(_sums_shape(step, state, _batch_shape(data)))
        sums = zeros
        for at in range(done, done + count):
            if epoch != at // data.steps_per_epoch:
                epoch = at // data.steps_per_epoch
                order = data.order(epoch)
            state, sums = _one_step(step, state, data, order, sums)
        return state, sums

    return run


def streamed_runner(step: Step, data: Any, done: int) -> Runner:
    """Each step is one program, fed from the host; the device works on a batch while the next one is made."""
    if hasattr(data, "seek"):
        data.seek(done)
    batches = _without_end(data)
    zeros: Any = None
    seen: set[Any] = set()
    announced = len(getattr(data, "bounds", ()))  # shapes that a loader says it has

    def run(state: State, done: int, count: int) -> tuple[State, Sums]:
        nonlocal zeros
        sums = zeros
        for _ in range(count):
            batch = from_host("fit", next(batches))
            _tell_new_shapes(seen, batch, announced)
            if sums is None:
                sums = zeros = _zeros(_sums_shape(step, state, batch))
            state, sums = _one_batch(step, state, batch, sums)
        return state, sums

    return run


def is_resident(data: Any) -> bool:
    """Whether data is device-resident (True) or an iterable (False); raises TypeError if it is neither."""
    if not isinstance(data, DeviceResident):
        if not isinstance(data, Iterable):
            raise TypeError(f"fit: data must be device-resident or an iterable of batches, got {type(data).__name__}")
        return False
    if jax.tree_util.all_leaves([data]):
        raise TypeError(f"fit: device-resident data must be a pytree of its arrays, got {type(data).__name__}")
    return True


def from_host(op: str, batch: Any) -> Batch:
    """A batch of any library, its arrays as NumPy's where they are of a kind that JAX does not know, such as PyTorch's.

    Raises:
      TypeError: If it is no mapping.

    >>> from_host("fit", {"x": np.ones(2)})
    {'x': array([1., 1.])}
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f'{op}: a batch must be a mapping, such as {{"x": ..., "y": ...}}, got {type(batch).__name__}')
    return jax.tree.map(lambda leaf: np.asarray(leaf) if _is_foreign(leaf) else leaf, batch)


def _is_foreign(leaf: Any) -> bool:
    return hasattr(leaf, "__array__") and not isinstance(leaf, np.ndarray | np.generic | jax.Array)


def _tell_new_shapes(seen: set[Any], batch: Batch, expected: int) -> None:
    """Warns of a batch that the step is compiled anew for, unless so many shapes are expected."""
    shapes = tuple((jnp.shape(leaf), getattr(leaf, "dtype", None)) for leaf in jax.tree.leaves(batch))
    if shapes not in seen:
        if len(seen) >= max(expected, 1):
            told = ", ".join(f"{path} {leaf.dtype}{list(jnp.shape(leaf))}" for path, leaf in flatten(batch).items())
            _LOGGER.warning("fit: the step is compiled again, for a batch of other shapes: %s", told)
        seen.add(shapes)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 3))
def _many_steps(step: Step, state: State, data: Any, order: Any, count: Any) -> tuple[State, Sums, Any]:
    """Takes `count` steps, epoch by epoch: the outer loop shuffles, the inner one steps."""
    end = state.step + count

    def rest_of_epoch(carry: tuple[State, Sums, Any]) -> tuple[State, Sums, Any]:
        state, sums, order = carry
        epoch, begun = jnp.divmod(state.step, data.steps_per_epoch)
        order = lax.cond(begun == 0, lambda: data.order(epoch), lambda: order)
        count = jnp.minimum(data.steps_per_epoch - begun, end - state.step)

        def body(_: Any, carry: tuple[State, Sums]) -> tuple[State, Sums]:
            return _next(step, *carry, _next_batch(carry[0], data, order))

        return *lax.fori_loop(0, count, body, (state, sums)), order

    sums = _zeros(_sums_shape(step, state, _batch_shape(data)))
    state, sums, order = lax.while_loop(lambda carry: carry[0].step < end, rest_of_epoch, (state, sums, order))
    # What a loop hands out may lie elsewhere than what it goes round with.
    return step.put(state) if isinstance(step, _InPlace) else state, sums, order


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _one_step(step: Step, state: State, data: Any, order: Any, sums: Sums) -> tuple[State, Sums]:
    return _next(step, state, sums, _next_batch(state, data, order))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _one_batch(step: Step, state: State, batch: Batch, sums: Sums) -> tuple[State, Sums]:
    return _next(step, state, sums, batch)


def _next(step: Step, state: State, sums: Sums, batch: Batch) -> tuple[State, Sums]:
    # The inner jit is traced once for all the programs that hold the step.
    state, new_sums = jax.jit(step)(state, batch)
    return state, jax.tree.map(jnp.add, sums, new_sums)


def _next_batch(state: State, data: Any, order: Any) -> Batch:
    return data.batch(order, state.step % data.steps_per_epoch)


def _batch_shape(data: Any) -> Any:
    return jax.eval_shape(lambda data: data.batch(data.order(0), 0), data)


def _sums_shape(step: Step, state: State, batch: Any) -> Any:
    return jax.eval_shape(jax.jit(step), state, batch)[1]


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _without_end(data: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError("fit: data has no more batches")
