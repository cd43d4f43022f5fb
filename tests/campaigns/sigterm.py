"""SIGTERM to a trainer at several moments: what it saves, and how soon it is gone.

python -m tests.campaigns.sigterm
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxnets import train

ROOT = Path(__file__).parents[2]
SECONDS = 5
MOMENTS = ("training", "compiling", "compiling first")


def terminated(folder, when):
    """Its exit code, how long it took, and the steps of its checkpoints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/terminated.py", folder, when]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = next(process.stderr)
        assert when in said, said + process.stderr.read()
        time.sleep(0.1 if when == "training" else 1)  # a compiler takes a moment to get going
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        said += process.stderr.read()
        code = process.wait()
        return code, time.monotonic() - begun, train.Checkpoints(folder).steps()


def check(folder, when):
    """The seconds it took; nothing is there to save before the first step."""
    code, seconds, steps = terminated(folder, when)
    assert code == 143, code
    assert [step >= 20 for step in steps] == [True] * (when != "compiling first"), steps
    return seconds


def main():
    """Prints the figures; an assertion that fails ends it."""
    for when in MOMENTS:
        with tempfile.TemporaryDirectory() as folder:
            seconds = check(folder, when)
            assert seconds < SECONDS, (when, seconds)
            told = f"SIGTERM while {when}: gone after {seconds:.1f} s, code 143, saved where a step was taken"
            sys.stdout.write(told + "\n")


if __name__ == "__main__":
    main()
