"""Weights alone, in a safetensors file that every framework reads."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.train.files import replacing
from jaxnets.train.paths import check_same, flatten

_DTYPES = {
    "BOOL": jnp.bool, "U8": jnp.uint8, "I8": jnp.int8, "U16": jnp.uint16, "I16": jnp.int16,
    "U32": jnp.uint32, "I32": jnp.int32, "U64": jnp.uint64, "I64": jnp.int64,
    "F16": jnp.float16, "BF16": jnp.bfloat16, "F32": jnp.float32, "F64": jnp.float64,
}  # fmt: skip

_DEPTH = 100
"""Of more levels no model is made; JAX goes down a tree by recursion."""


def save_weights(path: str | os.PathLike[str], variables: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes variables to a safetensors file, each array named by its path, such as `params/Dense_0/kernel`.

    Args:
      path: The file; an older one is replaced once the new one is whole.
      variables: A tree of arrays: `state.variables`, or the parameters alone.
      metadata: Text to keep in the file's head.

    Raises:
      ValueError: If two arrays have the same path.
      OSError: If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors writes the buffer as it lies in memory and forgets the strides.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten(variables).items()}
    with replacing(path) as part:
        try:
            save_file(arrays, part, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_weights(path: str | os.PathLike[str], template: Any = None) -> Any:
    """Reads what `save_weights` wrote.

    Args:
      path: The file.
      template: A tree of arrays or `jax.ShapeDtypeStruct` that the file must fit; None gives nested dicts as stored.

    Returns:
      The tree, on the default device.

    Raises:
      ValueError: If the file is damaged, or differs from the template; names the path, what was found and wanted.
      OSError: If the file cannot be read.
    """
    import safetensors

    try:
        entries = safetensors.deserialize(Path(path).read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"load_weights: {path} is not a whole safetensors file ({error}): put a good copy there"
        ) from error
    arrays = {name: _array(path, name, entry) for name, entry in entries}
    if template is None:
        return _nested(path, arrays)
    wanted = flatten(template)
    check_same(
        f"load_weights: {path}",
        {name: (array.shape, array.dtype) for name, array in arrays.items()},
        {name: (jnp.shape(leaf), jnp.result_type(leaf)) for name, leaf in wanted.items()},
    )
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.array(arrays[name]) for name in wanted])


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text in the head of a safetensors file.

    Raises:
      ValueError: If the file is damaged.
      OSError: If the file cannot be read.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"read_metadata: {path} is not a whole safetensors file ({error}): put a good copy there"
        ) from error


def _array(path: Any, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"load_weights: {path} holds {name} as {entry['dtype']}, choose from {', '.join(_DTYPES)}")
    return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _nested(path: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or leaf in node or len(folders) > _DEPTH:
            raise ValueError(f"load_weights: {path} holds {name[:200]}, which fits in no tree: put a good copy there")
        node[leaf] = jnp.array(array)
    return tree
