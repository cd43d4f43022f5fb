"""Causal linear attention as a sum over pairs of steps in float64, without a state, and its gradients by complex steps.

A key's share in a later query of its sequence is phi(q_t) . phi(k_s) times the decays of the steps after s, up to t.
What came in with the carry fades by the decays of every step, and is seen until a sequence starts.
"""

import numpy as np

STEP = 1e-100


def elu_plus_one(x):
    return np.where(x.real > 0, x + 1, np.exp(np.where(x.real > 0, 0, x)))


def one_head(q, k, v, log_decay, kv, normalizer, *, begun, phi=elu_plus_one, normalize=True):
    """(y [T, V], kv, normalizer) of one row and head; `begun` says where, in the steps that count, sequences start."""
    y = np.zeros(v.shape, np.result_type(q, k, v, log_decay, kv, normalizer))
    matrix, vector = kv, normalizer
    for t in range(len(begun)):
        seen = 0 if any(begun[: t + 1]) else np.exp(np.sum(log_decay[: t + 1]))
        matrix, vector = seen * kv, seen * normalizer
        for s in range(t + 1):
            if not any(begun[s + 1 : t + 1]):
                key = np.exp(np.sum(log_decay[s + 1 : t + 1])) * phi(k[s])
                matrix, vector = matrix + np.outer(key, v[s]), vector + key
        y[t] = phi(q[t]) @ matrix / (phi(q[t]) @ vector if normalize else 1)
    return y, matrix, vector


def heads(arrays, lengths, starts):
    """Yields the index of each row and head of each array, and where sequences begin in the row's steps that count."""
    batch, time, count, _ = arrays[0].shape
    for b, n in np.ndindex(batch, count):
        steps = time if lengths is None else min(max(int(lengths[b]), 0), time)
        begun = [starts is not None and bool(starts[b, t]) for t in range(steps)]
        over_time, state = (b, slice(None), n), (b, n)
        yield (over_time,) * 4 + (state,) * 2, (over_time, state, state), begun


def linear_attention(*arrays, lengths=None, starts=None, **options):
    """(y, kv, normalizer) of q, k [B, T, N, H], v [B, T, N, V], log_decay [B, T, N] and the carry's kv, normalizer."""
    made = tuple(np.zeros(arrays[i].shape) for i in (2, 4, 5))
    for places, ends, begun in heads(arrays, lengths, starts):
        out = one_head(*(x[place] for x, place in zip(arrays, places, strict=True)), begun=begun, **options)
        for array, place, part in zip(made, ends, out, strict=True):
            array[place] = part
    return made


def gradients(arrays, cotangents, *, lengths=None, starts=None, **options):
    """Of the sum of the three results times their cotangents, to each of the arrays."""
    made = tuple(np.zeros(x.shape) for x in arrays)
    for places, ends, begun in heads(arrays, lengths, starts):
        head = [x[place] for x, place in zip(arrays, places, strict=True)]
        weights = [c[place] for c, place in zip(cotangents, ends, strict=True)]
        for i, x in enumerate(head):
            for index in np.ndindex(*x.shape):
                moved = x.astype(complex)
                moved[index] += 1j * STEP
                out = one_head(*head[:i], moved, *head[i + 1 :], begun=begun, **options)
                slope = sum(np.sum(part * c) for part, c in zip(out, weights, strict=True)).imag / STEP
                made[i][places[i]][index] = slope
    return made
