"""A small problem: made data of three classes, a model with everything that a resume could get wrong."""

import hashlib
import operator
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train
from jaxnets.typing import Mean

BATCH, ROWS, CLASSES = 8, 44, 3


@jax.tree_util.register_pytree_node_class
class Resident:
    """Device-resident data: five steps to an epoch, four rows left out of each."""

    def __init__(self, arrays):
        self.arrays = arrays

    def tree_flatten(self):
        return (self.arrays,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    @property
    def steps_per_epoch(self):
        return ROWS // BATCH

    def order(self, epoch):
        return jax.random.permutation(jax.random.fold_in(jax.random.key(7), epoch), ROWS)

    def batch(self, order, i):
        rows = jax.lax.dynamic_slice_in_dim(order, i * BATCH, BATCH)
        return {name: array[rows] for name, array in self.arrays.items()}


class Streamed:
    """The same batches from the host, for ever, with a seek."""

    def __init__(self, resident):
        self.resident = resident
        self.step = 0
        self.seeks = []

    def seek(self, step):
        self.seeks.append(step)
        self.step = step

    def __iter__(self):
        while True:
            epoch, i = divmod(self.step, self.resident.steps_per_epoch)
            self.step += 1
            yield jax.tree.map(np.array, self.resident.batch(self.resident.order(epoch), i))


class Model(nn.Module):
    """Dropout draws numbers, BatchNorm keeps a collection."""

    convolve: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        if self.convolve:
            x = nn.Conv(4, (3,))(x[..., None]).reshape(len(x), -1)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x)))
        return nn.Dense(CLASSES)(nn.Dropout(0.2, deterministic=not train)(x))


def loss(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
    return Mean(losses.sum(), jnp.float32(losses.size))


def digest(tree):
    """A hash of every bit of a state."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total.update(f"{path}{leaf.shape}{leaf.dtype}".encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def make(convolve=False):
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    x = (rng.normal(size=(ROWS, 6)) + 4 * np.eye(CLASSES, 6)[y]).astype(np.float32)
    model, optimizer = Model(convolve), train.optimizer("adam", 0.01, schedule="cosine", steps=40)
    data = Resident({"x": jnp.asarray(x), "y": jnp.asarray(y)})
    step = train.make_step(model, optimizer, loss, metrics={"accuracy": train.accuracy})
    batch = {"x": x[:BATCH], "y": y[:BATCH]}
    return SimpleNamespace(
        model=model,
        optimizer=optimizer,
        loss=loss,
        step=step,
        eval_step=train.make_eval_step(model, loss, metrics={"accuracy": train.accuracy}),
        data=data,
        stream=lambda: Streamed(data),
        arrays={"x": x, "y": y},
        batch=batch,
        state=lambda: train.create(model, optimizer, batch, key=jax.random.key(0)),
        add=lambda a, b: jax.tree.map(operator.add, a, b),
        digest=digest,
    )


@pytest.fixture(scope="session")
def made():
    return make()


@pytest.fixture(scope="session")
def convolved():
    return make(convolve=True)


@pytest.fixture(scope="session")
def compilations():
    """Counts the programs compiled while the test runs."""
    seen = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: seen.append(event) if "backend_compile" in event else None
    )
    return seen
