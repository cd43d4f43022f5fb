"""The convolutional layers: their parameters, the op they call, their types and their errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.layers import Conv, ConvTranspose
from tests.reference.tolerance import tolerance

KEY = jax.random.key(0)


def ramp(*shape, dtype=jnp.float32):
    return jnp.sin(jnp.arange(np.prod(shape))).reshape(shape).astype(dtype)


CONVS = {
    "1d_causal": ((2, 6, 3), {"kernel_size": 3, "padding": "CAUSAL", "dilation": 2}),
    "2d": ((2, 5, 6, 4), {"kernel_size": (3, 2), "strides": 2}),
    "2d_groups": ((1, 4, 4, 4), {"kernel_size": 2, "groups": 2, "padding": "VALID"}),
    "2d_without_bias": ((1, 4, 4, 2), {"kernel_size": 3, "use_bias": False, "padding": ((1, 0), (2, 1))}),
    "3d": ((1, 3, 3, 2, 2), {"kernel_size": 2, "strides": (1, 2, 1)}),
}


@pytest.mark.parametrize(("shape", "settings"), CONVS.values(), ids=CONVS)
def test_conv_is_its_op_and_flax_conv(shape, settings):
    x, rank = ramp(*shape), len(shape) - 2
    layer = Conv(6, **settings)
    y, variables = jax.jit(layer.init_with_output)(KEY, x)
    params = variables["params"]
    assert set(params) == ({"kernel", "bias"} if layer.use_bias else {"kernel"})
    assert params["kernel"].shape == (*(params["kernel"].shape[:rank]), shape[-1] // layer.groups, 6)

    keys = {"strides", "padding", "dilation", "groups"} & set(settings)
    np.testing.assert_array_equal(
        y, jax.jit(lambda p, x: ops.conv(x, p["kernel"], p.get("bias"), **{k: settings[k] for k in keys}))(params, x)
    )

    size = settings["kernel_size"]
    flax = nn.Conv(
        6,
        (size,) * rank if isinstance(size, int) else size,
        strides=layer.strides,
        padding=layer.padding,
        kernel_dilation=layer.dilation,
        feature_group_count=layer.groups,
        use_bias=layer.use_bias,
    )
    np.testing.assert_allclose(y, jax.jit(flax.apply)(variables, x), **tolerance("float32"))
    assert jax.tree.map(jnp.shape, jax.eval_shape(flax.init, KEY, x)) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [1, 2, (3, 2)])
def test_conv_transpose_is_its_op_and_flax_conv_transpose(padding, strides):
    x = ramp(2, 3, 4, 2)
    layer = ConvTranspose(5, (3, 2), strides=strides, padding=padding)
    y, variables = jax.jit(layer.init_with_output)(KEY, x)
    params = variables["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (3, 2, 2, 5), "bias": (5,)}
    same = ops.conv_transpose(x, params["kernel"], params["bias"], strides=strides, padding=padding)
    np.testing.assert_allclose(y, same, **tolerance("float32"))
    flax = nn.ConvTranspose(5, (3, 2), strides=(strides,) * 2 if isinstance(strides, int) else strides, padding=padding)
    np.testing.assert_allclose(y, flax.apply(variables, x), **tolerance("float32"))


@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
def test_types(kind, x64):
    for x_dtype, dtype, want in (
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("float64", None, "float64"),
        ("float32", jnp.bfloat16, "bfloat16"),
        ("bfloat16", jnp.float32, "float32"),
    ):
        layer = kind(4, 3, dtype=dtype)
        y, variables = jax.eval_shape(layer.init_with_output, KEY, jax.ShapeDtypeStruct((2, 4, 4, 3), x_dtype))
        assert y.dtype == want
        assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = jax.eval_shape(kind(4, 3, param_dtype=jnp.bfloat16).init, KEY, jax.ShapeDtypeStruct((2, 4, 4, 3), "float32"))
    assert {p.dtype for p in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}


def test_bfloat16_stays_near_float32():
    x = ramp(2, 5, 5, 3, dtype=jnp.bfloat16)
    layer = Conv(4, 3)
    variables = layer.init(KEY, x)
    want = layer.apply(variables, x.astype(jnp.float32))
    got = layer.apply(variables, x)
    np.testing.assert_allclose(np.asarray(got, np.float32), want, **tolerance("bfloat16"))


X = jnp.zeros((2, 5, 6, 4))


@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
@pytest.mark.parametrize(
    ("x", "kernel_size", "error", "message"),
    [
        (X[0, 0], 3, ValueError, r"x must be \[B, \*spatial, C\].*x.shape=\(6, 4\)"),
        (X[0], (3, 3), ValueError, r"kernel_size=\(3, 3\) must be 1 .*x.shape=\(5, 6, 4\)"),
        (X, 0, ValueError, "kernel_size=0 must be 2 positive"),
        (X.astype(jnp.uint8), 3, TypeError, "x must be floating, got uint8"),
    ],
)
def test_bad_input_is_named_before_any_parameter(kind, x, kernel_size, error, message, own_errors):
    def never(*_):
        raise AssertionError("a parameter was made")

    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(8, kernel_size, kernel_init=never).init(KEY, x)


@pytest.mark.parametrize("groups", [0, 3])
def test_bad_groups(groups):
    with pytest.raises(ValueError, match=f"^Conv: groups={groups} must divide x's 4 channels and features=8"):
        Conv(8, 3, groups=groups).init(KEY, X)


@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
def test_other_channels_than_the_parameters(kind):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return kind(8, 3, name="first")(x)

    variables = Model().init(KEY, X)
    name = (
        rf"{kind.__name__} \(first\): x has 3 channels, which take a kernel \(3, 3, 3, 8\), but params\['kernel'\] is "
    )
    with pytest.raises(ValueError, match=name + r"\(3, 3, 4, 8\)"):
        Model().apply(variables, X[..., :3])


def test_unknown_settings_come_from_the_op(own_errors):
    with pytest.raises(ValueError, match=r"^conv: .*padding.*'FULL'"):
        Conv(8, 3, padding="FULL").init(KEY, X)
