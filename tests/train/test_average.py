import jax
import numpy as np
import pytest

from jaxnets import train


@pytest.fixture(scope="module")
def averaging(made):
    step = train.make_step(made.model, made.optimizer, made.loss, ema=0.9)
    return step, lambda: train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0), ema=0.9)


def test_the_average_is_the_loop_and_evaluation_takes_it(made, averaging):
    step, create = averaging
    state = create()
    path = ("params", "Dense_0", "kernel")
    take = lambda tree: np.asarray(tree[path[0]][path[1]][path[2]], np.float64)  # noqa: E731
    want, compiled = take(state.variables), jax.jit(step)
    for i in range(30):
        state, _ = compiled(state, made.batch)
        decay = min(0.9, (1 + i) / (10 + i))
        want = decay * want + (1 - decay) * take(state.variables)
    np.testing.assert_allclose(take(state.averages), want, rtol=1e-5)
    assert set(state.ema) == {"params", "batch_stats"}

    plain = state.replace(ema=None)
    averages = plain.with_variables(state.ema)
    got = train.predict(made.model, state, made.batch["x"])
    np.testing.assert_array_equal(got, train.predict(made.model, averages, made.batch["x"]))
    assert np.abs(got - train.predict(made.model, plain, made.batch["x"])).max() > 1e-4
    loss = made.eval_step(state, made.batch)["loss"].total
    assert loss == made.eval_step(averages, made.batch)["loss"].total != made.eval_step(plain, made.batch)["loss"].total


def test_no_buffer_is_held_twice(made, averaging):
    step, create = averaging
    state = create().with_variables(made.state().variables)
    for begun in (create(), state):
        state, _ = train.fit(begun, step, made.data, steps=2)
        assert int(state.step) == 2
