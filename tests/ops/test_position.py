"""Positions against loops, their invariances, and values that are published."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import position as reference
from tests.reference.tolerance import tolerance

assert_close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))


def draw(seed, shape, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def rotary(x, positions, **options):
    return ops.rotary(jnp.asarray(x), jnp.asarray(positions), **options)


@pytest.mark.parametrize(
    ("scaling", "want", "magnitude"),
    [
        (None, reference.frequencies(500.0, 8), 1),
        (ops.RotaryLinear(4.0), [f / 4 for f in reference.frequencies(500.0, 8)], 1),
        (ops.RotaryNTK(4.0), reference.frequencies(500.0 * 4.0 ** (8 / 6), 8), 1),
        (ops.RotaryLlama3(8.0, 1.0, 4.0, 200), reference.llama3(500.0, 8, 8.0, 1.0, 4.0, 200), 1),
        (ops.RotaryYarn(4.0, 400, 20.0, 1.0), reference.yarn(500.0, 8, 4.0, 400, 20.0, 1.0), 0.1 * np.log(4) + 1),
        (ops.RotaryYarn(4.0, 400, attention_factor=1.0), reference.yarn(500.0, 8, 4.0, 400, 32.0, 1.0), 1),
    ],
    ids=["plain", "linear", "ntk", "llama3", "yarn", "yarn of norm 1"],
)
def test_rotary_matches_the_loop(scaling, want, magnitude):
    x, positions = draw(0, (2, 5, 3, 8)), np.array([[0, 1, 2, 3, 4], [7, 9, 0, 30, 31]], np.int32)
    got = rotary(x, positions, base=500.0, scaling=scaling)
    assert_close(got, reference.rotate(x, positions, want, magnitude))
    shared = rotary(x, positions[1], base=500.0, scaling=scaling)
    assert_close(shared, reference.rotate(x, positions[1], want, magnitude))


def test_a_fraction_leaves_the_other_features_alone():
    x, positions = draw(0, (2, 5, 3, 8)), np.arange(3, 8, dtype=np.int32)
    got = rotary(x, positions, fraction=0.5)
    assert_close(got, reference.rotate(x, positions, reference.frequencies(1e4, 4)))
    np.testing.assert_array_equal(got[..., 4:], x[..., 4:])


def test_a_linear_factor_is_a_smaller_position_and_its_whole_multiples_the_unscaled():
    x, positions = draw(0, (1, 4, 2, 6)), np.arange(4, dtype=np.int32)
    assert_close(rotary(x, 3 * positions, scaling=ops.RotaryLinear(3.0)), rotary(x, positions))


def test_scores_depend_on_the_difference_of_positions_and_norms_are_kept():
    q, k = draw(0, (1, 4, 2, 8)), draw(1, (1, 6, 2, 8))

    def scores(offset):
        turned = rotary(q, 2 + jnp.arange(4) + offset), rotary(k, jnp.arange(6) + offset)
        return jnp.einsum("btnh,bsnh->bnts", *turned)

    for offset in (1, 50, -3):
        assert_close(scores(offset), scores(0))
    assert_close(jnp.linalg.norm(rotary(q, jnp.arange(4)), axis=-1), np.linalg.norm(q, axis=-1))


def test_rotary_streams_with_an_offset_from_a_carry():
    x = draw(0, (2, 6, 1, 4))
    steps = jax.jit(lambda x, seen: ops.rotary(x, seen[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)[None]))
    zero = jnp.zeros(2, jnp.int32)
    whole = steps(x, zero)
    for cut in (1, 4):
        parts = steps(x[:, :cut], zero), steps(x[:, cut:], zero + jnp.int32(cut))
        assert_close(np.concatenate(parts, 1), whole)


def test_rotary_transposes_into_the_turn_back():
    """A rotation's transpose is its inverse, and its tangent the rotation itself."""
    x, dx = jnp.asarray(draw(0, (2, 3, 2, 4))), jnp.asarray(draw(1, (2, 3, 2, 4)))
    turn = functools.partial(ops.rotary, positions=jnp.array([5, 0, 9]))
    y, tangent = jax.jvp(turn, (x,), (dx,))
    assert_close(tangent, turn(dx))
    assert_close(jax.vjp(turn, x)[1](y)[0], x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rotary_turns_in_float32_and_gives_its_dtype_back(dtype):
    x = jnp.asarray(draw(0, (1, 3, 2, 8)), dtype)
    positions = np.array([0, 301, 4095], np.int32)  # 4095 is not a bfloat16
    got = rotary(x, positions)
    assert got.dtype == x.dtype
    want = reference.rotate(np.asarray(x, np.float64), positions, reference.frequencies(1e4, 8))
    # An angle of 4095 radians is good to 3e-4 of a radian.
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=max(3e-4, tolerance(dtype)["atol"]))


def test_rotary_in_float64(x64):
    x, positions = draw(0, (1, 3, 2, 8), "float64"), np.array([0, 301, 40950])
    got = rotary(x, positions)
    assert got.dtype == jnp.float64
    want = reference.rotate(x, positions, reference.frequencies(1e4, 8))
    np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize(("shape", "features", "base"), [((), 2, 1e4), ((5,), 6, 1e4), ((2, 3), 8, 100.0)])
def test_sinusoidal_matches_the_loop(shape, features, base):
    positions = np.random.default_rng(0).integers(0, 60, shape)
    got = ops.sinusoidal(jnp.asarray(positions, jnp.int32), features, base=base)
    assert got.dtype == jnp.float32
    assert got.shape == (*shape, features)
    for index in np.ndindex(*shape):
        assert_close(got[index], reference.sinusoidal(positions[index], features, base))


def test_sinusoidal_takes_fractions():
    assert_close(ops.sinusoidal(jnp.array([0.25]), 4)[0], reference.sinusoidal(0.25, 4))


@pytest.mark.parametrize(
    ("heads", "want"),
    [
        (1, [2.0**-8]),
        (8, [2.0**-i for i in range(1, 9)]),
        (12, [2.0**-i for i in range(1, 9)] + [2.0**-i for i in (0.5, 1.5, 2.5, 3.5)]),
        (16, [2.0 ** (-i / 2) for i in range(1, 17)]),
    ],
)
def test_alibi_slopes_are_the_published(heads, want):
    slopes = ops.alibi_slopes(heads)
    assert slopes.dtype == jnp.float32
    assert_close(slopes, want)


def test_alibi_matches_the_loop_row_by_row_or_for_all():
    queries, keys = np.array([[4, 5, 6], [0, 1, 2]], np.int32), np.array([[0, 1, 2, 3, 4], [9, 8, 7, 1, 0]], np.int32)
    slopes = np.asarray(ops.alibi_slopes(3), np.float64)
    rows = jax.jit(functools.partial(ops.alibi, 3))(queries, keys)
    assert rows.shape == (2, 3, 3, 5)
    for b in range(2):
        assert_close(rows[b], reference.alibi(slopes, queries[b], keys[b]))
        np.testing.assert_array_equal(ops.alibi(3, jnp.asarray(queries[b]), jnp.asarray(keys[b])), rows[b])


@pytest.mark.parametrize(
    ("buckets", "furthest", "bidirectional"),
    [(32, 128, True), (32, 128, False), (4, 3, True), (2, 2, False), (6, 20, False), (10, 1000, True)],
)
def test_relative_buckets_match_the_loop(buckets, furthest, bidirectional):
    distances = np.arange(-furthest - 9, furthest + 10, dtype=np.int32)
    got = jax.jit(
        functools.partial(ops.relative_buckets, num_buckets=buckets, max_distance=furthest, bidirectional=bidirectional)
    )(distances)
    want = [reference.relative_bucket(int(d), buckets, furthest, bidirectional) for d in distances]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == jnp.int32
    assert set(map(int, got)) <= set(range(buckets))


def test_relative_buckets_are_those_of_t5():
    """Where the ranges of its 32 buckets begin: 8 sqrt(2)^j in two directions, 16 * 8^(j / 16) in one."""
    keys = jnp.arange(-150, 1)
    one, two = (ops.relative_buckets(keys, bidirectional=flag) for flag in (False, True))

    def begins(buckets):
        return [-int(keys[np.asarray(buckets) == bucket].max()) for bucket in range(int(buckets.max()) + 1)]

    assert begins(two) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    assert begins(one) == [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


def test_everything_exports_with_any_batch_and_time_and_has_strong_types():
    rows, time = jax.export.symbolic_shape("b, t")

    def everything(x, positions):
        ahead = positions[:, None, :] - positions[:, :, None]
        return (
            ops.rotary(x, positions, scaling=ops.RotaryYarn(2.0, 64)),
            ops.rotary(x, positions[0]),
            ops.sinusoidal(positions, 4),
            ops.alibi(3, positions, positions),
            ops.relative_buckets(ahead, bidirectional=True),
        )

    specs = jax.ShapeDtypeStruct((rows, time, 3, 4), jnp.float32), jax.ShapeDtypeStruct((rows, time), jnp.int32)
    exported = jax.export.export(jax.jit(everything), platforms=("cpu", "cuda", "tpu"))(*specs)
    inputs = jnp.asarray(draw(0, (2, 3, 3, 4))), jnp.array([[0, 1, 2], [7, 8, 9]], jnp.int32)
    wanted = jax.jit(everything)(*inputs)
    jax.tree.map(assert_close, tuple(exported.call(*inputs)), wanted)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(wanted))


X, POSITIONS = jnp.zeros((2, 5, 3, 4)), jnp.zeros((2, 5), jnp.int32)
FLOATS = jnp.zeros((2, 5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.rotary(X[0], POSITIONS), ValueError, r"rotary: x wants \[B, T, N, H\] but has shape \(5, 3, 4\)"),
        (lambda: ops.rotary(X.astype(int), POSITIONS), TypeError, "rotary: x wants a floating dtype but has int32"),
        (lambda: ops.rotary(X, FLOATS), TypeError, "rotary: positions wants an integer dtype but has float32"),
        (lambda: ops.rotary(X, POSITIONS[:1]), ValueError, r"rotary: positions wants shape \(2, 5\) or \(5,\) but has"),
        (lambda: ops.rotary(X, POSITIONS[0, 0]), ValueError, "rotary: positions wants one axis or two"),
        (lambda: ops.rotary(X[..., :3], POSITIONS), ValueError, "rotary: wants to rotate an even number .* 1.0 of 3"),
        (lambda: ops.rotary(X, POSITIONS, fraction=0.25), ValueError, "rotary: wants to rotate an even number"),
        (lambda: ops.rotary(X, POSITIONS, fraction=1.5), ValueError, "rotary: wants to rotate .* 1.5 of 4"),
        (lambda: ops.RotaryYarn(0.0, 64), ValueError, "RotaryYarn: factor is 0.0 but wants to be above 0"),
        (lambda: ops.RotaryLlama3(8.0, 4.0, 4.0), ValueError, "RotaryLlama3: low_freq_factor is 4.0 but wants to be"),
        (lambda: ops.sinusoidal(POSITIONS, 5), ValueError, "sinusoidal: features is 5 but wants an even number"),
        (lambda: ops.alibi_slopes(0), ValueError, "alibi_slopes: num_heads is 0 but wants at least 1"),
        (lambda: ops.alibi(2, POSITIONS, POSITIONS[0]), ValueError, r"alibi: key_positions wants \[S\] or \[B, S\]"),
        (lambda: ops.alibi(2, POSITIONS, FLOATS), TypeError, "alibi: key_positions wants an integer dtype"),
        (
            lambda: ops.relative_buckets(FLOATS, bidirectional=True),
            TypeError,
            "relative_buckets: relative_positions wants an integer dtype but has float32",
        ),
        (
            lambda: ops.relative_buckets(POSITIONS, num_buckets=5, bidirectional=True),
            ValueError,
            "relative_buckets: num_buckets is 5 but wants an even number of at least 4",
        ),
        (
            lambda: ops.relative_buckets(POSITIONS, max_distance=16, bidirectional=False),
            ValueError,
            "relative_buckets: max_distance is 16 but wants more than 16",
        ),
    ],
)
def test_errors_name_op_argument_and_what_came(call, error, message, own_errors):
    with pytest.raises(error, match=f"^{message}"):
        call()
