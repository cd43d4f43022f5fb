"""Labelled images by name or from a folder, all in one form: uint8 arrays in memory."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxnets.data import decode
from jaxnets.data.decode import Part
from jaxnets.data.folder import IDX_STEMS, read_folder, read_idx_set
from jaxnets.data.sources import SOURCES, fetch, local_path

_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class Images:
    """A set of labelled images.

    Attributes:
      name: The name or path it was loaded by; `cifar10_jpeg` where that copy stood in for `cifar10`.
      train: `"x"` uint8 [N, H, W, C] and `"y"` int32 [N], indices into `classes`.
      test: The same for the held-out images.
      classes: The name of each class.
      note: What a reader of figures measured on it must know; often empty.

    Raises:
      ValueError: If shapes or types disagree, a part is empty, or a label is out of range.
    """

    name: str
    train: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for part, arrays in (("train", self.train), ("test", self.test)):
            x, y = arrays["x"], arrays["y"]
            if x.dtype != np.uint8 or x.ndim != 4 or y.dtype != np.int32 or y.shape != x.shape[:1] or not x.size:
                raise ValueError(
                    f"Images: the {part} part of {self.name} has x {x.dtype}{list(x.shape)} and y {y.dtype}"
                    f"{list(y.shape)}, wanted uint8[N, H, W, C] and int32[N] with N > 0"
                )
            wrong = np.flatnonzero((y < 0) | (y >= len(self.classes)))
            if wrong.size:
                raise ValueError(
                    f"Images: label {y[wrong[0]]} of {part} image {wrong[0]} of {self.name} is out of range: "
                    f"there are {len(self.classes)} classes, correct it to one of 0 to {len(self.classes) - 1}"
                )
        train_shape, test_shape = self.train["x"].shape[1:], self.test["x"].shape[1:]
        if train_shape != test_shape:
            raise ValueError(
                f"Images: {self.name} has train images of {train_shape} and test images of {test_shape} "
                "(height, width, channels): the images of a set have one size, resize them first"
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of the arrays and the class names: equal only for equal data."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for array in (self.train["x"], self.train["y"], self.test["x"], self.test["y"]):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_images(name_or_path: str | Path) -> Images:
    """Loads a set of images by its name, or from a folder.

    Names: `digits` (scikit-learn's 1,797 scans of 8x8, installed with it: its 16 grey levels become
    `rint(level * 255 / 16)`, 360 scans are held out, stratified, seed 0), `mnist`, `fashion_mnist`, `cifar10` (where
    `JAXNETS_DATA` has only the JPEG copy, that one, and `note` says so) and `cifar10_jpeg`.

    A folder holds `train/<class>/*` and `test/<class>/*`, or `<class>/*` of which a fifth of each class is held out
    by seed 0, or the four IDX files of an MNIST-like set, gzipped or not. Images with colour have three channels,
    a set of grey ones has one. Files that start with a dot or have no suffix of a picture are passed over.

    Raises:
      ValueError: If the name is unknown or a file is damaged, empty, mixed in size or labelled out of range.
      FileNotFoundError: If a file or a part of the folder is missing.
      OSError: If a file cannot be read or downloaded.

    >>> digits = load_images("digits")
    >>> digits.train["x"].shape, digits.test["x"].shape, len(digits.classes)
    ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    name = str(name_or_path)
    if name in _NAMED:
        return _NAMED[name]()
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"load_images: {name!r} is neither one of {', '.join(_NAMED)} nor a folder")
    train, test, classes = read_folder(folder)
    return Images(name, train._asdict(), test._asdict(), classes)


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise OSError("load_images: digits come with scikit-learn: pip install scikit-learn") from error
    levels, y = load_digits(return_X_y=True)
    x = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y.astype(np.int32), test_size=360, stratify=y, random_state=0
    )
    return Images("digits", {"x": train_x, "y": train_y}, {"x": test_x, "y": test_y}, _DIGITS)


def _idx(name: str, classes: tuple[str, ...]) -> Images:
    train, test, _ = read_idx_set([fetch(SOURCES[name], f"{stem}.gz") for stem in IDX_STEMS])
    return Images(name, train._asdict(), test._asdict(), classes)


def _cifar10() -> Images:
    source, filename = SOURCES["cifar10"], "cifar-10-binary.tar.gz"
    binary, copy = local_path(source, filename), local_path(SOURCES["cifar10_jpeg"], "cifar10_train_jpeg.tar.xz")
    if binary is not None and copy is not None and copy.exists() and not binary.exists():
        return _cifar10_jpeg()
    train, test = decode.read_cifar10(fetch(source, filename))
    return Images("cifar10", train._asdict(), test._asdict(), _CIFAR10)


def _cifar10_jpeg() -> Images:
    parts = []
    for split in ("train", "test"):
        path = fetch(SOURCES["cifar10_jpeg"], f"cifar10_{split}_jpeg.tar.xz")
        x, names = decode.read_jpeg_archive(path, split)
        if unknown := set(names) - set(_CIFAR10):
            raise ValueError(f"load_images: {path} has a class {min(unknown)!r} that CIFAR-10 lacks: replace it")
        parts.append(Part(x, np.array([_CIFAR10.index(name) for name in names], np.int32)))
    note = "JPEG copy, lossy: figures are not comparable to the decimal with those on the binary version"
    return Images("cifar10_jpeg", parts[0]._asdict(), parts[1]._asdict(), _CIFAR10, note)


_NAMED: Mapping[str, Callable[[], Images]] = {
    "digits": _digits,
    "mnist": functools.partial(_idx, "mnist", _DIGITS),
    "fashion_mnist": functools.partial(_idx, "fashion_mnist", _FASHION),
    "cifar10": _cifar10,
    "cifar10_jpeg": _cifar10_jpeg,
}
