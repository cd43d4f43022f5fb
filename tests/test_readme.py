"""The pages for readers: their Python runs, their commands are lines to paste, and their lists are whole."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jaxnets import testing
from tests import laws

ROOT = Path(__file__).parents[1]
README, COMING_FROM, EXAMPLES = (
    (ROOT / name).read_text() for name in ("README.md", "examples/COMING_FROM.md", "examples/README.md")
)
KERAS = "<!-- needs: keras -->\n"


def python(page):
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", python(README), ids=range(len(python(README))))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("name", ["train", "test"])
def test_command_is_one_line(name):
    block = re.search(rf"^<!-- ci: {name} -->\n```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1].count("\n") == 1


@pytest.mark.parametrize("library", ["Keras", "Flax"])
def test_coming_from(library):
    section = re.search(rf"^## From {library} .*?(?=^## |\Z)", COMING_FROM, flags=re.MULTILINE | re.DOTALL)[0]
    ours = section if KERAS not in section else section.partition(KERAS)[2].partition("\n```\n")[2]
    names = {"__name__": "coming_from"}
    assert python(ours)
    for code in python(ours):  # one goes on from the one before
        exec(compile(code, "COMING_FROM.md", "exec"), names)


def test_what_one_comes_from_in_keras():
    """In a process of its own, since Keras takes its backend when it is first imported."""
    if find_spec("keras") is None:
        pytest.skip("Keras is not installed: pip install -e '.[benchmarks]'")
    (code, *_) = python(COMING_FROM.partition(KERAS)[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_laws_x_layers_names_every_layer_and_every_law():
    table = README.partition(laws.BEGIN)[2].partition(laws.END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    assert rows[0] == ["layer", *(law.replace("_", " ") for law in testing.LAWS)]
    assert [row[0].strip("`") for row in rows[2:]] == laws.sequence_layers()
    assert {cell for row in rows[2:] for cell in row[1:]} <= set(laws.MARKS.values())


def test_laws_x_layers_is_green_only_where_a_law_ran_and_held():
    row = {"chunks": "refused", "padding": "held", "batch": "held"}
    table = laws.table([{"layer": "LSTM", "laws": row}, {"layer": "LSTM", "laws": {**row, "batch": "broken"}}])
    assert "| `LSTM` | raises | ✅ |  |  | ❌ |  |  |  |\n" in table
    assert table.count("✅") == 1


def test_laws_x_layers_wants_a_record(capsys):
    assert laws.main(["--check"]) == 2
    assert capsys.readouterr().err == "error: no record given: python -m tests.laws [--check] RECORD\n"


def test_the_list_of_examples_is_whole():
    files = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(set(re.findall(r"^\| \[(\w+\.py)\]\(\1\)", EXAMPLES, flags=re.MULTILINE))) == files


@pytest.mark.parametrize("page", ["README.md", "examples/README.md", "examples/COMING_FROM.md", "benchmarks/README.md"])
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
