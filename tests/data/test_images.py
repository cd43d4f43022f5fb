"""Sets of images by name and from folders."""

import gzip
import hashlib
import re
import sys

import numpy as np
import pytest

from jaxnets.data import SOURCES, Images, RemoteFile, Source, load_images, split_validation, stratified_split
from jaxnets.data.folder import IDX_STEMS


def images(train_y=(0, 1), test_y=(1,), shape=(2, 2, 1), name="toy"):
    x = np.zeros((len(train_y), *shape), np.uint8)
    test = {"x": np.zeros((len(test_y), 2, 2, 1), np.uint8), "y": np.array(test_y, np.int32)}
    return Images(name, {"x": x, "y": np.array(train_y, np.int32)}, test, ("a", "b"))


def test_digits():
    from sklearn.datasets import load_digits

    digits = load_images("digits")
    assert digits.train["x"].shape == (1437, 8, 8, 1)
    assert digits.test["x"].shape == (360, 8, 8, 1)
    assert digits.train["x"].max() == 255
    assert set(np.unique(digits.train["x"])) == {round(level * 255 / 16) for level in range(17)}
    assert (np.bincount(digits.test["y"], minlength=10) >= 35).all()
    rows = {row.tobytes() for part in (digits.train, digits.test) for row in part["x"]}
    want = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert rows == {row.tobytes() for row in want}
    assert digits.fingerprint == load_images("digits").fingerprint


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(OSError, match="pip install scikit-learn"):
        load_images("digits")


def test_the_fingerprint_tells_data_apart():
    prints = [images().fingerprint, images(train_y=(1, 0)).fingerprint, images(test_y=(0,)).fingerprint]
    assert len(set(prints)) == 3
    assert images(name="another").fingerprint == prints[0]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range(label):
    with pytest.raises(ValueError, match=f"label {label} of test image 1 of toy is out of range: there are 2 classes"):
        images(test_y=(0, label))


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"the train part of toy has x uint8\[0, 2, 2, 1\]"):
        images(train_y=())
    with pytest.raises(ValueError, match=r"train images of \(3, 2, 1\) and test images of \(2, 2, 1\)"):
        images(shape=(3, 2, 1))


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"'minst' is neither one of digits, mnist, .* nor a folder"):
        load_images("minst")


def test_class_folders_with_a_test_part(tmp_path, write_picture):
    for part, count in (("train", 2), ("test", 1)):
        for label, name in enumerate(("bee", "ant")):
            for i in range(count):
                write_picture(tmp_path / part / name / f"{i}.png", 100 * label + i)
    (tmp_path / "train" / "ant" / ".hidden.png").write_text("")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("")
    got = load_images(tmp_path)
    assert got.classes == ("ant", "bee")
    np.testing.assert_array_equal(got.train["y"], [0, 0, 1, 1])
    np.testing.assert_array_equal(got.train["x"][:, 0, 0, 0], [100, 101, 0, 1])
    assert got.test["x"].shape == (2, 4, 5, 1)


def test_class_folders_without_one(tmp_path, write_picture):
    for label, name in enumerate(("ant", "train")):
        for i in range(10):
            write_picture(tmp_path / name / f"{i}.png", 100 * label + i, mode="RGB")
    got = load_images(str(tmp_path))
    assert got.classes == ("ant", "train")
    assert got.train["x"].shape == (16, 4, 5, 3)
    assert np.bincount(got.test["y"]).tolist() == [2, 2]
    values = np.concatenate([got.train["x"], got.test["x"]])[:, 0, 0, 0]
    assert sorted(values) == [*range(10), *range(100, 110)]
    assert load_images(tmp_path).fingerprint == got.fingerprint


def test_bad_folders(tmp_path, write_picture):
    def refuses(folder, message, error=ValueError):
        with pytest.raises(error, match=message) as caught:
            load_images(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)

    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "holds no images: put them in", FileNotFoundError)
    write_picture(tmp_path / "empty class" / "ant" / "0.png")
    (tmp_path / "empty class" / "bee").mkdir()
    refuses(tmp_path / "empty class", "bee holds no images: add some")
    write_picture(tmp_path / "one" / "ant" / "0.png")
    with pytest.raises(ValueError, match="class ant has one example"):
        load_images(tmp_path / "one")
    write_picture(tmp_path / "no test" / "train" / "ant" / "0.png")
    refuses(tmp_path / "no test", "has classes but .*test has none", FileNotFoundError)
    write_picture(tmp_path / "more in test" / "train" / "ant" / "0.png")
    write_picture(tmp_path / "more in test" / "test" / "bee" / "0.png")
    refuses(tmp_path / "more in test", "bee is a class that the training part lacks")
    (tmp_path / "more in test" / "test" / "bee").rename(tmp_path / "more in test" / "test" / "ant")
    (tmp_path / "more in test" / "test" / "ant" / "0.png").unlink()
    refuses(tmp_path / "more in test", "test holds no images")
    write_picture(tmp_path / "mixed" / "train" / "ant" / "0.png")
    write_picture(tmp_path / "mixed" / "test" / "ant" / "0.png", size=(5, 5))
    refuses(tmp_path / "mixed", r"4x5 .* but .*test/ant/0\.png is 5x5: .* resize them first")
    write_picture(tmp_path / "broken" / "ant" / "0.png")
    (tmp_path / "broken" / "ant" / "1.png").write_bytes(b"no picture")
    refuses(tmp_path / "broken", r"1\.png cannot be read .*: replace or remove it")


@pytest.fixture
def idx_folder(tmp_path, write_idx):
    random = np.random.default_rng(0)
    arrays = {
        IDX_STEMS[0]: random.integers(0, 256, (6, 4, 5)),
        IDX_STEMS[1]: np.array([0, 1, 2, 0, 1, 2]),
        IDX_STEMS[2]: random.integers(0, 256, (2, 4, 5)),
        IDX_STEMS[3]: np.array([2, 1]),
    }
    for i, (stem, array) in enumerate(arrays.items()):
        write_idx(tmp_path / (f"{stem}.gz" if i % 2 else stem), array)
    return tmp_path


def test_an_idx_folder(idx_folder):
    got = load_images(idx_folder)
    assert got.train["x"].shape == (6, 4, 5, 1)
    assert got.test["y"].tolist() == [2, 1]
    assert got.classes == ("0", "1", "2")


def test_bad_idx_folders(idx_folder, write_idx):
    labels = idx_folder / f"{IDX_STEMS[3]}.gz"
    write_idx(labels, np.array([2, 3]))
    with pytest.raises(ValueError, match=r"label 3 of test image 1 of .* is out of range"):
        load_images(idx_folder)
    write_idx(labels, np.array([2, 1, 0]))
    with pytest.raises(ValueError, match=r"has shape \(2, 4, 5\) and .*gz \(3,\)"):
        load_images(idx_folder)
    labels.write_bytes(labels.read_bytes()[:-4])
    with pytest.raises(ValueError, match=re.escape(str(labels)) + " is damaged or cut short"):
        load_images(idx_folder)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        load_images(idx_folder)


def test_a_named_set_checks_its_labels(tmp_path, write_idx, monkeypatch):
    """The classes of a named set are known, whatever its labels say."""
    (tmp_path / "mnist").mkdir()
    files = {}
    for stem, array in zip(IDX_STEMS, (np.zeros((2, 3, 3)), [0, 10], np.zeros((1, 3, 3)), [1]), strict=True):
        path = write_idx(tmp_path / "mnist" / f"{stem}.gz", np.array(array))
        files[path.name] = RemoteFile((hashlib.sha256(path.read_bytes()).hexdigest(),))
    monkeypatch.setitem(SOURCES, "mnist", Source("mnist", files, licence="none"))
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="label 10 of train image 1 of mnist is out of range: there are 10 classes"):
        load_images("mnist")


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_real_idx_sets(real_data, name, mean):
    got = load_images(name)
    assert got.train["x"].shape == (60_000, 28, 28, 1)
    assert got.test["x"].shape == (10_000, 28, 28, 1)
    assert abs(got.train["x"].mean() / 255 - mean) < 1e-4


def test_real_mnist_is_the_official_one(real_data):
    with gzip.open(real_data / "mnist" / "train-images-idx3-ubyte.gz") as file:
        assert hashlib.file_digest(file, "md5").hexdigest() == "6bbc9ace898e44ae57da46a324031adb"


def test_cifar10_stands_on_its_jpeg_copy_where_that_is_all_there_is(tmp_path, monkeypatch):
    (tmp_path / "cifar10_jpeg").mkdir()
    names = ["cifar10_train_jpeg.tar.xz", "cifar10_test_jpeg.tar.xz"]
    for name in names:
        (tmp_path / "cifar10_jpeg" / name).write_bytes(b"")
    files = {name: RemoteFile((hashlib.sha256(b"").hexdigest(),)) for name in names}
    monkeypatch.setitem(SOURCES, "cifar10_jpeg", Source("cifar10_jpeg", files, licence="none"))
    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    seen = []

    def read(path, split):
        seen.append((path.name, split))
        return np.zeros((2, 32, 32, 3), np.uint8), ("frog", "airplane")

    monkeypatch.setattr("jaxnets.data.decode.read_jpeg_archive", read)
    got = load_images("cifar10")
    assert seen == [(names[0], "train"), (names[1], "test")]
    assert got.name == "cifar10_jpeg"
    assert "not comparable" in got.note
    assert got.train["y"].tolist() == [6, 0]
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz has sha256"):
        load_images("cifar10")


def test_real_cifar10_jpeg_test_part(real_data):
    from jaxnets.data.decode import read_jpeg_archive

    x, labels = read_jpeg_archive(real_data / "cifar10_jpeg" / "cifar10_test_jpeg.tar.xz", "test")
    assert x.shape == (10_000, 32, 32, 3)
    assert all(labels.count(name) == 1000 for name in set(labels))
    assert len(set(labels)) == 10


def test_split_validation():
    train = {"x": np.arange(100), "y": np.repeat([0, 1, 5], [10, 30, 60])}
    rest, validation = split_validation(train, 0.1)
    assert np.bincount(validation["y"]).tolist() == [1, 3, 0, 0, 0, 6]
    assert sorted([*rest["x"], *validation["x"]]) == list(range(100))
    assert (np.diff(rest["x"]) > 0).all()
    assert (train["y"][validation["x"]] == validation["y"]).all()
    again, other = split_validation(train, 0.1)[1], split_validation(train, 0.1, seed=1)[1]
    np.testing.assert_array_equal(again["x"], validation["x"])
    assert (other["x"] != validation["x"]).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="fraction is"):
        stratified_split(np.zeros(4, int), fraction, seed=0)


def test_small_classes_keep_an_example_on_both_sides():
    kept, held = stratified_split(np.array([0, 0, 1, 1, 1]), 0.01, seed=0)
    assert (len(kept), len(held)) == (3, 2)
    kept, held = stratified_split(np.array([0, 0, 1, 1, 1]), 0.99, seed=0)
    assert (len(kept), len(held)) == (2, 3)
    with pytest.raises(ValueError, match="class 1 has one example"):
        stratified_split(np.array([0, 0, 1]), 0.5, seed=0)
