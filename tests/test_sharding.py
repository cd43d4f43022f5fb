"""Meshes of eight simulated devices, in a process of their own: the same losses, and leaves really cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxnets import sharding

ROOT = Path(__file__).parents[1]


def results(name, kinds):
    return written("tests/on_mesh.py", name, ",".join(kinds))


def written(*arguments):
    """What a program of the tests wrote."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(name, *kinds):
    found = results(name, kinds)
    alone = np.array(found[f"{name} none"]["losses"])
    assert len(alone) == 20
    assert alone[-1] < alone[0]
    for kind in kinds:
        run = found[f"{name} {kind}"]
        np.testing.assert_allclose(run["losses"], alone, rtol=0, atol=5e-6, err_msg=kind)
        assert run["moved"] == []
        whole = kind == "data"
        expected = {"data": 1, "fsdp": 8, "tensor": 8, "all": 4}[kind]
        kernels = {path: parts for path, parts in run["parts"].items() if path.endswith("kernel")}
        assert any(path.startswith("opt_state/") for path in kernels)
        assert any(path.startswith("ema/") for path in kernels)
        most = [parts for path, parts in kernels.items() if "small" not in path]
        assert set(most) == {1} if whole else max(most) == expected
        assert run["parts"]["step"] == run["parts"]["key"] == 1


def test_a_mesh_of_every_axis_gives_the_losses_of_one_device():
    check("dense", "all")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["dense", "recurrent", "language", "cnn"])
def test_every_kind_of_model_and_mesh(name):
    check(name, "data", "fsdp", "tensor", "all")


@pytest.mark.exhaustive
def test_the_members_of_a_sweep_are_spread():
    found = results("sweep", ["data"])
    spread = found["sweep data"]
    np.testing.assert_allclose(spread["losses"], found["sweep none"]["losses"], rtol=0, atol=5e-6)
    assert spread["moved"] == []
    assert {parts for path, parts in spread["parts"].items() if path != "step"} == {8}


@pytest.mark.exhaustive
def test_what_was_saved_on_some_devices_goes_on_on_others():
    found = written("tests/elastic.py")
    assert len(found) == 16
    for pair, restored in found.items():
        parts = {"none": 1, "1": 1, "2": 2, "8": 4}[pair.split()[-1]]
        assert (restored["same"], restored["moved"], restored["parts"]) == (True, [], parts), pair
        assert abs(restored["loss"] - found["none to none"]["loss"]) < 5e-6, pair


def test_meshes_that_do_not_fit_are_named():
    count = jax.device_count()
    with pytest.raises(ValueError, match=f"make_mesh: data=1, fsdp=1, tensor=64 make 64 but there are {count} devices"):
        sharding.make_mesh(tensor=64)
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_rules_go_by_path_and_wrong_ones_are_named():
    mesh = jax.sharding.AbstractMesh((2, 2, 3), ("data", "fsdp", "tensor"))

    def spec(path, shape, rules=()):
        return sharding._sharding(path, shape, mesh, rules).spec

    rules = [("Dense_0/kernel$", P("tensor", ("data", "fsdp"))), ("kernel$", P())]
    assert spec("opt_state/0/mu/Dense_0/kernel", (3, 8), rules) == P("tensor", ("data", "fsdp"))
    assert spec("params/Dense_1/kernel", (64, 66), rules) == P()
    assert spec("opt_state/0/count/Dense_0/kernel", (), rules) == P()
    # Of their own: tensor along the last axis of kernels, fsdp along the longest that is left, small ones whole.
    assert spec("params/Dense_1/kernel", (64, 66)) == P("fsdp", "tensor")
    assert spec("params/Dense_1/kernel", (65, 66)) == P(None, "tensor")
    assert spec("params/Dense_1/kernel", (64, 65)) == P("fsdp", None)
    assert spec("params/Embed_0/table", (50, 66)) == P(None, "fsdp")
    assert spec("params/Dense_1/bias", (66,)) == P()
    with pytest.raises(ValueError, match=r"place_state: params/Dense_0/kernel has shape \(4, 8\), which"):
        spec("params/Dense_0/kernel", (4, 8), rules)


def test_a_place_has_buffers_of_its_own():
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    state = {"kernel": jnp.ones((4, 4)), "key": jax.random.key(0)}
    placed = sharding.place_state(state, mesh)
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf, tree), donate_argnums=0)(placed)
    np.testing.assert_array_equal(state["kernel"], 1)
    batch = sharding.place_batch({"x": np.ones((4, 2))}, mesh)
    assert batch["x"].sharding.spec == P(("data", "fsdp"))
