"""Parts of a batch, one after another, give what the whole gives."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train
from jaxnets.typing import Mean


class Classifier(nn.Module):
    """No part of it depends on which rows stand together."""

    convolve: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(2, (3,))(x[..., None]).reshape(len(x), -1) if self.convolve else x
        return nn.Dense(3)(nn.tanh(nn.Dense(5)(x)))


def masked_loss(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"]) * batch["temperature"]
    return Mean(jnp.sum(losses, where=batch["where"]), batch["where"].sum(dtype=jnp.float32))


def problem(rows, where, convolve=False):
    rng = np.random.default_rng(rows)
    batch = {
        "x": rng.normal(size=(rows, 6)).astype(np.float32),
        "y": rng.integers(0, 3, rows).astype(np.int32),
        "where": np.asarray(where),
        "temperature": np.float32(0.7),
    }
    model, optimizer = Classifier(convolve), optax.sgd(1.0)
    state = train.create(model, optimizer, batch, key=jax.random.key(0))

    def stepped(parts):
        options = {"metrics": {"accuracy": train.accuracy}, "accumulate": parts}
        return jax.jit(train.make_step(model, optimizer, masked_loss, **options))(state, batch)

    return stepped


@pytest.mark.parametrize(
    ("rows", "parts", "where"),
    [
        pytest.param(8, 4, np.ones(8, bool), marks=pytest.mark.exhaustive),
        (7, 3, np.arange(7) % 3 != 0),  # parts of 3, 3 and 1 rows, the last of which is masked
        pytest.param(9, 4, np.arange(9) > 5, marks=pytest.mark.exhaustive),  # whole parts masked
        (6, 2, np.zeros(6, bool)),
    ],
)
def test_parts_equal_the_whole(rows, parts, where):
    stepped = problem(rows, where)
    (whole, sums), (state, sums_of_parts) = stepped(1), stepped(parts)
    # At a rate of 1 the difference of the parameters is the gradient.
    chex.assert_trees_all_close(state.params, whole.params, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(sums_of_parts, sums, rtol=1e-6)


def test_convolutions_are_taken_out_of_the_loop_on_a_cpu():
    stepped = problem(6, np.ones(6, bool), convolve=True)
    chex.assert_trees_all_close(stepped(3)[0].params, stepped(1)[0].params, rtol=1e-6, atol=1e-6)


def test_collections_go_from_part_to_part(made):
    optimizer = optax.sgd(0.0)
    state = train.create(made.model, optimizer, made.batch, key=jax.random.key(0))
    step = jax.jit(train.make_step(made.model, optimizer, made.loss, accumulate=2))
    variables, halves = state.variables, [jax.tree.map(lambda leaf, i=i: leaf[i : i + 4], made.batch) for i in (0, 4)]
    rngs = {"dropout": jax.random.key(1)}
    for half in halves:
        _, changed = made.model.apply(variables, half["x"], train=True, rngs=rngs, mutable=["batch_stats"])
        variables = {**variables, **changed}
    chex.assert_trees_all_close(step(state, made.batch)[0].collections["batch_stats"], variables["batch_stats"])


def test_each_part_draws_numbers_of_its_own(made):
    def apply(variables, batch, train, rngs):
        return jax.random.uniform(rngs["dropout"]), {"batch_stats": variables["batch_stats"]}

    def power(n):
        return lambda drawn, batch: Mean(drawn**n, jnp.float32(1))

    step = train.make_step(
        made.model, made.optimizer, power(1), metrics={"squares": power(2)}, apply=apply, accumulate=2
    )
    _, sums = step(made.state(), made.batch)
    assert float(2 * sums["squares"].total - sums["loss"].total ** 2) > 1e-3


def test_wrong_batches_are_named(made):
    with pytest.raises(ValueError, match="make_step: accumulate must be at least 1, got 0"):
        train.make_step(made.model, made.optimizer, made.loss, accumulate=0)
    step = train.make_step(made.model, made.optimizer, made.loss, accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate wants arrays of as many rows each.*'x': 8, 'y': 7"):
        step(made.state(), {**made.batch, "y": made.batch["y"][:7]})
