"""What the contenders of PyTorch share."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.case import Problem


def device_of(problem: Problem) -> torch.device:
    """The device, set up: every core, and single precision, as in the other contenders."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if problem.device == "gpu" else "cpu")


def compiled(problem: Problem, function: Any) -> Any:
    """A function or module by `torch.compile`, where the contender is that."""
    return torch.compile(function) if problem.options.get("compiled") else function


def first_seconds(problem: Problem, step: Callable[[], object]) -> float | None:
    """Seconds of the first step, where that is what compiles; None where nothing is compiled."""
    if not problem.options.get("compiled"):
        return None
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def trial(run: Callable[[int], None], seconds: float = 0.3) -> float:
    """Seconds of the fastest step in a short run, after a first step."""
    run(1)
    end, fastest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(1)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
