"""The elementwise linear recurrence h_t = a_t * h_{t-1} + b_t, which can run in parallel over time."""

from typing import Any, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Inexact, Int

from jaxnets.ops._affine_scan import Implementation, affine_scan
from jaxnets.ops._recurrent_call import check_time, entries
from jaxnets.ops.masking import time_mask, zero_padding


def linear_recurrence(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "b t *n"],
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: Inexact[Array, "b *n"] | None = None,
    reverse: bool = False,
    implementation: Implementation = "auto",
) -> tuple[Inexact[Array, "b t *n"], Inexact[Array, "b *n"]]:
    """Runs h_t = a_t * h_{t-1} + b_t over time, elementwise, real or complex.

    Steps at or past `lengths` give h = 0, leave the carry as it was, and may hold NaN; a length below 0 acts as 0, one
    above T as T. Sums are in at least float32 (complex64), h has the dtype of b.

    Nothing is divided by a product of a, and no logarithm or exponential is taken: the associative form multiplies and
    adds as the sequential one does, in another order. With |a| <= 1 no product grows, so both are safe at any T, a = 0
    included. Its derivatives are recurrences of the same form, in both modes and to any order.

    Args:
      a: Factors, with as many axes as b, repeated along those of size 1 (a factor that is the same at every step may be
        [1, 1, N]); in the dtype of b.
      b: Terms.
      lengths: Steps of each row that count; None means all.
      starts: True where a new sequence begins: the state before that step is 0, whatever came before. With `reverse`,
        where time runs backwards, it is the last step of each sequence that begins afresh.
      carry: State to go on from, in the dtype that sums are in; None means zeros.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      implementation: "sequential" is one step after the other, "associative" a scan in about 2 log2(T) passes, which
        needs a concrete T. "auto" is sequential on a CPU, and elsewhere below 32 steps or where T is symbolic.

    Returns:
      h, and the state after the last step.

    Raises:
      TypeError: If a and b are not floating or complex, or the dtypes differ.
      ValueError: If the shapes or the implementation do not fit.

    References:
      Blelloch, 1990. Prefix sums and their applications.
      Martin and Cundy, 2018. Parallelizing linear recurrent neural nets over sequence length.

    >>> h, last = linear_recurrence(jnp.full((1, 1, 1), 0.5), jnp.ones((1, 3, 1)))
    >>> h[0, :, 0], last
    (Array([1.  , 1.5 , 1.75], dtype=float32), Array([[1.75]], dtype=float32))
    """
    _check_terms(a, b)
    check_time("linear_recurrence", b, lengths, starts, None)
    check_implementation("linear_recurrence", implementation, b.shape[1])
    dtype, kind = b.dtype, b.dtype if b.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    if carry is not None:
        _check_carry(carry, b, kind)
    if b.shape[1] == 0:
        return b, jnp.zeros(b.shape[:1] + b.shape[2:], kind) if carry is None else carry

    a, b, keep = a.astype(kind), zero_padding(b, lengths).astype(kind), None
    if lengths is not None:  # h_t = 1 * h_{t-1} + 0 leaves the state as it is.
        a = jnp.where(_over_features(time_mask(lengths, b.shape[1]), b), a, jnp.ones((), kind))
    if starts is not None:
        if reverse:
            starts = entries(starts, lengths)
        elif lengths is not None:
            starts = starts & time_mask(lengths, b.shape[1])
        keep = _over_features(~starts, b)
    if carry is not None:
        b = _enter(a, b, carry, keep, reverse)
    h = affine_scan(a, b, keep, reverse=reverse, implementation=implementation)
    return zero_padding(h, lengths).astype(dtype), h[:, 0] if reverse else h[:, -1]


def check_implementation(op: str, implementation: str, steps: Any) -> None:
    """Checks the name, and that the number of steps is known where it has to be."""
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"{op}: implementation is {implementation!r} but wants one of {', '.join(get_args(Implementation))}"
        )
    if implementation == "associative" and not isinstance(steps, int):
        raise ValueError(f"{op}: implementation 'associative' wants a concrete T but got {steps}")


def _enter(a: Array, b: Array, carry: Array, keep: Array | None, reverse: bool) -> Array:
    """Adds to the first term what the carry brings to it."""
    edge = slice(-1, None) if reverse else slice(1)
    state = jnp.expand_dims(carry, 1)
    term = b[:, edge] + a[:, edge] * (state if keep is None else jnp.where(keep[:, edge], state, jnp.zeros_like(state)))
    return lax.dynamic_update_slice_in_dim(b, term, b.shape[1] - 1 if reverse else 0, 1)


def _over_features(mask: Array, x: Array) -> Array:
    """The mask [B, T] with as many axes as x."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))


def _check_terms(a: Array, b: Array) -> None:
    if not jnp.issubdtype(b.dtype, jnp.inexact):
        raise TypeError(f"linear_recurrence: b wants a floating or complex dtype but has {b.dtype}")
    if a.dtype != b.dtype:
        raise TypeError(f"linear_recurrence: a wants the dtype of b, {b.dtype}, but has {a.dtype}")
    if b.ndim < 2:
        raise ValueError(f"linear_recurrence: b wants [B, T, ...] but has shape {b.shape}")
    if a.ndim != b.ndim or any(m not in (1, n) for m, n in zip(a.shape, b.shape, strict=True)):
        raise ValueError(f"linear_recurrence: a wants shape {b.shape} or 1 in its axes but has {a.shape}")


def _check_carry(carry: Array, b: Array, dtype: jnp.dtype) -> None:
    shape = b.shape[:1] + b.shape[2:]
    if carry.shape != shape:
        raise ValueError(f"linear_recurrence: carry wants shape {shape} but has {carry.shape} (b.shape={b.shape})")
    if carry.dtype != dtype:
        raise TypeError(f"linear_recurrence: carry wants dtype {dtype} but has {carry.dtype}")
