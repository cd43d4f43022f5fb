"""Models of language: laws over tokens, learning, streaming, and what they refuse."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import ops, testing
from jaxnets.layers import (
    GRU,
    MinGRU,
    RelativeBias,
    Repeated,
    SelfAttention,
    Stack,
    TransformerBlock,
    initial_carry,
)
from jaxnets.models import HybridLM, LanguageModel, RecurrentLM, TransformerLM
from tests.reference.tolerance import tolerance

MODELS = {
    "recurrent": RecurrentLM(5, 6, 2, GRU),
    "transformer": TransformerLM(5, 8, 2, 2, hidden=8),
    "hybrid": HybridLM(5, 8, 3, 2, window=3),
}


def check(model, laws):
    testing.check_sequence_layer(
        model,
        jax.ShapeDtypeStruct((3, 9), jnp.int32),
        laws=laws,
        vocabulary=5,
        initial_carry=lambda variables, spec: initial_carry(model, variables, spec),
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MODELS)
def test_laws(name):
    check(MODELS[name], set(testing.LAWS) - {"precision"})


@pytest.mark.exhaustive
def test_laws_around_any_layer():
    check(LanguageModel(MinGRU(6), vocabulary=5, features=6), testing.LAWS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MODELS)
def test_law_of_precision(name):
    """At 64 features: norms of 8 are so ill-conditioned that rounded parameters alone change a gradient by 0.1."""
    check(MODELS[name].clone(features=64), {"precision"})


@pytest.mark.parametrize(
    "name", ["hybrid", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("recurrent", "transformer"))]
)
def test_learns_to_count_and_decodes_what_it_learned(name):
    model, tokens = MODELS[name], (jnp.arange(12)[None, :] + jnp.arange(5)[:, None]) % 5
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(variables):
        def step(state, _):
            variables, opt_state = state

            def loss(variables):
                return ops.cross_entropy(model.apply(variables, tokens[:, :-1])[0], tokens[:, 1:]).value

            value, gradient = jax.value_and_grad(loss)(variables)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(variables, updates), opt_state), value

        (variables, _), losses = jax.lax.scan(step, (variables, optimizer.init(variables)), length=120)
        return variables, losses

    variables, losses = train(variables)
    assert losses[-1] < 0.1 < losses[0]
    carry = initial_carry(model, variables, jax.ShapeDtypeStruct((1, 9), jnp.int32))
    step = jax.jit(lambda carry, token: model.apply(variables, token, carry=carry))
    logits, carry = step(carry, jnp.array([[2, 3]]))
    said = [int(jnp.argmax(logits[0, -1]))]
    for _ in range(6):
        logits, carry = step(carry, jnp.array([said[-1:]]))
        said.append(int(jnp.argmax(logits[0, -1])))
    assert said == [4, 0, 1, 2, 3, 4, 0]


def test_tied_weights_are_one_table():
    tied, apart = TransformerLM(5, 8, 2, 2), TransformerLM(5, 8, 2, 2, tied=False)
    tokens = jnp.array([[1, 2, 3]])
    variables = tied.init(jax.random.key(0), tokens)
    assert "head" not in variables["params"]
    head = {"kernel": variables["params"]["embedding"]["embedding"].T, "bias": jnp.zeros(5)}
    other = {"params": {**variables["params"], "head": head}}
    np.testing.assert_allclose(tied.apply(variables, tokens)[0], apart.apply(other, tokens)[0], **tolerance("float32"))


@pytest.mark.parametrize(("input_dropout", "share"), [(None, 0.4), (0.0, 0.0), (0.8, 0.8)])
def test_dropout_of_the_input_is_that_of_the_output_or_its_own(input_dropout, share):
    seen = []

    class Layer(nn.Module):
        def __call__(self, x, *, carry, **context):
            seen.append(x)
            return x, carry

    model = LanguageModel(Layer(), 5, 64, dropout=0.4, input_dropout=input_dropout)
    variables = model.init(jax.random.key(0), jnp.array([[1, 2, 3]]))
    seen.clear()
    for key in (1, 2):
        model.apply(variables, jnp.array([[1, 2, 3]]), train=True, rngs={"dropout": jax.random.key(key)})
    assert abs(float((seen[0] == 0).mean()) - share) < 4 * (share * (1 - share) / seen[0].size) ** 0.5 + 1e-6
    assert bool((seen[0] != seen[1]).any()) == (share > 0)


@pytest.mark.parametrize(
    ("model", "layer", "norm"),
    [
        (
            TransformerLM(5, 8, 2, 2, position=RelativeBias(8, 16)),
            Repeated(TransformerBlock(SelfAttention(2, position=RelativeBias(8, 16))), 2),
            nn.LayerNorm,
        ),
        (RecurrentLM(5, 8, 2, MinGRU), Stack((MinGRU(8), MinGRU(8))), None),
    ],
    ids=["transformer", "recurrent"],
)
def test_the_parameters_are_those_of_a_language_model(model, layer, norm):
    tokens = jnp.array([[1, 2, 3]])
    got, want = (
        jax.eval_shape(each.init, jax.random.key(0), tokens)
        for each in (model, LanguageModel(layer, 5, 8, tied=True, norm=norm))
    )
    assert got == want


@pytest.mark.parametrize(
    ("model", "tokens", "error", "message"),
    [
        (LanguageModel(GRU(6), 5, 4, tied=True), jnp.ones((1, 3), jnp.int32), ValueError, "want 4 features .* has 6"),
        (LanguageModel(GRU(6), 5, 4), jnp.ones((1, 3)), TypeError, "wants tokens, of an integer dtype"),
        (LanguageModel(GRU(6), 5, 4), jnp.ones(3, jnp.int32), ValueError, r"wants \[B, T\]"),
    ],
)
def test_errors(own_errors, model, tokens, error, message):
    with pytest.raises(error, match=message):
        model.init(jax.random.key(0), tokens)
