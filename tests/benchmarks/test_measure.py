import dataclasses
import itertools
import os
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import machine, measure, peak, peers
from benchmarks.case import Case, Shape


class FakeRemote:
    """Stands for a contender's process: answers at once, with the results and the seconds it is given."""

    results: ClassVar = {"jaxnets": [1.0, 2.0], "same": [1.0, 2.00001], "off": [1.0, 2.1], "broken": [1.0, np.nan]}

    def __init__(self, case, shape, peer, device):
        self.peer, self.closed = peer, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True

    def loaded(self):
        pass

    def __call__(self, do, **arguments):
        assert not self.closed
        if do == "results":
            np.savez(arguments["path"], y=np.array(self.results[self.peer]))
        if do == "run":
            seconds = arguments["steps"] * (0.01 if self.peer == "jaxnets" else 0.04)
            return {"seconds": seconds, "elapsed_seconds": seconds, "cpu_seconds": seconds}
        return {
            "versions": {},
            "variant": "",
            "differs": "",
            "compile_seconds": None,
            "program_bytes": None,
            "peak_bytes": 1,
        }


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(measure, "Remote", FakeRemote)
    monkeypatch.setattr(machine, "busy_seconds", lambda: None)
    monkeypatch.setattr(peers, "find", lambda name: peers.Peer(name, name, ("no_such_package",) * (name == "absent")))


CASE = Case("fake", "a fake", (), (), {"y": 1e-4}, batch=lambda parameters: {})


def test_only_what_agrees_is_timed(fakes):
    said = []
    protocol = measure.Protocol(rounds=3, say=said.append)
    records = measure.measure(CASE, Shape("one", {}), ["same", "off", "broken", "absent"], protocol)
    assert {record["contender"]: record["status"] for record in records} == {
        "jaxnets": "measured",
        "same": "measured",
        "off": "disagrees",
        "broken": "disagrees",
        "absent": "missing",
    }
    ours, same, _, broken, absent = records
    assert same["ratio"]["jaxnets"]["median"] == pytest.approx(0.25)
    assert same["times"]["rounds"] == pytest.approx([0.04] * 3)
    assert (ours["times"]["steps_per_round"], same["times"]["steps_per_round"]) == (40, 10)
    assert broken["agreement"]["deviation"] == {"y": None}
    assert absent["note"] == "not installed: no_such_package"
    assert len(said) == 5


def test_our_own_nonsense_stops_it(fakes, monkeypatch):
    monkeypatch.setitem(FakeRemote.results, "jaxnets", [np.nan, 1.0])
    with pytest.raises(measure.ContenderError, match="jaxnets: its own results are not finite"):
        measure.measure(CASE, Shape("one", {}), ["same"], measure.Protocol(rounds=1))


def test_turns_alternate():
    order = []

    def turn(name, seconds):
        def take(steps):
            order.append(name)
            return seconds * steps

        return take

    turns = {"a": turn("a", 0.125), "b": turn("b", 2.0)}
    times, steps = measure.alternate(turns, rounds=3, seconds=0.5)
    assert "".join(order) == "aaabbb" + "ab" + "ba" + "ab"
    assert times == {"a": [0.125] * 3, "b": [2.0] * 3}
    assert steps == {"a": 4, "b": 1}


def test_deviations():
    wanted = {"a": np.array([1.0, -4.0]), "b": np.ones(2), "c": np.ones(2), "d": np.zeros(2)}
    got = {"a": np.array([1.0, -4.4]), "b": np.ones(3), "d": np.zeros(2)}
    assert measure.deviations(wanted, got) == {"a": pytest.approx(0.1), "b": np.inf, "c": np.inf, "d": 0.0}


def test_unsteady_rounds_and_other_load_are_noise():
    def noisy(rounds, others):
        return measure._timed(rounds, 1, others)["noisy"]

    steady, unsteady = [1.0, 1.01, 0.99, 1.02], [1.0, 1.3, 0.8, 1.2]
    assert [noisy(steady, 0.0), noisy(steady, None), noisy(unsteady, 0.0), noisy(steady, 0.3)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(("rounds", "cut"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (10, 1), (12, 2), (20, 5)])
def test_bounds_of_a_median(rounds, cut):
    """Against the binomial distribution's quantiles, as in tables of the sign test."""
    assert measure.bounds(list(range(rounds))) == (cut, rounds - 1 - cut)


def test_a_ratio_that_is_not_sure_is_noise():
    def noisy(theirs):
        steady = {"times": {"rounds": [1.0] * 6}, "noisy": False}
        return measure._ratio(steady, {"times": {"rounds": theirs}, "noisy": False})["noisy"]

    assert not noisy([1.0, 1.01, 0.99, 1.02, 1.0, 1.03])
    assert noisy([1.0, 1.01, 0.99, 1.02, 1.0, 1.13])


def test_others_share_of_the_machine(monkeypatch):
    clock = itertools.count(step=0.05)
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(clock))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    turns = measure._Turns(FakeRemote(None, None, "jaxnets", "cpu"))
    # In 0.03 seconds of two cores 0.05 were used, of which 0.03 were its own.
    assert turns(3) == pytest.approx(0.03)
    assert turns.others == pytest.approx(0.02 / 0.06)


def test_missing_gpu_is_an_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="nvidia-smi finds no GPU"):
        machine.hardware("gpu")


def test_machine_is_described():
    hardware = machine.hardware("cpu")
    assert hardware["cores"] >= 1
    assert hardware["cpu"]
    assert hardware["memory_bytes"] > 1 << 28
    assert machine.peak_bytes() > 1 << 20
    assert set(machine.versions(["numpy", "jaxnets"])) == {"python", "numpy", "jaxnets"}


def test_work_is_held_against_the_machines_limits(fakes, monkeypatch):
    monkeypatch.setattr(measure, "limits", lambda device: {"matmul_flops": 1000.0, "memory_bandwidth": 500.0})
    work = {"flops": lambda parameters, mode: 4.0, "moved": lambda parameters, mode: parameters["rows"]}
    case = dataclasses.replace(CASE, **work, unit="rows", counted=("rows", "rows"))
    ours, same = measure.measure(case, Shape("one", {"rows": 3}), ["same"], measure.Protocol(rounds=1))
    assert ours["hardware"]["memory_bandwidth"] == 500.0
    # In 0.01 seconds, and in 0.04.
    assert [ours["peak_fraction"], same["peak_fraction"]] == pytest.approx([0.4, 0.1])
    assert [ours["bandwidth_fraction"], same["bandwidth_fraction"]] == pytest.approx([0.6, 0.15])
    assert same["per_second"] == {"rows": pytest.approx(9 / 0.04)}


def test_limits_are_measured():
    assert min(peak._measured(size=8, length=64).values()) > 0
