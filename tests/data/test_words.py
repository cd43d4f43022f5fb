"""Words keep their place, whatever lower case does to them; long texts lose their middle."""

import numpy as np
import pytest

from jaxnets import data


def test_words_keep_their_place():
    text = "İstanbul's naïve  ÉCLAIR\t(42)!"
    spans = data.word_spans(text)
    words = [text[begin:end] for begin, end in spans]
    assert words == ["İstanbul", "'", "s", "naïve", "ÉCLAIR", "(", "42", ")", "!"]
    assert data.spaced_words(text).split() == ["İstanbul", *(word.lower() for word in words[1:])]
    tokenizer = data.WordTokenizer.of(data.spaced_words(text), least=1, spell=False)
    assert len(tokenizer.encode(data.spaced_words(text))) == len(spans)
    assert data.word_spans(" \n") == []
    assert data.spaced_words("") == ""


def test_a_long_text_loses_its_middle():
    words = np.arange(9)
    assert data.without_middle(words, 5).tolist() == [0, 1, 6, 7, 8]
    assert data.without_middle(words, 1).tolist() == [8]
    assert data.without_middle(words, 9) is words
    assert data.without_middle(list(range(4)), 5) == [0, 1, 2, 3]


def test_words_share_the_ngrams_they_share():
    unlike, unlikely, fun = data.word_ngrams(["unlike", "unlikely", "fun"], 2**20)
    shared = set(unlike[unlike > 0]) & set(unlikely)
    assert (unlike > 0).sum() == 6 + 5 + 4  # of <unlike>, eight characters
    assert len(shared) == 5 + 4 + 3  # those without the end
    assert not set(fun[fun > 0]) & set(unlike)  # `un>` and `<un` differ
    few = data.word_ngrams(["a" * 50, ""], 8, room=5)
    assert few.shape == (2, 5)
    assert 1 <= few[0].min() <= few[0].max() <= 7
    assert not few[1].any()
    with pytest.raises(ValueError, match="rows wants 2 or more and room 1 or more, got 1 and 24"):
        data.word_ngrams(["a"], 1)
