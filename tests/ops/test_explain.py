"""What operations take on a platform, told from the program alone."""

import jax
import jax.numpy as jnp
import pytest

from jaxnets import layers, ops


def told(function, *args, **options):
    return [(choice.module, choice.op, choice.implementation) for choice in ops.explain(function, *args, **options)]


@pytest.mark.parametrize(("platform", "taken"), [("cpu", "winograd"), ("cuda", "xla"), ("tpu", "xla")])
def test_convolutions_of_a_gradient(platform, taken):
    layer = layers.Conv(16, 3, name="first")
    x = jax.ShapeDtypeStruct((32, 8, 8, 16), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda variables, x: layer.apply(variables, x).sum(), (0, 1)))
    got = told(gradient, variables, x, platform=platform)
    assert sorted(op for _, op, _ in got) == ["conv", "conv_input_gradient", "conv_kernel_gradient"]
    assert {implementation for _, _, implementation in got} == {taken}


@pytest.mark.parametrize(
    ("options", "batch", "why"),
    [
        ({"implementation": "xla"}, 32, "asked for"),
        ({"strides": 2}, 32, "not a plain 3x3"),
        ({}, 1, "fewer than 128 tiles"),
        ({"padding": ((2, 0), (2, 0))}, 32, "to one side"),
        ({"precision": "highest"}, 32, "a precision"),
    ],
)
def test_the_reason_is_given(options, batch, why):
    arrays = jax.ShapeDtypeStruct((batch, 8, 8, 16), jnp.float32), jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)
    (choice,) = ops.explain(lambda x, kernel: ops.conv(x, kernel, **options), *arrays, platform="cpu")
    assert why in choice.why
    assert str(choice) == f"conv: {choice.implementation}, {choice.why}"


@pytest.mark.parametrize(("platform", "linear"), [("cpu", "sequential"), ("cuda", "associative")])
def test_recurrences_by_layer(platform, linear):
    model = layers.Stack((layers.LSTM(4), layers.GRU(4, implementation="newton"), layers.MinGRU(4)))
    x = jax.ShapeDtypeStruct((2, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    for function in (model.apply, jax.grad(lambda variables, x: model.apply(variables, x)[0].sum())):
        got = told(function, variables, x, platform=platform)
        assert got == [
            ("Stack/layers_0", "lstm", "scan"),
            ("Stack/layers_1", "gru", "newton"),
            ("Stack/layers_2", "linear_recurrence", linear),
        ]


def test_nothing_to_explain():
    assert ops.explain(jnp.sin, jnp.ones(3)) == []
