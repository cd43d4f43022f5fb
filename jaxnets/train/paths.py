"""The leaves of a tree by the paths that name them, as they stand in files and in messages."""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves by path, such as `params/Dense_0/kernel`.

    Raises:
      ValueError: If two leaves have the same path, which names with a slash in them can bring about.

    >>> flatten({"params": {"bias": 1, "kernel": 2}})
    {'params/bias': 1, 'params/kernel': 2}
    """
    leaves = [(name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
    flat = dict(leaves)
    if len(flat) < len(leaves):
        raise ValueError(f"flatten: two leaves share a path, rename one of {sorted(path for path, _ in leaves)}")
    return flat


def name(path: Any) -> str:
    """A key path as a string."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def last(path: Any) -> str:
    """The last name of a key path."""
    return name(path[-1:])


def check_same(op: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError unless both have the same paths, shapes and dtypes; leaves are (shape, dtype) pairs.

    The message names the first difference, what was found and what was wanted.
    """
    differences = [
        *(f"lacks {path}, wanted {_shown(wanted[path])}" for path in wanted if path not in found),
        *(
            f"holds {path} {_shown(found[path])}, wanted {_shown(wanted[path])}"
            for path in wanted
            if path in found and found[path] != wanted[path]
        ),
        *(f"holds {path} {_shown(found[path])}, which is not wanted" for path in found if path not in wanted),
    ]
    if differences:
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise ValueError(f"{op} {differences[0]}{more}")


def _shown(leaf: Any) -> str:
    shape, dtype = leaf
    return f"{dtype}{list(shape)}"
