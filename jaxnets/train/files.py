"""Files that are either there whole or not at all."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTS: set[Path] = set()
"""What is being written just now."""

_FULL = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to, in the same folder, which takes the place of `path` once the block ends well."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        with naming(path):
            # In a folder that came from elsewhere it may be a link already, to where nothing is to be written.
            part.unlink(missing_ok=True)
            _PARTS.add(part)
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        _PARTS.discard(part)


def remove_parts() -> None:
    """Removes what is half written: for a thread that ends the process while another writes."""
    for part in list(_PARTS):
        part.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds, which may come from anywhere.

    Raises:
      ValueError: If it is damaged, or nested deeper than any file of a run.
      OSError: If it cannot be read, or is no plain file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no plain file: put a good copy there")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}): put a good copy there") from error


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Has an OSError that names no file, as that of a full disk, name this one and say what to change."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path} could not be written: {why_not_written(error)}") from error


def why_not_written(error: Exception) -> str:
    """One line on why something could not be written, with what to change where a disk is full, whoever tells of it.

    >>> why_not_written(ValueError("INTERNAL: No space left on device [os_error_code=28]"))
    'No space left on device: free some, or name a folder on another disk'
    """
    full = next((words for words in _FULL if words in str(error)), None)
    return f"{full}: free some, or name a folder on another disk" if full else first_line(error)


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n")[0][:200]
