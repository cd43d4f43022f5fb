"""Encoder and decoder: they learn to copy and to reverse, stream, and do not see padding."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import layers, ops, testing
from jaxnets.models import Seq2Seq, recurrent_seq2seq, transformer_seq2seq
from tests.reference.tolerance import tolerance

MODELS = {
    "transformer": partial(transformer_seq2seq, 5, 8, 2, 2, hidden=8),
    "additive": partial(recurrent_seq2seq, 5, 6),
    "multiplicative": partial(recurrent_seq2seq, 5, 6, attention="multiplicative", feed=False),
    "deep": partial(recurrent_seq2seq, 5, 6, 2, layer=layers.LSTM, source_vocabulary=7, tied=False),
}
by_name = pytest.mark.parametrize("name", MODELS)
SOURCE = jnp.array([[4, 1, 2, 3, 3], [2, 2, 4, 1, 1], [3, 1, 1, 1, 2], [1, 4, 3, 2, 1]])
TARGET = jnp.array([[0, 2, 1, 4, 4, 3], [0, 1, 2, 3, 1, 1], [0, 3, 3, 3, 3, 2], [0, 4, 4, 1, 2, 2]])
SOURCE_LENGTHS, TARGET_LENGTHS = jnp.array([5, 2, 1, 0]), jnp.array([6, 3, 0, 2])


def made(name):
    model = MODELS[name]()
    return model, jax.jit(model.init)(jax.random.key(0), SOURCE, TARGET)


def value_and_gradient(logits_of, variables):
    """A curved function of the logits, and its gradient."""
    return jax.jit(jax.value_and_grad(lambda variables: jnp.sum(jnp.sin(logits_of(variables)))))(variables)


def task(key, rows, length, vocabulary, reverse):
    """Sources of tokens from 1, their lengths, the targets, and which rows are held out: a fourth of all sequences."""
    for_lengths, for_tokens = jax.random.split(key)
    lengths = jax.random.randint(for_lengths, (rows,), 1, length + 1)
    source = ops.zero_padding(jax.random.randint(for_tokens, (rows, length), 1, vocabulary), lengths)
    target = ops.reverse_sequence(source, lengths) if reverse else source
    return source, lengths, target, jnp.sum(source, axis=1) % 4 == 0


def learned(model, steps, rate, *, rows, length, vocabulary, reverse):
    """Part of the held-out tokens that the trained model says right, each after those that it said before."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))
    draw = partial(task, length=length, vocabulary=vocabulary, reverse=reverse)

    def loss(variables, key):
        source, lengths, target, held_out = draw(key, rows)
        given = jnp.pad(target, ((0, 0), (1, 0)))[:, :-1]
        logits, _ = model.apply(variables, source, given, source_lengths=lengths, target_lengths=lengths)
        taught = ops.time_mask(lengths, length) & ~held_out[:, None]
        return ops.cross_entropy(logits, target, where=taught).value

    @jax.jit
    def train(key):
        source, _, target, _ = draw(key, 1)
        variables = model.init(key, source, target)

        def step(state, key):
            variables, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(variables, key), opt_state)
            return (optax.apply_updates(variables, updates), opt_state), None

        return jax.lax.scan(step, (variables, optimizer.init(variables)), jax.random.split(key, steps))[0][0]

    @jax.jit
    def said(variables, source, lengths):
        def step(tokens, carry, lengths):
            return model.apply(variables, tokens, lengths=lengths, carry=carry, method="decode")

        carry = model.apply(variables, source, lengths=lengths, capacity=length + 1, method="begin")
        return ops.generate(step, ops.prefill(step, jnp.zeros_like(source[:, :1]), carry), length)[0].tokens

    source, lengths, target, held_out = draw(jax.random.key(1), 1000)
    right = said(train(jax.random.key(0)), source, lengths) == target
    return np.mean(np.asarray(right)[np.asarray(ops.time_mask(lengths, length) & held_out[:, None])])


def test_learns_to_reverse_short_sequences_in_no_time():
    model = recurrent_seq2seq(6, 16, attention="multiplicative", feed=False)
    assert learned(model, 300, 1e-2, rows=32, length=3, vocabulary=6, reverse=True) > 0.9


@pytest.mark.exhaustive
@pytest.mark.optimised
@pytest.mark.parametrize("reverse", [False, True], ids=["copy", "reverse"])
@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (transformer_seq2seq(8, 32, 2, 4), 3e-3),
        (recurrent_seq2seq(8, 32), 5e-3),
        (recurrent_seq2seq(8, 32, attention="multiplicative", feed=False), 5e-3),
    ],
    ids=["transformer", "additive", "multiplicative"],
)
def test_learns_to_copy_and_to_reverse(model, rate, reverse):
    assert learned(model, 1200, rate, rows=64, length=6, vocabulary=8, reverse=reverse) >= 0.99


def whole(model, variables):
    return model.apply(variables, SOURCE, TARGET, source_lengths=SOURCE_LENGTHS, target_lengths=TARGET_LENGTHS)[0]


def token_by_token(model, variables):
    carry = model.apply(variables, SOURCE, lengths=SOURCE_LENGTHS, capacity=6, method="begin")

    def step(carry, inputs):
        token, taken = inputs
        logits, carry = model.apply(variables, token[:, None], lengths=taken, carry=carry, method="decode")
        return carry, logits[:, 0]

    taken = ops.time_mask(TARGET_LENGTHS, 6).astype(jnp.int32)
    return jax.lax.scan(step, carry, (TARGET.T, taken.T))[1].swapaxes(0, 1)


def test_streams_token_by_token():
    model, variables = made("transformer")
    got, want = (jax.jit(partial(run, model))(variables) for run in (token_by_token, whole))
    np.testing.assert_allclose(got, want, **tolerance("float32"))


@pytest.mark.exhaustive
@by_name
def test_streams_token_by_token_in_value_and_gradient(name):
    model, variables = made(name)
    want, want_gradient = value_and_gradient(partial(whole, model), variables)
    got, gradient = value_and_gradient(partial(token_by_token, model), variables)
    np.testing.assert_allclose(got, want, **tolerance("float32"))
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance("float32")), gradient, want_gradient)


@pytest.mark.exhaustive
@by_name
def test_padding_is_inert_in_source_and_target(name):
    model, variables = made(name)

    def of(source, target):
        @jax.jit
        def run(variables, source, target):
            def logits(variables):
                lengths = {"source_lengths": SOURCE_LENGTHS, "target_lengths": TARGET_LENGTHS}
                return model.apply(variables, source, target, **lengths)[0]

            y, pull = jax.vjp(logits, variables)
            return y, pull(jnp.cos(y))

        return run(variables, source, target)

    def dirty(tokens, lengths, token):
        return jnp.where(ops.time_mask(lengths, tokens.shape[1]), tokens, token)

    clean = of(SOURCE, TARGET)
    assert not jnp.any(jnp.where(ops.time_mask(TARGET_LENGTHS, 6)[..., None], 0, clean[0]))
    for token in (2, 99, -1):
        got = of(dirty(SOURCE, SOURCE_LENGTHS, token), dirty(TARGET, TARGET_LENGTHS, token))
        jax.tree.map(np.testing.assert_array_equal, got, clean)
    alone = jax.jit(model.apply)(variables, SOURCE[1:2, :2], TARGET[1:2, :3])[0]
    np.testing.assert_allclose(clean[0][1:2, :3], alone, **tolerance("float32"))


class Decoder(nn.Module):
    """The decoder of a model as a layer by itself, over the memory of sources that stay the same."""

    stands_for = Seq2Seq  # in the table of laws x layers
    make: Any
    constant: bool = False
    dtype: Any = None

    def setup(self):
        self.model = self.make(dtype=self.dtype)

    def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
        carry = self.begin(x) if carry is None else carry
        if self.constant:
            kinds = layers.MemoryCache, layers.AlignmentCache
            carry = jax.tree.map(
                lambda part: jax.lax.stop_gradient(part) if isinstance(part, kinds) else part,
                carry,
                is_leaf=lambda part: isinstance(part, kinds),
            )
        return self.model.decode(x, lengths=lengths, starts=starts, carry=carry, train=train)

    def begin(self, x):
        rows = slice(x.shape[0])
        return self.model.begin(SOURCE[rows], lengths=SOURCE_LENGTHS[rows], capacity=x.shape[1])


@pytest.mark.exhaustive
@pytest.mark.parametrize("constant", [False, True], ids=["", "constant memory"])
@by_name
def test_the_decoder_obeys_the_laws(name, constant):
    """Sequences packed in one row share its memory, whose gradient is then of all of them: packing has it constant."""
    layer = Decoder(MODELS[name], constant)
    testing.check_sequence_layer(
        layer,
        jax.ShapeDtypeStruct((3, 6), jnp.int32),
        vocabulary=5,
        laws=["packing"] if constant else [law for law in testing.LAWS if law != "packing"],
        variables=None if name == "transformer" else moved(jax.jit(layer.init)(jax.random.key(0), TARGET)),
        initial_carry=lambda variables, spec: layer.apply(variables, spec, method="begin"),
    )


def moved(variables):
    """Away from where additive scores are all but linear, and the bias of them has no gradient to speak of."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: 2 * p + 0.2 * jnp.asarray(rng.standard_normal(p.shape), p.dtype), variables)


def count(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameters():
    attention, network, norm = 4 * 8 * 8, 2 * 8 * 32, 2 * 8
    blocks = 3 * (attention + network + 2 * norm) + 3 * (2 * attention + network + 3 * norm) + 2 * norm
    assert count(transformer_seq2seq(5, 8, 3, 2)) == 5 * 8 + blocks
    assert count(transformer_seq2seq(5, 8, 3, 2, tied=False)) == 5 * 8 + blocks + 8 * 5 + 5
    assert count(transformer_seq2seq(5, 8, 3, 2, source_vocabulary=7)) == (5 + 7) * 8 + blocks

    def gru(width):
        return width * 18 + 6 * 18 + 18 + 6

    looks = 6 * 6 + 12 * 6 + 6 + 6
    assert count(recurrent_seq2seq(5, 6)) == 5 * 6 + 2 * gru(6) + gru(12) + looks + (6 + 12) * 6
    deeper = 2 * gru(6) + 2 * gru(12) + 2 * gru(6) + 6 * 12 + (6 + 12) * 6
    options = {"attention": "multiplicative", "feed": False, "source_vocabulary": 7}
    assert count(recurrent_seq2seq(5, 6, 2, **options)) == (5 + 7) * 6 + deeper


@pytest.mark.exhaustive
def test_dropout_acts_in_training_alone():
    model = recurrent_seq2seq(5, 6, dropout=0.5)
    variables = jax.jit(model.init)(jax.random.key(0), SOURCE, TARGET)
    run = jax.jit(partial(model.apply, train=True))
    one, other = (run(variables, SOURCE, TARGET, rngs={"dropout": jax.random.key(i)})[0] for i in range(2))
    assert not np.allclose(one, other)


GRU_DECODER = layers.Attending(layers.GRU(6), layers.MultiplicativeAttention(), 6)


@pytest.mark.parametrize(
    ("model", "source", "target", "error", "message"),
    [
        (MODELS["additive"](), SOURCE.astype(float), TARGET, TypeError, "source wants tokens, of an integer dtype"),
        (MODELS["additive"](), SOURCE, TARGET[0], ValueError, r"x wants \[B, T\] but has shape \(6,\)"),
        (MODELS["additive"](), SOURCE[:2], TARGET, ValueError, "memory has 2 rows but x 4"),
        (Seq2Seq(layers.GRU(6), layers.GRU(6), 5, 6), SOURCE, TARGET, ValueError, "GRU, attends to no memory"),
        (
            Seq2Seq(layers.GRU(6), layers.Stack((layers.GRU(6),)), 5, 6),
            SOURCE,
            TARGET,
            ValueError,
            "no layer attends to it",
        ),
        (Seq2Seq(layers.GRU(6), GRU_DECODER, 5, 4, tied=True), SOURCE, TARGET, ValueError, "want 4 features .* has 6"),
    ],
)
def test_errors(own_errors, model, source, target, error, message):
    with pytest.raises(error, match=message):
        jax.eval_shape(model.init, jax.random.key(0), source, target)


def test_a_decoder_wants_a_memory_once_and_room(own_errors):
    model = MODELS["transformer"]()
    variables = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
    decode = partial(jax.eval_shape, partial(model.apply, method="decode"), variables, TARGET)
    with pytest.raises(ValueError, match="wants either memory or a carry, but has neither"):
        decode()
    carry = jax.eval_shape(partial(model.apply, capacity=4, method="begin"), variables, SOURCE)
    with pytest.raises(ValueError, match="but the cache has room for 4"):
        decode(carry=carry)
    with pytest.raises(ValueError, match="attention is 'both' but wants"):
        recurrent_seq2seq(5, 6, attention="both")
