"""Trains on one device and on meshes of eight simulated ones, and writes what came of it as JSON; run by the tests."""

import json
import sys

import jaxnets

jaxnets.tune_cpu(devices=8)

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxnets import data, layers, models, ops, sharding, train  # noqa: E402

STEPS, ROWS, BATCH = 20, 64, 16
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "tensor": {"data": 1, "tensor": 8},
    "all": {"data": 2, "fsdp": 2, "tensor": 2},
}


class Dense(nn.Module):
    """A batch norm, whose statistics are those of the whole batch wherever it lies."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(64, use_bias=False)(x)))
        return nn.Dense(64)(x)


class Recurrent(nn.Module):
    """An LSTM over time, read at its end."""

    @nn.compact
    def __call__(self, x, *, train=False):
        y, _ = layers.LSTM(32)(x)
        return nn.Dense(64)(y[:, -1])


def problem(name):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 64, ROWS).astype(np.int32)
    if name == "language":
        x = rng.integers(0, 64, (ROWS, 9)).astype(np.int32)
        model = models.TransformerLM(vocabulary=64, features=32, depth=1, num_heads=8)
        return model, {"x": x[:, :-1], "y": x[:, 1:]}, lambda outputs, batch: ops.cross_entropy(outputs[0], batch["y"])
    shape = {"dense": (32,), "recurrent": (6, 32), "cnn": (28, 28, 1)}[name]
    model = {"dense": Dense(), "recurrent": Recurrent(), "cnn": models.SmallCNN(classes=64)}[name]
    x = rng.normal(size=(ROWS, *shape)).astype(np.float32)
    return model, {"x": x, "y": y}, lambda outputs, batch: ops.cross_entropy(outputs, batch["y"])


def swept(mesh):
    """Eight members, one to a device."""
    model, arrays, loss = problem("dense")
    source = data.DeviceData(arrays, BATCH, seed=0)
    state, step = train.make_sweep(
        model,
        lambda hyper: train.optimizer("momentum", hyper["rate"]),
        loss,
        source.batch(source.order(0), 0),
        keys=jax.random.split(jax.random.key(0), 8),
        hyper={"rate": np.geomspace(0.01, 0.1, 8)},
        mesh=mesh,
    )
    return fitted(state, step, source)


def trained(name, mesh, host):
    if name == "sweep":
        return swept(mesh)
    model, arrays, loss = problem(name)
    optimizer = train.optimizer("momentum", 0.05)
    resident = data.DeviceData(arrays, BATCH, seed=0)
    source = resident
    if host:
        orders = [np.asarray(resident.order(epoch)) for epoch in range(STEPS * BATCH // ROWS)]
        rows = np.concatenate(orders).reshape(-1, BATCH)
        source = [{key: array[each] for key, array in arrays.items()} for each in rows]
    state = train.create(model, optimizer, resident.batch(resident.order(0), 0), key=jax.random.key(0), ema=0.9)
    if mesh is not None:
        state, source = sharding.place_state(state, mesh), sharding.place_data(source, mesh)
    return fitted(state, train.make_step(model, optimizer, loss, ema=0.9), source)


def fitted(state, step, source):
    placed = {path: leaf.sharding for path, leaf in train.paths.flatten(state).items()}
    losses = []
    callbacks = [train.every(1, lambda step, state, metrics: losses.append(np.array(metrics["loss"]).tolist()))]
    state, _ = train.fit(state, step, source, steps=STEPS, callbacks=callbacks)
    after = train.paths.flatten(state)
    return {
        "losses": losses,
        "moved": [path for path, leaf in after.items() if not leaf.sharding.is_equivalent_to(placed[path], leaf.ndim)],
        "parts": {path: leaf.size // max(1, leaf.addressable_shards[0].data.size) for path, leaf in after.items()},
    }


if __name__ == "__main__":
    results = {}
    for name in sys.argv[1].split(","):
        for kind in ("none", *sys.argv[2].split(",")):
            mesh = None if kind == "none" else sharding.make_mesh(**MESHES[kind])
            results[f"{name} {kind}"] = trained(name, mesh, host=kind == "all")
    sys.stdout.write(json.dumps(results))
