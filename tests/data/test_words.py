"""Words keep their place, whatever lower case does to them; long texts lose their middle."""

import numpy as np

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
