"""A few plain optimizer steps, to see that a model learns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnets import ops


class Learned(NamedTuple):
    """The first and last loss, whether every gradient was finite, and the first step's logits in both modes."""

    first: float
    last: float
    finite: bool
    in_training: np.ndarray
    in_evaluation: np.ndarray


def learn(model, shape, *, rate, steps):
    """Trains on one batch of noise with three classes."""
    x, labels = jax.random.normal(jax.random.key(1), shape), jnp.arange(shape[0]) % 3
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x))(x)
    optimizer = optax.sgd(rate, momentum=0.9)

    @jax.jit
    def step(params, rest, momentum, key):
        def loss(params):
            logits, changed = model.apply(
                {"params": params, **rest}, x, train=True, rngs={"dropout": key}, mutable=list(rest)
            )
            return ops.cross_entropy(logits, labels).value, (logits, changed)

        (value, (logits, rest)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]))
        updates, momentum = optimizer.update(gradient, momentum)
        return (optax.apply_updates(params, updates), rest, momentum), value, finite, logits

    evaluated = jax.jit(model.apply)(variables, x)
    rest = {k: v for k, v in variables.items() if k != "params"}
    state = variables["params"], rest, optimizer.init(variables["params"])
    records = []
    for key in jax.random.split(jax.random.key(2), steps):
        state, *record = step(*state, key)
        records.append(record)
    losses, finites, logits = zip(*records, strict=True)
    return Learned(float(losses[0]), float(losses[-1]), all(finites), np.asarray(logits[0]), np.asarray(evaluated))
