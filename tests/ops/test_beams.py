"""Beam search against every sequence there is, and against greedy decoding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, models, ops

VOCABULARY, STEPS = 3, 4
TABLE = np.random.default_rng(3).normal(0, 1.5, (2, VOCABULARY, VOCABULARY)).astype(np.float32)


def step(tokens, carry, lengths):
    """The next token depends on the last one, and on whether the sum of all is even: which the carry holds."""
    sums = carry[:, None] + jnp.cumsum(tokens, axis=1)
    after = sums[:, -1] if lengths is None else jnp.where(lengths > 0, sums[:, -1], carry)
    return jnp.asarray(TABLE)[sums % 2, tokens], after


def begun(prompt, stop=()):
    return ops.prefill(step, jnp.array(prompt), jnp.zeros(len(prompt), jnp.int32), stop=stop)


def log_probability(prompt, tokens):
    total, row = 0.0, [*prompt]
    for token in tokens:
        logits = TABLE[sum(row) % 2, row[-1]].astype(np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
        row.append(token)
    return total


def every_sequence(end):
    """All that end in the stop token, and all of the full length."""
    for n in range(1, STEPS + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=n):
            if end not in tokens[:-1] and (n == STEPS or tokens[-1] == end):
                yield tokens


@pytest.mark.parametrize("length_penalty", [0.0, 2.5])
def test_a_beam_as_wide_as_the_space_finds_the_best(length_penalty):
    prompts = [[0, 1], [2, 2]]
    found = ops.beam_search(
        step, begun(prompts, stop=[(1,)]), STEPS, beams=VOCABULARY**STEPS, length_penalty=length_penalty
    )
    for i, prompt in enumerate(prompts):
        scored = {
            tokens: log_probability(prompt, tokens) / ((5 + len(tokens)) / 6) ** length_penalty
            for tokens in every_sequence(1)
        }
        want = sorted(scored, key=scored.get, reverse=True)
        got = [tuple(row[:n].tolist()) for row, n in zip(found.tokens[i], found.lengths[i], strict=True)]
        alive = int(np.isfinite(found.log_probs[i]).sum())
        assert alive == len(want)
        assert got[0] == want[0]
        assert {*got[:alive]} == {*want}
        for order in (want, got[:alive]):  # which differ where two sequences are as likely as one another
            np.testing.assert_allclose(found.scores[i][:alive], [scored[tokens] for tokens in order], rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(length_penalty):
    state = begun([[0], [1], [2]], stop=[(0, 1), (2,)])
    greedy, _ = ops.generate(step, state, 7)
    found = ops.beam_search(step, state, 7, beams=1, length_penalty=length_penalty)
    np.testing.assert_array_equal(found.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(found.lengths[:, 0], greedy.lengths)
    np.testing.assert_allclose(found.log_probs[:, 0], greedy.log_probs.sum(1), rtol=1e-5)


@pytest.mark.exhaustive
def test_a_wider_beam_is_no_worse_here_and_its_rows_are_apart():
    state = begun([[0], [1], [2]])
    best = [ops.beam_search(step, state, 5, beams=beams).log_probs[:, 0] for beams in (1, 3, 9)]
    assert (best[1] >= best[0]).all()
    assert (best[2] >= best[1]).all()
    alone = ops.beam_search(step, begun([[1]]), 5, beams=3)
    together = ops.beam_search(step, state, 5, beams=3)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[1])


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(models.TransformerLM(5, 8, 1, 2), marks=pytest.mark.exhaustive),
        models.LanguageModel(layers.GRU(6), 5, 6),
    ],
    ids=["cache", "gru"],
)
def test_the_carries_of_models_follow_their_beams(model):
    prompt, lengths = jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1])
    variables = jax.tree.map(lambda leaf: 2 * leaf, model.init(jax.random.key(0), prompt))

    @jax.jit
    def search(variables):
        def step(tokens, carry, lengths):
            return model.apply(variables, tokens, lengths=lengths, carry=carry)

        carry = layers.initial_carry(model, variables, jax.ShapeDtypeStruct((2, 8), prompt.dtype))
        return ops.beam_search(step, ops.prefill(step, prompt, carry, lengths=lengths), 4, beams=4)

    found = search(variables)
    whole = jax.jit(lambda tokens: jax.nn.log_softmax(model.apply(variables, tokens)[0]))
    rows = [jnp.concatenate([prompt[i, : lengths[i]], tokens]) for i in range(2) for tokens in found.tokens[i]]
    padded = jnp.stack([jnp.pad(row, (0, 8 - len(row))) for row in rows])
    steps = jnp.array([lengths[i // 4] for i in range(8)])[:, None] + jnp.arange(4)[None]
    each = whole(padded)[jnp.arange(8)[:, None], steps - 1, jnp.take_along_axis(padded, steps, axis=1)]
    np.testing.assert_allclose(found.log_probs.reshape(-1), each.sum(1), rtol=1e-4)


def test_wrong_sizes_are_told():
    for sizes in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="beams and steps want 1 or more"):
            ops.beam_search(step, begun([[0]]), sizes[0], beams=sizes[1])
