"""Labelled texts by name and from files, and what is said of those that are none."""

import ast
import gc
import gzip
import hashlib
import io
import json
import re
import sysconfig
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxnets import data
from jaxnets.data import docstrings
from jaxnets.data import labelled as module
from jaxnets.data.sources import RemoteFile, Source

ROWS = [(f"a text\twith a tab {i}", label) for i in range(10) for label in ("good", "bad")]
TSV = "".join(f"{text}\t{label}\r\n\n" for text, label in ROWS).encode()
JSONL = "".join(json.dumps({"label": label, "text": text, "more": 1}) + "\n" for text, label in ROWS).encode()


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl", "a.tsv.gz", "a.jsonl.gz"])
def test_a_file_is_split_and_all_of_it_kept(tmp_path, name):
    content = TSV if ".tsv" in name else JSONL
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    texts = data.load_labelled(tmp_path / name)
    assert texts.classes == ("bad", "good")
    assert [len(part.texts) for part in (texts.train, texts.validation, texts.test)] == [14, 2, 4]
    found = {
        (text, texts.classes[label])
        for part in (texts.train, texts.validation, texts.test)
        for text, label in zip(*part, strict=True)
    }
    assert found == set(ROWS)
    assert [np.bincount(part.y).tolist() for part in (texts.validation, texts.test)] == [[1, 1], [2, 2]]
    assert data.load_labelled(tmp_path / name).fingerprint == texts.fingerprint


def test_a_folder_has_its_own_parts(tmp_path):
    (tmp_path / "train.tsv").write_bytes(TSV)
    (tmp_path / "test.jsonl").write_bytes(JSONL[: JSONL.index(b"\n") + 1])
    texts = data.load_labelled(tmp_path)
    assert [len(part.texts) for part in (texts.train, texts.validation, texts.test)] == [18, 2, 1]
    assert (texts.test.texts, texts.test.y.tolist()) == ((ROWS[0][0],), [1])
    (tmp_path / "dev.tsv").write_bytes(TSV)
    assert len(data.load_labelled(tmp_path).validation.texts) == 20
    (tmp_path / "test.jsonl").write_text('{"text": "b", "label": "ugly"}')
    with pytest.raises(ValueError, match="has no text to learn the class 'ugly' from"):
        data.load_labelled(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no test\.tsv or test\.jsonl: add it"):
        data.load_labelled(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", b"", "a.tsv is empty"),
        ("a.tsv", b"caf\xe9\tgood\n", "a.tsv is not UTF-8: byte 0xe9 at 3"),
        ("a.tsv", b"one\tgood\ntwo bad\n", "line 2 of .*a.tsv wants a text, a tab and a label"),
        ("a.tsv", b"\tgood\n", "line 1 of .*a.tsv wants a text, a tab and a label"),
        ("a.tsv", b"one\tgood\ntwo\tgood\n", "a.tsv has one class, 'good', but"),
        ("a.tsv", b"one\tgood\ntwo\tbad\n", "class bad has one example but"),
        ("a.jsonl", b'{"text": "one"}\n', "line 1 of .*a.jsonl lacks label: wanted an object"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 of .*a.jsonl lacks text and label"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', "line 1 of .* wants a text that is not empty"),
        ("a.jsonl", b'{"text": "a", "label": null}\n', "line 1 of .* a label that is a text or an integer"),
        ("a.jsonl", b'{"text": \n', "line 1 of .*a.jsonl is no JSON"),
        ("a.tsv.gz", b"no gzip", "a.tsv.gz is no whole gzip file"),
        ("a.tsv.gz", gzip.compress(TSV, mtime=0)[:-9], "a.tsv.gz is no whole gzip file"),
        ("a.csv", TSV, "a.csv wants to end in"),
        (None, b"", "neither one of docstrings, sst2, imdb, nor a file, nor a folder"),
    ],
)
def test_what_is_no_labelled_text_is_told(tmp_path, name, content, words):
    path = tmp_path / (name or "nowhere.tsv")
    if name:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        data.load_labelled(path)


def test_docstrings_are_told_apart_by_no_name():
    texts = data.load_labelled("docstrings")
    counts = np.bincount(np.concatenate([texts.train.y, texts.validation.y, texts.test.y]))
    assert len(texts.classes) == 8
    assert counts.min() > 100
    every = texts.train.texts + texts.validation.texts + texts.test.texts
    assert len(set(every)) == len(every)
    assert not any(re.search(r"\b(asyncio|decimal|email|xml)\b", text) for text in every)
    assert "Python 3" in texts.note


def test_docstrings_are_read_while_objects_that_parse_are_collected():
    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            parsed.append(ast.parse("a + b * c"))

    parsed, thresholds = [], gc.get_threshold()
    gc.set_threshold(50)
    try:
        found = []
        for file in sorted((Path(sysconfig.get_path("stdlib")) / "json").glob("*.py")):
            Cycle()
            found += docstrings._docstrings(file)
    finally:
        gc.set_threshold(*thresholds)
    assert parsed
    assert len(found) > 10


def made(monkeypatch, tmp_path, name, contents):
    """A source of these files, in a `JAXNETS_DATA` of their own."""
    files = {file: RemoteFile((hashlib.sha256(content).hexdigest(),)) for file, content in contents.items()}
    monkeypatch.setattr(module, "SOURCES", {name: Source(name, files, "")})
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / name).mkdir()
    for file, content in contents.items():
        (tmp_path / name / file).write_bytes(content)


def test_reviews_packed_or_not(monkeypatch, tmp_path):
    names = [f"{part}/{side}/{i}_{5}" for part in ("train", "test") for side in ("pos", "neg") for i in (10, 2)]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in [*names, "train/unsup/0_0", "train/urls_pos"]:
            member = tarfile.TarInfo(f"aclImdb/{name}.txt")
            content = f"{name}<br />naïve".encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    rows = {
        part: [
            {"text": f"{part}/{side}/{i}_5<br />naïve", "label": label}
            for label, side in enumerate(("neg", "pos"))
            for i in (2, 10)
        ]
        for part in ("train", "test")
    }
    packed = {
        f"imdb_{part}.jsonl.gz": gzip.compress("\n".join(map(json.dumps, each)).encode()) for part, each in rows.items()
    }
    made(monkeypatch, tmp_path, "imdb", {"aclImdb_v1.tar.gz": out.getvalue(), **packed})
    one = data.load_labelled("imdb")
    for file in packed:
        (tmp_path / "imdb" / file).unlink()
    other = data.load_labelled("imdb")
    assert one.fingerprint == other.fingerprint
    assert one.classes == ("negative", "positive")
    assert one.test.texts == tuple(f"test/{side}/{i}_5\nnaïve" for side in ("neg", "pos") for i in (2, 10))
    assert one.test.y.tolist() == [0, 0, 1, 1]


def test_sentences_packed_or_not(monkeypatch, tmp_path):
    lines = b"fine\t1\nbad\t0\ndull\t0\ngood\t1\n"
    contents = {f"{part}.tsv": lines for part in ("train", "dev", "test")}
    packed = {f"sst2_{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}
    made(monkeypatch, tmp_path, "sst2", {**contents, **packed})
    one = data.load_labelled("sst2")
    for file in packed:
        (tmp_path / "sst2" / file).unlink()
    assert one.fingerprint == data.load_labelled("sst2").fingerprint
    assert one.validation.texts == ("fine", "bad", "dull", "good")
    assert one.classes == ("negative", "positive")


def test_real_sentences(real_data):
    texts = data.load_labelled("sst2")
    assert [len(part.texts) for part in (texts.train, texts.validation, texts.test)] == [6920, 872, 1821]
