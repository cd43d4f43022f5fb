"""What the engine of recurrent networks asks of a cell."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array

from jaxnets.ops._product import looped_product, product
from jaxnets.typing import Precision

State = Any
"""A NamedTuple of arrays [B, ...], the first of which, `h`, is what the layer puts out."""


class Weights(NamedTuple):
    """The parameters of a recurrence; `vectors` are the cell's own, a pytree of arrays that are small."""

    kernel: Array
    bias: Array
    recurrent_kernel: Array
    recurrent_bias: Array | None = None
    vectors: Any = ()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Output:
    """Stands, among what `linearise` keeps, for the step's own output h: that is there anyway."""


class Cell:
    """What a step does; every method works on arrays with any leading axes ([B, ...] and [T, B, ...])."""

    forced_by_state: ClassVar[bool] = True
    """Where the tangents of weights and inputs enter the tangent's loop: as what they add to the state, or before, as
    what they add to the pre-activations. The former is less to store where there are more of those than of states; the
    latter saves a pass over what `linearise` kept."""

    projected_at_once: ClassVar[bool] = True
    """Whether a short input is projected at once also where nothing is written over its projection. Where that enters a
    step at two places XLA on a CPU then fuses a step with the one before, at twice the time."""

    def product(self, x: Array, kernel: Array, precision: Precision, dtype: Any) -> Array:
        """The bilinear map of an input, or of a state, with its kernel."""
        return product(x.astype(kernel.dtype), kernel, precision=precision, preferred_element_type=dtype)

    def looped_product(self, kernel: Array, precision: Precision, dtype: Any) -> Callable[[Array], Array]:
        """The same of one state after another with one kernel, for a loop that is transposed."""
        if type(self).product is not Cell.product:
            return lambda h: self.product(h, kernel, precision, dtype)
        times = looped_product(kernel, precision=precision, preferred_element_type=dtype)
        return lambda h: times(h.astype(kernel.dtype))

    def fed(self, h: Array, extras: Any) -> Array:
        """What the recurrent kernel multiplies: linear in the state's h."""
        del extras
        return h

    def join(self, u: Array, v: Array) -> Any:
        """The pre-activations that `step` sees: linear in (u, v)."""
        return u + v

    def step(self, state: State, a: Any, vectors: Any, extras: Any) -> State:
        """The state after a step; `extras` are its entries of arrays [T, B, ...], masks of dropout say."""
        raise NotImplementedError

    def linearise(self, state: State, a: Any, vectors: Any, extras: Any) -> tuple[State, Any]:
        """The state after a step, and what `tangent` needs of it: arrays [..., B, ...], or `Output`."""
        return self.step(state, a, vectors, extras), (state, a)

    def tangent(self, kept: Any, vectors: Any, extras: Any, dstate: State, da: Any, dvectors: Any) -> State:
        """The tangent of `step`: linear in (dstate, da, dvectors)."""
        state, a = kept
        return jax.jvp(
            lambda state, a, vectors: self.step(state, a, vectors, extras),
            (state, a, vectors),
            (dstate, da, dvectors),
        )[1]


def settled(kept: Any, h: Array) -> Any:
    """What `linearise` kept, with the output where it stands for it."""
    return jax.tree.map(
        lambda leaf: h if isinstance(leaf, Output) else leaf, kept, is_leaf=lambda leaf: isinstance(leaf, Output)
    )
