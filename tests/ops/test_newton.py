"""Recurrences solved for all steps at once: as step by step, and never silently wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.ops.test_recurrent import CARRIES, B, H, compare, draw, outcome, split
from tests.reference.tolerance import tolerance

TIME = 11
MASKS = {
    "lengths": jnp.array([TIME, 0, 7]),
    "starts": jnp.zeros((B, TIME), bool).at[:, 4].set(True).at[0, 5].set(True),
}


def drawn(name, dtype, scale=0.5):
    """Everything that a gradient is taken by, and what to weigh the outcome with."""
    rng, arrays = np.random.default_rng(9), draw(name, TIME)
    weights = [rng.normal(size=(B, TIME, H)), *(rng.normal(size=(B, H)) for _ in CARRIES[name]._fields)]
    arrays["recurrent_kernel"] = arrays["recurrent_kernel"] * scale
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), (arrays, weights))


def solved(reports, jacobian="dense", **options):
    """A `Newton` that notes how it went."""
    return ops.Newton(jacobian, report=reports.append, **options)


@pytest.mark.parametrize(
    ("name", "jacobian", "reverse"),
    [
        ("lstm", "dense", False),
        ("gru", "dense", True),
        ("relu", "dense", False),
        ("lstm", "diagonal", True),
        ("rnn", "diagonal", False),
    ],
)
def test_values_and_gradients_are_those_of_the_loop(name, jacobian, reverse, x64):
    arrays, weights = drawn(name, "float64")
    reports = []

    def both(implementation):
        run = functools.partial(outcome, name, reverse=reverse, implementation=implementation, **MASKS)
        return jax.jit(jax.value_and_grad(run, has_aux=True))(arrays, weights)

    got, want = both(solved(reports, jacobian)), both("scan")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), got, want)
    jax.effects_barrier()
    assert all(report.converged.all() for report in reports)
    assert reports[0].iterations <= 30


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_float32_matches_a_loop_in_float64(name):
    compare(name, draw(name, 7), "float32", implementation="newton")


def test_further_derivatives(x64):
    arrays, weights = drawn("rnn", "float64")
    kernel = arrays["recurrent_kernel"]

    def number(implementation, kernel):
        run = functools.partial(outcome, "rnn", implementation=implementation, **MASKS)
        return run({**arrays, "recurrent_kernel": kernel}, weights)[0]

    def products(implementation):
        number_of = functools.partial(number, implementation)
        forward = jax.jvp(number_of, (kernel,), (jnp.ones_like(kernel),))
        return forward, jax.jvp(jax.grad(number_of), (kernel,), (jnp.ones_like(kernel),))

    want = jax.jit(products, static_argnums=0)("scan")
    for jacobian in ("dense", "diagonal"):
        got = jax.jit(products, static_argnums=0)(ops.Newton(jacobian))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), got, want)


def test_rows_that_do_not_converge_are_solved_in_sequence():
    arrays, weights = drawn("rnn", "float32", scale=8.0)
    arrays["x"] = arrays["x"].at[1].set(0)
    arrays["carry_h"] = arrays["carry_h"].at[1].set(0)
    arrays["bias"] = jnp.zeros_like(arrays["bias"])
    reports = []

    def both(implementation):
        return jax.jit(
            jax.value_and_grad(functools.partial(outcome, "rnn", implementation=implementation), has_aux=True)
        )(arrays, weights)

    got, want = both(solved(reports, max_iterations=3)), both("scan")
    jax.effects_barrier()
    assert reports[0].iterations == 3
    np.testing.assert_array_equal(reports[0].converged, [False, True, False])
    np.testing.assert_allclose(got[0][1][0], want[0][1][0], **tolerance("float32"))
    for key, value in want[1].items():  # of a chaotic network: relative to the largest
        np.testing.assert_allclose(got[1][key], value, atol=1e-3 * float(abs(value).max()), err_msg=key)


def test_an_overflow_on_the_way_is_not_waited_for():
    params = {"kernel": jnp.ones((1, 2)), "recurrent_kernel": jnp.full((2, 2), 40.0), "bias": jnp.zeros(2)}
    x = jnp.stack([jnp.ones((60, 1)), -jnp.ones((60, 1))])  # the first row's states pass float32's range, in truth
    reports = []
    y, _ = ops.rnn(params, x, activation="relu", implementation=solved(reports))
    jax.effects_barrier()
    np.testing.assert_array_equal(reports[0].converged, [False, True])
    np.testing.assert_array_equal(y, ops.rnn(params, x, activation="relu")[0])


@pytest.mark.parametrize("jacobian", ["dense", "diagonal"])
def test_a_small_signal_is_not_taken_for_none(jacobian):
    params = {"kernel": jnp.zeros((1, 2)), "recurrent_kernel": 2 * jnp.eye(2)[::-1], "bias": jnp.zeros(2)}
    carry = ops.RNNCarry(jnp.full((1, 2), 1e-6))
    for activation in ("tanh", "relu"):
        run = functools.partial(ops.rnn, params, jnp.zeros((1, 40, 1)), activation=activation, carry=carry)
        y, _ = run(implementation=ops.Newton(jacobian))
        np.testing.assert_allclose(y, run()[0], rtol=1e-4)


def test_a_large_unit_hides_no_other():
    recurrent = jnp.array([[0.5, 0, 0], [0, 0, 0.9], [0, 0.9, 0]])
    params = {"kernel": jnp.array([[1e4, 0, 0], [0, 1, 1.0]]), "recurrent_kernel": recurrent, "bias": jnp.zeros(3)}
    run = functools.partial(ops.rnn, params, jnp.ones((1, 60, 2)), activation="relu")
    y, _ = run(implementation=ops.Newton("diagonal"))
    np.testing.assert_allclose(y, run()[0], rtol=1e-4)


@pytest.mark.exhaustive
def test_gradients_are_finite_where_products_of_derivatives_are_not():
    params = {"kernel": jnp.ones((1, 2)), "recurrent_kernel": 1.5 * jnp.eye(2), "bias": jnp.zeros(2)}

    def number(params, implementation):
        y, _ = ops.rnn(params, jnp.zeros((1, 400, 1)), implementation=implementation)
        return y[:, :10].sum()

    got, want = (jax.grad(number)(params, implementation) for implementation in ("newton", "scan"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, want)


def test_under_vmap():
    arrays, _ = drawn("rnn", "float32")
    params, x, _, _ = split("rnn", arrays)
    many = jax.tree.map(lambda a: jnp.stack([a, a / 2]), params)
    got = jax.vmap(lambda p: ops.rnn(p, x, implementation="newton")[0])(many)
    want = jax.vmap(lambda p: ops.rnn(p, x)[0])(many)
    np.testing.assert_allclose(got, want, **tolerance("float32"))


def test_no_steps():
    arrays, _ = drawn("gru", "float32")
    params, x, _, _ = split("gru", arrays)
    y, carry = ops.gru(params, x[:, :0], implementation="newton")
    assert y.shape == (B, 0, H)
    assert not carry.h.any()


def test_errors_name_the_way_out(own_errors):
    params, x, _, _ = split("lstm", drawn("lstm", "float32")[0])
    with pytest.raises(ValueError, match=r"11 steps x 3 rows x 8 x 8 .*memory_limit.*diagonal"):
        ops.lstm(params, x, implementation=ops.Newton(memory_limit=1000))
    with pytest.raises(ValueError, match="knows no variants and no noise"):
        ops.lstm(params, x, implementation="newton", zoneout=0.1)
    with pytest.raises(ValueError, match="no use for checkpoint_every"):
        ops.lstm(params, x, implementation="newton", checkpoint_every=4)
    with pytest.raises(ValueError, match="'Newton' but wants one of auto, scan, newton"):
        ops.lstm(params, x, implementation="Newton")
    with pytest.raises(ValueError, match="'full' but wants 'dense' or 'diagonal'"):
        ops.Newton("full")
    with pytest.raises(ValueError, match="tolerance wants a positive number"):
        ops.Newton(tolerance=0.0)
    with pytest.raises(ValueError, match="max_iterations wants at least 1"):
        ops.Newton(max_iterations=0)
