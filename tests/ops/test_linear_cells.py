"""minGRU, minLSTM, LRU and RG-LRU against loops: values, every gradient, and the ends of their ranges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import linear_recurrence as reference
from tests.reference.tolerance import tolerance

assert_close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))
WIDTH, HIDDEN, MODES = 3, 4, 5
SHAPES = {
    "min_gru": {"kernel": (WIDTH, 2 * HIDDEN), "bias": (2 * HIDDEN,)},
    "min_lstm": {"kernel": (WIDTH, 3 * HIDDEN), "bias": (3 * HIDDEN,)},
    "lru": {
        "input_kernel": (WIDTH, 2 * MODES),
        "output_kernel": (2 * MODES, HIDDEN),
        "skip_kernel": (WIDTH, HIDDEN),
        **dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (MODES,)),
    },
    "rg_lru": {"kernel": (WIDTH, 2 * WIDTH), "bias": (2 * WIDTH,), "decay": (WIDTH,)},
}
CARRIES = {"min_gru": ops.MinGRUCarry, "min_lstm": ops.MinLSTMCarry, "lru": ops.LRUCarry, "rg_lru": ops.RGLRUCarry}
STEPS = {
    "min_gru": ops.min_gru_step,
    "min_lstm": ops.min_lstm_step,
    "lru": ops.lru_step,
    "rg_lru": ops.rg_lru_step,
}


def draw(seed, shape):
    return (0.5 * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def make_params(name):
    return {key: draw(i, shape) for i, (key, shape) in enumerate(SHAPES[name].items())}


def make_case(name, time, rows=3):
    """(params, x, state), the state of the LRU as its two parts, and the cotangents of (y, last)."""
    state = {"lru": 2 * MODES, "rg_lru": WIDTH}.get(name, HIDDEN)
    features = WIDTH if name == "rg_lru" else HIDDEN
    arrays = {**make_params(name), "x": draw(10, (rows, time, WIDTH)), "state": draw(11, (rows, state))}
    return arrays, draw(12, (rows, time, features)), draw(13, (rows, state))


def carry_of(name, state):
    return CARRIES[name](jax.lax.complex(*jnp.split(state, 2, axis=-1)) if name == "lru" else state)


def parts_of(name, carry):
    return jnp.concatenate([carry.h.real, carry.h.imag], axis=-1) if name == "lru" else carry.h


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("min_gru", {}),
        ("min_gru", {"candidate": "positive"}),
        ("min_lstm", {}),
        ("min_lstm", {"candidate": "positive"}),
        ("lru", {}),
        ("rg_lru", {}),
        ("rg_lru", {"c": 2.5}),
    ],
)
@pytest.mark.parametrize(
    ("time", "reverse", "implementation"),
    [(7, False, "sequential"), (7, True, "associative"), (63, True, "sequential"), (63, False, "associative")],
)
def test_matches_the_loop(name, settings, time, reverse, implementation):
    arrays, dy, dlast = make_case(name, time)
    lengths = np.array([time, 0, (2 * time + 1) // 3], np.int32)
    starts = np.arange(3 * time).reshape(3, time) % 5 == 2

    def op(arrays):
        x, state, params = arrays["x"], arrays["state"], {key: arrays[key] for key in SHAPES[name]}
        y, carry = getattr(ops, name)(
            params,
            x,
            **settings,
            lengths=jnp.asarray(lengths),
            starts=jnp.asarray(starts),
            carry=carry_of(name, state),
            reverse=reverse,
            precision="highest",
            implementation=implementation,
        )
        return y, parts_of(name, carry)

    def loop(arrays):
        step = functools.partial(getattr(reference, name), **settings)
        params = {key: arrays[key] for key in SHAPES[name]}
        return reference.over_time(step, params, arrays["x"], arrays["state"], dy.shape[-1], lengths, starts, reverse)

    @jax.jit
    def run(arrays):
        out, pull = jax.vjp(op, arrays)
        return out, pull((dy, dlast))[0]

    out, gradients = run(jax.tree.map(jnp.asarray, arrays))
    wide = {key: array.astype("float64") for key, array in arrays.items()}
    jax.tree.map(assert_close, out, loop(wide))
    if time == 7:
        assert_relative(gradients, reference.gradients(loop, wide, dy, dlast))


def assert_relative(got, want):
    for key, array in want.items():
        assert np.max(np.abs(got[key] - array)) <= 1e-5 * max(np.max(np.abs(array)), 1), key


@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_the_whole(name):
    arrays, _, _ = make_case(name, 3)
    params, x = make_params(name), jnp.asarray(arrays["x"])
    params = jax.tree.map(jnp.asarray, params)
    want = getattr(ops, name)(params, x)
    carry, outputs = None, []
    for t in range(3):
        y, carry = STEPS[name](params, x[:, t], carry)
        outputs.append(y)
    jax.tree.map(assert_close, (jnp.stack(outputs, 1), carry), want)


@pytest.mark.parametrize("name", SHAPES)
def test_bfloat16_keeps_its_state_in_float32(name):
    arrays, _, _ = make_case(name, 7)
    half = {
        k: jnp.asarray(v, "bfloat16" if "kernel" in k or k in ("bias", "x") else "float32") for k, v in arrays.items()
    }
    params = {key: half[key] for key in SHAPES[name]}
    y, carry = getattr(ops, name)(params, half["x"])
    assert y.dtype == jnp.bfloat16
    assert carry.h.dtype == ("complex64" if name == "lru" else "float32")
    wide = getattr(ops, name)({k: v.astype("float32") for k, v in params.items()}, half["x"].astype("float32"))
    np.testing.assert_allclose(np.asarray(y, "float32"), wide[0], **tolerance("bfloat16"))


@pytest.mark.parametrize("name", SHAPES)
def test_hessian_is_that_of_the_loop(name, x64):
    """Second derivatives by small steps of the loop's exact first ones."""
    arrays, dy, dlast = make_case(name, 3, rows=1)
    wide = {key: array.astype("float64") for key, array in arrays.items()}

    def loss(x, bias):
        params = {key: jnp.asarray(bias if key == first else wide[key]) for key in SHAPES[name]}
        y, carry = getattr(ops, name)(params, x, carry=carry_of(name, jnp.asarray(wide["state"])))
        return jnp.sum(y * dy.astype("float64")) + jnp.sum(parts_of(name, carry) * dlast.astype("float64"))

    def loop(arrays):
        params = {key: arrays[key] for key in SHAPES[name]}
        return reference.over_time(getattr(reference, name), params, arrays["x"], arrays["state"], dy.shape[-1])

    first = "theta_log" if name == "lru" else "bias"
    got = jax.jit(jax.jacfwd(jax.grad(loss, (0, 1)), 1))(jnp.asarray(wide["x"]), jnp.asarray(wide[first]))
    for j in range(wide[first].size):
        sides = []
        for sign in (1, -1):
            moved = wide[first].copy()
            moved[j] += sign * 1e-5
            found = reference.gradients(loop, {**wide, first: moved}, dy, dlast)
            sides.append((found["x"], found[first]))
        for got_all, up, down in zip(got, *sides, strict=True):
            np.testing.assert_allclose(got_all[..., j], (up - down) / 2e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "gate"), [("min_gru", 0), ("min_lstm", 0), ("min_lstm", 1), ("rg_lru", 0), ("rg_lru", 1)]
)
def test_saturated_gates_have_finite_derivatives(name, gate):
    """To the second order; both gates of the minLSTM vanish together, and the RG-LRU's decay with its other gate."""
    params = jax.tree.map(jnp.asarray, make_params(name))
    x = jnp.asarray(draw(10, (1, 4, WIDTH)))
    gates = 3 if name == "min_lstm" else 2
    width = params["bias"].size // gates

    def saturated(bias):
        places = jnp.arange(gates * width) // width
        both = (name == "min_lstm") & (bias < 0) & (places < 2)
        moved = {**params, "bias": jnp.where((places == gate) | both, bias, params["bias"])}
        return moved | {"decay": jnp.full(width, bias)} if (name, gate) == ("rg_lru", 1) else moved

    def loss(params, x):
        y, carry = getattr(ops, name)(params, x)
        return jnp.sum(jnp.sin(y)) + jnp.sum(carry.h)

    def derivatives(bias):
        at = saturated(bias), x
        return loss(*at), jax.grad(loss, (0, 1))(*at), jax.hessian(loss)(*at)

    out = jax.jit(jax.vmap(derivatives))(jnp.array([-200.0, -90.0, -60.0, -30.0, 30.0, 60.0, 200.0]))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))


def test_min_lstm_shares_out_gates_that_have_vanished():
    """f / (f + i) of two gates that are 0 in float32."""
    bias = jnp.array([-200.0, -201.0, 1.0])
    y, _ = ops.min_lstm({"kernel": jnp.zeros((1, 3)), "bias": bias}, jnp.ones((1, 1, 1)))
    assert_close(y[0, 0, 0], 1 / (1 + np.exp(-1.0)))


def test_rg_lru_multiplier_near_one():
    """sqrt(1 - a^2) and its derivative where 1 - a^2 would have no digits left."""
    for decay in (5.0, 15.0, 30.0):
        params = {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2), "decay": jnp.array([decay])}

        def value(bias, params=params):
            return ops.rg_lru({**params, "bias": jnp.stack([bias, jnp.zeros(())])}, jnp.ones((1, 1, 1)))[0][0, 0, 0]

        log_a = 4 * -np.log1p(np.exp(-decay))
        want = 0.5 * np.sqrt(-np.expm1(2 * log_a))
        slope = 0.5 * -np.exp(2 * log_a) / np.sqrt(-np.expm1(2 * log_a)) * log_a / 2
        np.testing.assert_allclose(jax.value_and_grad(value)(jnp.zeros(())), (want, slope), rtol=1e-5)


def test_the_hidden_size_and_types_are_checked(own_errors):
    x = jnp.zeros((2, 5, WIDTH))
    gru, unit = jax.tree.map(jnp.asarray, make_params("min_gru")), jax.tree.map(jnp.asarray, make_params("lru"))
    gated = jax.tree.map(jnp.asarray, make_params("rg_lru"))
    cases = [
        (ops.min_gru, (gru, x[0]), {}, ValueError, r"min_gru: x wants \[B, T, D\]"),
        (ops.min_gru, (gru, x.astype(int)), {}, TypeError, "min_gru: x wants a floating dtype"),
        (ops.min_gru, ({"kernel": gru["kernel"]}, x), {}, ValueError, "min_gru: params has no 'bias'"),
        (ops.min_gru, (gru, x[..., :2]), {}, ValueError, r"min_gru: params\['kernel'\] wants shape \(2, 8\)"),
        (
            ops.min_gru,
            (gru, x.astype(jnp.bfloat16)),
            {},
            TypeError,
            r"min_gru: params\['kernel'\] wants dtype bfloat16",
        ),
        (
            ops.min_gru,
            (gru, x),
            {"candidate": "log"},
            ValueError,
            "min_gru: candidate is 'log' but wants one of linear",
        ),
        (ops.min_gru, (gru, x), {"implementation": "scan"}, ValueError, "min_gru: implementation is 'scan'"),
        (ops.min_gru, (gru, x), {"carry": ops.LRUCarry(x[:, 0])}, TypeError, "min_gru: carry wants MinGRUCarry"),
        (
            ops.min_gru,
            (gru, x),
            {"carry": ops.MinGRUCarry(x[:, 0])},
            ValueError,
            r"min_gru: carry.h wants shape \(2, 4\)",
        ),
        (ops.min_gru_step, (gru, x), {}, ValueError, r"min_gru_step: x wants \[B, D\]"),
        (ops.min_lstm, (gru, x), {}, ValueError, r"min_lstm: params\['bias'\] wants \[3 \* H\]"),
        (
            ops.lru,
            ({**unit, "nu_log": jnp.zeros(6)}, x),
            {},
            ValueError,
            r"lru: params\['input_kernel'\] wants shape \(3, 12\)",
        ),
        (
            ops.rg_lru,
            ({**gated, "decay": jnp.zeros(2)}, x),
            {},
            ValueError,
            r"rg_lru: params\['decay'\] wants shape \(3,\)",
        ),
    ]
    for op, arguments, settings, error, message in cases:
        with pytest.raises(error, match=f"^{message}"):
            op(*arguments, **settings)
