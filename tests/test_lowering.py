"""The programs that are measured lower for cuda and tpu from a CPU, at the sizes that they are measured at."""

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from jaxnets import layers, models, ops, train


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def of_layer(layer, x):
    """The gradient of a layer over time, with lengths."""
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(variables, x, lengths):
        return jnp.sum(jnp.square(layer.apply(variables, x, lengths=lengths)[0])) / 2

    return jax.grad(loss, argnums=(0, 1)), (variables, x, spec(x.shape[0], dtype=jnp.int32))


def attention():
    def loss(q, k, v):
        return jnp.sum(jnp.square(ops.dot_product_attention(q, k, v, causal=True))) / 2

    return jax.grad(loss, argnums=(0, 1, 2)), (spec(8, 512, 8, 64),) * 3


def decode():
    """A layer with a cache takes one token more."""
    layer, token = layers.SelfAttention(num_heads=8, head_dim=64), spec(8, 1, 512)
    variables = jax.eval_shape(layer.init, jax.random.key(0), token)
    cache = jax.eval_shape(lambda variables: layers.initial_carry(layer, variables, spec(8, 1024, 512)), variables)
    return lambda variables, token, carry: layer.apply(variables, token, carry=carry), (variables, token, cache)


def generation(model):
    """A prompt, and the loop of tokens after it."""
    prompt = spec(1, 32, dtype=jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), prompt)

    def write(variables, prompt):
        def step(tokens, carry, lengths):
            return model.apply(variables, tokens, lengths=lengths, carry=carry)

        carry = layers.initial_carry(model, variables, spec(1, 160, dtype=jnp.int32))
        return ops.generate(step, ops.prefill(step, prompt, carry), 128)[0].tokens

    return write, (variables, prompt)


def cnn():
    """A whole training step."""
    model, optimizer = models.SmallCNN(), optax.adam(1e-3)
    batch = {"x": spec(32, 28, 28, 1), "y": spec(32, dtype=jnp.int32)}
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key, batch: train.create(model, optimizer, batch, key=key), key, batch)
    return train.make_step(model, optimizer, lambda outputs, batch: ops.cross_entropy(outputs, batch["y"])), (
        state,
        batch,
    )


PROGRAMS = {
    "lstm": lambda: of_layer(layers.LSTM(64), spec(32, 100, 64)),
    "gru": lambda: of_layer(layers.GRU(64), spec(32, 100, 64)),
    "attention": attention,
    "decode": decode,
    "lstm_generation": lambda: generation(models.RecurrentLM(vocabulary=256, features=512)),
    "transformer_generation": lambda: generation(models.TransformerLM(256, features=256, depth=4, num_heads=4)),
    "cnn": cnn,
}


SLOWER = {"gru", "lstm_generation"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if name in SLOWER else ()) for name in PROGRAMS]
)
def test_lowers_for_every_accelerator(name):
    function, arguments = PROGRAMS[name]()
    leaves, tree = jax.tree.flatten(arguments)

    def flat(*leaves):
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    exported = jax.export.export(jax.jit(flat), platforms=("cuda", "tpu"))(*leaves)
    assert exported.platforms == ("cuda", "tpu")
    wanted = jax.tree.leaves(jax.eval_shape(function, *arguments))
    assert [(leaf.shape, leaf.dtype) for leaf in exported.out_avals] == [(leaf.shape, leaf.dtype) for leaf in wanted]
