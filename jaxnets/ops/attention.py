"""Scaled dot-product attention."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._attention import attend
from jaxnets.ops._attention_weights import Context, Operands, Plan, Steps
from jaxnets.ops._cudnn_attention import cudnn_attention
from jaxnets.ops.masking import time_mask
from jaxnets.typing import Precision

Implementation = Literal["auto", "xla", "chunked", "cudnn"]


def dot_product_attention(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k v"],
    *,
    causal: bool = False,
    window: int | None = None,
    lengths: Int[Array, " b"] | None = None,
    key_lengths: Int[Array, " b"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    key_segment_ids: Int[Array, "b s"] | None = None,
    mask: Bool[Array, "#b #n #t #s"] | None = None,
    bias: Float[Array, "#b #n #t #s"] | None = None,
    offset: int | Int[Array, ""] | Int[Array, " b"] = 0,
    scale: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    key: Any = None,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> Float[Array, "b t n v"]:
    """Each query's mean of the values, weighted by the softmax of its scores: softmax(q k' / sqrt(H)) v.

    Head n of q reads head n // (N // K) of k and v, so one head of keys may serve several, or all, of queries. Query t
    stands at position t + offset and key s at s. What a query may attend to must meet every condition given; a query
    that may attend to nothing gives exact zeros, and has no gradient. Nothing is read past a length: it may hold NaN.

    Args:
      causal: Keeps keys at the query's position and before.
      window: Keeps the keys of so many positions, the query's own and those before it; `causal` is implied.
      lengths: Steps of each row that count, of queries and of keys.
      key_lengths: Those of keys, if they differ.
      segment_ids: Keeps keys of the query's segment; `key_segment_ids` are those of the keys, if they differ.
      mask: True keeps.
      bias: Added to the scores.
      offset: Position of the first query, one for each row if it is an array.
      scale: Factor of the scores; None means 1 / sqrt(H).
      soft_cap: Bounds the scores by soft_cap * tanh(score / soft_cap), before bias and masks.
      dropout: Rate at which weights are dropped, drawn from `key`; those that stay grow by 1 / (1 - dropout).
      precision: Precision of the products, as in `jax.lax`.
      implementation: "xla" holds all weights [B, N, T, S] at once; "chunked" those of a few queries and heads, so that
        memory grows linearly in time, and skips what the masks `causal` and `window` rule out; "cudnn" is cuDNN's, on
        CUDA and in half precision, for reverse mode alone. "auto" takes one of the first two, by platform and size.

    Returns:
      The output in the dtype of v. Softmax and sums are in at least float32.

    Raises:
      TypeError: If the dtypes differ or are not floating.
      ValueError: If shapes, window, rate or implementation do not fit, or the implementation knows no such option.
      RuntimeError: If the implementation needs a GPU and there is none.

    References:
      Vaswani et al., 2017. Attention is all you need.
      Dao et al., 2022. FlashAttention: fast and memory-efficient exact attention with IO-awareness.

    >>> q = k = v = jnp.ones((1, 3, 2, 4))
    >>> dot_product_attention(q, k, v, causal=True, lengths=jnp.array([2]))[0, :, 0, 0]
    Array([1., 1., 0.], dtype=float32)
    """
    check_operands("dot_product_attention", q, k, v)
    check_options("dot_product_attention", window, soft_cap, dropout, key, implementation)
    _check_pairs((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), mask, bias)
    same = k.shape[1] == q.shape[1]
    if not same and lengths is not None and key_lengths is None:
        raise ValueError(
            f"dot_product_attention: lengths are given for {q.shape[1]} queries and {k.shape[1]} keys but wants "
            "key_lengths too where the two differ"
        )
    if not same and (segment_ids is None) != (key_segment_ids is None):
        raise ValueError("dot_product_attention: segment_ids and key_segment_ids want each other where T and S differ")
    plan = Plan(
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        causal=causal,
        window=window,
        offset=offset if isinstance(offset, int) else None,
        soft_cap=soft_cap,
        dropout=dropout,
        precision=precision,
        implementation=implementation,
    )
    positions = jnp.arange(q.shape[1], dtype=jnp.int32)[None, :]
    if isinstance(offset, int):
        positions = positions + jnp.asarray(offset, jnp.int32)
    else:
        positions = positions + offset.astype(jnp.int32).reshape(-1, 1)
    key_lengths = lengths if key_lengths is None else key_lengths
    key_segment_ids = segment_ids if key_segment_ids is None else key_segment_ids
    context = Context(
        Steps(positions, _valid(lengths, q), segment_ids),
        Steps(jnp.arange(k.shape[1], dtype=jnp.int32)[None, :], _valid(key_lengths, k), key_segment_ids),
        mask,
        key if dropout else None,
    )
    if implementation == "cudnn":
        with jax.named_scope("dot_product_attention.cudnn"):
            return cudnn_attention(plan, Operands(q, k, v, bias), context, lengths, key_lengths)
    return attend(plan, Operands(q, k, v, bias), context)[0]


def _valid(lengths: Array | None, x: Array) -> Array | None:
    return None if lengths is None else time_mask(lengths, x.shape[1])


def check_operands(op: str, q: Array, k: Array, v: Array) -> None:
    """Raises unless q, k and v fit each other."""
    for name, x in {"q": q, "k": k, "v": v}.items():
        if x.ndim != 4:
            raise ValueError(f"{op}: {name} wants 4 axes [B, T, N, H] but has shape {x.shape}")
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype != q.dtype:
            raise TypeError(f"{op}: q, k and v want one floating dtype but are {q.dtype}, {k.dtype} and {v.dtype}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"{op}: q {q.shape}, k {k.shape} and v {v.shape} want [B, T, N, H], [B, S, K, H] and [B, S, K, V]"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{op}: q has {q.shape[2]} heads but wants a multiple of the {k.shape[2]} heads of k")


def check_options(
    op: str, window: int | None, soft_cap: float | None, dropout: float, key: Any, implementation: str
) -> None:
    """Raises unless these make sense."""
    if window is not None and window < 1:
        raise ValueError(f"{op}: window wants at least 1 step but is {window}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"{op}: soft_cap wants a positive number but is {soft_cap}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{op}: dropout wants a rate from 0 to below 1 but is {dropout}")
    if dropout and key is None:
        raise ValueError(f"{op}: dropout={dropout} wants a key to draw from")
    if implementation not in get_args(Implementation):
        raise ValueError(f"{op}: implementation is {implementation!r} but wants one of {get_args(Implementation)}")


def _check_pairs(full: tuple[Any, ...], mask: Array | None, bias: Array | None) -> None:
    """Raises unless what there is for pairs of queries and keys has that shape, or 1 for a size."""
    for name, given in {"mask": mask, "bias": bias}.items():
        if given is not None and (
            given.ndim != 4 or any(own not in (1, size) for own, size in zip(given.shape, full, strict=True))
        ):
            raise ValueError(
                f"dot_product_attention: {name} has shape {given.shape} but wants {full}, where each size may be 1"
            )
