"""Attention layers: their laws, their cache, parity with Flax and PyTorch, and what they refuse."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import testing
from jaxnets.layers import (
    ALiBi,
    CausalConv,
    CrossAttention,
    LearnedPosition,
    RelativeBias,
    Repeated,
    Rotary,
    SelfAttention,
    SinusoidalPosition,
    Stack,
    TransformerBlock,
    initial_carry,
    transformer,
)
from jaxnets.layers.recurrent import GRU
from tests.reference.tolerance import tolerance

SPEC = jax.ShapeDtypeStruct((3, 9, 8), jnp.float32)
LAYERS = {
    "window": SelfAttention(4, num_kv_heads=2, window=3, position=Rotary()),
}
MORE_LAYERS = {
    "block": TransformerBlock(SelfAttention(2, position=Rotary()), gated=True, hidden=6, norm=nn.RMSNorm),
    "plain": SelfAttention(2, use_bias=True),
    "relative": SelfAttention(2, position=RelativeBias(8, 16), soft_cap=3.0),
    "window and bias": SelfAttention(2, position=ALiBi(), window=4),
    "all to all": SelfAttention(2, causal=False, position=ALiBi()),
    "chunked": SelfAttention(2, implementation="chunked"),
    "dilated": CausalConv(6, 3, dilation=2),
    "depthwise": CausalConv(8, 2, groups=8),
    "pointwise": CausalConv(4, 1),
    "post norm": TransformerBlock(SelfAttention(2), norm_first=False, hidden=6),
    "parallel": TransformerBlock(GRU(8), parallel=True, hidden=6),
    "repeated": Repeated(TransformerBlock(SelfAttention(2), hidden=6), times=2),
    "repeated again": Repeated(TransformerBlock(SelfAttention(2), hidden=6), times=2, remat=True),
    "learned positions": LearnedPosition(64),
    "sinusoidal positions": SinusoidalPosition(),
    "stack": Stack((CausalConv(8, 2), SelfAttention(2, window=3))),
}


def check(layer):
    streams = getattr(layer, "causal", True)

    def empty(variables, spec):
        return initial_carry(layer, variables, spec)

    options = {"initial_carry": empty} if streams else {"carry": False}
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms promote
        testing.check_sequence_layer(layer, SPEC, **options)


@pytest.mark.optimised
@pytest.mark.parametrize("name", LAYERS)
def test_laws(name):
    check(LAYERS[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MORE_LAYERS)
def test_laws_of_more_layers(name):
    check(MORE_LAYERS[name])


def made(layer, *shape, seed=0, **options):
    x = jnp.asarray(np.random.default_rng(seed).standard_normal(shape or (2, 9, 8)), jnp.float32)
    return layer.init(jax.random.key(seed), x, **options), x


@pytest.mark.parametrize("window", [None, 4])
def test_streams_token_by_token_and_in_pieces(window):
    layer = SelfAttention(2, position=Rotary(), window=window)
    variables, x = made(layer, 2, 13, 8)
    whole, _ = layer.apply(variables, x)
    carry, parts, begin = initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype)), [], 0
    for steps in (1, 6, 1, 1, 4):
        y, carry = layer.apply(variables, x[:, begin : begin + steps], carry=carry)
        parts.append(y)
        begin += steps
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, **tolerance("float32"))
    assert carry.k.shape[2] == (13 if window is None else window)


@pytest.mark.exhaustive
def test_a_row_that_does_not_fit_is_told_and_leaves_its_cache():
    layer = SelfAttention(2)
    variables, x = made(layer)
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct((2, 6, 8), x.dtype))
    _, carry = layer.apply(variables, x[:, :4], lengths=jnp.array([4, 1]), carry=carry)
    y, after = layer.apply(variables, x[:, 4:7], carry=carry)
    assert jnp.all(jnp.isnan(y[0]))
    assert jnp.all(jnp.isfinite(y[1]))
    np.testing.assert_array_equal(after.length, [4, 4])
    np.testing.assert_array_equal(after.k[0], carry.k[0])


def test_flax_attention_is_ours():
    theirs, ours = nn.MultiHeadDotProductAttention(2), SelfAttention(2, use_bias=True)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 8)), jnp.float32)
    variables = theirs.init(jax.random.key(0), x)
    flat = jax.tree.map(lambda leaf: leaf, variables["params"])
    for name in ("query", "key", "value"):
        flat[name] = {"kernel": flat[name]["kernel"].reshape(8, 8), "bias": flat[name]["bias"].reshape(8)}
    flat["out"] = {"kernel": flat["out"]["kernel"].reshape(8, 8), "bias": flat["out"]["bias"]}
    want = theirs.apply(variables, x, mask=nn.make_causal_mask(jnp.ones((2, 9))))
    np.testing.assert_allclose(ours.apply({"params": flat}, x)[0], want, **tolerance("float32"))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@hypothesis.settings(max_examples=10, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    heads=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 10),
    lengths=st.lists(st.integers(0, 9), min_size=2, max_size=2),
)
def test_pytorch_attention_is_ours(torch, heads, causal, window, lengths):
    """With its weights, under any mask: the value, and the gradients of x and of every weight."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(8, heads, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    layer = SelfAttention(heads, causal=causal, window=window if causal else None, use_bias=True)
    x = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
    counts = np.arange(9) < np.array(lengths)[:, None]

    def params(in_weight, in_bias, out_weight, out_bias):
        """Weights of theirs, or gradients of them, by our names."""
        parts = zip(("query", "key", "value"), np.split(in_weight, 3), np.split(in_bias, 3), strict=True)
        found = {name: {"kernel": weight.T, "bias": bias} for name, weight, bias in parts}
        return {**found, "out": {"kernel": out_weight.T, "bias": out_bias}}

    weights = theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj.weight, theirs.out_proj.bias
    back = np.arange(9)[:, None] - np.arange(9)
    seen = (back >= 0) & (back < (window or 9)) if causal else np.full((9, 9), True)
    # Theirs has no answer for a query without a key: those past the lengths see themselves, and do not count.
    hidden = ~(seen & counts[:, None] & counts[..., None] | np.eye(9, dtype=bool))
    given = torch.tensor(x, requires_grad=True)
    mask = torch.tensor(np.repeat(hidden, heads, axis=0))
    want = torch.sin(theirs(given, given, given, attn_mask=mask, need_weights=False)[0]) * torch.tensor(
        counts[..., None]
    )
    want.sum().backward()

    def number(variables, x):
        y = jnp.sin(layer.apply(variables, x, lengths=jnp.array(lengths))[0])
        return jnp.sum(y), y

    variables = {"params": jax.tree.map(jnp.asarray, params(*(weight.detach().numpy() for weight in weights)))}
    gradients, y = jax.jit(jax.grad(number, (0, 1), has_aux=True))(variables, jnp.asarray(x))
    np.testing.assert_allclose(y, want.detach().numpy(), **tolerance("float32"))
    expected = {"params": params(*(weight.grad.numpy() for weight in weights))}, given.grad.numpy()

    def close(got, want):
        scale = max(1.0, float(np.max(np.abs(want))))  # the bound is for values of order one
        np.testing.assert_allclose(got / scale, want / scale, **tolerance("float32"))

    jax.tree.map(close, gradients, expected)


def test_cross_attention_keeps_what_it_computed_of_the_memory():
    layer, memory = CrossAttention(2), jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 6)), jnp.float32)
    lengths = jnp.array([5, 2])
    variables, x = made(layer, memory=memory)
    whole, _ = layer.apply(variables, x, memory=memory, memory_lengths=lengths)
    dirty = jnp.where(jnp.arange(5)[None, :, None] < lengths[:, None, None], memory, jnp.nan)
    _, carry = layer.apply(variables, x[:, :0], memory=dirty, memory_lengths=lengths)
    parts = [layer.apply(variables, x[:, t : t + 1], carry=carry)[0] for t in range(9)]
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, **tolerance("float32"))
    alone = layer.apply(variables, x[1:], memory=memory[1:, :2])[0]
    np.testing.assert_allclose(alone, whole[1:], **tolerance("float32"))


def test_a_decoder_streams_over_its_memory():
    layer = Repeated(TransformerBlock(SelfAttention(2, position=Rotary()), CrossAttention(2), hidden=6), times=2)
    memory = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)), jnp.float32)
    variables, x = made(layer, 2, 6, 8, memory=memory)
    whole, _ = layer.apply(variables, x, memory=memory)
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct(x.shape, x.dtype))
    first, carry = layer.apply(variables, x[:, :2], memory=memory, carry=carry)
    second, _ = layer.apply(variables, x[:, 2:], carry=carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, **tolerance("float32"))


def test_depth_costs_no_compilation():
    def program(times):
        layer = Repeated(TransformerBlock(SelfAttention(2), hidden=8), times=times)
        x = jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        gradient = jax.grad(lambda variables, x: jnp.sum(layer.apply(variables, x)[0]))
        return len(jax.jit(gradient).lower(variables, x).as_text().splitlines())

    assert program(12) == program(2)


def block_of(features=8):
    return TransformerBlock(SelfAttention(2), hidden=2 * features)


def test_repeated_layers_are_a_stack_of_them():
    repeated, stack = Repeated(block_of(), times=3), Stack(tuple(block_of() for _ in range(3)))
    variables, x = made(repeated)

    def unstacked(variables):
        own = variables["params"]["layer"]
        return {"params": {f"layers_{i}": jax.tree.map(lambda leaf: leaf[i], own) for i in range(3)}}  # noqa: B023

    def number(variables, x, layer=repeated):
        return jnp.sum(jnp.sin(layer.apply(variables, x)[0]))

    def number_of_stack(variables, x):
        return number(unstacked(variables), x, stack)

    got, want = (jax.jit(jax.value_and_grad(f, (0, 1)))(variables, x) for f in (number, number_of_stack))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance("float32")), got, want)


def test_repeated_layers_keep_only_what_is_dear(monkeypatch):
    def temporaries():
        layer, x = Repeated(block_of(32), times=8), jax.ShapeDtypeStruct((4, 32, 32), jnp.float32)
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        gradient = jax.jit(jax.grad(lambda variables, x: jnp.sum(layer.apply(variables, x)[0])))
        return gradient.lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    kept = temporaries()
    monkeypatch.setattr(transformer, "_kept", lambda *_, **__: True)
    assert kept < 0.6 * temporaries()


@pytest.mark.parametrize(
    ("layer", "options", "error", "message"),
    [
        (SelfAttention(3), {}, ValueError, "x has 8 features but wants a multiple of num_heads=3"),
        (SelfAttention(4, num_kv_heads=3), {}, ValueError, "num_heads is 4 but wants a multiple of num_kv_heads"),
        (SelfAttention(2, window=0), {}, ValueError, "window wants at least 1 step but is 0"),
        (SelfAttention(2, window=2, causal=False), {}, ValueError, "wants causal=True"),
        (SelfAttention(2, dropout=1.0), {}, ValueError, "dropout wants a rate"),
        (SelfAttention(2), {"carry": ()}, TypeError, "carry wants a KVCache but is tuple"),
        (CrossAttention(2), {}, ValueError, "wants either memory or a carry, but has neither"),
        (CausalConv(6, 0), {}, ValueError, "kernel_size"),
        (CausalConv(6, 2, groups=3), {}, ValueError, "groups=3 must divide x's 8 features"),
        (TransformerBlock(GRU(8)), {"memory": jnp.ones((2, 3, 8))}, ValueError, "nothing attends to it"),
        (TransformerBlock(GRU(8), parallel=True, norm_first=False), {}, ValueError, "parallel wants norm_first"),
        (Repeated(GRU(4), times=2), {}, ValueError, "wants the same shape"),
        (Repeated(GRU(8), times=0), {}, ValueError, "times wants at least 1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_errors_name_the_layer_and_the_argument(own_errors, layer, options, error, message):
    with pytest.raises(error, match=message):
        layer.init(jax.random.key(0), jnp.ones((2, 9, 8)), **options)


def test_a_cache_too_small_is_refused():
    layer = SelfAttention(2)
    variables, x = made(layer)
    carry = initial_carry(layer, variables, jax.ShapeDtypeStruct((2, 6, 8), x.dtype))
    with pytest.raises(ValueError, match="9 new steps but the cache has room for 6"):
        layer.apply(variables, x, carry=carry)
    windowed = SelfAttention(2, window=7)
    with pytest.raises(ValueError, match="room for 6 steps but window=7"):
        windowed.apply(variables, x, carry=carry)
