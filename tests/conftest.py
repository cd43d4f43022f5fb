"""What every test shares: a small machine's settings, and a figure window that never opens."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Both workers, and the processes that tests start, compile many of the same programs: once is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxnets-tests-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# As in pyproject.toml, for the processes that tests start.
os.environ.setdefault("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache entry:UserWarning")
# Compiling takes most of the time, and a third of it without the optimisations that make programs fast. What they
# might change is looked at where JAXNETS_TESTS_OPTIMISED is set, as in the later stages of CI.
if not os.environ.get("JAXNETS_TESTS_OPTIMISED"):
    # A program in one piece: by default it is cut into many, for more cores than two, at a quarter more work.
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # a newer one ends at an option it does not know
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
# A shell starts what it runs in the background with Ctrl-C ignored; the tests of interruption are about the rest.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax

# Tracing makes so many objects that looking for cycles among them, as often as by default, takes a tenth of the time.
gc.set_threshold(100_000)


@pytest.fixture
def strict_promotion():
    """Ops and layers never promote a dtype or a rank by accident."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """Runs a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="session")
def _laws_are_recorded():
    """Lists which laws were checked on which layer, where `JAXNETS_TESTS_LAWS` names a file: see `tests/laws.py`."""
    path = os.environ.get("JAXNETS_TESTS_LAWS")
    if not path:
        yield
        return
    from tests import laws  # not above: what checks shapes at run time must be in place before jaxnets is

    with laws.recorded(path):
        yield


def pytest_collection_modifyitems(items):
    """Begins with the laws, which take longest, and marks what the file in `JAXNETS_TESTS_LEFT` lists."""
    items.sort(key=lambda item: "laws" not in item.name)
    path = os.environ.get("JAXNETS_TESTS_LEFT")
    left = set(Path(path).read_text().splitlines()) if path else set()
    for item in items:
        # Which peers there are also changes benchmarks that were not skipped.
        if item.nodeid in left or (path and item.nodeid.startswith("tests/benchmarks/")):
            item.add_marker(pytest.mark.left)
    if lost := left - {item.nodeid for item in items}:
        raise pytest.UsageError(f"{path} lists what is no test: {', '.join(sorted(lost))}")


def pytest_runtest_logreport(report):
    """Lists what is skipped, where `JAXNETS_TESTS_SKIPPED` names a file: CI runs it once what was missing is there."""
    path = os.environ.get("JAXNETS_TESTS_SKIPPED")
    if path and report.skipped and not hasattr(report, "wasxfail") and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(path, "a") as file:
            print(report.nodeid, file=file)
