"""SIGTERM to a trainer at several moments, and Ctrl-C outside `fit`: what it saves, and how soon it is gone.

python -m tests.campaigns.sigterm
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 5
MOMENTS = ("training", "compiling", "compiling first", "loading", "compiling outside")
SAVED = ("training", "compiling")
"""The moments when a step was taken, so that there is something to save."""


def terminated(folder, when, number):
    """Its exit code, how long it took, and what lies in its folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/terminated.py", folder, when]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = next(process.stderr)
        assert when in said, said + process.stderr.read()
        time.sleep(0.1 if when in ("training", "loading") else 1)  # a compiler takes a moment to get going
        process.send_signal(number)
        begun = time.monotonic()
        said += process.stderr.read()
        code = process.wait()
        assert "Traceback" not in said, said
        return code, time.monotonic() - begun, [path.name for path in Path(folder).glob("*")]


def check(folder, when, number=signal.SIGTERM):
    """The seconds it took; nothing is there to save before the first step, and nothing is left half written."""
    code, seconds, names = terminated(folder, when, number)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], code
    assert [int(name) >= 20 for name in names] == [True] * (when in SAVED), names
    return seconds


def main():
    """Prints the figures; an assertion that fails ends it."""
    for when, number in [*((when, signal.SIGTERM) for when in MOMENTS), ("loading", signal.SIGINT)]:
        with tempfile.TemporaryDirectory() as parent:
            seconds = check(Path(parent) / "run", when, number)
            assert seconds < SECONDS, (when, seconds)
            left = "the step taken saved" if when in SAVED else "nothing left behind"
            sys.stdout.write(f"{number.name} while {when}: gone after {seconds:.1f} s with its code, {left}\n")


if __name__ == "__main__":
    main()
