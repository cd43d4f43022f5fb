"""Causal linear attention: attention without the softmax, which makes it a recurrence with a matrix for its state."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._affine_scan import affine_scan
from jaxnets.ops._convolution_geometry import accumulation_dtype
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
    dtype, out_dtype, steps = accumulation_dtype(v.dtype), v.dtype, q.shape[1]
    q, k, v = (zero_padding(x, lengths).astype(dtype) for x in (q, k, v))
    q, k = feature_map(q), zero_padding(feature_map(k), lengths)  # phi(0) need not be 0.
    # A last value of 1 makes the normaliser one more column of the state.
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    state = _joined(carry, k, v)
    if log_decay is not None:
        log_decay = jnp.broadcast_to(log_decay, k.shape[:3])
        log_decay = zero_padding(log_decay, lengths)
    if starts is not None and lengths is not None:
        starts = starts & time_mask(lengths, steps)

    run = _scanned if name == "scan" else _chunked
    with jax.named_scope(f"linear_attention.{name}"):
        y, state = run(q, k, v, log_decay, starts, state, block, precision)
    total, y = y[..., -1:], y[..., :-1]
    if normalize:
        empty = total == 0
        y = jnp.where(empty, jnp.zeros_like(y), y / jnp.where(empty, jnp.ones_like(total), total))
    return zero_padding(y.astype(out_dtype), lengths), LinearAttentionCarry(state[..., :-1], state[..., -1])


def _scanned(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None,
    starts: Array | None,
    state: Array,
    _: int,
    precision: Precision,
) -> tuple[Array, Array]:
    """One step after the other."""

    def step(state: Array, inputs: tuple) -> tuple[Array, Array]:
        q, k, v, log_decay, start = inputs
        if start is not None:
            state = jnp.where(start[:, None, None, None], jnp.zeros_like(state), state)
        if log_decay is not None:
            state = jnp.exp(log_decay)[..., None, None] * state
        state = state + k[..., :, None] * v[..., None, :]
        return state, jnp.einsum("bnm,bnmv->bnv", q, state, precision=precision)

    inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (q, k, v, log_decay, starts))
    state, y = lax.scan(step, state, inputs)
    return jnp.swapaxes(y, 0, 1), state


def _chunked(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array | None,
    starts: Array | None,
    state: Array,
    block: int,
    precision: Precision,
) -> tuple[Array, Array]:
    """The steps of every block at once, and a recurrence from block to block.

    With L_t the sum of log g up to step t of a block, a key's share in a query is phi(q_t) . phi(k_s) exp(L_t - L_s),
    in the state at the block's end exp(L_C - L_s), and the state before the block's in a query exp(L_t); no power is
    above 1. Past a start none of them sees what came before.
    """
    steps = q.shape[1]
    if steps == 0:
        return v, state
    block = min(block, steps)
    q, k, v, log_decay, starts = jax.tree.map(lambda x: _blocks(x, block), (q, k, v, log_decay, starts))
    # What all rows, blocks or heads have in common is made once.
    faded = jnp.zeros((1, 1, block, 1), q.dtype) if log_decay is None else jnp.cumsum(log_decay, axis=2)
    sequence = jnp.zeros((1, 1, block), jnp.int32) if starts is None else jnp.cumsum(starts, axis=2, dtype=jnp.int32)

    entered, last = sequence == 0, sequence == sequence[:, :, -1:]
    to_query = jnp.exp(_kept(entered[..., None], faded))
    to_end = jnp.exp(_kept(last[..., None], faded[:, :, -1:] - faded))
    added = jnp.einsum("bcsnm,bcsnv->bcnmv", k * to_end[..., None], v, precision=precision)
    kept = to_query[:, :, -1, :, None, None]
    added = jnp.concatenate([added[:, :1] + kept[:, :1] * state[:, None], added[:, 1:]], axis=1)
    after = affine_scan(kept, added, None, reverse=False, implementation="auto")
    before = jnp.concatenate([state[:, None], after[:, :-1]], axis=1)

    seen = jnp.tril(jnp.ones((block, block), bool))[None, None] & (sequence[:, :, :, None] == sequence[:, :, None, :])
    faded = jnp.moveaxis(faded, 3, 2)
    share = jnp.exp(_kept(seen[:, :, None], faded[..., :, None] - faded[..., None, :]))
    scores = jnp.einsum("bctnm,bcsnm->bcnts", q, k, precision=precision) * share
    y = jnp.einsum("bcnts,bcsnv->bctnv", scores, v, precision=precision)
    y = y + jnp.einsum("bctnm,bcnmv->bctnv", q * to_query[..., None], before, precision=precision)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :steps], after[:, -1]


def _blocks(x: Array, block: int) -> Array:
    """[B, T, ...] as blocks [B, C, block, ...], the last filled up with zeros: no key, no decay, no start."""
    rest = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, rest), *[(0, 0)] * (x.ndim - 2)])
    return x.reshape(x.shape[0], -1, block, *x.shape[2:])


def _kept(keep: Array, x: Array) -> Array:
    """The logarithm of what is not kept is that of 0."""
    return jnp.where(keep, x, jnp.full_like(x, -jnp.inf))


def _joined(carry: LinearAttentionCarry | None, k: Array, v: Array) -> Array:
    """The state [B, N, M, V + 1], the normaliser its last column."""
    batch, _, heads, features = k.shape
    template = LinearAttentionCarry(
        jax.ShapeDtypeStruct((heads, features, v.shape[-1] - 1), k.dtype),
        jax.ShapeDtypeStruct((heads, features), k.dtype),
    )
    carry, _ = states("linear_attention", template, batch, carry, None)
    return jnp.concatenate([carry.kv, carry.normalizer[..., None]], axis=-1)


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
