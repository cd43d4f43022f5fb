import jax
import jax.numpy as jnp
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
