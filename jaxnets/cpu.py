"""What makes a CPU faster but touches the whole process, so that it is never done at import."""

import ctypes
import sys
from collections.abc import Callable

# Parameters of glibc's mallopt, and the values it starts with.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_DEFAULTS = {_MMAP_THRESHOLD: 128 << 10, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 0}
_KEEP = {_MMAP_THRESHOLD: (1 << 31) - 1, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}


def tune_cpu(*, devices: int | None = None) -> Callable[[], None]:
    """Makes this process faster at large programs on a CPU. Opt-in, since it is process-wide.

    glibc gives the memory of large temporaries back to the system after each call, and the next call pays a page fault
    for every 4 KiB of them again. This keeps it, which tells where temporaries are tens of megabytes, at the price of
    the process holding on to its largest use of memory. Where there is no glibc nothing changes.

    Args:
      devices: How many CPU devices JAX shows, such as one for each core, to spread a batch over; None leaves it as it
        is. Before JAX's first computation only, and not reversible.

    Returns:
      A function that puts the allocator back to the values glibc starts with.

    Raises:
      RuntimeError: If `devices` is given after JAX was first used.

    >>> undo = tune_cpu()
    >>> undo()
    """
    if devices is not None:
        import jax

        jax.config.update("jax_num_cpu_devices", devices)
    _set(_KEEP)
    return lambda: _set(_DEFAULTS)


def _set(values: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in values.items():
            # Older versions take no threshold above 32 MiB.
            _ = mallopt(parameter, value) or mallopt(parameter, min(value, 32 << 20))
