"""Checkpoints made to do harm: nothing runs, nothing is read that is no part of them, one line is said."""

import json
import os
import pickle
import shutil

import jax.numpy as jnp
import pytest

from jaxnets import train
from jaxnets.train import trainer
from jaxnets.train.checksums import checksum_of_index

# The libraries tell in their own way of a file that is damaged where there are no checksums of files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with train.Checkpoints(directory) as checkpoints:
        checkpoints.save(made.state().replace(step=jnp.int32(1)))
    # Who means harm leaves no checksums of the files, or right ones.
    (directory / "1" / "checksums.json").unlink()
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def refusal(made, directory):
    """What is said of the one checkpoint."""
    reports = []
    assert train.Checkpoints(directory, report=reports.append).restore(made.state()) is None
    (said,) = reports
    assert str(directory / "1") in said
    assert "\n" not in said
    return said


def test_a_pickle_for_any_file_is_not_run(made, copy, tmp_path, capfd):
    content = pickle.dumps(Canary(tmp_path / "canary"))
    for name in ("index/metadata", "state/_METADATA", "state/manifest.ocdbt"):
        whole = (copy / "1" / name).read_bytes()
        (copy / "1" / name).write_bytes(content)
        assert "cannot be used" in refusal(made, copy)
        (copy / "1" / name).write_bytes(whole)
    for path in [path for path in (copy / "1").rglob("*") if path.is_file()]:
        path.write_bytes(content)
    assert "cannot be used" in refusal(made, copy)
    assert not (tmp_path / "canary").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["symbolic link", "link to a folder", "pipe"])
def test_what_is_no_plain_file_is_not_opened(made, copy, tmp_path, kind):
    path = copy / "1" / "index" / "metadata"
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "symbolic link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        (copy / "1" / "index").rename(tmp_path / "index")
        (copy / "1" / "index").symlink_to(tmp_path / "index")
    assert "index" in refusal(made, copy)
    assert refusal(made, copy).endswith("is no plain file")


@pytest.mark.parametrize(
    ("shape", "pieces", "message"),
    [([1 << 36], [16], "as [68719476736] in pieces of [16]"), ([16], [1 << 33], "as [16] in pieces of [8589934592]")],
)
def test_an_array_that_would_fill_the_memory_is_not_read(made, copy, shape, pieces, message):
    import tensorstore

    store = {"driver": "ocdbt", "base": f"file://{copy}/1/state", "path": "params/Dense_0/bias/"}
    metadata = {"shape": shape, "chunks": pieces, "dtype": "<f4", "compressor": {"id": "zstd", "level": 1}}
    spec = {"driver": "zarr", "kvstore": store, "metadata": metadata}
    tensorstore.open(spec, create=True, delete_existing=True).result()
    assert refusal(made, copy).endswith(f"params/Dense_0/bias is stored {message}")


@pytest.mark.parametrize("keys", [{}, {"key": "rbg"}, {"params/Dense_0/bias": "fry"}, {"nothing": "fry"}, 5])
def test_an_index_that_lies_of_keys_is_refused(made, copy, keys):
    path = copy / "1" / "index" / "metadata"
    index = json.loads(path.read_bytes())
    index["keys"] = keys
    index["checksum"] = checksum_of_index(index)
    path.write_text(json.dumps(index))
    refusal(made, copy)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"5", b'{"leaves": 3, "checksum": 0}'])
def test_an_index_of_another_kind_is_refused(made, copy, content):
    (copy / "1" / "index" / "metadata").write_bytes(content)
    refusal(made, copy)


def test_a_run_whose_checkpoints_are_all_refused_says_what_to_do(made, copy):
    (copy / "1" / "index" / "metadata").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="put a good copy there, or remove that folder to begin the run anew"):
        trainer._newest(copy.parent, train.Checkpoints(copy), made.state(), 9)
