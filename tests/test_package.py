"""The package as a whole: its names, its version, and what an import brings in."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxnets as jn

ROOT = Path(__file__).parents[1]
EVERY_MODULE = """
import importlib, pkgutil, jaxnets
for module in pkgutil.walk_packages(jaxnets.__path__, "jaxnets."):
    importlib.import_module(module.name)
"""


def modules_after(code: str) -> set[str]:
    """The modules that a new process has after some code."""
    code += "\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout.decode().split()
    )


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("name", jn.__all__)
def test_every_name_is_there(name):
    assert getattr(jn, name) is not None
    assert name in dir(jn)


@pytest.mark.parametrize("name", ["data", "interpret", "layers", "models", "ops", "train"])
def test_every_name_of_a_subpackage_is_there(name):
    subpackage = importlib.import_module(f"jaxnets.{name}")
    assert len(set(subpackage.__all__)) == len(subpackage.__all__)
    assert [missing for missing in subpackage.__all__ if not hasattr(subpackage, missing)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'jaxnets' has no attribute 'nonsense'"):
        _ = jn.nonsense


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert jn.__version__ == project["version"]
    assert f"## [{jn.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_is_marked_as_typed():
    assert (Path(jn.__file__).parent / "py.typed").is_file()


def test_import_adds_only_its_own_modules_to_jax_and_flax():
    added = modules_after("import jax, flax, jaxnets") - modules_after("import jax, flax")
    assert {"jaxnets"} <= added <= {"jaxnets", "jaxnets.cpu"}


def test_subpackages_load_on_first_use():
    modules = modules_after("import jaxnets; jaxnets.ops.conv")
    assert "jaxnets.ops" in modules
    assert modules.isdisjoint({"jaxnets.layers", "jaxnets.train", "jaxnets.data", "flax"})


def test_no_module_imports_a_peer_or_an_extra():
    found = packages(modules_after(EVERY_MODULE))
    assert "jaxnets" in found
    assert found.isdisjoint({"torch", "keras", "tensorflow", "matplotlib", "sklearn", "PIL", "orbax"})
