"""Processes that train as one: over loopback, each as the campaign starts it."""

import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxnets import sharding, train
from jaxnets.train import processes
from tests.campaigns import processes as campaign


@pytest.mark.exhaustive
def test_an_exception_in_one_ends_both_and_a_restart_comes_to_the_same_bits(tmp_path):
    whole = campaign.trained(tmp_path / "whole", 2, "fsdp")
    assert whole[0]["digest"] == whole[1]["digest"]
    assert whole[0]["cut"]
    codes, seconds = campaign.raised(tmp_path / "cut", 1, kind="fsdp")
    assert codes == [1, 1]
    assert seconds < campaign.RAISED
    again = campaign.trained(tmp_path / "cut", 2, "fsdp")
    assert again[0]["begun"] in (4, 8)
    assert [each["digest"] for each in again] == [whole[0]["digest"]] * 2

    # One process alone would not see these batches; where that is left unchecked, it has the state bit for bit.
    (refused,), (alone,) = (campaign.started(tmp_path / "whole", 1, "fsdp", {0: how}) for how in ("none", "unchecked"))
    last = refused.communicate()[1].splitlines()[-1]
    words = (
        f"ValueError: restore: {tmp_path / 'whole' / '16'} is of other batches: processes was 2, is now 1: take back"
    )
    assert (refused.returncode, last[: len(words)]) == (1, words)
    found = json.loads(alone.communicate()[0])
    assert (found["begun"], found["cut"], found["digest"]) == (16, [], whole[0]["digest"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("lost"), 1),
        (KeyboardInterrupt(), 130),
        (train.Terminated(), 143),
        (SystemExit(3), 3),
        (SystemExit(), 0),
        (SystemExit("words"), 1),
    ],
)
def test_an_exception_ends_the_process_with_its_code(monkeypatch, capsys, error, code):
    asked, ended = [], []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *at, **options: asked.append((at, options)))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: ended.append("shutdown"))
    monkeypatch.setattr(os, "_exit", ended.append)
    with train.joined("127.0.0.1:1", 2, 1):
        raise error
    assert asked[0][0] == ("127.0.0.1:1", 2, 1)
    assert asked[0][1]["coordinator_bind_address"] == "127.0.0.1:1"
    assert ended[0] == code
    assert (type(error).__name__ in capsys.readouterr().err) == (not isinstance(error, SystemExit))


def test_what_processes_agree_on(monkeypatch):
    state = SimpleNamespace(step=SimpleNamespace(is_fully_addressable=False))
    told = np.array([[7, 0], [5, 2]])
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", lambda own: told)
    length, stop = processes.agreed(state, 7, None)
    assert (length, type(stop)) == (5, train.Terminated)
    with pytest.raises(
        ValueError, match=r"restore: the processes have steps \[7, 0, 5, 2\]: all must see the same files"
    ):
        processes.check_agreed("restore", "steps", 7)
    alone = SimpleNamespace(step=SimpleNamespace(is_fully_addressable=True))
    assert processes.agreed(alone, 7, None) == (7, None)


def test_a_whole_batch_is_placed_as_its_rows_are(strict_promotion):
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    batch = {"x": np.arange(8.0, dtype=np.float32).reshape(4, 2)}
    whole, rows = sharding.place_batch(batch, mesh, whole=True), sharding.place_batch(batch, mesh)
    np.testing.assert_array_equal(whole["x"], rows["x"])
    np.testing.assert_array_equal(processes.fetched(whole["x"]), batch["x"])
