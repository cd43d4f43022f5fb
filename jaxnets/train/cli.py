"""The command line that every trainer shares: commands from dataclasses, mistakes told in one line."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from jaxnets.train.guard import DivergedError
from jaxnets.train.interruption import TERMINATED, Terminated, terminable
from jaxnets.train.logging import to_json


class Command(Protocol):
    """A dataclass whose fields are the options and whose call is the command."""

    debug: bool

    def __call__(self) -> None:
        """Does the work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options that every command of a trainer has."""

    json: bool = False
    """Print one line of JSON on standard output."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choosing(Options):
    """The options that say which weights a training ends with, and when it ends."""

    keep: Literal["last", "best"] | None = None
    """The weights that the run ends with: the last, or those of the checkpoint that did best on the validation data. By
    default the last, with --patience the best."""
    patience: int | None = None
    """End once so many steps did no better on the validation data, which is looked at at every checkpoint. By default
    all --steps are taken."""


def main(commands: Mapping[str, Callable[..., Command]], arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the command it names, and gives the exit code.

    Bad input (`ValueError`, `TypeError`, `OSError`, a missing package), too little memory and a run that diverged end
    in one line on standard error and code 2; `--debug` lets the traceback through. Ctrl-C gives 130 and SIGTERM 143,
    in one line too: `fit` saves first, and elsewhere nothing is left half written.

    Args:
      commands: Dataclasses by the command's name.
      arguments: Of the command line; None means `sys.argv`.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Greet:
    ...     name: str = "you"
    ...     debug: bool = False
    ...     def __call__(self):
    ...         print("Hello", self.name)
    >>> main({"greet": Greet, "part": Greet}, ["greet", "--name", "Ada"])
    Hello Ada
    0
    """
    command: Any = None
    try:
        with terminable():
            command = _parse(commands, arguments)
            if isinstance(command, int):
                return command
            command()
    except KeyboardInterrupt as interruption:
        return _fail(str(interruption) or "interrupted", TERMINATED if isinstance(interruption, Terminated) else 130)
    except (ValueError, TypeError, OSError, ImportError, MemoryError, DivergedError) as error:
        if getattr(command, "debug", True):
            raise
        return _fail(f"error: {' '.join(str(error).split()) or type(error).__name__}", 2)
    return 0


def resolved(
    command: Any,
    defaults: Mapping[str, Any],
    old: Mapping[str, Any],
    *,
    counts: Sequence[str] = ("steps", "batch_size", "checkpoint_every"),
) -> Any:
    """The command `train` with a value for every option: the one given, else that of the run resumed, else a default.

    Unless they are there, `schedule_steps` becomes `steps`, `checkpoint_every` a tenth of them, and `keep`, where the
    command has it, "last", or "best" where there is a `patience`.

    Args:
      command: A dataclass, whose options are None where they were not given.
      defaults: Values by option.
      old: The configuration of the run that is gone on with; empty for a new one.
      counts: Options that want to be 1 or more.

    Raises:
      ValueError: If one of the counts is less.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Train:
    ...     steps: int | None = None
    ...     schedule_steps: int | None = None
    ...     checkpoint_every: int | None = None
    ...     seed: int | None = None
    >>> resolved(Train(steps=50), {"steps": 20, "seed": 0}, {"seed": 3}, counts=("steps", "checkpoint_every"))
    Train(steps=50, schedule_steps=50, checkpoint_every=5, seed=3)
    """
    kept = {field.name: old[field.name] for field in dataclasses.fields(command) if field.name in old}
    given = {name: value for name, value in dataclasses.asdict(command).items() if value is not None}
    options = {**defaults, **kept, **given}
    options.setdefault("schedule_steps", options["steps"])
    options.setdefault("checkpoint_every", max(1, options["steps"] // 10))
    if hasattr(command, "keep"):
        options.setdefault("keep", "last" if options.get("patience") is None else "best")
    if min(options[name] for name in counts) < 1:
        *flags, last = (f"--{name.replace('_', '-')}" for name in counts)
        raise ValueError(f"train: {', '.join(flags)} and {last} want to be at least 1")
    return dataclasses.replace(command, **options)


def saved_options(command: Any) -> dict[str, Any]:
    """The options for config.json: all but those of where the run lies and of what is shown."""
    left_out = ("run", "resume", "json", "debug")
    return {name: value for name, value in dataclasses.asdict(command).items() if name not in left_out}


def tell(result: Mapping[str, Any], as_json: bool, words: str = "") -> None:
    """Writes a result to standard output: as one line of JSON, or a line for each part that holds metrics, and words.

    >>> tell({"test": {"accuracy": 0.5}, "steps": 9}, False, "run: here")
    test: accuracy 0.5000
    run: here
    """
    parts = {name: part for name, part in result.items() if isinstance(part, Mapping)}
    lines = [
        f"{name}: " + "  ".join(f"{metric} {value:.4f}" for metric, value in part.items())
        for name, part in parts.items()
    ]
    said = [to_json(result)] if as_json else [*lines, *(words.split("\n") if words else [])]
    sys.stdout.write("".join(_visible(line) + "\n" for line in said))


def tell_each(answers: Mapping[str, Any], as_json: bool, line: Callable[[str, Any], str] = "{} {}".format) -> None:
    """Writes answers to standard output: all as one line of JSON, or each in a line made of its name and itself.

    >>> tell_each({"a.png": "cat", "b.png": "dog"}, False)
    a.png cat
    b.png dog
    """
    said = [to_json(answers)] if as_json else [line(name, answer) for name, answer in answers.items()]
    sys.stdout.write("".join(_visible(words) + "\n" for words in said))


def say(words: str) -> None:
    """Writes a line to the person watching, on standard error; standard output is for results."""
    sys.stderr.write(_visible(words) + "\n")


def _parse(commands: Mapping[str, Callable[..., Command]], arguments: Sequence[str] | None) -> Any:
    """The command, or an exit code where there is none to run."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(dict(commands), args=arguments, use_underscores=False)
    except SystemExit as stop:
        # Help goes to standard output as it is; a mistake is a framed text of many lines.
        code = stop.code if isinstance(stop.code, int) else 2
        lines = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).splitlines()
        inside = [line.strip(" │─") for line in lines if not line.startswith(("╭", "╰"))]
        message = re.sub(r"Expected one of \(([^)]*)\)", _choices, " ".join(filter(None, inside)))
        return _fail(f"error: {message}", code) if code else 0


def _choices(listed: re.Match[str]) -> str:
    """The choices in order, which a set has not, without that of leaving the option out."""
    return "Expected one of " + ", ".join(sorted(set(re.findall("'([^']*)'", listed[1])) - {"None"}))


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def _visible(words: str) -> str:
    """A line as it can be shown: names of files may hold what ends a line, or tells a terminal what to do."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)
