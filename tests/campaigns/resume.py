"""Stops runs at every step by SIGTERM and goes on in another process: the same bits as a run that nothing stopped.

    python -m tests.campaigns.resume

Process n goes on with the runs that the one before it stopped, and begins those that are stopped after n + 1 steps; the
first also runs without a stop. What is compared is a hash of the whole state.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from jaxnets import data, layers, models, ops, train
from tests.campaigns import made

ROOT = Path(__file__).parents[2]
ROWS, BATCH, TIME, FEATURES, CLASSES = 20, 6, 5, 4, 3
WAYS = {"plain": {}, "accumulation": {"accumulate": 3}, "EMA": {"ema": 0.9}}


class Convolutional(nn.Module):
    """A convolution, statistics of batches, and dropout."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(layers.Conv(4, (3, 3))(x[..., None])))
        return nn.Dense(CLASSES)(nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2))))


def model(name):
    """A small network, with dropout."""
    layer = {
        "LSTM": lambda: layers.LSTM(features=8),
        "GRU": lambda: layers.GRU(features=8),
        "attention": lambda: layers.SelfAttention(features=FEATURES, num_heads=2),
    }
    return Convolutional() if name == "CNN" else models.SequenceClassifier(layer[name](), outputs=CLASSES, dropout=0.2)


MODELS = ("CNN", "LSTM", "GRU", "attention")


def run(name, way, steps, *, folder=None, stop=None):
    """Trains; stopped after so many steps, or else the hash of the last state is given."""
    rng, options = np.random.default_rng(0), WAYS[way]
    x = rng.normal(size=(ROWS, TIME, FEATURES)).astype(np.float32)
    source = data.DeviceData({"x": x, "y": rng.integers(0, CLASSES, ROWS).astype(np.int32)}, BATCH, seed=1)
    network, optimizer = model(name), train.optimizer("adamw", 0.01, schedule="cosine", steps=steps)
    step = train.make_step(network, optimizer, lambda y, batch: ops.cross_entropy(y, batch["y"]), **options)
    kept = {"ema": options.get("ema")}
    state = train.create(network, optimizer, {"x": x[:BATCH]}, key=jax.random.key(0), **kept)
    if folder is None:
        return digest(train.fit(state, step, source, steps=steps)[0])

    with train.Checkpoints(folder, report=sys.exit) as checkpoints:
        if stop is None:
            state, _ = checkpoints.restore(state)
            assert checkpoints.steps() == [state.step] == [int(folder.name)]
            return digest(train.fit(state, step, source, steps=steps)[0])
        terminate = train.every(stop, lambda *_: signal.raise_signal(signal.SIGTERM))
        try:
            train.fit(state, step, source, steps=steps, callbacks=[train.every(steps, checkpoints), terminate])
        except train.Terminated:
            return None
    raise AssertionError(f"{name}, {way}: was not stopped after {stop} steps")


def digest(state):
    """A hash of every bit."""
    return hashlib.sha256(repr(sorted(made.bits(state).items())).encode()).hexdigest()


def process(folder, cases, steps, n):
    """What process n does; prints the hashes of the runs that it ended."""
    hashes = {}
    for name, way in cases:
        here = Path(folder, name, way)
        hashes[f"{name} {way}"] = run(name, way, steps, folder=here / str(n) if n else None)
        if n + 1 < steps:
            run(name, way, steps, folder=here / str(n + 1), stop=n + 1)
    print(json.dumps(hashes))


def campaign(names=MODELS, ways=tuple(WAYS), *, steps=6):
    """Runs the processes; gives a sentence, and the runs that ended in other bits."""
    begun, cases, hashes = time.monotonic(), [*itertools.product(names, ways)], []
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        env = {"JAX_PLATFORMS": "cpu", **cache, **os.environ}
        for n in range(steps):
            task = json.dumps([folder, cases, steps, n])
            command = [sys.executable, "-m", "tests.campaigns.resume", task]
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"process {n} ended with code {done.returncode}: {done.stderr}")
            hashes.append(json.loads(done.stdout))
    whole, *resumed = hashes
    others = [
        f"{run}, stopped after step {n}"
        for n, ends in enumerate(resumed, 1)
        for run in whole
        if ends[run] != whole[run]
    ]
    assert len(set(whole.values())) == len(cases), f"runs that should differ end in the same bits: {whole}"
    stops = len(resumed) * len(cases)
    return (
        f"{stops - len(others)} of {stops} runs of {steps} steps, stopped and gone on with in another process, end in "
        f"the bits of the run without a stop: {len(names)} models x {len(ways)} ways x {len(resumed)} stops; "
        f"{time.monotonic() - begun:.0f} s"
    ), others


if __name__ == "__main__":
    if sys.argv[1:]:
        process(*json.loads(sys.argv[1]))
    else:
        sentence, others = campaign()
        print("\n".join([sentence, *others]))
        sys.exit(bool(others))
