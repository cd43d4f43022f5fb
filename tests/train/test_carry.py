"""A carry kept from batch to batch: the rows of a text go on where they stood, and no gradient goes back there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets as jn
from jaxnets import data, ops, train

TOKENS = np.random.default_rng(0).integers(0, 7, 61)


def loss(logits, batch):
    return ops.cross_entropy(logits, batch["y"])


def made(learning_rate=0.0, layer=None):
    model = jn.models.LanguageModel(layer or jn.layers.RNN(5), vocabulary=7, features=4, dropout=0.0)
    optimizer, rows = optax.sgd(learning_rate), data.DeviceText(TOKENS, batch_size=3, time=4)
    step = train.make_step(model, optimizer, loss, apply=train.carried(model))
    batch = rows.batch(rows.order(0), 0)
    return model, rows, step, lambda: train.create(model, optimizer, batch, key=jax.random.key(0), keep_carry=True)


@pytest.mark.parametrize(
    "layer", [jn.layers.LSTM(5), jn.layers.SelfAttention(2, head_dim=2, window=6)], ids=["lstm", "attention"]
)
def test_steps_with_a_carry_see_the_whole_row(layer):
    model, rows, step, create = made(layer=layer)
    state = first = create()
    totals, step = [], jax.jit(step)
    for i in range(3):
        state, metrics = step(state, rows.batch(rows.order(0), i))
        totals.append(metrics["loss"].total)
    whole = data.DeviceText(TOKENS, batch_size=3, time=12)
    batch = whole.batch(whole.order(0), 0)
    logits, carry = jax.jit(model.apply)(first.variables, batch["x"])
    np.testing.assert_allclose(sum(totals), loss(logits, batch).total, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(state.carry), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert "carry" not in state.collections
    assert "carry" not in state.variables


def test_a_row_that_restarts_has_forgotten():
    model, rows, step, create = made()
    anew = data.DeviceText(TOKENS, batch_size=3, time=4, restarts=1.0)
    step, state = jax.jit(step), create()
    for i in range(2):
        batch = anew.batch(anew.order(0), i)
        np.testing.assert_array_equal(batch["x"], rows.batch(rows.order(0), i)["x"])
        logits, carry = jax.jit(model.apply)(state.variables, batch["x"])
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"].total, loss(logits, batch).total, rtol=1e-6)
        np.testing.assert_allclose(state.carry.h, carry.h, rtol=1e-6)
    remembers, _ = step(state, rows.batch(rows.order(0), 2))
    forgets, _ = step(state, anew.batch(anew.order(0), 2))
    assert (abs(remembers.carry.h - forgets.carry.h) > 1e-4).any()


def test_the_gradient_is_that_of_the_steps_alone():
    model, rows, step, create = made(learning_rate=0.5)
    step = jax.jit(step)
    state, _ = step(create(), rows.batch(rows.order(0), 0))
    batch = rows.batch(rows.order(0), 1)

    def objective(params):
        logits, _ = model.apply({"params": params}, batch["x"], carry=state.carry)
        return loss(logits, batch).value

    want = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, jax.jit(jax.grad(objective))(state.params))
    after, _ = step(state, batch)
    for got, expected in zip(jax.tree.leaves(after.params), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_fit_scans_and_the_carry_goes_along():
    _, rows, step, create = made(learning_rate=0.1)
    state, one = create(), jax.jit(step)
    for i in range(8):  # beyond an epoch of five
        epoch, at = divmod(i, rows.steps_per_epoch)
        state, _ = one(state, rows.batch(rows.order(epoch), at))
    fitted, _ = train.fit(create(), step, rows, steps=8)
    for got, want in zip(jax.tree.leaves(fitted.carry), jax.tree.leaves(state.carry), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_an_evaluation_begins_anew():
    model, rows, step, create = made()
    batch = rows.batch(rows.order(0), 0)
    state, _ = jax.jit(step)(create(), batch)
    evaluated = jax.jit(train.make_eval_step(model, loss, apply=train.carried(model)))(state, batch)
    logits, _ = jax.jit(model.apply)(state.variables, batch["x"])
    np.testing.assert_allclose(evaluated["loss"].total, loss(logits, batch).total, rtol=1e-6)


def test_without_a_carry_there_is_none():
    model, rows, step, _ = made()
    batch = rows.batch(rows.order(0), 0)
    state, _ = jax.jit(step)(train.create(model, optax.sgd(0.0), batch, key=jax.random.key(0)), batch)
    assert state.carry is None


def test_a_carry_is_not_cut():
    model, rows, _, create = made()
    step = train.make_step(model, optax.sgd(0.0), loss, apply=train.carried(model), accumulate=3)
    with pytest.raises(ValueError, match="accumulate must be 1 where a carry is kept, got 3"):
        step(create(), rows.batch(rows.order(0), 0))
    assert jnp.shape(create().carry.h) == (3, 5)
