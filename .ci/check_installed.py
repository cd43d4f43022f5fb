"""Checks jaxnets as installed from its wheel, without any extra: what it holds, what it imports and how fast."""

import importlib
import importlib.metadata
import pkgutil
import statistics
import subprocess
import sys
from pathlib import Path

import jaxnets

ALLOWED_SECONDS = 0.25  # five times what is promised: a shared machine is slow at times
TIMED = """
import time
import jax, flax
begun = time.perf_counter()
import jaxnets
print(time.perf_counter() - begun)
"""

if "site-packages" not in Path(jaxnets.__file__).parts:
    sys.exit(f"jaxnets was imported from {jaxnets.__file__}, not from the wheel")

distribution = importlib.metadata.distribution("jaxnets")
if distribution.version != jaxnets.__version__:
    sys.exit(f"the wheel is version {distribution.version}, the package {jaxnets.__version__}")
files = {str(file) for file in distribution.files or ()}
if "jaxnets/py.typed" not in files:
    sys.exit("the wheel lacks jaxnets/py.typed")
if strays := {file for file in files if not file.startswith(("jaxnets/", "jaxnets-"))}:
    sys.exit(f"the wheel holds what is not the package: {sorted(strays)[:5]}")

modules = [module.name for module in pkgutil.walk_packages(jaxnets.__path__, "jaxnets.")]
for module in modules:
    importlib.import_module(module)
if found := {"torch", "keras", "tensorflow"} & sys.modules.keys():
    sys.exit(f"importing jaxnets brings in {found}")

runs = [float(subprocess.check_output([sys.executable, "-c", TIMED])) for _ in range(5)]
seconds = statistics.median(runs)
print(f"jaxnets {jaxnets.__version__}: {len(modules)} modules import; {seconds * 1000:.1f} ms on top of JAX and Flax")
if seconds > ALLOWED_SECONDS:
    sys.exit(f"importing jaxnets takes {seconds:.3f} s on top of JAX and Flax")
