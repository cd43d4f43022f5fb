"""Functional neural networks for JAX: pure ops, thin Flax modules, one compiled step."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxnets.cpu import tune_cpu

if TYPE_CHECKING:
    from jaxnets import data, interpret, layers, models, ops, sharding, testing, train, typing

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "data",
    "interpret",
    "layers",
    "models",
    "ops",
    "sharding",
    "testing",
    "train",
    "tune_cpu",
    "typing",
]


def __getattr__(name: str) -> Any:
    # Subpackages load on first use: Optax, Orbax and rich cost nothing to whoever only wants an op.
    if name in __all__:
        return importlib.import_module(f"jaxnets.{name}")
    raise AttributeError(f"module 'jaxnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
