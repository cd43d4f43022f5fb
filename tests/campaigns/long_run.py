"""A long training of a tiny model with many checkpoints: memory, threads, open files and programs stay as they were.

    python -m tests.campaigns.long_run

Reads what Linux tells of the process in /proc. What is compared is each moment after the warm-up, a fifth of the run,
with the end of that; the memory is the process's own, without what it shares with files. It calls `tune_cpu`, as the
trainers do: without, each of the many heaps of glibc grows to the largest use that ever fell to its threads, by 1.9 to
2 % in all, though what is in use stays the same.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxnets import data, layers, models, ops, train, tune_cpu

ROWS, BATCH, TIME, FEATURES, CLASSES = 512, 16, 8, 4, 3


class Moment(NamedTuple):
    """What the process holds."""

    megabytes: float
    threads: int
    files: int
    compilations: int


def campaign(steps, checkpoints):
    """Trains; gives a sentence, and whether all was as it should be."""
    rng, moments, begun = np.random.default_rng(0), [], time.monotonic()
    x = rng.normal(size=(ROWS, TIME, FEATURES)).astype(np.float32)
    source = data.DeviceData({"x": x, "y": rng.integers(0, CLASSES, ROWS).astype(np.int32)}, BATCH, seed=0)
    model = models.SequenceClassifier(layers.LSTM(features=16), outputs=CLASSES, dropout=0.1)
    optimizer = train.optimizer("adam", 0.001)
    step = train.make_step(model, optimizer, lambda y, batch: ops.cross_entropy(y, batch["y"]), ema=0.99)
    state = train.create(model, optimizer, {"x": x[:BATCH]}, key=jax.random.key(0), ema=0.99)

    with (
        tempfile.TemporaryDirectory() as folder,
        train.Checkpoints(folder, report=sys.exit) as saves,
        train.progress(steps) as show,
        train.CompileLedger() as ledger,
    ):
        each = steps // checkpoints
        lines = train.JsonLines(Path(folder, "metrics.jsonl"))

        def look(*_):
            saves.wait()  # a save under way has threads and files of its own
            moments.append(settled(ledger, moments[-1].threads if moments else 0))

        callbacks = [show, *(train.every(each, callback) for callback in (saves, lines, look))]
        train.fit(state, step, source, steps=steps, callbacks=callbacks)
        programs = sum(entry.name == "jit(_many_steps)" for entry in ledger.entries)

    warm, later = moments[len(moments) // 5], moments[len(moments) // 5 :]
    most = Moment(*map(max, zip(*later, strict=True)))
    growth = most.megabytes / warm.megabytes - 1
    good = programs == 1 and growth < 0.02 and most[1:] == warm[1:]
    return (
        f"{steps} steps with {len(moments)} checkpoints: memory {warm.megabytes:.1f} MB after the warm-up and at most "
        f"{most.megabytes:.1f} MB later ({growth:+.2%}), threads {warm.threads} and {most.threads}, open files "
        f"{warm.files} and {most.files}, compilations {warm.compilations} and {most.compilations}, of the training "
        f"program {programs}; {time.monotonic() - begun:.0f} s"
    ), good


def settled(ledger, threads, seconds=2):
    """What this process holds once it has no more threads than before: one that is done takes a moment to end."""
    until = time.monotonic() + seconds
    while (now := moment(ledger)).threads > threads and time.monotonic() < until:
        time.sleep(0.01)
    return now


def moment(ledger):
    """What this process holds now."""
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    megabytes = (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6
    names = [thread_name(thread) for thread in os.listdir("/proc/self/task")]
    # TensorStore's pool has as many threads as it has had work of late.
    threads = sum(name is not None and not name.startswith("ts_pool") for name in names)
    return Moment(megabytes, threads, len(os.listdir("/proc/self/fd")), len(ledger.entries))


def thread_name(thread):
    """The name of a thread of this process, None if it ended since it was listed."""
    try:
        return Path("/proc/self/task", thread, "comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None


if __name__ == "__main__":
    tune_cpu()
    sentence, good = campaign(10_000, 100)
    print(sentence)
    sys.exit(not good)
