"""SIGTERM to a trainer in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxnets import train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "when",
    [
        "training",
        pytest.param("compiling", marks=pytest.mark.exhaustive),
        pytest.param("compiling first", marks=pytest.mark.exhaustive),
    ],
)
def test_sigterm_saves_and_ends_within_seconds(tmp_path, when):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/terminated.py", tmp_path / "run", when]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = next(process.stderr)
        time.sleep(0.1 if when == "training" else 1)  # a compiler takes a moment to get going
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        said += process.stderr.read()
        code = process.wait()
        seconds = time.monotonic() - begun
    assert (code, when in said) == (143, True), said
    assert seconds < 5
    steps = train.Checkpoints(tmp_path / "run").steps()
    assert [step >= 20 for step in steps] == [True] * (when != "compiling first"), said


def test_the_descriptor_of_an_event_loop_is_left_alone(made):
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    before = signal.set_wakeup_fd(tells)
    try:
        train.fit(made.state(), made.step, made.data, steps=1)
        assert signal.set_wakeup_fd(before) == tells
    finally:
        os.close(hears)
        os.close(tells)
