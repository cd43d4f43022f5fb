"""A contender seen from outside: a process that is told what to do and then waits, idle."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.case import Case, Device, Shape

_PLATFORMS: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}


class ContenderError(ValueError):
    """A contender could not do what it was told, or its process has died."""


class Remote:
    """The process of one contender, ended at the end of the `with` block.

    Call it with a command of `worker.Worker` and its arguments; it waits for the answer.
    """

    def __init__(self, case: Case, shape: Shape, peer: str, device: Device):
        self.peer = peer
        arguments = {"case": case.name, "parameters": dict(shape.parameters), "peer": peer, "device": device}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(device),
            # Ctrl-C is for the one that measures, which then ends the contenders.
            start_new_session=True,
        )
        self._write({"do": "load"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def loaded(self) -> None:
        """Waits until its imports are done, which begin by themselves, those of several contenders at once.

        Raises:
          ContenderError: If they failed.
        """
        self._answer()

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Gives a command and waits for its answer.

        Raises:
          ContenderError: If it failed.
        """
        self._write({"do": do, **arguments})
        return self._answer()

    def _write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # Whoever has died is found out when its answer is missing.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(f"{self.peer} died with code {self._process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.peer}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process; it has nothing to save."""
        if not self._log.closed:
            self._process.kill()
            # Closes both pipes too.
            self._process.communicate()
            self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def environment(device: Device) -> dict[str, str]:
    """The environment variables of whatever runs on that device."""
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "JAX_PLATFORMS": _PLATFORMS[device],
        # A cache would make the compile time a matter of what ran before.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        # Several processes share the GPU, and single precision is meant.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        **({"JAX_DEFAULT_MATMUL_PRECISION": "highest"} if device == "gpu" else {}),
    }
