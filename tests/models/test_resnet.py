"""Residual networks: the standard sizes, the residual start, and a few steps of learning."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.models import ResNet, resnet18, resnet34, resnet50
from tests.models.learning import learn

KEY = jax.random.key(0)


def outline(model, *shape, dtype=jnp.float32):
    return jax.eval_shape(lambda x: model.init_with_output(KEY, x), jax.ShapeDtypeStruct(shape, dtype))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("make", "imagenet", "cifar"),
    [(resnet18, 11_689_512, 11_173_962), (resnet34, 21_797_672, 21_282_122), (resnet50, 25_557_032, 23_520_842)],
)
def test_parameters_and_shapes(make, imagenet, cifar):
    logits, variables = outline(make(1000, stem="imagenet"), 2, 224, 224, 3)
    assert logits.shape == (2, 1000)
    assert count(variables["params"]) == imagenet
    logits, variables = outline(make(), 2, 32, 32, 3, dtype=jnp.bfloat16)
    assert logits.shape == (2, 10)
    assert logits.dtype == jnp.bfloat16
    assert count(variables["params"]) == cifar
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


SMALL = {"width": 4, "classes": 3}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_blocks_the_identity(bottleneck):
    """A block without a shortcut convolution passes on its (rectified) input; with scales of 1 it does not."""
    x = jax.random.normal(KEY, (2, 8, 8, 3))

    @jax.jit
    def difference(x):
        out = []
        for zero_init in (True, False):
            one, two = (ResNet((blocks,), bottleneck=bottleneck, zero_init=zero_init, **SMALL) for blocks in (1, 2))
            variables = two.init(KEY, x)
            shorter = {kind: {k: v for k, v in tree.items() if "block2" not in k} for kind, tree in variables.items()}
            out.append(jnp.max(jnp.abs(two.apply(variables, x) - one.apply(shorter, x))))
        return out

    identity, changed = difference(x)
    assert identity == 0
    assert changed > 1e-3


@pytest.mark.parametrize(
    "model",
    [ResNet((1, 1), **SMALL), ResNet((1,), bottleneck=True, stem="imagenet", **SMALL)],
    ids=["basic-cifar", "bottleneck-imagenet"],
)
def test_it_learns_and_training_differs_from_evaluation(model):
    run = learn(model, (6, 8, 8, 3), rate=0.1, steps=20)
    assert run.finite
    assert run.last < 0.8 * run.first
    assert not np.allclose(run.in_training, run.in_evaluation)


def test_bad_input_is_named(own_errors):
    with pytest.raises(ValueError, match=r"^ResNet: stem must be 'cifar' or 'imagenet', got 'tiny'"):
        outline(ResNet((1,), stem="tiny"), 2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"^ResNet: x must be images \[B, H, W, C\], got x.shape=\(2, 8, 8\)"):
        outline(resnet18(), 2, 8, 8)
    with pytest.raises(TypeError, match=r"^ResNet: x must be floating, got uint8"):
        outline(resnet18(), 2, 8, 8, 3, dtype=jnp.uint8)
