"""`tune_cpu`, each time in a process of its own."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = """
import ctypes
from jaxnets import tune_cpu

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]

def maps_large_blocks():
    # A block of 40 MB that is mapped on its own goes back to the system when it is freed. What is still held from
    # before would serve it otherwise.
    libc.malloc_trim(0)
    before = libc.mallinfo2().hblks
    block = libc.malloc(40_000_000)
    after = libc.mallinfo2().hblks
    libc.free(block)
    return after > before
"""


HEAPS = """
import ctypes, os, sys, tempfile, threading
from jaxnets import tune_cpu

libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]

def heaps(threads):
    # A thread that allocates while the others live takes a heap of its own if it may.
    meet = threading.Barrier(threads)
    def work():
        meet.wait()
        libc.malloc(100_000)
        meet.wait()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    with tempfile.NamedTemporaryFile() as told:
        file = libc.fopen(told.name.encode(), b"w")
        libc.malloc_info(0, file)
        libc.fclose(file)
        return told.read().count(b"<heap nr")
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 to look into"
)
def test_memory_is_kept_until_it_is_undone():
    uses = (
        "print(maps_large_blocks()); undo = tune_cpu(); print(maps_large_blocks()); undo(); print(maps_large_blocks())"
    )
    assert run(MAPPED + uses).split() == ["True", "False", "True"]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc to look into"
)
def test_threads_share_a_heap_for_each_core():
    uses = "print(heaps(4 * os.cpu_count()) > os.cpu_count() + 1)"
    assert run(HEAPS + uses).split() == ["True"]
    assert run(HEAPS + "tune_cpu();" + uses).split() == ["False"]


def test_devices_are_made_before_the_first_computation():
    code = "import jaxnets, jax; jaxnets.tune_cpu(devices=3); print(jax.device_count())"
    assert run(code).strip() == "3"


def test_devices_are_refused_after_the_first_computation():
    code = """
import jax, jaxnets
jax.device_count()
try:
    jaxnets.tune_cpu(devices=3)
except RuntimeError as error:
    print("refused")
"""
    assert run(code).strip() == "refused"
