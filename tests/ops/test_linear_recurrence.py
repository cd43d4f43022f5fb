"""The linear recurrence against a loop: values, every gradient, both modes, both implementations."""

import functools
import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from tests.reference import linear_recurrence as reference
from tests.reference.tolerance import tolerance

IMPLEMENTATIONS = ("sequential", "associative")
assert_close = functools.partial(np.testing.assert_allclose, **tolerance("float32"))


def draw(seed, shape, dtype="float32"):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.normal(size=shape)
    return (0.6 * values).astype(dtype)


def factors(seed, shape, dtype="float32"):
    """Numbers inside the unit circle."""
    values = draw(seed, shape, dtype)
    return (values / np.maximum(1.05 * np.abs(values), 1)).astype(dtype)


def make_case(time, dtype, cut, rows=3, width=2):
    """(a, b, carry), lengths, starts, and cotangents of (h, last)."""
    arrays = factors(0, (rows, time, width), dtype), draw(1, (rows, time, width), dtype), draw(2, (rows, width), dtype)
    lengths = np.array([time, 0, (2 * time + 1) // 3], np.int32) if cut else None
    starts = np.arange(rows * time).reshape(rows, time) % 5 == 2 if cut else None
    return arrays, lengths, starts, (draw(3, (rows, time, width), dtype), draw(4, (rows, width), dtype))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("time", "reverse", "cut"), [(1, False, True), (7, False, False), (7, True, True)])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_matches_the_loop(time, reverse, cut, dtype, implementation):
    arrays, lengths, starts, cotangents = make_case(time, dtype, cut)

    @jax.jit
    def run(arrays, tangents, cotangents):
        def op(a, b, carry):
            cuts = {"lengths": lengths, "starts": starts} if cut else {}
            return ops.linear_recurrence(
                *(a, b), carry=carry, reverse=reverse, implementation=implementation, **jax.tree.map(jnp.asarray, cuts)
            )

        out, pull = jax.vjp(op, *arrays)
        return out, pull(cotangents), jax.jvp(op, arrays, tangents)[1]

    tangents = tuple(draw(5 + i, array.shape, dtype) for i, array in enumerate(arrays))
    out, gradients, tangent = run(arrays, tangents, cotangents)
    wide = [array.astype("complex128" if dtype == "complex64" else "float64") for array in (*arrays, *cotangents)]
    cuts = lengths, starts, reverse
    jax.tree.map(assert_close, out, reference.linear_recurrence(*wide[:3], *cuts))
    want = reference.linear_recurrence_gradients(*wide, *cuts)
    jax.tree.map(assert_close, gradients, want)
    # The two modes are one matrix.
    forward = sum(np.sum(np.asarray(t) * c) for t, c in zip(tangent, cotangents, strict=True))
    backward = sum(np.sum(g * t) for g, t in zip(want, tangents, strict=True))
    assert_close(forward, backward)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 1, 3), (1, 5, 1)])
def test_factors_are_repeated_along_axes_of_size_one(shape, implementation):
    a, b, w = factors(0, shape), draw(1, (2, 5, 3)), draw(2, (2, 5, 3))

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(a, shape):
        def loss(a, b):
            return jnp.sum(ops.linear_recurrence(a, b, implementation=implementation)[0] * w)

        return jax.value_and_grad(loss, (0, 1))(jnp.broadcast_to(a, shape), b)

    value, (da, db) = gradient(a, shape)
    want, (da_whole, db_whole) = gradient(a, b.shape)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    jax.tree.map(assert_close, (value, da, db), (want, da_whole.sum(axes, keepdims=True), db_whole))


@pytest.mark.parametrize(("implementation", "reverse"), [("sequential", True), ("associative", False)])
def test_second_derivatives_in_every_pair_of_modes(reverse, implementation, x64):
    arrays = tuple(jnp.asarray(array, "float64") for array in make_case(4, "float64", False, rows=1)[0])
    starts = jnp.array([[False, False, True, False]])

    def unrolled(a, b, carry):
        h, state = [None] * 4, carry
        for t in reversed(range(4)) if reverse else range(4):
            state = jnp.zeros_like(state) if t == (1 if reverse else 2) else state
            h[t] = state = a[:, t] * state + b[:, t]
        return jnp.stack(h, 1), state

    def op(*arrays):
        return ops.linear_recurrence(
            *arrays[:2], carry=arrays[2], starts=starts, reverse=reverse, implementation=implementation
        )

    def loss(function, *arrays):
        h, last = function(*arrays)
        return jnp.sum(jnp.sin(h)) + jnp.sum(last**3)

    every = 0, 1, 2
    want = jax.jit(jax.hessian(functools.partial(loss, unrolled), every))(*arrays)
    for outer, inner in itertools.product((jax.jacfwd, jax.jacrev), repeat=2):
        got = jax.jit(outer(inner(functools.partial(loss, op), every), every))(*arrays)
        jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float64")), got, want)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_from_padding_or_from_before_a_start(reverse, implementation):
    a, b, carry = (jnp.asarray(array) for array in make_case(7, "float32", False)[0])
    lengths = jnp.array([5, 0, 7], jnp.int32)
    starts = jnp.zeros((3, 7), bool).at[2, 3].set(True).at[0, 6].set(True)

    @jax.jit
    def run(a, b, carry):
        def loss(a, b, carry):
            h, last = ops.linear_recurrence(
                *(a, b),
                carry=carry,
                lengths=lengths,
                starts=starts,
                reverse=reverse,
                implementation=implementation,
            )
            h = h.at[2].set(jnp.where(jnp.arange(7)[:, None] < 3, 0, h[2]) if not reverse else h[2].at[3:].set(0))
            return jnp.sum(jnp.sin(h)) + jnp.sum(jnp.sin(last)), (h, last)

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(a, b, carry)

    want = run(a, b, carry)
    padded = [array.at[0, 5:].set(jnp.nan).at[1].set(jnp.inf) for array in (a, b)]
    jax.tree.map(np.testing.assert_array_equal, run(*padded, carry), want)
    assert not np.any(want[1][0][0, 5:])
    # A sequence that ends in NaN, and the packed one after it.
    spoilt = b.at[2, 4 if reverse else 1].set(jnp.nan)
    (_, (h, last)), gradients = run(a, spoilt, carry)
    jax.tree.map(np.testing.assert_array_equal, (h, last), want[0][1])
    jax.tree.map(np.testing.assert_array_equal, gradients[1], want[1][1])


@pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])
def test_no_steps_and_rows_of_no_length_give_the_carry_back(implementation):
    carry = jnp.array([[1.0, -2.0]])
    for time, lengths in ((0, None), (4, jnp.array([0])), (4, jnp.array([-3]))):
        a, b = jnp.full((1, time, 2), 0.5), jnp.ones((1, time, 2))
        h, last = ops.linear_recurrence(a, b, carry=carry, lengths=lengths, implementation=implementation)
        np.testing.assert_array_equal(last, carry)
        np.testing.assert_array_equal(h, jnp.zeros_like(b))
    assert not np.any(ops.linear_recurrence(a[:, :0], b[:, :0])[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_thousands_of_steps_stay_exact(dtype, implementation):
    """With factors up to 1 in modulus, and exact zeros, which a division by their products would not survive."""
    time = 4096
    modulus = 1 - np.exp(-np.random.default_rng(0).uniform(0, 12, (1, time, 3)))
    modulus[:, ::1000, 0] = 0
    a, b = draw(1, (1, time, 3), dtype), draw(2, (1, time, 3), dtype)
    a = (modulus * a / np.abs(a)).astype(dtype) if dtype == "complex64" else modulus.astype(dtype)
    h, _ = jax.jit(functools.partial(ops.linear_recurrence, implementation=implementation))(a, b)
    wide = "complex128" if dtype == "complex64" else "float64"
    want, _ = reference.linear_recurrence(a.astype(wide), b.astype(wide), np.zeros((1, 3), wide))
    assert np.max(np.abs(h - want)) <= 1e-5 * np.max(np.abs(want))


def test_the_reverse_mode_keeps_the_factors_and_the_states():
    a, b = factors(0, (2, 64, 3)), draw(1, (2, 64, 3))
    for implementation in IMPLEMENTATIONS:
        _, pull = jax.vjp(lambda a, b: ops.linear_recurrence(a, b, implementation=implementation)[0], a, b)  # noqa: B023
        assert sum(leaf.size for leaf in jax.tree.leaves(pull)) <= 2.1 * b.size


@pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])
def test_vmap_jit_and_checkpoint_change_nothing(implementation):
    case = make_case(40 if implementation == "auto" else 7, "float32", False)[0]
    cases = case, tuple(array[::-1] for array in case)
    stacked = tuple(jnp.stack(arrays) for arrays in zip(*cases, strict=True))
    lengths = jnp.array([7, 0, 3], jnp.int32)

    def both(a, b, carry):
        def op(a, b, carry):
            return ops.linear_recurrence(a, b, carry=carry, lengths=lengths, implementation=implementation)

        out, pull = jax.vjp(jax.checkpoint(op), a, b, carry)
        return out, pull(jax.tree.map(jnp.sin, out))

    mapped = jax.jit(jax.vmap(both))(*stacked)
    over_b = jax.jit(jax.vmap(both, (None, 0, None)))(cases[0][0], stacked[1], cases[0][2])
    for i, case in enumerate(cases):
        want = both(*case)
        jax.tree.map(lambda got, want, i=i: assert_close(got[i], want), mapped, want)
    jax.tree.map(lambda got, want: assert_close(got[0], want), over_b, both(*cases[0]))


@pytest.mark.parametrize("implementation", ["auto", "sequential"])
def test_exports_with_any_batch_and_time(implementation):
    rows, time = jax.export.symbolic_shape("b, t")

    def gradients(a, b, carry, lengths, starts):
        def loss(a, b, carry):
            h, last = ops.linear_recurrence(
                a, b, carry=carry, lengths=lengths, starts=starts, implementation=implementation
            )
            return jnp.sum(jnp.sin(h)) + jnp.sum(last)

        return jax.grad(loss, (0, 1, 2))(a, b, carry)

    arrays, lengths, starts, _ = make_case(7, "float32", True)
    inputs = *map(jnp.asarray, arrays), jnp.asarray(lengths), jnp.asarray(starts)
    shapes = (rows, time, 2), (rows, time, 2), (rows, 2), (rows,), (rows, time)
    specs = [jax.ShapeDtypeStruct(shape, leaf.dtype) for shape, leaf in zip(shapes, inputs, strict=True)]
    exported = jax.export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(*specs)
    jax.tree.map(assert_close, exported.call(*inputs), jax.jit(gradients)(*inputs))


def test_auto_is_by_platform_and_length():
    def loops(time, platform):
        spec = jax.ShapeDtypeStruct((2, time, 3), jnp.float32)
        exported = jax.export.export(jax.jit(ops.linear_recurrence), platforms=(platform,))(spec, spec)
        return exported.mlir_module().count("stablehlo.while")

    assert loops(64, "cpu") == 1
    assert loops(64, "cuda") == loops(64, "tpu") == 0
    assert loops(8, "cuda") == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_sums_in_float32(implementation):
    """Ones summed in bfloat16 stop at 256."""
    ones = jnp.ones((1, 1000, 1), jnp.bfloat16)
    h, last = ops.linear_recurrence(ones, ones, implementation=implementation)
    assert h.dtype == jnp.bfloat16
    assert last.dtype == jnp.float32
    assert last == 1000


A = jnp.zeros((2, 5, 3))


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((A, A.astype(int)), {}, TypeError, "b wants a floating or complex dtype but has int32"),
        ((A.astype(jnp.bfloat16), A), {}, TypeError, "a wants the dtype of b, float32, but has bfloat16"),
        ((A[0, 0], A[0, 0]), {}, ValueError, r"b wants \[B, T, ...\] but has shape \(3,\)"),
        ((A[:, :4], A), {}, ValueError, r"a wants shape \(2, 5, 3\) or 1 in its axes but has \(2, 4, 3\)"),
        ((A, A), {"carry": A[:1, 0]}, ValueError, r"carry wants shape \(2, 3\) but has \(1, 3\)"),
        ((A, A), {"carry": A[:, 0].astype(jnp.bfloat16)}, TypeError, "carry wants dtype float32 but has bfloat16"),
        ((A, A), {"lengths": jnp.zeros(3, int)}, ValueError, r"lengths wants shape \(2,\) but has \(3,\)"),
        ((A, A), {"lengths": jnp.zeros(2)}, TypeError, "lengths wants an integer dtype but has float32"),
        ((A, A), {"starts": jnp.zeros((2, 4), bool)}, ValueError, r"starts wants shape \(2, 5\) but has \(2, 4\)"),
        ((A, A), {"implementation": "scan"}, ValueError, "implementation is 'scan' but wants one of auto, sequential"),
    ],
)
def test_errors_name_op_argument_and_what_came(arguments, settings, error, message, own_errors):
    with pytest.raises(error, match=f"^linear_recurrence: {message}"):
        ops.linear_recurrence(*arguments, **settings)


def test_the_associative_form_wants_to_know_the_steps():
    (time,) = jax.export.symbolic_shape("t")
    spec = jax.ShapeDtypeStruct((2, time, 3), jnp.float32)
    op = functools.partial(ops.linear_recurrence, implementation="associative")
    with pytest.raises(ValueError, match=r"^linear_recurrence: .*'associative' wants a concrete T but got t"):
        jax.export.export(jax.jit(op))(spec, spec)
