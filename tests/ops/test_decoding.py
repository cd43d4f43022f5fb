"""Decoding against a loop that runs the whole model anew for each token, for every kind of carry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, models, ops

VOCABULARY, ROOM = 6, 12
MODELS = {
    "gru": models.LanguageModel(layers.GRU(8), VOCABULARY, 8),
    "cache": models.TransformerLM(VOCABULARY, 8, 1, 2),
    "ring": models.HybridLM(VOCABULARY, 8, 3, 2, window=3),
}
PROMPT, LENGTHS = jnp.array([[1, 2, 3, 4], [5, 5, 9, 9], [2, 0, 1, 9]]), jnp.array([4, 2, 3])


@functools.cache
def variables(name):
    made = MODELS[name].init(jax.random.key(1), PROMPT[:, :2])
    return jax.tree.map(lambda leaf: 3 * leaf, made)  # so that the next token is not all the same


@functools.cache
def program(name, steps, stop=(), **options):
    """One compiled function from prompts and a key to the text and the state."""
    model = MODELS[name]

    @jax.jit
    def decode(variables, prompt, lengths, key):
        def step(tokens, carry, lengths):
            return model.apply(variables, tokens, lengths=lengths, carry=carry)

        spec = jax.ShapeDtypeStruct((len(prompt), ROOM), prompt.dtype)
        state = ops.prefill(
            step, prompt, layers.initial_carry(model, variables, spec), lengths=lengths, stop=[*map(list, stop)]
        )
        return ops.generate(step, state, steps, key=key, **options)

    return lambda key=None, prompt=PROMPT, lengths=LENGTHS: decode(variables(name), prompt, lengths, key)


@functools.cache
def whole(name):
    return jax.jit(lambda variables, tokens: MODELS[name].apply(variables, tokens)[0])


def log_softmax(name, tokens):
    """Of the token after these, by the whole model; on padded tokens, which a causal model cannot see."""
    padded = jnp.zeros((1, ROOM), jnp.int32).at[0, : len(tokens)].set(jnp.array(tokens, jnp.int32))
    logits = whole(name)(variables(name), padded)[0, len(tokens) - 1]
    return np.asarray(jax.nn.log_softmax(logits))


def prompts():
    return [row[:length].tolist() for row, length in zip(np.asarray(PROMPT), np.asarray(LENGTHS), strict=True)]


EACH = ["gru", "cache", pytest.param("ring", marks=pytest.mark.exhaustive)]


@pytest.mark.parametrize("name", EACH)
def test_greedy_equals_the_whole_model_anew(name):
    text, state = program(name, 6)()
    for prompt, tokens, log_probs in zip(prompts(), text.tokens.tolist(), text.log_probs, strict=True):
        for token, log_prob in zip(tokens, log_probs, strict=True):
            want = log_softmax(name, prompt)
            assert token == want.argmax()
            np.testing.assert_allclose(log_prob, want[token], rtol=2e-4, atol=2e-5)
            prompt = [*prompt, token]
    assert text.lengths.tolist() == [6, 6, 6]
    assert (int(state.steps), state.done.any()) == (6, False)


@pytest.mark.parametrize("name", ["gru", pytest.param("cache", marks=pytest.mark.exhaustive)])
def test_the_same_key_gives_the_same_text(name):
    draw = program(name, 6, temperature=20.0)
    one, other = draw(jax.random.key(0))[0], draw(jax.random.key(1))[0]
    np.testing.assert_array_equal(one.tokens, draw(jax.random.key(0))[0].tokens)
    assert (one.tokens != other.tokens).any()
    for prompt, tokens, log_probs in zip(prompts(), one.tokens.tolist(), one.log_probs, strict=True):
        for token, log_prob in zip(tokens, log_probs, strict=True):
            np.testing.assert_allclose(log_prob, log_softmax(name, prompt)[token], rtol=2e-4, atol=2e-5)
            prompt = [*prompt, token]


def counting(tokens, carry, lengths):
    """A model that counts on, and whose carry is the last token it was given."""
    logits = 9.0 * jax.nn.one_hot((tokens + 1) % VOCABULARY, VOCABULARY)
    last = ops.last_valid(tokens.astype(jnp.float32), lengths)
    taken = jnp.ones(len(tokens), bool) if lengths is None else lengths > 0
    return logits, jnp.where(taken, last, carry)


def counted(prompt, stop=(), lengths=None):
    return ops.prefill(counting, jnp.array(prompt), jnp.zeros(len(prompt)), lengths=lengths, stop=stop)


def test_a_few_tokens_at_a_time_are_the_same_text():
    state = counted([[0, 1], [4, 0]], lengths=jnp.array([2, 1]))
    options = {"key": jax.random.key(3), "temperature": 5.0, "repetition_penalty": 1.5}
    at_once, end = ops.generate(counting, state, 9, **options)
    parts = []
    for n in (1, 3, 5):
        text, state = ops.generate(counting, state, n, **options)
        parts.append(text.tokens)
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=1), at_once.tokens)
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_array_equal(got, want)


def test_at_most_is_a_number_that_is_not_compiled():
    state = counted([[0, 1]])
    text, after = jax.jit(lambda n: ops.generate(counting, state, 4, at_most=n))(3)
    want, want_after = ops.generate(counting, state, 3)
    np.testing.assert_array_equal(text.tokens, jnp.pad(want.tokens, ((0, 0), (0, 1))))
    assert text.lengths == want.lengths == after.steps == want_after.steps == 3


def test_rows_end_by_themselves():
    state = counted([[0], [3], [4]], stop=[(5,), (2, 3)])
    text, end = ops.generate(counting, state, 8)
    assert text.tokens.tolist() == [[1, 2, 3, *[0] * 5], [4, 5, *[0] * 6], [5, *[0] * 7]]
    assert text.lengths.tolist() == [3, 2, 1]
    assert end.done.all()
    assert int(end.steps) == 3  # and the loop ended with the last of them
    assert end.carry.tolist() == [3.0, 5.0, 5.0]
    assert (text.log_probs[1, 2:] == 0).all()
    more, _ = ops.generate(counting, end, 2)
    assert (more.lengths.tolist(), more.tokens.any()) == ([0, 0, 0], False)


def test_a_stop_sequence_is_not_of_the_prompt():
    text, _ = ops.generate(counting, counted([[1, 2]], stop=[(2, 3)]), 3)
    assert text.tokens.tolist() == [[3, 4, 5]]


def test_a_stop_sequence_may_come_in_two_parts():
    _, state = ops.generate(counting, counted([[0]], stop=[(1, 2)]), 1)
    text, state = ops.generate(counting, state, 4)
    assert (text.tokens.tolist(), text.lengths.tolist(), state.done.tolist()) == ([[2, 0, 0, 0]], [1], [True])


def test_what_was_said_is_penalised():
    text, state = ops.generate(counting, counted([[0, 3]]), 5, repetition_penalty=1e6)
    assert len({3, *text.tokens[0].tolist()}) >= 4
    assert state.seen.sum() == len({0, 3, *text.tokens[0].tolist()})


@pytest.mark.parametrize("name", EACH[1:])
def test_a_row_that_ended_leaves_its_carry_and_the_others(name):
    free, _ = program(name, 6)()
    first = int(free.tokens[0, 0])
    text, _ = program(name, 6, stop=((first,),))()
    assert text.tokens[0].tolist() == [first, 0, 0, 0, 0, 0]
    for row in (1, 2):
        length = int(text.lengths[row])
        np.testing.assert_array_equal(text.tokens[row, :length], free.tokens[row, :length])
        assert length == 6 or text.tokens[row, length - 1] == first


def test_a_cache_without_room_is_told_by_nan():
    text, _ = program("cache", ROOM)()
    assert np.isfinite(text.log_probs[:, : ROOM - 4]).all()
    assert np.isnan(text.log_probs[0, ROOM - 2 :]).all()


def test_one_loop_is_compiled_whatever_the_prompt():
    step = MODELS["gru"]
    traces = []

    @jax.jit
    def decode(variables, prompt):
        def once(tokens, carry, lengths):
            traces.append(tokens.shape)
            return step.apply(variables, tokens, lengths=lengths, carry=carry)

        return ops.generate(once, ops.prefill(once, prompt), 100)[0].tokens

    decode(variables("gru"), PROMPT[:, :3])
    assert traces.count((3, 1)) <= 2
    assert len(traces) <= 3


def test_what_cannot_be_begun_is_told():
    with pytest.raises(ValueError, match="prompts have no steps"):
        counted(np.zeros((2, 0), np.int32))
    with pytest.raises(ValueError, match="stop wants sequences of at least one token"):
        counted([[1]], stop=[()])
