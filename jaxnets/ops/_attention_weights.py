"""Attention on arrays that lie heads first, and its two derivatives, from weights that are computed anew each time.

    s = cap tanh(scale q k' / cap) + bias,  -inf where a query may not attend,
    p = exp(s - lse),  lse = log sum exp s,
    o = p v.

With a tangent of the scores ds the weights change by g = p ds, up to their sum, so that

    do = g v - (sum g) o + p dv,  dlse = sum g,

and what this map does to (dq, dk, dv, dbias), transposed, is the gradient. Neither needs more of the forward pass than
o and lse: the weights [T, S] need not be kept, nor be there all at once. A query that may attend to nothing has
lse = inf, hence weights, output and derivatives of zero.

Shapes: q [..., G, T, H] with G query heads for each head of k [..., S, H] and v [..., S, V]; o [..., G, T, V]; lse
[..., G, T]; masks and bias broadcast to the weights [..., G, T, S].
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnets.ops._dtype import widened
from jaxnets.typing import Precision

_FEW = 8  # queries


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about attention that is not an array.

    Attributes:
      causal: Whether keys after the query are masked.
      window: Steps back that a query reaches, itself among them; it implies `causal`.
      offset: Position of the first query, where the keys stand at 0, 1, ...; None if positions are only known later.
    """

    scale: float
    causal: bool = False
    window: int | None = None
    offset: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0
    precision: Precision = None
    implementation: str = "auto"


class Operands(NamedTuple):
    """What the weights are computed from, or tangents of it; the bias may be None, and any tangent.

    Attributes:
      turned: k with its last two axes exchanged, where that was done once for many queries.
    """

    q: Any
    k: Any
    v: Any
    bias: Any = None
    turned: Any = None


class Steps(NamedTuple):
    """What is known of the steps of queries, or of keys: integers and booleans [..., T], or None.

    Attributes:
      first: Of queries, the position of the first key that they attend to.
    """

    position: Array
    valid: Array | None = None
    segment: Array | None = None
    first: Array | None = None


class Context(NamedTuple):
    """What decides the weights besides the operands; `key` draws the dropout."""

    queries: Steps
    keys: Steps
    mask: Array | None = None
    key: Array | None = None


def forward(plan: Plan, x: Operands, context: Context) -> tuple[Array, Array]:
    """The output o, and lse."""
    s, _ = _scores(plan, x, context)
    top = jnp.max(s, axis=-1, keepdims=True, initial=-jnp.inf)
    p = jnp.exp(s - jnp.where(top == -jnp.inf, jnp.zeros_like(top), top))
    total = jnp.sum(p, axis=-1, keepdims=True)
    empty = total == 0
    o = _times(plan, _dropped(p, _kept(plan, context, p.shape)), x.v) / jnp.where(empty, jnp.ones_like(total), total)
    lse = jnp.where(empty, jnp.full_like(total, jnp.inf), top + jnp.log(total))
    return o.astype(x.v.dtype), lse[..., 0]


def tangent(plan: Plan, x: Operands, context: Context, o: Array, lse: Array, dx: Operands) -> tuple[Array, Array]:
    """The tangents of o and lse for those of q, k, v and bias, of which None stands for zeros."""
    s, slope = _scores(plan, x, context)
    p = jnp.exp(s - lse[..., None])
    ds, scale = jnp.zeros_like(p), slope * jnp.asarray(plan.scale, p.dtype)
    if dx.q is not None:
        ds = ds + _einsum(plan, "...gth,...sh->...gts", dx.q, x.k) * scale
    if dx.k is not None:
        ds = ds + _einsum(plan, "...gth,...sh->...gts", x.q, dx.k) * scale
    if dx.bias is not None:
        ds = ds + dx.bias.astype(ds.dtype)
    g, kept = p * ds, _kept(plan, context, p.shape)
    total = jnp.sum(g, axis=-1, keepdims=True)
    do = _times(plan, _dropped(g, kept), x.v) - total * o.astype(total.dtype)
    if dx.v is not None:
        do = do + _times(plan, _dropped(p, kept), dx.v)
    return do.astype(o.dtype), total[..., 0]


def cotangent(plan: Plan, x: Operands, context: Context, o: Array, lse: Array, do: Array, dlse: Array) -> Operands:
    """The transpose of `tangent`: cotangents of q, k, v and, as [..., G, T, S], of the bias."""
    # The weights lie keys first here, [..., S, G, T]: then none of the products turns them round.
    keys_first = functools.partial(jnp.moveaxis, source=-1, destination=-3)
    s, slope = _capped(plan, _einsum(plan, "...sh,...gth->...sgt", x.k, x.q))
    s = _masked(plan, s, None if x.bias is None else keys_first(x.bias), map(keys_first, conditions(plan, context)))
    p = jnp.exp(s - lse[..., None, :, :])
    delta = jnp.sum(do.astype(lse.dtype) * o.astype(lse.dtype), axis=-1) - dlse
    kept = _kept(plan, context, jnp.moveaxis(p, -3, -1).shape)
    p_kept, dp = p, _einsum(plan, "...sv,...gtv->...sgt", x.v, do)
    if kept is not None:
        p_kept, dp = p * keys_first(kept).astype(p.dtype), dp * keys_first(kept).astype(p.dtype)
    g = p * (dp - delta[..., None, :, :])
    scaled = (g * slope * jnp.asarray(plan.scale, g.dtype)).astype(x.q.dtype)
    return Operands(
        q=jnp.moveaxis(_einsum(plan, "...hs,...sgt->...hgt", _turned(x), scaled), -3, -1),
        k=_einsum(plan, "...sgt,...gth->...sh", scaled, x.q),
        v=_einsum(plan, "...sgt,...gtv->...sv", p_kept.astype(do.dtype), do),
        bias=jnp.moveaxis(g, -3, -1),
    )


def _scores(plan: Plan, x: Operands, context: Context) -> tuple[Array, Any]:
    """The masked scores [..., G, T, S], and the slope of the soft cap."""
    if isinstance(x.q.shape[-2], int) and x.q.shape[-2] < _FEW and x.turned is None:
        # It is cheaper to turn a few rows of scores round than all keys.
        products = jnp.moveaxis(_einsum(plan, "...sh,...gth->...sgt", x.k, x.q), -3, -1)
    else:
        products = _einsum(plan, "...gth,...hs->...gts", x.q, _turned(x))
    s, slope = _capped(plan, products)
    return _masked(plan, s, x.bias, conditions(plan, context)), slope


def _turned(x: Operands) -> Array:
    return x.k.swapaxes(-1, -2) if x.turned is None else x.turned


def _capped(plan: Plan, s: Array) -> tuple[Array, Any]:
    """The scores of these products, and the slope of the soft cap."""
    s = s * jnp.asarray(plan.scale, s.dtype)
    if plan.soft_cap is None:
        return s, 1.0
    cap = jnp.asarray(plan.soft_cap, s.dtype)
    squashed = jnp.tanh(s / cap)
    return cap * squashed, 1 - squashed * squashed


def _masked(plan: Plan, s: Array, bias: Array | None, conditions: Iterable[Array]) -> Array:
    s = s if bias is None else s + bias.astype(s.dtype)
    for condition in conditions:
        s = jnp.where(condition, s, jnp.full((), -jnp.inf, s.dtype))
    return s


def conditions(plan: Plan, context: Context) -> Iterator[Array]:
    """Masks that must all be True where a query attends to a key."""
    queries, keys, mask, _ = context
    if mask is not None:
        yield mask
    if plan.causal or plan.window is not None:
        back = queries.position[..., :, None] - keys.position[..., None, :]
        yield back >= 0 if plan.window is None else (back >= 0) & (back < plan.window)
    if queries.first is not None:
        yield keys.position[..., None, :] >= queries.first[..., :, None]
    if queries.segment is not None and keys.segment is not None:
        yield queries.segment[..., :, None] == keys.segment[..., None, :]
    if queries.valid is not None:
        yield queries.valid[..., :, None]
    if keys.valid is not None:
        yield keys.valid[..., None, :]


def _kept(plan: Plan, context: Context, shape: tuple[Any, ...]) -> Array | None:
    """What dropout multiplies the weights [..., G, T, S] by, the same at every call; None for nothing."""
    if context.key is None:
        return None
    spared = jax.random.bernoulli(context.key, 1 - plan.dropout, shape)
    return jnp.where(spared, jnp.float32(1 / (1 - plan.dropout)), jnp.float32(0))


def _dropped(p: Array, kept: Array | None) -> Array:
    return p if kept is None else p * kept.astype(p.dtype)


def _times(plan: Plan, p: Array, v: Array) -> Array:
    """[..., G, T, S] and [..., S, V] to [..., G, T, V]."""
    return _einsum(plan, "...gts,...sv->...gtv", p.astype(v.dtype), v)


def _einsum(plan: Plan, equation: str, a: Array, b: Array) -> Array:
    # Half precision is widened first: XLA's CPU backend lacks some of its products with sums in float32.
    return jnp.einsum(equation, widened(a), widened(b), precision=plan.precision)
