"""The Vision Transformer: sizes, types, what it learns of real digits, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import data, train
from jaxnets.models import ViT
from jaxnets.ops import cross_entropy

KEY = jax.random.key(0)
SMALL = ViT(classes=10, patch_size=2, features=8, depth=2, num_heads=2)


def outline(model, *shape, dtype=jnp.float32):
    """Shapes and types of the logits and the variables, without computing them."""
    return jax.eval_shape(lambda x: model.init_with_output(KEY, x), jax.ShapeDtypeStruct(shape, dtype))


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (ViT(), (1, 224, 224, 3), 22_050_664),
        (ViT(features=192, num_heads=3), (1, 224, 224, 3), 5_717_416),
        (SMALL.clone(pooling="mean"), (3, 8, 4, 1), 4 * 8 + 8 + 8 * 8 + 2 * (4 * 72 + 8 * 32 * 2 + 40 + 32) + 16 + 90),
    ],
    ids=["small", "tiny", "mean"],
)
def test_parameters_and_shapes(model, shape, count):
    logits, variables = outline(model, *shape)
    assert logits.shape == (shape[0], model.classes)
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(variables)) == count
    assert set(variables["params"]) - {"token"} == {"patch", "position", "layer", "norm", "head"}


def test_types():
    for x_dtype, dtype, want in (("bfloat16", None, "bfloat16"), ("float32", jnp.bfloat16, "bfloat16")):
        logits, variables = outline(SMALL.clone(dtype=dtype), 2, 8, 8, 1, dtype=x_dtype)
        assert logits.dtype == want
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("pooling", ["mean", pytest.param("token", marks=pytest.mark.exhaustive)])
def test_patches_are_known_by_their_place_alone(pooling):
    """Patches that change places change nothing, once their positions change places too."""
    model = SMALL.clone(pooling=pooling)
    x = jax.random.normal(KEY, (2, 4, 6, 1))
    params = jax.jit(model.init)(KEY, x)["params"]
    patches = x.reshape(2, 2, 2, 3, 2).swapaxes(2, 3).reshape(2, 6, 2, 2)
    turned = patches[:, ::-1].reshape(2, 2, 3, 2, 2).swapaxes(2, 3).reshape(x.shape)
    first = len(params["position"]) - 6
    position = jnp.concatenate([params["position"][:first], params["position"][first:][::-1]])
    run = jax.jit(lambda position, x: model.apply({"params": {**params, "position": position}}, x))
    want = run(params["position"], x)
    np.testing.assert_allclose(run(position, turned), want, atol=1e-5)
    assert not np.allclose(run(params["position"], turned), want, atol=1e-3)


@pytest.mark.exhaustive
@pytest.mark.optimised
def test_it_learns_digits():
    digits = data.load_images("digits")
    scaled, test = ({"x": part["x"] / np.float32(255), "y": part["y"]} for part in (digits.train, digits.test))
    model, steps = ViT(classes=10, patch_size=2, features=32, depth=3, num_heads=4, dropout=0.1), 600
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 3e-3, 100, steps), weight_decay=0.05)

    def loss(logits, batch):
        return cross_entropy(logits, batch["y"])

    batches = data.DeviceData(scaled, batch_size=64, seed=0)
    state = train.create(model, optimizer, batches.batch(batches.order(0), 0), key=KEY)
    state, _ = train.fit(state, train.make_step(model, optimizer, loss), batches, steps=steps)
    metrics = train.evaluate(
        train.make_eval_step(model, loss, metrics={"accuracy": train.accuracy}), state, data.batches(test, 128)
    )
    assert metrics["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("options", "x", "error", "message"),
    [
        ({}, jnp.ones((8, 8, 1)), ValueError, r"x must be images \[B, H, W, C\]"),
        ({}, jnp.ones((1, 1, 8, 1)), ValueError, "images are 1x8, wanted at least 2x2"),
        ({}, jnp.ones((1, 8, 7, 1)), ValueError, "images are 8x7, wanted multiples of patch_size=2"),
        ({}, jnp.ones((1, 8, 8, 1), jnp.uint8), TypeError, "x must be floating, got uint8"),
        ({"pooling": "max"}, jnp.ones((1, 8, 8, 1)), ValueError, "pooling must be 'token' or 'mean'"),
        ({"patch_size": 0}, jnp.ones((1, 8, 8, 1)), ValueError, "patch_size must be at least 1, got 0"),
        ({"num_heads": 3}, jnp.ones((1, 8, 8, 1)), ValueError, "wants a multiple of num_heads=3"),
    ],
)
def test_errors(own_errors, options, x, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(SMALL.clone(**options).init, KEY, x)


def test_images_of_another_size_are_refused():
    variables = jax.eval_shape(SMALL.init, KEY, jnp.ones((1, 8, 8, 1)))
    with pytest.raises(ValueError, match="images make 5 steps but were 17 when it was made"):
        jax.eval_shape(SMALL.apply, variables, jnp.ones((1, 4, 4, 1)))
