"""Attention of the recurrent encoder-decoder: a query finds its place in a source by additive or multiplicative scores.

A decoder that goes one step at a time projects the source once, with `additive_keys` or `multiplicative_keys`, and
hands the result to each step as `k` with `projected=True`.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._linear_cells import Params, check_params, widened_product, width
from jaxnets.ops._recurrent_call import check_time
from jaxnets.ops.masking import time_mask, zero_padding
from jaxnets.typing import Precision


def additive_attention(
    params: Params,
    q: Float[Array, "b t d"],
    k: Float[Array, "b s e"],
    v: Float[Array, "b s f"],
    *,
    lengths: Int[Array, " b"] | None = None,
    key_lengths: Int[Array, " b"] | None = None,
    mask: Bool[Array, "..."] | None = None,
    projected: bool = False,
    precision: Precision = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b t s"]]:
    """Attends by score . tanh(q kernel_q + k kernel_k + bias), a small network for each pair of query and key.

    Queries at or past `lengths`, and those with nothing to attend to, give zeros and zero gradients. Queries past
    `lengths`, and keys and values past `key_lengths`, may hold NaN. Scores and their softmax are in at least float32.

    Args:
      params: `query_kernel` [D, A], `key_kernel` [E, A], `bias` [A] and `score` [A], in the dtype of q.
      q: Queries, such as the states of a decoder.
      k: Keys, such as the states of an encoder; with `projected`, what `additive_keys` made of them.
      v: Values, often the keys themselves.
      lengths: Queries of each row that count; None means all.
      key_lengths: Keys of each row that count; None means all, whatever `lengths` is.
      mask: True where a query may attend to a key, broadcast to [B, T, S].
      projected: Whether k went through `additive_keys`.
      precision: Of the products.

    Returns:
      The context, each query's mean of the values, and its weights, in at least float32.

    Raises:
      TypeError: If q is not floating, or the dtypes differ.
      ValueError: If the shapes do not fit.

    References:
      Bahdanau, Cho and Bengio, 2015. Neural machine translation by jointly learning to align and translate.

    >>> params = {"query_kernel": jnp.ones((3, 5)), "key_kernel": jnp.ones((4, 5)), "bias": jnp.zeros(5)}
    >>> params |= {"score": jnp.ones(5)}
    >>> context, weights = additive_attention(params, jnp.ones((1, 2, 3)), jnp.ones((1, 2, 4)), jnp.ones((1, 2, 6)))
    >>> context.shape, weights[0]
    ((1, 2, 6), Array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32))
    """
    op, size = "additive_attention", width("additive_attention", params, "score")
    _check_call(op, q, k, v, lengths, key_lengths, mask)
    check_params(op, params, {"query_kernel": (q.shape[-1], size), "bias": (size,), "score": (size,)}, q.dtype)
    if not projected:
        k = additive_keys(params, k, key_lengths=key_lengths, precision=precision)
    elif k.shape[-1] != size:
        raise ValueError(f"{op}: projected k wants {size} features but has shape {k.shape}")
    dtype, k = accumulation_dtype(q.dtype), zero_padding(k, key_lengths)
    queries = widened_product(zero_padding(q, lengths), params["query_kernel"], precision)
    queries = queries + params["bias"].astype(dtype)[None, None]
    hidden = jnp.tanh(queries[:, :, None] + k.astype(dtype)[:, None])
    scores = jnp.einsum("btsa,a->bts", hidden, params["score"].astype(dtype), precision=precision)
    return _attend(scores, v, lengths, key_lengths, mask, precision)


def additive_keys(
    params: Params,
    k: Float[Array, "b s e"],
    *,
    key_lengths: Int[Array, " b"] | None = None,
    precision: Precision = None,
) -> Float[Array, "b s a"]:
    """What `additive_attention` makes of the keys alone, k kernel_k, to be kept for every step of a decoder.

    >>> additive_keys({"key_kernel": jnp.ones((4, 5))}, jnp.ones((1, 2, 4))).shape
    (1, 2, 5)
    """
    op = "additive_keys"
    _check_array(op, "k", k)
    check_params(op, params, {"key_kernel": (k.shape[-1], width(op, params, "key_kernel"))}, k.dtype)
    return widened_product(zero_padding(k, key_lengths), params["key_kernel"], precision).astype(k.dtype)


def multiplicative_attention(
    params: Params,
    q: Float[Array, "b t d"],
    k: Float[Array, "b s e"],
    v: Float[Array, "b s f"],
    *,
    lengths: Int[Array, " b"] | None = None,
    key_lengths: Int[Array, " b"] | None = None,
    mask: Bool[Array, "..."] | None = None,
    projected: bool = False,
    precision: Precision = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b t s"]]:
    """Attends by q kernel k, a bilinear form; padding, masks and types are as for `additive_attention`.

    Args:
      params: `kernel` [D, E], in the dtype of q.
      q: As for `additive_attention`.
      k: As for `additive_attention`; with `projected`, what `multiplicative_keys` made of the keys.
      v: As for `additive_attention`.
      lengths: As for `additive_attention`.
      key_lengths: As for `additive_attention`.
      mask: As for `additive_attention`.
      projected: Whether k went through `multiplicative_keys`.
      precision: Of the products.

    Returns:
      The context, each query's mean of the values, and its weights, in at least float32.

    Raises:
      TypeError: If q is not floating, or the dtypes differ.
      ValueError: If the shapes do not fit.

    References:
      Luong, Pham and Manning, 2015. Effective approaches to attention-based neural machine translation ("general").

    >>> q, k = jnp.ones((1, 2, 3)), jnp.ones((1, 5, 4))
    >>> context, weights = multiplicative_attention({"kernel": jnp.ones((3, 4))}, q, k, k)
    >>> context.shape, weights.shape
    ((1, 2, 4), (1, 2, 5))
    """
    op = "multiplicative_attention"
    _check_call(op, q, k, v, lengths, key_lengths, mask)
    if not projected:
        check_params(op, params, {"kernel": (q.shape[-1], k.shape[-1])}, q.dtype)
        k = multiplicative_keys(params, k, key_lengths=key_lengths, precision=precision)
    elif k.shape[-1] != q.shape[-1]:
        raise ValueError(f"{op}: projected k wants {q.shape[-1]} features but has shape {k.shape}")
    dtype, q, k = accumulation_dtype(q.dtype), zero_padding(q, lengths), zero_padding(k, key_lengths)
    scores = jnp.einsum("btd,bsd->bts", q, k, precision=precision, preferred_element_type=dtype)
    return _attend(scores, v, lengths, key_lengths, mask, precision)


def multiplicative_keys(
    params: Params,
    k: Float[Array, "b s e"],
    *,
    key_lengths: Int[Array, " b"] | None = None,
    precision: Precision = None,
) -> Float[Array, "b s d"]:
    """What `multiplicative_attention` makes of the keys alone, kernel k, to be kept for every step of a decoder.

    >>> multiplicative_keys({"kernel": jnp.ones((3, 4))}, jnp.ones((1, 2, 4))).shape
    (1, 2, 3)
    """
    op = "multiplicative_keys"
    _check_array(op, "k", k)
    if width(op, params, "kernel") != k.shape[-1] or params["kernel"].ndim != 2:
        raise ValueError(f"{op}: params['kernel'] wants [D, {k.shape[-1]}] but has shape {params['kernel'].shape}")
    check_params(op, params, {"kernel": params["kernel"].shape}, k.dtype)
    return widened_product(zero_padding(k, key_lengths), params["kernel"].T, precision).astype(k.dtype)


def _attend(
    scores: Array, v: Array, lengths: Array | None, key_lengths: Array | None, mask: Array | None, precision: Precision
) -> tuple[Array, Array]:
    """The values' means by softmax(scores) over what may be seen, and the weights."""
    keep = _keep(scores.shape, lengths, key_lengths, mask)
    weights = _softmax(scores, keep)
    values = zero_padding(v, key_lengths)
    context = jnp.einsum(
        "bts,bsf->btf",
        weights.astype(v.dtype),
        values,
        precision=precision,
        preferred_element_type=accumulation_dtype(v.dtype),
    )
    return context.astype(v.dtype), weights


def _keep(shape: Any, lengths: Array | None, key_lengths: Array | None, mask: Array | None) -> Array:
    _, queries, keys = shape
    keep = jnp.ones(shape, bool) if mask is None else jnp.broadcast_to(mask, shape)
    if lengths is not None:
        keep = keep & time_mask(lengths, queries)[:, :, None]
    if key_lengths is not None:
        keep = keep & time_mask(key_lengths, keys)[:, None, :]
    return keep


def _softmax(scores: Array, keep: Array) -> Array:
    """Over the last axis, of what is kept; zeros, with zero gradients, where nothing is."""
    zero, one = jnp.zeros((), scores.dtype), jnp.ones((), scores.dtype)
    lowest = jnp.finfo(scores.dtype).min
    seen = jnp.where(keep, scores, jnp.asarray(lowest, scores.dtype))
    top = lax.stop_gradient(jnp.max(seen, axis=-1, keepdims=True, initial=lowest))
    # What is not kept is no number at all: it may be above the top, where its power would overflow.
    powers = jnp.where(keep, jnp.exp(jnp.where(keep, scores - top, zero)), zero)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    return powers / jnp.where(total > zero, total, one)


def _check_call(
    op: str, q: Array, k: Array, v: Array, lengths: Array | None, key_lengths: Array | None, mask: Array | None
) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_array(op, name, x)
        if x.dtype != q.dtype:
            raise TypeError(f"{op}: {name} wants the dtype of q, {q.dtype}, but has {x.dtype}")
    if k.shape[0] != q.shape[0] or v.shape[:2] != k.shape[:2]:
        raise ValueError(
            f"{op}: wants q [B, T, D], k [B, S, E] and v [B, S, F] but they have shapes {q.shape}, {k.shape}, {v.shape}"
        )
    check_time(op, q, lengths, None, None)
    if key_lengths is not None and key_lengths.shape != k.shape[:1]:
        raise ValueError(f"{op}: key_lengths wants shape {k.shape[:1]} but has {key_lengths.shape} (k.shape={k.shape})")
    if key_lengths is not None and not jnp.issubdtype(key_lengths.dtype, jnp.integer):
        raise TypeError(f"{op}: key_lengths wants an integer dtype but has {key_lengths.dtype}")
    if mask is None:
        return
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{op}: mask wants dtype bool but has {mask.dtype}")
    full = (q.shape[0], q.shape[1], k.shape[1])
    if mask.ndim > 3 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], full[::-1], strict=False)):
        raise ValueError(f"{op}: mask wants to broadcast to {full} but has shape {mask.shape}")


def _check_array(op: str, name: str, x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(f"{op}: {name} wants three axes, batch, time and features, but has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{op}: {name} wants a floating dtype but has {x.dtype}")
