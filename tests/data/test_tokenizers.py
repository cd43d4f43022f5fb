"""Every text comes back from its tokens; what is wrong is told."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import data

TEXT = "To be, or not to be:\r\n\tthat  is the question — né 中文 \U0001f600\x00\n\n  to be! "


def subword():
    pytest.importorskip("tokenizers")
    return data.SubwordTokenizer.of(TEXT * 3, 280)


MADE = {
    "byte": data.ByteTokenizer,
    "char": lambda: data.CharTokenizer.of(TEXT),
    "word": lambda: data.WordTokenizer.of(TEXT),
    "subword": subword,
}


@pytest.mark.parametrize("kind", MADE)
def test_round_trip_and_json(kind):
    tokenizer = MADE[kind]()
    assert isinstance(tokenizer, data.Tokenizer)
    tokens = tokenizer.encode(TEXT)
    assert tokens.dtype == np.int32
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.vocabulary
    assert tokenizer.decode(tokens) == TEXT
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode(tokenizer.encode("")) == ""
    again = data.tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    np.testing.assert_array_equal(again.encode(TEXT), tokens)
    assert "".join(data.decode_stream(tokenizer, tokens.tolist())) == TEXT


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_words_and_bytes_give_every_text_back(text):
    for tokenizer in (data.ByteTokenizer(), data.WordTokenizer.of(TEXT), data.WordTokenizer.of(text, least=1)):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_subwords_give_every_text_back():
    tokenizer = subword()
    assert tokenizer.vocabulary <= 280
    assert len(tokenizer.encode("to be")) < 5
    for text in ("never seen: ß\u3000\n", "  two  spaces  ", "\ufeffmark"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match="size is 100 but wants 256"):
        data.SubwordTokenizer.of(TEXT, 100)


def test_characters_are_in_order_and_no_others_are_known():
    tokenizer = data.CharTokenizer.of("banana")
    assert (tokenizer.characters, tokenizer.vocabulary) == ("abn", 3)
    assert tokenizer.encode("nab").tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="CharTokenizer: outside of the vocabulary of 3 characters: 'x', 'é'"):
        tokenizer.encode("bxané")
    for wrong in ("", "ba", "aab"):
        with pytest.raises(ValueError, match="in the order of code points"):
            data.CharTokenizer(wrong)


def test_words_are_the_frequent_ones():
    tokenizer = data.WordTokenizer.of(["a cat a cat a dog", "the cat"], size=2, least=2)
    assert tokenizer.words == (" cat", " a")
    assert tokenizer.vocabulary == 258
    assert tokenizer.encode(" cat dog").tolist() == [256, *b" dog"]
    classifier = data.WordTokenizer.of("the cat, the dog, the end", spell=False)
    assert classifier.words == (" the", ",")
    assert classifier.encode(" the mat,").tolist() == [1, 0, 2]
    assert classifier.decode([1, 0]) == " the\ufffd"
    with pytest.raises(ValueError, match="none empty"):
        data.WordTokenizer(("a", "a"))


@pytest.mark.parametrize("kind", MADE)
def test_what_is_no_token_is_told(kind):
    tokenizer = MADE[kind]()
    for wrong in (-1, tokenizer.vocabulary):
        with pytest.raises(ValueError, match=f"{wrong} is no token"):
            tokenizer.decode([0, wrong])


@pytest.mark.parametrize("wrong", [{}, {"kind": "rune"}, {"kind": "char"}, {"kind": "word", "words": 3, "spell": True}])
def test_what_is_no_tokenizer_is_told(wrong):
    with pytest.raises(ValueError, match="tokenizer_from_json"):
        data.tokenizer_from_json(wrong)


def test_a_stream_waits_for_whole_characters():
    tokens = [*"é中".encode(), 0xFF, *b"a", 0xE4]
    assert list(data.decode_stream(data.ByteTokenizer(), tokens)) == ["é", "中", "\ufffda", "\ufffd"]
