"""Writing by a model of language: tokens as they come, each call of the compiled loop making a few."""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Key

from jaxnets import ops
from jaxnets.layers import initial_carry

_FIRST = 16  # tokens to the first call
_SECONDS = 0.03  # what a call may be waited for


class Writer:
    """Writes on from prompts by any model of language under the sequence contract.

    While the last few tokens are shown the device makes the next: 16 at first, then as many as are waited for 30
    milliseconds at most, so that text flows and a call costs little beside them. The text is that of one compiled loop.

    >>> model = jn.models.LanguageModel(jn.layers.GRU(features=4), vocabulary=5, features=4)
    >>> variables = model.init(jax.random.key(0), jnp.array([[1, 2]]))
    >>> writer = Writer(model, temperature=0.8, top_k=3)
    >>> written = writer.write(variables, np.array([1, 2]), 20, key=jax.random.key(1))
    >>> len([token for token, log_prob in written])
    20
    """

    def __init__(self, model: Any, *, at_once: int = 1024, **sampling: Any):
        """Makes a writer; it compiles at its first prompt, and again for a prompt of another length.

        Args:
          model: Tokens [B, T] to logits [B, T, V]; not bound to variables.
          at_once: At most so many tokens to a call.
          **sampling: As for `ops.generate`: temperature, top_k, top_p, min_p, repetition_penalty.
        """
        self.model, self.at_once, self.sampling = model, at_once, sampling

    def write(
        self,
        variables: Any,
        prompt: Integer[np.ndarray, " t"],
        tokens: int,
        *,
        key: Key[Array, ""] | None = None,
        stop: Sequence[Sequence[int]] = (),
    ) -> Iterator[tuple[int, float]]:
        """Gives the tokens that follow a prompt, and the log-probability of each by the model.

        Args:
          variables: The model's.
          prompt: At least one token.
          tokens: At most so many follow.
          key: What they are drawn from; None takes the likeliest.
          stop: Sequences of tokens after any of which nothing follows.

        Raises:
          ValueError: If the prompt or a stop sequence is empty, or a number is out of range.
        """
        room, stops = len(prompt) + tokens, tuple(tuple(map(int, each)) for each in stop)
        state = self._begin(variables, jnp.asarray(prompt, jnp.int32)[None], room, stops)
        count = min(_FIRST, self.at_once, tokens)
        text, state = self._go_on(variables, state, key, count)
        return self._shown(variables, text, state, count, tokens, key)

    def _shown(
        self, variables: Any, text: ops.Generated, state: ops.Decoding, count: int, left: int, key: Any
    ) -> Iterator[tuple[int, float]]:
        more = count
        while count:
            shown, asked, left = text, count, left - count
            count = min(more, left)
            if count:
                text, state = self._go_on(variables, state, key, count)
            begun = time.perf_counter()
            made, lengths, log_probs = jax.device_get(shown)  # whole: to index an array on the device takes longer
            seconds = time.perf_counter() - begun
            if seconds < _SECONDS / 4:
                more = min(4 * more, self.at_once)
            elif seconds > _SECONDS:
                more = max(more // 2, 1)
            length = int(lengths[0])
            yield from zip(made[0, :length].tolist(), log_probs[0, :length].tolist(), strict=True)
            if length < asked:
                return

    @functools.cached_property
    def _begin(self) -> Any:
        @functools.partial(jax.jit, static_argnums=(2, 3))
        def begin(variables: Any, prompt: Int[Array, "1 t"], room: int, stop: Any) -> ops.Decoding:
            carry = initial_carry(self.model, variables, jax.ShapeDtypeStruct((1, room), prompt.dtype))
            return ops.prefill(self._step(variables), prompt, carry, stop=stop)

        return begin

    @functools.cached_property
    def _go_on(self) -> Any:
        @jax.jit
        def go_on(variables: Any, state: ops.Decoding, key: Any, count: Any) -> tuple[ops.Generated, ops.Decoding]:
            return ops.generate(self._step(variables), state, self.at_once, at_most=count, key=key, **self.sampling)

        return go_on

    def _step(self, variables: Any) -> Any:
        return lambda tokens, carry, lengths: self.model.apply(variables, tokens, lengths=lengths, carry=carry)
