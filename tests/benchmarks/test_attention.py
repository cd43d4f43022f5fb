"""The cases of attention: every contender finds what ours does. Keras has a process of its own."""

import functools
import itertools
import json

import pytest

from benchmarks import measure, peers
from benchmarks.__main__ import main
from benchmarks.case import Problem
from benchmarks.cases import CASES

SIZES = {
    "transformer": {"batch": 2, "time": 5, "vocabulary": 7, "features": 4, "heads": 2, "depth": 2},
    **{case: {"batch": 2, "time": 6, "heads": 2, "width": 4} for case in ("attention", "decode", "prefill")},
}
FOUND = {
    ("attention", "gradient"): {"loss", "q", "k", "v"},
    ("prefill", "forward"): {"y", "k", "v"},
    ("transformer", "gradient"): set(CASES["transformer"].agreement) - {"y"},
}


@functools.cache
def weights(case):
    size = SIZES[case]
    return peers.find("jaxnets").load().weights(Problem(case, size, CASES[case].batch(size), {}))


@functools.cache
def results(case, name, mode):
    peer, size = peers.find(name), SIZES[case]
    problem = Problem(case, size, CASES[case].batch(size), weights(case), options=peer.options, mode=mode)
    contender = getattr(peer.load(), case)(problem)
    found = contender.results()
    contender.run(2)
    return found


def quick(case):
    """Those that compile within a second, and need no process of their own."""
    return [
        *CASES[case].shapes[0].ours[1:],
        *(name for name in CASES[case].peers if name not in ("keras", "torch_compiled")),
    ]


@pytest.mark.parametrize(
    ("case", "mode", "name"),
    [(case, *pair) for case in SIZES for pair in itertools.product(CASES[case].modes, quick(case))],
)
def test_agrees(case, mode, name):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    ours, theirs = results(case, "jaxnets", mode), results(case, name, mode)
    judged = measure._judged(CASES[case].agreement, ours, theirs, "")
    assert (judged["status"], judged["note"]) == ("measured", "")
    assert set(judged["agreement"]["deviation"]) == FOUND.get((case, mode), {"y"})


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", SIZES)
def test_all_are_timed(case, capsys):
    shape = ",".join(f"{name}={number}" for name, number in SIZES[case].items())
    names = [name for name in CASES[case].peers if name != "torch_compiled"]
    arguments = ["run", case, "--shape", shape, "--peers", ",".join(names), "--rounds", "1", "--seconds", "0.02"]
    assert main([*arguments, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ours = CASES[case].shapes[0].ours
    assert [record["contender"] for record in records] == len(CASES[case].modes) * [*ours, *names]
    for record in records:
        installed = not peers.find(record["contender"]).lacking
        assert (record["status"], record["note"]) == ("measured", "") if installed else record["status"] == "missing"
