"""What the batches of a run hang on, kept with its checkpoints: a run that goes on is to see the ones it would have."""

import json
from collections.abc import Mapping
from typing import Any

import jax


def whole_fingerprint(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint as JSON gives it back, with the number of processes, on which the rows of each hang.

    >>> whole_fingerprint({"seed": 0, "shape": (2, 3)})
    {'processes': 1, 'seed': 0, 'shape': [2, 3]}
    """
    return json.loads(json.dumps({"processes": jax.process_count(), **fingerprint}))


def check_fingerprint(op: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises ValueError unless both are the same; names all that differs, and what to do.

    Args:
      op: Who asks.
      before: As it was saved; None where nothing was.
      now: That of the run that is to go on.

    >>> check_fingerprint("restore: runs/a/8", {"seed": 0, "batch_size": 16}, {"seed": 0, "batch_size": 32})
    Traceback (most recent call last):
    ValueError: restore: runs/a/8 is of other batches: batch_size was 16, is now 32: take back what differs, or ...
    """
    before = before or {}
    told = [(name, *(_shown(each, name) for each in (before, now))) for name in dict.fromkeys([*before, *now])]
    differences = [f"{name} was {was}, is now {is_now}" for name, was, is_now in told if was != is_now]
    if differences:
        raise ValueError(
            f"{op} is of other batches: {'; '.join(differences)}: take back what differs, or leave the fingerprint out "
            "to go on without this check"
        )


def _shown(fingerprint: Mapping[str, Any], name: str) -> str:
    return json.dumps(fingerprint[name], sort_keys=True) if name in fingerprint else "not there"
