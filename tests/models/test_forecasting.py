"""Forecasters against their equations, in every form, and what they learn of a series that can be foretold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import layers, models, ops, train
from jaxnets.models.forecasting import moving_average

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 3)).cumsum(1), jnp.float32)


def made(name, horizon=4, quantiles=None, **options):
    """A small model."""
    layer = {"recurrent": layers.GRU(5), "tcn": layers.TemporalBlock(16)}.get(name)
    if layer is not None:
        return models.SequenceForecaster(layer, horizon, quantiles=quantiles, **options)
    if name == "patchtst":
        small = {"patch": 4, "stride": 2, "features": 8, "depth": 2, "num_heads": 2}
        return models.PatchTST(horizon, quantiles=quantiles, **small, **options)
    return {"nlinear": models.NLinear, "dlinear": models.DLinear}[name](horizon, quantiles=quantiles, **options)


NAMES = ["nlinear", "dlinear", "patchtst", "recurrent", "tcn"]
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "nlinear" else pytest.mark.exhaustive) for name in NAMES]
)


def random(variables):
    """Other numbers in place of the parameters, so that no map is 0."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@each
@pytest.mark.parametrize("quantiles", [3])
def test_shapes_types_and_modes(name, quantiles):
    model = models.InstanceNormalised(made(name, quantiles=quantiles))
    variables = random(jax.jit(model.init)(KEY, X))
    y = jax.jit(model.apply)(variables, X)
    assert y.shape == ((2, 4, 3) if quantiles is None else (2, 4, 3, 3))
    assert y.dtype == jnp.float32
    assert jax.eval_shape(model.apply, variables, X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    gradient = jax.jit(jax.grad(lambda variables: jnp.square(model.apply(variables, X)).sum()))(variables)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "nlinear" else pytest.mark.exhaustive) for name in NAMES[:3]]
)
def test_channels_are_read_apart(name):
    model = made(name)
    variables = random(jax.jit(model.init)(KEY, X))
    apply = jax.jit(model.apply)
    alone = np.concatenate([apply(variables, X[..., i : i + 1]) for i in range(3)], axis=-1)
    np.testing.assert_allclose(apply(variables, X), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_recurrent_channels_apart_or_together():
    for apart in (False, True):
        model = made("recurrent", apart=apart)
        variables = jax.jit(model.init)(KEY, X)
        changed = jax.jit(model.apply)(variables, X.at[..., 2].add(1.0)) != jax.jit(model.apply)(variables, X)
        assert bool(jnp.any(changed[..., 0])) is not apart


def test_nlinear_is_its_equation():
    model = models.NLinear(4)
    variables = model.init(KEY, X)
    np.testing.assert_array_equal(model.apply(variables, X), np.repeat(X[:, -1:], 4, axis=1))
    variables = random(variables)
    kernel, bias = (np.asarray(variables["params"]["steps"][name], np.float64) for name in ("kernel", "bias"))
    x = np.asarray(X, np.float64)
    want = np.einsum("blc,lh->bhc", x - x[:, -1:], kernel) + bias[None, :, None] + x[:, -1:]
    np.testing.assert_allclose(model.apply(variables, X), want, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_dlinear_is_its_equation():
    model = models.DLinear(4, kernel_size=5)
    variables = model.init(KEY, X)
    mean = np.repeat(X.mean(axis=1, keepdims=True), 4, axis=1)
    np.testing.assert_allclose(model.apply(variables, X), mean, rtol=1e-5, atol=1e-5)
    params = random(variables)["params"]
    x = np.asarray(X, np.float64)
    trend = np.zeros_like(x)
    for t in range(12):
        for step in range(t - 2, t + 3):
            trend[:, t] += x[:, min(max(step, 0), 11)] / 5
    np.testing.assert_allclose(moving_average(X, 5), trend, rtol=1e-5, atol=1e-5)
    want = 0
    for name, part in (("trend", trend), ("rest", x - trend)):
        kernel, bias = (np.asarray(params[name][which], np.float64) for which in ("kernel", "bias"))
        want = want + np.einsum("blc,lh->bhc", part, kernel) + bias[None, :, None]
    np.testing.assert_allclose(model.apply({"params": params}, X), want, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
def test_patches_cover_the_window():
    model = made("patchtst")
    variables = random(jax.jit(model.init)(KEY, X))
    assert variables["params"]["position"].shape == (6, 8)  # (12 + 2 - 4) / 2 + 1
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x).sum()))(X)
    assert np.all(gradient != 0)


@pytest.mark.exhaustive
def test_dropout_acts_in_training_alone():
    for name in ("patchtst", "recurrent"):
        model = made(name, dropout=0.5)
        variables = jax.jit(model.init)(KEY, X)
        drop = model.apply(variables, X, train=True, rngs={"dropout": KEY})
        assert np.any(drop != model.apply(variables, X))


@pytest.mark.parametrize(
    ("said", "horizon"),
    [(2, 5), *(pytest.param(*sizes, marks=pytest.mark.exhaustive) for sizes in [(1, 5), (5, 5), (5, 2)])],
)
def test_roll_out_is_a_loop(said, horizon):
    model = models.InstanceNormalised(models.NLinear(said))
    variables = random(model.init(KEY, X))
    window, want, apply = X, [], jax.jit(model.apply)
    while len(want) < horizon:
        y = apply(variables, window)
        want += [y[:, i] for i in range(said)]
        window = jnp.concatenate([window, y], axis=1)[:, -12:]
    got = jax.jit(lambda variables, x: models.roll_out(model, variables, x, horizon))(variables, X)
    np.testing.assert_allclose(got, np.stack(want[:horizon], axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.NLinear(0).init(KEY, X), "NLinear: horizon and quantiles want at least 1 but are 0 and None"),
        (lambda: models.NLinear(2, quantiles=0).init(KEY, X), "want at least 1 but are 2 and 0"),
        (lambda: models.NLinear(2).init(KEY, X[:, :0]), r"NLinear: x has shape \(2, 0, 3\) but wants a step"),
        (lambda: models.NLinear(2).init(KEY, X[0]), "NLinear: x"),
        (lambda: models.DLinear(2, kernel_size=4).init(KEY, X), "DLinear: kernel_size wants to be odd .* is 4"),
        (lambda: made("patchtst").init(KEY, X[:, :1]), "PatchTST: x has 1 steps, too few for patches of 4"),
        (lambda: models.roll_out(models.NLinear(2), {}, X, 0), "roll_out: horizon must be positive, got 0"),
        (
            lambda: models.roll_out(models.NLinear(2, quantiles=1), models.NLinear(2, quantiles=1).init(KEY, X), X, 3),
            r"roll_out: the model's forecast has shape \(2, 2, 3, 1\), wanted one number",
        ),
    ],
)
def test_what_cannot_be_forecast(call, message, own_errors):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.exhaustive
def test_a_wave_is_learnt():
    time = np.arange(300)
    wave = np.sin(2 * np.pi * time / 20)[:, None] + 0.01 * time[:, None]
    windows = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float32), 50, axis=0).swapaxes(1, 2)
    batch = {"x": jnp.asarray(windows[:, :40]), "y": jnp.asarray(windows[:, 40:])}
    model = models.InstanceNormalised(models.NLinear(10))
    optimizer = train.optimizer("adam", 0.02)
    step = jax.jit(train.make_step(model, optimizer, lambda y, batch: ops.squared_error(y, batch["y"])))
    state = train.create(model, optimizer, batch, key=KEY)
    for _ in range(150):
        state, metrics = step(state, batch)
    assert metrics["loss"].value < 1e-2
