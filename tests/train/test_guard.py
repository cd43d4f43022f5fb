"""What is kept out of training leaves no trace but a count."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import train
from jaxnets.typing import Mean

OPTIONS = {"guard": train.Guard(limit=3, spikes=4.0), "ema": 0.9}


@pytest.fixture(scope="module")
def step(made):
    return train.make_step(made.model, made.optimizer, made.loss, metrics={"accuracy": train.accuracy}, **OPTIONS)


@pytest.fixture(scope="module")
def state(made):
    return lambda: train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0), **OPTIONS)


def kept(state):
    return {name: getattr(state, name) for name in ("params", "opt_state", "collections", "ema", "key")}


def nan_loss(batch):
    return {**batch, "x": np.where(np.arange(8)[:, None] == 3, np.nan, batch["x"]).astype(np.float32)}


def test_a_loss_that_is_not_finite_changes_no_bit_and_is_counted(made, step, state):
    compiled = jax.jit(step)
    before, _ = compiled(state(), made.batch)
    after, sums = compiled(before, nan_loss(made.batch))
    assert made.digest(kept(after)) == made.digest(kept(before))
    assert (int(after.step), int(after.guard.in_row), int(after.guard.since)) == (2, 1, 1)
    assert float(sums["nonfinite"].value) == 1
    assert float(sums["loss"].weight) == float(sums["accuracy"].total) == 0
    again, sums = compiled(after, made.batch)
    assert (float(sums["nonfinite"].total), int(again.guard.in_row)) == (0, 0)
    assert made.digest(kept(again)) != made.digest(kept(after))


def test_a_gradient_alone_may_be_at_fault(made):
    def loss(outputs, batch):  # the root of 0, whose derivative is infinite
        return Mean(jnp.sqrt(0 * jnp.abs(outputs).sum()), jnp.float32(1))

    step = jax.jit(train.make_step(made.model, made.optimizer, loss, **OPTIONS))
    before = train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0), **OPTIONS)
    after, sums = step(before, made.batch)
    assert float(sums["nonfinite"].total) == 1
    assert made.digest(kept(after)) == made.digest(kept(before))


@pytest.mark.exhaustive
def test_steps_without_trouble_are_those_without_a_guard(made):
    step = jax.jit(train.make_step(made.model, made.optimizer, made.loss, guard=train.Guard()))
    state = train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0), guard=train.Guard())
    plain = jax.jit(train.make_step(made.model, made.optimizer, made.loss))
    chex.assert_trees_all_close(step(state, made.batch)[0].params, plain(made.state(), made.batch)[0].params)


@pytest.mark.parametrize(
    "way", ["scan", *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("single", "stream"))]
)
def test_too_many_in_a_row_stop_fit_with_step_and_place(made, step, state, way):
    x = made.arrays["x"].copy()
    x[:] = np.where(np.arange(len(x))[:, None] % 2, np.nan, x)
    resident = type(made.data)({"x": jnp.asarray(x), "y": made.data.arrays["y"]})
    good = made.data if way != "stream" else made.stream()
    begun, _ = train.fit(state(), step, good, steps=7, scan=way == "scan")
    digest = made.digest(kept(begun))
    ran = []
    callbacks = [train.every(5, lambda step, state, metrics: ran.append(step))]
    data = resident if way != "stream" else type(made.stream())(resident)
    words = r"in 3 steps in a row after step 7; the first took batch " + (
        "7 of the data" if way == "stream" else "2 of"
    )
    with pytest.raises(train.DivergedError, match=words) as raised:
        train.fit(begun, step, data, steps=100, scan=way == "scan", callbacks=callbacks)
    assert raised.value.step == 7
    assert made.digest(kept(raised.value.state)) == digest
    assert ran == []


def test_counts_are_told_as_counts(made, step, state):
    batches = [made.batch, nan_loss(made.batch), made.batch, nan_loss(made.batch)]
    _, metrics = train.fit(state(), step, batches, steps=4, callbacks=[train.every(4, lambda *_: None)])
    seen = []
    train.fit(state(), step, batches, steps=4, callbacks=[train.every(4, lambda step, state, told: seen.append(told))])
    assert seen[0]["nonfinite"] == 2
    assert np.isfinite(seen[0]["loss"])
    assert set(metrics) == {"loss", "accuracy", "nonfinite", "spikes"}


def test_a_leap_of_the_loss_is_kept_out(made, state):
    def loss(outputs, batch):
        return Mean(batch["leap"][0] + jnp.tanh(outputs).mean(), jnp.float32(1))

    step = jax.jit(train.make_step(made.model, made.optimizer, loss, **OPTIONS))
    now = state()
    for i in range(25):
        now, sums = step(now, {**made.batch, "leap": np.full(8, 0.1 * (-1) ** i, np.float32)})
        assert float(sums["spikes"].total) == 0
    after, sums = step(now, {**made.batch, "leap": np.full(8, 5, np.float32)})
    assert (float(sums["spikes"].total), float(sums["nonfinite"].total)) == (1, 0)
    assert made.digest(kept(after)) == made.digest(kept(now))
    chex.assert_trees_all_equal(after.guard._replace(in_row=0, since=0), now.guard._replace(in_row=0, since=0))


def test_the_state_must_fit_the_step(made, step, state):
    with pytest.raises(ValueError, match=r"state.ema is None, which does not fit the step"):
        step(made.state(), made.batch)
    with pytest.raises(ValueError, match=r"state.ema is there, which does not fit the step"):
        made.step(state(), made.batch)
    with pytest.raises(ValueError, match="Guard: limit and spikes must be positive, got 0 and None"):
        train.Guard(limit=0)
    with pytest.raises(ValueError, match='metrics must not hold "nonfinite"'):
        train.make_step(made.model, made.optimizer, made.loss, metrics={"nonfinite": train.accuracy})
