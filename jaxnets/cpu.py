"""What makes a CPU faster but touches the whole process, so that it is never done at import."""

import ctypes
import os
import sys
from collections.abc import Callable

# Parameters of glibc's mallopt, and the values it starts with.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_DEFAULTS = {_MMAP_THRESHOLD: 128 << 10, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 0}
_KEEP = {_MMAP_THRESHOLD: (1 << 31) - 1, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}


def tune_cpu(*, devices: int | None = None) -> Callable[[], None]:
    """Makes this process faster at large programs on a CPU. Opt-in, since it is process-wide.

    glibc gives the memory of large temporaries back to the system after each call, and the next call pays a page fault
    for every 4 KiB of them again. This keeps it, which tells where temporaries are tens of megabytes, at the price of
    the process holding on to its largest use of memory. Threads also share one heap a core, where glibc has eight, each
    of which would grow to the largest use that ever fell to its threads. Where there is no glibc nothing changes.

    Args:
      devices: How many CPU devices JAX shows, such as one for each core, to spread a batch over; None leaves it as it
        is. Before JAX's first computation only, and not reversible.

    Returns:
      A function that puts the allocator back to the values glibc starts with, but for the number of heaps, which glibc
      settles once and for all when threads first ask for more.

    Raises:
      RuntimeError: If `devices` is given after JAX was first used.

    >>> undo = tune_cpu()
    >>> undo()
    """
    if devices is not None:
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
    _set({**_KEEP, _ARENA_MAX: os.cpu_count() or 1})
    return lambda: _set(_DEFAULTS)


def _set(values: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in values.items():
            # Older versions take no threshold above 32 MiB.
            _ = mallopt(parameter, value) or mallopt(parameter, min(value, 32 << 20))
