"""Text token by token in a loop of Python's: what the contenders of generation share."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Problem


class Looped:
    """A contender that writes a whole text at each step, and reads every token when it comes.

    Attributes:
      variant: Always a loop.
      compile_seconds: Not told: a prompt and a token are two programs.
      program_bytes: Not asked for.
    """

    variant = "a loop in Python"
    compile_seconds = None
    program_bytes: Mapping[str, int] | None = None

    def __init__(self, problem: Problem, first: Callable[[], Any], more: Callable[[Any, Any], Any]):
        """Writes nothing yet.

        Args:
          problem: What to solve.
          first: Reads the prompt: gives the token [batch] that is the likeliest after it, and a carry.
          more: From a token and a carry to those that follow.
        """
        self._tokens, self._first, self._more = problem.parameters["tokens"], first, more

    def results(self) -> Arrays:
        """The tokens [batch, tokens]."""
        return {"y": self._text().astype(np.float32)}

    def run(self, steps: int) -> None:
        """Writes texts."""
        for _ in range(steps):
            self._text()

    def _text(self) -> np.ndarray:
        token, carry = self._first()
        text = [np.asarray(token)]
        while len(text) < self._tokens:
            token, carry = self._more(token, carry)
            text.append(np.asarray(token))
        return np.stack(text, axis=1)
