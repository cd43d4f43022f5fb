"""The recurrence h_t = a_t * h_{t-1} + b_t, solved as the linear system that it is.

Its steps are the rows of a bidiagonal system, h_t - a_t * h_{t-1} = b_t, and stated as one its derivatives follow in
both modes and to any order: a tangent solves the same system with db_t + da_t * h_{t-1} on the right, a cotangent the
transposed one, which is a recurrence with the same a that runs the other way. So no derivative goes through the steps
of a solver, and the reverse mode keeps a and h alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Inexact

Implementation = Literal["auto", "sequential", "associative"]

# On a CPU "auto" is sequential at every length: value and gradient in float32 took the loop 5.1 ms, the scan 30 at
# [B, T, N] = [32, 256, 256], 0.9 and 2.3 at [8, 1024, 64], 0.19 and 0.32 at [1, 4096, 16], 0.73 and 1.4 at
# [1, 65536, 4] (2 cores of an x86 server, JAX 0.10.2; complex64 alike). Unrolled by 8 or 16 the loop is 2 to 8 times
# slower. Elsewhere a step is a kernel or more, and up to this many steps are no more of them than the scan's passes
# make, a few for each of 2 log2(T): a count, not a measurement.
SHORTEST_ASSOCIATIVE = 32


def affine_scan(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "b t *n"],
    keep: Bool[Array, "..."] | None,
    *,
    reverse: bool,
    implementation: Implementation,
) -> Inexact[Array, "b t *n"]:
    """Runs h_t = a_t * h_{t-1} + b_t over axis 1, from a state of zeros; with `reverse` from the last step on.

    Args:
      a: Repeated along axes of size 1.
      keep: Where it is False, the state before the step counts as 0, even if it is not finite; likewise repeated.
    """
    run = _runner(implementation, b.shape[1])

    def residual(h: Array) -> Array:
        edge = jnp.zeros_like(h[:, :1])
        before = jnp.concatenate([h[:, 1:], edge], 1) if reverse else jnp.concatenate([edge, h[:, :-1]], 1)
        return h - a * _masked(keep, before)

    def solve(_: Callable, b: Array) -> Array:
        return run(a, b, keep, reverse=reverse, transposed=False)

    def solve_transposed(_: Callable, b: Array) -> Array:
        return run(a, b, keep, reverse=not reverse, transposed=True)

    return lax.custom_linear_solve(residual, b, solve, solve_transposed)


def _runner(implementation: Implementation, steps: Any) -> Callable[..., Array]:
    """What solves the system: fixed here, or at lowering by the platform."""
    if implementation != "auto":
        return {"sequential": _sequential, "associative": _associative}[implementation]
    # An exported program may have any number of steps; the associative scan has to know them.
    if not isinstance(steps, int) or steps < SHORTEST_ASSOCIATIVE:
        return _sequential

    def run(a: Array, b: Array, keep: Array | None, *, reverse: bool, transposed: bool) -> Array:
        return lax.platform_dependent(
            *(a, b, keep),
            cpu=partial(_sequential, reverse=reverse, transposed=transposed),
            default=partial(_associative, reverse=reverse, transposed=transposed),
        )

    return run


@jax.named_scope("linear_recurrence.sequential")
def _sequential(a: Array, b: Array, keep: Array | None, *, reverse: bool, transposed: bool) -> Array:
    """One step after the other; b is overwritten by h."""
    steps = b.shape[1]
    # Transposed, the factor is that of the step before (at the edge any of them: it meets a state of zeros).
    offset = 0 if not transposed else 1 if reverse else -1

    def step(i: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        h, state = carried
        t = steps - 1 - i if reverse else i
        a_t, keep_t = _at(a, t + offset), None if keep is None else _at(keep, t + offset)
        state = a_t * _masked(keep_t, state) + _at(h, t)
        return lax.dynamic_update_index_in_dim(h, state, t, 1), state

    return lax.fori_loop(0, steps, step, (b, jnp.zeros_like(b[:, 0])))[0]


@jax.named_scope("linear_recurrence.associative")
def _associative(a: Array, b: Array, keep: Array | None, *, reverse: bool, transposed: bool) -> Array:
    """All steps at once, as compositions of affine maps, in a number of passes like the logarithm of T."""

    def then(one: tuple, two: tuple) -> tuple:
        (a1, b1, keep1), (a2, b2, keep2) = one, two
        return a1 * a2, a2 * _masked(keep2, b1) + b2, None if keep1 is None else keep1 & keep2

    def whole(x: Array) -> Array:
        x = jnp.broadcast_to(x, x.shape[:1] + b.shape[1:2] + x.shape[2:])
        # Transposed, a step is preceded by its neighbour's factor; what comes round the end meets a state of zeros.
        return jnp.roll(x, -1 if reverse else 1, 1) if transposed else x

    maps = whole(a), b, None if keep is None else whole(keep)
    return lax.associative_scan(then, maps, reverse=reverse, axis=1)[1]


def _at(x: Array, t: Array) -> Array:
    return x[:, 0] if x.shape[1] == 1 else lax.dynamic_index_in_dim(x, t, 1, keepdims=False)


def _masked(keep: Array | None, x: Array) -> Array:
    return x if keep is None else jnp.where(keep, x, 0)
