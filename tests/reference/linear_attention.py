"""Causal linear attention as a sum over pairs of steps in float64, without a state, and its gradients by complex steps.

A key's share in a later query of its sequence is phi(q_t) . phi(k_s) times the decays of the steps after s, up to t.
What came in with the carry fades by the decays of every step, and is seen until a sequence starts.
"""

import numpy as np

STEP = 1e-100


def elu_plus_one(x):
    return np.where(x.real > 0, x + 1, np.exp(np.where(x.real > 0, 0, x)))


def linear_attention(
    q, k, v, log_decay, kv, normalizer, *, lengths=None, starts=None, phi=elu_plus_one, normalize=True
):
    """(y, kv, normalizer); log_decay is [B, T, N]."""
    (batch, time, heads, _), kind = q.shape, np.result_type(q, k, v, log_decay, kv, normalizer)
    y, kv, normalizer = np.zeros(v.shape, kind), kv.astype(kind), normalizer.astype(kind)
    for b, n in np.ndindex(batch, heads):
        steps = time if lengths is None else min(max(int(lengths[b]), 0), time)
        begun = [starts is not None and bool(starts[b, t]) for t in range(steps)]
        carried = kv[b, n].copy(), normalizer[b, n].copy()
        for t in range(steps):
            matrix, vector = np.zeros_like(carried[0]), np.zeros_like(carried[1])
            if not any(begun[: t + 1]):
                fade = np.exp(np.sum(log_decay[b, : t + 1, n]))
                matrix, vector = fade * carried[0], fade * carried[1]
            for s in range(t + 1):
                if not any(begun[s + 1 : t + 1]):
                    key = np.exp(np.sum(log_decay[b, s + 1 : t + 1, n])) * phi(k[b, s, n])
                    matrix, vector = matrix + np.outer(key, v[b, s, n]), vector + key
            total = phi(q[b, t, n]) @ vector
            y[b, t, n] = phi(q[b, t, n]) @ matrix / (total if normalize else 1)
            kv[b, n], normalizer[b, n] = matrix, vector
    return y, kv, normalizer


def gradients(arrays, cotangents, **options):
    """Of the sum of the three results times their cotangents, to each of the arrays."""
    made = []
    for i, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(*array.shape):
            moved = array.astype(complex)
            moved[index] += 1j * STEP
            out = linear_attention(*arrays[:i], moved, *arrays[i + 1 :], **options)
            gradient[index] = sum(np.sum(x * c) for x, c in zip(out, cotangents, strict=True)).imag / STEP
        made.append(gradient)
    return tuple(made)
