"""Texts written one after another, every token being read when it comes: what the contenders of generation share."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Problem


class Texts:
    """A contender that writes a whole text at each step, and reads its tokens as they come.

    Attributes:
      variant: How.
      compile_seconds: Not told: a prompt and a token are two programs.
      program_bytes: Not asked for.
    """

    compile_seconds = None
    program_bytes: Mapping[str, int] | None = None

    def __init__(self, write: Callable[[], np.ndarray], variant: str):
        """Writes nothing yet; `write` gives the tokens [batch, tokens]."""
        self._write, self.variant = write, variant

    def results(self) -> Arrays:
        """The tokens [batch, tokens]."""
        return {"y": self._write().astype(np.float32)}

    def run(self, steps: int) -> None:
        """Writes texts."""
        for _ in range(steps):
            self._write()


def looped(problem: Problem, first: Callable[[], Any], more: Callable[[Any, Any], Any]) -> Texts:
    """Token by token, in a loop of Python's.

    Args:
      problem: What to solve.
      first: Reads the prompt: gives the token [batch] that is the likeliest after it, and a carry.
      more: From a token and a carry to those that follow.
    """

    def write() -> np.ndarray:
        token, carry = first()
        text = [np.asarray(token)]
        while len(text) < problem.parameters["tokens"]:
            token, carry = more(token, carry)
            text.append(np.asarray(token))
        return np.stack(text, axis=1)

    return Texts(write, "a loop in Python")
