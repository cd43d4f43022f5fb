"""Scaled dot-product attention as loops over rows, heads, queries and keys in float64, and its gradients by hand.

For one query with scores z_s, weights w = softmax(z) and y = sum_s w_s v_s, a cotangent dy gives dv_s = w_s dy,
dw_s = dy . v_s and dz_s = w_s (dw_s - sum_r w_r dw_r). What a query may not see is never read, so it may hold NaN.
"""

import numpy as np


def queries(
    q,
    k,
    *,
    causal=False,
    window=None,
    lengths=None,
    key_lengths=None,
    segment_ids=None,
    key_segment_ids=None,
    mask=None,
    bias=None,
    offset=0,
    scale=None,
    soft_cap=None,
):
    """Yields (b, n, t, the key's head, the keys seen, the slope of each score in q . k, their weights).

    Queries with nothing to attend to are left out.
    """
    (batch, time, heads, width), (_, keys, key_heads, _) = q.shape, k.shape
    key_lengths = lengths if key_lengths is None else key_lengths
    key_segment_ids = segment_ids if key_segment_ids is None else key_segment_ids
    scale = width**-0.5 if scale is None else scale
    offset = np.broadcast_to(offset, (batch,))
    mask = None if mask is None else np.broadcast_to(mask, (batch, heads, time, keys))
    bias = None if bias is None else np.broadcast_to(bias, (batch, heads, time, keys))

    def sees(b, n, t, s):
        distance = t + int(offset[b]) - s
        return (
            (lengths is None or t < lengths[b])
            and (key_lengths is None or s < key_lengths[b])
            and (not causal or distance >= 0)
            and (window is None or 0 <= distance < window)
            and (segment_ids is None or segment_ids[b, t] == key_segment_ids[b, s])
            and (mask is None or mask[b, n, t, s])
            and (bias is None or bias[b, n, t, s] != -np.inf)
        )

    for b, n, t in np.ndindex(batch, heads, time):
        m = n // (heads // key_heads)
        seen = [s for s in range(keys) if sees(b, n, t, s)]
        scores, slopes = [], []
        for s in seen:
            score, slope = scale * np.sum(q[b, t, n] * k[b, s, m]), scale
            if soft_cap is not None:
                squashed = np.tanh(score / soft_cap)
                score, slope = soft_cap * squashed, scale * (1 - squashed**2)
            scores.append(score if bias is None else score + bias[b, n, t, s])
            slopes.append(slope)
        if seen:
            powers = np.exp(np.array(scores) - max(score.real for score in scores))
            yield b, n, t, m, seen, slopes, powers / np.sum(powers)


def kept(keep, dropout, b, n, t, s):
    """What dropout multiplies a weight by, `keep` [B, N, T, S] being the weights it spares."""
    return 1.0 if keep is None else keep[b, n, t, s] / (1 - dropout)


def dot_product_attention(q, k, v, *, keep=None, dropout=0.0, **options):
    """y [B, T, N, V] of q [B, T, N, H], k [B, S, K, H], v [B, S, K, V]."""
    y = np.zeros((*q.shape[:3], v.shape[-1]), np.result_type(q, k, v, np.float64))
    for b, n, t, m, seen, _, weights in queries(q, k, **options):
        for s, weight in zip(seen, weights, strict=True):
            y[b, t, n] += weight * kept(keep, dropout, b, n, t, s) * v[b, s, m]
    return y


def attention_weights(q, k, **options):
    """The weights [B, N, T, S], 0 where nothing is seen."""
    w = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    for b, n, t, _, seen, _, weights in queries(q, k, **options):
        w[b, n, t, seen] = weights
    return w


def dot_product_attention_gradients(q, k, v, dy, *, keep=None, dropout=0.0, bias=None, **options):
    """(dq, dk, dv, dbias) of sum(y * dy); dbias has the shape of the bias, [B, N, T, S] where there is none."""
    dq, dk, dv = (np.zeros(x.shape) for x in (q, k, v))
    dbias = np.zeros((q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    for b, n, t, m, seen, slopes, weights in queries(q, k, bias=bias, **options):
        spared = [kept(keep, dropout, b, n, t, s) for s in seen]
        dw = [factor * np.sum(dy[b, t, n] * v[b, s, m]) for s, factor in zip(seen, spared, strict=True)]
        mean = sum(weight * d for weight, d in zip(weights, dw, strict=True))
        for i, s in enumerate(seen):
            dz = weights[i] * (dw[i] - mean)
            dbias[b, n, t, s] += dz
            dq[b, t, n] += dz * slopes[i] * k[b, s, m]
            dk[b, s, m] += dz * slopes[i] * q[b, t, n]
            dv[b, s, m] += weights[i] * spared[i] * dy[b, t, n]
    return dq, dk, dv, dbias if bias is None else unbroadcast(dbias, np.shape(bias))


def unbroadcast(gradient, shape):
    """The gradient of what was broadcast to the gradient's shape."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    return gradient.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
