"""Texts by name and from files, and what is said of those that are none."""

import gzip
import hashlib

import pytest

from jaxnets import data
from jaxnets.data import text as module
from jaxnets.data.sources import SOURCES, RemoteFile, Source


def test_the_standard_library_is_the_same_every_time():
    text = data.load_text("stdlib")
    assert (text.name, len(text.text), text.text.isascii()) == ("stdlib", 1_000_000, True)
    assert "Python 3" in text.note
    assert text.fingerprint == data.load_text("stdlib").fingerprint
    assert "_sysconfigdata" not in text.text[:200]


def test_parts_follow_one_another():
    text = data.Text("here", "".join(map(chr, range(300, 1300))))
    training, validation, test = text.split()
    assert validation + training + test == text.text
    assert (len(training), len(validation), len(test)) == (882, 18, 100)
    with pytest.raises(ValueError, match="here has 111 characters but a text to model wants 112"):
        data.Text("here", "x" * 111).split()
    assert all(len(part) > 1 for part in data.Text("here", "x" * 112).split())


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffné\r\n中".encode())
    text = data.load_text(path)
    assert (text.text, text.name, text.note) == ("né\r\n中", str(path), "")
    assert text.fingerprint == hashlib.sha256("né\r\n中".encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"abc\xff", "is not UTF-8: byte 0xff at 3"), (None, "nor a file")],
)
def test_what_is_no_text_is_told(tmp_path, content, words):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as told:
        data.load_text(path)
    assert "a.txt" in str(told.value)


def test_shakespeare_packed_or_not(tmp_path, monkeypatch):
    plays = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
    packed = gzip.compress(plays)
    files = {
        "input.txt": RemoteFile((hashlib.sha256(plays).hexdigest(),)),
        "input.txt.gz": RemoteFile((hashlib.sha256(packed).hexdigest(),)),
    }
    monkeypatch.setattr(module, "SOURCES", {"tiny_shakespeare": Source("tiny_shakespeare", files, "")})
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / "tiny_shakespeare").mkdir()
    (tmp_path / "tiny_shakespeare" / "input.txt").write_bytes(plays)
    assert data.load_text("tiny_shakespeare").text == plays.decode()
    (tmp_path / "tiny_shakespeare" / "input.txt.gz").write_bytes(packed)
    (tmp_path / "tiny_shakespeare" / "input.txt").unlink()
    assert data.load_text("tiny_shakespeare").text == plays.decode()
    assert SOURCES["tiny_shakespeare"].files["input.txt"].url.endswith("input.txt")


def test_real_shakespeare(real_data):
    text = data.load_text("tiny_shakespeare")
    assert (len(text.text), len(set(text.text))) == (1_115_394, 65)
    assert len(text.split()[2]) == 111_540
    assert text.fingerprint == SOURCES["tiny_shakespeare"].files["input.txt"].sha256[0]
