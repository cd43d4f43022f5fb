"""A folder of labelled images: sub-folders by class, or the four IDX files of an MNIST-like set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnets.data import decode
from jaxnets.data.decode import Part
from jaxnets.data.splits import stratified_split

IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_folder(folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """Reads a folder: the training part, the test part, the names of the classes.

    Raises:
      ValueError: If a picture is damaged or of another size than the rest, or a class is empty or only in the test.
      FileNotFoundError: If there are no images, or only a part of them.
    """
    idx = [_plain_or_gzipped(folder / stem) for stem in IDX_STEMS]
    if any(path.exists() for path in idx):
        return read_idx_set(idx)
    layout = [part for part in ("train", "test") if (folder / part).is_dir() and _subfolders(folder / part)]
    if len(layout) == 1:
        missing = folder / ("test" if layout == ["train"] else "train")
        raise FileNotFoundError(f"read_folder: {folder / layout[0]} has classes but {missing} has none: add them")
    classes = _subfolders(folder / "train" if layout else folder)
    if not classes:
        raise FileNotFoundError(
            f"read_folder: {folder} holds no images: put them in train/<class>/ and test/<class>/, or in <class>/"
        )
    if layout:
        train = _files(folder / "train", classes)
        test = _files(folder / "test", classes, partly=True)
    else:
        files = _files(folder, classes)
        kept, held = stratified_split(np.array([label for _, label in files]), 0.2, seed=0, classes=classes)
        train, test = [files[i] for i in kept], [files[i] for i in held]
    paths = [path for path, _ in train + test]
    x = decode.stack_images((path, decode.open_image(path)) for path in paths)
    y = np.array([label for _, label in train + test], np.int32)
    return Part(x[: len(train)], y[: len(train)]), Part(x[len(train) :], y[len(train) :]), classes


def read_idx_set(paths: Sequence[Path]) -> tuple[Part, Part, tuple[str, ...]]:
    """Reads IDX files in the order of `IDX_STEMS`; the classes are the numbers up to the largest training label.

    Raises:
      ValueError: If a file is damaged, or images and labels do not belong together.
      FileNotFoundError: If one of the four is missing.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"read_folder: {path} is missing: an MNIST-like set has four files, add it")
    arrays = [decode.read_idx(path) for path in paths]
    parts = []
    for x, y, x_path, y_path in zip(arrays[::2], arrays[1::2], paths[::2], paths[1::2], strict=True):
        if x.ndim not in (3, 4) or y.ndim != 1 or len(x) != len(y) or not x.size:
            raise ValueError(
                f"read_folder: {x_path} has shape {x.shape} and {y_path} {y.shape}, "
                "wanted (N, H, W) or (N, H, W, C) and (N,): replace the wrong one"
            )
        parts.append(Part(x.reshape(*x.shape[:3], -1), y.astype(np.int32)))
    train, test = parts
    return train, test, tuple(map(str, range(int(train.y.max()) + 1)))


def picture_files(folder: Path) -> list[Path]:
    """The files of a folder that have a picture's suffix, in order; those that start with a dot are passed over."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def _plain_or_gzipped(path: Path) -> Path:
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _files(folder: Path, classes: Sequence[str], *, partly: bool = False) -> list[tuple[Path, int]]:
    """The pictures of the sub-folders, each with the index of its class; `partly` allows classes without any."""
    present = _subfolders(folder)
    if unknown := [name for name in present if name not in classes]:
        raise ValueError(f"read_folder: {folder / unknown[0]} is a class that the training part lacks: add it there")
    found = []
    for name in present:
        paths = picture_files(folder / name)
        if not paths and not partly:
            raise ValueError(f"read_folder: {folder / name} holds no images: add some, or remove the folder")
        found += [(path, classes.index(name)) for path in paths]
    if not found:
        raise ValueError(f"read_folder: {folder} holds no images: add some")
    return found
