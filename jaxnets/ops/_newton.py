"""A recurrence solved for all of its steps at once, by Newton's method.

The states are the root of s_t - F_t(s_{t-1}) = 0 for every t. With guesses s and the partial derivatives J_t of F_t
there, a correction d solves the linear recurrence

    d_t = J_t d_{t-1} + F_t(s_{t-1}) - s_t,

which runs in parallel over time, as compositions of affine maps. After k corrections the first k steps are exact, in
most networks all of them after a few. The tangent solves the same recurrence, once, with the true J at the root and
what comes from the parameters and inputs on the right; the cotangent solves it transposed. So no derivative goes
through the iteration, and it does not matter to them which J the iteration took.

References:
  Lim et al., 2024. Parallelizing non-linear sequential models over the sequence length (DEER).
  Gonzalez et al., 2024. Towards scalable and stable parallelization of nonlinear RNNs (the diagonal form).
  Danieli et al., 2025. ParaRNN: unlocking parallel training of nonlinear RNNs for large language models.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxnets.ops._newton_system import (
    Linearised,
    solve_dense,
    solve_dense_or_in_sequence,
    solve_diagonal,
    solve_in_sequence,
    with_rows_in_sequence,
)
from jaxnets.ops._recurrence import bulk_products
from jaxnets.ops._recurrent_cell import Cell, State, Weights, settled
from jaxnets.ops._recurrent_state import before, enter, filled, given, under, where
from jaxnets.typing import Precision


class Convergence(NamedTuple):
    """How the solution of one call went."""

    iterations: Int[Array, ""]
    residual: Float[Array, " b"]  # before the last correction, over the size of the state it is in
    converged: Bool[Array, " b"]  # the other rows were solved step by step


@dataclasses.dataclass(frozen=True)
class Newton:
    """Solves a recurrence for all steps at once: an `implementation` of `rnn`, `lstm` and `gru`.

    Rows that do not converge, or overflow on the way, are solved step by step. In all others every step's equation
    holds to within the tolerance, as if "scan" had rounded a little worse. Half precision rarely gets there.

    Attributes:
      jacobian: "dense" takes the whole derivative of a step: fewest iterations, each of which multiplies T matrices of
        the state's size N (H, for an LSTM 2H) and keeps B * T * N^2 numbers. "diagonal" takes its diagonal: more
        iterations, each of which costs about one forward pass; gradients, for which a diagonal would not do, then run
        step by step.
      max_iterations: Iterations before the rows that are left are given up.
      tolerance: The largest residual |F(s_{t-1}) - s_t|, over the largest state of the same unit and of the same step;
        None means 100 times the rounding unit.
      memory_limit: Bytes that the dense derivatives of one call may take; solving takes a few times that.
      report: Called on the host with the `Convergence` of each call, from compiled programs too (under vmap for each
        element). Hand in the same function each time: another one compiles anew.

    >>> params = {"kernel": jnp.ones((3, 4)), "recurrent_kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    >>> newton = Newton(report=lambda convergence: print(convergence.converged))
    >>> y, carry = jn.ops.rnn(params, jnp.ones((2, 5, 3)), implementation=newton); jax.effects_barrier()
    [ True  True]
    """

    jacobian: Literal["dense", "diagonal"] = "dense"
    max_iterations: int = 50
    tolerance: float | None = None
    memory_limit: int = 2 << 30
    report: Callable[[Convergence], None] | None = None

    def __post_init__(self) -> None:
        if self.jacobian not in ("dense", "diagonal"):
            raise ValueError(f"Newton: jacobian is {self.jacobian!r} but wants 'dense' or 'diagonal'")
        if self.max_iterations < 1:
            raise ValueError(f"Newton: max_iterations wants at least 1 but is {self.max_iterations}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"Newton: tolerance wants a positive number but is {self.tolerance}")


class Problem(NamedTuple):
    """Everything that is not an array."""

    cell: Cell
    newton: Newton
    precision: Precision


class Steps(NamedTuple):
    """What steps see beside the state and the weights: arrays [T, B, ...]."""

    x: Array
    valid: Array | None
    starts: Array | None


def newton_recurrence(
    op: str,
    cell: Cell,
    newton: Newton,
    weights: Weights,
    x: Array,
    *,
    valid: Array | None,
    starts: Array | None,
    carry: State,
    initial: State,
    reverse: bool,
    precision: Precision,
) -> tuple[Array, State]:
    """As `recurrence`, for cells whose units meet in the recurrent kernel alone."""
    _check_size(op, newton, x.shape[:2], carry)
    if x.shape[0] == 0:
        return jnp.zeros((0, *carry.h.shape), carry.h.dtype), carry
    steps = Steps(x, valid, starts)
    if reverse:
        steps = jax.tree.map(lambda a: a[::-1], steps)
    states = _solve(Problem(cell, newton, precision), weights, steps, carry, initial)
    return states.h[::-1] if reverse else states.h, jax.tree.map(lambda a: a[-1], states)


def _check_size(op: str, newton: Newton, shape: tuple[Any, ...], carry: State) -> None:
    """Checks that dense derivatives fit."""
    (time, batch), width = shape, sum(leaf.shape[-1] for leaf in carry)
    needed = time * batch * width**2 * carry.h.dtype.itemsize
    if newton.jacobian == "dense" and needed > newton.memory_limit:
        raise ValueError(
            f"{op}: the derivatives of {time} steps x {batch} rows x {width} x {width} take {needed:,} bytes "
            f"but Newton's memory_limit is {newton.memory_limit:,}: take Newton(jacobian='diagonal'), "
            "shorter pieces by carry=, or implementation='scan'"
        )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(problem: Problem, weights: Weights, steps: Steps, carry: State, initial: State) -> State:
    """The states after every step: leaves [T, B, H]."""
    newton, dtype = problem.newton, carry.h.dtype
    tolerance = 100 * float(jnp.finfo(dtype).eps) if newton.tolerance is None else newton.tolerance
    inputs = _inputs(problem, weights, steps, dtype)

    def correct(loop: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        states, _, count = loop
        after, linear = _linearised(problem, weights, inputs, steps, before(states, carry), initial)
        residual = jax.tree.map(jnp.subtract, after, states)
        if newton.jacobian == "dense":
            change = solve_dense(linear.dense(carry), residual)
        else:
            change = solve_diagonal(linear.diagonal(carry), residual)
        # What is judged is the residual before the last correction: the one after it is smaller still.
        return jax.tree.map(jnp.add, states, change), _worst(residual, after), count + 1

    def goes_on(loop: tuple[State, Array, Array]) -> Array:
        _, residual, count = loop
        # A row that has overflowed compares as False: it is not waited for.
        return (count < newton.max_iterations) & jnp.any(residual > tolerance)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(inputs), *leaf.shape), dtype), carry)
    unknown = jnp.full(carry.h.shape[:1], jnp.inf, dtype)
    states, residual, count = lax.while_loop(goes_on, correct, (zeros, unknown, jnp.zeros((), jnp.int32)))
    converged = residual <= tolerance
    if newton.report is not None:
        jax.debug.callback(newton.report, Convergence(count, residual, converged))

    def in_sequence() -> State:
        def step(state: State, now: tuple[Array, Steps]) -> tuple[State, State]:
            after, _ = _linearised(problem, weights, *now, state, initial)
            return after, after

        return lax.scan(step, carry, (inputs, steps))[1]

    return with_rows_in_sequence(states, converged, in_sequence)


@functools.partial(_solve.defjvp, symbolic_zeros=True)
def _solve_jvp(problem: Problem, primals: Any, tangents: Any) -> tuple[State, State]:
    weights, steps, carry, initial = primals
    dweights, dsteps, dcarry, dinitial = given(tangents)
    states = _solve(problem, *primals)
    previous = before(states, carry)
    inputs = _inputs(problem, weights, steps, carry.h.dtype)
    _, linear = _linearised(problem, weights, inputs, steps, previous, initial)

    entered = enter(steps.starts, initial, previous)
    forcing = bulk_products(problem.cell, problem.precision, weights, dweights, steps.x, dsteps.x, entered.h)
    zeros, nothing = (jax.tree.map(jnp.zeros_like, tree) for tree in (states, carry))
    right = linear.tangent(before(zeros, filled(dcarry, carry)), filled(dinitial, initial), forcing)

    def system(z: State) -> State:
        return jax.tree.map(jnp.subtract, z, linear.tangent(before(z, nothing)))

    if problem.newton.jacobian == "dense":
        solve = functools.partial(solve_dense_or_in_sequence, linear, linear.dense(carry))
    else:
        solve = functools.partial(solve_in_sequence, linear)
    return states, lax.custom_linear_solve(
        system, right, lambda _, right: solve(right), lambda _, right: solve(right, transposed=True)
    )


def _inputs(problem: Problem, weights: Weights, steps: Steps, dtype: Any) -> Array:
    """The pre-activations that need no state."""
    u = problem.cell.product(steps.x, weights.kernel, problem.precision, dtype)
    return u + under(weights.bias.astype(dtype), u)


def _linearised(
    problem: Problem, weights: Weights, inputs: Array, steps: Steps, previous: State, initial: State
) -> tuple[State, Linearised]:
    """The states after steps from the given ones, and the derivatives there."""
    cell = problem.cell
    entered = enter(steps.starts, initial, previous)
    v = cell.product(entered.h, weights.recurrent_kernel, problem.precision, inputs.dtype)
    if weights.recurrent_bias is not None:
        v = v + under(weights.recurrent_bias.astype(v.dtype), v)
    after, kept = cell.linearise(entered, cell.join(inputs, v), weights.vectors, ())
    kept = settled(kept, after.h)
    after = after if steps.valid is None else where(steps.valid, after, previous)
    return after, Linearised(cell, problem.precision, weights, steps.valid, steps.starts, kept)


def _worst(residual: State, states: State) -> Array:
    """The largest residual of each row, [B], over the size of its own unit and of its own step: the smaller of the two.

    Neither a large unit nor a late step that has grown can hide another that is wrong.
    """

    def worst(residual: Array, state: Array) -> Array:
        size = jnp.abs(state)
        by_unit = jnp.max(size, axis=0, keepdims=True, initial=0)
        by_step = jnp.max(size, axis=2, keepdims=True, initial=0)
        relative = jnp.where(residual == 0, jnp.zeros_like(size), jnp.abs(residual) / jnp.minimum(by_unit, by_step))
        return jnp.max(relative, axis=(0, 2), initial=0)

    return functools.reduce(jnp.maximum, map(worst, residual, states))
