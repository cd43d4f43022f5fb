"""The folder of a run: its configuration, and where its files lie."""

import itertools
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.train.files import read_json, replacing


class Run:
    """A run folder, made or opened again.

    It holds `config.json`, and by convention `metrics.jsonl`, `checkpoints/`, `weights.safetensors` and pictures.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        may_change: Sequence[str] = ("steps",),
    ):
        """Makes the folder, or opens one of the same configuration.

        Args:
          directory: The folder.
          config: The configuration by field; must fit in JSON.
          may_change: Fields that may differ from an older config.json, and take the new value.

        Raises:
          ValueError: As `check_config` does.
          OSError: If the folder cannot be written, or is a file.
        """
        self.directory = Path(directory)
        self.config = json.loads(json.dumps(config))
        _check_no_file(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        there = (self.directory / "config.json").exists()
        if there:
            check_config(directory, self.config, may_change=may_change)
        self.notes: dict[str, Any] = read_config(directory).get("notes", {}) if there else {}
        self.note()

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def note(self, **values: Any) -> None:
        """Keeps values beside the configuration, such as how the steps were run; `run.notes` has them at a resume."""
        self.notes |= values
        with replacing(self / "config.json") as part:
            part.write_text(json.dumps({**self.config, "notes": self.notes}, indent=2) + "\n")


def read_config(
    directory: str | os.PathLike[str],
    *,
    fields: Sequence[str] | Mapping[str, Any] = (),
    choices: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """The configuration of a run folder, its notes under "notes".

    Args:
      directory: The folder.
      fields: What the configuration of the program's own runs holds, with the types where they are to be checked.
      choices: What some of these fields may be.

    Raises:
      OSError: If there is none, it cannot be read, or the folder is a file.
      ValueError: If it is damaged, lacks a field, or has one of another type or that is no choice.
    """
    _check_no_file(Path(directory))
    path = Path(directory) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a run folder: it has no config.json")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged (it holds no fields): put a good copy there")
    if missing := [name for name in fields if name not in config]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is no run of this program")
    for name, kind in fields.items() if isinstance(fields, Mapping) else ():
        if not isinstance(config[name], kind):
            raise ValueError(
                f"{path} has {name} {config[name]!r}, which is none of this program's: put a good copy there"
            )
    for name, known in (choices or {}).items():
        if not isinstance(config[name], str) or config[name] not in known:
            raise ValueError(f"{path} has {name} {config[name]!r}, wanted one of {', '.join(known)}")
    return config


def check_config(
    directory: str | os.PathLike[str], config: Mapping[str, Any], *, may_change: Sequence[str] = ("steps",)
) -> None:
    """Compares a configuration with the one that a run folder holds, and writes nothing.

    Raises:
      OSError: As `read_config` does.
      ValueError: If they differ in a field that may not change; names the fields, old values and new ones.
    """
    old, new, nothing = read_config(directory), json.loads(json.dumps(config)), object()
    old.pop("notes", None)
    differences = [
        f"{field} was {_shown(old.get(field, nothing), nothing)}, is now {_shown(new.get(field, nothing), nothing)}"
        for field in dict.fromkeys([*old, *new])
        if field not in may_change and old.get(field, nothing) != new.get(field, nothing)
    ]
    if differences:
        raise ValueError(
            f"{directory} is the run of another configuration: take back what differs, or name another folder: "
            f"{'; '.join(differences)}"
        )


def new_run(name: str | os.PathLike[str], *, parent: str | os.PathLike[str] = "runs") -> Path:
    """The first of parent/NAME, parent/NAME-2, parent/NAME-3, ... that is not there; of a path the last part counts.

    So it lies below the parent whatever the name is. Characters that cannot be seen become `_`.

    >>> new_run("../../etc/passwd", parent="/none").as_posix()
    '/none/passwd'
    """
    stem = Path(parent) / (_stem(name) or "run")
    numbered = (stem.with_name(f"{stem.name}-{i}") for i in itertools.count(2))
    return next(path for path in itertools.chain([stem], numbered) if not path.exists())


def newest_run(name: str | os.PathLike[str] = "", *, parent: str | os.PathLike[str] = "runs") -> Path | None:
    """The run below the parent that was begun or gone on with last; with a name, of those that `new_run` gave it."""
    stem = _stem(name) if name else ""
    runs = [config.parent for config in Path(parent).glob("*/config.json") if config.parent.name.startswith(stem)]
    return max(runs, key=lambda run: (run / "config.json").stat().st_mtime_ns, default=None)


def _stem(name: str | os.PathLike[str]) -> str:
    visible = "".join(character if character.isprintable() else "_" for character in os.fspath(name))
    return Path(visible).resolve().name


def _check_no_file(directory: Path) -> None:
    if "\0" in str(directory):
        raise ValueError(f"{str(directory)!r} is no name of a folder: leave the null character out")
    if directory.is_file():
        raise NotADirectoryError(f"{directory} is a file, not a run folder")


def _shown(value: Any, nothing: object) -> str:
    return "not there" if value is nothing else json.dumps(value)
