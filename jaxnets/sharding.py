"""Many devices: a mesh, rules for what lies where, and the placing of a state and its batches."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnets.train.paths import name
from jaxnets.train.processes import placed
from jaxnets.typing import Batch

Rules = Sequence[tuple[str, PartitionSpec]]
"""Regular expressions for paths, and how the leaf of the first that is found is cut."""

AXES = ("data", "fsdp", "tensor")
_ROWS = ("data", "fsdp")
_WHOLE = 1024
"""Leaves of fewer numbers are not worth cutting."""


def make_mesh(*, data: int | None = None, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh whose axes say how the work is shared; the compiler does the rest.

    The rows of a batch are shared out over `data` and `fsdp`. Each group of `data` devices holds the whole model; over
    `fsdp` the parameters and the optimizer are cut too, and brought together where they are used; over `tensor` the
    products themselves are cut.

    Args:
      data: Copies of the model; None for as many as there are devices left.
      fsdp: Devices that share a copy.
      tensor: Devices that share each product.
      devices: Which ones; by default all, of all processes.

    Raises:
      ValueError: If the numbers do not come to that of the devices.

    >>> dict(make_mesh(data=1).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if data is None:
        data = max(1, len(devices) // (fsdp * tensor))
    sizes = (data, fsdp, tensor)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ValueError(f"make_mesh: {asked} make {math.prod(sizes)} but there are {len(devices)} devices")
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def place_state(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Places a state, or any tree of arrays, on a mesh.

    A rule is looked for in a leaf's path, such as `params/Dense_0/kernel` or `opt_state/0/mu/Dense_0/kernel`, so one
    for a parameter holds for its moments and its average as well. A leaf without a rule is cut by itself: over
    `tensor` along its last axis where it is a kernel or an embedding, and over `fsdp` along the longest axis left that
    can be cut; small ones are whole everywhere.

    Args:
      state: From `create`, the same on every process.
      mesh: From `make_mesh`.
      rules: Pairs of a regular expression and a `PartitionSpec` of the mesh's axes.

    Returns:
      The same values, in buffers of their own.

    Raises:
      ValueError: If a rule cuts an axis that is not there or does not divide; names the path.
    """
    shardings = jax.tree.map_with_path(lambda path, leaf: _sharding(name(path), leaf.shape, mesh, rules), state)
    return jax.tree.map(placed, state, shardings)


def place_batch(batch: Batch, mesh: Mesh, *, whole: bool = False) -> Batch:
    """Places a batch from the host, its rows shared out over `data` and `fsdp`.

    With several processes each gives the rows of its own, and the batch is all of them in the order of the processes.

    Args:
      batch: Arrays [N, ...].
      mesh: From `make_mesh`.
      whole: Whether each process gives the whole batch instead, the same one, of which its own rows are taken: what is
        trained on then does not depend on how many processes there are.

    Raises:
      ValueError: If the rows do not divide.
    """
    sharding = NamedSharding(mesh, PartitionSpec(_ROWS))
    processes = 1 if whole else jax.process_count()
    shares = max(1, mesh.shape["data"] * mesh.shape["fsdp"] // processes)
    for path, leaf in jax.tree.leaves_with_path(batch):
        if len(leaf) % shares:
            raise ValueError(
                f"place_batch: {name(path)} has {len(leaf)} rows, which the {shares} shares of the mesh do not divide"
            )

    def shared_out(leaf: Any) -> jax.Array:
        rows = np.asarray(leaf)
        # Told that the local rows are all there are, JAX takes those of this process's devices.
        return jax.make_array_from_process_local_data(sharding, rows, rows.shape if whole else None)

    return jax.tree.map(shared_out, batch)


def place_data(data: Any, mesh: Mesh, *, whole: bool = False) -> Any:
    """Data for `fit` on a mesh: batches from the host are placed one by one, others cut where they are made.

    Data that lives on the device is whole on every device.

    Args:
      data: As `fit` takes it.
      mesh: From `make_mesh`.
      whole: As for `place_batch`.
    """
    if hasattr(data, "steps_per_epoch") and not jax.tree_util.all_leaves([data]):
        everywhere = NamedSharding(mesh, PartitionSpec())
        return _ResidentOnMesh(jax.tree.map(lambda leaf: placed(leaf, everywhere), data), mesh)
    return _StreamOnMesh(data, mesh, whole)


@jax.tree_util.register_pytree_node_class
class _ResidentOnMesh:
    """Device-resident data, each batch of which is shared out."""

    def __init__(self, data: Any, mesh: Mesh):
        self.data = data
        self.mesh = mesh

    @property
    def steps_per_epoch(self) -> int:
        return self.data.steps_per_epoch

    def order(self, epoch: Any) -> Any:
        return self.data.order(epoch)

    def batch(self, order: Any, i: Any) -> Batch:
        sharding = NamedSharding(self.mesh, PartitionSpec(_ROWS))
        return jax.lax.with_sharding_constraint(self.data.batch(order, i), sharding)

    def tree_flatten(self) -> tuple[tuple[Any], Mesh]:
        return (self.data,), self.mesh

    @classmethod
    def tree_unflatten(cls, mesh: Mesh, children: tuple[Any]) -> "_ResidentOnMesh":
        return cls(children[0], mesh)


@dataclasses.dataclass
class _StreamOnMesh:
    """Batches from the host, placed as they are asked for."""

    data: Any
    mesh: Mesh
    whole: bool

    def seek(self, step: int) -> None:
        if hasattr(self.data, "seek"):
            self.data.seek(step)

    def __iter__(self) -> Iterator[Batch]:
        return (place_batch(batch, self.mesh, whole=self.whole) for batch in self.data)


def _sharding(path: str, shape: tuple[int, ...], mesh: Any, rules: Rules) -> NamedSharding:
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), None)
    if spec is None:
        return NamedSharding(mesh, _own_spec(path, shape, mesh.shape))
    # A step's count and the like have the path of a parameter in some optimizers, but nothing to cut.
    if not shape:
        return NamedSharding(mesh, PartitionSpec())
    parts = [math.prod(mesh.shape[axis] for axis in _axes(entry)) for entry in spec]
    if len(parts) > len(shape) or any(size % part for size, part in zip(shape, parts, strict=False)):
        raise ValueError(
            f"place_state: {path} has shape {shape}, which {spec} does not divide on a mesh of {mesh.shape}"
        )
    return NamedSharding(mesh, spec)


def _own_spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    if math.prod(shape) < _WHOLE:
        return PartitionSpec()
    if path.endswith(("kernel", "embedding")) and shape[-1] % sizes["tensor"] == 0:
        axes[-1] = "tensor"
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % sizes["fsdp"] == 0]
    if free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)


def _axes(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
