"""One real run at a tiny size, which several tests look at, and made-up records."""

import contextlib
import io
import json
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main

WRONG = """
import numpy as np

class Wrong:
    variant, compile_seconds, program_bytes = "", None, None

    def results(self):
        print("libraries print")
        return {"logits": np.zeros((4, 10), np.float32), "losses": np.ones(3)}

    def run(self, steps):
        raise AssertionError("was timed")

def cnn(problem):
    return Wrong()
"""
DYING = """
import os, sys

def cnn(problem):
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(3)
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """`run cnn` with every peer that is installed, a wrong one and one that dies."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "wrong.py").write_text(WRONG)
    (folder / "dying.py").write_text(DYING)
    peers = ["flax", *filter(find_spec, ("torch", "keras")), *(f"{folder}/{name}.py" for name in ("wrong", "dying"))]
    arguments = ["run", "cnn", "--peers", ",".join(peers), "--shape", "batch=4,size=18", "--json"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        # Compiles in half the time.
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--out", str(folder), "--rounds", "2", "--seconds", "0.02"])
    records = [json.loads(line) for line in printed.getvalue().splitlines()]
    return SimpleNamespace(code=stop.value.code, records=records, folder=folder)


@pytest.fixture
def make_record():
    """Makes the record of a contender of the case "cnn" with the given ratio of ours to it."""

    def make(contender="torch", ratio=0.5, shape="batch 32", ours="jaxnets", noisy=False, **fields):
        spread = {"min": 0.9 * ratio, "q1": 0.95 * ratio, "median": ratio, "q3": 1.1 * ratio, "max": 1.2 * ratio}
        return {
            "case": "cnn",
            "shape": shape,
            "mode": "",
            "parameters": {"batch": 32},
            "contender": contender,
            "device": "cpu",
            "hardware": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**34, "system": "a system"},
            "load": 0.0,
            "status": "measured",
            "note": "",
            "versions": {"python": "3.11", contender: "1.0"},
            "variant": "",
            "compile_seconds": None,
            "memory": {"program": None, "process_peak_bytes": 2**28},
            "agreement": {"tolerance": {"losses": 1e-4}, "deviation": {"losses": 0.0}},
            "times": {**spread, "rounds": [ratio] * 3, "steps_per_round": 1},
            "ratio": {ours: {**spread, "noisy": noisy}},
            "others": 0.0,
            "noisy": noisy,
        } | fields

    return make
