"""Trains as one of several processes on this machine, and writes what came of it as JSON; run by the tests.

python tests/on_processes.py FOLDER PORT PROCESSES INDEX KIND [FAULT], the kind being data, fsdp, or resident, which has
the data on the devices and many steps in one program.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import time

import flax.linen as nn
import jax
import numpy as np
from jax._src.lib import _jax

from jaxnets import data, ops, sharding, train
from jaxnets.train.processes import fetched

STEPS, ROWS, BATCH, CLASSES = 16, 64, 16, 8


class Model(nn.Module):
    """Draws numbers and keeps statistics, those of the whole batch wherever it lies."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x)))
        return nn.Dense(CLASSES)(nn.Dropout(0.2, deterministic=not train)(x))


class Batches:
    """The same batches in every process; which rows of them are its own is for the mesh to say."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.y = rng.integers(0, CLASSES, ROWS).astype(np.int32)
        self.x = (rng.normal(size=(ROWS, 32)) + 3 * np.eye(CLASSES, 32)[self.y]).astype(np.float32)
        self.step = 0

    def seek(self, step):
        self.step = step

    def __iter__(self):
        while True:
            rows = np.random.default_rng(self.step).permutation(ROWS)[:BATCH]
            self.step += 1
            yield {"x": self.x[rows], "y": self.y[rows]}


def digest(state):
    """A hash of every bit of a state, wherever it lies."""
    total = hashlib.sha256()
    for path, leaf in train.paths.flatten(state).items():
        whole = jax.random.key_data(leaf) if path == "key" else leaf
        total.update(path.encode() + np.ascontiguousarray(fetched(whole)).tobytes())
    return total.hexdigest()


def trained(folder, kind, count, fault):
    batches, losses = Batches(), {}
    mesh = sharding.make_mesh(**({"data": 1, "fsdp": count} if kind == "fsdp" else {}))
    optimizer = train.optimizer("adam", 1e-2)
    loss = lambda logits, batch: ops.cross_entropy(logits, batch["y"])  # noqa: E731
    step = train.make_step(Model(), optimizer, loss, ema=0.9)
    state = train.create(Model(), optimizer, next(iter(batches)), key=jax.random.key(0), ema=0.9)
    state = sharding.place_state(state, mesh)
    source = data.DeviceData({"x": batches.x, "y": batches.y}, BATCH, seed=0) if kind == "resident" else batches

    def watch(step, state, metrics):
        losses[step] = metrics["loss"]
        sys.stderr.write(f"step {step}\n")
        if fault == "slow":
            time.sleep(0.2)
        if fault == "busy" and step == 10:
            time.sleep(60)
        if fault == "raises" and step == 10:
            raise RuntimeError("this process fails")

    fingerprint = None if fault == "unchecked" else {"seed": 0, "batch_size": BATCH}
    with train.Checkpoints(folder, fingerprint=fingerprint) as checkpoints:
        begun = 0
        if found := checkpoints.restore(state):
            state, begun = found[0], int(found[0].step)
        source = sharding.place_data(source, mesh, whole=True)
        callbacks = [train.every(4, checkpoints), train.every(4 if kind == "resident" else 1, watch)]
        state, _ = train.fit(state, step, source, steps=STEPS, callbacks=callbacks)
    cut = [path for path, leaf in train.paths.flatten(state).items() if not leaf.is_fully_replicated]
    return {"losses": losses, "digest": digest(state), "begun": begun, "cut": cut}


if __name__ == "__main__":
    folder, port, count, index, kind, *fault = sys.argv[1:]
    # The sums of a CPU go over the address of the host's name, where nothing says otherwise.
    _jax.make_gloo_tcp_collectives = functools.partial(_jax.make_gloo_tcp_collectives, hostname="127.0.0.1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    together = train.joined(f"127.0.0.1:{port}", int(count), int(index))
    with together if int(count) > 1 else contextlib.nullcontext():
        sys.stdout.write(json.dumps(trained(folder, kind, int(count), *(fault or [None]))))
        sys.stdout.flush()
