"""A writer gives what one compiled loop gives, whatever the number of tokens to a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, models, ops

PROMPT = np.array([1, 4, 2])
MODELS = {
    "gru": models.LanguageModel(layers.GRU(6), 5, 6),
    "cache": models.TransformerLM(5, 8, 1, 2),
}


def made(name):
    model = MODELS[name]
    return model, jax.tree.map(lambda leaf: 2 * leaf, model.init(jax.random.key(0), jnp.asarray(PROMPT)[None]))


def in_one_loop(model, variables, steps, key, **options):
    @jax.jit
    def write(variables, key):
        def step(tokens, carry, lengths):
            return model.apply(variables, tokens, lengths=lengths, carry=carry)

        carry = layers.initial_carry(model, variables, jax.ShapeDtypeStruct((1, 40), jnp.int32))
        return ops.generate(step, ops.prefill(step, jnp.asarray(PROMPT)[None], carry), steps, key=key, **options)[0]

    return write(variables, key)


@pytest.mark.parametrize("name", ["cache", pytest.param("gru", marks=pytest.mark.exhaustive)])
def test_it_writes_what_one_loop_writes(name):
    model, variables = made(name)
    options = {"temperature": 1.3, "top_k": 4}
    want = in_one_loop(model, variables, 11, jax.random.key(2), **options)
    writer = models.Writer(model, at_once=4, **options)
    tokens, log_probs = zip(*writer.write(variables, PROMPT, 11, key=jax.random.key(2)), strict=True)
    assert list(tokens) == want.tokens[0].tolist()
    np.testing.assert_allclose(log_probs, want.log_probs[0], rtol=1e-4)


def test_it_ends_at_a_stop_sequence():
    model, variables = made("gru")
    writer = models.Writer(model, at_once=4)
    free = [token for token, _ in writer.write(variables, PROMPT, 12)]
    assert len(free) == 12
    end = tuple(free[4:6])
    ended = [token for token, _ in writer.write(variables, PROMPT, 12, stop=[end])]
    assert tuple(ended[-2:]) == end
    assert ended == free[: len(ended)]
    assert len(ended) < 12


def test_what_cannot_be_written_is_told():
    model, variables = made("gru")
    with pytest.raises(ValueError, match="prompts have no steps"):
        list(models.Writer(model).write(variables, PROMPT[:0], 3))
    with pytest.raises(ValueError, match="top_p is 2"):
        list(models.Writer(model, top_p=2.0).write(variables, PROMPT, 3, key=jax.random.key(0)))
