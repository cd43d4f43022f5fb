"""Losses against their formulas, in value and in every gradient, and what they promise about masks and bad labels."""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import ops
from jaxnets.ops.losses import kl_standard_normal
from tests.reference import losses as reference
from tests.reference.tolerance import tolerance

SHAPE = (3, 4)


@dataclass(frozen=True, eq=False)
class Case:
    """An op, arguments for it, and what it computes of one entry (with `rows`, of one row)."""

    op: Callable
    arguments: tuple[np.ndarray, ...]
    one: Callable
    rows: bool = False

    @property
    def entries(self) -> tuple[int, ...]:
        return SHAPE[:-1] if self.rows else SHAPE

    @property
    def mask(self) -> np.ndarray:
        return np.random.default_rng(1).random(self.entries) < 0.6

    def want(self, arguments, keep):
        """Total and gradients by the reference, over the entries kept."""
        arguments = [np.asarray(a, np.float64) for a in arguments]
        total, gradients = 0.0, [np.zeros(SHAPE) for _ in arguments]
        for i in np.ndindex(*self.entries):
            value, slopes = self.one(*(a[i] for a in arguments))
            if keep[i]:
                total += value
                for gradient, slope in zip(gradients, slopes, strict=False):
                    gradient[i] = slope
        return total, gradients[: len(slopes)]

    @functools.cached_property
    def run(self):
        """(mean, gradients) to as many arguments as the reference differentiates, compiled."""
        count = len(self.want(self.arguments, self.mask)[1])

        def total(*arguments, where):
            mean = self.op(*arguments, where=where)
            return mean.total, mean

        @jax.jit
        def run(arguments, where=None):
            (_, mean), gradients = jax.value_and_grad(total, tuple(range(count)), has_aux=True)(*arguments, where=where)
            return mean, gradients

        return run


def _cases() -> dict[str, Case]:
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(0, 1.5, (3, *SHAPE))
    binary = rng.integers(0, 2, SHAPE).astype(float)
    soft = rng.dirichlet(np.ones(4), 3)
    log_soft, log_other = np.log(rng.dirichlet(np.ones(4), (2, 3)))

    def smooth(logits, labels):
        value, (d_logits, d_labels) = reference.cross_entropy(logits, reference.smoothed(labels, 0.1))
        return value, (d_logits, 0.9 * d_labels)

    levels = (0.1, 0.3, 0.5, 0.9)

    def pinball(predictions, targets, where=None):  # one target a row, in the first column
        return ops.pinball(predictions, targets[..., 0], quantiles=levels, where=where)

    def pinball_of_row(predictions, targets):
        value, (d_predictions, d_target) = reference.pinball(predictions, targets[0], levels)
        return value, (d_predictions, np.array([d_target, 0, 0, 0]))

    return {
        "pinball": Case(pinball, (a, b), pinball_of_row, rows=True),
        "cross_entropy": Case(ops.cross_entropy, (a, soft), reference.cross_entropy, rows=True),
        "cross_entropy_smooth": Case(functools.partial(ops.cross_entropy, smoothing=0.1), (a, soft), smooth, rows=True),
        "binary_cross_entropy": Case(ops.binary_cross_entropy, (a, soft), reference.binary_cross_entropy),
        "focal": Case(ops.focal, (a, binary), reference.focal),
        "focal_weighted": Case(
            functools.partial(ops.focal, gamma=1.5, alpha=0.25),
            (a, binary),
            functools.partial(reference.focal, gamma=1.5, alpha=0.25),
        ),
        "squared_error": Case(ops.squared_error, (a, b), reference.squared_error),
        "absolute_error": Case(ops.absolute_error, (a, b), reference.absolute_error),
        "huber": Case(functools.partial(ops.huber, delta=0.7), (a, b), functools.partial(reference.huber, delta=0.7)),
        "gaussian_nll": Case(ops.gaussian_nll, (a, b, c), reference.gaussian_nll),
        "kl_divergence": Case(ops.kl_divergence, (log_soft, log_other), reference.kl_divergence, rows=True),
        "kl_standard_normal": Case(kl_standard_normal, (a, b), reference.kl_standard_normal, rows=True),
    }


CASES = _cases()
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def value_and_gradient(f, *arguments, argnums=0):
    """Of a loss's total, compiled: a program for each operation would take the tests' time."""
    return jax.jit(jax.value_and_grad(lambda *a: f(*a).total, argnums))(*arguments)


@every_loss
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_matches_the_formula(case, dtype, x64):
    arguments = [jnp.asarray(a, dtype) for a in case.arguments]
    for where in (None, jnp.asarray(case.mask)):
        keep = np.ones(case.entries, bool) if where is None else case.mask
        want, want_gradients = case.want(arguments, keep)
        mean, gradients = case.run(arguments, where)
        assert mean.weight.item() == keep.sum()
        # Sums are taken in float32 even of bfloat16, so only the gradients' own rounding is left.
        assert mean.total.dtype == mean.weight.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        np.testing.assert_allclose(mean.total, want, **tolerance(mean.total.dtype))
        for gradient, wanted in zip(gradients, want_gradients, strict=True):
            assert gradient.dtype == dtype
            np.testing.assert_allclose(np.asarray(gradient, np.float64), wanted, **tolerance(dtype))


@every_loss
def test_masked_entries_are_inert(case):
    where, inner = jnp.asarray(case.mask), case.mask[..., None] if case.rows else case.mask
    results = [
        case.run([jnp.asarray(np.where(inner, a, garbage), jnp.float32) for a in case.arguments], where)
        for garbage in (0.0, np.nan, np.inf, -np.inf)
    ]
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])
    for gradient in results[0][1]:
        np.testing.assert_array_equal(np.where(inner, 0, gradient), 0)

    nothing = case.run([jnp.full(SHAPE, jnp.nan) for _ in case.arguments], jnp.zeros_like(where))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))


@every_loss
def test_both_derivative_modes_twice(case, x64):
    arguments = [jnp.asarray(a) for a in case.arguments]
    keep = np.ones(case.entries, bool)
    gradients = case.want(arguments, keep)[1]
    inputs, rest = arguments[: len(gradients)], arguments[len(gradients) :]
    direction = list(np.random.default_rng(2).normal(size=(len(inputs), *SHAPE)))

    @jax.jit
    def derivatives(inputs, direction):
        def slope(*inputs):
            return jax.jvp(lambda *a: case.op(*a, *rest).total, inputs, direction)[1]

        def gradient(*inputs):
            return jax.grad(lambda *a: case.op(*a, *rest).total, argnums)(*inputs)

        argnums = tuple(range(len(inputs)))
        reverse_over_forward = jax.grad(slope, argnums)(*inputs)
        forward_over_reverse = jax.jvp(gradient, inputs, direction)[1]
        return slope(*inputs), reverse_over_forward, forward_over_reverse

    slope, *curvatures = derivatives(tuple(inputs), tuple(map(jnp.asarray, direction)))
    want = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
    np.testing.assert_allclose(slope, want, **tolerance("float64"))
    step = 1e-5
    ahead, behind = (
        case.want([a + sign * step * d for a, d in zip(inputs, direction, strict=True)] + rest, keep)[1]
        for sign in (1, -1)
    )
    for curvature in curvatures:
        for got, plus, minus in zip(curvature, ahead, behind, strict=True):
            # The bound is that of a central difference, h^2 and eps / h.
            np.testing.assert_allclose(got, (plus - minus) / (2 * step), rtol=1e-7, atol=1e-8)


@every_loss
def test_jit_vmap_and_parts_agree(case, x64):
    arguments = [jnp.asarray(a) for a in case.arguments]
    op = jax.jit(case.op)
    whole, mapped = op(*arguments), jax.jit(jax.vmap(case.op))(*(a[:, None] for a in arguments))
    alone = [op(*(a[i : i + 1] for a in arguments)) for i in range(SHAPE[0])]
    np.testing.assert_allclose(case.op(*arguments), whole, **tolerance("float64"))
    np.testing.assert_allclose(mapped.total, [m.total for m in alone], **tolerance("float64"))
    np.testing.assert_array_equal(mapped.weight, [m.weight for m in alone])
    parts = functools.reduce(functools.partial(jax.tree.map, operator.add), alone)
    np.testing.assert_allclose(parts.value, whole.value, **tolerance("float64"))


@every_loss
def test_nothing_to_sum(case):
    empty = [jnp.zeros((0, 4)) for _ in case.arguments]
    assert jax.jit(case.op)(*empty) == (0, 0)


def test_a_mask_broadcasts_over_sizes_of_one():
    predictions, targets = jnp.ones((3, 4)), jnp.zeros((3, 4))
    assert jax.jit(ops.squared_error)(predictions, targets, where=jnp.array([[True], [False], [True]])) == (8, 8)


@pytest.mark.parametrize("kind", [jnp.bool, jnp.uint8, jnp.int32])
@pytest.mark.parametrize("loss", [ops.binary_cross_entropy, ops.squared_error])
def test_labels_and_targets_of_any_kind(loss, kind):
    logits, labels = jnp.linspace(-2, 2, 6), jnp.array([0, 1, 1, 0, 1, 0])
    if loss is ops.binary_cross_entropy or kind != jnp.bool:
        run = jax.jit(loss)
        np.testing.assert_allclose(run(logits, labels.astype(kind)), run(logits, labels.astype(jnp.float32)), rtol=1e-6)


class TestCrossEntropyOfClassNumbers:
    logits = jnp.asarray(np.random.default_rng(3).normal(0, 2, (2, 5, 7)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(4).integers(0, 7, (2, 5)))

    @pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
    def test_equals_one_hot(self, smoothing):
        loss = functools.partial(ops.cross_entropy, smoothing=smoothing)
        got = value_and_gradient(loss, self.logits, self.labels)
        want = value_and_gradient(loss, self.logits, jax.nn.one_hot(self.labels, 7))
        jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance("float32")), got, want)

    def test_ignore_and_where_leave_out_both(self):
        ignored = self.labels.at[0, 1].set(-100)
        where = jnp.ones((2, 5), bool).at[1, 3].set(False)
        spoilt = self.logits.at[0, 1].set(jnp.nan).at[1, 3].set(jnp.inf)

        loss = functools.partial(ops.cross_entropy, ignore=-100, where=where)
        total, gradient = value_and_gradient(loss, spoilt, ignored)
        keep = np.ones((2, 5), bool)
        keep[0, 1] = keep[1, 3] = False
        want, want_gradient = value_and_gradient(
            functools.partial(ops.cross_entropy, where=jnp.asarray(keep)), self.logits, self.labels
        )
        np.testing.assert_allclose(total, want, **tolerance("float32"))
        np.testing.assert_array_equal(gradient, want_gradient)
        assert jax.jit(loss)(spoilt, ignored).weight.item() == 8

    @pytest.mark.parametrize("label", [-1, 7, 300])
    def test_a_label_out_of_range_is_loud(self, label):
        bad = self.labels.at[0, 2].set(label)
        total, gradient = value_and_gradient(ops.cross_entropy, self.logits, bad)
        assert np.isnan(total)
        spoilt = np.zeros(gradient.shape, bool)
        spoilt[0, 2] = True
        np.testing.assert_array_equal(np.isnan(gradient), spoilt)

    def test_narrow_labels(self):
        logits = jnp.asarray(np.random.default_rng(5).normal(size=(2, 1000)), jnp.float32)
        labels = jnp.array([3, 255], jnp.uint8)
        loss = jax.jit(ops.cross_entropy, static_argnames="ignore")
        assert loss(logits, labels) == loss(logits, labels.astype(jnp.int32))
        assert loss(logits, labels, ignore=255).weight.item() == 1
        assert loss(logits, labels, ignore=-1).weight.item() == 2

    def test_an_impossible_class_is_no_obstacle(self):
        logits = jnp.array([[1.0, -jnp.inf, 2.0]])
        for labels in (jnp.array([2]), jnp.array([[0.0, 0.0, 1.0]])):
            value, gradient = value_and_gradient(ops.cross_entropy, logits, labels)
            np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
            np.testing.assert_allclose(gradient, [[1 / (1 + np.e), 0, -1 / (1 + np.e)]], rtol=1e-6)

    def test_one_row_without_a_batch(self):
        assert jax.jit(ops.cross_entropy)(self.logits[0, 0], self.labels[0, 0]).weight.item() == 1


@pytest.mark.parametrize("loss", [ops.binary_cross_entropy, ops.focal])
def test_a_label_that_is_no_probability_is_loud(loss):
    logits, labels = jnp.zeros(4), jnp.array([0.0, 2.0, -1.0, 0.3])
    value, gradient = value_and_gradient(loss, logits, labels)
    assert np.isnan(value)
    np.testing.assert_array_equal(np.isnan(gradient), [False, True, True, False])


@pytest.mark.parametrize(
    ("loss", "labels"),
    [(ops.cross_entropy, np.array([0, 0, 0, 0])), (ops.binary_cross_entropy, np.eye(4, 2)), (ops.focal, np.eye(4, 2))],
)
def test_large_logits_stay_finite(loss, labels):
    logits = jnp.array([[-1e2, 1e2], [1e2, -1e2], [-1e4, 1e4], [1e4, -1e4]])
    value, gradient = value_and_gradient(loss, logits, jnp.asarray(labels))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_gradients_at_the_kinks():
    ones = jnp.ones(3)
    for loss in (ops.absolute_error, ops.squared_error, ops.huber):
        np.testing.assert_array_equal(value_and_gradient(loss, ones, ones)[1], 0)
    np.testing.assert_array_equal(value_and_gradient(ops.huber, ones, jnp.zeros(3))[1], 1)


def test_pinball_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, targets = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    for quantile in (0.1, 0.5, 0.8):
        got = ops.pinball(jnp.asarray(predictions)[:, None], jnp.asarray(targets), quantiles=(quantile,))
        want = metrics.mean_pinball_loss(targets, predictions, alpha=quantile)
        np.testing.assert_allclose(got.value, want, rtol=1e-6)


def test_kl_where_probabilities_are_zero():
    log_p, log_q = jnp.log(jnp.array([[1.0, 0.0]])), jnp.log(jnp.array([[0.5, 0.5]]))
    value, gradients = value_and_gradient(ops.kl_divergence, log_p, log_q, argnums=(0, 1))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradients, ([[1 + np.log(2), 0]], [[-1, 0]]), rtol=1e-6)
    assert value_and_gradient(ops.kl_divergence, log_p, log_p)[0] == 0
    assert value_and_gradient(ops.kl_divergence, log_q, log_p)[0] == np.inf


def test_kl_standard_normal_keeps_its_digits_near_the_prior():
    value, _ = value_and_gradient(kl_standard_normal, jnp.zeros((1, 1)), jnp.full((1, 1), 1e-3))
    np.testing.assert_allclose(value, (np.expm1(1e-3) - 1e-3) / 2, rtol=1e-3)


Z, Y, W = jnp.zeros((3, 4)), jnp.zeros(3, jnp.int32), jnp.ones(3, bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.cross_entropy(Z, Y[:2]),
            ValueError,
            r"cross_entropy: labels has shape \(2,\) but logits \(3, 4\)",
        ),
        (
            lambda: ops.cross_entropy(Z, Y.astype(jnp.float32)),
            TypeError,
            "cross_entropy: class numbers must be integers, got .*float32",
        ),
        (lambda: ops.cross_entropy(Z, Y, smoothing=1.5), ValueError, r"cross_entropy: smoothing .* \[0, 1\], got 1.5"),
        (lambda: ops.cross_entropy(Z, Z, ignore=-1), ValueError, "cross_entropy: ignore=-1 needs class numbers"),
        (
            lambda: ops.cross_entropy(Z, Y, where=W[:2]),
            ValueError,
            r"cross_entropy: where has shape \(2,\), wanted \(3,\)",
        ),
        (lambda: ops.cross_entropy(Z, Y, where=Y), TypeError, "cross_entropy: where must be boolean.*int32"),
        (
            lambda: ops.squared_error(Z, Z, where=W),
            ValueError,
            r"squared_error: where has shape \(3,\), wanted \(3, 4\)",
        ),
        (lambda: ops.squared_error(Z, Z[:1]), ValueError, r"squared_error: targets has shape \(1, 4\) but predictions"),
        (lambda: ops.absolute_error(Z, Z[0]), ValueError, r"absolute_error: targets has shape \(4,\) but predictions"),
        (lambda: ops.huber(Z, Z, delta=0.0), ValueError, "huber: delta must be positive, got 0"),
        (lambda: ops.pinball(Z, Z[:, 0], quantiles=(0.5, 1.0)), ValueError, r"pinball: quantiles .* got \(0.5, 1.0\)"),
        (lambda: ops.pinball(Z, Z[:, 0], quantiles=(0.5,)), ValueError, r"shape \(3, 4\), wanted \(3, 1\)"),
        (lambda: ops.focal(Z, Z, gamma=-1.0), ValueError, "focal: gamma must be at least 0, got -1"),
        (lambda: ops.focal(Z, Z, alpha=2.0), ValueError, r"focal: alpha must be in \[0, 1\], got 2"),
        (
            lambda: ops.binary_cross_entropy(Z, Y),
            ValueError,
            r"binary_cross_entropy: labels has shape \(3,\) but logits",
        ),
        (lambda: ops.gaussian_nll(Z, Z[0], Z), ValueError, r"gaussian_nll: log_variance has shape \(4,\) but mean"),
        (lambda: ops.kl_divergence(Z, Z[:, :3]), ValueError, r"kl_divergence: log_q has shape \(3, 3\) but log_p"),
        (lambda: kl_standard_normal(Z, Z.T), ValueError, r"kl_standard_normal: log_variance has shape \(4, 3\)"),
    ],
)
def test_errors_name_op_argument_and_both_shapes(call, error, message, own_errors):
    with pytest.raises(error, match=message):
        call()
