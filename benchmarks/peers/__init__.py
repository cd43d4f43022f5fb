"""The contenders by name: which module makes each, and what must be installed for it."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.case import Device


@dataclass(frozen=True)
class Peer:
    """A contender before it is started.

    Attributes:
      summary: What it is, in a few words.
      module: Where its functions are, one for each case: a module, or the path of a Python file.
      packages: What it is built on: looked for before it is started, and their versions recorded.
      options: Handed on in `Problem.options`.
      devices: Where it makes sense.
      beside: The one contender that it is compared with; "" for one that is compared with all.
      compiler: Whether it needs a C++ compiler.
    """

    summary: str
    module: str
    packages: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[Device, ...] = ("cpu", "gpu")
    beside: str = ""
    compiler: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is this library."""
        return self.module == "benchmarks.peers.jaxnets"

    @property
    def lacking(self) -> tuple[str, ...]:
        """What is not installed: packages, and the compiler where it needs one."""
        missing = tuple(name for name in self.packages if importlib.util.find_spec(name) is None)
        # As PyTorch chooses it.
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if self.compiler and shutil.which(compiler) is None:
            missing += (f"a C++ compiler ({compiler}, or what CXX names)",)
        return missing

    def load(self) -> ModuleType:
        """The module, imported; only ever in the contender's own process."""
        if not self.module.endswith(".py"):
            return importlib.import_module(self.module)
        spec = importlib.util.spec_from_file_location(Path(self.module).stem, self.module)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self.module} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


_JAX = ("jax", "jaxlib", "optax", "numpy")
_OURS = ("jaxnets", "flax", *_JAX)

PEERS: dict[str, Peer] = {
    "jaxnets": Peer("this library, jitted step", "benchmarks.peers.jaxnets", _OURS),
    "jaxnets_tuned": Peer(
        "the same after tune_cpu()", "benchmarks.peers.jaxnets", _OURS, options={"tuned": True}, devices=("cpu",)
    ),
    "jaxnets_lengths": Peer(
        "the same with lengths given", "benchmarks.peers.jaxnets", _OURS, options={"lengths": True}, beside="jaxnets"
    ),
    **{
        f"jaxnets_{name}": Peer(
            f"the same with implementation={name!r}",
            "benchmarks.peers.jaxnets",
            _OURS,
            options={"implementation": name},
            beside="jaxnets",
        )
        for name in ("xla", "im2col", "winograd", "newton", "sequential", "associative")
    },
    "jaxnets_cudnn": Peer(
        "the same with implementation='cudnn'",
        "benchmarks.peers.jaxnets",
        _OURS,
        options={"implementation": "cudnn"},
        devices=("gpu",),
    ),
    "jaxnets_diagonal": Peer(
        "the same with implementation=Newton('diagonal')",
        "benchmarks.peers.jaxnets",
        _OURS,
        options={"jacobian": "diagonal"},
        beside="jaxnets",
    ),
    "jaxnets_stepwise": Peer(
        "a plain scan of its single step",
        "benchmarks.peers.jaxnets",
        _OURS,
        options={"stepwise": True},
        beside="jaxnets",
    ),
    "jaxnets_separate": Peer(
        "the members of a sweep one after the other", "benchmarks.peers.jaxnets", _OURS, options={"separate": True}
    ),
    "jaxnets_bare": Peer(
        "its step in one compiled loop, nothing around", "benchmarks.peers.jaxnets", _OURS, options={"bare": True}
    ),
    "jaxnets_streaming": Peer(
        "`models.Writer`, a text as it comes",
        "benchmarks.peers.jaxnets",
        _OURS,
        options={"streaming": True},
        beside="jaxnets",
    ),
    "jaxnets_device": Peer(
        "data that lives on the device", "benchmarks.peers.jaxnets", _OURS, options={"device": True}
    ),
    **{
        f"jaxnets_{axis}": Peer(
            f"the same over simulated devices, axis {axis!r}",
            "benchmarks.peers.jaxnets",
            _OURS,
            options={"axis": axis},
            devices=("cpu",),
            beside="jaxnets",
        )
        for axis in ("data", "fsdp")
    },
    "flax": Peer("Flax Linen and Optax, jitted step", "benchmarks.peers.flax", ("flax", *_JAX)),
    "jax": Peer("jax.nn, jitted", "benchmarks.peers.jax_nn", ("jax", "jaxlib", "numpy")),
    "nnx": Peer("Flax NNX, split and jitted", "benchmarks.peers.nnx", ("flax", *_JAX)),
    "haiku": Peer("Haiku, jitted", "benchmarks.peers.haiku", ("haiku", "jax", "jaxlib", "numpy")),
    "equinox": Peer("Equinox, jitted", "benchmarks.peers.equinox", ("equinox", *_JAX)),
    "torch": Peer("PyTorch, eager", "benchmarks.peers.torch", ("torch", "numpy")),
    "torch_compiled": Peer(
        "PyTorch by torch.compile",
        "benchmarks.peers.torch",
        ("torch", "numpy"),
        options={"compiled": True},
        compiler=True,
    ),
    "grain": Peer("Grain, a MapDataset", "benchmarks.peers.grain", ("grain", "numpy")),
    "orbax": Peer(
        "Orbax, a CheckpointManager that waits",
        "benchmarks.peers.orbax",
        ("orbax.checkpoint", "jax", "numpy"),
    ),
    "orbax_async": Peer(
        "the same, writing in the background",
        "benchmarks.peers.orbax",
        ("orbax.checkpoint", "jax", "numpy"),
        options={"background": True},
    ),
    "keras": Peer(
        "Keras 3 on JAX, train_on_batch or stateless_call",
        "benchmarks.peers.keras",
        ("keras", "jax", "jaxlib", "numpy"),
    ),
}


def find(name: str) -> Peer:
    """The contender of that name, or of that file: `mine.py` holds a function for each case it can do.

    Raises:
      ValueError: If there is none.
    """
    if name in PEERS:
        return PEERS[name]
    if not name.endswith(".py"):
        raise ValueError(f"no peer {name!r}: there are {', '.join(PEERS)}, or a Python file of your own")
    if not Path(name).is_file():
        raise ValueError(f"no peer {name!r}: there is no such file")
    return Peer(f"the file {Path(name).name}", str(Path(name).resolve()), ())
