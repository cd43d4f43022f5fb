"""What a result depends on beside the code: the machine, the versions, and the memory a process has used."""

import contextlib
import importlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.case import Device


def hardware(device: Device) -> dict[str, Any]:
    """The processor, its cores that this process may use, the memory, the system, and the GPU where one is measured.

    Raises:
      ValueError: If a GPU is to be measured and there is none.
    """
    found: dict[str, Any] = {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }
    if device == "gpu":
        try:
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            raise ValueError("--device gpu: nvidia-smi finds no GPU on this machine") from error
    return found


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of packages, one of which may be a checkout that is not installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = importlib.import_module(name).__version__
    return found


def reset_peak() -> None:
    """Lets `peak_bytes` count from now on, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    peak = _field("/proc/self/status", "VmHWM")
    if peak is not None:
        return int(peak.split()[0]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def busy_seconds() -> float | None:
    """Processor time that all processes together have had, and what the host took; None where it cannot be known."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen, *_ = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor time that this process and those it started, as far as they have ended, have had."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def cores() -> int:
    """The cores of the machine, whether this process may use them or not."""
    return os.cpu_count() or 1


def _field(path: str, name: str) -> str | None:
    """A field of one of the kernel's files; None where there is no such file or field."""
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
