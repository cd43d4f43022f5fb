"""Causal linear attention: attention without the softmax, which makes it a recurrence with a matrix for its state."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._recurrent_call import check_time, states
from jaxnets.ops.masking import time_mask, zero_padding
from jaxnets.typing import Precision

Implementation = Literal["auto", "scan", "chunked"]


class LinearAttentionCarry(NamedTuple):
    """The sums over the keys so far of phi(k) v^T and of phi(k), at least float32."""

    kv: Float[Array, "b n m v"]
    normalizer: Float[Array, "b n m"]


def elu_plus_one(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The exponential below 0 and x + 1 above: positive, and never flat.

    >>> elu_plus_one(jnp.array([-jnp.inf, 0.0, 1.0]))
    Array([0., 1., 2.], dtype=float32)
    """
    # Above 0 the exponential may overflow, and its gradient would be 0 * inf.
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, jnp.zeros_like(x), x)))


def linear_attention(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b t n h"],
    v: Float[Array, "b t n v"],
    *,
    log_decay: Float[Array, "..."] | None = None,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: LinearAttentionCarry | None = None,
    feature_map: Callable[[Array], Array] = elu_plus_one,
    normalize: bool = True,
    block: int = 64,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t n v"], LinearAttentionCarry]:
    """Runs S_t = g_t S_{t-1} + phi(k_t) v_t^T, z_t = g_t z_{t-1} + phi(k_t), y_t = phi(q_t) S_t / (phi(q_t) . z_t).

    That is causal attention with weights in the ratio of phi(q) . phi(k), each key's fading by g with every step after
    it. Steps at or past `lengths` give y = 0, leave the carry as it was, and may hold NaN. Features, sums and products
    are in at least float32; y has the dtype of v. Where phi(q) . z is 0, there being no key yet, y is 0. NaN in one
    sequence of a packed row may reach the others.

    Args:
      q: Queries.
      k: Keys.
      v: Values.
      log_decay: log g, finite and at most 0, in the dtype of sums: [N], or [B, T, N] step by step. None means g = 1.
      lengths: Steps of each row that count; None means all.
      starts: True where a new sequence begins: the state before that step is 0, whatever came before.
      carry: State to go on from; None means zeros.
      feature_map: phi, from [..., H] to [..., M].
      normalize: Whether to divide by phi(q) . z; the carry holds z either way.
      block: Steps to a block of the chunked form.
      precision: Of the products.
      implementation: "scan" is one step after the other, and its gradient keeps a state [M, V] for every step;
        "chunked" takes the steps of a block at once, as masked products, and keeps a state for every block, but needs
        a concrete T. "auto" is chunked unless T is symbolic.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If q, k and v are not floating, or dtypes differ.
      ValueError: If the shapes, the block or the implementation do not fit.

    References:
      Katharopoulos et al., 2020. Transformers are RNNs: fast autoregressive transformers with linear attention.
      Sun et al., 2023. Retentive network: a successor to Transformer for large language models (a decay for each head).
      Yang et al., 2024. Gated linear attention transformers with hardware-efficient training (decays step by step).

    >>> q, v = jnp.ones((1, 3, 1, 2)), jnp.arange(3.0).reshape(1, 3, 1, 1)
    >>> y, carry = linear_attention(q, q, v)
    >>> y[0, :, 0, 0], carry.normalizer[0]
    (Array([0. , 0.5, 1. ], dtype=float32), Array([[6., 6.]], dtype=float32))
    """
    name = _check("linear_attention", q, k, v, log_decay, lengths, starts, block, implementation)
    dtype, out_dtype = accumulation_dtype(v.dtype), v.dtype
    q, k, v = (zero_padding(x, lengths).astype(dtype) for x in (q, k, v))
    q, k = feature_map(q), zero_padding(feature_map(k), lengths)  # phi(0) need not be 0.
    if log_decay is not None:
        log_decay = zero_padding(jnp.broadcast_to(log_decay, k.shape[:3]), lengths)
    if starts is not None and lengths is not None:
        starts = starts & time_mask(lengths, q.shape[1])
    carry = _initial(carry, k, v)

    run = _scanned if name == "scan" else _chunked
    with jax.named_scope(f"linear_attention.{name}"):
        y, total, carry = run(q, k, v, log_decay, starts, carry, block, precision)
    if normalize:
        empty = total == 0
        y = jnp.where(empty, jnp.zeros_like(y), y / jnp.where(empty, jnp.ones_like(total), total))
    return zero_padding(y.astype(out_dtype), lengths), carry


def _scanned(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None,
    starts: Array | None,
    carry: LinearAttentionCarry,
    _: int,
    precision: Precision,
) -> tuple[Array, Array, LinearAttentionCarry]:
    """One step after the other: phi(q) S, phi(q) . z, and the last state."""

    def step(carry: LinearAttentionCarry, inputs: tuple) -> tuple[LinearAttentionCarry, tuple]:
        kv, normalizer = carry
        q, k, v, log_decay, start = inputs
        if start is not None:
            kv = jnp.where(start[:, None, None, None], jnp.zeros_like(kv), kv)
            normalizer = jnp.where(start[:, None, None], jnp.zeros_like(normalizer), normalizer)
        if log_decay is not None:
            g = jnp.exp(log_decay)
            kv, normalizer = g[..., None, None] * kv, g[..., None] * normalizer
        kv, normalizer = kv + k[..., :, None] * v[..., None, :], normalizer + k
        y = jnp.einsum("bnm,bnmv->bnv", q, kv, precision=precision)
        total = jnp.einsum("bnm,bnm->bn", q, normalizer, precision=precision)
        return LinearAttentionCarry(kv, normalizer), (y, total[..., None])

    inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (q, k, v, log_decay, starts))
    carry, (y, total) = lax.scan(step, carry, inputs)
    return jnp.swapaxes(y, 0, 1), jnp.swapaxes(total, 0, 1), carry


def _chunked(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None,
    starts: Array | None,
    carry: LinearAttentionCarry,
    block: int,
    precision: Precision,
) -> tuple[Array, Array, LinearAttentionCarry]:
    """The steps of a block at once, one block after the other.

    With L_t the sum of log g up to step t of the block, a key's share in a query is phi(q_t) . phi(k_s) exp(L_t - L_s),
    in the state at the end exp(L_C - L_s), and that of the state before in a query exp(L_t): no power is above 1. Past
    a start none of them sees what came before.
    """
    steps = q.shape[1]
    block = max(min(block, steps), 1)

    # What the gradient keeps of a block is then the state before it, no matrix of steps by steps.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry: LinearAttentionCarry, inputs: tuple) -> tuple[LinearAttentionCarry, tuple]:
        kv, normalizer = carry
        q, k, v, log_decay, starts = inputs  # [B, N, C, ...]
        faded = jnp.zeros((1, 1, block), q.dtype) if log_decay is None else jnp.cumsum(log_decay, axis=2)
        sequence = jnp.zeros((1, 1, block), int) if starts is None else jnp.cumsum(starts, axis=1)[:, None]
        to_query = _power(faded, sequence == 0)[..., None]
        to_end = _power(faded[..., -1:] - faded, sequence == sequence[..., -1:])[..., None]
        seen = (sequence[..., :, None] == sequence[..., None, :]) & jnp.tril(jnp.ones((1, 1, block, block), bool))
        scores = jnp.einsum("bntm,bnsm->bnts", q, k, precision=precision)
        scores = scores * _power(faded[..., :, None] - faded[..., None, :], seen)

        entering, leaving = q * to_query, k * to_end
        y = jnp.einsum("bnts,bnsv->bntv", scores, v, precision=precision)
        y = y + jnp.einsum("bntm,bnmv->bntv", entering, kv, precision=precision)
        total = jnp.sum(scores, axis=-1) + jnp.einsum("bntm,bnm->bnt", entering, normalizer, precision=precision)
        kv = to_query[..., -1:, :] * kv + jnp.einsum("bnsm,bnsv->bnmv", leaving, v, precision=precision)
        normalizer = to_query[..., -1, :] * normalizer + jnp.sum(leaving, axis=2)
        return LinearAttentionCarry(kv, normalizer), (y, total[..., None])

    heads_first = jax.tree.map(lambda x: jnp.moveaxis(_blocks(x, block), 3, 2), (q, k, v, log_decay))
    starts = None if starts is None else _blocks(starts, block)
    carry, (y, total) = lax.scan(step, carry, (*heads_first, starts))
    return _whole(y, steps), _whole(total, steps), carry


def _power(log: Array, keep: Array) -> Array:
    """The exponential of what is kept, 0 elsewhere, where it might overflow."""
    return jnp.exp(jnp.where(keep, log, jnp.full_like(log, -jnp.inf)))


def _blocks(x: Array, block: int) -> Array:
    """[B, T, ...] as blocks [T / C, B, C, ...], the last filled up with zeros: no key, no decay, no start."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2)])
    return jnp.swapaxes(x.reshape(x.shape[0], x.shape[1] // block, block, *x.shape[2:]), 0, 1)


def _whole(x: Array, steps: int) -> Array:
    """Blocks [T / C, B, N, C, V] as [B, T, N, V]."""
    x = jnp.transpose(x, (1, 0, 3, 2, 4))
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])[:, :steps]


def _initial(carry: LinearAttentionCarry | None, k: Array, v: Array) -> LinearAttentionCarry:
    batch, _, heads, features = k.shape
    kind: Any = LinearAttentionCarry
    shapes = (heads, features, v.shape[-1]), (heads, features)
    template = kind(*(jax.ShapeDtypeStruct(shape, k.dtype) for shape in shapes))
    return states("linear_attention", template, batch, carry, None)[0]


def _check(
    op: str,
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None,
    lengths: Array | None,
    starts: Array | None,
    block: int,
    implementation: str,
) -> Any:
    """Checks the arguments; returns the implementation to take."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{op}: {name} wants [B, T, N, features] but has shape {x.shape}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{op}: {name} wants a floating dtype but has {x.dtype}")
        if x.dtype != q.dtype:
            raise TypeError(f"{op}: {name} wants the dtype of q, {q.dtype}, but has {x.dtype}")
    if k.shape != q.shape or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"{op}: wants q and k [B, T, N, H] and v [B, T, N, V] but they have shapes {q.shape}, {k.shape}, {v.shape}"
        )
    check_time(op, q, lengths, starts, None)
    if log_decay is not None:
        dtype = accumulation_dtype(q.dtype)
        if log_decay.shape not in (q.shape[2:3], q.shape[:3]):
            raise ValueError(
                f"{op}: log_decay wants shape {q.shape[2:3]} or {q.shape[:3]} but has {log_decay.shape} "
                f"(q.shape={q.shape})"
            )
        if log_decay.dtype != dtype:
            raise TypeError(f"{op}: log_decay wants dtype {jnp.dtype(dtype)} but has {log_decay.dtype}")
    if block < 1:
        raise ValueError(f"{op}: block is {block} but wants at least 1 step")
    if implementation not in get_args(Implementation):
        wanted = ", ".join(get_args(Implementation))
        raise ValueError(f"{op}: implementation is {implementation!r} but wants one of {wanted}")
    concrete = isinstance(q.shape[1], int)
    if implementation == "chunked" and not concrete:
        raise ValueError(f"{op}: implementation 'chunked' wants a concrete T but got {q.shape[1]}")
    return implementation if implementation != "auto" else "chunked" if concrete else "scan"
