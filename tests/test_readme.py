"""The README: its Python runs, and its commands are lines to paste."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("name", ["train", "test"])
def test_command_is_one_line(name):
    block = re.search(rf"^<!-- ci: {name} -->\n```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1].count("\n") == 1
