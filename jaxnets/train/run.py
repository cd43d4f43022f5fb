"""The folder of a run: its configuration, and where its files lie."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.train.files import replacing


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
          ValueError: If the folder belongs to another configuration; names the fields, old values and new ones.
          OSError: If the folder cannot be written.
        """
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        config = json.loads(json.dumps(config))
        old = read_config(directory) if (self.directory / "config.json").exists() else None
        self.notes: dict[str, Any] = old.pop("notes", {}) if old is not None else {}
        if old is not None:
            _check_same(self.directory, old, config, may_change)
        self.config = config
        self.note()

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def note(self, **values: Any) -> None:
        """Keeps values beside the configuration, such as how the steps were run; `run.notes` has them at a resume."""
        self.notes |= values
        with replacing(self / "config.json") as part:
            part.write_text(json.dumps({**self.config, "notes": self.notes}, indent=2) + "\n")


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a run folder, its notes under "notes".

    Raises:
      OSError: If there is none, or it cannot be read.
      ValueError: If it is damaged.
    """
    path = Path(directory) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a run folder: it has no config.json")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: it holds no fields")
    return config


def _check_same(directory: Path, old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str]) -> None:
    nothing = object()
    differences = [
        f"{field} was {_shown(old.get(field, nothing), nothing)}, is now {_shown(new.get(field, nothing), nothing)}"
        for field in dict.fromkeys([*old, *new])
        if field not in may_change and old.get(field, nothing) != new.get(field, nothing)
    ]
    if differences:
        raise ValueError(f"{directory} is the run of another configuration: {'; '.join(differences)}")


def _shown(value: Any, nothing: object) -> str:
    return "not there" if value is nothing else json.dumps(value)
