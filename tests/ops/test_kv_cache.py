"""Attention in pieces, through a cache, against loops in float64 over the whole; and how the cache is written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import attention as reference
from tests.reference.tolerance import tolerance

TIME, PIECES = 9, (1, 5, 3)


def draw(*, batch=2, time=TIME, heads=4, key_heads=2, width=3, value=5):
    rng = np.random.default_rng(0)
    shapes = (batch, time, heads, width), (batch, time, key_heads, width), (batch, time, key_heads, value)
    return tuple(rng.standard_normal(shape) for shape in shapes)


def in_pieces(q, k, v, *, capacity=TIME, lengths=None, starts=None, pieces=PIECES, **options):
    """The outputs of all pieces, and the cache after the last."""
    cache = ops.empty_cache(q.shape[0], k.shape[2], capacity, k.shape[3], value_dim=v.shape[3], dtype=k.dtype)
    outputs, begin = [], 0
    for steps in pieces:
        part = slice(begin, begin + steps)
        y, cache = ops.cached_attention(
            q[:, part],
            k[:, part],
            v[:, part],
            cache,
            lengths=None if lengths is None else jnp.clip(lengths - begin, 0, steps),
            starts=None if starts is None else starts[:, part],
            precision="highest",
            **options,
        )
        outputs.append(y)
        begin += steps
    return jnp.concatenate(outputs, axis=1), cache


SEGMENTS = np.array([[0] * 4 + [1] * 5, [0] * 5 + [1] + [2] * 3])
CASES = {
    "window and lengths": ({"window": 4, "lengths": np.array([8, 0])}, {"capacity": 4}),
    "sequences": ({"segment_ids": SEGMENTS, "lengths": np.array([9, 7]), "soft_cap": 0.8}, {"capacity": 20}),
}
MORE_CASES = {
    "plain": ({}, {}),
    "a ring with room to spare": ({"window": 4, "segment_ids": SEGMENTS}, {"capacity": 6}),
    "bias": ({"bias": -0.3 * np.abs(np.arange(TIME)[:, None] - np.arange(TIME))[None, None]}, {}),
    "strips": ({"scale": 0.4}, {"implementation": "chunked"}),
}


@pytest.mark.parametrize("case", CASES)
def test_pieces_are_the_whole(case):
    agree(*CASES[case])


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", MORE_CASES)
def test_pieces_are_the_whole_in_more_cases(case):
    agree(*MORE_CASES[case])


def agree(options, how):
    """Checks the values of all pieces, and the gradients of q, k and v."""
    arrays, dy = draw(), np.random.default_rng(1).standard_normal((2, TIME, 4, 5))
    given = {name: x for name, x in options.items() if name not in ("segment_ids", "bias")}
    if "lengths" in given:
        given["lengths"] = jnp.asarray(given["lengths"])
    if "segment_ids" in options:
        given["starts"] = ops.starts_from_segment_ids(jnp.asarray(options["segment_ids"]))
    if "bias" in options:

        def distance(queries, keys):
            return -0.3 * jnp.abs(queries[..., :, None] - keys[..., None, :])[:, None].astype(jnp.float32)

        given["bias"] = distance

    def number(*arrays):
        y, _ = in_pieces(*arrays, **given, **how)
        return jnp.sum(y * jnp.asarray(dy, jnp.float32)), y

    operands = (jnp.asarray(x, jnp.float32) for x in arrays)
    gradients, y = jax.jit(jax.grad(number, (0, 1, 2), has_aux=True))(*operands)
    want = reference.dot_product_attention(*arrays, causal=True, **options)
    np.testing.assert_allclose(y, want, **tolerance("float32"))
    wanted = reference.dot_product_attention_gradients(*arrays, dy, causal=True, **options)
    for name, got, expected in zip("qkv", gradients, wanted, strict=False):
        scale = max(1.0, float(np.max(np.abs(expected))))
        np.testing.assert_allclose(got / scale, expected / scale, **tolerance("float32"), err_msg=name)


@pytest.mark.exhaustive
def test_both_modes_agree_at_second_order():
    arrays = tuple(jnp.asarray(x, jnp.float32) for x in draw(batch=1, time=3, heads=1, key_heads=1, width=2, value=2))

    def number(*arrays):
        return jnp.sum(jnp.sin(3 * in_pieces(*arrays, capacity=4, pieces=(1, 2))[0]))

    hessian = jax.jit(jax.hessian(number, (0, 1, 2)))(*arrays)
    twice = jax.jit(jax.jacrev(jax.grad(number, (0, 1, 2)), (0, 1, 2)))(*arrays)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), hessian, twice)


def test_a_step_that_may_not_see_itself_sees_what_came_before():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw(time=3, heads=2))

    def others(queries, keys):
        own = queries[..., :, None] == keys[..., None, :]
        return jnp.where(own, jnp.float32(-jnp.inf), jnp.float32(0))[:, None]

    y, _ = jax.jit(functools.partial(in_pieces, pieces=(1, 2), bias=others))(q, k, v)
    earlier = np.tril(np.ones((3, 3), bool), -1)[None, None]
    want = reference.dot_product_attention(*map(np.float64, (q, k, v)), mask=earlier)
    np.testing.assert_allclose(y, want, **tolerance("float32"))
    assert not jnp.any(y[:, 0])


def test_dropout_draws_for_what_is_held_and_for_what_is_new():
    time, rate = 40, 0.25
    q, k, _ = (jnp.asarray(x, jnp.float32) for x in draw(batch=1, time=time, heads=2, value=time))
    own = jnp.broadcast_to(jnp.eye(time)[None, :, None, :], (1, time, 2, time))  # each step's value is its unit vector
    run = functools.partial(in_pieces, capacity=time, pieces=(20, 20))
    weights, _ = jax.jit(run)(q, k, own)
    dropped, _ = jax.jit(functools.partial(run, dropout=rate))(q, k, own, key=jax.random.key(1))
    spared = dropped > 0
    np.testing.assert_allclose(jnp.where(spared, weights / (1 - rate), 0), dropped, **tolerance("float32"))
    for part in (weights[:, 20:, :, :20], weights[:, 20:, :, 20:]):
        assert part.any()
    held, new = spared[:, 20:, :, :20], spared[:, 20:, :, 20:]
    assert abs(float(jnp.mean(held)) - (1 - rate)) < 0.05
    below = jnp.tril(jnp.ones((20, 20), bool))[None, :, None, :]
    assert abs(float(jnp.sum(new & below) / (2 * jnp.sum(below))) - (1 - rate)) < 0.07
    assert not jnp.array_equal(held & below, new & below)


@pytest.mark.parametrize(("batch", "steps", "window"), [(1, 1, None), (1, 2, 64), (3, 1, 64)])
def test_a_cache_that_is_given_away_is_written_in_place(batch, steps, window):
    cache = jax.eval_shape(functools.partial(ops.empty_cache, batch, 8, 64, 32))
    new = jax.ShapeDtypeStruct((batch, steps, 8, 32), jnp.float32)
    step = jax.jit(functools.partial(ops.cached_attention, window=window), donate_argnums=3)
    memory = step.lower(new, new, new, cache).compile().memory_analysis()
    held = cache.k.size * 4
    assert memory.alias_size_in_bytes >= 2 * held
    assert memory.temp_size_in_bytes < held / 2


def test_a_row_that_does_not_fit_gives_nan_and_keeps_its_cache():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw(time=6))
    run, cache = jax.jit(ops.cached_attention), ops.empty_cache(2, 2, 4, 3, value_dim=5)
    _, cache = run(q[:, :3], k[:, :3], v[:, :3], cache, lengths=jnp.array([3, 1]))
    y, after = run(q[:, 3:], k[:, 3:], v[:, 3:], cache)
    assert jnp.all(jnp.isnan(y[0]))
    assert jnp.all(jnp.isfinite(y[1]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after, cache)
    np.testing.assert_array_equal(after.length, [3, 4])


def test_half_precision():
    arrays = tuple(jnp.asarray(x, jnp.bfloat16) for x in draw())
    y, cache = jax.jit(in_pieces)(*arrays)
    assert y.dtype == cache.k.dtype == jnp.bfloat16
    want = reference.dot_product_attention(*map(np.float64, arrays), causal=True)
    np.testing.assert_allclose(y.astype(jnp.float32), want, **tolerance("bfloat16"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache": ()}, TypeError, "cached_attention: cache wants a KVCache but is tuple"),
        (
            {"cache": ops.empty_cache(2, 2, 8, 3, value_dim=5)},
            ValueError,
            "9 new steps but .* room for 8",
        ),
        (
            {"cache": ops.empty_cache(2, 4, 9, 3)},
            ValueError,
            r"keys \(2, 4, 9, 3\) .* but wants \(2, 2, 9, 3\)",
        ),
        ({"cache": ops.empty_cache(2, 2, 3, 3, value_dim=5), "window": 4}, ValueError, "room for 3 steps but window=4"),
        ({"window": 0}, ValueError, "cached_attention: window wants at least 1 step but is 0"),
        ({"dropout": 0.5}, ValueError, "wants a key to draw from"),
        ({"heads": 3}, ValueError, "q has 3 heads but wants a multiple of the 2 heads of k"),
        ({"steps": 4}, ValueError, "q has 4 steps but k 9"),
    ],
)
def test_errors_name_the_argument(own_errors, options, error, message):
    q, k, v = (jnp.asarray(x, jnp.float32) for x in draw(heads=options.pop("heads", 4)))
    with pytest.raises(error, match=message):
        ops.cached_attention(q[:, : options.pop("steps", TIME)], k, v, **options)
