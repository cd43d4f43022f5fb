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
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnets.ops._convolution_geometry import accumulation_dtype
from jaxnets.typing import Precision


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
    """What the weights are computed from, or tangents of it; the bias may be None, and any tangent."""

    q: Any
    k: Any
    v: Any
    bias: Any = None


class Steps(NamedTuple):
    """What is known of the steps of queries, or of keys: integers and booleans [..., T] or [T], or None.

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
    o = _times(plan, _dropped(plan, p, context), x.v) / jnp.where(empty, jnp.ones_like(total), total)
    lse = jnp.where(empty, jnp.full_like(total, jnp.inf), top + jnp.log(total))
    return o.astype(x.v.dtype), lse[..., 0]


def tangent(plan: Plan, x: Operands, context: Context, o: Array, lse: Array, dx: Operands) -> tuple[Array, Array]:
    """The tangents of o and lse for those of q, k, v and bias, of which None stands for zeros."""
    s, slope = _scores(plan, x, context)
    p = jnp.exp(s - lse[..., None])
    ds = jnp.zeros_like(p)
    if dx.q is not None:
        ds = ds + _scaled(plan, dx.q, x.k) * slope
    if dx.k is not None:
        ds = ds + _scaled(plan, x.q, dx.k) * slope
    if dx.bias is not None:
        ds = ds + dx.bias.astype(ds.dtype)
    g = p * ds
    total = jnp.sum(g, axis=-1, keepdims=True)
    do = _times(plan, _dropped(plan, g, context), x.v) - total * o.astype(total.dtype)
    if dx.v is not None:
        do = do + _times(plan, _dropped(plan, p, context), dx.v)
    return do.astype(o.dtype), total[..., 0]


def cotangent(plan: Plan, x: Operands, context: Context, o: Array, lse: Array, do: Array, dlse: Array) -> Operands:
    """The transpose of `tangent`: cotangents of q, k, v and, as [..., G, T, S], of the bias."""
    s, slope = _scores(plan, x, context)
    p = jnp.exp(s - lse[..., None])
    delta = jnp.sum(do.astype(lse.dtype) * o.astype(lse.dtype), axis=-1) - dlse
    g = p * (_dropped(plan, _inner(plan, do, x.v), context) - delta[..., None])
    scaled = g * slope * jnp.asarray(plan.scale, g.dtype)
    return Operands(
        q=_times(plan, scaled, x.k),
        k=_gathered(plan, scaled, x.q),
        v=_gathered(plan, _dropped(plan, p, context), do),
        bias=g,
    )


def _scores(plan: Plan, x: Operands, context: Context) -> tuple[Array, Any]:
    """The masked scores, and the slope of the soft cap."""
    slope: Any = 1.0
    s = _scaled(plan, x.q, x.k)
    if plan.soft_cap is not None:
        cap = jnp.asarray(plan.soft_cap, s.dtype)
        squashed = jnp.tanh(s / cap)
        s, slope = cap * squashed, 1 - squashed * squashed
    if x.bias is not None:
        s = s + x.bias.astype(s.dtype)
    for condition in _conditions(plan, context):
        s = jnp.where(condition, s, jnp.full((), -jnp.inf, s.dtype))
    return s, slope


def _conditions(plan: Plan, context: Context) -> Iterator[Array]:
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


def _dropped(plan: Plan, p: Array, context: Context) -> Array:
    """The weights, or what stands in their place, after dropout: the same draws at every call."""
    if context.key is None:
        return p
    kept = jax.random.bernoulli(context.key, 1 - plan.dropout, p.shape)
    return jnp.where(kept, p / jnp.asarray(1 - plan.dropout, p.dtype), jnp.zeros((), p.dtype))


def _scaled(plan: Plan, q: Array, k: Array) -> Array:
    s = _inner(plan, q, k)
    return s * jnp.asarray(plan.scale, s.dtype)


def _inner(plan: Plan, q: Array, k: Array) -> Array:
    """[..., G, T, H] and [..., S, H] to [..., G, T, S]."""
    return _einsum(plan, "...gth,...sh->...gts", q, k)


def _times(plan: Plan, p: Array, v: Array) -> Array:
    """[..., G, T, S] and [..., S, V] to [..., G, T, V]."""
    return _einsum(plan, "...gts,...sv->...gtv", p.astype(v.dtype), v)


def _gathered(plan: Plan, p: Array, q: Array) -> Array:
    """[..., G, T, S] and [..., G, T, H] to [..., S, H]."""
    return _einsum(plan, "...gts,...gth->...sh", p.astype(q.dtype), q)


def _einsum(plan: Plan, equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, precision=plan.precision, preferred_element_type=accumulation_dtype(a.dtype))
