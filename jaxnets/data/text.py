"""Texts to model: by name, or from a file."""

import functools
import gzip
import hashlib
import platform
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path

from jaxnets.data.sources import SOURCES, fetch, local_path

_STANDARD_LIBRARY = 1_000_000


@dataclass(frozen=True)
class Text:
    """A long text.

    Attributes:
      name: The name or path it was loaded by.
      text: All of it.
      note: What a reader of figures measured on it must know; often empty.
    """

    name: str
    text: str
    note: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the text: equal only for an equal one."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def split(self) -> tuple[str, str, str]:
        """Parts to train on, to choose by and to test on.

        The last tenth is the test, the first fiftieth of the rest is to choose by. So what is trained on ends where the
        test begins, in the midst of a play or a file, as in figures that others give.

        Raises:
          ValueError: If a part has fewer than two characters.

        >>> [len(part) for part in Text("numbers", "0123456789" * 50).split()]
        [441, 9, 50]
        """
        kept = int(0.9 * len(self.text))
        chosen = kept // 50
        parts = self.text[chosen:kept], self.text[:chosen], self.text[kept:]
        if min(map(len, parts)) < 2:
            raise ValueError(f"{self.name} has {len(self.text)} characters but a text to model wants 112 or more")
        return parts


def load_text(name_or_path: str | Path) -> Text:
    """Loads a text by its name, or from a file in UTF-8.

    Names: `stdlib`, a million characters of source of the running interpreter's standard library: the modules at its
    top that are in ASCII, in the order of a checksum of their names, so that kindred ones do not stand together;
    `tiny_shakespeare`, 1,115,394 characters of plays.

    Raises:
      ValueError: If a file is empty or not UTF-8.
      FileNotFoundError: If there is no such file.
      OSError: If a file cannot be read or downloaded.

    >>> text = load_text("stdlib")
    >>> len(text.text), "import" in text.text
    (1000000, True)
    """
    name = str(name_or_path)
    if name == "stdlib":
        return _standard_library()
    if name == "tiny_shakespeare":
        return Text(name, _tiny_shakespeare())
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"load_text: {name!r} is neither stdlib, nor tiny_shakespeare, nor a file")
    return Text(name, decoded(f"load_text: {name}", path.read_bytes()))


def _standard_library() -> Text:
    folder = Path(sysconfig.get_path("stdlib"))
    # What the build wrote down of itself differs from one machine to the next.
    modules = (path for path in folder.glob("*.py") if not path.name.startswith("_sysconfigdata"))
    sources = (path.read_bytes() for path in sorted(modules, key=lambda path: (zlib.crc32(path.name.encode()), path)))
    text = b"".join(source for source in sources if source.isascii()).decode()
    if len(text) < _STANDARD_LIBRARY:
        raise OSError(f"load_text: {folder} holds {len(text)} characters of source, wanted {_STANDARD_LIBRARY}")
    return Text("stdlib", text[:_STANDARD_LIBRARY], f"source of Python {platform.python_version()}'s standard library")


def _tiny_shakespeare() -> str:
    source = SOURCES["tiny_shakespeare"]
    packed = local_path(source, "input.txt.gz")
    if packed is not None and packed.exists():
        return gzip.decompress(fetch(source, "input.txt.gz").read_bytes()).decode()
    return fetch(source, "input.txt").read_bytes().decode()


def decoded(where: str, data: bytes) -> str:
    """The text of bytes in UTF-8; `where` begins what is said of those that are none.

    Raises:
      ValueError: If there is nothing but white space, or the bytes are not UTF-8.
    """
    if not data.strip():
        raise ValueError(f"{where} is empty")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8: byte {data[error.start]:#04x} at {error.start}; convert it first"
        ) from error
