"""A sweep: many small models trained at once, in one program."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets.train.loop import Callback, every, fit
from jaxnets.train.programs import DeviceResident, from_host, is_resident
from jaxnets.train.state import State, initial_state, model_inputs
from jaxnets.train.step import Metric, Step, make_step
from jaxnets.typing import Batch

Hyper = Mapping[str, Any]
"""Hyperparameters by name: an array with a value for each member, or the values of one member."""

_AXES = State(step=None, params=0, opt_state=0, collections=0, carry=0, key=0, ema=0, loss_scale=0, guard=0)
"""The members lie along the first axis of everything but the step, which they take together."""


def grid(keys: Any, hyper: Mapping[str, Sequence[Any]]) -> tuple[Any, dict[str, np.ndarray]]:
    """The product of keys and values for `sweep`, the keys going round fastest.

    >>> keys, hyper = grid(jax.random.split(jax.random.key(0), 2), {"learning_rate": [0.1, 0.01], "momentum": [0.9]})
    >>> len(keys), hyper["learning_rate"].tolist()
    (4, [0.1, 0.1, 0.01, 0.01])
    """
    *values, rows = zip(*itertools.product(*hyper.values(), range(len(keys))), strict=True)
    return keys[np.array(rows)], {name: np.array(column) for name, column in zip(hyper, values, strict=True)}


def sweep(
    model: Any,
    make_optimizer: Callable[[Hyper], optax.GradientTransformation],
    loss: Metric,
    data: DeviceResident | Iterable[Batch],
    *,
    steps: int,
    keys: Any,
    hyper: Hyper | None = None,
    record_every: int | None = None,
    callbacks: Sequence[Callback] = (),
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> tuple[State, dict[str, np.ndarray]]:
    """Trains a member for each key and set of hyperparameters, all on the same batches.

    A member comes to what its own run comes to, up to rounding, and does not notice one that diverges.

        keys, hyper = grid(jax.random.split(jax.random.key(0), 4), {"learning_rate": [1e-3, 1e-2]})
        make_optimizer = lambda hyper: optimizer("adam", hyper["learning_rate"])
        states, metrics = sweep(model, make_optimizer, loss, data, steps=1000, keys=keys, hyper=hyper)
        print(sweep_table(hyper, metrics))

    Args:
      model: As for `make_step`.
      make_optimizer: From the hyperparameters of a member, scalars that are traced, to its optimizer.
      loss: As for `make_step`; it finds the hyperparameters of its member in `batch["hyper"]`, and so do metrics.
      data: As for `fit`.
      steps: As for `fit`.
      keys: [M] PRNG keys, one for each member.
      hyper: Arrays [M] by name, that go with the keys; `grid` makes all combinations.
      record_every: Steps between two records; by default a twentieth of all.
      callbacks: As for `fit`; the state holds all members and metrics are arrays [M].
      mesh: Devices to spread the members over, M being a multiple of their number; None for one device.
      **options: As for `make_step`.

    Returns:
      The states, as `make_sweep` makes them, and the metrics: `"step"` [R] and arrays [R, M], means since the record
      before.

    Raises:
      ValueError: If there are not as many values as keys, or as `make_step` and `fit` do.
    """
    first, data = _first_batch(data)
    state, step = make_sweep(model, make_optimizer, loss, first, keys=keys, hyper=hyper, mesh=mesh, **options)
    records: list[dict[str, Any]] = []

    def record(step: int, state: Any, metrics: Mapping[str, Any]) -> None:
        records.append({"step": step, **metrics})

    recorder = every(record_every or max(1, steps // 20), record, at_end=True)
    state, _ = fit(state, step, data, steps=steps, callbacks=[*callbacks, recorder])
    return state, {name: np.array([each[name] for each in records]) for name in records[0]} if records else {}


def make_sweep(
    model: Any,
    make_optimizer: Callable[[Hyper], optax.GradientTransformation],
    loss: Metric,
    batch: Batch,
    *,
    keys: Any,
    hyper: Hyper | None = None,
    mesh: jax.sharding.Mesh | None = None,
    **options: Any,
) -> tuple[State, Step]:
    """The state and the step of all members together, for `fit`, checkpoints and all that takes the one of a model.

    The leaves of the state have the members [M] for their first axis, all but `step`, and so have the metrics.

    Args:
      model: As for `sweep`, like all the rest.
      make_optimizer: See there.
      loss: See there.
      batch: One batch, for its shapes.
      keys: See there.
      hyper: See there.
      mesh: See there.
      **options: See there.

    Raises:
      ValueError: If there are not as many values as keys.
    """
    values = {name: jnp.asarray(column) for name, column in (hyper or {}).items()}
    if wrong := {name: column.shape for name, column in values.items() if column.shape != (len(keys),)}:
        raise ValueError(f"sweep: hyper wants a value for each of {len(keys)} keys, got shapes {wrong}")
    kept = {name: options[name] for name in ("ema", "precision", "guard") if name in options}

    def created(key: Any, hyper: Hyper, inputs: Any) -> State:
        return initial_state(model, make_optimizer(hyper), inputs, key, **kept)

    def step(state: State, batch: Batch) -> Any:
        def one(hyper: Hyper, state: State, batch: Batch) -> Any:
            return make_step(model, make_optimizer(hyper), loss, **options)(state, {**batch, "hyper": hyper})

        return jax.vmap(one, in_axes=(0, _AXES, None), out_axes=(_AXES, 0))(values, state, batch)

    state = jax.jit(jax.vmap(created, in_axes=(0, 0, None), out_axes=_AXES))(keys, values, model_inputs(batch))
    if mesh is not None:
        over_all = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
        alone = jax.NamedSharding(mesh, jax.P())
        state = jax.device_put(state, jax.tree.map(lambda leaf: over_all if leaf.ndim else alone, state))
    return state, step


def swept(function: Callable[..., Any]) -> Callable[..., Any]:
    """From a function of a state and a batch, such as `make_eval_step` makes, to that of all members' state.

    evaluate(swept(eval_step), states, batches)
    """
    return jax.vmap(function, in_axes=(_AXES, None))


def member(states: State, i: int) -> State:
    """The state of one member."""
    return jax.tree.map(lambda leaf: leaf[i] if leaf.ndim else leaf, states)


def sweep_table(hyper: Hyper, metrics: Mapping[str, Any], *, order: str = "loss") -> str:
    """The hyperparameters and the last metrics of each member as a table, the least of a metric first.

    >>> metrics = {"step": np.array([9]), "loss": np.array([[0.5, np.nan, 0.25]])}
    >>> print(sweep_table({"learning_rate": [0.1, 1.0, 0.01]}, metrics))
    member  learning_rate  loss
         2           0.01  0.25
         0            0.1   0.5
         1              1   nan
    """
    columns = {**hyper, **{name: values[-1] for name, values in metrics.items() if name != "step"}}
    rows = [("member", *columns)]
    for i in np.argsort(columns[order], kind="stable"):  # what is not a number comes last
        rows.append((str(i), *(f"{column[i]:.4g}" for column in columns.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _first_batch(data: Any) -> tuple[Batch, Any]:
    """A batch for its shapes, and the data with none missing."""
    if is_resident(data):
        return data.batch(data.order(0), 0), data
    batches = iter(data)
    batch = next(batches, None)
    if batch is None:
        raise ValueError("sweep: data has no batch")
    return from_host("sweep", batch), itertools.chain([batch], batches) if batches is data else data
