"""Additive and multiplicative attention against loops: values, every gradient, masks, padding and projected keys."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import alignment as reference
from tests.reference.tolerance import tolerance

assert_close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))
BATCH, TIME, KEYS, D, E, F, A = 3, 4, 5, 3, 2, 4, 6
SHAPES = {
    "additive": {"query_kernel": (D, A), "key_kernel": (E, A), "bias": (A,), "score": (A,)},
    "multiplicative": {"kernel": (D, E)},
}
KINDS = {
    "additive": (ops.additive_attention, ops.additive_keys, reference.additive_score),
    "multiplicative": (ops.multiplicative_attention, ops.multiplicative_keys, reference.multiplicative_score),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def draw(seed, shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def make_case(kind, dtype="float32"):
    """(params, q, k, v) and the cotangents of (context, weights)."""
    params = {name: draw(i, shape, dtype) for i, (name, shape) in enumerate(SHAPES[kind].items())}
    arrays = (draw(10 + i, (BATCH, *shape), dtype) for i, shape in enumerate([(TIME, D), (KEYS, E), (KEYS, F)]))
    return (params, *arrays), (draw(20, (BATCH, TIME, F), dtype), draw(21, (BATCH, TIME, KEYS), dtype))


def cuts():
    """Lengths of 0 among them, and a mask that leaves one query nothing."""
    mask = np.random.default_rng(5).random((BATCH, TIME, KEYS)) < 0.7
    mask[0, 1] = False
    lengths, key_lengths = jnp.array([4, 2, 3]), jnp.array([5, 4, 0])
    return {"lengths": lengths, "key_lengths": key_lengths, "mask": jnp.asarray(mask)}


def value_and_gradients(op, arrays, cotangents):
    out, pull = jax.vjp(op, *arrays)
    return out, pull(cotangents)


@kinds
@pytest.mark.parametrize("options", [{}, cuts(), {"mask": cuts()["mask"][:1, :, :1]}], ids=["whole", "cut", "mask"])
@pytest.mark.parametrize("projected", [False, True])
def test_matches_the_loop(kind, options, projected):
    attention, keys, score = KINDS[kind]
    arrays, cotangents = make_case(kind)

    def op(params, q, k, v):
        if projected:
            k = keys(params, k, key_lengths=options.get("key_lengths"))
        return attention(params, q, k, v, projected=projected, **options)

    out, got = jax.jit(functools.partial(value_and_gradients, op))(arrays, cotangents)
    wide = jax.tree.map(lambda x: np.asarray(x, "float64"), (*arrays, *cotangents))
    want, gradients = reference.attend(score, *wide, **jax.tree.map(np.asarray, options))
    jax.tree.map(assert_close, out, want)
    params, *rest = got
    for name, gradient in {**params, **dict(zip("qkv", rest, strict=True))}.items():
        assert_close(gradient, gradients[name], err_msg=name)


@kinds
def test_both_modes_and_second_derivatives_agree(kind, x64):
    attention, *_ = KINDS[kind]
    (params, q, k, v), cotangents = make_case(kind, "float64")
    options = cuts()

    def loss(params, q, k, v):
        out = attention(params, q, k, v, **options)
        return sum(jnp.sum(jnp.sin(y) * c) for y, c in zip(out, cotangents, strict=True))

    forward = jax.jit(jax.jacfwd(jax.grad(loss, 1), 1))(params, q, k, v)
    backward = jax.jit(jax.jacrev(jax.jacfwd(loss, 1), 1))(params, q, k, v)
    np.testing.assert_allclose(forward, backward, **tolerance("float64"))
    assert np.any(forward[0])
    assert not np.any(forward[2])


@kinds
def test_padding_may_hold_anything(kind):
    attention, *_ = KINDS[kind]
    (params, q, k, v), cotangents = make_case(kind)
    options = cuts()

    @jax.jit
    def run(q, k, v):
        op = functools.partial(attention, **options)
        return value_and_gradients(op, (params, q, k, v), cotangents)

    want = run(q, k, v)
    for bad in (np.nan, np.inf, 1e30):
        lengths = options["lengths"], options["key_lengths"], options["key_lengths"]
        spoilt = [
            jnp.where(ops.time_mask(n, x.shape[1])[..., None], x, bad) for n, x in zip(lengths, (q, k, v), strict=True)
        ]
        jax.tree.map(np.testing.assert_array_equal, run(*spoilt), want)
    (context, weights), (_, dq, dk, dv) = want
    for row, query in ((0, 1), (1, 3), (2, 0)):  # masked, past lengths, without keys
        assert not np.any(context[row, query])
        assert not np.any(weights[row, query])
        assert not np.any(dq[row, query])
    assert not np.any(dk[2])
    assert not np.any(dv[2])


@kinds
def test_a_decoder_goes_step_by_step_over_keys_projected_once(kind):
    attention, keys, _ = KINDS[kind]
    (params, q, k, v), _ = make_case(kind)
    key_lengths = cuts()["key_lengths"]
    source = keys(params, k, key_lengths=key_lengths)
    step = jax.jit(lambda q: attention(params, q, source, v, key_lengths=key_lengths, projected=True))
    steps = [step(q[:, t : t + 1]) for t in range(TIME)]
    whole = attention(params, q, k, v, key_lengths=key_lengths)
    jax.tree.map(lambda *parts: assert_close(jnp.concatenate(parts[:-1], 1), parts[-1]), *steps, whole)


@kinds
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_types_are_scored_in_float32(kind, dtype):
    attention, _, score = KINDS[kind]
    arrays, cotangents = make_case(kind, dtype)
    context, weights = attention(*arrays)
    assert context.dtype == dtype
    assert weights.dtype == jnp.float32
    wide = jax.tree.map(lambda x: np.asarray(x, "float64"), (*arrays, *cotangents))
    (want, _), _ = reference.attend(score, *wide)
    np.testing.assert_allclose(np.asarray(context, "float64"), want, **tolerance(dtype))
    assert_close(jnp.sum(weights, -1), 1.0)


@kinds
def test_large_scores_do_not_overflow(kind):
    attention, *_ = KINDS[kind]
    (params, q, k, v), _ = make_case(kind)
    name = "score" if kind == "additive" else "kernel"
    context, weights = attention({**params, name: params[name] * 1e4}, q, k, v)
    assert np.all(np.isfinite(context))
    assert_close(jnp.sum(weights, -1), 1.0)


@kinds
@pytest.mark.parametrize(("time", "keys"), [(0, 5), (4, 0), (1, 1)])
def test_no_queries_or_no_keys(kind, time, keys):
    attention, *_ = KINDS[kind]
    (params, q, k, v), _ = make_case(kind)
    context, weights = attention(params, q[:, :time], k[:, :keys], v[:, :keys])
    assert weights.shape == (BATCH, time, keys)
    np.testing.assert_array_equal(
        context, np.broadcast_to(v[:, :1], context.shape) if keys else jnp.zeros_like(context)
    )


@kinds
def test_exports_with_any_batch_time_and_source(kind):
    attention, *_ = KINDS[kind]
    rows, time, keys = jax.export.symbolic_shape("b, t, s")
    (params, q, k, v), _ = make_case(kind)
    options = cuts()

    def gradients(q, k, v, lengths, key_lengths, mask):
        def loss(params, q, k, v):
            context, _ = attention(params, q, k, v, lengths=lengths, key_lengths=key_lengths, mask=mask)
            return jnp.sum(jnp.sin(context))

        return jax.grad(loss, (0, 1, 2, 3))(params, q, k, v)

    inputs = (q, k, v, *options.values())
    shapes = (rows, time, D), (rows, keys, E), (rows, keys, F), (rows,), (rows,), (rows, time, keys)
    specs = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(shapes, inputs, strict=True)]
    exported = jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(*specs)
    jax.tree.map(assert_close, exported.call(*inputs), jax.jit(gradients)(*inputs))


def test_vmap_is_the_loop():
    (params, q, k, v), _ = make_case("additive")
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x]), params)
    mapped = jax.vmap(lambda params: ops.additive_attention(params, q, k, v))(stacked)
    for i in range(2):
        want = ops.additive_attention(jax.tree.map(lambda x, i=i: x[i], stacked), q, k, v)
        jax.tree.map(lambda got, want, i=i: assert_close(got[i], want), mapped, want)


Q, K, V = jnp.zeros((BATCH, TIME, D)), jnp.zeros((BATCH, KEYS, E)), jnp.zeros((BATCH, KEYS, F))


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((Q[0], K, V), {}, ValueError, r"q wants three axes, batch, time and features, but has shape \(4, 3\)"),
        ((Q, K.astype(int), V), {}, TypeError, "k wants a floating dtype but has int32"),
        ((Q, K, V.astype(jnp.bfloat16)), {}, TypeError, "v wants the dtype of q, float32, but has bfloat16"),
        ((Q, K, V[:, :3]), {}, ValueError, r"wants q .* but they have shapes \(3, 4, 3\), \(3, 5, 2\), \(3, 3, 4\)"),
        ((Q[..., :2], K, V), {}, ValueError, r"params\['\w*kernel'\] wants shape \(2, "),
        ((Q, K, V), {"projected": True}, ValueError, r"projected k wants \d features but has shape \(3, 5, 2\)"),
        ((Q, K, V), {"lengths": jnp.zeros(2, int)}, ValueError, r"lengths wants shape \(3,\) but has \(2,\)"),
        ((Q, K, V), {"key_lengths": jnp.zeros(2, int)}, ValueError, r"key_lengths wants shape \(3,\) but has \(2,\)"),
        ((Q, K, V), {"key_lengths": jnp.zeros(3)}, TypeError, "key_lengths wants an integer dtype but has float32"),
        ((Q, K, V), {"mask": jnp.ones((3, 4, 5))}, TypeError, "mask wants dtype bool but has float32"),
        ((Q, K, V), {"mask": jnp.ones((2, 5), bool)}, ValueError, r"mask wants to broadcast to \(3, 4, 5\) but has"),
    ],
)
@kinds
def test_errors_name_op_argument_and_what_came(kind, arrays, options, error, message, own_errors):
    (params, *_), _ = make_case(kind)
    with pytest.raises(error, match=f"^{kind}_attention: {message}"):
        KINDS[kind][0](params, *arrays, **options)


@kinds
def test_params_are_checked(kind, own_errors):
    attention, keys, _ = KINDS[kind]
    with pytest.raises(ValueError, match=f"^{kind}_attention: params has no '(score|kernel)', only "):
        attention({}, Q, K, V)
    (params, *_), _ = make_case(kind)
    with pytest.raises(ValueError, match=rf"^{kind}_keys: params\['(key_)?kernel'\] wants "):
        keys(params, Q)
    with pytest.raises(TypeError, match=rf"^{kind}_keys: params\['(key_)?kernel'\] wants dtype bfloat16"):
        keys(params, K.astype(jnp.bfloat16))
