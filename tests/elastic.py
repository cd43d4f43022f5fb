"""Saves a state on meshes of 1, 2 and 8 simulated devices and restores each on all of them; run by the tests.

What came of it is written as JSON: by pair, whether every bit is the same, which leaves lie where they should not,
in how many parts the leaf cut most is, and the loss of a step taken from there.
"""

import functools
import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import data, sharding, train
from tests import on_mesh

MESHES = {"1": {"fsdp": 1}, "2": {"fsdp": 2}, "8": {"data": 2, "fsdp": 2, "tensor": 2}}
"""By the number of devices; `none` is a state on no mesh."""


def bits(state):
    """Every leaf's bytes by path."""
    plain = state.replace(key=jax.random.key_data(state.key))
    return {path: np.asarray(leaf).tobytes() for path, leaf in train.paths.flatten(plain).items()}


def as_shapes(state):
    """The state without its values, where each leaf is to lie."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def main():
    model, arrays, loss = on_mesh.problem("dense")
    optimizer = train.optimizer("adam", 1e-2)
    source = data.DeviceData(arrays, on_mesh.BATCH, seed=0)
    step = train.make_step(model, optimizer, loss, ema=0.9)

    batch = source.batch(source.order(0), 0)
    states = [train.create(model, optimizer, batch, key=jax.random.key(seed), ema=0.9) for seed in (0, 1)]
    placements = {"none": lambda state: state}
    sources = {"none": source}
    for name, sizes in MESHES.items():
        mesh = sharding.make_mesh(**{"data": 1, **sizes}, devices=jax.devices()[: int(name)])
        placements[name] = functools.partial(sharding.place_state, mesh=mesh)
        sources[name] = sharding.place_data(source, mesh)

    found = {}
    for before, place in placements.items():
        state, _ = train.fit(jax.tree.map(jnp.copy, place(states[0])), step, sources[before], steps=1, scan=False)
        saved = bits(state)
        with tempfile.TemporaryDirectory() as folder, train.Checkpoints(folder) as checkpoints:
            checkpoints.save(state)
            checkpoints.wait()
            for after in placements:
                template = placements[after](states[1])
                # The template's values are not used, so it may have none.
                restored, _ = train.Checkpoints(folder).restore(template if after == "none" else as_shapes(template))
                same = bits(restored) == saved != bits(template)
                leaves, wanted = map(train.paths.flatten, (restored, template))
                moved = [path for path, leaf in leaves.items() if leaf.sharding != wanted[path].sharding]
                parts = max(leaf.size // leaf.addressable_shards[0].data.size for leaf in leaves.values())
                _, metrics = train.fit(restored, step, sources[after], steps=2, scan=False)
                found[f"{before} to {after}"] = {"same": same, "moved": moved, "parts": parts, "loss": metrics["loss"]}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
