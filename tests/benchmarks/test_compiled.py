"""PyTorch compiled: the same results as ours, and a clear word where there is no compiler."""

import functools

import pytest

from benchmarks import measure, peers
from benchmarks.__main__ import main
from benchmarks.case import Problem
from benchmarks.cases import CASES

IMAGES = {"batch": 4, "size": 18, "channels": 1}
SIZES = {
    "pooling": {"batch": 2, "size": 5, "channels": 3},
    "convolution": {"batch": 2, "size": 5, "channels": 2, "features": 3},
    "attention": {"batch": 2, "time": 6, "heads": 2, "width": 4},
    "decode": {"batch": 2, "time": 6, "heads": 2, "width": 4},
    "transformer": {"batch": 2, "time": 5, "vocabulary": 7, "features": 4, "heads": 2, "depth": 1},
    "cnn": IMAGES,
}


def check(case, mode):
    case, size = CASES[case], SIZES[case]

    def results(name, weights):
        peer = peers.find(name)
        problem = Problem(case.name, size, case.batch(size), weights, options=peer.options, mode=mode)
        contender = getattr(peer.load(), case.name)(problem)
        return contender, contender.results()

    weights = peers.find("jaxnets").load().weights(Problem(case.name, size, case.batch(size), {}))
    _, wanted = results("jaxnets", weights)
    compiled, got = results("torch_compiled", weights)
    judged = measure._judged(case.agreement, wanted, got, "")
    assert (judged["status"], judged["note"]) == ("measured", "")
    assert compiled.compile_seconds > 0
    compiled.run(1)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.exhaustive if case != "decode" else ()) for case in SIZES],
)
def test_what_is_compiled_agrees(case, monkeypatch):
    torch = pytest.importorskip("torch")
    # Captured as it would be for a compiler, and run without one.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    check(case, CASES[case].modes[-1])


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_by_its_compiler_agrees(monkeypatch, tmp_path):
    if peers.find("torch_compiled").lacking:
        pytest.skip("there is no PyTorch, or no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    check("pooling", "forward")


def test_no_compiler_is_said(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "a C++ compiler (no-such-compiler, or what CXX names)" in peers.find("torch_compiled").lacking
    assert not any("compiler" in word for word in peers.find("torch").lacking)
    main(["list"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "torch_compiled" in line]
    assert [line.count("a C++ compiler (no-such-compiler, or what CXX names)") for line in lines] == [1]
