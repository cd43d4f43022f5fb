"""Everything that training changes, in one pytree."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnets.train.guard import Guard
from jaxnets.train.precision import Precision
from jaxnets.typing import Batch


@struct.dataclass
class State:
    """What a step takes and returns; all of it is saved, so a resumed run goes on exactly.

    Attributes:
      step: Number of steps taken, int32 [].
      params: The model's parameters, float32 as the models make them.
      opt_state: The optimizer's.
      collections: Every other collection of variables by name, such as `{"batch_stats": ...}`.
      carry: What a recurrent model hands from batch to batch; None where it keeps nothing.
      key: A typed PRNG key; step n draws from `fold_in(key, n)`.
      ema: The moving average of the variables, None where none is kept.
      loss_scale: A `LossScale`, where the precision has one.
      guard: A `GuardState`, where there is a guard.
    """

    step: Any
    params: Any
    opt_state: Any
    collections: Any
    carry: Any
    key: Any
    ema: Any = None
    loss_scale: Any = None
    guard: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and collections as Flax's `apply` takes them."""
        return {"params": self.params, **self.collections}

    @property
    def averages(self) -> dict[str, Any]:
        """The variables that evaluation takes: their moving average where it is kept, else themselves."""
        return self.variables if self.ema is None else self.ema

    def with_variables(self, variables: Mapping[str, Any]) -> "State":
        """The state with these parameters and collections, such as `load_weights` gives, in the place of its own.

        A moving average begins anew from them.
        """
        collections = {name: value for name, value in variables.items() if name != "params"}
        # Copies, since a state that is donated holds each buffer once.
        ema = None if self.ema is None else jax.tree.map(jnp.copy, dict(variables))
        return self.replace(params=variables["params"], collections=collections, ema=ema)  # type: ignore[attr-defined]


def create(
    model: Any,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    *,
    key: Any,
    ema: float | None = None,
    precision: Precision | None = None,
    guard: Guard | None = None,
    keep_carry: bool = False,
) -> State:
    """Makes the state before the first step.

    Args:
      model: Anything with the `init` of a Flax module.
      optimizer: An Optax transformation.
      batch: One batch, for its shapes; `"x"` (and `"lengths"`, `"starts"` where it has them) go to the model.
      key: A typed PRNG key, for the parameters and all that the steps will draw.
      ema: As `make_step` is given it, like the rest: the state holds what they need.
      precision: The precision.
      guard: The guard.
      keep_carry: Whether the state is to hold what a model over time hands from batch to batch, for as many rows as
        this batch has; to begin with, what stands for no carry. The step then wants `apply=carried(model)`.

    Raises:
      TypeError: If key is not a typed PRNG key.

    >>> from flax import linen as nn
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train=False):
    ...         return nn.Dense(3)(x)
    >>> state = create(Linear(), optax.sgd(0.1), {"x": jnp.ones((2, 5))}, key=jax.random.key(0))
    >>> state.params["Dense_0"]["kernel"].shape
    (5, 3)
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"create: key must be a typed PRNG key, such as jax.random.key(0), got {key!r}")

    options = {"ema": ema, "precision": precision, "guard": guard, "keep_carry": keep_carry}
    return _initial(model, optimizer, model_inputs(batch), key, **options)


def model_inputs(batch: Batch) -> dict[str, Any]:
    """The part of a batch that feeds the model, by the names of its arguments."""
    return {name: batch[name] for name in ("x", "lengths", "starts", "carry") if name in batch}


def initial_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    inputs: dict[str, Any],
    key: Any,
    *,
    ema: float | None = None,
    precision: Precision | None = None,
    guard: Guard | None = None,
    keep_carry: bool = False,
) -> State:
    """What `create` compiles: the state from the arguments of the model."""
    init_key, state_key = jax.random.split(key)
    variables = dict(model.init(init_key, **inputs, train=False))
    # No steps leave a carry as it was.
    carry = model.apply(variables, inputs["x"][:, :0], train=False)[1] if keep_carry else None
    params = variables.pop("params", {})
    state = State(jnp.int32(0), params, optimizer.init(params), variables, carry, state_key)
    return state.replace(  # type: ignore[attr-defined]
        ema=None if ema is None else state.variables,
        loss_scale=precision.initial_scale() if precision else None,
        guard=guard.initial_state() if guard else None,
    )


# One program: faster than op by op, and no two leaves share a buffer, which donation would refuse.
_initial = jax.jit(initial_state, static_argnums=(0, 1), static_argnames=("ema", "precision", "guard", "keep_carry"))
