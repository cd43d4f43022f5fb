"""Laws x layers, the README's table, from a record of what a run of the tests checked.

JAXNETS_TESTS_LAWS=laws.jsonl python -m pytest -n 2 -m "" -k law tests/layers tests/models
python -m tests.laws laws.jsonl
"""

import contextlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxnets import layers, models, testing

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- laws x layers -->\n", "<!-- end of laws x layers -->\n"
# A layer that cannot be handed a carry, or packed rows, is checked to refuse them; the law itself then has not run.
NEEDED = {"chunks": "carry", "packing": "starts"}
MARKS = {"held": "✅", "broken": "❌", "refused": "raises", "": ""}


def sequence_layers() -> list[str]:
    """The names of all public layers and models that keep the sequence contract, by a call or by their decoder."""
    return [name for part in (layers, models) for name in part.__all__ if _is_over_time(getattr(part, name))]


def _is_over_time(kind: Any) -> bool:
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
        return False
    calls = (getattr(kind, name, None) for name in ("__call__", "decode"))
    return hasattr(kind, "initial_carry") or any(
        "carry" in inspect.signature(call).parameters for call in calls if call
    )


@contextlib.contextmanager
def recorded(path: str) -> Iterator[None]:
    """Adds a line to a file for each check of a layer of the library, until it ends."""
    check = testing.check_sequence_layer

    def checked(layer: nn.Module, *spec: Any, laws: Sequence[str] = testing.LAWS, **options: Any) -> None:
        broken = laws = tuple(laws)
        try:
            check(layer, *spec, laws=laws, **options)
            broken = ()
        except testing.LawError as error:
            broken = error.laws
            raise
        finally:
            if name := _name(layer):
                can = {law: options.get(NEEDED.get(law), True) for law in laws}
                found = {law: "broken" if law in broken else "held" if can[law] else "refused" for law in laws}
                with open(path, "a") as file:
                    print(json.dumps({"layer": name, "laws": found}), file=file)

    testing.check_sequence_layer = checked
    try:
        yield
    finally:
        testing.check_sequence_layer = check


def _name(layer: Any) -> str | None:
    """The class of a layer of the library; of a test's wrapper, what it stands for, or the first such layer in it."""
    kind = getattr(layer, "stands_for", type(layer))
    if kind.__module__.startswith("jaxnets."):
        return kind.__name__
    parts = (value for value in vars(layer).values() if isinstance(value, nn.Module))
    return next(filter(None, map(_name, parts)), None)


def table(records: Sequence[dict[str, Any]]) -> str:
    """A row a layer, a column a law: green where the law ran on the layer, in every check of it, and held."""
    lines = ["| layer | " + " | ".join(law.replace("_", " ") for law in testing.LAWS) + " |"]
    lines.append("| --- |" + " :-: |" * len(testing.LAWS))
    for name in sequence_layers():
        found = [record["laws"] for record in records if record["layer"] == name]
        cells = [{laws[law] for laws in found if law in laws} for law in testing.LAWS]
        worst = [next((mark for mark in ("broken", "held", "refused") if mark in cell), "") for cell in cells]
        lines.append(f"| `{name}` | " + " | ".join(MARKS[mark] for mark in worst) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Writes the table of a record into the README, or with --check looks whether it stands there."""
    check = "--check" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--check"]
    if len(paths) != 1 or not paths[0].is_file():
        found = f"{paths[0]} is not a file" if paths else "no record given"
        return _fail(f"{found}: python -m tests.laws [--check] RECORD", 2)
    new = f"\n{table([json.loads(line) for line in paths[0].read_text().splitlines()])}\n"
    before, _, rest = README.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    if not check:
        README.write_text(before + BEGIN + new + END + after)
    elif old != new:
        return _fail(f"README.md's laws x layers is not what this run found, which is\n{new}", 1)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
