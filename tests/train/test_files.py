import errno
import os

import numpy as np
import pytest
import safetensors.numpy

from jaxnets import train
from jaxnets.train.files import naming, replacing

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with pytest.raises(OSError, match="could not be written") as error, replacing(path):
        raise FULL
    assert (
        str(error.value) == f"{path} could not be written: {FULL.strerror}: free some, or name a folder on another disk"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]
    assert path.read_text() == "old"


def test_an_error_that_names_its_file_is_left_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), naming(tmp_path), open(tmp_path / "none"):
        pass


def test_weights_that_cannot_be_written_are_an_os_error(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise safetensors.SafetensorError(f"I/O error: {FULL.strerror} (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match=r"weights.safetensors could not be written: .*: free some"):
        train.save_weights(tmp_path / "weights.safetensors", {"a": np.ones(2)})
    assert list(tmp_path.iterdir()) == []
