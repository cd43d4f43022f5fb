"""An example as a user runs it: loaded from its file, called in an empty folder, and interrupted."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def as_users_do():
    """The environment of a process that compiles as users do; the tests compile quickly, to slower programs."""
    return {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def example(request):
    """The example that a test file is named for."""
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(example, capsys, tmp_path, monkeypatch):
    """Calls the example in an empty folder: (exit code, standard output, last line of standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        code = example.cli.main(example.COMMANDS, [*map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err.strip().splitlines()[-1] if said.err.strip() else ""

    return call


@pytest.fixture
def interrupted(example, tmp_path):
    """Calls it in a process of its own, with Ctrl-C once training has begun: (exit code, last line of errors)."""

    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
        command = [sys.executable, example.__file__, *arguments]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if line.startswith("step "):
                    break
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        return process.returncode, said.strip().splitlines()[-1]

    return call
