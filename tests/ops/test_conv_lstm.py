"""The convolutional LSTM against a loop over pixels in float64: values and every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import LSTMCarry
from tests.reference import recurrent_variants as reference
from tests.reference.recurrent import gradients
from tests.reference.tolerance import tolerance

B, H, W, C, F = 2, 2, 3, 2, 2


def draw(time, peephole=(), window=(2, 1), seed=0):
    rng = np.random.default_rng(seed)
    made = {
        "kernel": rng.normal(size=(3, 2, C, 4 * F)) / 3,
        "recurrent_kernel": rng.normal(size=(*window, F, 4 * F)) / 2,
        "bias": rng.normal(size=4 * F),
        "x": rng.normal(size=(B, time, H, W, C)),
    }
    if peephole is not None:
        made["peephole"] = rng.normal(size=(*peephole, 3 * F)) / 2
    for field in LSTMCarry._fields:
        made[f"carry_{field}"], made[f"initial_{field}"] = rng.normal(size=(B, H, W, F)), rng.normal(size=(H, W, F))
    return made


def split(arrays):
    params = {k: v for k, v in arrays.items() if "kernel" in k or k in ("bias", "peephole")}
    carry, initial = ([arrays[f"{kind}_{f}"] for f in LSTMCarry._fields] for kind in ("carry", "initial"))
    return params, arrays["x"], carry, initial


def weigh(y, carry, weights):
    return sum((part * weight).sum() for part, weight in zip((y, *carry), weights, strict=True))


CASES = {
    "plain": (draw(3, None), {}, {}),
    "peephole": (draw(2, (H, W)), {"lengths": np.array([0, 2]), "reverse": True}, {}),
    "packed": (draw(3), {"starts": np.array([[0, 1, 0], [1, 0, 1]], bool)}, {"zoneout": 0.2}),
}


@pytest.mark.parametrize("case", CASES)
def test_matches_the_loop(case):
    arrays, settings, options = CASES[case]
    rng, noise = np.random.default_rng(9), dict.fromkeys(("zoneout_h", "zoneout_c"), options.get("zoneout", 0))

    def run(arrays):
        params, x, carry, initial = split(arrays)
        return reference.run("conv_lstm", params, x, carry, initial=initial, noise=noise, **settings)

    def outcome(arrays, weights):
        params, x, carry, initial = split(arrays)
        given = {"carry": LSTMCarry(*carry), "initial_carry": LSTMCarry(*initial), **settings, **options}
        given = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
        y, carry = ops.conv_lstm(params, x, **given)
        return weigh(y, carry, weights), (y, tuple(carry))

    value = run(arrays)
    weights = [rng.normal(size=part.shape) for part in (value[0], *value[1])]
    cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, "float32"))
    both = jax.jit(jax.value_and_grad(outcome, has_aux=True))
    (_, got), got_gradients = both(cast(arrays), cast(weights))
    bound = tolerance("float32")
    jax.tree.map(functools.partial(np.testing.assert_allclose, **bound), got, value)
    for key, want in gradients(lambda arrays: weigh(*run(arrays), weights), arrays).items():
        scale = max(np.abs(want).max(initial=0), 1e-6)
        np.testing.assert_allclose(got_gradients[key] / scale, want / scale, atol=bound["atol"], rtol=0, err_msg=key)


@pytest.mark.parametrize("kind", ["variational", "per_step"])
def test_dropout_is_drawn_for_each_sequence(kind):
    params, x, _, _ = split(jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw(3, None)))
    run = jax.jit(lambda key: ops.conv_lstm(params, x, recurrent_dropout=0.5, dropout_kind=kind, key=key)[0])
    once, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, other)
    assert np.isfinite(once).all()


WRONG = {
    "rank": (lambda a: {**a, "x": a["x"][0]}, ValueError, r"x wants \[B, T, H, W, C\]"),
    "integers": (lambda a: {**a, "x": a["x"].astype(int)}, TypeError, "floating"),
    "channels": (lambda a: {**a, "x": a["x"][..., :1]}, ValueError, "x has 1 channels .* expects 2"),
    "bias": (lambda a: {**a, "bias": a["bias"][1:]}, ValueError, "bias"),
    "peephole": (lambda a: {**a, "peephole": a["peephole"][1:]}, ValueError, "peephole"),
    "missing": (lambda a: {k: v for k, v in a.items() if k != "recurrent_kernel"}, ValueError, "recurrent_kernel"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors(wrong, own_errors):
    spoil, error, message = WRONG[wrong]
    params, x, _, _ = split(spoil(jax.tree.map(lambda a: jnp.asarray(a, "float32"), draw(2))))
    with pytest.raises(error, match=message):
        ops.conv_lstm(params, x)
