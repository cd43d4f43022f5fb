"""How fast the machine multiplies matrices and reads and writes its memory: what the work of a step is held against.

`python -m benchmarks.peak` prints both, in single precision.
"""

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.case import Device
from benchmarks.remote import environment


@functools.cache
def limits(device: Device) -> dict[str, float]:
    """The best of several, measured once, in a process of its own.

    Returns:
      `matmul_flops`, operations a second of one large product, and `memory_bandwidth`, the bytes that are read and
      written a second where 1 is added to an array that no cache holds.
    """
    command = [sys.executable, "-m", "benchmarks.peak"]
    done = subprocess.run(command, env=environment(device), capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measured(size: int, length: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    product, a = jax.jit(jnp.matmul), jnp.ones((size, size), jnp.float32)
    # In place, so that no page is new.
    more, array = jax.jit(lambda x: x + 1, donate_argnums=0), [jnp.ones(length, jnp.float32)]

    def add() -> None:
        array[0] = more(array[0]).block_until_ready()

    return {
        "matmul_flops": 2 * size**3 / _fastest(lambda: product(a, a).block_until_ready()),
        "memory_bandwidth": 2 * 4 * length / _fastest(add),
    }


def _fastest(run: Callable[[], object], rounds: int = 10) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    import jax

    print(json.dumps(_measured(*((2048, 1 << 26) if jax.default_backend() == "cpu" else (8192, 1 << 28)))))
