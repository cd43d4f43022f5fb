"""The Transformer that reads: laws, padding, pooling, and what it learns to tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import ops, testing
from jaxnets.layers import RelativeBias
from jaxnets.models import Encoder, SequenceClassifier
from tests.reference.tolerance import tolerance

KEY = jax.random.key(0)
MODEL = Encoder(vocabulary=5, features=8, depth=2, num_heads=2, hidden=6)
TOKENS = jnp.array([[1, 2, 3, 4, 0], [2, 4, 4, 4, 4], [3, 3, 3, 3, 3]])
LENGTHS = jnp.array([5, 2, 0])


def check(model, laws):
    options = {"vocabulary": 5, "carry": False}
    testing.check_sequence_layer(model, jax.ShapeDtypeStruct((3, 9), jnp.int32), laws=laws, **options)


@pytest.mark.exhaustive
def test_laws():
    check(MODEL, set(testing.LAWS) - {"precision"})


@pytest.mark.exhaustive
def test_a_bias_for_all_rows_is_exported_for_any_number_of_them():
    check(MODEL.clone(position=RelativeBias(8, 16, bidirectional=True)), {"export"})


@pytest.mark.exhaustive
def test_law_of_precision():
    """At 64 features: norms of 8 are so ill-conditioned that rounded parameters alone change a gradient by 0.1."""
    check(MODEL.clone(features=64, hidden=64), {"precision"})


def test_parameters_have_their_names():
    model = MODEL.clone(position=RelativeBias(8, 16, bidirectional=True), gated=True)
    params = jax.eval_shape(model.init, KEY, TOKENS)["params"]
    assert sorted(params) == ["embedding", "layer", "norm"]
    block = params["layer"]["layer"]
    assert sorted(block) == ["down", "gate", "mixer", "norm_mixer", "norm_mlp", "up"]
    assert block["mixer"]["position"]["table"].shape == (2, 8, 2)


@pytest.mark.parametrize("pooling", ["first", pytest.param("mean", marks=pytest.mark.exhaustive)])
def test_a_class_is_of_the_tokens_that_count(pooling):
    model = SequenceClassifier(MODEL, outputs=3, pooling=pooling)
    variables = jax.jit(model.init)(KEY, TOKENS)
    run = jax.jit(lambda variables, x: model.apply(variables, x, lengths=LENGTHS))
    logits = run(variables, TOKENS)
    assert logits.shape == (3, 3)
    dirty = jnp.where(ops.time_mask(LENGTHS, 5), TOKENS, 99)
    np.testing.assert_array_equal(run(variables, dirty), logits)
    alone = jax.jit(model.apply)(variables, TOKENS[1:2, :2])
    np.testing.assert_allclose(alone, logits[1:2], **tolerance("float32"))
    np.testing.assert_array_equal(logits[2], variables["params"]["head"]["bias"])


@pytest.mark.exhaustive
@pytest.mark.optimised
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_it_learns_which_of_two_tokens_comes_first(pooling):
    """That is lost on what knows no positions."""
    model = SequenceClassifier(Encoder(6, 16, 2, 2), outputs=2, pooling=pooling)

    def draw(key, rows):
        keys = jax.random.split(key, 3)
        tokens = jax.random.randint(keys[0], (rows, 8), 2, 6)
        places = jnp.argsort(jax.random.uniform(keys[1], (rows, 7)), axis=1)[:, :2] + 1
        tokens = tokens.at[jnp.arange(rows), places[:, 0]].set(0).at[jnp.arange(rows), places[:, 1]].set(1)
        return tokens, (places[:, 0] < places[:, 1]).astype(jnp.int32)

    optimizer = optax.adam(3e-3)

    def loss(variables, key):
        tokens, labels = draw(key, 64)
        return ops.cross_entropy(model.apply(variables, tokens), labels).value

    @jax.jit
    def train(variables):
        def step(state, key):
            variables, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(variables, key), opt_state)
            return (optax.apply_updates(variables, updates), opt_state), None

        return jax.lax.scan(step, (variables, optimizer.init(variables)), jax.random.split(KEY, 500))[0][0]

    variables = train(jax.jit(model.init)(KEY, TOKENS))
    tokens, labels = draw(jax.random.key(1), 500)
    assert jnp.mean(jnp.argmax(model.apply(variables, tokens), axis=1) == labels) > 0.95


@pytest.mark.exhaustive
def test_dropout_acts_in_training_alone():
    model = MODEL.clone(dropout=0.5)
    variables = jax.jit(model.init)(KEY, TOKENS)
    run = jax.jit(lambda key: model.apply(variables, TOKENS, train=True, rngs={"dropout": key})[0])
    assert not np.allclose(run(jax.random.key(1)), run(jax.random.key(2)))


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (jnp.ones((1, 3)), {}, TypeError, "x wants tokens, of an integer dtype"),
        (TOKENS[0], {}, ValueError, r"x wants \[B, T\]"),
        (TOKENS, {"carry": (jnp.ones(3),)}, ValueError, "attention to all tokens cannot go on"),
    ],
)
def test_errors(own_errors, x, options, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: MODEL.init(KEY, x, **options))


def test_a_classifier_wants_tokens_for_it(own_errors):
    with pytest.raises(TypeError, match="x has dtype float32 but wants integer"):
        SequenceClassifier(MODEL, outputs=3).init(KEY, jnp.ones((1, 3)))
