"""The filters against their definitions in NumPy, and draws against probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops

pytestmark = pytest.mark.usefixtures("strict_promotion")


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def kept_by_top_p(logits, top_p):
    """The shortest head of the ordered tokens whose probability reaches top_p."""
    order, total, kept = np.argsort(-logits), 0.0, set()
    for token in order:
        kept.add(int(token))
        total += softmax(logits)[token]
        if total >= top_p:
            break
    return kept


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 2, (5, 11)).astype(np.float32)


def kept(filtered):
    return [{*np.flatnonzero(np.isfinite(row)).tolist()} for row in np.asarray(filtered)]


def test_top_k_keeps_the_likeliest(logits):
    for k in (1, 4, 11, 40):
        want = [{*np.argsort(-row)[:k].tolist()} for row in logits]
        assert kept(ops.filter_logits(jnp.asarray(logits), top_k=k)) == want


def test_top_p_keeps_the_shortest_head(logits):
    for top_p in (0.0, 0.1, 0.5, 0.9, 0.999):
        want = [kept_by_top_p(row.astype(np.float64), top_p) for row in logits]
        assert kept(ops.filter_logits(jnp.asarray(logits), top_p=top_p)) == want
    assert kept(ops.filter_logits(jnp.asarray(logits), top_p=1.0)) == [{*range(11)}] * 5


def test_min_p_keeps_what_is_near_the_likeliest(logits):
    for min_p in (0.0, 0.05, 0.5, 1.0):
        want = [{*np.flatnonzero(softmax(row) >= min_p * softmax(row).max()).tolist()} for row in logits]
        assert kept(ops.filter_logits(jnp.asarray(logits), min_p=min_p)) == want


def test_each_filter_sees_what_the_last_one_left(logits):
    got = kept(ops.filter_logits(jnp.asarray(logits), temperature=0.5, top_k=5, top_p=0.8, min_p=0.1))
    for row, tokens in zip(2 * logits.astype(np.float64), got, strict=True):
        row = np.where(row >= np.sort(row)[-5], row, -np.inf)
        row = np.where([i in kept_by_top_p(row, 0.8) for i in range(11)], row, -np.inf)
        assert tokens == {*np.flatnonzero(softmax(row) >= 0.1 * softmax(row).max()).tolist()}


def test_traced_numbers_and_the_values_that_stay(logits):
    @jax.jit
    def filtered(logits, temperature, top_p, min_p):
        return ops.filter_logits(logits, temperature=temperature, top_p=top_p, min_p=min_p)

    got = filtered(jnp.asarray(logits), 0.7, 0.9, 0.01)
    want = ops.filter_logits(jnp.asarray(logits), temperature=0.7, top_p=0.9, min_p=0.01)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    finite = np.isfinite(want)
    np.testing.assert_allclose(np.asarray(want)[finite], (logits / np.float32(0.7))[finite], rtol=1e-6)


def test_draws_have_the_probabilities():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1]))
    rows = jnp.broadcast_to(logits, (20_000, 4))
    counts = np.bincount(ops.sample(rows, jax.random.key(0)), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.15, 0.1], atol=0.01)
    counts = np.bincount(ops.sample(rows, jax.random.key(0), temperature=0.5, top_k=2), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.8, 0.2, 0, 0], atol=0.01)


def test_a_penalty_for_what_was_seen():
    logits, seen = jnp.array([[2.0, -2.0, 1.0, -1.0]]), jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(ops.penalise_repetition(logits, seen, 4.0), [[0.5, -8.0, 1.0, -1.0]])


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 1.1}, {"top_p": -0.1}, {"min_p": float("nan")}], ids=str
)
def test_wrong_numbers_are_told(wrong):
    with pytest.raises(ValueError, match=f"filter_logits: {next(iter(wrong))} is .* but wants"):
        ops.filter_logits(jnp.zeros((1, 3)), **wrong)
