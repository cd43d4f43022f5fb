"""What TensorBoard is given, and which steps are traced."""

import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.train import Profile, TensorBoard


def scalars(folder):
    """(step, tag, value) of each point in a file of events: records of a length, its checksum, data and theirs."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    (path,) = folder.iterdir()
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = proto.Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_metrics_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    with TensorBoard(tmp_path) as board:
        board(3, None, {"loss": 0.5})
        board(6, None, {"loss": np.array([0.25, 2.0])})
    assert scalars(tmp_path) == [(3, "loss", 0.5), (6, "loss/0", 0.25), (6, "loss/1", 2.0)]


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxnets\[tensorboard\]'"):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("last", [3, 9], ids=["that end first", "that go on"])
def test_some_steps_are_traced(tmp_path, last):
    double = jax.jit(lambda x: x + x)
    with Profile(tmp_path, first=2, steps=3) as profile:
        for step in range(1, last):
            jax.block_until_ready(double(jnp.ones(3)))
            profile(step, None, {})
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_profile_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        Profile(tmp_path, steps=0)
