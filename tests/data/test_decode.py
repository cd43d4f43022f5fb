"""Decoders on good files, and on a corpus of damaged and hostile ones."""

import gzip
import io
import lzma
import os
import struct
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import decode, decode_image, read_image


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 4, 3), (0, 3, 4)], ids=str)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, write_idx, shape, suffix):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    got = decode.read_idx(write_idx(tmp_path / f"x{suffix}", array))
    np.testing.assert_array_equal(got, array)
    assert got.flags.writeable


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
IDX = struct.pack(">HBB3I", 0, 8, 3, 2, 3, 4) + ARRAY.tobytes()
DAMAGED_IDX = {
    "empty": (b"", "damaged or cut short"),
    "half a header": (IDX[:7], "damaged or cut short"),
    "half the values": (IDX[:-7], "24 bytes were promised, 17 are there"),
    "values too many": (IDX + b"x", "goes on past the"),
    "another magic": (b"\x89PNG" + IDX[4:], "not an IDX file"),
    "floats": (struct.pack(">HBB3I", 0, 13, 3, 2, 3, 4) + ARRAY.tobytes(), "not an IDX file"),
    "no axes": (struct.pack(">HBB", 0, 8, 0) + b"x", "not an IDX file"),
    "a size that lies": (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than"),
    "a large size that lies": (
        struct.pack(">HBB1I", 0, 8, 1, 2**32 - 1) + b"x",
        "far more than images pack into 9: replace",
    ),
    "cut gzip": (gzip.compress(IDX)[:-9], "damaged or cut short"),
    "gzip with a wrong sum": (gzip.compress(IDX)[:-8] + b"01234567", "damaged or cut short"),
    "gzip of noise": (b"\x1f\x8b" + bytes(range(100)), "damaged or cut short"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_damaged_idx(tmp_path, data, message):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        decode.read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def entry(name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def write_tar(path, entries):
    """A compressed tar whose members are written as they are, true or not."""
    opener = lzma.open if path.suffix == ".xz" else gzip.open
    with opener(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar_entries(seed=0, count=3):
    random = np.random.default_rng(seed)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = random.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        yield entry(f"cifar-10-batches-bin/{name}.bin", records.tobytes())


def test_cifar10(tmp_path):
    entries = list(cifar_entries())
    path = write_tar(tmp_path / "c.tar.gz", [entry("cifar-10-batches-bin/readme.html", b"hello"), *entries])
    train, test = decode.read_cifar10(path)
    assert (train.x.shape, test.x.shape) == ((15, 32, 32, 3), (3, 32, 32, 3))
    record = np.frombuffer(entries[1][1], np.uint8)[3073:6146]
    assert train.y[4] == record[0]
    np.testing.assert_array_equal(train.x[4, 5, 6], [record[1 + plane * 1024 + 5 * 32 + 6] for plane in range(3)])


def jpeg(value=100, size=(4, 5), **options):
    data = io.BytesIO()
    Image.new("RGB", size[::-1], (value, value, value)).save(data, "JPEG", **options)
    return data.getvalue()


def test_jpeg_archive(tmp_path):
    entries = [entry("train/cat/0.jpg", jpeg(10)), entry("train/dog/0.jpg", jpeg(200)), entry("test/dog/0.jpg", jpeg())]
    x, labels = decode.read_jpeg_archive(write_tar(tmp_path / "a.tar.xz", entries), "train")
    assert labels == ("cat", "dog")
    np.testing.assert_allclose(x.mean((1, 2, 3)), [10, 200], atol=2)


HOSTILE = {
    "climbs out": entry("train/../../../stolen/0.jpg", b"x"),
    "absolute": entry("/tmp/train/cat/0.jpg", b"x"),
    "symbolic link": entry("train/cat/1.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": entry("train/cat/1.jpg", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": entry("train/cat/1.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": entry("train/cat/1.jpg", type=tarfile.FIFOTYPE),
    "folder": entry("train/cat/1.jpg", type=tarfile.DIRTYPE),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_members_are_passed_over(tmp_path, monkeypatch, hostile):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    path = write_tar(tmp_path / "a.tar.xz", [hostile, entry("train/cat/0.jpg", jpeg())])
    x, labels = decode.read_jpeg_archive(path, "train")
    assert (len(x), labels) == (1, ("cat",))
    assert [p for p in tmp_path.rglob("*") if p != path] == [inside]


def cut(path, count):
    os.truncate(path, path.stat().st_size - count)
    return path


def test_damaged_archives(tmp_path):
    whole = [entry("train/cat/0.jpg", jpeg()), entry("train/cat/1.jpg", os.urandom(50_000))]
    for name, suffix, read in (
        ("jpeg", "tar.xz", lambda path: decode.read_jpeg_archive(path, "train")),
        ("cifar", "tar.gz", decode.read_cifar10),
    ):
        entries = whole if name == "jpeg" else list(cifar_entries())
        with pytest.raises(ValueError, match="damaged or cut short"):
            read(cut(write_tar(tmp_path / f"cut.{suffix}", entries), 5_000))
        noise = tmp_path / f"noise.{suffix}"
        noise.write_bytes(b"noise" * 1000)
        with pytest.raises(ValueError, match="damaged or cut short"):
            read(noise)
        empty = tmp_path / f"empty.{suffix}"
        empty.write_bytes(b"")
        with pytest.raises(ValueError, match=r"damaged or cut short|lacks|holds no"):
            read(empty)


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_MAX_ARCHIVE", 1 << 20)
    zeros = [entry(f"zeros{i}", bytes(1 << 18)) for i in range(8)]
    passed_over = write_tar(tmp_path / "a.tar.xz", [*zeros, entry("train/cat/0.jpg", jpeg())])
    with pytest.raises(ValueError, match="unpacks to far more"):
        decode.read_jpeg_archive(passed_over, "train")
    extended = entry("train/cat/0.jpg", jpeg(), pax_headers={"comment": "x" * (2 << 20)})
    with pytest.raises(ValueError, match="unpacks to far more"):
        decode.read_jpeg_archive(write_tar(tmp_path / "b.tar.xz", [extended]), "train")
    monkeypatch.setattr(decode, "_MAX_ARRAY", 100)
    small = [entry(f"train/cat/{i}.jpg", jpeg()) for i in range(2)]
    with pytest.raises(ValueError, match=r"up to .*train/cat/1\.jpg the images have 120 bytes, more than 100: make"):
        decode.read_jpeg_archive(write_tar(tmp_path / "c.tar.xz", small), "train")
    monkeypatch.setattr(decode, "_MAX_ARCHIVE", 1 << 30)
    member = write_tar(tmp_path / "c.tar.xz", [entry("train/cat/0.jpg", bytes(17 << 20))])
    with pytest.raises(ValueError, match=r"train/cat/0\.jpg claims 17825792 bytes"):
        decode.read_jpeg_archive(member, "train")


@pytest.mark.parametrize("name", ["passed over", "train/cat/0.jpg"])
@pytest.mark.parametrize("size", [-1, 1 << 80])
def test_sizes_that_lie(tmp_path, name, size):
    member, _ = entry(name)
    member.size = size
    with lzma.open(tmp_path / "a.tar.xz", "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match=f"'{name}' claims {size} bytes"):
        decode.read_jpeg_archive(tmp_path / "a.tar.xz", "train")


def test_names_that_cannot_be_shown_are_passed_over(tmp_path):
    entries = [entry(f"train/cat/{name}.jpg", jpeg()) for name in ("a\nb", "\x1b[2J", "a b", "\u00e9")]
    x, _ = decode.read_jpeg_archive(write_tar(tmp_path / "a.tar.xz", entries), "train")
    assert len(x) == 2


def test_a_picture_is_a_plain_file_of_some_size(tmp_path, write_picture, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ValueError, match="is no plain file of at most"):
            read_image(path, (8, 8, 1))
    monkeypatch.setattr(decode, "_MAX_FILE", 10)
    with pytest.raises(ValueError, match=r"large\.png is no plain file of at most 10 bytes"):
        read_image(write_picture(tmp_path / "large.png"), (8, 8, 1))


def test_odd_archives(tmp_path):
    entries = list(cifar_entries())
    with pytest.raises(ValueError, match=r"lacks cifar-10-batches-bin/data_batch_2\.bin"):
        decode.read_cifar10(write_tar(tmp_path / "a.tar.gz", entries[:1] + entries[2:]))
    entries[2] = entry(entries[2][0].name, entries[2][1][:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin is not made of records"):
        decode.read_cifar10(write_tar(tmp_path / "b.tar.gz", entries))
    with pytest.raises(ValueError, match="holds no train/"):
        decode.read_jpeg_archive(write_tar(tmp_path / "c.tar.xz", [entry("test/cat/0.jpg", jpeg())]), "train")
    mixed = [entry("train/cat/0.jpg", jpeg()), entry("train/cat/1.jpg", jpeg(size=(5, 4)))]
    with pytest.raises(ValueError, match=r"train/cat/0\.jpg is 4x5 .* but .*train/cat/1\.jpg is 5x4"):
        decode.read_jpeg_archive(write_tar(tmp_path / "d.tar.xz", mixed), "train")
    broken = [entry("train/cat/0.jpg", jpeg(size=(40, 40))[:-60])]
    with pytest.raises(ValueError, match=r"e\.tar\.xz: train/cat/0\.jpg cannot be read"):
        decode.read_jpeg_archive(write_tar(tmp_path / "e.tar.xz", broken), "train")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("RGB", "BMP"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")],
)
def test_picture_modes(mode, kind):
    data = io.BytesIO()
    Image.new(mode, (5, 4)).save(data, kind)
    assert decode_image(data.getvalue(), "a").shape == (4, 5, 1 if mode in ("1", "L", "LA") else 3)


def test_pictures_that_are_none(tmp_path, write_picture, monkeypatch):
    deep = write_picture(tmp_path / "deep.png", 1000, mode="I;16")
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode_image(deep.read_bytes(), "deep.png")
    for data in (b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"):
        with pytest.raises(ValueError, match=r"it\.png cannot be read"):
            decode_image(data, "it.png")
    monkeypatch.setattr(decode, "_MAX_PIXELS", 19)
    with pytest.raises(ValueError, match="more than 19 in all"):
        decode_image(write_picture(tmp_path / "large.png").read_bytes(), "large.png")


def test_pictures_without_pillow(monkeypatch):
    data = jpeg()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(OSError, match="pip install pillow"):
        decode_image(data, "a.jpg")


def test_grey_beside_colour(tmp_path):
    grey, colour = np.full((2, 2, 1), 7, np.uint8), np.zeros((2, 2, 3), np.uint8)
    x = decode.stack_images([("a", grey), ("b", colour)])
    assert x.shape == (2, 2, 2, 3)
    assert (x[0] == 7).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
@pytest.mark.parametrize("shape", [(8, 6, 1), (3, 9, 3)])
def test_a_picture_is_fitted_to_what_a_network_takes(tmp_path, write_picture, mode, shape):
    path = write_picture(tmp_path / "a.png", 255, size=(4, 5), mode=mode)
    x = read_image(path, shape)
    assert (x.shape, x.dtype) == (shape, np.uint8)
    assert len(np.unique(x.reshape(-1, shape[-1]), axis=0)) == 1  # one colour


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name, error in {"a.png": ValueError, "b.png": FileNotFoundError}.items():
        with pytest.raises(error, match=name):
            read_image(str(tmp_path / name), (8, 8, 1))
