"""Beam search: the sequences likeliest as a whole, as far as a beam of some width sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxnets.ops.decoding import Decoding, Step, fed


class Beams(NamedTuple):
    """The sequences of each row, the best first.

    Attributes:
      tokens: 0 past the end of a sequence.
      lengths: Tokens of each sequence, the stop sequence among them.
      log_probs: Of each sequence as a whole; -inf where there are fewer sequences than beams.
      scores: What they are ordered by: `log_probs` over the penalty for their length.
    """

    tokens: Int32[Array, "b k n"]
    lengths: Int32[Array, "b k"]
    log_probs: Float[Array, "b k"]
    scores: Float[Array, "b k"]


def beam_search(step: Step, state: Decoding, steps: int, *, beams: int, length_penalty: float = 0.0) -> Beams:
    """Searches for the sequences of at most `steps` tokens with the best score.

    Each step keeps the `beams` best of what there is: sequences that have ended, and all that go on by one token. The
    score is the log-probability over ((5 + length) / 6) ** length_penalty. A beam of 1 is greedy decoding; one
    with room for every sequence finds the best.

    Args:
      step: The model.
      state: From `prefill`, whose stop sequences end a sequence.
      steps: At most so many tokens.
      beams: Sequences that are kept for each row.
      length_penalty: 0 for the log-probability itself; the larger, the longer the sequences it favours.

    Raises:
      ValueError: If `beams` or `steps` is less than 1.

    References:
      Wu et al., 2016. Google's neural machine translation system (the penalty).

    >>> def step(tokens, carry, lengths):  # 0 is likely, and 1 likelier still after another
    ...     return jnp.log(jnp.array([[0.55, 0.45], [0.1, 0.9]]))[tokens], carry
    >>> found = beam_search(step, jn.ops.prefill(step, jnp.array([[0]])), 3, beams=2)
    >>> found.tokens.tolist(), (100 * jnp.exp(found.log_probs)).round().astype(int).tolist()
    ([[[1, 1, 1], [0, 0, 0]]], [[36, 17]])
    """
    if min(beams, steps) < 1:
        raise ValueError(f"beam_search: beams and steps want 1 or more but are {beams} and {steps}")
    batch, vocabulary = state.logits.shape
    stops = state.stop.shape[0] > 0
    first = jnp.arange(batch, dtype=jnp.int32)[:, None] * beams

    def taken(state: Decoding, parents: Array) -> Decoding:
        """The state of these rows."""
        names = "logits", "carry", "seen", "recent", "done"
        return state._replace(**{name: jax.tree.map(lambda x: x[parents], getattr(state, name)) for name in names})

    def penalty(lengths: Array) -> Array:
        return ((5 + lengths.astype(state.logits.dtype)) / 6) ** length_penalty

    def body(loop: tuple[Array, Beams, Decoding]) -> tuple[Array, Beams, Decoding]:
        i, found, state = loop
        done = state.done.reshape(batch, beams)
        # A sequence that has ended goes on in one way only, at no cost.
        free = jnp.where(jnp.arange(vocabulary) == 0, 0.0, -jnp.inf).astype(state.logits.dtype)[None, None]
        each = jax.nn.log_softmax(state.logits).reshape(batch, beams, vocabulary)
        log_probs = found.log_probs[..., None] + jnp.where(done[..., None], free, each)
        lengths = found.lengths + (~done).astype(jnp.int32)
        scores, index = lax.top_k((log_probs / penalty(lengths)[..., None]).reshape(batch, -1), beams)
        parent, token = jnp.divmod(index.astype(jnp.int32), vocabulary)
        found = Beams(
            tokens=jnp.take_along_axis(found.tokens, parent[..., None], axis=1).at[:, :, i].set(token),
            lengths=jnp.take_along_axis(lengths, parent, axis=1),
            log_probs=jnp.take_along_axis(log_probs.reshape(batch, -1), index, axis=1),
            scores=scores,
        )
        return i + 1, found, fed(step, taken(state, (first + parent).reshape(-1)), token.reshape(-1), stops)

    def goes_on(loop: tuple[Array, Beams, Decoding]) -> Array:
        i, found, state = loop
        return (i < steps) & jnp.any(~state.done.reshape(batch, beams) & (found.log_probs > -jnp.inf))

    # To begin with a row has one sequence, the empty one: all beams but the first are impossible.
    one = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf), (batch, beams)).astype(state.logits.dtype)
    none = jnp.zeros((batch, beams, steps), jnp.int32)
    loop = jnp.int32(0), Beams(none, none[..., 0], one, one), taken(state, jnp.repeat(jnp.arange(batch), beams))
    return lax.while_loop(goes_on, body, loop)[1]
