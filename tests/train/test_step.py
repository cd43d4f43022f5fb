import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train
from jaxnets.typing import Mean


def linear_loss(outputs, batch):
    where = batch.get("where", jnp.ones(outputs.shape[0], bool))
    return Mean(jnp.sum(outputs[:, 0], where=where), where.sum().astype(jnp.float32))


def test_a_step_matches_the_hand_derived_update():
    # The loss is the mean of w.x, so its gradient is the mean of x, and SGD takes a tenth of it away.
    model, optimizer = nn.Dense(1, use_bias=False), train.optimizer("sgd", 0.1)
    model_with_train = Train(model)
    batch = {"x": jnp.array([[1.0, 2.0], [3.0, 6.0]])}
    state = train.create(model_with_train, optimizer, batch, key=jax.random.key(0))
    new, metrics = train.make_step(model_with_train, optimizer, linear_loss)(state, batch)
    before, after = jax.tree.leaves(state.params)[0], jax.tree.leaves(new.params)[0]
    np.testing.assert_allclose(after, before - 0.1 * jnp.array([[2.0], [4.0]]), rtol=1e-6)
    assert int(new.step) == 1
    assert float(metrics["loss"].weight) == 2


class Train(nn.Module):
    """Takes `train` for a module that does not."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x, *, train=False):
        return self.inner(x)


def test_no_weight_means_no_loss_and_no_gradient():
    model, optimizer = Train(nn.Dense(1)), train.optimizer("sgd", 0.1)
    batch = {"x": jnp.ones((2, 2)), "where": jnp.zeros(2, bool)}
    state = train.create(model, optimizer, batch, key=jax.random.key(0))
    new, metrics = train.make_step(model, optimizer, linear_loss)(state, batch)
    chex.assert_trees_all_equal(new.params, state.params)
    assert (float(metrics["loss"].total), float(metrics["loss"].weight)) == (0, 0)


def test_collections_move_and_random_numbers_follow_key_and_step(made):
    state, step = made.state(), jax.jit(made.step)
    new, metrics = step(state, made.batch)
    again, _ = step(state, made.batch)
    chex.assert_trees_all_equal(new.params, again.params)
    assert made.digest(new.collections) != made.digest(state.collections)
    _, at_another_step = step(state.replace(step=jnp.int32(5)), made.batch)
    _, with_another_key = step(state.replace(key=jax.random.key(9)), made.batch)
    assert len({float(m["loss"].total) for m in (metrics, at_another_step, with_another_key)}) == 3


def test_augment_comes_before_the_model_and_draws_its_own_numbers(made):
    seen = []

    def augment(key, batch):
        seen.append(key)
        return {**batch, "x": batch["x"] + jax.random.normal(key, batch["x"].shape)}

    step = jax.jit(train.make_step(made.model, made.optimizer, made.loss, augment=augment))
    plain = jax.jit(train.make_step(made.model, made.optimizer, made.loss))
    state = made.state()
    losses = [float(f(s, made.batch)[1]["loss"].total) for f in (plain, step) for s in (state, state)]
    assert losses[0] == losses[1] != losses[2] == losses[3]
    assert len(seen) == 1


def test_apply_feeds_models_in_other_ways(made):
    def apply(variables, batch, train, rngs):
        outputs, changed = made.model.apply(variables, batch["pixels"], train=True, rngs=rngs, mutable=["batch_stats"])
        return outputs, changed if train else {name: variables[name] for name in ("batch_stats",)}

    batch = {"pixels": made.batch["x"], "y": made.batch["y"]}
    named = jax.jit(train.make_step(made.model, made.optimizer, made.loss, apply=apply))
    chex.assert_trees_all_equal(named(made.state(), batch)[0], jax.jit(made.step)(made.state(), made.batch)[0])


def test_a_step_runs_under_vmap_with_a_traced_learning_rate(made):
    def stepped(rate):
        optimizer = train.optimizer("nesterov", rate, schedule="one_cycle", steps=10, weight_decay=0.1)
        state = made.state().replace(opt_state=optimizer.init(params))
        return train.make_step(made.model, optimizer, made.loss)(state, made.batch)[0].params

    params = made.state().params
    rates = jnp.array([0.0, 0.1])
    swept, alone = jax.jit(jax.vmap(stepped))(rates), jax.jit(stepped)
    for i, rate in enumerate(rates):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], swept), alone(rate), rtol=1e-5, atol=1e-6)


def test_metrics_cannot_be_called_loss(made):
    for maker in (lambda **k: train.make_step(made.model, optax.sgd(1), made.loss, **k),
                  lambda **k: train.make_eval_step(made.model, made.loss, **k)):  # fmt: skip
        with pytest.raises(ValueError, match=r'metrics must not hold "loss"'):
            maker(metrics={"loss": made.loss})


def test_eval_step_changes_nothing_and_leaves_dropout_out(made):
    state = made.state()
    metrics = made.eval_step(state, made.batch)
    outputs = made.model.apply(state.variables, made.batch["x"])
    np.testing.assert_allclose(metrics["loss"].total, made.loss(outputs, made.batch).total, rtol=1e-6)


@pytest.mark.parametrize("rows", [0, 7, 19])
def test_predict_equals_the_model_whatever_the_batches(made, rows):
    state, x = made.state(), np.random.default_rng(1).normal(size=(rows, 6)).astype(np.float32)
    outputs = train.predict(made.model, state, x, batch_size=8)
    assert isinstance(outputs, np.ndarray)
    assert outputs.shape == (rows, 3)
    np.testing.assert_allclose(outputs, made.model.apply(state.variables, x), rtol=1e-5, atol=1e-6)


def test_predict_compiles_once(made, compilations):
    state, x = made.state(), np.ones((19, 6), np.float32)
    train.predict(made.model, state, x, batch_size=8)
    before = len(compilations)
    train.predict(made.model, state, x[:17], batch_size=8)
    assert len(compilations) == before


def test_predict_checks_the_batch_size(made):
    with pytest.raises(ValueError, match="predict: batch_size must be positive, got 0"):
        train.predict(made.model, made.state(), np.ones((1, 6)), batch_size=0)
