import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import train


def test_create_holds_every_collection(made):
    state = made.state()
    assert int(state.step) == 0
    assert state.step.dtype == jnp.int32
    assert set(state.collections) == {"batch_stats"}
    assert set(state.variables) == {"params", "batch_stats"}
    assert state.carry is None
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))


def test_create_depends_on_the_key_alone(made):
    again = train.create(made.model, made.optimizer, made.batch, key=jax.random.key(0))
    other = train.create(made.model, made.optimizer, made.batch, key=jax.random.key(1))
    assert made.digest(made.state()) == made.digest(again)
    assert made.digest(again) != made.digest(other)


def test_create_refuses_an_untyped_key(made):
    with pytest.raises(TypeError, match=r"create: key must be a typed PRNG key"):
        train.create(made.model, made.optimizer, made.batch, key=jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match=r"create: key must be a typed PRNG key"):
        train.create(made.model, made.optimizer, made.batch, key=0)


def test_create_hands_lengths_and_starts_to_the_model():
    class Takes:
        def init(self, key, x, *, lengths, starts, train):
            return {"params": {"kernel": x + lengths[:, None] + starts[:, None]}}

    batch = {"x": np.ones((2, 3)), "lengths": np.array([1, 2]), "starts": np.array([0, 1]), "y": "unused"}
    state = train.create(Takes(), train.optimizer("sgd", 0.1), batch, key=jax.random.key(0))
    np.testing.assert_array_equal(state.params["kernel"][:, 0], [2, 4])


def test_variables_may_be_taken_from_elsewhere(made):
    state, other = made.state(), train.create(made.model, made.optimizer, made.batch, key=jax.random.key(1))
    taken = state.with_variables(other.variables)
    assert made.digest(taken.variables) == made.digest(other.variables)
    assert made.digest(taken.replace(params=state.params, collections=state.collections)) == made.digest(state)
