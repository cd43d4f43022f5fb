"""The recurrent cases: every peer's weights and gradients, converted, are ours. Keras has a process of its own."""

import functools
import json
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import measure, peers
from benchmarks.__main__ import main
from benchmarks.case import Problem
from benchmarks.cases import CASES

CELLS = ("lstm", "gru", "rnn")
SIZE = {"batch": 3, "time": 5, "input": 4, "hidden": 6}
NAMES = ("x", "kernel", "recurrent_kernel", "bias", "recurrent_bias")


@functools.cache
def weights(cell):
    return peers.find("jaxnets").load().weights(Problem(cell, SIZE, CASES[cell].batch(SIZE), {}))


@functools.cache
def contender(name, cell, mode):
    peer = peers.find(name)
    problem = Problem(cell, SIZE, CASES[cell].batch(SIZE), weights(cell), options=peer.options, mode=mode)
    return peer.load().recurrent(problem)


@functools.cache
def results(name, cell, mode):
    return contender(name, cell, mode).results()


def check(name, cell, mode, missing=()):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    wanted, got = results("jaxnets", cell, mode), results(name, cell, mode)
    differs = getattr(contender(name, cell, mode), "differs", "")
    judged = measure._judged(CASES[cell].agreement, wanted, got, differs)
    assert (judged["status"], judged["note"]) == ("measured", "")
    assert set(wanted) - set(judged["agreement"]["deviation"]) == set(missing)
    assert bool(differs) == bool(missing)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["jaxnets_lengths", "torch", "flax", "nnx", "haiku", "equinox"])
def test_gradients_agree(name, cell):
    missing = {"nnx": NAMES[4:], "haiku": ("recurrent_kernel", "recurrent_bias")}
    check(name, cell, "gradient", missing.get(name, ()) if cell == "gru" else ())


@pytest.mark.parametrize("name", ["jaxnets_lengths", "torch", "flax", "nnx", "haiku", "equinox"])
def test_values_agree(name):
    check(name, "lstm", "forward")


def test_gradients_are_of_everything():
    assert set(results("jaxnets", "gru", "gradient")) == {"loss", *NAMES}
    assert set(results("jaxnets", "lstm", "forward")) == {"y", "h", "c"}
    assert all(np.abs(value).max() > 0 for value in results("jaxnets", "gru", "gradient").values())


def test_time_and_memory_are_told():
    step = contender("jaxnets", "rnn", "gradient")
    step.run(2)
    assert step.compile_seconds > 0
    assert step.program_bytes["temporaries"] > 0


def test_where_resetting_before_and_after_the_product_agree():
    made = weights("gru")
    n = made["recurrent_kernel"][:, 2 * SIZE["hidden"] :]
    assert np.array_equal(n, np.diag(np.diag(n)))
    assert np.diag(n).all()
    assert not made["recurrent_bias"].any()


def test_work_is_counted():
    case = CASES["lstm"]
    assert case.flops(SIZE, "forward") == 2 * 3 * 5 * (4 + 6) * 24
    assert case.flops(SIZE, "gradient") == 3 * case.flops(SIZE, "forward")


def test_what_cannot_agree_may_be_left_out_by_whom_says_so():
    wanted, got = {"y": np.ones(2), "bias": np.ones(2)}, {"y": np.ones(2)}
    tolerance = {"y": 1e-4, "bias": 1e-4, "c": 1e-4}
    judged = measure._judged(tolerance, wanted, got, "has no bias")
    assert (judged["status"], judged["agreement"]["deviation"]) == ("measured", {"y": 0.0})
    assert measure._judged(tolerance, wanted, got)["status"] == "disagrees"
    assert measure._judged(tolerance, wanted, {}, "differs in all")["status"] == "disagrees"


@pytest.mark.exhaustive
@pytest.mark.parametrize("cell", CELLS)
def test_all_are_timed(cell, capsys):
    shape = ",".join(f"{name}={number}" for name, number in SIZE.items())
    assert main(["run", cell, "--shape", shape, "--rounds", "1", "--seconds", "0.02", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ours = ("jaxnets", "jaxnets_tuned", "jaxnets_lengths")
    assert [record["contender"] for record in records] == 2 * [*ours, *CASES[cell].peers]
    assert [record["mode"] for record in records[:: len(records) // 2]] == ["forward", "gradient"]
    for record in records:
        if find_spec(record["contender"].split("_")[0]) or record["contender"] == "nnx":
            assert (record["status"], record["note"]) == ("measured", "")
            assert 0 < record["peak_fraction"] < 1
            assert ("jaxnets_lengths" in record["ratio"]) == (record["contender"] == "jaxnets")
