"""Attention against loops in float64: value and every gradient, both ways to run it; and what it promises besides."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops import _attention_blocks, _cudnn_attention
from tests.reference import attention as reference
from tests.reference.tolerance import tolerance

IMPLEMENTATIONS = "xla", "chunked"
usual_is_xla = pytest.mark.parametrize("implementation", ["xla", pytest.param("chunked", marks=pytest.mark.exhaustive)])


@pytest.fixture(autouse=True)
def short_strips(monkeypatch):
    """Strips so short that a few steps take several, of which some share their keys."""
    monkeypatch.setattr(_attention_blocks, "_ROWS", 4)
    monkeypatch.setattr(_attention_blocks, "_RANGES", 2)


def draw(seed=0, *, batch=2, time=11, keys=None, heads=4, key_heads=2, width=3, value=3):
    rng = np.random.default_rng(seed)
    shapes = (batch, time, heads, width), *((batch, keys or time, key_heads, size) for size in (width, value))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def noise(*shape):
    return np.random.default_rng(7).standard_normal(shape)


def agree(arrays, implementation, *, dtype="float32", **options):
    """Checks the value and the gradients of q, k, v and, where there is one, of the bias."""
    dy = noise(*arrays[0].shape[:3], arrays[2].shape[-1])
    want = reference.dot_product_attention_gradients(*arrays, dy, **options)
    same(arrays, implementation, dy, reference.dot_product_attention(*arrays, **options), want, dtype, **options)


def same(arrays, implementation, dy, y, gradients, dtype="float32", **options):
    """Compares the value, and the gradients of sum(y * dy), with those given."""
    names = ["q", "k", "v"] + (["bias"] if "bias" in options else [])
    given = {name: value for name, value in options.items() if name != "bias"}

    def number(*arrays):
        y = ops.dot_product_attention(
            *arrays[:3],
            **{name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in given.items()},
            **({"bias": arrays[3]} if len(arrays) == 4 else {}),
            precision="highest",
            implementation=implementation,
        )
        return jnp.sum(y * jnp.asarray(dy, dtype)), y

    operands = [jnp.asarray(x, dtype) for x in (*arrays, *([options["bias"]] if "bias" in options else []))]
    run = jax.jit(jax.grad(number, range(len(names)), has_aux=True))
    ours, value = run(*operands)
    np.testing.assert_allclose(value, y, **tolerance(dtype))
    for name, got, expected in zip(names, ours, gradients, strict=False):
        # The bound is for values of order one.
        scale = max(1.0, float(np.max(np.abs(expected), initial=0)))
        np.testing.assert_allclose(got / scale, expected / scale, **tolerance(dtype), err_msg=name)


CASES = {
    "all to all": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "lengths": {"causal": True, "lengths": np.array([0, 7])},
    "segments": {"segment_ids": np.array([[0] * 5 + [1] * 6, [3] * 2 + [4] * 9]), "scale": 0.3},
    "soft cap and bias": {"soft_cap": 0.7, "bias": noise(1, 4, 1, 11), "causal": True},
    "bias of heads": {"bias": noise(2, 1, 11, 11), "window": 6},
    "mask": {"mask": noise(2, 4, 11, 11) > 0.8},
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_matches_loops(case, implementation):
    agree(draw(), implementation, **CASES[case])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset", [5, np.array([0, 5], np.int32)], ids=["one", "by row"])
def test_keys_of_another_length(implementation, offset):
    lengths = {"lengths": np.array([6, 2]), "key_lengths": np.array([11, 7])}
    agree(draw(time=6, keys=11, heads=3, key_heads=3, value=5), implementation, causal=True, offset=offset, **lengths)


def any_options(data):
    """Arrays, and options that fit them."""
    key_heads, group, time, keys = (data.draw(st.integers(1, n)) for n in (3, 3, 13, 13))
    options = {"causal": data.draw(st.booleans()), "window": data.draw(st.none() | st.integers(1, 14))}
    options["offset"] = data.draw(st.integers(-3, 13))
    full = 2, key_heads * group, time, keys
    if data.draw(st.booleans()):
        options["lengths"] = np.array([data.draw(st.integers(0, time)) for _ in range(2)])
        options["key_lengths"] = np.array([data.draw(st.integers(0, keys)) for _ in range(2)])
    if data.draw(st.booleans()):
        options["mask"] = noise(*(size if data.draw(st.booleans()) else 1 for size in full)) > 0
    if data.draw(st.booleans()):
        options["bias"] = noise(*(size if data.draw(st.booleans()) else 1 for size in full))
    if data.draw(st.booleans()):
        for name, size in (("segment_ids", time), ("key_segment_ids", keys)):
            options[name] = np.sort(np.abs(noise(2, size) * 2).astype(np.int32), axis=1)
    return draw(time=time, keys=keys, heads=key_heads * group, key_heads=key_heads), options


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.exhaustive
@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_any_options_match_loops(implementation, data):
    arrays, options = any_options(data)
    agree(arrays, implementation, soft_cap=data.draw(st.none() | st.just(1.5)), **options)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_exact_in_double_precision(implementation, x64):
    agree(draw(), implementation, dtype="float64", causal=True, lengths=np.array([9, 11]))


def run(q, k, v, implementation="chunked", **options):
    return ops.dot_product_attention(q, k, v, implementation=implementation, precision="highest", **options)


def as_float32(arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_modes_agree_at_second_order(implementation):
    arrays = as_float32(draw(time=6))
    tangents = as_float32(draw(1, time=6))
    bias = jnp.asarray(noise(1, 4, 6, 6), jnp.float32)

    def number(*arrays):
        return jnp.sum(jnp.sin(3 * run(*arrays[:3], implementation, causal=True, bias=arrays[3], soft_cap=2.0)))

    everything, directions = (*arrays, bias), (*tangents, bias[::-1])
    slope = jax.jit(lambda *a: jax.jvp(number, a, directions)[1])
    gradients = jax.jit(jax.grad(number, range(4)))(*everything)
    want = sum(jnp.vdot(g, d) for g, d in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(slope(*everything), want, rtol=1e-5, atol=1e-5)
    forward_over_reverse = jax.jit(lambda *a: jax.jvp(jax.grad(number, range(4)), a, directions)[1])(*everything)
    reverse_over_forward = jax.jit(jax.grad(slope, range(4)))(*everything)
    twice = jax.jit(jax.grad(lambda *a: sum(map(jnp.vdot, jax.grad(number, range(4))(*a), directions)), range(4)))(
        *everything
    )
    for name, a, b, c in zip("qkvb", forward_over_reverse, reverse_over_forward, twice, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-4, err_msg=name)


@usual_is_xla
def test_vmap_equals_the_loop(implementation):
    q, k, v = as_float32(draw(batch=3, time=6))
    weights = jnp.asarray(noise(3, 2, 6, 4, 3), jnp.float32)

    def gradient(weight, q, k, v):
        return jax.grad(lambda *a: jnp.sum(weight * run(*a, implementation, causal=True)), (0, 1, 2))(q, k, v)

    pairs = tuple(jnp.stack([x[:2], x[1:]]) for x in (q, k))
    mapped = jax.vmap(gradient, in_axes=(0, 0, 0, None))(weights[:2], *pairs, v[:2])
    for i in range(2):
        alone = gradient(weights[i], pairs[0][i], pairs[1][i], v[:2])
        for got, want in zip(mapped, alone, strict=True):
            np.testing.assert_allclose(got[i], want, **tolerance("float32"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_past_a_length_is_read(implementation):
    arrays, lengths = as_float32(draw()), jnp.array([4, 0])

    def number(arrays):
        return jnp.sum(jnp.sin(run(*arrays, implementation, causal=True, lengths=lengths)))

    def padded(x, value):
        return ops.zero_padding(x, lengths) + jnp.where(ops.time_mask(lengths, 11), 0, value)[:, :, None, None]

    run_both = jax.jit(jax.value_and_grad(number))
    clean, dirty = (run_both(tuple(padded(x, value) for x in arrays)) for value in (1.0, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert all(not jnp.any(g[0, 4:]) and not jnp.any(g[1]) for g in clean[1])


@usual_is_xla
def test_dropout(implementation):
    q, k, v = as_float32(draw(batch=1, time=40, heads=2, width=40, value=40))
    v, key = jnp.broadcast_to(jnp.eye(40)[None, :, None, :], v.shape), jax.random.key(3)
    weights = run(q, k, v, implementation)  # each step's value is its own unit vector
    dropped = functools.partial(run, dropout=0.25, key=key, implementation=implementation)
    y = jax.jit(dropped)(q, k, v)
    spared = y > 0
    np.testing.assert_allclose(jnp.where(spared, weights / 0.75, 0), y, **tolerance("float32"))
    assert abs(float(jnp.mean(spared)) - 0.75) < 0.03
    # The derivatives draw the same: they agree with the same weights, dropped by hand.
    by_hand = jax.grad(lambda q, k: jnp.sum(jnp.sin(jnp.where(spared, run(q, k, v, implementation) / 0.75, 0))), (0, 1))
    got = jax.jit(jax.grad(lambda q, k: jnp.sum(jnp.sin(dropped(q, k, v))), (0, 1)))(q, k)
    for a, b in zip(got, by_hand(q, k), strict=True):
        np.testing.assert_allclose(a, b, **tolerance("float32"))
    assert not jnp.array_equal(y, dropped(q, k, v, key=jax.random.key(4)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_half_precision(implementation):
    arrays = draw(time=9)
    y = run(*(jnp.asarray(x, jnp.bfloat16) for x in arrays), implementation, causal=True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), reference.dot_product_attention(*arrays, causal=True), **tolerance("bfloat16")
    )


@pytest.fixture
def stand_in(monkeypatch):
    """XLA's attention in the place of cuDNN's, which knows as much of lengths as it does."""
    own = jax.nn.dot_product_attention
    monkeypatch.setattr(_cudnn_attention, "available", lambda: True)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *a, implementation, **options: own(*a, implementation="xla", **options)
    )


@pytest.mark.parametrize("case", ["causal", "window", "lengths", "mask"])
def test_cudnn_is_asked_for_the_same(stand_in, case):
    arrays = draw()
    half = (jnp.asarray(x, jnp.bfloat16) for x in arrays)
    options = {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in CASES[case].items()}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        y = run(*half, "cudnn", **options)
    want = reference.dot_product_attention(*arrays, **CASES[case])
    np.testing.assert_allclose(y.astype(jnp.float32), want, rtol=2e-2, atol=4e-2)


@pytest.mark.parametrize(
    ("dtype", "options", "error", "message"),
    [
        (jnp.float32, {}, TypeError, "wants float16 or bfloat16 but q is float32"),
        (jnp.bfloat16, {"soft_cap": 1.0, "offset": 2}, ValueError, "knows no soft_cap and no offset"),
        (jnp.bfloat16, {}, RuntimeError, "wants a GPU"),
    ],
)
def test_cudnn_says_what_it_cannot(dtype, options, error, message):
    if error is RuntimeError and jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    with pytest.raises(error, match=message):
        run(*(jnp.asarray(x, dtype) for x in draw()), "cudnn", **options)


def test_cudnn():
    if jax.default_backend() != "gpu":
        pytest.skip("cuDNN's attention runs on a GPU alone, and there is none")
    arrays = tuple(jnp.asarray(x, jnp.bfloat16) for x in draw(time=64, width=64, value=64))
    lengths = jnp.array([0, 50])
    y, want = (run(*arrays, name, causal=True, lengths=lengths) for name in ("cudnn", "xla"))
    np.testing.assert_allclose(y.astype(jnp.float32), want.astype(jnp.float32), **tolerance("bfloat16"))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@hypothesis.settings(max_examples=12, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_any_options_match_pytorch(torch, data):
    arrays, options = any_options(data)
    dy = noise(*arrays[0].shape[:3], arrays[2].shape[-1])
    seen = reference.attention_weights(*arrays[:2], **options) > 0
    bias = np.where(seen, np.broadcast_to(options.get("bias", 0.0), seen.shape), -np.inf)
    theirs = [torch.tensor(x.swapaxes(1, 2), requires_grad=True) for x in arrays]
    y = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=torch.tensor(bias), enable_gqa=True)
    torch.sum(y * torch.tensor(dy.swapaxes(1, 2))).backward()
    gradients = [x.grad.numpy().swapaxes(1, 2) for x in theirs]
    same(arrays, "chunked", dy, y.detach().numpy().swapaxes(1, 2), gradients, **options)


@pytest.mark.exhaustive
def test_memory_grows_with_the_number_of_keys_not_with_its_square(monkeypatch):
    monkeypatch.undo()

    def temporaries(time):
        x = jax.ShapeDtypeStruct((1, time, 2, 8), jnp.float32)
        gradient = jax.grad(lambda a: jnp.sum(ops.dot_product_attention(*a, causal=True, implementation="chunked")))
        return jax.jit(gradient).lower((x, x, x)).compile().memory_analysis().temp_size_in_bytes

    times = 1024, 2048, 4096, 8192
    sizes = [temporaries(time) for time in times]
    for time, size in zip(times, sizes, strict=True):
        assert size < 1.5 * sizes[0] * time / times[0]


def test_unknown_sizes():
    sizes = jax.export.symbolic_shape("b, t")
    x = jax.ShapeDtypeStruct((*sizes, 2, 3), jnp.float32)
    exported = jax.export.export(jax.jit(functools.partial(run, causal=True)))(x, x, x)
    arrays = as_float32(draw(heads=2))
    np.testing.assert_allclose(exported.call(*arrays), run(*arrays, causal=True), **tolerance("float32"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 0}, ValueError, "window wants at least 1 step but is 0"),
        ({"soft_cap": -1.0}, ValueError, "soft_cap wants a positive number"),
        ({"dropout": 1.0}, ValueError, "dropout wants a rate from 0 to below 1"),
        ({"dropout": 0.1}, ValueError, "wants a key to draw from"),
        ({"implementation": "flash"}, ValueError, "implementation is 'flash' but wants one of"),
        ({"mask": jnp.ones((1, 3, 11, 11), bool)}, ValueError, r"mask has shape .* but wants \(2, 4, 11, 11\)"),
        ({"bias": jnp.ones((11, 11))}, ValueError, "bias has shape"),
        ({"heads": 3}, ValueError, "q has 3 heads but wants a multiple of the 2 heads of k"),
        ({"width": 5}, ValueError, r"want \[B, T, N, H\], \[B, S, K, H\]"),
        ({"dtype": jnp.int32}, TypeError, "want one floating dtype"),
        ({"keys": 4, "lengths": jnp.array([1, 2])}, ValueError, "wants key_lengths too"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_the_argument(own_errors, options, error, message):
    sizes = {name: options.pop(name) for name in ("heads", "keys") if name in options}
    q, k, v = as_float32(draw(**sizes))
    q = jnp.concatenate([q, q], axis=-1)[..., : options.pop("width", 3)].astype(options.pop("dtype", q.dtype))
    with pytest.raises(error, match=message):
        ops.dot_product_attention(q, k, v, **options)
