"""Each loss of one entry or one row, straight from its formula, in float64, with its gradients by hand.

Every function returns the value and the tuple of its gradients, one for each of its first arguments.
"""

import math

import numpy as np


def softmax(logits):
    e = [math.exp(z - max(logits)) for z in logits]
    return np.array([v / sum(e) for v in e])


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def cross_entropy(logits, distribution):
    """One row: -sum_k t_k log softmax_k; d/dz_k = p_k sum(t) - t_k, d/dt_k = -log p_k."""
    p = softmax(logits)
    value = -sum(t * math.log(q) for t, q in zip(distribution, p, strict=True) if t > 0)
    return value, (p * sum(distribution) - np.asarray(distribution), -np.log(p))


def smoothed(distribution, smoothing):
    return [(1 - smoothing) * t + smoothing / len(distribution) for t in distribution]


def binary_cross_entropy(z, t):
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(z); d/dz = p - t, d/dt = -z."""
    p = sigmoid(z)
    return -t * math.log(p) - (1 - t) * math.log(1 - p), (p - t, -z)


def focal(z, t, gamma=2.0, alpha=None):
    """-a (1 - q)^gamma log q, where q = p and a = alpha for t = 1, q = 1 - p and a = 1 - alpha for t = 0."""
    p = sigmoid(z)
    q, sign = (p, 1) if t == 1 else (1 - p, -1)
    weight = 1 if alpha is None else (alpha if t == 1 else 1 - alpha)
    value = -weight * (1 - q) ** gamma * math.log(q)
    # dq/dz = sign q (1 - q)
    slope = weight * (gamma * (1 - q) ** (gamma - 1) * math.log(q) - (1 - q) ** gamma / q) * sign * q * (1 - q)
    return value, (slope,)


def squared_error(p, t):
    return (p - t) ** 2, (2 * (p - t), 2 * (t - p))


def absolute_error(p, t):
    return abs(p - t), (np.sign(p - t), np.sign(t - p))


def huber(p, t, delta=1.0):
    e = abs(p - t)
    if e <= delta:
        return 0.5 * e**2, (p - t, t - p)
    return delta * (e - 0.5 * delta), (delta * np.sign(p - t), delta * np.sign(t - p))


def pinball(predictions, t, quantiles):
    """One target: the mean over the quantiles of max(q e, (q - 1) e), e = t - p; gradients to all p and to t."""
    value, slopes = 0.0, np.zeros(len(quantiles))
    for k, (p, q) in enumerate(zip(predictions, quantiles, strict=True)):
        value += max(q * (t - p), (q - 1) * (t - p)) / len(quantiles)
        slopes[k] = (-q if t >= p else 1 - q) / len(quantiles)
    return value, (slopes, -slopes.sum())


def gaussian_nll(mean, log_variance, target):
    """-log N(target; mean, exp(log_variance)); gradients to mean, log_variance and target."""
    variance = math.exp(log_variance)
    density = math.exp(-((target - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    pull = (mean - target) / variance
    return -math.log(density), (pull, 0.5 - 0.5 * (target - mean) ** 2 / variance, -pull)


def kl_divergence(log_p, log_q):
    """One row: sum_k p_k (log p_k - log q_k), 0 where p_k = 0; gradients to log_p and log_q."""
    value, d_log_p, d_log_q = 0.0, np.zeros(len(log_p)), np.zeros(len(log_q))
    for k, (lp, lq) in enumerate(zip(log_p, log_q, strict=True)):
        p = math.exp(lp)
        if p > 0:
            value += p * (lp - lq)
            d_log_p[k] = p * (lp - lq) + p
            d_log_q[k] = -p
    return value, (d_log_p, d_log_q)


def kl_standard_normal(mean, log_variance):
    """One row: sum_k (m_k^2 + v_k - 1 - log v_k) / 2; gradients to mean and log_variance."""
    value = sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in zip(mean, log_variance, strict=True))
    return value, (np.asarray(mean), 0.5 * (np.exp(log_variance) - 1))
