"""A long text in rows that go on from batch to batch, or in windows drawn at random."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Int32, Integer, Shaped

from jaxnets.data.loader import Seekable, generator
from jaxnets.typing import Batch


class TextLoader(Seekable):
    """Iterates for ever over the tokens of a text on the host, each with the one to be foretold.

    Row b of B begins b N/B tokens into a text of N and reads T of them at every step, where the step before ended: the
    carry of a recurrent model goes on from batch to batch, and the gradient reaches back T steps. After the last token
    comes the first. With `windows` every row is instead a window drawn from the seed, and no carry should be kept.

    A batch holds `"x"` and `"y"` int32 [B, T], y being x one token on.

    Attributes:
      steps_per_epoch: N // (B T), after which each row has read what was its own.

    References:
      Williams and Peng, 1990. An efficient gradient-based algorithm for on-line training of recurrent
        network trajectories.

    >>> loader = TextLoader(np.arange(10), batch_size=2, time=3)
    >>> next(loader)["x"].tolist(), next(loader)["x"].tolist()
    ([[0, 1, 2], [5, 6, 7]], [[3, 4, 5], [8, 9, 0]])
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " n"],
        batch_size: int,
        time: int,
        *,
        windows: bool = False,
        seed: int = 0,
    ):
        """Makes a loader that stands at step 0.

        Args:
          tokens: The text, in memory or mapped into it.
          batch_size: B.
          time: T.
          windows: Whether rows are windows drawn at random.
          seed: Of these; between 0 and 2**64 - 1.

        Raises:
          ValueError: If a size is less than 1, or the text is not longer than a row.
        """
        _check("TextLoader", len(tokens), batch_size, time)
        super().__init__(length=len(tokens), batch_size=batch_size, time=time, windows=windows, seed=seed)
        self._tokens, self._shape, self._windows = tokens, (batch_size, time), windows
        self.steps_per_epoch = max(len(tokens) // (batch_size * time), 1)

    def batch(self, step: int) -> Batch:
        """The rows of a step."""
        (batch_size, time), length = self._shape, len(self._tokens)
        if self._windows:
            draw = generator("TextLoader", self._settings["seed"], step)
            first = draw.integers(0, length - time, batch_size)
        else:
            first = (np.arange(batch_size) * (length // batch_size) + step * time) % length
        read = self._tokens[(first[:, None] + np.arange(time + 1)) % length].astype(np.int32)
        return {"x": read[:, :-1], "y": read[:, 1:]}


@jax.tree_util.register_pytree_with_keys_class
class DeviceText:
    """The same on the device, to be cut into rows inside the compiled program; windows are drawn otherwise.

    >>> data = DeviceText(np.arange(10), batch_size=2, time=3)
    >>> data.steps_per_epoch, data.batch(data.order(0), 0)["y"].tolist(), data.batch(data.order(1), 0)["x"].tolist()
    (1, [[1, 2, 3], [6, 7, 8]], [[3, 4, 5], [8, 9, 0]])
    """

    def __init__(
        self, tokens: Integer[np.ndarray, " n"], batch_size: int, time: int, *, windows: bool = False, seed: int = 0
    ):
        """Places the tokens on the default device.

        Args:
          tokens: The text; their type is kept there.
          batch_size: B.
          time: T.
          windows: Whether rows are windows drawn at random.
          seed: Of these.

        Raises:
          ValueError: As `TextLoader` does, and if there are 2**29 tokens or more.
        """
        _check("DeviceText", len(tokens), batch_size, time)
        if len(tokens) >= 2**29:
            raise ValueError(f"DeviceText: {len(tokens)} tokens are too many for the device: use TextLoader")
        self.tokens: Any = jnp.asarray(tokens)
        self.key: Any = jax.random.key(seed)
        self.batch_size, self.time, self.windows = batch_size, time, windows

    @property
    def steps_per_epoch(self) -> int:
        """N // (B T)."""
        return max(self.tokens.shape[0] // (self.batch_size * self.time), 1)

    def order(self, epoch: int | Int[Array, ""]) -> Int32[Array, "steps b"]:
        """The first token of each row, at each step of an epoch."""
        length, steps = self.tokens.shape[0], self.steps_per_epoch
        if self.windows:
            key = jax.random.fold_in(self.key, epoch)
            return jax.random.randint(key, (steps, self.batch_size), 0, length - self.time, jnp.int32)
        begun = _product_modulo(epoch, steps * self.time % length, length)
        row = jnp.arange(self.batch_size, dtype=jnp.int32) * (length // self.batch_size)
        step = jnp.arange(steps, dtype=jnp.int32)[:, None] * self.time
        return (begun + row + step) % length

    def batch(self, order: Int32[Array, "steps b"], i: int | Int[Array, ""]) -> dict[str, Shaped[Array, "b t"]]:
        """The rows of the i-th step of an epoch; pure, and i may be traced."""
        at = order[jnp.asarray(i, jnp.int32) % self.steps_per_epoch][:, None] + jnp.arange(self.time + 1)
        read = self.tokens.at[at % self.tokens.shape[0]].get(mode="promise_in_bounds").astype(jnp.int32)
        return {"x": read[:, :-1], "y": read[:, 1:]}

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[int, int, bool]]:
        """Splits into the leaves, tokens and key, and what is static."""
        attribute = jax.tree_util.GetAttrKey
        leaves = (attribute("tokens"), self.tokens), (attribute("key"), self.key)
        return leaves, (self.batch_size, self.time, self.windows)

    @classmethod
    def tree_unflatten(cls, static: tuple[int, int, bool], children: Any) -> "DeviceText":
        """Puts the pieces together unchecked: JAX rebuilds trees whose leaves are no arrays."""
        data = object.__new__(cls)
        data.tokens, data.key = children
        data.batch_size, data.time, data.windows = static
        return data


def _check(name: str, length: int, batch_size: int, time: int) -> None:
    if min(batch_size, time) < 1 or length <= max(time, batch_size):
        raise ValueError(
            f"{name}: {batch_size} rows of {time} steps want 1 or more and a longer text than {length} tokens"
        )


def _product_modulo(a: Any, b: int, n: int) -> Int32[Array, ""]:
    """A b modulo n, with no product that 32 bits could not hold: a's binary digits from the first, doubling."""

    def digit(i: Any, product: Array) -> Array:
        return (2 * product + (jnp.asarray(a, jnp.int32) >> (30 - i) & 1) * b) % n

    return lax.fori_loop(0, 31, digit, jnp.int32(0))
