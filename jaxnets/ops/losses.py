"""Losses as sums: each returns `Mean(total, weight)`, whose parts add up to the loss of the whole.

Entries that `where` leaves out may hold NaN, inf or labels out of range: they change neither the value nor any
gradient. Sums are taken in at least float32. Log-likelihoods are in nats.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num, Shaped

from jaxnets.ops._dtype import widened
from jaxnets.typing import Mean


def cross_entropy(
    logits: Float[Array, "*b k"],
    labels: Shaped[Array, "*b"] | Shaped[Array, "*b k"],
    *,
    smoothing: float = 0.0,
    ignore: int | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Mean:
    """Cross entropy between the softmax of the logits and the labels.

    An integer label outside 0 to k - 1 (negative ones too) makes the loss and that row's gradient NaN, unless it is
    `ignore` or masked. A class of probability 0 adds nothing, even where its logit is -inf.

    Args:
      logits: Unnormalised log probabilities.
      labels: Class numbers, or a distribution over the classes for each row (one-hot or soft).
      smoothing: The part of each label that is spread evenly over the classes.
      ignore: The class number that leaves its row out.
      where: Rows to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the rows kept, and their number.

    Raises:
      ValueError: If the shapes do not fit, smoothing is outside [0, 1], or `ignore` comes with distributions.
      TypeError: If class numbers are not integers or `where` is not boolean.

    References:
      Szegedy et al., 2016. Rethinking the Inception architecture for computer vision (label smoothing).

    >>> loss = cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, -1]), ignore=-1)
    >>> f"{loss.value:.4f}", loss.weight
    ('0.6931', Array(2., dtype=float32))
    """
    rows, classes = logits.shape[:-1], logits.shape[-1]
    if labels.shape not in (rows, logits.shape):
        raise ValueError(
            f"cross_entropy: labels has shape {labels.shape} but logits {logits.shape} needs "
            f"{rows} (class numbers) or {logits.shape} (distributions)"
        )
    if not 0 <= smoothing <= 1:
        raise ValueError(f"cross_entropy: smoothing must be in [0, 1], got {smoothing}")
    keep = _check_where("cross_entropy", where, rows)
    if labels.ndim == logits.ndim:
        if ignore is not None:
            raise ValueError(f"cross_entropy: ignore={ignore} needs class numbers, got distributions {labels.shape}")
        row_keep = None if keep is None else keep[..., None]
        logits, labels = _blank(widened(logits), row_keep), _blank(widened(labels), row_keep)
        values = optax.safe_softmax_cross_entropy(logits, optax.smooth_labels(labels, smoothing))
        return _mean(values, keep)

    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"cross_entropy: class numbers must be integers, got labels of {labels.dtype}")
    labels = labels.astype(jnp.int32)
    if ignore is not None:
        kept = labels != ignore
        keep = kept if keep is None else keep & kept
    logits = _blank(widened(logits), None if keep is None else keep[..., None])
    labels = _blank(labels, keep)
    values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        values = (1 - smoothing) * values + smoothing * even
    # Optax counts a negative label from the end. The product, unlike a select, makes the gradient NaN as well.
    values *= jnp.where((labels >= 0) & (labels < classes), 1, jnp.nan).astype(values.dtype)
    return _mean(values, keep)


def binary_cross_entropy(
    logits: Float[Array, "*s"], labels: Shaped[Array, "*s"], *, where: Bool[Array, "..."] | None = None
) -> Mean:
    """Cross entropy between the sigmoid of the logits and labels in [0, 1]; NaN where a label is outside.

    Args:
      logits: Log odds of the label being 1.
      labels: Booleans, integers 0 and 1, or probabilities.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    >>> f"{binary_cross_entropy(jnp.zeros(2), jnp.array([0, 1])).value:.4f}"
    '0.6931'
    """
    return _elementwise(
        "binary_cross_entropy",
        _on_probabilities(optax.sigmoid_binary_cross_entropy),
        ("logits", logits),
        ("labels", labels),
        where=where,
    )


def focal(
    logits: Float[Array, "*s"],
    labels: Shaped[Array, "*s"],
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Mean:
    """Binary cross entropy times (1 - p)^gamma, p being the probability given to the label: easy entries count less.

    Args:
      logits: Log odds of the label being 1.
      labels: Booleans, integers 0 and 1, or probabilities; the loss is NaN where one is outside [0, 1].
      gamma: 0 gives binary cross entropy.
      alpha: Weight of label 1, with 1 - alpha for label 0; None weighs them alike, by 1.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number (the paper divides by the number of positive labels instead).

    Raises:
      ValueError: If the shapes do not fit, gamma is negative or alpha outside [0, 1].
      TypeError: If `where` is not boolean.

    References:
      Lin et al., 2017. Focal loss for dense object detection.

    >>> f"{focal(jnp.zeros(2), jnp.array([0, 1])).value:.4f}"
    '0.1733'
    """
    if gamma < 0:
        raise ValueError(f"focal: gamma must be at least 0, got {gamma}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"focal: alpha must be in [0, 1], got {alpha}")

    def formula(logits: Array, labels: Array) -> Array:
        return optax.sigmoid_focal_loss(logits, labels, gamma=gamma, alpha=alpha)

    return _elementwise("focal", _on_probabilities(formula), ("logits", logits), ("labels", labels), where=where)


def squared_error(
    predictions: Float[Array, "*s"], targets: Num[Array, "*s"], *, where: Bool[Array, "..."] | None = None
) -> Mean:
    """Squared difference, (p - t)^2 without a factor of one half.

    Args:
      predictions: What the model says.
      targets: What is so.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    >>> squared_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])).value
    Array(2., dtype=float32)
    """
    return _elementwise(
        "squared_error", optax.squared_error, ("predictions", predictions), ("targets", targets), where=where
    )


def absolute_error(
    predictions: Float[Array, "*s"], targets: Num[Array, "*s"], *, where: Bool[Array, "..."] | None = None
) -> Mean:
    """Absolute difference, |p - t|, whose gradient at 0 is 0.

    Args:
      predictions: What the model says.
      targets: What is so.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    >>> absolute_error(jnp.array([1.0, 5.0]), jnp.array([3.0, 5.0])).value
    Array(1., dtype=float32)
    """

    def formula(predictions: Array, targets: Array) -> Array:
        # JAX gives |x| the slope 1 at 0; this product has the value of |x| and the slope sign(x), 0 at 0.
        error = predictions - targets
        return error * jnp.sign(error)

    return _elementwise("absolute_error", formula, ("predictions", predictions), ("targets", targets), where=where)


def huber(
    predictions: Float[Array, "*s"],
    targets: Num[Array, "*s"],
    *,
    delta: float = 1.0,
    where: Bool[Array, "..."] | None = None,
) -> Mean:
    """Half the squared difference up to `delta`, then a straight line of slope `delta`.

    Args:
      predictions: What the model says.
      targets: What is so.
      delta: The difference at which the square becomes the line.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number.

    Raises:
      ValueError: If the shapes do not fit or delta is not positive.
      TypeError: If `where` is not boolean.

    References:
      Huber, 1964. Robust estimation of a location parameter.

    >>> huber(jnp.array([0.0, 3.0]), jnp.array([1.0, 0.0])).total
    Array(3., dtype=float32)
    """
    if not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta}")

    def formula(predictions: Array, targets: Array) -> Array:
        return optax.huber_loss(predictions, targets, delta=delta)

    return _elementwise("huber", formula, ("predictions", predictions), ("targets", targets), where=where)


def pinball(
    predictions: Float[Array, "*s q"],
    targets: Num[Array, "*s"],
    *,
    quantiles: Sequence[float],
    where: Bool[Array, "..."] | None = None,
) -> Mean:
    """The loss that quantiles are least in: q (t - p) where the target is above, (1 - q) (p - t) where it is below.

    Its mean over the quantiles; half the absolute error for the median. Where target and prediction are equal the
    gradient is that of a target above.

    Args:
      predictions: Of each quantile, in the order of `quantiles`.
      targets: What is so.
      quantiles: Between 0 and 1.
      where: Targets to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the targets kept, and their number.

    Raises:
      ValueError: If the shapes do not fit, or a quantile is not between 0 and 1.
      TypeError: If `where` is not boolean.

    References:
      Koenker and Bassett, 1978. Regression quantiles.

    >>> pinball(jnp.array([[0.0, 0.0]]), jnp.array([1.0]), quantiles=(0.1, 0.9)).total
    Array(0.5, dtype=float32)
    """
    if not quantiles or not all(0 < quantile < 1 for quantile in quantiles):
        raise ValueError(f"pinball: quantiles must be between 0 and 1, got {tuple(quantiles)}")
    if predictions.shape != (*targets.shape, len(quantiles)):
        raise ValueError(
            f"pinball: predictions has shape {predictions.shape}, wanted {(*targets.shape, len(quantiles))}: "
            f"one of each of {len(quantiles)} quantiles for every target"
        )

    def formula(predictions: Array, targets: Array) -> Array:
        error = targets - predictions
        q = jnp.broadcast_to(jnp.asarray(quantiles, error.dtype), error.shape)
        return jnp.mean(error * (q - (error < 0).astype(error.dtype)), axis=-1)

    spread = jnp.broadcast_to(targets[..., None], predictions.shape)
    return _elementwise("pinball", formula, ("predictions", predictions), ("targets", spread), where=where, rows=True)


def gaussian_nll(
    mean: Float[Array, "*s"],
    log_variance: Float[Array, "*s"],
    targets: Num[Array, "*s"],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Mean:
    """Negative log likelihood of the targets under independent Gaussians, in nats, the constant included.

    It takes the logarithm of the variance since a network's output may be any number, and the variance may not.

    Args:
      mean: Mean of each entry.
      log_variance: Natural logarithm of each variance.
      targets: What was observed.
      where: Entries to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the entries kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    References:
      Nix and Weigend, 1994. Estimating the mean and variance of the target probability distribution.

    >>> f"{gaussian_nll(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2)).value:.4f}"
    '0.9189'
    """

    def formula(mean: Array, log_variance: Array, targets: Array) -> Array:
        deviation = jnp.square(targets - mean) * jnp.exp(-log_variance)
        return 0.5 * (math.log(2 * math.pi) + log_variance + deviation)

    return _elementwise(
        "gaussian_nll", formula, ("mean", mean), ("log_variance", log_variance), ("targets", targets), where=where
    )


def kl_divergence(
    log_p: Float[Array, "*b k"], log_q: Float[Array, "*b k"], *, where: Bool[Array, "..."] | None = None
) -> Mean:
    """Kullback-Leibler divergence KL(p || q) of distributions over the last axis, in nats.

    Where p is 0 (log_p = -inf) the term is 0, whatever q is; where only q is 0 the divergence is inf.

    Args:
      log_p: Natural logarithm of the distribution that the mean is taken under.
      log_q: Natural logarithm of the other.
      where: Rows to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the rows kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    References:
      Kullback and Leibler, 1951. On information and sufficiency.

    >>> f"{kl_divergence(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))).value:.4f}"
    '0.1438'
    """

    def formula(log_p: Array, log_q: Array) -> Array:
        # Both logarithms at 0 make a term of exactly 0 whose gradients are what the limit p -> 0 gives.
        positive = log_p != -jnp.inf
        return optax.losses.kl_divergence_with_log_targets(_blank(log_q, positive), _blank(log_p, positive))

    return _elementwise("kl_divergence", formula, ("log_p", log_p), ("log_q", log_q), where=where, rows=True)


def kl_standard_normal(
    mean: Float[Array, "*b d"], log_variance: Float[Array, "*b d"], *, where: Bool[Array, "..."] | None = None
) -> Mean:
    """KL(N(mean, variance) || N(0, 1)) of diagonal Gaussians, summed over the last axis, in nats.

    Args:
      mean: Means of each row.
      log_variance: Natural logarithms of its variances.
      where: Rows to keep; broadcasts over axes of size 1.

    Returns:
      The sum over the rows kept, and their number.

    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If `where` is not boolean.

    References:
      Kingma and Welling, 2014. Auto-encoding variational Bayes (appendix B).

    >>> kl_standard_normal(jnp.array([[1.0, 1.0]]), jnp.zeros((1, 2))).value
    Array(1., dtype=float32)
    """

    def formula(mean: Array, log_variance: Array) -> Array:
        # exp(v) - 1 - v cancels where the variance is near 1, which is where training ends: expm1 keeps its digits.
        return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(log_variance) - log_variance, axis=-1)

    return _elementwise(
        "kl_standard_normal", formula, ("mean", mean), ("log_variance", log_variance), where=where, rows=True
    )


def _elementwise(
    op: str,
    formula: Callable[..., Array],
    *arguments: tuple[str, Array],
    where: Array | None,
    rows: bool = False,
) -> Mean:
    """Checks the named arguments, blanks what is masked, and sums the formula's values; `rows`: one value a row."""
    (first, like), *others = arguments
    for name, value in others:
        if value.shape != like.shape:
            raise ValueError(f"{op}: {name} has shape {value.shape} but {first} has {like.shape}; they must be equal")
    keep = _check_where(op, where, like.shape[:-1] if rows else like.shape)
    inner = keep[..., None] if rows and keep is not None else keep
    return _mean(formula(*(_blank(widened(value), inner) for _, value in arguments)), keep)


def _on_probabilities(formula: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Makes value and gradient NaN where a label is no probability."""

    def checked(logits: Array, labels: Array) -> Array:
        return formula(logits, labels) * jnp.where((labels >= 0) & (labels <= 1), 1, jnp.nan).astype(logits.dtype)

    return checked


def _check_where(op: str, where: Array | None, shape: tuple[int, ...]) -> Array | None:
    if where is None:
        return None
    if where.dtype != jnp.bool:
        raise TypeError(f"{op}: where must be boolean, True keeps; got {where.dtype}")
    # The same rank, so that a mask [B] is never spread over the features of [B, B] by accident.
    if where.ndim != len(shape) or any(got not in (1, wanted) for got, wanted in zip(where.shape, shape, strict=True)):
        raise ValueError(f"{op}: where has shape {where.shape}, wanted {shape} or 1 in place of a size")
    return jnp.broadcast_to(where, shape)


def _blank(x: Array, keep: Array | None) -> Array:
    """Zero where not kept: a select on the way in, for one on the way out alone would let NaN into the gradient."""
    return x if keep is None else jnp.where(keep, x, 0)


def _mean(values: Array, keep: Array | None) -> Mean:
    if keep is None:
        return Mean(values.sum(), jnp.asarray(values.size, values.dtype))
    # Counted in integers: a float32 count would stop at 2^24.
    return Mean(jnp.sum(values, where=keep), keep.sum(dtype=jnp.int32).astype(values.dtype))
