"""A trainer for a signal to end: at a step, while it compiles, or outside `fit`; run by the tests.

The moments outside are `loading` and `compiling outside`, when a file is half written.
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets import train
from jaxnets.train import cli
from jaxnets.train.files import replacing
from jaxnets.typing import Mean


def endless(x):
    """A program that takes minutes to compile."""
    return jax.lax.fori_loop(0, 20_000, lambda i, x: jnp.sin(x) + jnp.tanh(x * i), x, unroll=20_000)


class Line:
    """A model of one number, as Flax would have it."""

    def init(self, key, x, *, train):
        return {"params": {"slope": jax.random.normal(key)}}

    def apply(self, variables, x, *, train, rngs, mutable=False):
        y = variables["params"]["slope"] * x
        return (y, {}) if mutable is not False else y


@dataclasses.dataclass
class Train:
    """Trains for ever."""

    run: str
    when: str
    debug: bool = False

    def __call__(self):
        """Says where it is, and goes on."""
        if self.when in ("loading", "compiling outside"):
            self.write()
        batch = {"x": np.float32([1, 2]), "y": np.float32([3, 6])}
        loss = lambda y, batch: Mean(((y - batch["y"]) ** 2).sum(), jnp.float32(2))  # noqa: E731
        state = train.create(Line(), optax.sgd(1e-3), batch, key=jax.random.key(0))

        def endless_loss(y, batch):
            cli.say(self.when)  # when it is traced, just before it is compiled
            return Mean(endless(y.sum()), jnp.float32(2))

        step = train.make_step(Line(), optax.sgd(1e-3), endless_loss if self.when == "compiling first" else loss)

        def report(step, state, metrics):
            cli.say(self.when)
            if self.when == "compiling":
                jax.jit(endless)(1.0)

        with train.Checkpoints(self.run) as checkpoints:
            callbacks = [train.every(10_000_000, checkpoints), train.every(20, report)]
            train.fit(state, step, itertools.repeat(batch), steps=10**9, callbacks=callbacks)

    def write(self):
        Path(self.run).mkdir()
        with replacing(Path(self.run) / "file") as part:
            part.write_text("half")
            cli.say(self.when)
            if self.when == "loading":
                time.sleep(100)
            jax.jit(endless)(1.0)


if __name__ == "__main__":
    sys.exit(cli.main({"train": Train, "more": Train}, ["train", "--run", sys.argv[1], "--when", sys.argv[2]]))
