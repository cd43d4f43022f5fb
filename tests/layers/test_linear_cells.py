"""The layers MinGRU, MinLSTM, LRU and RGLRU: the laws, their parameters, types and errors."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, ops, testing
from jaxnets.layers import LRU, RGLRU, MinGRU, MinLSTM
from tests.reference.tolerance import tolerance

KEY = jax.random.key(0)
X = jnp.sin(jnp.arange(2 * 5 * 4.0)).reshape(2, 5, 4)
LAYERS = {
    "min_gru": MinGRU(4),
    "min_gru_positive_reverse": MinGRU(3, candidate="positive", reverse=True),
    "min_lstm": MinLSTM(4),
    # A phase is known to 1e-7 of the largest one, and t steps turn it t times: hence a small one.
    "lru": LRU(4, state_features=3, max_phase=math.pi / 8),
    "rg_lru": RGLRU(4, implementation="associative"),
}
OPS = {"min_gru": ops.min_gru, "min_lstm": ops.min_lstm, "lru": ops.lru, "rg_lru": ops.rg_lru}


def all_but(default, names):
    """Every name, but for one in the exhaustive stage alone."""
    return [pytest.param(name, marks=() if name == default else pytest.mark.exhaustive) for name in names]


@pytest.mark.parametrize("name", all_but("min_gru", LAYERS))
def test_laws(name):
    laws = set(testing.LAWS)
    if name.endswith("reverse"):
        laws = {"padding", "empty_rows", "packing"}  # chunks would have to be run from the last
    if LAYERS[name].implementation == "associative":
        laws -= {"export"}  # which wants a symbolic time
    testing.check_sequence_layer(LAYERS[name], laws=laws)


@pytest.mark.exhaustive
def test_law_of_export_where_the_implementation_is_chosen():
    testing.check_export(RGLRU(4))


@pytest.mark.parametrize("name", OPS)
def test_is_its_op(name):
    layer = LAYERS[name].clone(implementation="auto")
    (y, carry), variables = layer.init_with_output(KEY, X)
    want = OPS[name](variables["params"], X)
    jax.tree.map(np.testing.assert_array_equal, (y, carry), want)
    start = layers.initial_carry(layer, variables, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), start) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), carry
    )
    assert not any(np.any(leaf) for leaf in start)


@pytest.mark.parametrize("name", OPS)
def test_types(name, x64):
    for x_dtype, dtype, want, state in (
        ("float32", None, "float32", "float32"),
        ("bfloat16", None, "bfloat16", "float32"),
        ("float64", None, "float64", "float64"),
        ("float32", jnp.bfloat16, "bfloat16", "float32"),
        ("bfloat16", jnp.float32, "float32", "float32"),
    ):
        layer = LAYERS[name].clone(dtype=dtype, implementation="auto")
        (y, carry), variables = jax.eval_shape(layer.init_with_output, KEY, jax.ShapeDtypeStruct((2, 5, 4), x_dtype))
        assert y.dtype == want
        assert carry.h.dtype == ({"float32": "complex64", "float64": "complex128"}[state] if name == "lru" else state)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = jax.eval_shape(layer.clone(param_dtype=jnp.bfloat16).init, KEY, X)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}


def test_forget_bias():
    params = MinLSTM(4, forget_bias=2.0).init(KEY, X)["params"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0.0, 2.0, 0.0], 4))


def test_lru_is_made_uniform_on_the_ring_and_normalised():
    n = 4096
    params = LRU(1, state_features=n, r_min=0.6, r_max=0.9, max_phase=1.5).init(KEY, X)["params"]
    modulus, phase = np.exp(-np.exp(params["nu_log"])), np.exp(params["theta_log"])
    assert 0.6 <= modulus.min() < 0.61 < 0.89 < modulus.max() <= 0.9001
    assert 0 <= phase.min() < 0.01 < 1.49 < phase.max() <= 1.5
    # Uniform by area: the median of the square is the middle of its range. A fair share is 1/sqrt(n) about it.
    assert abs(np.mean(modulus**2 < (0.36 + 0.81) / 2) - 0.5) < 0.03
    np.testing.assert_allclose(np.exp(params["gamma_log"]), np.sqrt(1 - modulus**2), **tolerance("float32"))
    # B and C have entries of variance 1 / D and 1 / N, half of it in each part.
    assert abs(np.var(params["input_kernel"]) * 2 * X.shape[-1] - 1) < 0.05
    assert abs(np.var(params["output_kernel"]) * 2 * n - 1) < 0.05
    wide = LRU(1, state_features=n).init(KEY, X)["params"]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(wide))


def test_rg_lru_decay_is_made_uniform():
    width = 4096
    x = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
    layer = RGLRU(width, kernel_init=nn.initializers.zeros)
    decay = jax.jit(lambda: layer.init(KEY, jnp.zeros(x.shape))["params"]["decay"])()
    power = jax.nn.sigmoid(decay) ** 8
    assert 0.9 - 1e-5 <= power.min() < 0.901 < 0.998 < power.max() <= 0.999 + 1e-5
    assert abs(np.mean(power < (0.9 + 0.999) / 2) - 0.5) < 0.03


@pytest.mark.parametrize("name", OPS)
def test_in_a_stack_and_in_both_directions(name):
    layer = LAYERS[name].clone(implementation="auto")
    stack = layers.Stack((layer, layers.Bidirectional(layer.clone())))
    (y, carry), _ = jax.jit(stack.init_with_output)(KEY, X)
    assert y.shape == (2, 5, 8)
    assert carry[1] == ()


def never(*_):
    raise AssertionError("a parameter was made")


@pytest.mark.parametrize(
    ("kind", "fields", "x", "settings", "error", "message"),
    [
        (MinGRU, {}, X[0], {}, ValueError, r"x wants \[B, T, D\]"),
        (MinGRU, {}, X.astype(int), {}, TypeError, "x wants a floating dtype"),
        (MinGRU, {"features": 0}, X, {}, ValueError, "features"),
        (MinLSTM, {}, X, {"lengths": jnp.zeros(3, int)}, ValueError, "lengths wants shape"),
        (MinLSTM, {}, X, {"starts": jnp.zeros((2, 5))}, TypeError, "starts wants dtype bool"),
        (LRU, {}, X, {"carry": ops.LRUCarry(X[:, 0])}, TypeError, "carry.h wants dtype complex"),
        (LRU, {"r_min": 0.9, "r_max": 0.5}, X, {}, ValueError, "wants 0 <= r_min < r_max <= 1"),
        (RGLRU, {"features": 3}, X, {}, ValueError, "x has 4 features but features=3"),
        (RGLRU, {"a_max": 1.0}, X, {}, ValueError, "wants 0 < a_min < a_max < 1"),
        (RGLRU, {"implementation": "scan"}, X, {}, ValueError, "implementation is 'scan'"),
    ],
)
def test_bad_input_is_named_before_any_parameter(kind, fields, x, settings, error, message, own_errors):
    kernel = "input_kernel_init" if kind is LRU else "kernel_init"
    layer = kind(**{"features": 4, kernel: never} | fields)
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        layer.init(KEY, x, **settings)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "lru"])
def test_other_features_than_the_parameters(name):
    layer = LAYERS[name]
    variables = layer.init(KEY, X)
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}: x has 3 features, which take .*kernel"):
        layer.apply(variables, X[..., :3])
