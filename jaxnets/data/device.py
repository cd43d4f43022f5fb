"""A data set that lives on the device, shuffled and cut into batches inside the compiled program."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Int32, Key, Shaped

from jaxnets.data.loader import common_length


@jax.tree_util.register_pytree_with_keys_class
class DeviceData:
    """Arrays on the device with a seeded order for every epoch.

    It is a pytree, to be passed to a compiled function like any array; the seed is a leaf, so another one compiles
    nothing anew. An epoch is `steps_per_epoch` = N // batch_size steps: what is over is left out, something else each
    epoch. Types are kept: uint8 images stay uint8, and the model's first step (`normalise`) makes floats of a batch.

    Attributes:
      arrays: Arrays [N, ...] by name.
      batch_size: The rows of a batch.
      key: The key that orders are drawn from.

    >>> data = DeviceData({"x": jnp.arange(10)}, 4, seed=0)
    >>> data.steps_per_epoch, data.batch(data.order(0), 1)["x"].shape
    (2, (4,))
    """

    def __init__(self, arrays: Mapping[str, Shaped[Any, "..."]], batch_size: int, *, seed: int):
        """Places the arrays on the default device.

        Raises:
          ValueError: If the arrays differ in length, or there are fewer examples than one batch.
        """
        length = common_length("DeviceData", arrays)
        if not 0 < batch_size <= length:
            raise ValueError(f"DeviceData: batch_size is {batch_size} but there are {length} examples")
        self.arrays: dict[str, Any] = {name: jnp.asarray(array) for name, array in arrays.items()}
        self.batch_size = batch_size
        self.key = jax.random.key(seed)

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the data."""
        return len(self) // self.batch_size

    def order(self, epoch: int | Int[Array, ""]) -> Int32[Array, " n"]:
        """The order of an epoch: a permutation drawn from `fold_in(key, epoch)`, compiled once."""
        return _order(self.key, epoch, len(self))

    def batch(self, order: Int32[Array, " n"], i: int | Int[Array, ""]) -> dict[str, Shaped[Array, "b ..."]]:
        """The rows of the i-th batch of an order; pure, and i may be traced.

        i is taken modulo `steps_per_epoch`, so the step of the whole run serves as well as that of the epoch.
        """
        start = jnp.asarray(i, jnp.int32) % self.steps_per_epoch * self.batch_size
        rows = lax.dynamic_slice(order, (start,), (self.batch_size,))
        # An order holds 0 to N - 1 and nothing else: no check of bounds, whose fill value would cost a select.
        return {name: array.at[rows].get(mode="promise_in_bounds") for name, array in self.arrays.items()}

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], int]:
        """Splits into the leaves, arrays and key, and the static batch size."""
        attribute = jax.tree_util.GetAttrKey
        return ((attribute("arrays"), self.arrays), (attribute("key"), self.key)), self.batch_size

    @classmethod
    def tree_unflatten(cls, batch_size: int, children: Any) -> "DeviceData":
        """Puts the pieces together unchecked: JAX rebuilds trees whose leaves are no arrays."""
        data = object.__new__(cls)
        data.arrays, data.key = children
        data.batch_size = batch_size
        return data


@functools.partial(jax.jit, static_argnums=2)
def _order(key: Key[Array, ""], epoch: int | Int[Array, ""], length: int) -> Int32[Array, " n"]:
    return jax.random.permutation(jax.random.fold_in(key, epoch), length).astype(jnp.int32)
