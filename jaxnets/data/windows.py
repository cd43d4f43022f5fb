"""Windows of a series: what was, and what comes after."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from jaxnets.typing import Batch


@jax.tree_util.register_pytree_with_keys_class
class DeviceWindows:
    """All windows of a series that lives on the device, in a seeded order for every epoch, to train on.

    A batch holds `"x"` [B, lookback, C] and what comes after it, `"y"` [B, horizon, C], both float32. An epoch is
    `steps_per_epoch` = N // batch_size steps; what is over is left out, something else each epoch.

    >>> data = DeviceWindows(np.arange(10.0)[:, None], lookback=4, horizon=2, batch_size=3, seed=0)
    >>> batch = data.batch(data.order(0), 0)
    >>> len(data), data.steps_per_epoch, batch["x"].shape, batch["y"].shape
    (5, 1, (3, 4, 1), (3, 2, 1))
    """

    def __init__(self, values: Float[np.ndarray, "t c"], *, lookback: int, horizon: int, batch_size: int, seed: int):
        """Places the series on the default device.

        Raises:
          ValueError: If a size is less than 1, or there are fewer windows than one batch.
        """
        count = _count("DeviceWindows", len(values), lookback, horizon)
        if not 0 < batch_size <= count:
            raise ValueError(f"DeviceWindows: batch_size is {batch_size} but there are {count} windows")
        self.values: Any = jnp.asarray(values, jnp.float32)
        self.key: Any = jax.random.key(seed)
        self.lookback, self.horizon, self.batch_size = lookback, horizon, batch_size

    def __len__(self) -> int:
        return self.values.shape[0] - self.lookback - self.horizon + 1

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches."""
        return len(self) // self.batch_size

    def order(self, epoch: int | Int[Array, ""]) -> Int32[Array, " n"]:
        """The first steps of all windows, in the order of an epoch."""
        return jax.random.permutation(jax.random.fold_in(self.key, epoch), len(self)).astype(jnp.int32)

    def batch(self, order: Int32[Array, " n"], i: int | Int[Array, ""]) -> dict[str, Float[Array, "b t c"]]:
        """The windows of the i-th batch of an order; pure, and i may be traced."""
        at = jnp.asarray(i, jnp.int32) % self.steps_per_epoch * self.batch_size
        begun = lax.dynamic_slice(order, (at,), (self.batch_size,))
        steps = begun[:, None] + jnp.arange(self.lookback + self.horizon, dtype=jnp.int32)[None]
        window = self.values.at[steps].get(mode="promise_in_bounds")
        return {"x": window[:, : self.lookback], "y": window[:, self.lookback :]}

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[int, int, int]]:
        """Splits into the leaves, values and key, and what is static."""
        attribute = jax.tree_util.GetAttrKey
        leaves = (attribute("values"), self.values), (attribute("key"), self.key)
        return leaves, (self.lookback, self.horizon, self.batch_size)

    @classmethod
    def tree_unflatten(cls, static: tuple[int, int, int], children: Any) -> "DeviceWindows":
        """Puts the pieces together unchecked: JAX rebuilds trees whose leaves are no arrays."""
        data = object.__new__(cls)
        data.values, data.key = children
        data.lookback, data.horizon, data.batch_size = static
        return data


def every_window(
    values: Float[np.ndarray, "t c"], lookback: int, horizon: int, *, batch_size: int = 128
) -> Iterator[Batch]:
    """One pass over all windows in order, none left out: what an evaluation wants.

    All batches are of one shape, so that one program serves them: the last is filled up with windows that `"where"`
    [B, 1, 1] leaves out.

    Raises:
      ValueError: If a size is less than 1, or the series is shorter than a window.

    >>> batches = list(every_window(np.arange(10.0)[:, None], 4, 2, batch_size=3))
    >>> [batch["y"][:, 0, 0].tolist() for batch in batches], batches[1]["where"].ravel().tolist()
    ([[4.0, 5.0, 6.0], [7.0, 8.0, 8.0]], [True, True, False])
    """
    count = _count("every_window", len(values), lookback, horizon)
    if batch_size < 1:
        raise ValueError(f"every_window: batch_size must be at least 1, got {batch_size}")
    windows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), lookback + horizon, axis=0)
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        window = windows[np.minimum(rows, count - 1)].swapaxes(1, 2)
        yield {"x": window[:, :lookback], "y": window[:, lookback:], "where": (rows < count)[:, None, None]}


def _count(name: str, length: int, lookback: int, horizon: int) -> int:
    if min(lookback, horizon) < 1 or length < lookback + horizon:
        raise ValueError(
            f"{name}: a window of lookback {lookback} and horizon {horizon} wants 1 or more of each and a longer "
            f"series than {length} steps"
        )
    return length - lookback - horizon + 1
