"""Everything that training changes, in one pytree."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

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
    """

    step: Any
    params: Any
    opt_state: Any
    collections: Any
    carry: Any
    key: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and collections as Flax's `apply` takes them."""
        return {"params": self.params, **self.collections}

    def with_variables(self, variables: Mapping[str, Any]) -> "State":
        """The state with these parameters and collections, such as `load_weights` gives, in the place of its own."""
        collections = {name: value for name, value in variables.items() if name != "params"}
        return self.replace(params=variables["params"], collections=collections)  # type: ignore[attr-defined]


def create(model: Any, optimizer: optax.GradientTransformation, batch: Batch, *, key: Any) -> State:
    """Makes the state before the first step.

    Args:
      model: Anything with the `init` of a Flax module.
      optimizer: An Optax transformation.
      batch: One batch, for its shapes; `"x"` (and `"lengths"`, `"starts"` where it has them) go to the model.
      key: A typed PRNG key, for the parameters and all that the steps will draw.

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

    return _initial(model, optimizer, model_inputs(batch), key)


def model_inputs(batch: Batch) -> dict[str, Any]:
    """The part of a batch that feeds the model, by the names of its arguments."""
    return {name: batch[name] for name in ("x", "lengths", "starts") if name in batch}


# One program: faster than op by op, and no two leaves share a buffer, which donation would refuse.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _initial(model: Any, optimizer: optax.GradientTransformation, inputs: dict[str, Any], key: Any) -> State:
    init_key, state_key = jax.random.split(key)
    variables = dict(model.init(init_key, **inputs, train=False))
    params = variables.pop("params", {})
    return State(jnp.int32(0), params, optimizer.init(params), variables, None, state_key)
