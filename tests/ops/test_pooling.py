"""Pooling against windows taken one by one: values, gradients, ties, both modes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import pooling as reference
from tests.reference.tolerance import tolerance

CASES = {
    "1d": ((2, 7, 2), 3, {"strides": 2}),
    "1d_one_step": ((2, 1, 1), 1, {}),
    "1d_causal": ((1, 5, 2), 3, {"strides": 1, "padding": "CAUSAL"}),
    "2d": ((2, 4, 6, 2), 2, {}),
    "2d_remainder": ((2, 5, 7, 1), 2, {}),
    "2d_overlapping": ((1, 5, 6, 2), 3, {"strides": 2, "padding": "SAME"}),
    "2d_overlapping_valid": ((1, 5, 6, 2), (3, 2), {"strides": 1}),
    "2d_stride_over_window": ((1, 7, 6, 1), 2, {"strides": 3}),
    "2d_window_over_stride": ((1, 6, 6, 1), (1, 4), {"strides": (2, 1), "padding": "SAME"}),
    "2d_window_is_all": ((2, 3, 2, 2), (3, 2), {}),
    "2d_padded": ((1, 4, 3, 2), 3, {"strides": 2, "padding": 1}),
    "2d_explicit": ((1, 4, 5, 1), 2, {"strides": (1, 2), "padding": ((0, 1), (1, 0))}),
    "2d_one_row": ((2, 1, 5, 1), (1, 2), {}),
    "2d_empty_batch": ((0, 4, 4, 2), 2, {}),
    "3d": ((1, 3, 4, 2, 2), 2, {"strides": (1, 2, 1), "padding": "SAME"}),
    "3d_plain": ((1, 2, 4, 2, 1), 2, {}),
}

POOLS = {
    "max": (ops.max_pool, reference.MaxPool),
    "avg": (ops.avg_pool, reference.AvgPool),
    "avg_count_padding": (
        functools.partial(ops.avg_pool, count_padding=True),
        functools.partial(reference.AvgPool, count_padding=True),
    ),
}


def check(op, pool, x, dtype):
    """Compares value, gradient and tangent in one compiled program."""
    rng = np.random.default_rng(1)
    dy, dx = rng.normal(size=pool.y_shape), rng.normal(size=pool.x_shape)

    @jax.jit
    def run(x, dx, dy):
        y, pull = jax.vjp(op, x)
        return y, pull(dy)[0], jax.jvp(op, (x,), (dx,))[1]

    y, gradient, tangent = run(*(jnp.asarray(a, dtype) for a in (x, dx, dy)))
    assert y.dtype == gradient.dtype == tangent.dtype == dtype
    np.testing.assert_allclose(y, pool(x), **tolerance(dtype))
    np.testing.assert_allclose(gradient, pool.gradient(x, dy), **tolerance(dtype))
    # The tangent pairs with dy as dx pairs with the gradient, and that for each place of y alone.
    want = np.zeros(pool.y_shape)
    for place in np.ndindex(*pool.y_shape):
        alone = np.zeros(pool.y_shape)
        alone[place] = 1
        want[place] = np.sum(pool.gradient(x, alone) * dx)
    np.testing.assert_allclose(tangent, want, **tolerance(dtype))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_matches_the_loop(pool, case, x64):
    (op, kind), (shape, window, settings) = pool, case
    x = np.random.default_rng(0).normal(size=shape)
    check(lambda x: op(x, window, **settings), kind(shape, window, **settings), x, "float64")


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_in_single_precision(pool):
    (op, kind), (shape, window, settings) = pool, CASES["2d_overlapping"]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    check(lambda x: op(x, window, **settings), kind(shape, window, **settings), x, "float32")


@pytest.mark.parametrize("name", ["1d", "2d", "2d_overlapping", "2d_padded", "3d_plain"])
def test_of_equals_the_first_wins(name, x64):
    shape, window, settings = CASES[name]
    x = np.random.default_rng(0).integers(-2, 1, shape).astype(float)
    check(lambda x: ops.max_pool(x, window, **settings), reference.MaxPool(shape, window, **settings), x, "float64")


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("name", ["2d", "2d_overlapping"])
def test_transformations_change_nothing(pool, name, x64):
    op, (shape, window, settings) = pool[0], CASES[name]
    pool = functools.partial(op, window=window, **settings)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)))

    def energy(x):
        return jnp.sum(pool(x) ** 3)

    @jax.jit
    def transformed(x):
        checkpointed = jax.grad(lambda x: jnp.sum(jax.checkpoint(pool)(x) ** 3))(x[0])
        return jax.vmap(pool)(x), jax.vmap(jax.grad(energy))(x), checkpointed

    gradient = jax.jit(jax.grad(energy))
    want = jnp.stack([pool(row) for row in x]), jnp.stack([gradient(row) for row in x]), gradient(x[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float64")), transformed(x), want)


@pytest.mark.parametrize("kind", POOLS)
def test_hessian(kind, x64):
    op, shape = POOLS[kind][0], (1, 3, 3, 1)
    x = np.random.default_rng(0).normal(size=shape)
    pool = POOLS[kind][1](shape, 2, strides=1, padding="SAME")
    rows = []
    for place in np.ndindex(*pool.y_shape):
        alone = np.zeros(pool.y_shape)
        alone[place] = 1
        rows.append(pool.gradient(x, alone).ravel())
    jacobian = np.array(rows)

    def energy(x):
        return jnp.sum(op(x, 2, strides=1, padding="SAME") ** 2) / 2

    def hessians(x):
        return jax.jacfwd(jax.grad(energy))(x), jax.jacrev(jax.grad(energy))(x), jax.jacrev(jax.jacfwd(energy))(x)

    for hessian in jax.jit(hessians)(jnp.asarray(x)):
        np.testing.assert_allclose(hessian.reshape(9, 9), jacobian.T @ jacobian, **tolerance("float64"))


def test_bfloat16():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    largest, mean = jax.jit(lambda x: (ops.max_pool(x, 2), ops.avg_pool(x, 2)))(x)
    assert largest.dtype == mean.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(largest, np.float64), reference.MaxPool(x.shape, 2)(wide))
    np.testing.assert_allclose(
        np.asarray(mean, np.float64), reference.AvgPool(x.shape, 2)(wide), **tolerance("bfloat16")
    )
    # Ones summed in bfloat16 stop at 256.
    ones = jnp.ones((1, 3, 600, 1), jnp.bfloat16)
    one, also_one = jax.jit(lambda x: (ops.avg_pool(x, (3, 600), padding="SAME"), ops.global_avg_pool(x)))(ones)
    assert one.item() == also_one.item() == 1


def test_minus_infinity_is_a_value():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    y, pull = jax.vjp(lambda x: ops.max_pool(x, 2), x)
    assert y.item() == -jnp.inf
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0].ravel(), [1, 0, 0, 0])


def test_nan_is_not_lost():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    for pool in (ops.max_pool, ops.avg_pool):
        y = jax.jit(functools.partial(pool, window=2))(x)
        np.testing.assert_array_equal(np.isnan(y)[0, :, :, 0], [[True, False], [False, False]])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 3), (1, 2, 2, 2, 2)])
def test_global_pools(shape, x64):
    x = np.random.default_rng(0).normal(size=shape)
    spatial = tuple(range(1, len(shape) - 1))
    largest, mean = jax.jit(lambda x: (ops.global_max_pool(x), ops.global_avg_pool(x)))(jnp.asarray(x))
    np.testing.assert_array_equal(largest, x.max(spatial))
    np.testing.assert_allclose(mean, x.mean(spatial), **tolerance("float64"))
    gradients = jax.jit(
        lambda x: [jax.grad(lambda x, f=f: jnp.sum(f(x)))(x) for f in (ops.global_max_pool, ops.global_avg_pool)]
    )(jnp.asarray(x))
    np.testing.assert_array_equal(gradients[0], x == x.max(spatial, keepdims=True))
    np.testing.assert_allclose(gradients[1], np.full(shape, 1 / np.prod(shape[1:-1])), **tolerance("float64"))


X = jnp.zeros((2, 5, 6, 4))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((X[0, 0], 2), {}, r"x.*\(6, 4\)"),
        ((X[None, None], 2), {}, r"x.*\(1, 1, 2, 5, 6, 4\)"),
        ((X, 0), {}, "window.* 0"),
        ((X, (2, 2, 2)), {}, r"window.*\(2, 2, 2\)"),
        ((X, 2), {"strides": -1}, "strides.*-1"),
        ((X, 2), {"padding": "half"}, "padding.*'half'.*'SAME'"),
        ((X, 2), {"padding": ((1, 1),)}, r"padding.*\(\(1, 1\),\)"),
        ((X, 2), {"padding": -1}, "padding.*-1"),
        ((X, 2), {"padding": 2}, r"padding.*\(2, 2\)"),
        ((X, 6), {}, "window.* 6"),
    ],
)
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_errors_name_op_argument_and_what_came(op, arguments, settings, message, own_errors):
    x, window = arguments
    with pytest.raises(ValueError, match=f"^{op}: .*{message}"):
        jax.eval_shape(lambda x: getattr(ops, op)(x, window, **settings), x)


@pytest.mark.parametrize("op", ["global_max_pool", "global_avg_pool"])
def test_global_pools_name_their_argument(op, own_errors):
    with pytest.raises(ValueError, match=rf"^{op}: x.*\(6, 4\)"):
        jax.eval_shape(getattr(ops, op), X[0, 0])
