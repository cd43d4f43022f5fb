"""Labelled texts by name or from a file: reviews, sentences, docstrings, lines of tsv and jsonl."""

import functools
import gzip
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxnets.data import docstrings
from jaxnets.data.sources import SOURCES, fetch, local_path
from jaxnets.data.splits import stratified_split
from jaxnets.data.text import decoded

_REVIEW = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d+)_\d+\.txt")
_MAX_TEXT = 1 << 30
_SUFFIXES = (".tsv", ".jsonl", ".tsv.gz", ".jsonl.gz")


class Labelled(NamedTuple):
    """Texts, and the index of the class of each."""

    texts: tuple[str, ...]
    y: Int32[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """A set of labelled texts.

    Attributes:
      name: The name or path it was loaded by.
      train: What to learn from.
      validation: What to choose by.
      test: What is held out.
      classes: The name of each class.
      note: What a reader of figures measured on it must know; often empty.
    """

    name: str
    train: Labelled
    validation: Labelled
    test: Labelled
    classes: tuple[str, ...]
    note: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of texts, labels and classes: equal only for equal data."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.validation, self.test):
            digest.update(part.y.tobytes())
            for text in part.texts:
                digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def load_labelled(name_or_path: str | Path) -> LabelledTexts:
    """Loads a set of labelled texts by its name, or from a file or folder.

    Names: `docstrings`, those of eight packages of the running interpreter's standard library, the label being the
    package; `sst2`, 6,920 sentences of film reviews to train on, 872 to choose by and 1,821 to test on; `imdb`, 25,000
    film reviews to train on, of which a tenth is to choose by, and 25,000 to test on.

    A file in UTF-8 has a text on every line: in a `.tsv` the label stands after the line's last tab, in a `.jsonl`
    every line is an object with the keys `text` and `label`; `.gz` may follow. A fifth of each class is held out for
    the test, and a tenth of the rest to choose by. A folder holds `train` and `test` in such files, and may hold `dev`.

    Raises:
      ValueError: If a file is empty or not UTF-8, a line lacks a text or a label, there is one class alone, or a class
        has too few texts or no text to learn from.
      FileNotFoundError: If there is no such file.
      OSError: If a file cannot be read or downloaded.

    >>> texts = load_labelled("docstrings")
    >>> texts.classes[:3], len(texts.train.texts) > 1000
    (('asyncio', 'decimal', 'email'), True)
    """
    name = str(name_or_path)
    if name in _NAMED:
        return _NAMED[name]()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        train, dev, test = (_part_of(path, stem) for stem in ("train", "dev", "test"))
        if train is None or test is None:
            stem = "test" if train else "train"
            raise FileNotFoundError(f"load_labelled: {name} has no {stem}.tsv or {stem}.jsonl: add it")
        return _of(name, read_labelled(train), None if dev is None else read_labelled(dev), read_labelled(test))
    if not path.is_file():
        raise FileNotFoundError(
            f"load_labelled: {name!r} is neither one of {', '.join(_NAMED)}, nor a file, nor a folder"
        )
    return _of(name, read_labelled(path), None, None)


def read_labelled(path: Path) -> list[tuple[str, str]]:
    """Reads a file of lines: a text and its label each; empty lines are passed over.

    Raises:
      ValueError: If the file's suffix is not one of its kind, it is empty or not UTF-8, or a line lacks something.
      OSError: If it cannot be read.
    """
    if not path.name.endswith(_SUFFIXES):
        raise ValueError(f"load_labelled: {path} wants to end in {', '.join(_SUFFIXES)}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MAX_TEXT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"load_labelled: {path} is no whole gzip file: {error}: replace it") from error
    if len(data) > _MAX_TEXT:
        raise ValueError(f"load_labelled: {path} has more than {_MAX_TEXT} bytes of text: take less of it")
    read = _json_line if ".jsonl" in path.suffixes else _tab_line
    lines = decoded(f"load_labelled: {path}", data).split("\n")  # and at no other sign: a text may hold those
    return [read(f"load_labelled: line {i} of {path}", line) for i, line in enumerate(lines, 1) if line.strip()]


def _tab_line(where: str, line: str) -> tuple[str, str]:
    text, tab, label = line.rstrip("\r").rpartition("\t")
    if not (tab and text.strip() and label.strip()):
        raise ValueError(f"{where} wants a text, a tab and a label")
    return text, label.strip()


def _json_line(where: str, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}): correct it") from error
    lacking = [key for key in ("text", "label") if not isinstance(row, dict) or key not in row]
    if lacking:
        raise ValueError(f"{where} lacks {' and '.join(lacking)}: wanted an object with the keys text and label")
    text, label = row["text"], row["label"]
    if not isinstance(text, str) or not text.strip() or not isinstance(label, str | int) or label == "":
        raise ValueError(f"{where} wants a text that is not empty, and a label that is a text or an integer")
    return text, str(label)


def _of(
    name: str,
    train: Sequence[tuple[str, str]],
    validation: Sequence[tuple[str, str]] | None,
    test: Sequence[tuple[str, str]] | None,
    *,
    words: Mapping[str, str] | None = None,
    note: str = "",
) -> LabelledTexts:
    """Rows of (text, label) as a set; parts that are None are cut from the training rows, and `words` rename labels."""
    labels = sorted({label for _, label in train})
    if len(labels) < 2:
        raise ValueError(
            f"load_labelled: {name} has one class, {labels[0]!r}, but telling classes apart wants two or more"
        )
    classes = tuple((words or {}).get(label, label) for label in labels)
    index = {label: i for i, label in enumerate(labels)}

    def part(rows: Sequence[tuple[str, str]]) -> Labelled:
        if unknown := sorted({label for _, label in rows} - index.keys()):
            raise ValueError(f"load_labelled: {name} has no text to learn the class {unknown[0]!r} from")
        return Labelled(tuple(text for text, _ in rows), np.array([index[label] for _, label in rows], np.int32))

    learnt = part(train)
    learnt, tested = _cut(learnt, 0.2, classes) if test is None else (learnt, part(test))
    learnt, chosen = _cut(learnt, 0.1, classes) if validation is None else (learnt, part(validation))
    return LabelledTexts(name, learnt, chosen, tested, classes, note)


def _cut(part: Labelled, fraction: float, classes: Sequence[str]) -> tuple[Labelled, Labelled]:
    kept, held = stratified_split(part.y, fraction, seed=0, classes=classes)
    one, other = (Labelled(tuple(part.texts[i] for i in rows), part.y[rows]) for rows in (kept, held))
    return one, other


def _part_of(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _docstrings() -> LabelledTexts:
    return _of("docstrings", docstrings.by_package(), None, None, note=docstrings.note())


def _sst2() -> LabelledTexts:
    source = SOURCES["sst2"]
    packed = {stem: local_path(source, f"sst2_{stem}.tsv.gz") for stem in ("train", "dev", "test")}
    files = {stem: f"sst2_{stem}.tsv.gz" if path and path.exists() else f"{stem}.tsv" for stem, path in packed.items()}
    train, dev, test = (read_labelled(fetch(source, file)) for file in files.values())
    return _of("sst2", train, dev, test, words={"0": "negative", "1": "positive"})


def _imdb() -> LabelledTexts:
    source = SOURCES["imdb"]
    packed = local_path(source, "imdb_train.jsonl.gz")
    if packed is not None and packed.exists():
        train, test = (read_labelled(fetch(source, f"imdb_{part}.jsonl.gz")) for part in ("train", "test"))
    else:
        train, test = _read_reviews(fetch(source, "aclImdb_v1.tar.gz"))
    words = {"0": "negative", "1": "positive"}
    return _of("imdb", list(_without_markup(train)), None, list(_without_markup(test)), words=words)


def _read_reviews(archive: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training and test reviews of the archive, the negative ones before the positive, each in the order of numbers."""
    found: dict[str, list[tuple[str, int, str]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and (match := _REVIEW.fullmatch(member.name)):
                part, label, number = match.groups()
                text = tar.extractfile(member).read().decode()  # type: ignore[union-attr]  # a file, by its name
                found[part].append((label, int(number), text))
    train, test = (
        [(text, str(int(label == "pos"))) for label, _, text in sorted(rows, key=lambda row: row[:2])]
        for rows in found.values()
    )
    return train, test


def _without_markup(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The reviews come with the line breaks of the pages they were on."""
    return ((text.replace("<br />", "\n"), label) for text, label in rows)


_NAMED: Mapping[str, Callable[[], LabelledTexts]] = {"docstrings": _docstrings, "sst2": _sst2, "imdb": _imdb}
