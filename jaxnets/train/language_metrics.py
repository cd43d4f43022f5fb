"""Metrics of models of language, from the mean cross entropy of what they foretell, which is exact under masks."""

import math
from typing import SupportsFloat


def perplexity(nats: SupportsFloat) -> float:
    """Among how many tokens, all alike, a model would be as unsure: e to the cross entropy of a token.

    It is no mean of a batch's: the means that are added up are those of `ops.cross_entropy`, and this comes last.

    Args:
      nats: The mean over all tokens that count.

    References:
      Jelinek, Mercer, Bahl and Baker, 1977. Perplexity: a measure of the difficulty of speech recognition tasks.

    >>> logits, y = jnp.zeros((1, 3, 8)), jnp.zeros((1, 3), jnp.int32)
    >>> loss = jn.ops.cross_entropy(logits, y, where=jnp.array([[True, True, False]]))
    >>> round(jn.train.perplexity(loss.value), 4)
    8.0
    """
    nats = float(nats)
    return math.inf if nats > 709 else math.exp(nats)  # above, a float64 holds it no more


def bits_per_character(nats: SupportsFloat, *, tokens: int = 1, characters: int = 1) -> float:
    """The cross entropy of a character in bits, by which models of other tokens can be compared.

    Args:
      nats: The mean over all tokens that count.
      tokens: In a text; where a token is a character, leave them both.
      characters: Of the same text.

    Raises:
      ValueError: If a number is not positive.

    >>> bits_per_character(np.log(256), tokens=2, characters=8)
    2.0
    """
    if min(tokens, characters) < 1:
        raise ValueError(f"bits_per_character: tokens and characters want 1 or more, got {tokens} and {characters}")
    return float(nats) / math.log(2) * tokens / characters
