"""Decoding: tokens one after another in one compiled loop, by any model that keeps the sequence contract."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from jaxnets.ops._dtype import widened
from jaxnets.ops.masking import last_valid, time_mask
from jaxnets.ops.sampling import penalise_repetition, sample
from jaxnets.typing import Carry

Step = Callable[[Any, Carry, Any], tuple[Any, Carry]]
"""`step(tokens [B, T], carry, lengths [B] or None) -> (logits [B, T, V], carry)`: a model of language, such as
`lambda tokens, carry, lengths: model.apply(variables, tokens, lengths=lengths, carry=carry)`."""


class Decoding(NamedTuple):
    """Where a generation stands, all that goes on.

    Attributes:
      logits: Of the next token, in at least float32.
      carry: The model's, after all tokens so far.
      seen: The tokens that were in the prompt or came since.
      recent: The last tokens that came, as many as a stop sequence may have; -1 before the first.
      stop: The stop sequences, one a row, -1 before the beginning.
      done: The rows that have ended; without stop sequences none does.
      steps: Tokens generated so far.
    """

    logits: Float[Array, "b v"]
    carry: Carry
    seen: Bool[Array, "b v"]
    recent: Int32[Array, "b r"]
    stop: Int32[Array, "s r"]
    done: Bool[Array, " b"]
    steps: Int32[Array, ""]


class Generated(NamedTuple):
    """What was generated.

    Attributes:
      tokens: 0 past the end of a row.
      lengths: Tokens of each row, the stop sequence among them.
      log_probs: Of each token by the model itself, whatever it was drawn from; 0 past the end of a row.
    """

    tokens: Int32[Array, "b n"]
    lengths: Int32[Array, " b"]
    log_probs: Float[Array, "b n"]


def prefill(
    step: Step,
    prompt: Int[Array, "b t"],
    carry: Carry = None,
    *,
    lengths: Int[Array, " b"] | None = None,
    stop: Sequence[Sequence[int]] = (),
) -> Decoding:
    """Reads prompts, all of their steps at once.

    Args:
      step: The model.
      prompt: One for each row; what lies past its length is not looked at.
      carry: What the model begins with; a cache wants room for the prompt and for all that will follow. None leaves it
        to the model.
      lengths: Of the prompts; one of length 0 is followed by any token with the same probability.
      stop: Sequences of tokens at any of which a row ends.

    Raises:
      ValueError: If a stop sequence is empty, or prompts have no steps.

    >>> def step(tokens, carry, lengths):  # counts on
    ...     return 9.0 * jax.nn.one_hot(tokens + 1, 7), carry
    >>> state = prefill(step, jnp.array([[0, 1], [4, 0]]), lengths=jnp.array([2, 1]), stop=[(6,)])
    >>> text, state = generate(step, state, 4)
    >>> text.tokens.tolist(), text.lengths.tolist()
    ([[2, 3, 4, 5], [5, 6, 0, 0]], [4, 2])
    """
    batch, time = prompt.shape
    if time == 0:
        raise ValueError("prefill: the prompts have no steps, so nothing says what comes first")
    if not all(len(sequence) for sequence in stop):
        raise ValueError(f"prefill: stop wants sequences of at least one token but has {stop}")
    logits, carry = step(prompt, carry, lengths)
    valid = jnp.ones_like(prompt, bool) if lengths is None else time_mask(lengths, time)
    seen = jnp.zeros((batch, logits.shape[-1]), bool).at[_rows(batch), prompt].max(valid, mode="drop")
    longest = max(map(len, stop), default=0)
    padded = [[-1] * (longest - len(sequence)) + [*map(int, sequence)] for sequence in stop]
    return Decoding(
        logits=widened(last_valid(logits, lengths)),
        carry=carry,
        seen=seen,
        recent=jnp.full((batch, longest), -1, jnp.int32),
        stop=jnp.asarray(np.array(padded, np.int32).reshape(len(stop), longest)),
        done=jnp.zeros(batch, bool),
        steps=jnp.int32(0),
    )


def generate(
    step: Step,
    state: Decoding,
    steps: int,
    *,
    at_most: Int[Array, ""] | int | None = None,
    key: Key[Array, ""] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    min_p: float | Float[Array, ""] | None = None,
    repetition_penalty: float | Float[Array, ""] | None = None,
) -> tuple[Generated, Decoding]:
    """Generates tokens until every row has ended, at most so many; the state that comes back may be gone on with.

    The same key gives the same text, also where it is generated a few tokens at a time. A row that has ended leaves its
    carry as it is. Where a cache has no room left, the logits and the log-probabilities are NaN.

    Args:
      step: The model.
      state: From `prefill`, or from here.
      steps: At most so many tokens to a row.
      at_most: And at most so many, a number that the compiled program need not know: the rest is 0.
      key: What tokens are drawn from, with `fold_in` by their number; None takes the likeliest.
      temperature: See `filter_logits`, as for the next three.
      top_k: Only the likeliest so many.
      top_p: Only the likeliest, as many as have this probability.
      min_p: Only what is not much less likely than the likeliest.
      repetition_penalty: See `penalise_repetition`; of the tokens of the prompt and those that came since.

    Raises:
      ValueError: As `filter_logits` does.
    """
    batch, stops = state.done.shape[0], state.stop.shape[0] > 0
    if not stops:  # no row can end: said here, so that the compiled loop need not ask it at every token
        state = state._replace(done=jnp.zeros_like(state.done))

    def choose(state: Decoding) -> Array:
        logits = state.logits
        if repetition_penalty is not None:
            logits = penalise_repetition(logits, state.seen, repetition_penalty)
        if key is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        drawn = jax.random.fold_in(key, state.steps)
        return sample(logits, drawn, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)

    def body(loop: tuple[Array, Generated, Decoding]) -> tuple[Array, Generated, Decoding]:
        i, text, state = loop
        token = jnp.where(state.done, 0, choose(state))
        log_prob = jnp.where(state.done, 0, log_probability(state.logits, token))
        text = Generated(
            text.tokens.at[:, i].set(token),
            text.lengths + (~state.done).astype(jnp.int32),
            text.log_probs.at[:, i].set(log_prob.astype(text.log_probs.dtype)),
        )
        return i + 1, text, fed(step, state, token, stops)

    none = jnp.zeros((batch, steps), jnp.int32)
    text = Generated(none, jnp.zeros(batch, jnp.int32), none.astype(state.logits.dtype))
    end = jnp.int32(steps) if at_most is None else jnp.minimum(steps, jnp.asarray(at_most, jnp.int32))
    _, text, state = lax.while_loop(
        lambda loop: (loop[0] < end) & ~jnp.all(loop[2].done), body, (jnp.int32(0), text, state)
    )
    return text, state


def fed(step: Step, state: Decoding, token: Int32[Array, " b"], stops: bool) -> Decoding:
    """The state after one token more of each row that has not ended."""
    lengths = (~state.done).astype(jnp.int32) if stops else None
    logits, carry = step(token[:, None], state.carry, lengths)
    recent = jnp.concatenate([state.recent, token[:, None]], axis=1)[:, 1:]
    ends = jnp.all((state.stop == -1)[None] | (recent[:, None] == state.stop[None]), axis=-1).any(axis=-1)
    done = state.done[:, None]
    return state._replace(
        logits=jnp.where(done, state.logits, widened(logits[:, 0])),
        carry=carry,
        seen=state.seen.at[_rows(len(token))[:, 0], token].max(~state.done),
        recent=jnp.where(done, state.recent, recent),
        done=state.done | ends,
        steps=state.steps + 1,
    )


def log_probability(logits: Float[Array, "b v"], token: Int32[Array, " b"]) -> Float[Array, " b"]:
    """The log-probability of one token of each row."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]


def _rows(batch: int) -> Array:
    return jnp.arange(batch, dtype=jnp.int32)[:, None]
