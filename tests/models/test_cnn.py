"""The small models: sizes, types, what training changes, and that they learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.models import MLP, ConvNet, LeNet5, Mirrored, SmallCNN
from tests.models.learning import learn

KEY = jax.random.key(0)


def images(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def outline(model, x):
    """Shapes and types of the logits and the variables, without computing them."""
    return jax.eval_shape(lambda x: model.init_with_output(KEY, x), x)


def parameters(model, x):
    return sum(math.prod(p.shape) for p in jax.tree.leaves(outline(model, x)[1]["params"]))


MNIST, DIGITS = images(2, 28, 28, 1), images(2, 8, 8, 1)


@pytest.mark.parametrize(
    ("model", "x", "count"),
    [
        (SmallCNN(), MNIST, 93_322),
        (SmallCNN(dense=128), MNIST, 93_322 + 64 * (576 + 1 + 10)),
        (SmallCNN(third_conv=False, dense=None), MNIST, 34_826),
        (SmallCNN(third_conv=False, dense=128), MNIST, 225_034),
        (SmallCNN(padding="SAME"), DIGITS, 320 + 18_496 + 36_928 + 257 * 64 + 650),
        (LeNet5(), MNIST, 61_706),
        (LeNet5(padding="VALID"), images(2, 32, 32, 1), 61_706),
        (ConvNet(), MNIST, 94_186),
        (ConvNet(widths=(8, 16), depth=2, pooling="flatten"), MNIST, 9 * (8 + 64 + 128 + 256) + 2 * 48 + 7850),
        (MLP(), DIGITS, 65 * 64 + 65 * 10),
        (MLP(hidden=(32, 16), classes=3), images(2, 5), 6 * 32 + 33 * 16 + 17 * 3),
    ],
    ids=str,
)
def test_parameters_and_shapes(model, x, count):
    logits, variables = outline(model, x)
    assert logits.shape == (2, model.classes)
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(variables["params"])) == count


MODELS = [SmallCNN(padding="SAME", dropout=0.5), ConvNet(widths=(4, 8), dropout=0.5), LeNet5(), MLP(dropout=0.5)]
by_name = pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)


@by_name
def test_types(model):
    for x_dtype, dtype, want in (
        ("bfloat16", None, "bfloat16"),
        ("float32", jnp.bfloat16, "bfloat16"),
        ("bfloat16", jnp.float32, "float32"),
    ):
        logits, variables = outline(model.clone(dtype=dtype), images(2, 12, 12, 1, dtype=x_dtype))
        assert logits.dtype == want
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@by_name
def test_it_learns_and_training_differs_from_evaluation(model):
    run = learn(model, (8, 12, 12, 1), rate=0.03, steps=30)
    assert run.finite
    assert run.last < 0.8 * run.first
    assert np.allclose(run.in_training, run.in_evaluation, atol=1e-5) == isinstance(model, LeNet5)


def test_batch_statistics_are_a_running_mean():
    model = ConvNet(widths=(4,))
    x = 3 + jax.random.normal(KEY, (4, 6, 6, 1))
    variables = model.init(KEY, x)
    _, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    kernel = variables["params"]["stage1_conv1"]["kernel"]
    mean = ops.max_pool(ops.conv(x, kernel), 2).mean((0, 1, 2))
    np.testing.assert_allclose(changed["batch_stats"]["stage1_conv1_norm"]["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "settings", "x", "error", "message"),
    [
        (SmallCNN, {}, DIGITS, ValueError, r"images are 8x8, wanted at least 18x18 \(padding='SAME' takes 4x4\)"),
        (SmallCNN, {"third_conv": False}, images(2, 30, 9, 1), ValueError, "images are 30x9, wanted at least 10x10"),
        (SmallCNN, {"padding": "SAME"}, images(2, 3, 8, 1), ValueError, "images are 3x8, wanted at least 4x4"),
        (SmallCNN, {}, images(2, 28, 28), ValueError, r"x must be images \[B, H, W, C\], got x.shape=\(2, 28, 28\)"),
        (SmallCNN, {}, images(2, 28, 28, 1, dtype=jnp.uint8), TypeError, "x must be floating, got uint8"),
        (LeNet5, {"padding": "VALID"}, images(2, 15, 16, 1), ValueError, "images are 15x16, wanted at least 16x16"),
        (ConvNet, {}, images(2, 7, 8, 3), ValueError, "images are 7x8, wanted at least 8x8"),
        (ConvNet, {"pooling": "max"}, MNIST, ValueError, "pooling must be 'average' or 'flatten', got 'max'"),
        (MLP, {}, images(2, 5, dtype=jnp.int32), TypeError, "x must be floating, got int32"),
    ],
)
def test_bad_input_is_named(make, settings, x, error, message, own_errors):
    with pytest.raises(error, match=f"^{make.__name__}: {message}"):
        outline(make(**settings), x)


@pytest.mark.parametrize(
    ("model", "size"),
    [(SmallCNN(), 18), (SmallCNN(third_conv=False), 10), (SmallCNN(padding="SAME"), 4), (LeNet5(), 12), (ConvNet(), 8)],
    ids=str,
)
def test_the_smallest_images_work(model, size):
    logits, variables = outline(model, images(2, size, size, 1))
    assert logits.shape == (2, 10)
    assert all(0 not in p.shape for p in jax.tree.leaves(variables))


def test_mirror_images_count_once_trained():
    inner = SmallCNN(classes=3, padding="SAME", dropout=0.5)
    model, x = Mirrored(inner), jax.random.normal(KEY, (2, 8, 8, 1))
    variables = inner.init(KEY, x)
    assert jax.tree.structure(jax.eval_shape(model.init, KEY, x)) == jax.tree.structure(variables)
    want = (inner.apply(variables, x) + inner.apply(variables, x[:, :, ::-1])) / 2
    np.testing.assert_allclose(model.apply(variables, x), want, rtol=1e-5, atol=1e-6)
    got, same = (m.apply(variables, x, train=True, rngs={"dropout": KEY}) for m in (model, inner))
    np.testing.assert_array_equal(got, same)
