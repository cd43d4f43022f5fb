import errno
import json
import os
import random
import re
import shutil
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import train
from jaxnets.data import Loader


def at(state, step):
    return state.replace(step=jnp.int32(step), params=jax.tree.map(lambda leaf: leaf + step, state.params))


@pytest.fixture(scope="module")
def saved(made, tmp_path_factory):
    """Steps 1, 2 and 3, of which two are kept."""
    directory = tmp_path_factory.mktemp("saved")
    with train.Checkpoints(directory) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(at(made.state(), step), {"step": step})
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def restored(made, directory):
    reports = []
    state, extra = train.Checkpoints(directory, report=reports.append).restore(made.state())
    assert int(state.step) == extra["step"]
    assert made.digest(state) == made.digest(at(made.state(), extra["step"]))
    return extra["step"], reports


def test_the_newest_are_kept_and_restored(made, saved):
    assert train.Checkpoints(saved).steps() == [2, 3]
    assert restored(made, saved) == (3, [])


def test_what_is_there_is_sealed_before_anyone_waits(made, tmp_path):
    checkpoints = train.Checkpoints(tmp_path)
    checkpoints.save(at(made.state(), 1), {"step": 1})
    while checkpoints.steps() != [1]:
        time.sleep(0.001)
    assert "index/metadata" in json.loads((tmp_path / "1" / "checksums.json").read_bytes())
    assert restored(made, tmp_path) == (1, [])
    checkpoints.__exit__()


def test_nothing_to_restore_makes_nothing(made, tmp_path):
    assert train.Checkpoints(tmp_path / "none").restore(made.state()) is None
    assert not (tmp_path / "none").exists()


def test_a_restored_state_is_like_the_template(made, saved):
    state, _ = train.Checkpoints(saved).restore(made.state())
    chex.assert_trees_all_equal_shapes_and_dtypes(state, made.state())
    assert state.key.dtype == made.state().key.dtype
    from_shapes, _ = train.Checkpoints(saved).restore(jax.eval_shape(made.state))
    assert made.digest(state) == made.digest(from_shapes)
    # What was read must be donatable, which memory shared with NumPy is not.
    train.fit(state, made.step, made.data, steps=4)


def test_a_donated_state_can_be_saved_first(made, tmp_path):
    with train.Checkpoints(tmp_path) as checkpoints:
        state, _ = train.fit(made.state(), made.step, made.data, steps=2, callbacks=[train.every(2, checkpoints)])
        want = made.digest(state)
        train.fit(state, made.step, made.data, steps=9)
    assert made.digest(checkpoints.restore(made.state())[0]) == want


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete"])
def test_damage_to_any_file_falls_back_with_one_line(made, copy, capfd, harm):
    rng = random.Random(0)
    files = [path for path in (copy / "3").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        if harm == "delete":
            path.unlink()
        else:
            path.write_bytes({"flip": damaged, "truncate": whole[: len(whole) // 2], "empty": b""}[harm])
        step, reports = restored(made, copy)
        if path.parent.name == "3" and (path.name != "checksums.json" or harm == "delete"):
            # From Orbax's notes nothing is read, and without the checksums of files the leaves have their own.
            assert (step, reports) == (3, [])
        else:
            assert step == 2
            assert len(reports) == 1
            assert str(copy / "3") in reports[0]
            assert "\n" not in reports[0]
        path.write_bytes(whole)
    assert restored(made, copy) == (3, [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("harm", ["leaf", "leaves", "shape", "path", "extra", "checksum"])
def test_damage_is_seen_without_the_checksums_of_files(made, copy, harm):
    (copy / "3" / "checksums.json").unlink()
    (path,) = (path for path in (copy / "3" / "index").iterdir() if b'"leaves"' in path.read_bytes())
    index = json.loads(path.read_text())
    bias = index["leaves"].pop("params/Dense_0/bias")
    index["leaves"]["params/Dense_0/bjas" if harm == "path" else "params/Dense_0/bias"] = bias
    if harm == "shape":
        bias[0] = [17]
    elif harm == "extra":
        index["extra"]["step"] = 2
    elif harm == "checksum":
        index["checksum"] = "0" * 64
    elif harm == "leaves":
        path.with_name("leaves.json").unlink()
    elif harm == "leaf":
        sums = path.with_name("leaves.json")
        sums.write_text(json.dumps(json.loads(sums.read_text()) | {"params/Dense_0/bias": "0" * 64}))
    path.write_text(json.dumps(index))
    step, reports = restored(made, copy)
    assert step == 2
    ends = {"leaf": "params/Dense_0/bias is damaged", "leaves": "leaves.json'"}
    assert reports[0].endswith(ends.get(harm, "index is damaged"))


def test_all_damaged_is_as_none(made, copy):
    reports = []
    for step in ("2", "3"):
        shutil.rmtree(copy / step / "state")
    assert train.Checkpoints(copy, report=reports.append).restore(made.state()) is None
    assert len(reports) == 2


def test_a_run_goes_on_after_a_fallback(made, copy):
    (copy / "3" / "checksums.json").write_bytes(b"\xff")
    with train.Checkpoints(copy, report=lambda line: None) as checkpoints:
        state, _ = checkpoints.restore(made.state())
        assert int(state.step) == 2
        checkpoints.save(at(made.state(), 3), {"step": 3})
    assert restored(made, copy) == (3, [])
    assert checkpoints.steps() == [2, 3]


def test_an_older_damaged_one_is_no_hindrance(made, copy):
    (copy / "2" / "_CHECKPOINT_METADATA").write_bytes(b"\xff")
    with train.Checkpoints(copy) as checkpoints:
        checkpoints.save(at(made.state(), 4), {"step": 4})
    assert restored(made, copy) == (4, [])


def test_saving_the_same_step_again_does_nothing(made, tmp_path):
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(made.state(), 1), {"first": True})
        checkpoints.save(at(made.state(), 1), {"first": False})
    assert checkpoints.restore(made.state())[1] == {"first": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {}}, r"holds params/BatchNorm_0/bias float32\[16\], which is not wanted \(and \d+ more"),
        ({"carry": np.zeros(2, np.float32)}, r"lacks carry, wanted float32\[2\]"),
        ({"step": jnp.zeros(3, jnp.int32)}, r"holds step int32\[\], wanted int32\[3\]"),
        ({"step": jnp.float32(0)}, r"holds step int32\[\], wanted float32\[\]"),
        ({"key": jax.random.key(0, impl="rbg")}, r"holds key key<fry>\[\], wanted key<rbg>\[\]"),
    ],
)
def test_another_structure_is_named_and_no_reason_to_fall_back(made, saved, change, message):
    with pytest.raises(ValueError, match=message):
        train.Checkpoints(saved).restore(made.state().replace(**change))


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EIO, "no such luck"), "no such luck"),
        (OSError(errno.ENOSPC, FULL), f"{FULL}: free some, or name a folder on another disk"),
        # As the library under Orbax says it.
        (ValueError(f'Error writing "a/0": {FULL} [os_error_code=28]\nat'), f"{FULL}: free some, or"),
    ],
    ids=["unknown", "full", "full, by Orbax"],
)
def test_a_failure_of_the_background_surfaces_and_says_what_to_change(made, tmp_path, monkeypatch, error, told):
    with train.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(at(made.state(), step), {"step": step})
        _fail_when_written(checkpoints, monkeypatch, error)
        where = f"step 2 could not be written to {tmp_path}, where steps [1] are: "
        with pytest.raises(OSError, match=re.escape(where)) as found:
            checkpoints.save(at(made.state(), 3))
        assert told in str(found.value)
        assert "\n" not in str(found.value)
        # Once there is room it goes on, with the same step too.
        checkpoints.save(at(made.state(), 2), {"step": 2})
    assert restored(made, tmp_path) == (2, [])


def test_a_failure_of_the_last_save_surfaces_at_the_end(made, tmp_path, monkeypatch):
    checkpoints = train.Checkpoints(tmp_path)
    checkpoints.save(at(made.state(), 2))
    _fail_when_written(checkpoints, monkeypatch, OSError(errno.ENOSPC, FULL))
    with pytest.raises(OSError, match="step 2 could not be written"):
        checkpoints.__exit__()


def _fail_when_written(checkpoints, monkeypatch, error):
    """Makes of the save under way one that came to nothing."""
    wait, folder = checkpoints._manager.wait_until_finished, checkpoints.directory / str(checkpoints._saved)

    def fail():
        wait()
        shutil.rmtree(folder)
        raise error

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)


def test_what_does_not_fit_in_json_is_refused_at_once(made, tmp_path):
    with train.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(at(made.state(), 1), {"best": jnp.ones(2)})
        checkpoints.save(at(made.state(), 1), {"step": 1, "losses": {10: 1.5, 9: float("inf")}})
    assert restored(made, tmp_path) == (1, [])


def test_bad_arguments(made, tmp_path):
    with pytest.raises(ValueError, match="Checkpoints: keep must be positive, got 0"):
        train.Checkpoints(tmp_path, keep=0)
    with pytest.raises(TypeError, match="wrap it: every"):
        train.Checkpoints(tmp_path)(1, None, {})


def test_steps_of_a_run_that_was_not_restored_are_left_alone(made, copy):
    with train.Checkpoints(copy) as checkpoints:
        for step in (2, 3):
            with pytest.raises(ValueError, match=r"steps \[.*3\] of a run that was not restored"):
                checkpoints.save(at(made.state(), step))
    assert restored(made, copy) == (3, [])


def test_a_restored_step_is_not_written_again(made, copy):
    before = (copy / "3" / "checksums.json").stat().st_mtime_ns
    with train.Checkpoints(copy) as checkpoints:
        state, _ = checkpoints.restore(made.state())
        checkpoints.save(state)
    assert (copy / "3" / "checksums.json").stat().st_mtime_ns == before
    assert restored(made, copy) == (3, [])


def with_fingerprint(made, directory, fingerprint, processes=1):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "process_count", lambda: processes)
        return train.Checkpoints(directory, fingerprint=fingerprint).restore(made.state())


def test_a_changed_fingerprint_is_refused_and_named(made, tmp_path):
    settings = Loader({"x": np.arange(44)}, 8, seed=0).settings
    with train.Checkpoints(tmp_path, fingerprint=settings) as checkpoints:
        checkpoints.save(at(made.state(), 1))
        checkpoints.save(at(made.state(), 2))
    assert int(with_fingerprint(made, tmp_path, settings)[0].step) == 2
    end = ": take back what differs, or leave the fingerprint out to go on without this check"
    for changed, processes, words in [
        (settings, 2, "processes was 1, is now 2"),
        ({**settings, "seed": 1}, 1, "seed was 0, is now 1"),
        ({**settings, "seed": 1, "batch_size": 16}, 1, "seed was 0, is now 1; batch_size was 8, is now 16"),
        ({}, 1, "seed was 0, is now not there; batch_size was 8, is now not there; length was 44, is now not there"),
    ]:
        with pytest.raises(
            ValueError, match=re.escape(f"restore: {tmp_path / '2'} is of other batches: {words}")
        ) as it:
            with_fingerprint(made, tmp_path, changed, processes)
        assert str(it.value).endswith(end)
        assert "\n" not in str(it.value)
    # Who leaves it out goes on, with any number of processes.
    assert int(with_fingerprint(made, tmp_path, None, 2)[0].step) == 2


def test_batches_that_do_not_hang_on_the_number_of_processes_may_say_so(made, tmp_path):
    with train.Checkpoints(tmp_path, fingerprint={"seed": (1, 2), "processes": 1}) as checkpoints:
        checkpoints.save(at(made.state(), 1))
    assert with_fingerprint(made, tmp_path, {"seed": [1, 2], "processes": 1}, 2) is not None


def test_a_fingerprint_that_was_not_saved_cannot_be_the_same(made, saved):
    with pytest.raises(ValueError, match="processes was not there, is now 1; seed was not there, is now 0"):
        with_fingerprint(made, saved, {"seed": 0})
    with pytest.raises(TypeError, match="not JSON serializable"):
        train.Checkpoints(saved, fingerprint={"seed": jnp.int32(0)})
