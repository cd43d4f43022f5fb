"""Where convolutions meet the rest of JAX, and the sizes at which the algorithms change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import PartitionSpec

from jaxnets import ops
from jaxnets.ops import _chunks, _convolution_primitive
from jaxnets.ops._convolution_primitive import algorithm
from tests.reference import convolution as reference
from tests.reference.tolerance import tolerance


def draw(seed, *shapes, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape) / 4, dtype) for shape in shapes)


def algorithm_of(monkeypatch, call):
    """The algorithms that the lowering of a call chooses on a CPU."""
    chosen = []

    def record(*call):
        taken = algorithm(*call)
        chosen.append(taken[0])
        return taken

    monkeypatch.setattr(_convolution_primitive, "algorithm", record)
    jax.clear_caches()
    jax.block_until_ready(call())
    return chosen


@pytest.mark.parametrize("padding", ["SAME", "VALID", 2, 3])
def test_auto_takes_winograd_and_matches_the_loop(padding, monkeypatch):
    monkeypatch.setattr(_convolution_primitive, "_FEWEST_TILES", 1)
    x, kernel = draw(0, (2, 6, 7, 16), (3, 3, 16, 17))
    conv = reference.Conv(x.shape, kernel.shape, padding=padding)
    (dy,) = draw(1, conv.y_shape)

    def run():
        y, pull = jax.vjp(functools.partial(ops.conv, padding=padding), x, kernel)
        return y, *pull(dy)

    assert algorithm_of(monkeypatch, run) == ["winograd"] * 3
    wide = [np.asarray(a, np.float64) for a in (x, kernel, dy)]
    wanted = conv(*wide[:2]), *conv.gradients(*wide)[:2]
    for got, want in zip(run(), wanted, strict=True):
        np.testing.assert_allclose(got, want, **tolerance(np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_winograd_rounds_as_little_as_it_says(seed, x64):
    x, kernel = draw(seed, (2, 8, 8, 512), (3, 3, 512, 64))
    want = np.asarray(ops.conv(x.astype(np.float64), kernel.astype(np.float64), implementation="xla"))
    got = np.asarray(ops.conv(x, kernel, implementation="winograd"))
    assert np.abs(got - want).max() <= tolerance(np.float32)["rtol"] * np.abs(want).max()


def test_auto_takes_winograd_by_the_number_of_tiles(monkeypatch):
    x, kernel = draw(0, (32, 8, 8, 16), (3, 3, 16, 16))
    assert algorithm_of(monkeypatch, lambda: ops.conv(x, kernel)) == ["winograd"]
    assert algorithm_of(monkeypatch, lambda: ops.conv(x[1:], kernel)) == ["im2col"]


def test_auto_keeps_from_winograd_where_it_would_hurt(monkeypatch):
    monkeypatch.setattr(_convolution_primitive, "_FEWEST_TILES", 1)
    x, kernel = draw(0, (1, 8, 8, 16), (3, 3, 16, 16))
    assert algorithm_of(monkeypatch, lambda: ops.conv(x, kernel)) == ["winograd"]
    assert algorithm_of(monkeypatch, lambda: ops.conv(x, kernel, padding="CAUSAL")) == ["im2col"]
    assert algorithm_of(monkeypatch, lambda: ops.conv(x, kernel, precision="highest")) == ["im2col"]
    with jax.default_matmul_precision("highest"):
        assert algorithm_of(monkeypatch, lambda: ops.conv(x, kernel)) == ["im2col"]


def test_causal_never_lets_nan_travel_back():
    x, kernel = draw(0, (1, 8, 8, 16), (3, 3, 16, 16))
    y = ops.conv(x.at[:, 5].set(jnp.nan), kernel, padding="CAUSAL")
    assert np.isfinite(y[:, :5]).all()
    assert np.isnan(y[:, 5]).all()


def test_transposed_with_wide_padding():
    x, kernel = draw(0, (1, 5, 5, 16), (3, 3, 16, 16))
    op = functools.partial(ops.conv_transpose, padding=((4, 4), (4, 4)))
    got = jax.vjp(op, x, kernel)[1](jnp.ones((1, 11, 11, 16)))
    want = jax.vjp(functools.partial(op, implementation="xla"), x, kernel)[1](jnp.ones((1, 11, 11, 16)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, **tolerance(np.float32))


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_chunks_that_do_not_divide_the_batch(rows, monkeypatch):
    x, kernel, dy = draw(0, (5, 4, 4, 3), (3, 3, 3, 2), (5, 4, 4, 2))
    op = functools.partial(ops.conv, implementation="im2col")
    want = jax.vjp(op, x, kernel)[1](dy)
    monkeypatch.setattr(_chunks, "_CHUNK_BYTES", rows * 4 * 4 * 27 * 4)
    jax.clear_caches()
    for a, b in zip(jax.vjp(op, x, kernel)[1](dy), want, strict=True):
        np.testing.assert_allclose(a, b, **tolerance(np.float32))


def test_under_shard_map():
    x, kernel = draw(0, (2, 6, 6, 3), (3, 3, 3, 4))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(kernel, x):
        return jax.lax.psum(jnp.sum(jnp.square(ops.conv(x, kernel))), "data")

    specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    sharded = jax.grad(jax.shard_map(loss, mesh=mesh, **specs))(kernel, x)
    np.testing.assert_allclose(
        sharded, jax.grad(lambda k: jnp.sum(jnp.square(ops.conv(x, k))))(kernel), **tolerance(np.float32)
    )


def test_without_jit():
    x, kernel = draw(0, (1, 4, 4, 2), (3, 3, 2, 2))
    want = jax.grad(lambda k: jnp.sum(ops.conv(x, k)))(kernel)
    with jax.disable_jit():
        got = jax.grad(lambda k: jnp.sum(ops.conv(x, k)))(kernel)
    np.testing.assert_array_equal(got, want)


def test_no_time_at_all():
    (kernel,) = draw(0, (3, 2, 4))
    empty = jnp.zeros((3, 2, 0, 2))
    y = jax.vmap(lambda x: ops.conv(x, kernel, padding="CAUSAL"))(empty)
    assert y.shape == (3, 2, 0, 4)
    assert ops.max_pool(jnp.zeros((2, 0, 4)), 2).shape == (2, 0, 4)
    assert ops.avg_pool(jnp.zeros((2, 0, 4)), 2).shape == (2, 0, 4)


def test_integers_are_refused(own_errors):
    ones = jnp.ones((1, 4, 4, 1), jnp.int32)
    with pytest.raises(TypeError, match=r"^conv: x wants a floating dtype but has int32"):
        ops.conv(ones, jnp.ones((3, 3, 1, 1), jnp.int32))


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CAUSAL"])
def test_exports_with_any_batch_and_time(padding):
    x, kernel = draw(0, (2, 9, 3), (3, 3, 4))
    batch, time = export.symbolic_shape("b, t", constraints=["b >= 1", "t >= 4"])
    symbolic = jax.ShapeDtypeStruct((batch, time, 3), x.dtype)

    def op(x, kernel):
        return ops.max_pool(ops.conv(x, kernel, padding=padding), 2)

    exported = export.export(jax.jit(op), platforms=("cpu", "cuda", "tpu"))(symbolic, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), op(x, kernel), **tolerance(np.float32))
