"""Masks of time against loops, with NaN in the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops

LENGTHS = np.array([0, 2, 5, 9, -3])
COUNTS = np.clip(LENGTHS, 0, 5)


def padded():
    y = np.random.default_rng(0).normal(size=(5, 5, 3)).astype("float32")
    for row, count in zip(y, COUNTS, strict=True):
        row[count:] = np.nan
    return y


def test_time_mask_counts_within_range():
    mask = ops.time_mask(jnp.asarray(LENGTHS), 5)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.arange(5) < LENGTHS[:, None])
    assert ops.time_mask(jnp.asarray(LENGTHS), 0).shape == (5, 0)


def test_zero_padding_stops_nan_in_value_and_gradient():
    y, lengths = jnp.asarray(padded()), jnp.asarray(LENGTHS)
    zeroed, gradient = jax.value_and_grad(lambda y: jnp.sum(ops.zero_padding(y, lengths) ** 2))(y)
    want = np.nan_to_num(padded())
    np.testing.assert_allclose(zeroed, np.sum(want**2), rtol=1e-5)
    np.testing.assert_array_equal(gradient, 2 * want)
    assert ops.zero_padding(y, None) is y
    whole = jnp.arange(4)[None, :]
    np.testing.assert_array_equal(ops.zero_padding(whole, jnp.array([2])), [[0, 1, 0, 0]])


def test_last_valid_is_the_last_step_that_counts():
    y = padded()
    want = np.stack([row[count - 1] if count else np.zeros(3) for row, count in zip(y, COUNTS, strict=True)])
    np.testing.assert_array_equal(ops.last_valid(jnp.asarray(y), jnp.asarray(LENGTHS)), want.astype("float32"))
    np.testing.assert_array_equal(ops.last_valid(jnp.asarray(y[2:4])), y[2:4, -1])
    np.testing.assert_array_equal(ops.last_valid(jnp.zeros((2, 0, 3))), np.zeros((2, 3)))


def test_masked_mean_is_over_the_steps_that_count():
    y = padded()
    want = np.stack([row[:count].mean(0) if count else np.zeros(3) for row, count in zip(y, COUNTS, strict=True)])
    np.testing.assert_allclose(ops.masked_mean(jnp.asarray(y), jnp.asarray(LENGTHS)), want, rtol=1e-5)
    np.testing.assert_allclose(ops.masked_mean(jnp.asarray(y[2:4])), y[2:4].mean(1), rtol=1e-5)
    gradient = jax.grad(lambda y: jnp.sum(ops.masked_mean(y, jnp.asarray(LENGTHS))))(jnp.asarray(y))
    np.testing.assert_array_equal(gradient, np.nan_to_num(0 * y + 1) / np.maximum(COUNTS, 1)[:, None, None].astype("f"))


def test_masked_max_is_over_the_steps_that_count():
    y, lengths = padded() - 9, jnp.asarray(LENGTHS)  # all below 0
    want = np.stack([row[:count].max(0) if count else np.zeros(3) for row, count in zip(y, COUNTS, strict=True)])
    np.testing.assert_array_equal(ops.masked_max(jnp.asarray(y), lengths), want.astype("float32"))
    np.testing.assert_array_equal(ops.masked_max(jnp.asarray(y[2:4])), y[2:4].max(1))
    np.testing.assert_array_equal(ops.masked_max(jnp.zeros((2, 0, 3)), jnp.array([0, 4])), np.zeros((2, 3)))
    gradient = jax.grad(lambda y: jnp.sum(ops.masked_max(y, lengths)))(jnp.asarray(y))
    largest = (y == want[:, None].astype("float32")) & (COUNTS > 0)[:, None, None]
    np.testing.assert_array_equal(gradient, largest.astype("float32"))


def test_masked_mean_of_bfloat16_is_summed_in_float32():
    y = jnp.full((1, 1000, 1), 0.1, jnp.bfloat16)
    mean = ops.masked_mean(y)
    assert mean.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mean, y[:, 0])


def test_starts_from_segment_ids():
    ids = jnp.array([[4, 4, 4, 4], [1, 2, 2, 1]])
    want = [[True, False, False, False], [True, True, False, True]]
    np.testing.assert_array_equal(ops.starts_from_segment_ids(ids), want)
    assert ops.starts_from_segment_ids(ids[:, :0]).shape == (2, 0)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_reverse_sequence_turns_what_counts(lengths):
    y = padded()
    want = y[:, ::-1] if lengths is None else y.copy()
    if lengths is not None:
        for row, source, count in zip(want, y, COUNTS, strict=True):
            row[:count] = source[:count][::-1]
    given = None if lengths is None else jnp.asarray(lengths)
    turned = ops.reverse_sequence(jnp.asarray(y), given)
    np.testing.assert_array_equal(turned, want)
    np.testing.assert_array_equal(ops.reverse_sequence(turned, given), y)
