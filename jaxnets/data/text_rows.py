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

    A model whose rows never end is at a loss where a text begins, for it never saw the state that it begins from. With
    `restarts` a row forgets at some steps, drawn from the seed: `"starts"` is then True at its first token.

    A batch holds `"x"` and `"y"` int32 [B, T], y being x one token on, and with `restarts` `"starts"` bool [B, T].

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
        restarts: float = 0.0,
        seed: int = 0,
    ):
        """Makes a loader that stands at step 0.

        Args:
          tokens: The text, in memory or mapped into it.
          batch_size: B.
          time: T.
          windows: Whether rows are windows drawn at random.
          restarts: The probability that a row begins anew at a step.
          seed: Of what is drawn; between 0 and 2**64 - 1.

        Raises:
          ValueError: If a size is less than 1, the text is not longer than a row, or `restarts` is no probability or
            asked of windows.
        """
        _check("TextLoader", len(tokens), batch_size, time, windows, restarts)
        settings = {"windows": windows, "restarts": restarts, "seed": seed}
        super().__init__(length=len(tokens), batch_size=batch_size, time=time, **settings)
        self._tokens, self._shape, self._windows, self._restarts = tokens, (batch_size, time), windows, restarts
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
        rows = {"x": read[:, :-1], "y": read[:, 1:]}
        if self._restarts:
            drawn = generator("TextLoader", self._settings["seed"], step).random((batch_size, 1)) < self._restarts
            rows["starts"] = drawn & (np.arange(time) == 0)
        return rows


@jax.tree_util.register_pytree_with_keys_class
class DeviceText:
    """The same on the device, to be cut into rows inside the compiled program; what is drawn is drawn otherwise.

    >>> data = DeviceText(np.arange(10), batch_size=2, time=3)
    >>> data.steps_per_epoch, data.batch(data.order(0), 0)["y"].tolist(), data.batch(data.order(1), 0)["x"].tolist()
    (1, [[1, 2, 3], [6, 7, 8]], [[3, 4, 5], [8, 9, 0]])
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " n"],
        batch_size: int,
        time: int,
        *,
        windows: bool = False,
        restarts: float = 0.0,
        seed: int = 0,
    ):
        """Places the tokens on the default device.

        Args:
          tokens: The text; their type is kept there.
          batch_size: B.
          time: T.
          windows: Whether rows are windows drawn at random.
          restarts: The probability that a row begins anew at a step.
          seed: Of what is drawn.

        Raises:
          ValueError: As `TextLoader` does, and if there are 2**29 tokens or more.
        """
        _check("DeviceText", len(tokens), batch_size, time, windows, restarts)
        if len(tokens) >= 2**29:
            raise ValueError(f"DeviceText: {len(tokens)} tokens are too many for the device: use TextLoader")
        self.tokens: Any = jnp.asarray(tokens)
        self.key: Any = jax.random.key(seed)
        self.batch_size, self.time, self.windows, self.restarts = batch_size, time, windows, restarts

    @property
    def steps_per_epoch(self) -> int:
        """N // (B T)."""
        return max(self.tokens.shape[0] // (self.batch_size * self.time), 1)

    def order(self, epoch: int | Int[Array, ""]) -> Int32[Array, "steps b"]:
        """The first token of each row, at each step of an epoch; n is written ~n where the row begins anew."""
        length, steps = self.tokens.shape[0], self.steps_per_epoch
        if self.windows:
            key = jax.random.fold_in(self.key, epoch)
            return jax.random.randint(key, (steps, self.batch_size), 0, length - self.time, jnp.int32)
        begun = _product_modulo(epoch, steps * self.time % length, length)
        row = jnp.arange(self.batch_size, dtype=jnp.int32) * (length // self.batch_size)
        step = jnp.arange(steps, dtype=jnp.int32)[:, None] * self.time
        first = (begun + row + step) % length
        if not self.restarts:
            return first
        anew = jax.random.bernoulli(jax.random.fold_in(self.key, epoch), self.restarts, first.shape)
        return jnp.where(anew, ~first, first)

    def batch(self, order: Int32[Array, "steps b"], i: int | Int[Array, ""]) -> dict[str, Shaped[Array, "b t"]]:
        """The rows of the i-th step of an epoch; pure, and i may be traced."""
        first = order[jnp.asarray(i, jnp.int32) % self.steps_per_epoch][:, None]
        at = jnp.maximum(first, ~first) + jnp.arange(self.time + 1)
        read = self.tokens.at[at % self.tokens.shape[0]].get(mode="promise_in_bounds").astype(jnp.int32)
        rows = {"x": read[:, :-1], "y": read[:, 1:]}
        if self.restarts:
            rows["starts"] = (first < 0) & (jnp.arange(self.time) == 0)
        return rows

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[int, int, bool, float]]:
        """Splits into the leaves, tokens and key, and what is static."""
        attribute = jax.tree_util.GetAttrKey
        leaves = (attribute("tokens"), self.tokens), (attribute("key"), self.key)
        return leaves, (self.batch_size, self.time, self.windows, self.restarts)

    @classmethod
    def tree_unflatten(cls, static: tuple[int, int, bool, float], children: Any) -> "DeviceText":
        """Puts the pieces together unchecked: JAX rebuilds trees whose leaves are no arrays."""
        data = object.__new__(cls)
        data.tokens, data.key = children
        data.batch_size, data.time, data.windows, data.restarts = static
        return data


def _check(name: str, length: int, batch_size: int, time: int, windows: bool, restarts: float) -> None:
    if min(batch_size, time) < 1 or length <= max(time, batch_size):
        raise ValueError(
            f"{name}: {batch_size} rows of {time} steps want 1 or more and a longer text than {length} tokens"
        )
    if not 0 <= restarts <= 1 or (windows and restarts):
        raise ValueError(f"{name}: restarts wants to be from 0 to 1, and 0 for windows, but is {restarts}")


def _product_modulo(a: Any, b: int, n: int) -> Int32[Array, ""]:
    """A b modulo n, with no product that 32 bits could not hold: a's binary digits from the first, doubling."""

    def digit(i: Any, product: Array) -> Array:
        return (2 * product + (jnp.asarray(a, jnp.int32) >> (30 - i) & 1) * b) % n

    return lax.fori_loop(0, 31, digit, jnp.int32(0))
