"""The model in 16 bits, what is kept in 32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import train
from jaxnets.typing import Mean

HALVES = [train.Precision(), train.Precision("float16")]


@pytest.mark.parametrize("precision", HALVES, ids=lambda precision: precision.compute)
def test_the_model_computes_in_16_bits_and_the_state_stays_in_32(made, precision):
    seen = []

    def loss(outputs, batch):
        seen.append((outputs.dtype, batch["x"].dtype))
        return made.loss(outputs, batch)

    optimizer = train.optimizer("adam", 0.02)
    step = train.make_step(made.model, optimizer, loss, precision=precision)
    assert "f16[8,16]" in str(jax.make_jaxpr(step)(*begun(made, optimizer, precision), made.batch))
    assert set(seen) == {(jnp.dtype("float32"),) * 2}
    state, metrics = train.fit(*begun(made, optimizer, precision), step, made.data, steps=60)
    floats = [leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    assert metrics["loss"] < 0.5
    # Evaluated in 16 bits or in 32, it is the same model.
    evaluated = [
        float(train.make_eval_step(made.model, made.loss, precision=each)(state, made.batch)["loss"].value)
        for each in (None, precision)
    ]
    assert evaluated[0] != evaluated[1] == pytest.approx(evaluated[0], abs=0.02)


def begun(made, optimizer, precision):
    return (train.create(made.model, optimizer, made.batch, key=jax.random.key(0), precision=precision),)


def test_parameters_may_be_kept_wide(made):
    dtypes = {}

    def apply(variables, batch, train, rngs):
        dtypes.update({name: layer["bias"].dtype for name, layer in variables["params"].items()})
        return made.model.apply(variables, batch["x"]), {"batch_stats": variables["batch_stats"]}

    precision = train.Precision(keep=("Dense_1/", "^BatchNorm"))
    train.make_eval_step(made.model, made.loss, apply=apply, precision=precision)(made.state(), made.batch)
    assert dtypes == {"Dense_0": jnp.bfloat16, "Dense_1": jnp.float32, "BatchNorm_0": jnp.float32}


def test_the_scale_takes_no_part_in_the_gradient_and_moves_with_overflow(made):
    # Scaled by 2^15 this loss overflows; by less it does not, and its gradient is 1000 for each output's sum.
    def loss(outputs, batch):
        return Mean(1000 * batch["size"][0] * outputs.sum(), jnp.float32(1))

    precision, optimizer = train.Precision("float16", growth_every=2), optax.sgd(1e-6)
    guard = train.Guard(limit=2)
    options = {"precision": precision, "guard": guard}
    state = train.create(made.model, optimizer, made.batch, key=jax.random.key(0), **options)
    step = jax.jit(train.make_step(made.model, optimizer, loss, **options))
    batch = {**made.batch, "size": np.ones(8, np.float32)}
    factors, nonfinite = [], []
    for _ in range(16):
        before = state
        state, sums = step(state, batch)
        factors.append(float(before.loss_scale.factor))
        nonfinite.append(float(sums["nonfinite"].total))
        if nonfinite[-1]:
            assert made.digest((before.params, before.opt_state)) == made.digest((state.params, state.opt_state))
        else:
            moved = before.params["Dense_1"]["bias"] - state.params["Dense_1"]["bias"]
            np.testing.assert_allclose(moved, 8e-3, rtol=2e-3)
    # Overflow that a lower scale cures never stops the run, however often it comes in a row.
    assert nonfinite[:3] == [1, 1, 1]
    assert factors[:3] == [2**15, 2**14, 2**13]
    first = nonfinite.index(0)
    assert nonfinite[first : first + 3] == [0, 0, 1]
    assert factors[first + 2] == 2 * factors[first]
    assert not state.guard.stopped


def test_wrong_precisions_are_named():
    with pytest.raises(ValueError, match="compute is 'float8', choose bfloat16 or float16"):
        train.Precision("float8")
    with pytest.raises(ValueError, match=r"loss_scale is 0.0 but wants at least 1"):
        train.Precision(loss_scale=0.0)
