"""Words of a text as a classifier reads them: the same in lower case wherever they stand."""

import re
from typing import Any

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words and signs of a text stand, from a character up to another.

    >>> word_spans("It's a film!")
    [(0, 2), (2, 3), (3, 4), (5, 6), (7, 11), (11, 12)]
    """
    return [match.span() for match in _WORD.finditer(_lower(text))]


def spaced_words(text: str) -> str:
    """The words and signs of a text in lower case, each after a space: so many pieces for a `WordTokenizer`.

    >>> spaced_words("It's a film!")
    " it ' s a film !"
    """
    return "".join(f" {word}" for word in _WORD.findall(_lower(text)))


def without_middle(words: Any, length: int) -> Any:
    """The first and the last words, so many in all: a text says what it means at its end, if not at once.

    Args:
      words: A list, or an array [T, ...].
      length: How many may stay; with an odd number one more of the last than of the first.

    >>> without_middle([1, 2, 3, 4, 5, 6], 3)
    [1, 5, 6]
    """
    if len(words) <= length:
        return words
    first, last = words[: length // 2], words[len(words) - length + length // 2 :]
    return np.concatenate([first, last]) if isinstance(words, np.ndarray) else first + last


def _lower(text: str) -> str:
    """The text in lower case, with as many characters."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
