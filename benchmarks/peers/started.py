"""Fresh interpreters: what the contenders of the import share."""

import subprocess
import sys

import numpy as np

from benchmarks.case import Arrays


class Started:
    """A contender that starts an interpreter at each step, which runs a line and ends.

    Attributes:
      variant: The line.
      compile_seconds: Nothing is compiled.
      program_bytes: Likewise.
    """

    compile_seconds = None
    program_bytes = None

    def __init__(self, line: str):
        """Starts nothing yet."""
        self.variant = line

    def results(self) -> Arrays:
        """The exit code."""
        return {"exit": np.array([float(self._start())])}

    def run(self, steps: int) -> None:
        """Starts interpreters one after another."""
        for _ in range(steps):
            self._start()

    def _start(self) -> int:
        return subprocess.run([sys.executable, "-c", self.variant], check=True).returncode
