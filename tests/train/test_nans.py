"""The source of what is not finite, in a model, its gradient, a loop and a whole training step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxnets import layers, train
from jaxnets.typing import Mean


class Model(nn.Module):
    """Takes a logarithm between two layers."""

    @nn.compact
    def __call__(self, x, *, train=False):
        y, _ = layers.LSTM(4, name="memory")(x)
        y = nn.remat(Root)(name="root")(y[:, -1])
        return nn.Dense(2, name="last")(y)


class Root(nn.Module):
    """Fine at 0, but for its gradient."""

    @nn.compact
    def __call__(self, x):
        return jnp.sqrt(jnp.abs(x))


@pytest.fixture(scope="module")
def problem():
    x = jnp.ones((2, 3, 4))
    return Model(), Model().init(jax.random.key(0), x), x


@pytest.mark.exhaustive
def test_all_is_finite(problem):
    model, variables, x = problem
    assert train.locate_nan(jax.grad(lambda v: model.apply(v, x).sum()), variables) is None


@pytest.mark.exhaustive
def test_the_gradient_and_the_infinity_behind_a_nan(problem):
    model, variables, x = problem
    # With no input the memory stays 0, where the root's derivative is infinite; it meets a 0 in the steps before.
    found = train.locate_nan(jax.grad(lambda v, x: model.apply(v, x).sum()), variables, 0 * x)
    assert (found.found, found.layer.split(".")[0], found.gradient) == ("nan", "Model/memory/lstm", True)
    assert (found.because.found, found.because.layer, found.because.gradient) == ("inf", "Model/root", True)
    assert "test_nans.py" in str(found)


@pytest.mark.exhaustive
def test_an_argument_is_named(problem):
    model, variables, x = problem
    variables = jax.tree.map(jnp.copy, variables)
    variables["params"]["memory"]["recurrent_kernel"] = (
        variables["params"]["memory"]["recurrent_kernel"].at[0].set(jnp.nan)
    )
    found = train.locate_nan(model.apply, variables, x)
    assert str(found) == "argument params/memory/recurrent_kernel holds nan"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_iteration_of_a_scan(reverse):
    def body(carry, x):
        return carry, jnp.log(x) - carry

    def function(x):
        return lax.scan(body, jnp.float32(1), x, reverse=reverse)[1].sum()

    found = train.locate_nan(function, jnp.array([1.0, 2.0, -3.0, 1.0, -1.0]))
    assert (found.operation, found.iterations) == ("log", (4,) if reverse else (2,))
    assert found.operands == (f"the argument, {-1.0 if reverse else -3.0}",)


def test_loops_and_branches():
    def body(carry):
        i, x = carry
        return i + 1, lax.cond(i == 3, lambda x: x / (x - x), lambda x: 2 * x, x)

    found = train.locate_nan(lambda x: lax.while_loop(lambda carry: carry[0] < 9, body, (0, x))[1], jnp.float32(2))
    assert (found.operation, found.found, found.iterations) == ("div", "inf", (3,))


def test_an_infinity_that_is_written_is_meant(strict_promotion):
    scores, mask = jnp.zeros((2, 3)), jnp.array([[True, False, True], [False] * 3])
    softmax = lambda scores, mask: jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))  # noqa: E731
    assert train.locate_nan(softmax, scores[:1], mask[:1]) is None
    found = train.locate_nan(softmax, scores, mask)
    assert (found.operation, found.found, found.because) == ("sub", "nan", None)
    assert train.locate_nan(lambda x: jnp.where(x > 0, jnp.log(x), 0.0), jnp.float32(-1)) is None


def test_a_step_that_a_guard_stopped():
    class Line(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(1, name="line")(x)

    def loss(outputs, batch):
        return Mean(jnp.log(batch["x"] + 0 * outputs).sum(), jnp.float32(2))

    guard, batch = train.Guard(limit=1), {"x": np.float32([[1], [-1]])}
    step = train.make_step(Line(), optax.sgd(0.1), loss, guard=guard)
    state = train.create(Line(), optax.sgd(0.1), batch, key=jax.random.key(0), guard=guard)
    state, sums = jax.jit(step)(state, batch)
    assert (float(sums["nonfinite"].total), bool(state.guard.stopped)) == (1, True)
    found = train.locate_nan(step, state, batch)
    assert (found.operation, found.found, found.layer, found.gradient) == ("log", "nan", "", False)
    assert found.operands == ("the result of add, float32[2,1] of -1 to 1",)
