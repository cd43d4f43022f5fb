import logging

import jax
import jax.numpy as jnp
import pytest

from jaxnets import train


def test_compilations_are_written_down_with_their_shapes():
    def doubled(x):
        return 2 * x

    log = logging.getLogger("jax._src.interpreters.pxla")
    before = log.level, list(log.filters)
    with train.CompileLedger() as ledger:
        for rows in (3, 4, 3):
            jax.jit(doubled)(jnp.ones((rows, 2)))
    entries = [entry for entry in ledger.entries if "doubled" in entry.name]
    assert [entry.shapes for entry in entries] == [("float32[3,2]",), ("float32[4,2]",)]
    assert all(entry.seconds > 0 for entry in entries)
    assert "(doubled)(float32[4,2])" in str(ledger)
    jax.jit(lambda x: x + 1)(jnp.ones(5))
    assert len(ledger.entries) < 10
    assert (log.level, log.filters) == before


def test_more_than_allowed_is_an_error():
    def tripled(x, error=None):
        with train.CompileLedger(max_compiles=0):
            jax.jit(lambda x: 3 * x)(x)
            if error is not None:
                raise error

    with pytest.raises(RuntimeError, match=r"(?s)CompileLedger: \d+ compilations, 0 allowed:.*lambda.*float32\[\]"):
        tripled(jnp.float32(1))
    with pytest.raises(KeyError, match="its own"):
        tripled(jnp.ones(2), KeyError("its own"))


def test_fit_warns_of_a_batch_of_another_shape(made, caplog):
    ragged = {name: array[:5] for name, array in made.batch.items()}
    train.fit(made.state(), made.step, [made.batch, ragged], steps=4)
    (message,) = caplog.messages
    assert message == "fit: the step is compiled again, for a batch of other shapes: x float32[5, 6], y int32[5]"
