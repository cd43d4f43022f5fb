"""Additive and multiplicative attention as loops in float64, and their gradients by hand."""

import numpy as np


def additive_score(params, q, k):
    """The score of one query and one key, and its gradients by a dict of what it is made of."""
    hidden = np.tanh(q @ params["query_kernel"] + k @ params["key_kernel"] + params["bias"])
    du = params["score"] * (1 - hidden**2)
    gradients = {
        "q": params["query_kernel"] @ du,
        "k": params["key_kernel"] @ du,
        "query_kernel": np.outer(q, du),
        "key_kernel": np.outer(k, du),
        "bias": du,
        "score": hidden,
    }
    return hidden @ params["score"], gradients


def multiplicative_score(params, q, k):
    gradients = {"q": params["kernel"] @ k, "k": q @ params["kernel"], "kernel": np.outer(q, k)}
    return q @ params["kernel"] @ k, gradients


def attend(score, params, q, k, v, dcontext, dweights, *, lengths=None, key_lengths=None, mask=None):
    """(context, weights), and the gradients of sum(context * dcontext) + sum(weights * dweights) by name."""
    (batch, time, _), keys = q.shape, k.shape[1]
    context, weights = np.zeros((batch, time, v.shape[2])), np.zeros((batch, time, keys))
    gradients = {name: np.zeros(x.shape) for name, x in {**params, "q": q, "k": k, "v": v}.items()}
    mask = np.ones((batch, time, keys), bool) if mask is None else np.broadcast_to(mask, (batch, time, keys))
    for b, t in np.ndindex(batch, time):
        if lengths is not None and t >= lengths[b]:
            continue
        seen = [s for s in range(keys) if mask[b, t, s] and (key_lengths is None or s < key_lengths[b])]
        if not seen:
            continue
        scores, slopes = zip(*(score(params, q[b, t], k[b, s]) for s in seen), strict=True)
        powers = np.exp(np.array(scores) - max(scores))
        w = weights[b, t, seen] = powers / powers.sum()
        for s, share in zip(seen, w, strict=True):
            context[b, t] += share * v[b, s]
            gradients["v"][b, s] += share * dcontext[b, t]
        dw = np.array([v[b, s] @ dcontext[b, t] + dweights[b, t, s] for s in seen])
        for s, slope, dscore in zip(seen, slopes, w * (dw - w @ dw), strict=True):
            gradients["q"][b, t] += dscore * slope["q"]
            gradients["k"][b, s] += dscore * slope["k"]
            for name in params:
                gradients[name] += dscore * slope[name]
    return (context, weights), gradients
