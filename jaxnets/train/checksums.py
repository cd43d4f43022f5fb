"""Checksums of a checkpoint: of its leaves, of the index that lists them, and of its files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.train.files import replacing

_SEAL = "checksums.json"
_LEAVES = "index/leaves.json"


def checksums_of_leaves(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Of the numbers alone, by the paths of the leaves."""
    flat = {path: np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for path, array in arrays.items()}
    return {path: hashlib.sha256(numbers).hexdigest() for path, numbers in flat.items()}


def write_leaves(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes down the checksums of a checkpoint's leaves."""
    with replacing(folder / _LEAVES) as part:
        part.write_text(json.dumps(checksums_of_leaves(arrays), indent=1))


def read_leaves(folder: Path) -> dict[str, str]:
    """Those that were written down, by the paths of the leaves."""
    return dict(json.loads((folder / _LEAVES).read_bytes()))


def checksum_of_index(index: Mapping[str, Any]) -> str:
    """Of everything in the index but the checksum itself."""
    rest = {name: value for name, value in index.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def seal(folder: Path) -> None:
    """Writes down the checksums of a checkpoint's files."""
    text = json.dumps(_of_files(folder), indent=1)
    with replacing(folder / _SEAL) as part:
        part.write_text(text)


def check_seal(folder: Path) -> None:
    """Raises ValueError if a file is not as it was, where there is a seal to tell, or is a link, pipe or device."""
    if odd := [path for path in folder.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]:
        raise ValueError(f"{odd[0].relative_to(folder)} is no plain file")
    path = folder / _SEAL
    if not path.exists():
        return
    found = _of_files(folder)
    for name, checksum in json.loads(path.read_bytes()).items():
        if found.get(name) != checksum:
            raise ValueError(f"{name} is {'damaged' if name in found else 'missing'}")


def _of_files(folder: Path) -> dict[str, str]:
    sums = {}
    # Those of the index and the state. Beside their folders Orbax notes the end, and nothing is restored from that.
    for path in sorted(path for path in folder.glob("*/**/*") if path.is_file()):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
