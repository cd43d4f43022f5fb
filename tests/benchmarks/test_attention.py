"""The attention cases: every contender finds what ours does."""

import itertools

import pytest

from benchmarks import measure, peers
from benchmarks.case import Problem
from benchmarks.cases import CASES

SIZE = {"batch": 2, "time": 6, "heads": 2, "width": 4}


def results(case, name, mode):
    batch = CASES[case].batch(SIZE)
    weights = peers.find("jaxnets").load().weights(Problem(case, SIZE, batch, {}))
    peer = peers.find(name)
    problem = Problem(case, SIZE, batch, weights, options=peer.options, mode=mode)
    contender = getattr(peer.load(), case)(problem)
    found = contender.results()
    contender.run(2)
    return found


@pytest.mark.parametrize(
    ("case", "mode", "name"),
    [
        *itertools.product(["attention"], CASES["attention"].modes, ["jaxnets_xla", "jax", "flax", "torch"]),
        *(("decode", "forward", name) for name in ("flax", "nnx", "torch")),
    ],
)
def test_agrees(case, mode, name):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    ours, theirs = results(case, "jaxnets", mode), results(case, name, mode)
    judged = measure._judged(CASES[case].agreement, ours, theirs, "")
    assert (judged["status"], judged["note"]) == ("measured", "")
    assert set(judged["agreement"]["deviation"]) == ({"y"} if mode == "forward" else {"loss", "q", "k", "v"})
