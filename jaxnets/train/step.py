"""The step: one pure function from a state and a batch to the next state and its metrics."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets.train.accumulation import gradient_of
from jaxnets.train.state import State, model_inputs
from jaxnets.typing import Batch, Mean

Metric = Callable[[Any, Batch], Mean]
"""From the model's outputs and the batch to a mean; losses have the same form."""

Apply = Callable[[Any, Batch, bool, Any], tuple[Any, Any]]
"""`apply(variables, batch, train, rngs) -> (outputs, collections)`, the collections as they are afterwards."""

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

    Returns:
      `step(state, batch) -> (state, metrics)`, where metrics hold sums, `Mean(total, weight)`.

    Raises:
      ValueError: If a metric is called "loss" or accumulate is not positive; the step: if the arrays of a batch that is
        to be cut differ in length.
    """
    if accumulate < 1:
        raise ValueError(f"make_step: accumulate must be at least 1, got {accumulate}")
    measures = _measures("make_step", loss, metrics)
    apply = apply or _flax_apply(model)

    def objective(params: Any, collections: Any, batch: Batch, keys: Any) -> tuple[jax.Array, Any]:
        rngs = dict(zip(("params", "dropout"), keys, strict=True))
        outputs, collections = apply({"params": params, **collections}, batch, True, rngs)
        sums = {name: measure(outputs, batch) for name, measure in measures.items()}
        return _value_or_zero(sums["loss"]), (sums, collections)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Mean]]:
        augment_key, *keys = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        if augment is not None:
            batch = augment(augment_key, batch)

        gradient, sums, collections = gradient_of(
            objective, state.params, state.collections, batch, keys, parts=accumulate
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1, params=params, opt_state=opt_state, collections=collections
        )
        return new_state, sums

    return step


def make_eval_step(
    model: Any, loss: Metric, *, metrics: Mapping[str, Metric] | None = None, apply: Apply | None = None
) -> EvalStep:
    """Makes the evaluation step `eval_step(state, batch) -> metrics`: the model with `train=False`, nothing changed.

    Args:
      model: As for `make_step`.
      loss: As for `make_step`; reported as `"loss"`.
      metrics: More means to report, by name.
      apply: As for `make_step`.

    Raises:
      ValueError: If a metric is called "loss".
    """
    measures = _measures("make_eval_step", loss, metrics)
    apply = apply or _flax_apply(model)

    def eval_step(state: State, batch: Batch) -> dict[str, Mean]:
        outputs, _ = apply(state.variables, batch, False, {})
        return {name: measure(outputs, batch) for name, measure in measures.items()}

    return eval_step


def predict(model: Any, state: State, x: Any, *, batch_size: int = 256, apply: Apply | None = None) -> Any:
    """The model's outputs for all of x, batch by batch in one compiled program.

    Args:
      model: As for `make_step`.
      state: Its parameters and collections are used.
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
        y = _forward(model, apply, state.variables, filled)
        outputs.append(jax.device_get(y))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(x)], *outputs)


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
    if metrics and "loss" in metrics:
        raise ValueError(f'{op}: metrics must not hold "loss", which is the name of the loss itself')
    return {"loss": loss, **(metrics or {})}


def _value_or_zero(mean: Mean) -> jax.Array:
    """The mean; 0 with gradient 0 where the weight is 0, as for a batch whose every entry is masked."""
    some = mean.weight > 0
    return jnp.where(some, mean.total / jnp.where(some, mean.weight, 1), 0)
