"""Linear attention against sums over pairs: values, every gradient, both implementations, and the sequence's laws."""

import functools
import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import linear_attention as reference
from tests.reference.tolerance import tolerance

assert_close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))
implementations = pytest.mark.parametrize("implementation", ["scan", "chunked"])
BATCH, HEADS, H, V = 3, 2, 2, 3


def draw(seed, shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def make_case(time, dtype="float32"):
    """(q, k, v, log_decay, kv, normalizer) and cotangents of (y, kv, normalizer)."""
    state = (BATCH, HEADS, H, V), (BATCH, HEADS, H)
    shapes = *[(BATCH, time, HEADS, n) for n in (H, H, V)], (BATCH, time, HEADS), *state
    q, k, v, log_decay, kv, normalizer = (draw(i, shape, dtype) for i, shape in enumerate(shapes))
    arrays = q, k, v, -jnp.abs(log_decay), kv, 1 + jnp.abs(normalizer)
    return arrays, tuple(draw(10 + i, shape, dtype) for i, shape in enumerate(((BATCH, time, HEADS, V), *state)))


def cuts(time):
    starts = np.arange(BATCH * time).reshape(BATCH, time) % 5 == 3
    return {"lengths": jnp.array([time, 0, (2 * time + 1) // 3]), "starts": jnp.asarray(starts)}


def attend(q, k, v, log_decay, kv, normalizer, **options):
    carry = ops.LinearAttentionCarry(kv, normalizer)
    y, carry = ops.linear_attention(q, k, v, log_decay=log_decay, carry=carry, **options)
    return y, *carry


def value_and_gradients(op, arrays, cotangents):
    out, pull = jax.vjp(op, *arrays)
    return out, pull(cotangents)


@implementations
@pytest.mark.parametrize(
    ("time", "block", "cut", "options"),
    [
        (1, 4, False, {}),
        (7, 3, True, {}),
        (6, 3, False, {"normalize": False}),
        (6, 64, True, {"normalize": False, "feature_map": jnp.square}),
    ],
)
def test_matches_the_sum_over_pairs(time, block, cut, options, implementation):
    arrays, cotangents = make_case(time)
    settings = cuts(time) if cut else {}
    op = functools.partial(attend, block=block, implementation=implementation, **settings, **options)
    out, got = jax.jit(functools.partial(value_and_gradients, op))(arrays, cotangents)
    wide = jax.tree.map(lambda x: np.asarray(x, "float64"), (arrays, cotangents))
    settings = {**jax.tree.map(np.asarray, settings), "normalize": options.get("normalize", True)}
    if "feature_map" in options:
        settings["phi"] = lambda x: x**2
    jax.tree.map(assert_close, out, reference.linear_attention(*wide[0], **settings))
    jax.tree.map(assert_close, got, reference.gradients(*wide, **settings))


@implementations
def test_one_decay_for_each_head_and_none(implementation):
    (q, k, v, *_), _ = make_case(7)
    run = functools.partial(ops.linear_attention, q, k, v, block=3, implementation=implementation)
    run = jax.jit(run)
    by_head = jnp.array([-0.1, -2.0])
    steps = jnp.broadcast_to(by_head, (BATCH, 7, HEADS))
    jax.tree.map(assert_close, run(log_decay=by_head), run(log_decay=steps))
    jax.tree.map(assert_close, run(), run(log_decay=jnp.zeros_like(by_head)))


def test_the_state_of_a_feature_map_may_be_wider_than_a_head():
    (q, k, v, *_), _ = make_case(5)

    def both_signs(x):
        return jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], axis=-1)

    op = functools.partial(ops.linear_attention, feature_map=both_signs)
    results = [jax.jit(functools.partial(op, implementation=name))(q, k, v) for name in ("scan", "chunked")]
    jax.tree.map(assert_close, *results)
    assert results[0][1].kv.shape == (BATCH, HEADS, 2 * H, V)


@pytest.mark.parametrize("implementation", ["scan", pytest.param("chunked", marks=pytest.mark.exhaustive)])
def test_second_derivatives_in_every_pair_of_modes(implementation, x64):
    arrays, cotangents = make_case(4, "float64")
    arrays, weight = tuple(x[:1, :, :1] for x in arrays[:4]), cotangents[0][:1, :, :1]

    def pairs(q, k, v, log_decay):
        faded = jnp.cumsum(log_decay, 1)[:, :, 0]
        share = jnp.tril(jnp.exp(faded[:, :, None] - faded[:, None, :]))
        scores = share * jnp.einsum("btnm,bsnm->bts", ops.elu_plus_one(q), ops.elu_plus_one(k))
        return jnp.einsum("bts,bsnv->btnv", scores / scores.sum(-1, keepdims=True), v)

    def op(q, k, v, log_decay):
        return ops.linear_attention(q, k, v, log_decay=log_decay, block=3, implementation=implementation)[0]

    def loss(function, *arrays):
        return jnp.sum(jnp.sin(function(*arrays)) * weight)

    every = 0, 1, 2, 3
    want = jax.jit(jax.hessian(functools.partial(loss, pairs), every))(*arrays)
    for outer, inner in itertools.product((jax.jacfwd, jax.jacrev), repeat=2):
        got = jax.jit(outer(inner(functools.partial(loss, op), every), every))(*arrays)
        jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float64")), got, want)


@implementations
def test_any_split_of_time_is_the_whole(implementation):
    arrays, _ = make_case(6)
    starts, lengths = cuts(6)["starts"], jnp.array([6, 2, 5])
    op = functools.partial(attend, block=3, implementation=implementation)
    op = jax.jit(op)
    whole, *last = op(*arrays, lengths=lengths, starts=starts)
    for steps in ([2, 4], [4, 2], [1] * 6):
        ends, state, y = np.cumsum(steps), arrays[4:], []
        for begin, end in zip(ends - steps, ends, strict=True):
            piece = [x[:, begin:end] for x in (*arrays[:4], starts)]
            part, *state = op(*piece[:4], *state, lengths=lengths - int(begin), starts=piece[4])
            y.append(part)
        assert_close(jnp.concatenate(y, 1), whole)
        jax.tree.map(assert_close, state, last)


@implementations
def test_packed_sequences_are_those_run_apart(implementation):
    (q, k, v, log_decay, *_), _ = make_case(9)
    op = functools.partial(ops.linear_attention, block=4, implementation=implementation)
    op = jax.jit(op)
    starts = jnp.broadcast_to(jnp.arange(9) % 3 == 0, (BATCH, 9))
    carry = ops.LinearAttentionCarry(jnp.full((BATCH, HEADS, H, V), 1e6), jnp.full((BATCH, HEADS, H), 1e6))
    y, last = op(q, k, v, log_decay=log_decay, starts=starts, carry=carry)
    for begin in (0, 3, 6):
        apart, state = op(*(x[:, begin : begin + 3] for x in (q, k, v)), log_decay=log_decay[:, begin : begin + 3])
        assert_close(y[:, begin : begin + 3], apart)
    jax.tree.map(assert_close, last, state)


@implementations
def test_padding_may_hold_anything_and_empty_rows_give_the_carry_back(implementation):
    arrays, cotangents = make_case(7)
    settings = cuts(7)
    op = functools.partial(attend, block=3, implementation=implementation, **settings)
    run = jax.jit(functools.partial(value_and_gradients, op))
    want = run(arrays, cotangents)
    mask = ops.time_mask(settings["lengths"], 7)[:, :, None]
    for bad in (np.nan, np.inf, -1e30):
        spoilt = [jnp.where(mask if x.ndim == 3 else mask[..., None], x, bad) for x in arrays[:4]]
        jax.tree.map(np.testing.assert_array_equal, run((*spoilt, *arrays[4:]), cotangents), want)
    (y, kv, normalizer), _ = want
    assert not np.any(np.where(mask[..., None], 0, y))
    np.testing.assert_array_equal(kv[1], arrays[4][1])
    np.testing.assert_array_equal(normalizer[1], arrays[5][1])
    y, *carry = op(*(x[:, :0] for x in arrays[:4]), *arrays[4:], starts=settings["starts"][:, :0])
    assert y.shape == (BATCH, 0, HEADS, V)
    jax.tree.map(np.testing.assert_array_equal, tuple(carry), arrays[4:])


@implementations
def test_keys_of_no_weight_give_zeros_and_zero_gradients(implementation):
    (q, _, v, *_), _ = make_case(5)

    def loss(q, k, v):
        y, _ = ops.linear_attention(q, k, v, implementation=implementation)
        return jnp.sum(jnp.sin(y)), y

    k = jnp.full_like(q, -200.0).at[1:].set(0.5)
    gradients, y = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    assert np.any(y[1:])
    for x in (y, *gradients):
        assert not np.any(x[0])
        assert np.all(np.isfinite(x))


def test_strong_decays_and_long_rows_stay_exact():
    """Powers of sums over a block, of which none may be above 1."""
    time = 300
    q, k, v = draw(0, (1, time, 1, H)), draw(1, (1, time, 1, H)), draw(2, (1, time, 1, V))
    log_decay = -jnp.asarray(np.random.default_rng(3).choice([0.0, 1e-3, 1.0, 60.0], (1, time, 1)), "float32")
    y, carry = jax.jit(ops.linear_attention)(q, k, v, log_decay=log_decay)
    want, last = jax.jit(functools.partial(ops.linear_attention, implementation="scan"))(q, k, v, log_decay=log_decay)
    # A sum of 64 logarithms of up to 60 is good to 1e-4 or so, and no better is any power of it.
    np.testing.assert_allclose(y, want, atol=5e-4 * np.max(np.abs(want)))
    np.testing.assert_allclose(carry.kv, last.kv, atol=5e-4 * np.max(np.abs(last.kv)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@implementations
def test_small_types_are_summed_in_float32(dtype, implementation):
    ones = jnp.ones((1, 600, 1, 1), dtype)
    y, carry = jax.jit(functools.partial(ops.linear_attention, implementation=implementation))(ones, ones, ones)
    assert y.dtype == dtype
    assert carry.kv.dtype == carry.normalizer.dtype == jnp.float32
    assert carry.kv.item() == carry.normalizer.item() == 1200
    np.testing.assert_array_equal(y, ones)


def test_vmap_and_checkpoint_change_nothing():
    cases = make_case(7), jax.tree.map(lambda x: jnp.flip(x, 0), make_case(7))
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *cases)
    op = functools.partial(attend, block=3, **cuts(7))
    mapped = jax.jit(jax.vmap(functools.partial(value_and_gradients, jax.checkpoint(op))))(*stacked)
    for i, case in enumerate(cases):
        want = jax.jit(functools.partial(value_and_gradients, op))(*case)
        jax.tree.map(lambda got, want, i=i: assert_close(got[i], want), mapped, want)


def test_exports_with_any_batch_and_time():
    rows, time = jax.export.symbolic_shape("b, t")

    def gradients(arrays, lengths, starts):
        def loss(arrays):
            return sum(jnp.sum(jnp.sin(x)) for x in attend(*arrays, lengths=lengths, starts=starts))

        return jax.grad(loss)(arrays)

    arrays, _ = make_case(7)
    inputs = arrays, *cuts(7).values()
    shapes = [(rows, time, *x.shape[2:]) if i < 4 else (rows, *x.shape[1:]) for i, x in enumerate(arrays)]
    specs = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(shapes, arrays, strict=True)]
    lengths, starts = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows, time), bool)
    exported = jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(tuple(specs), lengths, starts)
    jax.tree.map(assert_close, exported.call(*inputs), jax.jit(gradients)(*inputs))


def test_memory_of_the_chunked_gradient_grows_like_time():
    def temporaries(time):
        x = jax.ShapeDtypeStruct((1, time, 2, 16), jnp.float32)
        loss = jax.jit(jax.grad(lambda q, k, v: jnp.sum(ops.linear_attention(q, k, v)[0]), (0, 1, 2)))
        return loss.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) <= 2.1 * temporaries(1024)


Q = jnp.zeros((2, 5, 3, 4))


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((Q[0], Q, Q), {}, ValueError, r"q wants \[B, T, N, features\] but has shape \(5, 3, 4\)"),
        ((Q, Q.astype(int), Q), {}, TypeError, "k wants a floating dtype but has int32"),
        ((Q, Q, Q.astype(jnp.bfloat16)), {}, TypeError, "v wants the dtype of q, float32, but has bfloat16"),
        (
            (Q, Q[:, :, :1], Q),
            {},
            ValueError,
            r"wants q and k .* shapes \(2, 5, 3, 4\), \(2, 5, 1, 4\), \(2, 5, 3, 4\)",
        ),
        ((Q,) * 3, {"log_decay": jnp.zeros(4)}, ValueError, r"log_decay wants shape \(3,\) or \(2, 5, 3\) but has"),
        ((Q,) * 3, {"log_decay": jnp.zeros(3, jnp.bfloat16)}, TypeError, "log_decay wants dtype float32 but has"),
        ((Q,) * 3, {"lengths": jnp.zeros(3, int)}, ValueError, r"lengths wants shape \(2,\) but has \(3,\)"),
        ((Q,) * 3, {"starts": jnp.zeros((2, 5))}, TypeError, "starts wants dtype bool but has float32"),
        ((Q,) * 3, {"block": 0}, ValueError, "block is 0 but wants at least 1 step"),
        ((Q,) * 3, {"implementation": "fast"}, ValueError, "implementation is 'fast' but wants one of auto, scan, ch"),
        ((Q,) * 3, {"carry": ()}, TypeError, "carry wants LinearAttentionCarry but is tuple"),
        (
            (Q,) * 3,
            {"carry": ops.LinearAttentionCarry(Q[:, 0], Q[:, 0])},
            ValueError,
            r"carry.kv wants shape \(2, 3, 4, 4\) but has \(2, 3, 4\)",
        ),
    ],
)
def test_errors_name_op_argument_and_what_came(arrays, options, error, message, own_errors):
    with pytest.raises(error, match=f"^linear_attention: {message}"):
        ops.linear_attention(*arrays, **options)


def test_the_chunked_form_wants_to_know_the_steps():
    (time,) = jax.export.symbolic_shape("t")
    spec = jax.ShapeDtypeStruct((2, time, 3, 4), jnp.float32)
    op = functools.partial(ops.linear_attention, implementation="chunked")
    with pytest.raises(ValueError, match=r"^linear_attention: .*'chunked' wants a concrete T but got t"):
        jax.export.export(jax.jit(op))(spec, spec, spec)
