"""The process of one contender: commands come in on standard input, a line of JSON each, and answers go out likewise.

`python -m benchmarks.worker '{"case": ..., "parameters": ..., "peer": ..., "device": ...}'`; started by `remote.py`.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import numpy as np

from benchmarks import machine, peers
from benchmarks.case import Contender, Problem
from benchmarks.cases import CASES


class Worker:
    """Makes the contender of one case and runs it on command; each public method is a command."""

    def __init__(self, case: str, parameters: dict[str, int], peer: str, device: Any):
        self._peer = peers.find(peer)
        self._module = self._peer.load()
        if device == "gpu" and "jax" in self._peer.packages:
            _check_gpu()
        batch = CASES[case].batch(parameters)
        self._problem = Problem(case, parameters, batch, weights={}, device=device, options=self._peer.options)
        self._contender: Contender | None = None

    def load(self) -> dict[str, Any]:
        """Nothing more: the answer says that imports are done."""
        return {}

    def make_weights(self, path: str) -> dict[str, Any]:
        """Writes what every contender starts from."""
        np.savez(path, **self._module.weights(self._problem), allow_pickle=False)
        return {}

    def build(self, weights: str, mode: str) -> dict[str, Any]:
        """Makes and compiles the contender for a mode; that of an earlier mode goes."""
        name = CASES[self._problem.case].group or self._problem.case
        make = getattr(self._module, name, None)
        if make is None:
            raise ValueError(f"{self._module.__name__} has no function {name!r}")
        with np.load(weights) as arrays:
            problem = dataclasses.replace(self._problem, weights=dict(arrays), mode=mode)
        self._contender = None
        machine.reset_peak()
        self._contender = contender = make(problem)
        return {
            "differs": getattr(contender, "differs", ""),
            "variant": contender.variant,
            "compile_seconds": contender.compile_seconds,
            "program_bytes": contender.program_bytes,
            "versions": machine.versions(self._peer.packages),
        }

    def results(self, path: str) -> dict[str, Any]:
        """Writes what must agree."""
        np.savez(path, **self._built.results(), allow_pickle=False)
        return {}

    def run(self, steps: int) -> dict[str, Any]:
        """Takes steps; the seconds that count of all of them, those on the clock, and those of processor time."""
        start, used = time.perf_counter(), machine.own_seconds()
        counted = self._built.run(steps)
        elapsed = time.perf_counter() - start
        return {
            "seconds": elapsed if counted is None else counted,
            "elapsed_seconds": elapsed,
            "cpu_seconds": machine.own_seconds() - used,
        }

    def memory(self) -> dict[str, Any]:
        """The most memory since the contender was begun."""
        return {"peak_bytes": machine.peak_bytes()}

    @property
    def _built(self) -> Contender:
        assert self._contender is not None
        return self._contender


def _check_gpu() -> None:
    """Says what is wrong where JAX would fail without a word."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError("JAX cannot use the GPU: its CUDA plugin is not installed, or does not fit") from error


def serve(make: Callable[[], Worker], commands: Iterable[str], answers: TextIO) -> None:
    """Answers commands until there are no more; one that fails is answered with the reason."""
    worker: Worker | None = None
    for line in commands:
        command = json.loads(line)
        try:
            worker = worker or make()
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # What a library prints must not come between the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    arguments = json.loads(sys.argv[1])
    serve(lambda: Worker(**arguments), sys.stdin, channel)
