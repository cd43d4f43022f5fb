"""Mistakes in a batch that a compiled step would take without a word."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxnets import layers, ops, train

BATCH = {
    "x": np.arange(12).reshape(3, 4).astype(np.int32) % 5,
    "lengths": np.array([4, 0, 2], np.int32),
    "y": np.array([0, 1, 1], np.int32),
}


class Reader(nn.Module):
    @nn.compact
    def __call__(self, x, *, lengths=None, train=False):
        y, _ = layers.RNN(3)(nn.Embed(5, 3)(x), lengths=lengths)
        return nn.Dense(2)(y.mean(axis=1))


def test_what_is_out_of_range_raises_from_inside_the_program():
    model, optimizer = Reader(), train.optimizer("sgd", 0.1)

    def loss(outputs, batch):
        return ops.cross_entropy(outputs, batch["y"])

    def fitted(batch, **options):
        state = train.create(model, optimizer, BATCH, key=jax.random.key(0))
        return train.fit(state, steps[bool(options)], [batch], steps=2)[0]

    steps = {checks: train.make_step(model, optimizer, loss, checks=checks) for checks in (False, True)}
    plain, checked = fitted(BATCH), fitted(BATCH, checks=True)
    jax.tree.map(np.testing.assert_array_equal, checked.params, plain.params)
    wrong = {
        "lengths": (np.array([5, 0, 2], np.int32), r"batch\['lengths'\] holds 0 to 5, wanted 0 to 4"),
        "y": (np.array([0, 1, 2], np.int32), r"the loss of the step after 0 is nan; the batch holds .*y 0 to 2"),
        "x": (BATCH["x"] + 1, r"the loss of the step after 0 is nan; the batch holds .*x 1 to 5, y 0 to 1"),
    }
    for name, (array, words) in wrong.items():
        with pytest.raises(jax.errors.JaxRuntimeError, match=words):
            fitted({**BATCH, name: array}, checks=True)
