"""How fast the machine multiplies matrices: what the work of a step is held against.

`python -m benchmarks.peak` prints it, in single precision and operations a second.
"""

import functools
import subprocess
import sys
import time

from benchmarks.case import Device
from benchmarks.remote import environment


@functools.cache
def matmul_flops(device: Device) -> float:
    """Operations a second of one large product, the best of several; measured once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peak"]
    return float(subprocess.run(command, env=environment(device), capture_output=True, text=True, check=True).stdout)


def _measured(rounds: int = 10) -> float:
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    product, a = jax.jit(jnp.matmul), jnp.ones((size, size), jnp.float32)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


if __name__ == "__main__":
    print(_measured())
