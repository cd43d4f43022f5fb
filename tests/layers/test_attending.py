"""Attention of a recurrent decoder: it equals the ops, streams over its memory, and obeys the laws."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops, testing
from jaxnets.layers import (
    GRU,
    LSTM,
    AdditiveAttention,
    Attending,
    CrossAttention,
    MultiplicativeAttention,
    Stack,
    initial_carry,
)
from tests.reference.tolerance import tolerance

RNG = np.random.default_rng(0)
X, MEMORY = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((2, 4, 3), (2, 5, 6)))
LENGTHS, MEMORY_LENGTHS = jnp.array([4, 2]), jnp.array([5, 3])
LAYERS = {
    "fed": Attending(GRU(4), AdditiveAttention(3), 5, feed=True),
    "plain": Attending(LSTM(4), MultiplicativeAttention(), 5),
    "fed heads": Attending(LSTM(4), CrossAttention(2), 5, feed=True),
}
by_name = pytest.mark.parametrize("name", LAYERS)


@pytest.mark.parametrize(
    ("layer", "op"),
    [(AdditiveAttention(3), ops.additive_attention), (MultiplicativeAttention(), ops.multiplicative_attention)],
    ids=["additive", "multiplicative"],
)
def test_the_layer_is_the_op_and_keeps_its_memory(layer, op):
    variables, run = jax.jit(layer.init)(jax.random.key(0), X, memory=MEMORY), jax.jit(layer.apply)
    op = jax.jit(partial(op, lengths=LENGTHS, key_lengths=MEMORY_LENGTHS))
    want, _ = op(variables["params"], X, MEMORY, MEMORY)
    dirty = jnp.where(ops.time_mask(MEMORY_LENGTHS, 5)[..., None], MEMORY, jnp.nan)
    given = {"memory": dirty, "memory_lengths": MEMORY_LENGTHS}
    got, carry = run(variables, X, lengths=LENGTHS, **given)
    np.testing.assert_allclose(got, want, **tolerance("float32"))
    _, kept = run(variables, X[:, :0], **given)
    jax.tree.map(np.testing.assert_array_equal, kept, carry)
    np.testing.assert_allclose(run(variables, X[:, 1:2], carry=carry)[0], want[:, 1:2], **tolerance("float32"))


def test_a_step_sees_what_the_last_one_gave():
    """With input feeding, by hand: one GRU step, one look, one product."""
    layer = LAYERS["fed"]
    variables = jax.jit(layer.init)(jax.random.key(0), X, memory=MEMORY)
    params = variables["params"]

    @jax.jit
    def step(x, fed, carry):
        h, carry = ops.gru_step(params["layer"], jnp.concatenate([x, fed], axis=1), carry)
        context, _ = ops.additive_attention(params["attention"], h[:, None], MEMORY, MEMORY)
        return jnp.tanh(jnp.concatenate([h, context[:, 0]], axis=1) @ params["out"]["kernel"]), carry

    fed, carry, outputs = jnp.zeros((2, 5)), ops.GRUCarry(jnp.zeros((2, 4))), []
    for t in range(4):
        fed, carry = step(X[:, t], fed, carry)
        outputs.append(fed)
    got, _ = jax.jit(layer.apply)(variables, X, memory=MEMORY)
    np.testing.assert_allclose(got, jnp.stack(outputs, axis=1), **tolerance("float32"))


@pytest.mark.exhaustive
def test_a_stack_of_them_begins_without_its_memory():
    layer = Stack(
        (Attending(GRU(4), AdditiveAttention(3), 5), GRU(4), Attending(GRU(4), CrossAttention(2), 3, feed=True))
    )
    variables = layer.init(jax.random.key(0), X, memory=MEMORY)
    whole, _ = layer.apply(variables, X, memory=MEMORY)
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct(X.shape, X.dtype))
    first, carry = layer.apply(variables, X[:, :1], memory=MEMORY, carry=carry)
    rest, _ = layer.apply(variables, X[:, 1:], carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), whole, **tolerance("float32"))


class Remembering(nn.Module):
    """A layer that attends, over a memory that stays the same."""

    layer: nn.Module
    constant: bool = False

    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        carry = self.begin(x) if carry is None else carry
        if self.constant:
            carry = carry._replace(memory=jax.lax.stop_gradient(carry.memory))
        return self.layer(x, lengths=lengths, starts=starts, carry=carry, train=train)

    def begin(self, x):
        memory = jnp.asarray(np.random.default_rng(1).standard_normal((4, 5, 6)), x.dtype)[: x.shape[0]]
        lengths = jnp.array([5, 3, 0, 1])[: x.shape[0]]
        empty = jnp.zeros((x.shape[0], 0, x.shape[2]), x.dtype)
        return self.layer(empty, memory=memory, memory_lengths=lengths)[1]


@pytest.mark.exhaustive
@pytest.mark.parametrize("constant", [False, True], ids=["", "constant memory"])
@by_name
def test_laws(name, constant):
    """Sequences packed in one row share its memory, whose gradient is then of all of them: packing has it constant."""
    layer = Remembering(LAYERS[name], constant)
    testing.check_sequence_layer(
        layer,
        laws=["packing"] if constant else [law for law in testing.LAWS if law != "packing"],
        initial_carry=lambda variables, spec: layer.apply(variables, spec, method="begin"),
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [AdditiveAttention(3), MultiplicativeAttention(), CrossAttention(2)])
def test_laws_of_attention_to_a_memory(layer):
    layer = Remembering(layer)
    testing.check_sequence_layer(
        layer,
        starts=False,
        initial_carry=lambda variables, spec: layer.apply(variables, spec, method="begin"),
    )


@pytest.mark.parametrize(
    ("layer", "options", "error", "message"),
    [
        (AdditiveAttention(3), {}, ValueError, "wants either memory or a carry, but has neither"),
        (AdditiveAttention(0), {"memory": MEMORY}, ValueError, "features wants at least 1 but is 0"),
        (AdditiveAttention(3), {"carry": ()}, TypeError, "carry wants an AlignmentCache but is tuple"),
        (MultiplicativeAttention(), {"memory": MEMORY[:1]}, ValueError, "memory has 1 rows but x 2"),
        (MultiplicativeAttention(), {"memory": MEMORY[0]}, ValueError, "memory: x wants"),
        (
            MultiplicativeAttention(),
            {"memory": MEMORY, "starts": jnp.ones((2, 4), bool)},
            ValueError,
            "starts wants None",
        ),
        (LAYERS["fed"], {}, ValueError, "has neither"),
        (LAYERS["fed"], {"carry": ()}, TypeError, "carry wants an AttendingCarry but is tuple"),
        (Attending(GRU(4), CrossAttention(2), 0), {"memory": MEMORY}, ValueError, "features wants at least 1"),
        (Stack((GRU(4),)), {"memory": MEMORY}, ValueError, "memory is given but no layer attends to it"),
    ],
)
def test_errors(own_errors, layer, options, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: layer.init(jax.random.key(0), X, **options))


def test_a_carry_goes_with_its_layer(own_errors):
    layer = LAYERS["fed"]
    (_, carry), variables = jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), X, memory=MEMORY))
    with pytest.raises(ValueError, match=r"carry\.fed does not go with feed=True"):
        jax.eval_shape(layer.apply, variables, X, carry=carry._replace(fed=()))
    with pytest.raises(ValueError, match="has both"):
        jax.eval_shape(layer.apply, variables, X, carry=carry, memory=MEMORY)
