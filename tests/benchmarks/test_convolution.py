"""The convolution's case: every implementation and PyTorch give the same values and gradients."""

import functools

import pytest

from benchmarks import measure, peers
from benchmarks.case import Problem
from benchmarks.cases import CASES

CASE = CASES["convolution"]
SIZE = {"batch": 2, "size": 5, "channels": 2, "features": 3}


@functools.cache
def weights():
    return peers.find("jaxnets").load().weights(Problem(CASE.name, SIZE, CASE.batch(SIZE), {}))


@functools.cache
def results(name, mode):
    peer = peers.find(name)
    problem = Problem(CASE.name, SIZE, CASE.batch(SIZE), weights(), options=peer.options, mode=mode)
    return peer.load().convolution(problem).results()


@pytest.mark.parametrize("mode", CASE.modes)
@pytest.mark.parametrize("name", [*CASE.shapes[0].ours[1:], "torch"])
def test_agrees(name, mode):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    judged = measure._judged(CASE.agreement, results("jaxnets", mode), results(name, mode), "")
    assert (judged["status"], judged["note"]) == ("measured", "")
    assert set(judged["agreement"]["deviation"]) == ({"y"} if mode == "forward" else {"loss", "x", "kernel", "bias"})
