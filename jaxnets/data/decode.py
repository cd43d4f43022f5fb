"""Decoders of image files that may be damaged or hostile: sizes are bounded, and nothing is unpacked to disk."""

import contextlib
import gzip
import io
import lzma
import math
import os
import re
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MAX_ARRAY = 4 << 30
_MAX_ARCHIVE = 1 << 30
_MAX_FILE = 1 << 30
_MAX_PIXELS = 64 << 20
_MAX_PACKED = 200
"""Bytes that one packed byte may stand for, in files of more than 64 MiB: images of MNIST's kind have five."""


class Part(NamedTuple):
    """Images and their labels."""

    x: UInt8[np.ndarray, "n h w c"]
    y: Int32[np.ndarray, " n"]


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Reads an IDX file of unsigned bytes, gzipped or not, as MNIST and its like come in.

    Raises:
      ValueError: If the header is not IDX, or promises another size than the file has, or the file is cut short.
    """
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    with _damage("read_idx", path), gzip.open(path) if gzipped else path.open("rb") as file:
        zeros, kind, rank = struct.unpack(">HBB", _exactly(file, 4))
        if zeros != 0 or kind != 8 or not 1 <= rank <= 4:
            raise ValueError(f"read_idx: {path} is not an IDX file of unsigned bytes with 1 to 4 axes: replace it")
        shape = struct.unpack(f">{rank}I", _exactly(file, 4 * rank))
        if math.prod(shape) > _MAX_ARRAY:
            raise ValueError(
                f"read_idx: the header of {path} promises {shape} bytes, more than {_MAX_ARRAY} in all: replace it"
            )
        if math.prod(shape) > max(64 << 20, _MAX_PACKED * path.stat().st_size):
            raise ValueError(
                f"read_idx: the header of {path} promises {shape} bytes, far more than images pack into "
                f"{path.stat().st_size}: replace it"
            )
        values = np.frombuffer(_exactly(file, math.prod(shape)), np.uint8).reshape(shape)
        if file.read(1):
            raise ValueError(f"read_idx: {path} goes on past the {shape} bytes that its header promises: replace it")
    return values


def read_cifar10(path: Path) -> tuple[Part, Part]:
    """Reads the tar.gz of CIFAR-10's binary version: the training part and the test part.

    Raises:
      ValueError: If the archive is damaged, or a batch is missing or of an odd size.
    """
    names = [f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")]
    with _damage("read_cifar10", path):
        found = dict(_members(path, gzip.open, re.compile("|".join(map(re.escape, names))), max_size=64 << 20))
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"read_cifar10: {path} lacks {', '.join(missing)}: replace it")
    if odd := [name for name in names if len(found[name]) % 3073]:
        raise ValueError(f"read_cifar10: {path}: {odd[0]} is not made of records of 3073 bytes: replace it")

    def part(batches: Sequence[str]) -> Part:
        records = np.frombuffer(b"".join(found[name] for name in batches), np.uint8).reshape(-1, 3073)
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        return Part(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int32))

    return part(names[:5]), part(names[5:])


def read_jpeg_archive(path: Path, split: str) -> tuple[UInt8[np.ndarray, "n h w c"], tuple[str, ...]]:
    """Reads a tar.xz of `<split>/<class>/<name>.jpg`: the images, and the class of each.

    Members of other names, links and devices are passed over; nothing touches the disk.

    Raises:
      ValueError: If the archive is damaged or holds no image, or an image is damaged or of another size.
    """
    wanted = re.compile(rf"{re.escape(split)}/([^/]+)/[^/]+\.jpe?g")
    labels = []

    def pictures() -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"]]]:
        for name, data in _members(path, lzma.open, wanted, max_size=16 << 20):
            labels.append(wanted.fullmatch(name)[1])  # type: ignore[index]
            yield f"{path}: {name}", decode_image(data, f"{path}: {name}")
        if not labels:
            raise ValueError(f"read_jpeg_archive: {path} holds no {split}/<class>/<name>.jpg: replace it")

    with _damage("read_jpeg_archive", path):
        return stack_images(pictures()), tuple(labels)


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a picture file to one channel where it is grey and to three where it has colour; alpha is dropped.

    Raises:
      ValueError: If the bytes are no picture, or one that is too large, or one of more than 8 bits a channel.
      OSError: If Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise OSError("decode_image: pictures are read with Pillow: pip install pillow") from error
    try:
        # What Pillow has to say of a picture that is read none the less is not for the one who trains on it.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if math.prod(image.size) > _MAX_PIXELS:
                raise ValueError(f"it has {image.size} pixels, more than {_MAX_PIXELS} in all")
            if image.mode in ("F", "I") or image.mode.startswith("I;"):
                raise ValueError("it has more than 8 bits a channel")
            grey = image.mode in ("1", "L", "LA", "La")
            mode = "L" if grey else "RGB"
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except UnidentifiedImageError as error:
        raise ValueError(f"decode_image: {name} cannot be read (it is no picture): replace or remove it") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds on hostile bytes.
        raise ValueError(f"decode_image: {name} cannot be read ({error}): replace or remove it") from error
    return pixels[..., None] if grey else pixels


def open_image(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a picture file, in the size and channels that it has.

    Raises:
      ValueError: As `decode_image` does, or if the file is far larger than a picture, or no plain file.
      OSError: If the file cannot be read, or Pillow is not installed.
    """
    if path.exists() and (not path.is_file() or path.stat().st_size > _MAX_FILE):
        raise ValueError(f"decode_image: {path} is no plain file of at most {_MAX_FILE} bytes: replace or remove it")
    return decode_image(path.read_bytes(), str(path))


def read_image(path: str | os.PathLike[str], shape: Sequence[int]) -> UInt8[np.ndarray, "h w c"]:
    """Reads a picture file in the size and channels that a network takes: it is stretched, and made grey or coloured.

    Args:
      path: The file.
      shape: Height, width and channels, 1 or 3.

    Raises:
      ValueError: As `decode_image` does.
      OSError: If the file cannot be read, or Pillow is not installed.
    """
    height, width, channels = shape
    pixels = open_image(Path(path))
    from PIL import Image

    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    return np.asarray(image.convert("L" if channels == 1 else "RGB").resize((width, height))).reshape(height, width, -1)


def stack_images(pictures: Iterable[tuple[object, UInt8[np.ndarray, "_ _ _"]]]) -> UInt8[np.ndarray, "n h w c"]:
    """Stacks pictures of one size; if any has colour, the grey ones are given three equal channels.

    Args:
      pictures: Names and pictures, taken one by one, so that too many of them are refused before memory is full.

    Raises:
      ValueError: If two sizes differ; it names both pictures. If all together are too large.
    """
    images: list[np.ndarray] = []
    first, size = None, 0
    for name, image in pictures:
        first = name if first is None else first
        if images and image.shape[:2] != images[0].shape[:2]:
            (height, width), (h, w) = images[0].shape[:2], image.shape[:2]
            raise ValueError(
                f"stack_images: {first} is {height}x{width} (height x width) but {name} is {h}x{w}: "
                "the images of a set have one size, resize them first"
            )
        images.append(image)
        size += image.size
        if size > _MAX_ARRAY:
            raise ValueError(
                f"stack_images: up to {name} the images have {size} bytes, more than {_MAX_ARRAY}: make them smaller"
            )
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _exactly(file: io.BufferedIOBase, count: int) -> bytearray:
    """Reads `count` bytes piece by piece, so that a header that lies costs no more memory than the file has bytes."""
    data = bytearray()
    while len(data) < count:
        piece = file.read(min(count - len(data), 1 << 20))
        if not piece:
            raise EOFError(f"{count} bytes were promised, {len(data)} are there")
        data += piece
    return data


class _Bounded:
    """A stream that ends in an error where an archive unpacks to more than `limit` bytes."""

    def __init__(self, file: io.BufferedIOBase, limit: int):
        self.file, self.left = file, limit

    def read(self, count: int) -> bytes:
        data = self.file.read(count)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("it unpacks to far more than an image archive holds")
        return data


def _members(path: Path, opener: Any, wanted: re.Pattern[str], max_size: int) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the plain files of a compressed tar whose name is `wanted`, and can be printed."""
    with opener(path) as file, tarfile.open(fileobj=_Bounded(file, _MAX_ARCHIVE), mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            # What is passed over is read too, and tarfile would go on long past the end.
            if not 0 <= member.size <= _MAX_ARCHIVE:
                raise tarfile.ReadError(f"{member.name!a} claims {member.size} bytes")
            if not member.isreg() or not member.name.isprintable() or not wanted.fullmatch(member.name):
                continue
            if member.size > max_size or member.issparse():
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
            data = archive.extractfile(member).read()
            if len(data) != member.size:
                raise EOFError(f"{member.name} stops after {len(data)} of {member.size} bytes")
            yield member.name, data


@contextlib.contextmanager
def _damage(op: str, path: Path) -> Iterator[None]:
    """Turns what a decompressor says of a damaged file into one line that names the file."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError) as error:
        raise ValueError(f"{op}: {path} is damaged or cut short ({error}): replace it") from error
