"""Recurrent networks against loops in float64: values, every gradient, both modes, whatever the options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import GRUCarry, LSTMCarry, RNNCarry
from tests.reference import recurrent as reference
from tests.reference.tolerance import tolerance

OPS = {"lstm": ops.lstm, "gru": ops.gru, "rnn": ops.rnn, "relu": functools.partial(ops.rnn, activation="relu")}
STEPS = {"lstm": ops.lstm_step, "gru": ops.gru_step, "rnn": ops.rnn_step}
CARRIES = {"lstm": LSTMCarry, "gru": GRUCarry, "rnn": RNNCarry, "relu": RNNCarry}
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1}
B, D, H = 3, 2, 4


def draw(name, time, seed=0):
    """Everything that a gradient is taken by, in float64: parameters, x, the carry and the initial state."""
    rng, width = np.random.default_rng(seed), GATES[name] * H
    made = {
        "kernel": rng.normal(size=(D, width)) / D**0.5,
        "recurrent_kernel": rng.normal(size=(H, width)) / H**0.5,
        "bias": rng.normal(size=width),
        "x": rng.normal(size=(B, time, D)),
    }
    if name == "gru":
        made["recurrent_bias"] = rng.normal(size=H)
    for field in CARRIES[name]._fields:
        made[f"carry_{field}"] = rng.normal(size=(B, H)) / 2
        made[f"initial_{field}"] = rng.normal(size=H) / 2
    return made


def split(name, arrays):
    params = {k: v for k, v in arrays.items() if "kernel" in k or "bias" in k}
    carry, initial = ([arrays[f"{kind}_{f}"] for f in CARRIES[name]._fields] for kind in ("carry", "initial"))
    return params, arrays["x"], carry, initial


def weigh(y, carry, weights):
    """A number that everything has a part in."""
    return sum((part * weight).sum() for part, weight in zip((y, *carry), weights, strict=True))


def outcome(name, arrays, weights, **settings):
    params, x, carry, initial = split(name, arrays)
    kind = CARRIES[name]
    y, carry = OPS[name](params, x, carry=kind(*carry), initial_carry=kind(*initial), **settings)
    return weigh(y, carry, weights), (y, tuple(carry))


def expected(name, arrays, weights, **settings):
    def number(arrays):
        params, x, carry, initial = split(name, arrays)
        return weigh(*reference.run(name, params, x, carry=carry, initial=initial, **settings), weights)

    params, x, carry, initial = split(name, arrays)
    value = reference.run(name, params, x, carry=carry, initial=initial, **settings)
    return value, reference.gradients(number, arrays)


def compare(name, arrays, dtype, jitted=True, checkpoint_every=None, implementation="auto", **settings):
    rng, time = np.random.default_rng(9), arrays["x"].shape[1]
    weights = [rng.normal(size=(B, time, H)), *(rng.normal(size=(B, H)) for _ in CARRIES[name]._fields)]
    value, gradients = expected(name, arrays, weights, **settings)
    ours = {k: jnp.asarray(v) for k, v in settings.items() if k != "reverse" and v is not None}

    def both(arrays, weights, given):
        found = functools.partial(
            outcome,
            name,
            reverse=settings.get("reverse", False),
            checkpoint_every=checkpoint_every,
            implementation=implementation,
            **given,
        )
        return jax.value_and_grad(found, has_aux=True)(arrays, weights)

    cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
    (_, got), got_gradients = (jax.jit(both) if jitted else both)(cast(arrays), cast(weights), ours)
    bound = tolerance(dtype)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **bound), got, value)
    for key, want in gradients.items():  # relative to the largest: entries are sums over the whole sequence
        scale = max(np.abs(want).max(initial=0), 1e-6)
        np.testing.assert_allclose(got_gradients[key] / scale, want / scale, atol=bound["atol"], rtol=0, err_msg=key)


@pytest.mark.parametrize("time", [1, 7, 63])
@pytest.mark.parametrize("name", OPS)
def test_matches_the_loop(name, time):
    compare(name, draw(name, time), "float32", jitted=time > 1)


SETTINGS = {
    "lengths": {"lengths": np.array([0, 4, 11])},
    "lengths_out_of_range": {"lengths": np.array([-2, 14, 10])},
    "starts": {"starts": np.array([[0] * 11, [1] + [0] * 4 + [1, 1] + [0] * 4, [0] * 10 + [1]], bool)},
    "reverse": {"reverse": True},
    "everything": {
        "lengths": np.array([0, 11, 5]),
        "starts": np.array([[1, 0] * 5 + [1], [1] + [0] * 4 + [1, 1] + [0] * 4, [0, 0, 0, 1, 0, 1] + [0] * 5], bool),
    },
}
SETTINGS["everything_reversed"] = {**SETTINGS["everything"], "reverse": True}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", OPS)
def test_options_match_the_loop(name, settings, x64):
    compare(name, draw(name, 11), "float64", **settings)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("every", [1, 4, 11, 50])
def test_checkpoints_match_the_loop(every, reverse, x64):
    compare(
        "lstm", draw("lstm", 11), "float64", checkpoint_every=every, **{**SETTINGS["everything"], "reverse": reverse}
    )


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_the_sequence(name):
    params, x, _, _ = split(name, jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw(name, 3)))
    y, last = OPS[name](params, x)
    step, carry, steps = jax.jit(STEPS[name]), None, []
    for t in range(3):
        out, carry = step(params, x[:, t], carry)
        steps.append(out)
    np.testing.assert_allclose(jnp.stack(steps, 1), y, **tolerance("float32"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float32")), carry, last)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_no_steps_leave_the_carry(name):
    params, x, carry, _ = split(name, jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw(name, 0)))
    y, last = OPS[name](params, x, carry=CARRIES[name](*carry))
    assert y.shape == (B, 0, H)
    jax.tree.map(np.testing.assert_array_equal, tuple(last), tuple(carry))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_padding_never_shows_in_a_bit(name, reverse):
    arrays = {k: jnp.asarray(v, "float32") for k, v in draw(name, 7).items()}
    lengths = jnp.array([0, 3, 7])
    mask = ops.time_mask(lengths, 7)[:, :, None]
    weights = [jnp.ones((B, 7, H)), *(jnp.ones((B, H)) for _ in CARRIES[name]._fields)]
    run = jax.jit(
        jax.value_and_grad(
            lambda arrays, starts: outcome(name, arrays, weights, lengths=lengths, starts=starts, reverse=reverse),
            has_aux=True,
        )
    )
    starts = jnp.zeros((B, 7), bool).at[:, 2].set(True)
    want = run({**arrays, "x": jnp.where(mask, arrays["x"], 0)}, starts & mask[:, :, 0])
    for filling in (jnp.nan, jnp.inf, -1e30):
        got = run({**arrays, "x": jnp.where(mask, arrays["x"], filling)}, starts | ~mask[:, :, 0])
        jax.tree.map(np.testing.assert_array_equal, got, want)
    assert not np.any(np.where(mask, 0, want[1]["x"]))
    assert not np.any(np.where(mask, 0, want[0][1][0]))
