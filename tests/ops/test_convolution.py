"""Convolutions against loops of multiply-adds: values, every gradient, both modes, every implementation."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import _chunks
from tests.reference import convolution as reference
from tests.reference.tolerance import tolerance

IMPLEMENTATIONS = ("auto", "xla", "im2col", "winograd")

CASES = {
    "1d": ((2, 7, 3), (3, 3, 4), {}),
    "1d_causal_dilated": ((2, 6, 2), (3, 2, 3), {"padding": "CAUSAL", "dilation": 2}),
    "1d_causal_strided": ((1, 7, 2), (2, 2, 3), {"padding": "CAUSAL", "strides": 3}),
    "1d_one_step": ((2, 1, 3), (3, 3, 2), {}),
    "1d_window_is_all": ((2, 4, 2), (4, 2, 3), {"padding": "VALID"}),
    "2d_odd_same": ((2, 5, 6, 3), (3, 2, 3, 4), {"strides": 2}),
    "2d_valid": ((2, 5, 4, 2), (3, 2, 2, 3), {"padding": "VALID"}),
    "2d_unequal_strides": ((1, 5, 7, 2), (3, 3, 2, 2), {"strides": (1, 2)}),
    "2d_stride_over_window": ((2, 7, 8, 2), (2, 2, 2, 3), {"strides": 3, "padding": "VALID"}),
    "2d_stride_over_image": ((1, 3, 3, 2), (2, 2, 2, 2), {"strides": 5}),
    "2d_dilated": ((1, 6, 5, 2), (3, 2, 2, 3), {"dilation": (2, 3)}),
    "2d_strided_dilated": ((1, 7, 7, 2), (2, 3, 2, 2), {"dilation": 2, "strides": 2, "padding": "VALID"}),
    "2d_explicit": ((1, 4, 5, 2), (3, 2, 2, 3), {"padding": ((0, 2), (3, 1)), "strides": (2, 1)}),
    "2d_windows_of_padding": ((1, 2, 2, 2), (2, 2, 2, 2), {"padding": 2}),
    "2d_causal": ((1, 4, 5, 2), (3, 3, 2, 2), {"padding": "CAUSAL", "strides": (1, 2)}),
    "2d_groups": ((2, 4, 3, 4), (3, 2, 2, 6), {"groups": 2}),
    "2d_depthwise": ((2, 4, 4, 3), (3, 3, 1, 3), {"groups": 3}),
    "2d_depthwise_multiplied": ((1, 5, 4, 2), (2, 3, 1, 6), {"groups": 2, "strides": 2, "dilation": (1, 2)}),
    "2d_pointwise": ((2, 3, 4, 3), (1, 1, 3, 4), {}),
    "2d_pointwise_strided": ((2, 5, 4, 3), (1, 1, 3, 2), {"strides": 2}),
    "2d_one_row": ((2, 1, 5, 2), (3, 3, 2, 2), {}),
    "2d_one_of_everything": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "2d_one_feature": ((3, 4, 4, 1), (3, 3, 1, 1), {"padding": "VALID"}),
    "2d_empty_batch": ((0, 4, 4, 2), (3, 3, 2, 3), {}),
    "2d_window_over_image": ((2, 2, 5, 2), (3, 3, 2, 3), {"padding": "VALID"}),
    "2d_3x3": ((2, 5, 7, 2), (3, 3, 2, 3), {}),
    "2d_3x3_valid": ((1, 6, 8, 3), (3, 3, 3, 2), {"padding": "VALID"}),
    "2d_3x3_wide_padding": ((1, 2, 3, 1), (3, 3, 1, 2), {"padding": ((3, 0), (1, 4))}),
    "2d_3x3_one_pixel": ((2, 1, 1, 3), (3, 3, 3, 2), {}),
    "2d_3x3_causal": ((1, 4, 5, 1), (3, 3, 1, 1), {"padding": "CAUSAL"}),
    "3d": ((1, 3, 4, 2, 2), (2, 3, 2, 2, 2), {"strides": (1, 2, 1)}),
    "3d_causal_groups": ((1, 3, 2, 3, 2), (2, 2, 2, 1, 2), {"padding": "CAUSAL", "groups": 2, "dilation": (2, 1, 1)}),
}

TRANSPOSED = {
    "1d": ((2, 4, 3), (3, 3, 2), {"strides": 2}),
    "1d_stride_over_window": ((1, 3, 2), (2, 2, 3), {"strides": 4}),
    "1d_valid_stride_over_window": ((1, 3, 2), (2, 2, 3), {"strides": 3, "padding": "VALID"}),
    "1d_one_step": ((2, 1, 1), (1, 1, 1), {}),
    "2d_same": ((2, 3, 4, 2), (3, 2, 2, 3), {"strides": 2}),
    "2d_same_even": ((1, 3, 2, 2), (4, 4, 2, 2), {"strides": (2, 1)}),
    "2d_valid": ((1, 3, 3, 2), (3, 2, 2, 3), {"strides": 2, "padding": "VALID"}),
    "2d_dilated": ((1, 3, 3, 2), (2, 3, 2, 2), {"dilation": 2, "strides": (1, 2)}),
    "2d_dilated_valid": ((1, 2, 3, 1), (2, 2, 1, 2), {"dilation": (2, 1), "strides": 2, "padding": "VALID"}),
    "2d_explicit": ((1, 3, 3, 2), (3, 3, 2, 2), {"padding": ((0, 1), (3, 2)), "strides": 2}),
    "2d_int": ((1, 3, 2, 2), (3, 3, 2, 2), {"padding": 1, "strides": 2}),
    "2d_empty_batch": ((0, 3, 3, 2), (3, 3, 2, 2), {"strides": 2}),
    "3d": ((1, 2, 3, 2, 2), (2, 2, 2, 2, 2), {"strides": (2, 1, 2)}),
}


def takes(implementation, kernel_shape, *, strides=1, dilation=1, groups=1, **_):
    """Whether the implementation is for this kind of convolution."""
    if implementation == "winograd":
        return kernel_shape[:-2] == (3, 3) and strides == dilation == groups == 1
    return implementation != "im2col" or groups == 1


RUNS = [
    pytest.param(case, implementation, id=f"{implementation}-{name}")
    for implementation in IMPLEMENTATIONS
    for name, case in CASES.items()
    if takes(implementation, case[1], **case[2])
    # More shapes of Winograd would only add minutes of compiling.
    and (implementation != "winograd" or ("3x3" in name and "wide" not in name))
]


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


@functools.cache
def expected(kind, x_shape, kernel_shape, settings):
    """((x, kernel, bias), their tangents, dy) and what the reference makes of them: (y, gradients, tangent of y)."""
    conv = kind(x_shape, kernel_shape, **dict(settings))
    primals = x, kernel, bias = draw(0, x_shape, kernel_shape, kernel_shape[-1:])
    tangents = dx, dkernel, dbias = draw(1, x_shape, kernel_shape, kernel_shape[-1:])
    (dy,) = draw(2, conv.y_shape)
    tangent = conv(dx, kernel) + conv(x, dkernel) + dbias
    return (primals, tangents, dy), (conv(x, kernel, bias), conv.gradients(x, kernel, dy), tangent)


def check(op, kind, case, dtype):
    """Compares value, reverse mode and forward mode in one compiled program."""
    x_shape, kernel_shape, settings = case
    inputs, want = expected(kind, x_shape, kernel_shape, tuple(settings.items()))

    @jax.jit
    def run(primals, tangents, dy):
        y, pull = jax.vjp(op, *primals)
        return y, pull(dy), jax.jvp(op, primals, tangents)[1]

    got = run(*jax.tree.map(lambda a: jnp.asarray(a, dtype), inputs))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance(dtype)), got, want)


@pytest.mark.parametrize(("case", "implementation"), RUNS)
def test_conv_matches_the_loop(case, implementation, x64):
    op = functools.partial(ops.conv, **case[2], implementation=implementation)
    check(op, reference.Conv, case, "float64")


@pytest.mark.parametrize("name", ["2d_odd_same", "2d_groups", "2d_3x3"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_conv_in_single_precision(name, implementation):
    case = CASES[name]
    if takes(implementation, case[1], **case[2]):
        check(functools.partial(ops.conv, **case[2], implementation=implementation), reference.Conv, case, "float32")


@pytest.mark.parametrize(("implementation", "rows"), [("im2col", 1), ("im2col", 2), ("winograd", 2)])
def test_a_batch_in_chunks(implementation, rows, x64, monkeypatch):
    """Large batches are worked through in parts; here a part is a row or two."""
    case = ((4, 4, 5, 2), (3, 3, 2, 3), {})
    values = 36 * 2 * 3 if implementation == "winograd" else 4 * 5 * 9 * 2
    monkeypatch.setattr(_chunks, "_CHUNK_BYTES", rows * values * 8)
    check(functools.partial(ops.conv, implementation=implementation), reference.Conv, case, "float64")


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose_matches_the_loop(case, x64):
    check(functools.partial(ops.conv_transpose, **case[2]), reference.ConvTranspose, case, "float64")


def test_conv_transpose_in_single_precision():
    case = TRANSPOSED["2d_same"]
    op = functools.partial(ops.conv_transpose, **case[2], precision="highest")
    check(op, reference.ConvTranspose, case, "float32")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hessian_is_the_list_of_products(implementation, x64):
    x_shape, kernel_shape = (1, 2, 2, 1), (3, 3, 1, 2)
    x, kernel = map(jnp.asarray, draw(0, x_shape, kernel_shape))
    conv = reference.Conv(x_shape, kernel_shape)
    (dy,) = draw(1, conv.y_shape)
    want = np.zeros(x_shape + kernel_shape)
    for i, j, k in conv.products():
        want[j + k] += dy[i]

    def weighted(x, kernel):
        return jnp.sum(ops.conv(x, kernel, implementation=implementation) * dy)

    both = (0, 1)
    modes = [jax.hessian(weighted, both)]
    if implementation == "auto":
        modes += [jax.jacrev(jax.grad(weighted, both), both), jax.jacrev(jax.jacfwd(weighted, both), both)]
    for (x_x, x_kernel), (kernel_x, kernel_kernel) in jax.jit(lambda x, k: [mode(x, k) for mode in modes])(x, kernel):
        np.testing.assert_allclose(x_kernel, want, **tolerance("float64"))
        np.testing.assert_allclose(np.moveaxis(kernel_x, range(4), range(4, 8)), want, **tolerance("float64"))
        assert not np.any(x_x)
        assert not np.any(kernel_kernel)


@pytest.mark.parametrize(("implementation", "groups"), [("auto", 1), ("auto", 2), ("xla", 2), ("im2col", 1)])
def test_jit_vmap_and_checkpoint_change_nothing(implementation, groups, x64):
    op = functools.partial(ops.conv, groups=groups, implementation=implementation)
    x, kernel, bias = map(jnp.asarray, draw(0, (3, 2, 4, 5, 4), (3, 3, 3, 4 // groups, 2), (3, 2)))

    def both(x, kernel, bias, op=op):
        gradients = jax.grad(lambda *a: jnp.sum(jnp.sin(op(*a))), argnums=(0, 1, 2))(x, kernel, bias)
        return op(x, kernel, bias), gradients

    @jax.jit
    def mapped(x, kernel, bias):
        over_x = jax.vmap(op, (0, None, None))(x, kernel[0], bias[0])
        over_kernel = jax.vmap(op, (None, 0, 0))(x[0], kernel, bias)
        return jax.vmap(both)(x, kernel, bias), over_x, over_kernel

    one = jax.jit(both)
    rows = [one(x[i], kernel[i], bias[i]) for i in range(3)]
    over_x = jnp.stack([one(x[i], kernel[0], bias[0])[0] for i in range(3)])
    over_kernel = jnp.stack([one(x[0], kernel[i], bias[i])[0] for i in range(3)])
    want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), over_x, over_kernel
    assert_equal = functools.partial(np.testing.assert_allclose, **tolerance("float64"))
    jax.tree.map(assert_equal, mapped(x, kernel, bias), want)
    assert_equal(op(x[0], kernel[0], bias[0]), rows[0][0])
    checkpointed = jax.jit(functools.partial(both, op=jax.checkpoint(op)))(x[0], kernel[0], bias[0])
    jax.tree.map(assert_equal, checkpointed, rows[0])


def test_vmap_of_winograd(x64):
    op = functools.partial(ops.conv, implementation="winograd")
    x, kernel = map(jnp.asarray, draw(0, (2, 1, 4, 5, 2), (2, 3, 3, 2, 2)))
    want = jnp.stack([ops.conv(x[i], kernel[i], implementation="xla") for i in range(2)])
    np.testing.assert_allclose(jax.jit(jax.vmap(op))(x, kernel), want, **tolerance("float64"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_accumulates_in_float32(implementation):
    op = functools.partial(ops.conv, implementation=implementation)
    x_shape, kernel_shape, _ = CASES["2d_3x3"]
    inputs = [jnp.asarray(a, jnp.bfloat16) for a in draw(0, x_shape, kernel_shape)]
    y = jax.jit(op)(*inputs)
    want = reference.Conv(x_shape, kernel_shape)(*(np.asarray(a, np.float64) for a in inputs))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), want, **tolerance("bfloat16"))

    # Ones summed in bfloat16 stop at 256. Each of the three sums here has 9 * 100 terms in the middle.
    x, kernel = jnp.ones((1, 12, 12, 100), jnp.bfloat16), jnp.ones((3, 3, 100, 100), jnp.bfloat16)

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(functools.partial(op, padding="VALID"), x, kernel)
        return y, *pull(jnp.ones_like(y))

    y, dx, dkernel = run(x, kernel)
    for got, want in ((y, 900), (dx[:, 2:-2, 2:-2], 900), (dkernel, 100)):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **tolerance("bfloat16"))


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_inside_a_scan(implementation, x64):
    """Where XLA's own convolution on a CPU takes another path than outside."""
    x, kernel = map(jnp.asarray, draw(0, (2, 4, 4, 2), (3, 3, 2, 2)))

    def gradient(kernel):
        return jax.grad(lambda k: jnp.sum(jnp.sin(ops.conv(x, k, implementation=implementation))))(kernel)

    def step(kernel, _):
        return kernel - 0.1 * gradient(kernel), None

    def twice(kernel):
        return jax.lax.scan(step, kernel, length=2)[0], step(step(kernel, None)[0], None)[0]

    np.testing.assert_allclose(*jax.jit(twice)(kernel), **tolerance("float64"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_exports_for_every_platform_with_any_batch(implementation):
    (batch,) = jax.export.symbolic_shape("b")
    x, kernel = jax.ShapeDtypeStruct((batch, 6, 6, 2), jnp.float32), jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32)

    def gradients(x, kernel):
        return jax.grad(lambda *a: jnp.sum(ops.conv(*a, implementation=implementation) ** 2), argnums=(0, 1))(x, kernel)

    exported = jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(x, kernel)
    assert exported.out_avals[0].shape == x.shape
    if implementation == "auto":
        inputs = [jnp.asarray(a, jnp.float32) for a in draw(0, (3, 6, 6, 2), kernel.shape)]
        for got, want in zip(exported.call(*inputs), jax.jit(gradients)(*inputs), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)  # gradients of order ten


def test_bias_is_optional():
    x, kernel = map(jnp.asarray, draw(0, (1, 3, 2), (2, 2, 4)))
    for op in (ops.conv, ops.conv_transpose):
        np.testing.assert_array_equal(op(x, kernel), op(x, kernel, jnp.zeros(4)))


X, K = jnp.zeros((2, 5, 6, 4)), jnp.zeros((3, 3, 4, 8))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((X[0, 0], K), {}, r"x.*\(6, 4\)"),
        ((X[None, None], K[None, None]), {}, r"x.*\(1, 1, 2, 5, 6, 4\)"),
        ((X, K[0]), {}, r"kernel.*\(3, 4, 8\)"),
        ((X, K[:, :, :3]), {}, r"x has 4 .*kernel.* 3"),
        ((X, K, jnp.zeros(7)), {}, r"bias.*\(7,\).*8"),
        ((X, K), {"strides": 0}, "strides.* 0"),
        ((X, K), {"strides": (1, 2, 1)}, r"strides.*\(1, 2, 1\)"),
        ((X, K), {"dilation": (1,)}, r"dilation.*\(1,\)"),
        ((X, K), {"padding": "same"}, "padding.*'same'.*'SAME'"),
        ((X, K), {"padding": ((1, 1),)}, r"padding.*\(\(1, 1\),\)"),
        ((X, K), {"padding": -1}, "padding.*-1"),
    ],
)
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_errors_name_op_argument_and_what_came(op, arguments, settings, message, own_errors):
    with pytest.raises(ValueError, match=f"^{op}: .*{message}"):
        jax.eval_shape(functools.partial(getattr(ops, op), **settings), *arguments)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((X, K), {"groups": 3}, "x has 4 channels .*kernel expects 4 in each of 3 groups"),
        ((X, K), {"groups": 0}, "x has 4 channels .*kernel.* of 0 groups"),
        ((X, K[:, :, :2]), {"groups": 4}, "x has 4 channels .*kernel expects 2 in each of 4 groups"),
        ((X, K[:, :, :2, :5]), {"groups": 2}, "x .*kernel.* of 2 groups, .* 5 features must divide"),
        ((X, K), {"implementation": "fast"}, "implementation.*'fast'.*im2col"),
        ((X, K), {"implementation": "winograd", "strides": 2}, r"implementation.*strides.*\(2, 2\)"),
        ((X, K[:, :, :2]), {"implementation": "im2col", "groups": 2}, "implementation.*im2col.*groups.* 2"),
    ],
)
def test_errors_of_conv_alone(arguments, settings, message, own_errors):
    with pytest.raises(ValueError, match=f"^conv: .*{message}"):
        jax.eval_shape(functools.partial(ops.conv, **settings), *arguments)
