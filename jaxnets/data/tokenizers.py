"""Tokenizers: from text to integers and back to the very same text."""

import collections
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

_PIECES = re.compile(r" ?\w+| ?[^\w\s]|\s+(?!\S)|\s")
"""A word or a sign with the space before it, or white space; every character of a text is in one piece."""


@runtime_checkable
class Tokenizer(Protocol):
    """What a model of language reads and writes by: `decode(encode(text)) == text`."""

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The tokens of a text."""

    def decode(self, tokens: Any) -> str:
        """The text of tokens; U+FFFD stands for bytes that are no UTF-8."""

    def to_json(self) -> dict[str, Any]:
        """What `tokenizer_from_json` makes the same tokenizer of; fit for JSON."""


@dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of the text in UTF-8, 256 tokens: it knows every text.

    >>> ByteTokenizer().encode("né").tolist()
    [110, 195, 169]
    """

    vocabulary: int = 256

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The bytes."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of the bytes."""
        return _checked("ByteTokenizer", tokens, 256).astype(np.uint8).tobytes().decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        """Its kind, which is all there is."""
        return {"kind": "byte"}


@dataclass(frozen=True)
class CharTokenizer:
    """Characters, those of one text and no others.

    Attributes:
      characters: Each once, in the order of their code points; the i-th is token i.

    Raises:
      ValueError: If there are none, or not in order.

    >>> tokenizer = CharTokenizer.of("hello")
    >>> tokenizer.characters, tokenizer.encode("hole").tolist()
    ('ehlo', [1, 3, 2, 0])
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise ValueError("CharTokenizer: characters wants at least one, each once, in the order of code points")

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """The tokenizer of the characters of a text."""
        return cls("".join(sorted(set(text))))

    @property
    def vocabulary(self) -> int:
        """The number of characters."""
        return len(self.characters)

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        return _code_points(self.characters)

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The index of each character.

        Raises:
          ValueError: If the vocabulary lacks one.
        """
        codes = _code_points(text)
        tokens = np.searchsorted(self._codes, codes)
        known = np.take(self._codes, tokens, mode="clip") == codes
        if not known.all():
            lacking = sorted({text[i] for i in np.flatnonzero(~known)})
            named = ", ".join(map(repr, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            raise ValueError(f"CharTokenizer: outside of the vocabulary of {self.vocabulary} characters: {named}")
        return tokens.astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The characters."""
        codes = self._codes[_checked("CharTokenizer", tokens, self.vocabulary)]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def to_json(self) -> dict[str, Any]:
        """Its kind and the characters."""
        return {"kind": "char", "characters": self.characters}


@dataclass(frozen=True)
class WordTokenizer:
    """Words and signs with the space before them, the frequent ones; what is not among them is spelled in bytes.

    Attributes:
      words: Token `first + i` is the i-th; `first` is 256 where the others are spelled, else 1.
      spell: Whether an unknown word is spelled, so that no text is lost. Otherwise it is token 0, as a classifier likes
        it, and U+FFFD when decoded.

    Raises:
      ValueError: If a word is empty, or there twice.

    >>> tokenizer = WordTokenizer.of("the cat, the dog, the end", least=2)
    >>> tokenizer.words
    (' the',)
    >>> tokenizer.encode(" the mat").tolist(), tokenizer.decode([116, 104, 101, 256])
    ([256, 32, 109, 97, 116], 'the the')
    """

    words: tuple[str, ...]
    spell: bool = True

    def __post_init__(self) -> None:
        if not all(self.words) or len(set(self.words)) != len(self.words):
            raise ValueError("WordTokenizer: words wants each once, and none empty")

    @classmethod
    def of(
        cls, texts: str | Iterable[str], size: int = 10_000, *, least: int = 2, spell: bool = True
    ) -> "WordTokenizer":
        """The tokenizer of the most frequent words of a text, or of texts.

        Args:
          texts: Where they are counted.
          size: At most so many.
          least: How often each occurs at least.
          spell: See the class.
        """
        counts: collections.Counter[str] = collections.Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            counts.update(_PIECES.findall(text))
        words = [word for word, count in counts.items() if count >= least and not (spell and len(word.encode()) == 1)]
        return cls(tuple(sorted(words, key=lambda word: (-counts[word], word))[:size]), spell)

    @property
    def vocabulary(self) -> int:
        """The number of words, and of what stands for the others."""
        return self._first + len(self.words)

    @property
    def _first(self) -> int:
        return 256 if self.spell else 1

    @functools.cached_property
    def _tokens(self) -> dict[str, list[int]]:
        return {word: [self._first + i] for i, word in enumerate(self.words)}

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        others = [bytes([i]) for i in range(256)] if self.spell else ["\ufffd".encode()]
        return others + [word.encode() for word in self.words]

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The tokens of the words."""
        tokens: list[int] = []
        for piece in _PIECES.findall(text):
            tokens += self._tokens.get(piece) or (piece.encode() if self.spell else [0])
        return np.array(tokens, np.int32)

    def decode(self, tokens: Any) -> str:
        """The words and the bytes, one after another."""
        checked = _checked("WordTokenizer", tokens, self.vocabulary)
        return b"".join(self._bytes[token] for token in checked.tolist()).decode(errors="replace")

    def to_json(self) -> dict[str, Any]:
        """Its kind, the words, and what becomes of others."""
        return {"kind": "word", "words": list(self.words), "spell": self.spell}


@dataclass(frozen=True)
class SubwordTokenizer:
    """Parts of words, by byte-pair encoding; needs the package `tokenizers` (the extra `text`).

    Attributes:
      definition: In the JSON of that package; one that is not made here may not give every text back.

    Raises:
      ImportError: If `tokenizers` is not installed.
      ValueError: If the definition is none.

    References:
      Sennrich, Haddow and Birch, 2016. Neural machine translation of rare words with subword units.
    """

    definition: str

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise ValueError("SubwordTokenizer: the definition has no token")

    @classmethod
    def of(cls, texts: str | Iterable[str], size: int = 1000) -> "SubwordTokenizer":
        """The tokenizer of the pairs of bytes that are merged first in a text, or in texts.

        Args:
          texts: Where they are counted.
          size: Tokens in all, the 256 bytes among them.

        Raises:
          ImportError: If `tokenizers` is not installed.
          ValueError: If the size is less than 256.
        """
        if size < 256:
            raise ValueError(f"SubwordTokenizer: size is {size} but wants 256 or more, for there are so many bytes")
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
        trainer = library.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([texts] if isinstance(texts, str) else texts, trainer)
        return cls(tokenizer.to_str())

    @functools.cached_property
    def _tokenizer(self) -> Any:
        library = _tokenizers()
        try:
            return library.Tokenizer.from_str(self.definition)
        except Exception as error:  # the library has no kind of its own
            raise ValueError(f"SubwordTokenizer: the definition is none of the package tokenizers: {error}") from error

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """The tokens of the parts."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Any) -> str:
        """The parts, one after another."""
        checked = _checked("SubwordTokenizer", tokens, self.vocabulary)
        return self._tokenizer.decode(checked.tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        """Its kind and its definition."""
        return {"kind": "subword", "definition": json.loads(self.definition)}


def tokenizer_from_json(data: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that gave this by `to_json`.

    Raises:
      ValueError: If none did.

    >>> tokenizer_from_json({"kind": "char", "characters": "abc"})
    CharTokenizer(characters='abc')
    """
    try:
        match data["kind"]:
            case "byte":
                return ByteTokenizer()
            case "char":
                return CharTokenizer(data["characters"])
            case "word":
                return WordTokenizer(tuple(data["words"]), data["spell"])
            case "subword":
                return SubwordTokenizer(json.dumps(data["definition"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"tokenizer_from_json: no tokenizer is written like this: {error!r}") from error
    raise ValueError(f"tokenizer_from_json: kind is {data['kind']!r} but wants byte, char, word or subword")


def read_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer from a file of JSON, as its `to_json` gives it; the file may come from anywhere.

    Raises:
      ValueError: If the file holds none.
      OSError: If the file cannot be read.
    """
    try:
        kind = json.loads(Path(path).read_bytes())
        return tokenizer_from_json(kind if isinstance(kind, dict) else {})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"read_tokenizer: {path} holds no tokenizer ({error}): put a good copy there") from error


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens while they come: a character is given once its last byte is there.

    >>> list(decode_stream(ByteTokenizer(), [110, 195, 169]))
    ['n', 'é']
    """
    # A token mostly is a text by itself, and the same few come again and again.
    decode = functools.lru_cache(maxsize=1 << 16)(tokenizer.decode)
    held: tuple[int, ...] = ()
    for token in tokens:
        held = (*held, int(token))
        text = decode(held)
        if not text.endswith("\ufffd"):
            yield text
            held = ()
    if held:
        yield decode(held)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _checked(name: str, tokens: Any, vocabulary: int) -> np.ndarray:
    """Tokens as an array; raises where one is none."""
    array = np.asarray(tokens, np.int64) if isinstance(tokens, Sequence) else np.asarray(tokens)
    wrong = array[(array < 0) | (array >= vocabulary)]
    if wrong.size:
        raise ValueError(f"{name}: {wrong.flat[0]} is no token, there are {vocabulary} from 0 on")
    return array


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("SubwordTokenizer wants the package tokenizers: pip install tokenizers") from error
    return tokenizers
