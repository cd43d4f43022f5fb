"""Metrics of forecasts against scikit-learn and by hand, under masks too, and the naive forecasts."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxnets import train

RNG = np.random.default_rng(0)
Y, OUTPUTS = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
WHERE = RNG.random((5, 4, 3)) < 0.6
SCALE = np.array([0.5, 2.0, 3.0])


@pytest.fixture
def own_errors():
    """Leaves bad shapes to the library, as for a user: under pytest jaxtyping would object first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("masked", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_errors_match_scikit_learn(masked):
    metrics = pytest.importorskip("sklearn.metrics")
    keep = WHERE if masked else np.ones(Y.shape, bool)
    batch = {"y": np.where(keep, Y, np.nan), **({"where": WHERE} if masked else {})}
    for metric, want in ((train.mse, metrics.mean_squared_error), (train.mae, metrics.mean_absolute_error)):
        got = jax.jit(metric)(OUTPUTS, batch)
        assert got.weight == keep.sum()
        np.testing.assert_allclose(got.value, want(Y[keep], OUTPUTS[keep]), rtol=1e-6)
    scale = np.broadcast_to(SCALE, Y.shape)[keep]
    want = metrics.mean_absolute_error(Y[keep] / scale, OUTPUTS[keep] / scale)
    np.testing.assert_allclose(jax.jit(train.mase(SCALE))(OUTPUTS, batch).value, want, rtol=1e-6)


def test_parts_add_up_to_the_whole():
    where = np.array([True, False, True, True, False])[:, None, None]
    for metric in map(jax.jit, (train.mse, train.mase(SCALE))):
        parts = [metric(OUTPUTS[i : i + 2], {"y": Y[i : i + 2], "where": where[i : i + 2]}) for i in (0, 2, 4)]
        whole = metric(OUTPUTS, {"y": Y, "where": where})
        assert sum(part.weight for part in parts) == whole.weight == 36
        np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)


@pytest.mark.parametrize("season", [1, 2, 5])
def test_the_naive_forecast_of_the_training_data_has_mase_one(season):
    values = RNG.normal(size=(30, 2)).cumsum(0)
    scale = train.naive_scale(values, season)
    want = [np.mean([abs(values[t, c] - values[t - season, c]) for t in range(season, 30)]) for c in range(2)]
    np.testing.assert_allclose(scale, want, rtol=1e-12)
    got = train.mase(scale)(values[None, :-season].astype(np.float32), {"y": values[None, season:].astype(np.float32)})
    np.testing.assert_allclose(got.value, 1, rtol=1e-5)


def test_naive_scale_under_a_mask():
    values = np.array([[0.0], [1.0], [np.nan], [7.0], [5.0]])
    where = np.isfinite(values)
    assert train.naive_scale(values, where=where).tolist() == [1.5]
    assert train.naive_scale(values, 2, where=where).tolist() == [6.0]
    with pytest.raises(ValueError, match="naive_scale: where leaves a channel no step"):
        train.naive_scale(values[:3], 2, where=where[:3])


def test_coverage_by_hand():
    bands = np.array([[0.0, 1.0, 2.0]] * 4, np.float32)
    batch = {"y": np.array([-1.0, 0.0, 1.5, 3.0], np.float32)}
    assert train.coverage(0, 2)(bands, batch).value == 0.5
    assert train.coverage(None, 1)(bands, batch).value == 0.5
    assert train.coverage(1, None)(bands, batch).value == 0.5
    assert train.coverage(None, 2)(bands, batch).value == 0.75
    where = np.array([False, True, True, False])
    assert train.coverage(0, 2)(bands, {**batch, "where": where}) == (2, 2)
    spoilt = np.where(where, batch["y"], np.nan).astype(np.float32)
    assert train.coverage(0, 1)(bands, {"y": spoilt, "where": where}) == (1, 2)


def test_coverage_of_true_quantiles():
    targets = RNG.normal(size=(1000,)).astype(np.float32)
    levels = np.quantile(targets, [0.1, 0.9]).astype(np.float32)
    got = train.coverage(0, 1)(np.broadcast_to(levels, (1000, 2)), {"y": targets})
    assert abs(float(got.value) - 0.8) <= 0.002


def test_a_mask_with_sizes_of_one():
    where = np.array([True, False, True, False, True])[:, None, None]
    bands = np.stack([OUTPUTS - 1, OUTPUTS + 1], axis=-1)
    got = train.coverage(0, 1)(bands, {"y": Y, "where": where})
    inside = (np.abs(Y - OUTPUTS) <= 1)[where.ravel()]
    assert (float(got.total), float(got.weight)) == (inside.sum(), inside.size)


def test_naive_forecasts():
    x = np.arange(12.0).reshape(1, 6, 2)
    last = train.naive_forecast(x, 3)
    np.testing.assert_array_equal(last, np.repeat(x[:, -1:], 3, axis=1))
    season = train.naive_forecast(jnp.asarray(x), 5, season=2)
    np.testing.assert_array_equal(season, x[:, [4, 5, 4, 5, 4]])
    np.testing.assert_array_equal(train.naive_forecast(x, 6, season=6), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train.mse(OUTPUTS, {"y": Y[:2]}), "squared_error: targets has shape"),
        (lambda: train.mase(np.array([1.0, 0.0])), "mase: scale must be positive"),
        (lambda: train.coverage(0, 1)(OUTPUTS, {"y": Y}), r"coverage: outputs has shape .* and an axis more"),
        (
            lambda: train.coverage(0, 3)(OUTPUTS, {"y": Y[..., 0]}),
            "coverage: there are 3 outputs, wanted number 0 and 3",
        ),
        (lambda: train.naive_scale(Y[0], 4), "naive_scale: season must be from 1 to 3"),
        (lambda: train.naive_forecast(Y, 3, season=5), "naive_forecast: horizon 3 and season 5 .* at most 4"),
        (lambda: train.naive_forecast(Y, 0), "naive_forecast: horizon 0"),
    ],
)
def test_what_cannot_be_measured(call, message, own_errors):
    with pytest.raises(ValueError, match=message):
        call()
