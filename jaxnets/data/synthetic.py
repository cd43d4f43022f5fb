"""Tasks of long memory: made on the device from a key, or of images read pixel by pixel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Key

from jaxnets.data.augment import Augment
from jaxnets.typing import Batch

Generate = Callable[[jax.Array, int], Batch]
"""`generate(key, batch_size)`: a batch drawn from the key, a pure function that can be compiled."""


def adding_problem(key: Key[Array, ""], batch_size: int, *, length: int) -> dict[str, Array]:
    """Draws sequences of two numbers to add up, marked among many others.

    Every step has a value, uniform in [0, 1), and a mark: 1 at one step of the first half and at one of the second, 0
    elsewhere. The target is the sum of the two marked values. Whoever says 1, the mean, has a squared error of 1/6.

    Args:
      key: What the batch is drawn from.
      batch_size: B.
      length: T.

    Returns:
      `"x"` float32 [B, T, 2], value and mark of each step, and `"y"` float32 [B].

    Raises:
      ValueError: If the length is less than 2.

    References:
      Hochreiter and Schmidhuber, 1997. Long short-term memory.
      Arjovsky, Shah and Bengio, 2016. Unitary evolution recurrent neural networks (a mark in each half).

    >>> batch = adding_problem(jax.random.key(0), 3, length=5)
    >>> batch["x"].shape, jnp.allclose(batch["y"], jnp.prod(batch["x"], axis=-1).sum(axis=1))
    ((3, 5, 2), Array(True, dtype=bool))
    """
    if length < 2:
        raise ValueError(f"adding_problem: length is {length} but wants 2 or more: each half has a mark")
    value_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (batch_size, length))
    first = jax.random.randint(first_key, (batch_size, 1), 0, length // 2)
    second = jax.random.randint(second_key, (batch_size, 1), length // 2, length)
    step = jnp.arange(length)[None, :]
    marks = ((step == first) | (step == second)).astype(values.dtype)
    return {"x": jnp.stack([values, marks], axis=-1), "y": jnp.sum(values * marks, axis=1)}


def copy_task(
    key: Key[Array, ""], batch_size: int, *, length: int, items: int = 10, symbols: int = 8
) -> dict[str, Array]:
    """Draws symbols to be said again after a long blank.

    The input is `items` symbols out of 1 to `symbols`, `length` - 1 blanks (0), the signal `symbols` + 1, and `items`
    blanks, during which the symbols are to be given back in order; until then the answer is blank. Whoever knows when
    to answer, and nothing else, has a cross entropy of items log(symbols) / (length + 2 items) nats a step.

    Args:
      key: What the batch is drawn from.
      batch_size: B.
      length: From the last symbol to the signal.
      items: Symbols to remember.
      symbols: How many there are to choose from.

    Returns:
      `"x"` and `"y"` int32 [B, length + 2 items], and `"where"`, of the same shape, True at the answer's steps.

    Raises:
      ValueError: If one of the sizes is less than 1.

    References:
      Hochreiter and Schmidhuber, 1997. Long short-term memory.
      Arjovsky, Shah and Bengio, 2016. Unitary evolution recurrent neural networks.

    >>> batch = copy_task(jax.random.key(0), 1, length=3, items=2, symbols=4)
    >>> batch["x"][0, 2:], (batch["y"][0, -2:] == batch["x"][0, :2]).all()
    (Array([0, 0, 5, 0, 0], dtype=int32), Array(True, dtype=bool))
    """
    if min(length, items, symbols) < 1:
        raise ValueError(f"copy_task: length, items and symbols want 1 or more but are {length}, {items}, {symbols}")
    said = jax.random.randint(key, (batch_size, items), 1, symbols + 1)
    blanks = jnp.zeros((batch_size, length + items), said.dtype)
    return {
        "x": jnp.concatenate([said, blanks.at[:, length - 1].set(symbols + 1)], axis=1),
        "y": jnp.concatenate([blanks, said], axis=1),
        "where": jnp.broadcast_to(jnp.arange(length + 2 * items) >= length + items, (batch_size, length + 2 * items)),
    }


def pixel_sequence(mean: float, std: float, *, permutation: Int[np.ndarray, " t"] | None = None) -> Augment:
    """Makes grey images [B, H, W, 1] of unsigned bytes into sequences [B, H W, 1], normalised; the key is not used.

    Args:
      mean: Of the pixels, in units of [0, 1].
      std: Their standard deviation.
      permutation: The order in which the pixels come, one for all images; None means row by row.

    Raises:
      ValueError: If the standard deviation is not positive; the function, if x is no batch of grey images, or has not
        as many pixels as the permutation.

    References:
      Le, Jaitly and Hinton, 2015. A simple way to initialize recurrent networks of rectified linear units.

    >>> read = pixel_sequence(0.5, 0.25, permutation=np.array([3, 2, 1, 0]))
    >>> read(jax.random.key(0), {"x": jnp.array([0, 0, 0, 255], jnp.uint8).reshape(1, 2, 2, 1)})["x"].ravel()
    Array([ 2., -2., -2., -2.], dtype=float32)
    """
    if not std > 0:
        raise ValueError(f"pixel_sequence: std must be positive, got {std}")

    def apply(key: jax.Array, batch: Batch) -> Batch:
        x = jnp.asarray(batch["x"])
        pixels = x.shape[1] * x.shape[2] if x.ndim == 4 else 0
        if x.ndim != 4 or x.shape[-1] != 1 or (permutation is not None and len(permutation) != pixels):
            wanted = "[B, H, W, 1]" if permutation is None else f"[B, H, W, 1] of {len(permutation)} pixels"
            raise ValueError(f"pixel_sequence: x has shape {x.shape}, wanted grey images {wanted}")
        x = x.reshape(x.shape[0], pixels, 1)
        x = x if permutation is None else x[:, permutation]
        return {**batch, "x": (x.astype(jnp.float32) / 255 - mean) / std}

    return apply


def held_out(generate: Generate, size: int) -> dict[str, dict[str, np.ndarray]]:
    """Makes the sequences to validate on and to test on, always the same ones, in the host's memory.

    They are drawn from `fold_in(key(0), 2**32 - 2)` and `fold_in(key(0), 2**32 - 1)`: no batch that `GeneratedData`
    makes has such a number.

    Args:
      generate: Makes a batch of a key and a size.
      size: How many sequences each part has.

    Returns:
      The arrays of `"validation"` and of `"test"`.

    >>> parts = held_out(lambda key, size: adding_problem(key, size, length=5), 3)
    >>> {name: part["x"].shape for name, part in parts.items()}
    {'validation': (3, 5, 2), 'test': (3, 5, 2)}
    """
    make = jax.jit(generate, static_argnums=1)
    keys = {name: jax.random.fold_in(jax.random.key(0), 2**32 - i) for i, name in ((2, "validation"), (1, "test"))}
    return {name: jax.tree.map(np.asarray, make(key, size)) for name, key in keys.items()}


@jax.tree_util.register_pytree_with_keys_class
class GeneratedData:
    """Batches made inside the compiled program, each from a key of its own: no sequence is ever seen twice.

    Batch n of the run is drawn from `fold_in(key, n)`, so it is reached without those before it, and a run that goes
    on from a saved step sees the very batches that it would have seen. It is a pytree whose leaf is the key. An epoch
    is a name only, for `steps_per_epoch` batches.

    Attributes:
      generate: Makes a batch of a key and a size.
      batch_size: The rows of a batch.
      key: The key that batches are drawn from.

    >>> data = GeneratedData(lambda key, size: adding_problem(key, size, length=5), 4, seed=0)
    >>> data.batch(data.order(0), 1)["x"].shape
    (4, 5, 2)
    """

    steps_per_epoch = 1000

    def __init__(self, generate: Generate, batch_size: int, *, seed: int):
        """Keeps what batches are made of, and makes none.

        Raises:
          ValueError: If the batch size is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"GeneratedData: batch_size must be positive, got {batch_size}")
        self.generate = generate
        self.batch_size = batch_size
        self.key = jax.random.key(seed)

    def order(self, epoch: int | Int[Array, ""]) -> Int32[Array, " n"]:
        """The numbers of an epoch's batches, counted over all epochs."""
        return jnp.asarray(epoch, jnp.int32) * self.steps_per_epoch + jnp.arange(self.steps_per_epoch, dtype=jnp.int32)

    def batch(self, order: Int32[Array, " n"], i: int | Int[Array, ""]) -> Batch:
        """Makes the i-th batch of an order; pure, and i may be traced."""
        return self.generate(jax.random.fold_in(self.key, order[i % self.steps_per_epoch]), self.batch_size)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        """Splits into the leaf, the key, and what is static."""
        return ((jax.tree_util.GetAttrKey("key"), self.key),), (self.generate, self.batch_size)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> "GeneratedData":
        """Puts the pieces together unchecked: JAX rebuilds trees whose leaves are no arrays."""
        data = object.__new__(cls)
        data.generate, data.batch_size = static
        (data.key,) = children
        return data
