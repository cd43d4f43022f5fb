import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxnets import layers, models, train


def rows(summary):
    return {layer.path: tuple(layer)[1:] for layer in summary.layers}


def test_convolutions_by_hand():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.Conv(6, (3, 2), feature_group_count=2, padding="VALID", name="grouped")(x)
            return nn.Dense(5, param_dtype=jnp.bfloat16)(nn.BatchNorm(use_running_average=not train)(x))

    found = train.summary(Model(), {"x": jax.ShapeDtypeStruct((7, 8, 8, 4), jnp.float32)})
    outputs = 7 * 6 * 7
    assert rows(found) == {
        "BatchNorm_0": (12, 48, 0),
        "Dense_0": (6 * 5 + 5, 70, 2 * outputs * 6 * 5),
        "grouped": (3 * 2 * 2 * 6 + 6, 312, 2 * outputs * 6 * 3 * 2 * 2),
    }
    assert found.total[1:] == tuple(map(sum, zip(*rows(found).values(), strict=True)))
    assert str(found).splitlines()[-1].split() == ["total", "125", "430", f"{found.total.flops:,}"]


def test_loops_and_inner_modules_count_where_they_stand():
    batch, time, width, heads = 2, 5, 6, 3
    x = {"x": jax.ShapeDtypeStruct((batch, time, width), jnp.float32)}
    lstm = rows(train.summary(layers.LSTM(4), x))
    assert lstm[""][2] == 2 * batch * time * (width + 4) * 16

    attention = rows(train.summary(layers.SelfAttention(heads, 4), x))
    assert sum(count for count, _, _ in attention.values()) == 4 * heads * 4 * width
    projections, products = 4 * 2 * batch * time * width * heads * 4, 2 * 2 * batch * heads * 4 * time * time
    assert sum(flops for _, _, flops in attention.values()) == pytest.approx(projections + products)


def test_the_counts_of_a_model_are_its_parameters():
    found = train.summary(models.SmallCNN(), {"x": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)})
    assert found.total.parameters == 93_322
    assert all(layer.flops for layer in found.layers)
