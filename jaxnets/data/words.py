"""Words of a text as a classifier reads them: the same in lower case wherever they stand."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

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


def word_ngrams(words: Sequence[str], rows: int, *, room: int = 24) -> Int32[np.ndarray, "t room"]:
    """What words are spelled of: for each a row of a table for every three, four and five of its characters, by a hash.

    Rows are from 1 on, 0 standing for none; n-grams that meet in a row share it. A word begins with `<` and ends with
    `>`, so that `<un` is not in `fun`.

    Args:
      words: Of a text.
      rows: Of the table, row 0 among them.
      room: How many n-grams of a word count, the short ones first.

    Raises:
      ValueError: If rows is less than 2, or room than 1.

    References:
      Bojanowski, Grave, Joulin and Mikolov, 2017. Enriching word vectors with subword information.

    >>> (word_ngrams(["a", "ab"], 1000) > 0).sum(1).tolist()
    [1, 3]
    """
    if rows < 2 or room < 1:
        raise ValueError(f"word_ngrams: rows wants 2 or more and room 1 or more, got {rows} and {room}")
    found = np.zeros((len(words), room), np.int32)
    for row, word in zip(found, words, strict=True):
        ends = f"<{word}>"
        grams = [ends[i : i + n].encode() for n in (3, 4, 5) for i in range(len(ends) - n + 1)][:room]
        row[: len(grams)] = [1 + zlib.crc32(gram) % (rows - 1) for gram in grams]
    return found


def _lower(text: str) -> str:
    """The text in lower case, with as many characters."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
