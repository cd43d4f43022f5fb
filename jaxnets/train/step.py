"""The step: one pure function from a state and a batch to the next state and its metrics."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets.train.accumulation import gradient_of
from jaxnets.train.average import averaged
from jaxnets.train.checks import with_checks
from jaxnets.train.guard import Guard, guarded
from jaxnets.train.precision import Precision, in_precision, scaled, unscaled
from jaxnets.train.state import State, model_inputs
from jaxnets.typing import Batch, Mean

Metric = Callable[[Any, Batch], Mean]
"""From the model's outputs and the batch to a mean; losses have the same form."""

Apply = Callable[[Any, Batch, bool, Any], tuple[Any, Any]]
"""`apply(variables, batch, train, rngs) -> (outputs, collections)`, the collections as they are afterwards.

A carry that the state holds is in `variables["carry"]`, and the one for the next batch in `collections["carry"]`.
"""

Step = Callable[[State, Batch], tuple[State, dict[str, Mean]]]
EvalStep = Callable[[State, Batch], dict[str, Mean]]


def make_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    loss: Metric,
    *,
    metrics: Mapping[str, Metric] | None = None,
    apply: Apply | None = None,
    augment: Callable[[Any, Batch], Batch] | None = None,
    accumulate: int = 1,
    precision: Precision | None = None,
    ema: float | None = None,
    guard: Guard | None = None,
    checks: bool = False,
) -> Step:
    """Makes the training step, pure and not yet compiled: it works under `jit`, `scan` and `vmap` alike.

    What a step draws at random depends on `state.key` and `state.step` alone. A batch of weight 0 has loss 0 and
    gradient 0; the step still counts, and decay and momentum still act.

    Args:
      model: Anything with the `apply` of a Flax module, called as `model(x, train=True)`.
      optimizer: The one that the state was created with.
      loss: Gives what is minimised, the mean over the batch.
      metrics: More means to report, by name; `"loss"` is taken.
      apply: For models that are not fed by `"x"` alone; the model is then not called in any other way.
      augment: Changes the batch before the model and the loss see it, inside the program: `augment(key, batch)`.
      accumulate: In how many parts the batch is taken, one after another, which needs less memory: the gradient is
        that of the whole batch, masked and ragged ones too. Statistics of a batch are those of its parts in turn.
      precision: In which types to compute; None as the model does by itself. This and what follows is given to
        `create` as well, for what the state is to hold.
      ema: How much of the moving average of all variables stays at each step, such as 0.999; None for no average.
        Where there is one, `make_eval_step` and `predict` take it.
      guard: Keeps steps out whose loss or gradient is not finite.
      checks: Whether the step raises at lengths out of range, and at a loss that is not finite, as that of labels and
        ids out of range and of a cache that is full: for finding mistakes, since it costs time.

    Returns:
      `step(state, batch) -> (state, metrics)`, where metrics hold sums, `Mean(total, weight)`.

    Raises:
      ValueError: If a metric has a name that is taken, or accumulate is not positive; the step: if the arrays of a
        batch that is to be cut differ in length, or the state was created with other options.
    """
    if accumulate < 1:
        raise ValueError(f"make_step: accumulate must be at least 1, got {accumulate}")
    measures = _measures("make_step", loss, metrics)
    apply = in_precision(apply or _flax_apply(model), precision)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Mean]]:
        _check_state(state, precision, ema, guard)

        def objective(params: Any, collections: Any, batch: Batch, keys: Any) -> tuple[jax.Array, Any]:
            rngs = dict(zip(("params", "dropout"), keys, strict=True))
            outputs, collections = apply({"params": params, **collections}, batch, True, rngs)
            sums = {name: measure(outputs, batch) for name, measure in measures.items()}
            return scaled(_value_or_zero(sums["loss"]), state.loss_scale), (sums, collections)

        augment_key, *keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        if augment is not None:
            batch = augment(augment_key, batch)

        if state.carry is not None and accumulate > 1:
            raise ValueError(f"make_step: accumulate must be 1 where a carry is kept, got {accumulate}")
        kept = state.collections if state.carry is None else {**state.collections, "carry": state.carry}
        gradient, sums, kept = gradient_of(objective, state.params, kept, batch, keys, parts=accumulate)
        collections = {name: value for name, value in kept.items() if name != "carry"}
        gradient = unscaled(gradient, state.loss_scale)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1, params=params, opt_state=opt_state, collections=collections, carry=kept.get("carry")
        )
        if ema is not None:
            new_state = new_state.replace(ema=averaged(state.ema, new_state.variables, ema, state.step))
        if guard is not None or state.loss_scale is not None:
            new_state, sums = guarded(guard, precision, state, new_state, gradient, sums)
        return new_state, sums

    return with_checks(step) if checks else step


def make_eval_step(
    model: Any,
    loss: Metric,
    *,
    metrics: Mapping[str, Metric] | None = None,
    apply: Apply | None = None,
    precision: Precision | None = None,
) -> EvalStep:
    """Makes the evaluation step `eval_step(state, batch) -> metrics`: the model with `train=False`, nothing changed.

    Where the state has a moving average, the model is taken with that.

    Args:
      model: As for `make_step`.
      loss: As for `make_step`; reported as `"loss"`.
      metrics: More means to report, by name.
      apply: As for `make_step`.
      precision: As for `make_step`, but for a scale of the loss, which there is none of here.

    Raises:
      ValueError: If a metric has a name that is taken.
    """
    measures = _measures("make_eval_step", loss, metrics)
    apply = in_precision(apply or _flax_apply(model), precision)

    def eval_step(state: State, batch: Batch) -> dict[str, Mean]:
        outputs, _ = apply(state.averages, batch, False, {})
        return {name: measure(outputs, batch) for name, measure in measures.items()}

    return eval_step


def predict(model: Any, state: State, x: Any, *, batch_size: int = 256, apply: Apply | None = None) -> Any:
    """The model's outputs for all of x, batch by batch in one compiled program.

    Args:
      model: As for `make_step`.
      state: Its parameters and collections are used, or their moving average where it has one.
      x: [N, ...].
      batch_size: Rows to a batch; the last is filled up with zeros, whose outputs are dropped.
      apply: As for `make_step`.

    Returns:
      NumPy arrays [N, ...], in the model's structure.

    Raises:
      ValueError: If batch_size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"predict: batch_size must be positive, got {batch_size}")
    x = np.asarray(x)
    size = min(batch_size, max(len(x), 1))
    outputs = []
    for start in range(0, max(len(x), 1), size):
        rows = x[start : start + size]
        filled = np.concatenate([rows, np.zeros((size - len(rows), *x.shape[1:]), x.dtype)])
        y = _forward(model, apply, state.averages, filled)
        outputs.append(jax.device_get(y))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(x)], *outputs)


def carried(model: Any) -> Apply:
    """`apply` for a model over time that goes on where the batch before ended: truncated backpropagation.

    The outputs are the model's without its carry. A state from `create(..., keep_carry=True)` hands that on from step
    to step, and no gradient goes through it; an evaluation, which has none, begins every batch anew.

    Args:
      model: A layer over time, under the sequence contract.

    References:
      Williams and Peng, 1990. An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories.
    """

    def apply(variables: Any, batch: Batch, train: bool, rngs: Any) -> tuple[Any, Any]:
        own = {name: value for name, value in variables.items() if name != "carry"}
        inputs = {**batch, "carry": variables.get("carry")}
        (outputs, carry), collections = _flax_apply(model)(own, inputs, train, rngs)
        return outputs, {**collections, "carry": carry} if "carry" in variables else collections

    return apply


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(model: Any, apply: Apply | None, variables: Any, x: Any) -> Any:
    return (apply or _flax_apply(model))(variables, {"x": x}, False, {})[0]


def _flax_apply(model: Any) -> Apply:
    def apply(variables: Any, batch: Batch, train: bool, rngs: Any) -> tuple[Any, Any]:
        collections = {name: value for name, value in variables.items() if name != "params"}
        inputs = model_inputs(batch)
        if not train:
            return model.apply(variables, **inputs, train=False, rngs=rngs), collections
        outputs, changed = model.apply(variables, **inputs, train=True, rngs=rngs, mutable=list(collections))
        return outputs, collections | dict(changed)

    return apply


def _measures(op: str, loss: Metric, metrics: Mapping[str, Metric] | None) -> dict[str, Metric]:
    if taken := sorted({"loss", "nonfinite", "spikes"} & set(metrics or {})):
        raise ValueError(f'{op}: metrics must not hold "{taken[0]}", which is a name of the step\'s own')
    return {"loss": loss, **(metrics or {})}


def _check_state(state: State, precision: Precision | None, ema: float | None, guard: Guard | None) -> None:
    """Raises ValueError unless the state was created with the same options."""
    asked = {
        "ema": ema is not None,
        "loss_scale": precision is not None and precision.initial_scale() is not None,
        "guard": guard is not None,
    }
    for field, wanted in asked.items():
        if wanted != (getattr(state, field) is not None):
            raise ValueError(
                f"make_step: state.{field} is {'None' if wanted else 'there'}, which does not fit the step: give "
                "create and make_step the same ema, precision and guard"
            )


def _value_or_zero(mean: Mean) -> jax.Array:
    """The mean; 0 with gradient 0 where the weight is 0, as for a batch whose every entry is masked."""
    some = mean.weight > 0
    return jnp.where(some, mean.total / jnp.where(some, mean.weight, 1), 0)
