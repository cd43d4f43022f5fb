"""Pooling, texts, loading, checkpoints, simulated devices and imports: every contender comes to what ours does."""

import functools
import json
import subprocess

import pytest

from benchmarks import measure, peers
from benchmarks.__main__ import main
from benchmarks.case import Problem
from benchmarks.cases import CASES
from benchmarks.peers import started

TEXT = {"batch": 2, "prompt": 3, "tokens": 4, "vocabulary": 7, "features": 8}
SIZES = {
    "pooling": {"batch": 2, "size": 5, "channels": 3},
    "lstm_generation": TEXT,
    "transformer_generation": {**TEXT, "heads": 2, "depth": 2},
    "loading": {"batch": 4, "rows": 12, "size": 2, "channels": 1},
    "checkpoint": {"features": 4, "layers": 2},
}


@functools.cache
def contender(case, name, mode):
    peer, size, case = peers.find(name), SIZES[case], CASES[case]
    problem = Problem(case.name, size, case.batch(size), {}, options=peer.options, mode=mode)
    weights = peers.find("jaxnets").load().weights(problem)
    problem = Problem(case.name, size, case.batch(size), weights, options=peer.options, mode=mode)
    return getattr(peer.load(), case.group or case.name)(problem)


@functools.cache
def results(case, name, mode):
    return contender(case, name, mode).results()


@pytest.mark.parametrize(
    ("case", "mode", "name"),
    [
        pytest.param(case, mode, name, marks=pytest.mark.exhaustive if case == "transformer_generation" else ())
        for case in SIZES
        for mode in CASES[case].modes
        for name in (*CASES[case].shapes[0].ours[1:], *CASES[case].peers)
        if name != "torch_compiled"
    ],
)
def test_agrees(case, mode, name):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    ours, theirs = results(case, "jaxnets", mode), results(case, name, mode)
    judged = measure._judged(CASES[case].agreement, ours, theirs, "")
    assert (judged["status"], judged["note"]) == ("measured", "")
    seconds = contender(case, name, mode).run(2)
    assert (seconds is None) == (case != "checkpoint")


def test_a_text_is_not_one_token_over_and_over():
    text = results("lstm_generation", "jaxnets", "forward")["y"]
    assert text.shape == (2, 4)
    assert len(set(text.ravel())) > 1


@pytest.mark.parametrize("name", [*CASES["import"].shapes[0].ours, *CASES["import"].peers])
def test_what_is_imported_is_there(name):
    if peers.find(name).lacking:
        pytest.skip(f"{name} is not installed")
    exec(peers.find(name).load().startup(None).variant)


def test_an_interpreter_is_started():
    assert started.Started("import json").results() == {"exit": [0.0]}
    with pytest.raises(subprocess.CalledProcessError):
        started.Started("raise SystemExit(3)").run(1)


@pytest.mark.exhaustive
def test_simulated_devices(capsys):
    shape = "batch=8,rows=8,features=8,hidden=64"
    assert main(["run", "sharding", "--shape", shape, "--rounds", "1", "--seconds", "0.02", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["contender"] for record in records] == ["jaxnets", "jaxnets_data", "jaxnets_fsdp"]
    assert {record["status"] for record in records} == {"measured"}
