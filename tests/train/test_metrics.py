import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxnets import train

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(23, 5)).astype(np.float32)
LABELS = RNG.integers(0, 5, 23).astype(np.int32)
WHERE = RNG.random(23) < 0.6


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_top_k_matches_a_sort(k, masked, one_hot):
    batch = {"y": np.eye(5, dtype=np.float32)[LABELS] if one_hot else LABELS}
    keep = WHERE if masked else np.ones(23, bool)
    if masked:
        batch["where"] = WHERE
    got = jax.jit(train.top_k_accuracy(k))(LOGITS, batch)
    hits = [label in np.argsort(-row, kind="stable")[:k] for row, label in zip(LOGITS, LABELS, strict=True)]
    assert (float(got.total), float(got.weight)) == (np.sum(hits & keep), keep.sum())
    if k == 1:
        assert train.accuracy(LOGITS, batch) == got


def test_parts_add_up_and_the_lower_class_wins_a_tie():
    parts = [train.accuracy(LOGITS[i : i + 6], {"y": LABELS[i : i + 6]}) for i in range(0, 23, 6)]
    whole = train.accuracy(LOGITS, {"y": LABELS})
    assert sum(part.total for part in parts) == whole.total
    assert train.accuracy(jnp.zeros((2, 3)), {"y": jnp.array([0, 1])}).value == 0.5
    assert train.top_k_accuracy(2)(jnp.zeros((3, 3)), {"y": jnp.arange(3)}).total == 2


def test_more_axes_and_no_rows():
    assert train.accuracy(jnp.ones((2, 4, 3)), {"y": jnp.zeros((2, 4), jnp.int32)}).weight == 8
    assert train.accuracy(jnp.ones((0, 3)), {"y": jnp.zeros(0, jnp.int32)}) == (0, 0)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"accuracy: batch\['y'\] has shape \(3,\), wanted \(23,\) or \(23, 5\)"):
        train.accuracy(LOGITS, {"y": LABELS[:3]})
    with pytest.raises(ValueError, match="top_k_accuracy: k=6 but there are 5 classes"):
        train.top_k_accuracy(6)(LOGITS, {"y": LABELS})
    with pytest.raises(ValueError, match="k must be positive, got 0"):
        train.top_k_accuracy(0)


def test_confusion_matrix_counts():
    predictions = LOGITS.argmax(1)
    want = np.zeros((5, 5), int)
    for label, prediction in zip(LABELS, predictions, strict=True):
        want[label, prediction] += 1
    np.testing.assert_array_equal(train.confusion_matrix(LABELS, predictions, 5), want)
    np.testing.assert_array_equal(train.confusion_matrix(LABELS[:0], predictions[:0], 2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="confusion_matrix: labels holds -1, outside 0 to 4"):
        train.confusion_matrix(LABELS - 1, predictions, 5)
    with pytest.raises(ValueError, match="confusion_matrix: predictions holds 4, outside 0 to 3"):
        train.confusion_matrix(LABELS % 4, np.full(23, 4), 4)
    with pytest.raises(ValueError, match="confusion_matrix: labels has 3 rows but predictions 23"):
        train.confusion_matrix(LABELS[:3], predictions, 5)


def test_macro_f1_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    predictions = LOGITS.argmax(1)
    for classes, keep in ((5, np.ones(23, bool)), (5, WHERE), (9, WHERE)):  # the last four are never seen
        want = metrics.f1_score(LABELS[keep], predictions[keep], average="macro")
        assert train.macro_f1(LABELS, predictions, classes, where=keep) == pytest.approx(want, abs=1e-12)
    padded = np.where(WHERE, LABELS, -7)  # what is masked may be out of range
    assert train.macro_f1(padded, predictions, 5, where=WHERE) == train.macro_f1(LABELS[WHERE], predictions[WHERE], 5)
    assert train.macro_f1(LABELS[:6].reshape(2, 3), LABELS[:6].reshape(2, 3), 5) == 1
    assert np.isnan(train.macro_f1(LABELS, predictions, 5, where=np.zeros(23, bool)))


def test_calibration_by_hand():
    sure = np.array([0.5, 0.6, 0.61, 0.99, 1.0])
    probabilities, labels = np.stack([sure, 1 - sure], 1), np.array([0, 1, 0, 0, 0])
    table = train.calibration(probabilities, labels, bins=5)
    np.testing.assert_array_equal(table.rows, [0, 0, 2, 1, 2])
    np.testing.assert_allclose(table.confidence, [np.nan, np.nan, 0.55, 0.61, 0.995])
    np.testing.assert_allclose(table.accuracy, [np.nan, np.nan, 0.5, 1.0, 1.0])
    assert table.error == pytest.approx((2 * 0.05 + 0.39 + 2 * 0.005) / 5)
    assert train.expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(0.8 - sure.mean(), abs=1e-9)


def test_calibration_does_not_see_what_is_masked():
    exact = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    padded = np.where(WHERE[:, None], exact, np.nan)
    got = train.calibration(padded, LABELS, where=WHERE)
    for one, other in zip(got, train.calibration(exact[WHERE], LABELS[WHERE]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert got.rows.sum() == WHERE.sum()
    assert np.isnan(train.expected_calibration_error(exact, LABELS, where=np.zeros(23, bool)))


def test_calibration_refuses():
    with pytest.raises(ValueError, match="calibration: bins must be positive, got 0"):
        train.calibration(LOGITS, LABELS, bins=0)
    with pytest.raises(ValueError, match="calibration: probabilities want values from 0 to 1"):
        train.calibration(LOGITS * 9, LABELS)
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"macro_f1: wanted one shape for all rows, got .*'labels': \(3,\)"):
            train.macro_f1(LABELS[:3], LABELS, 5)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
