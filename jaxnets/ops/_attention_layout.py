"""How the arrays of attention lie, and how heads and steps are cut from them and put back.

They come as [B, T, N, H], and are worked on heads first. The heads of q that share one of k are the axis G. Turned
keys are heads first from the beginning, [B, K, H, S].
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._attention_weights import Context, Operands, Steps

Kind = Literal["queries", "keys", "turned keys", "rows", "weights", "query steps", "key steps", "noise"]

OPERANDS = Operands("queries", "keys", "keys", "weights", "turned keys")
CONTEXT = Context(Steps(*4 * ["query steps"]), Steps(*4 * ["key steps"]), "weights", "noise")  # type: ignore[arg-type]
"""The kinds of arrays, in trees like those that hold them."""


class Head(NamedTuple):
    """A head of k, with `group` of q, in a row of the batch."""

    row: Any
    number: Any
    group: int


def heads_first(kind: Kind, x: Array, group: int) -> Array:
    """Lays an array out to be worked on.

    queries [B, T, N, H] to [B, K, G, T, H]; keys [B, S, K, H] to [B, K, S, H]; rows [B, N, T] to [B, K, G, T]; weights
    [B, N, T, S] to [B, K, G, T, S], where axes may be 1; steps [B, T] to [B, 1, 1, T].
    """
    match kind:
        case "queries":
            batch, time, heads, width = x.shape
            return x.reshape(batch, time, heads // group, group, width).transpose(0, 2, 3, 1, 4)
        case "keys":
            return x.swapaxes(1, 2)
        case "rows" | "weights":
            heads = x.shape[1]
            return x.reshape(x.shape[0], *((1, 1) if heads == 1 else (heads // group, group)), *x.shape[2:])
        case "query steps" | "key steps":
            return x[:, None, None]
        case _:
            return x


def heads_last(kind: Kind, x: Array) -> Array:
    """The way back of `heads_first`."""
    match kind:
        case "queries":
            batch, heads, group, time, width = x.shape
            return x.transpose(0, 3, 1, 2, 4).reshape(batch, time, heads * group, width)
        case "keys":
            return x.swapaxes(1, 2)
        case _:
            return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def blank(kind: Kind, x: Array, context: Context) -> Array:
    """Zeros in the place of queries and keys that are not valid, all of it laid out heads first."""
    steps = context.queries if kind == "queries" else context.keys if "keys" in kind else None
    if steps is None or steps.valid is None:
        return x
    valid = {"queries": steps.valid[..., None], "keys": steps.valid[:, 0, ..., None]}.get(kind, steps.valid)
    return jnp.where(valid, x, jnp.zeros((), x.dtype))


# ---- a head of a row, before it is laid out


def take_head(kind: Kind, x: Array, head: Head) -> Array:
    """The part of an array that belongs to a head of a row."""
    if kind == "noise":
        return jax.random.fold_in(jax.random.fold_in(x, head.row), head.number)
    start, shape = _place(kind, x, head)
    return lax.dynamic_slice(x, start, shape)


def put_head(kind: Kind, x: Array, part: Array, head: Head) -> Array:
    """The array with that part in its place; of weights, which several parts may share, the sum."""
    start, shape = _place(kind, x, head)
    if kind == "weights":
        part = part + lax.dynamic_slice(x, start, shape).astype(part.dtype)
    return lax.dynamic_update_slice(x, part.astype(x.dtype), start)


def _place(kind: Kind, x: Array, head: Head) -> tuple[list[Any], list[int]]:
    start, shape = [0] * x.ndim, list(x.shape)
    if x.shape[0] > 1:
        start[0], shape[0] = head.row, 1
    axis = {"queries": 2, "keys": 2, "turned keys": 1, "rows": 1, "weights": 1}.get(kind)
    if axis is not None and x.shape[axis] > 1:
        shape[axis] = 1 if "keys" in kind else head.group
        start[axis] = head.number * shape[axis]
    return start, shape


# ---- steps of what is laid out


def take_keys(kind: Kind, x: Array, low: int, high: int) -> Array:
    """The part of an array that belongs to the keys from `low` up to `high`."""
    if kind == "keys":
        return x[..., low:high, :]
    last = kind in ("turned keys", "key steps") or (kind == "weights" and x.shape[-1] > 1)
    return x[..., low:high] if last else x


def take_rows(kind: Kind, x: Array, first: Any, rows: int) -> Array:
    """The part of an array that belongs to `rows` queries from `first` on."""
    if kind == "noise":
        return jax.random.fold_in(x, first)
    axis = _rows_axis(kind, x)
    return x if axis is None else lax.dynamic_slice_in_dim(x, first, rows, axis)


def put_keys(kind: Kind, x: Array, part: Array, low: int, high: int) -> Array:
    """The array with the part of those keys in its place; of keys and weights, which others may share, the sum."""
    if kind == "keys":
        return x.at[..., low:high, :].add(part)
    if kind == "weights":
        return x.at[..., low:high].add(part) if x.shape[-1] > 1 else x + part
    return part


def put_rows(kind: Kind, x: Array, part: Array, first: Any) -> Array:
    """The array with the part of those queries in its place; of keys and weights, which others may share, the sum."""
    part = part.astype(x.dtype)
    axis = _rows_axis(kind, x)
    if kind in ("keys", "weights"):
        shape = [min(sizes) for sizes in zip(x.shape, part.shape, strict=True)]
        part = summed_to(part, tuple(shape))
        part = part + (x if axis is None else lax.dynamic_slice_in_dim(x, first, shape[axis], axis))
    return part if axis is None else lax.dynamic_update_slice_in_dim(x, part, first, axis)


def _rows_axis(kind: Kind, x: Array) -> int | None:
    """The axis of the queries, if there is one."""
    if kind in ("rows", "query steps"):
        return x.ndim - 1
    return x.ndim - 2 if kind == "queries" or (kind == "weights" and x.shape[-2] > 1) else None


def summed_to(x: Array, shape: tuple[Any, ...]) -> Array:
    """The sum over the axes that the shape has as 1."""
    axes = tuple(
        axis for axis, (size, other) in enumerate(zip(x.shape, shape, strict=True)) if other == 1 and size != 1
    )
    return jnp.sum(x, axis=axes, keepdims=True) if axes else x
