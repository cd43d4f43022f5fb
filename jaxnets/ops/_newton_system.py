"""The tangents of all steps of a recurrence as one linear system, and its solutions.

With J_t the derivative of step t by the state before it, the system is z_t - J_t z_{t-1} = right_t for every t. All
states have leaves [T, B, H].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnets.ops._affine_scan import affine_scan
from jaxnets.ops._recurrent_cell import Cell, State, Weights
from jaxnets.ops._recurrent_state import enter, over, where
from jaxnets.typing import Precision


@dataclasses.dataclass(frozen=True)
class Linearised:
    """The derivatives of steps, by what the cell kept of them; `valid` and `starts` are masks [T, B] or None."""

    cell: Cell
    precision: Precision
    weights: Weights
    valid: Array | None
    starts: Array | None
    kept: Any

    def tangent(
        self, dbefore: State, dinitial: State | None = None, forcing: tuple[Array, Array] | None = None
    ) -> State:
        """The tangent of the states after the steps, linear in all arguments; None is for zeros."""
        dinitial = jax.tree.map(jnp.zeros_like, dbefore) if dinitial is None else dinitial
        dentered = enter(self.starts, dinitial, dbefore)
        dv = self.cell.product(dentered.h, self.weights.recurrent_kernel, self.precision, dentered.h.dtype)
        if forcing is None:
            dafter = self._cell(dentered, jnp.zeros_like(dv), dv)
        else:
            dafter = self._cell(dentered, forcing[0], dv + forcing[1])
        return dafter if self.valid is None else where(self.valid, dafter, dbefore)

    def dense(self, like: State) -> Array:
        """Each J_t: [T, B, N, N] over the numbers of a state, the last axis being what it is taken by."""
        sizes = [leaf.shape[-1] for leaf in like]
        basis = jnp.eye(sum(sizes), dtype=like.h.dtype)
        kernel = self.weights.recurrent_kernel.astype(basis.dtype)
        products = jnp.concatenate([kernel, jnp.zeros((sum(sizes[1:]), kernel.shape[1]), kernel.dtype)])

        def column(unit: Array, dv: Array) -> Array:
            # A unit vector's product is a row of the kernel, the same at every step: [1, 1, N].
            dv = dv[None, None]
            return jnp.concatenate(self._cell(_parts(unit[None, None], like), jnp.zeros_like(dv), dv), axis=-1)

        matrices = jax.vmap(column, out_axes=-1)(basis, products)
        if self.starts is not None:
            matrices = jnp.where(over(self.starts, matrices), jnp.zeros_like(matrices), matrices)
        return matrices if self.valid is None else jnp.where(over(self.valid, matrices), matrices, basis[None, None])

    def diagonal(self, like: State) -> State:
        """The diagonal of each J_t."""
        kernel = self.weights.recurrent_kernel.astype(like.h.dtype)
        hidden = len(kernel)
        gates = jnp.diagonal(kernel.reshape(hidden, -1, hidden), axis1=0, axis2=2).reshape(1, 1, -1)
        nothing = jnp.zeros_like(gates)
        leaves = []
        for i in range(len(like)):
            one = type(like)(*(jnp.full((1, 1, hidden), float(i == j), kernel.dtype) for j in range(len(like))))
            leaves.append(self._cell(one, nothing, gates if i == 0 else nothing)[i])
        diagonal = type(like)(*leaves)
        if self.starts is not None:
            diagonal = where(self.starts, jax.tree.map(jnp.zeros_like, diagonal), diagonal)
        if self.valid is None:
            return diagonal
        return where(self.valid, diagonal, jax.tree.map(jnp.ones_like, diagonal))

    def _cell(self, dbefore: State, du: Array, dv: Array) -> State:
        vectors = self.weights.vectors
        still = jax.tree.map(jnp.zeros_like, vectors)
        return self.cell.tangent(self.kept, vectors, (), dbefore, self.cell.join(du, dv), still)


def solve_dense(matrices: Array, right: State, *, transposed: bool = False) -> State:
    """The solution for all steps at once; transposed that of z_t - J'_{t+1} z_{t+1} = right_t."""

    def then(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        (first, z), (second, term) = one, two
        return _times(second, first), _times(second, z[..., None])[..., 0] + term

    if transposed:  # what comes round the end meets a state of zeros
        matrices = jnp.swapaxes(jnp.roll(matrices, -1, axis=0), -1, -2)
    terms = jnp.concatenate(right, axis=-1)
    return _parts(lax.associative_scan(then, (matrices, terms), reverse=transposed)[1], right)


def solve_dense_or_in_sequence(linear: Linearised, matrices: Array, right: State, *, transposed: bool = False) -> State:
    """As `solve_dense`, but for rows that come out of it not finite: products of matrices overflow before states do."""
    dense = solve_dense(matrices, right, transposed=transposed)
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf), axis=(0, 2)) for leaf in dense]).all(axis=0)

    return with_rows_in_sequence(dense, finite, lambda: solve_in_sequence(linear, right, transposed=transposed))


def with_rows_in_sequence(states: State, good: Array, in_sequence: Callable[[], State]) -> State:
    """The states, with those of the function in the rows that are not good; it is run only if there is such a row."""

    def replaced(_: Any) -> tuple[Array, State]:
        true = in_sequence()
        return jnp.zeros((), bool), jax.tree.map(lambda a, b: jnp.where(good[None, :, None], a, b), states, true)

    # A loop of one turn at most: under vmap a branch would become a choice between two things that are both computed.
    return lax.while_loop(lambda loop: loop[0], replaced, (~jnp.all(good), states))[1]


def solve_diagonal(diagonal: State, right: State) -> State:
    """The solution with the diagonal of J in its place."""

    def solve(factor: Array, term: Array) -> Array:
        factor, term = jnp.swapaxes(factor, 0, 1), jnp.swapaxes(term, 0, 1)
        return jnp.swapaxes(affine_scan(factor, term, None, reverse=False, implementation="auto"), 0, 1)

    return jax.tree.map(solve, diagonal, right)


def solve_in_sequence(linear: Linearised, right: State, *, transposed: bool = False) -> State:
    """As `solve_dense`, step by step, without a matrix for each."""

    def at(valid: Array | None, starts: Array | None, kept: Any) -> Linearised:
        return dataclasses.replace(linear, valid=valid, starts=starts, kept=kept)

    def step(z: State, now: Any) -> tuple[State, State]:
        valid, starts, kept, term = now
        z = jax.tree.map(jnp.add, at(valid, starts, kept).tangent(z), term)
        return z, z

    def step_back(z: State, now: Any) -> tuple[State, State]:
        valid, starts, kept, term = now
        z = jax.tree.map(jnp.add, z, term)
        return jax.linear_transpose(at(valid, starts, kept).tangent, z)(z)[0], z

    edge = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), right)
    steps = linear.valid, linear.starts, linear.kept, right
    return lax.scan(step_back if transposed else step, edge, steps, reverse=transposed)[1]


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _parts(flat: Array, like: State) -> State:
    """An array [..., N] cut into the leaves of a state."""
    ends = [sum(leaf.shape[-1] for leaf in like[: i + 1]) for i in range(len(like) - 1)]
    return type(like)(*jnp.split(flat, ends, axis=-1))
