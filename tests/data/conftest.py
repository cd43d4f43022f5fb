"""Files of image data made on the spot, and a pass to the real ones."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_idx():
    """Writes an array as an IDX file, gzipped where the name ends in .gz; `header` replaces the true shape."""

    def write(path: Path, array: np.ndarray, header: tuple[int, ...] | None = None) -> Path:
        shape = array.shape if header is None else header
        data = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + array.astype(np.uint8).tobytes()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.fixture
def write_picture():
    """Writes a picture of one value, in the format of its suffix."""

    def write(path: Path, value: int = 0, size: tuple[int, int] = (4, 5), mode: str = "L") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        color = value if mode in ("L", "1", "I;16") else (value, 255 - value, 7, 128)[: len(mode)]
        Image.new(mode, size[::-1], color).save(path)
        return path

    return write


@pytest.fixture
def no_data(monkeypatch):
    """Without `JAXNETS_DATA`."""
    monkeypatch.delenv("JAXNETS_DATA", raising=False)


@pytest.fixture
def real_data():
    """The folder of real data, for the tests that need it."""
    root = os.environ.get("JAXNETS_DATA")
    if not root:
        pytest.skip("JAXNETS_DATA is not set: no real data to read")
    return Path(root)
