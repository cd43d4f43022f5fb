"""The layer under test, with its data and the few compiled programs that the laws share."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_DEFAULT_SPEC = jax.ShapeDtypeStruct((3, 5, 4), jnp.float32)


class Inputs(NamedTuple):
    """What one call of the layer is given; None stands for itself."""

    x: Any
    lengths: Any
    starts: Any
    carry: Any


class Subject:
    """A layer under test.

    Attributes:
      params: Its parameters, moved a little from where they were initialised: a bias of 0 would hide mistakes.
      inputs: x, lengths that fall from row to row, starts, and a carry that the layer itself has returned.
      tail: A further block of every row, to see what a carry leads to.
      block: Steps that the layer takes at a time.
      blocks: Number of them in x.
      reverse: Whether the layer runs from the last step to the first: it is what its attribute `reverse` says.
      batch_axes: For each leaf of the carry its axis of rows, None where it has none.
    """

    def __init__(
        self,
        layer: nn.Module,
        spec: jax.ShapeDtypeStruct | None = None,
        *,
        key: jax.Array | None = None,
        variables: Mapping[str, Any] | None = None,
        tolerance: float = 1e-5,
        bfloat16_tolerance: float = 3e-2,
        carry: bool = True,
        starts: bool = True,
        vocabulary: int | None = None,
        block: int = 1,
        initial_carry: Callable[[Any, jax.ShapeDtypeStruct], Any] | None = None,
        compiler_options: Mapping[str, Any] | None = None,
    ):
        spec = _DEFAULT_SPEC if spec is None else spec
        self.layer, self.spec, self.block, self.vocabulary = layer, spec, block, vocabulary
        self.tolerance, self.bfloat16_tolerance = tolerance, bfloat16_tolerance
        self.has_carry, self.has_starts, self._initial_carry = carry, starts, initial_carry
        self._fresh: dict[tuple[int, Any], Any] = {}
        self.reverse = bool(getattr(layer, "reverse", False))
        _check(spec, block, vocabulary)
        self.rows, self.time = spec.shape[:2]
        self.jit = functools.partial(
            jax.jit, compiler_options=None if compiler_options is None else dict(compiler_options)
        )
        self.blocks = self.time // block

        key = jax.random.key(0) if key is None else key
        self._seed = int(np.asarray(jax.random.key_data(key)).sum(dtype=np.uint32))
        rng = np.random.default_rng(self._seed)
        x = self._draw_x(rng, (self.rows, self.time + block, *spec.shape[2:]))
        prefix = self._draw_x(rng, spec.shape)
        if variables is None:
            variables = self.jit(lambda key, x: layer.init(key, x, train=False))(key, x[:, : self.time])
            variables = {**variables, "params": _jitter(variables.get("params", {}), rng)}
        self.params = variables.get("params", {})
        self.state = {name: value for name, value in variables.items() if name != "params"}

        self.forward = jax.jit(self.apply)  # traced once for each shape, whatever is then made of it
        self.program = self.jit(self.derive)
        starting = np.zeros((self.rows, self.time), bool)
        starting[::2, block * (self.blocks // 2)] = True
        full = np.full(self.rows, self.time, np.int32)
        falling = self.time - np.arange(self.rows) * (self.time - 1) // max(self.rows - 1, 1)
        self.inputs = Inputs(x[:, : self.time], falling.astype(np.int32), starting if starts else None, None)
        self.tail = Inputs(x[:, self.time :], full // self.blocks, np.zeros((self.rows, block), bool), None)
        self.tail = self.tail if starts else self.tail._replace(starts=None)
        self.batch_axes: list[int | None] = []
        if carry:
            self.batch_axes = self._batch_axes()
            first = Inputs(prefix, full, self.none(starting), self.fresh())
            self.inputs = self.inputs._replace(carry=self.run(first)["carry"])

    def apply(self, params: Any, inputs: Inputs) -> tuple[Any, Any]:
        """Calls the layer, without what it does not take, on arrays of JAX, as users would."""
        params, inputs, state = jax.tree.map(jnp.asarray, (params, inputs, self.state))
        keywords = {"lengths": inputs.lengths, "train": False}
        if self.has_starts:
            keywords["starts"] = inputs.starts
        if self.has_carry:
            keywords["carry"] = inputs.carry
        return self.layer.apply({**state, "params": params}, inputs.x, **keywords)

    def derive(
        self,
        params: Any,
        inputs: Inputs,
        weights: Any,
        *,
        apply: Callable[..., Any] | None = None,
        wrap: Callable[..., Any] = lambda f: f,
    ) -> Any:
        """y, the carry, and the gradients of sum(weights * outputs) with respect to parameters, x and carry."""
        apply = self.forward if apply is None else apply
        given = (params, inputs.x, inputs.carry)

        def call(floats: Any) -> Any:
            params, x, carry = jax.tree.map(lambda a, b: b if a is None else a, floats, given, is_leaf=_missing)
            outputs = apply(params, inputs._replace(x=x, carry=carry))
            return differentiable(outputs), outputs

        _, pull, (y, carry) = jax.vjp(wrap(call), differentiable(given), has_aux=True)
        (gradients,) = pull(weights)
        return {"y": y, "carry": carry, "gradient": dict(zip(("params", "x", "carry"), gradients, strict=True))}

    def run(self, inputs: Inputs, weights: Any = None) -> Any:
        """The same, compiled, on the host."""
        weights = self.weights(inputs) if weights is None else weights
        return jax.tree.map(np.asarray, self.program(self.params, inputs, weights))

    def chain(self, parts: Sequence[Inputs], weights: Sequence[Any], final: Any) -> Any:
        """Runs parts of time one after the other, the carry threaded through, and their gradients back again.

        Args:
          parts: What each part is given; the carry of the first is the one that counts.
          weights: Of the y of each part.
          final: Weights of the last carry; None is 0.

        Returns:
          A list of y and of the gradients of x, the last carry, and the gradients of the parameters and first carry.
        """
        given, carry, ys = [], parts[0].carry, []
        for part in parts:
            given.append(part._replace(carry=carry))
            out = self.run(given[-1])
            carry = out["carry"]
            ys.append(out["y"])
        back = differentiable(jax.tree.map(np.zeros_like, carry)) if final is None else final
        total, xs = None, []
        for part, weight in zip(reversed(given), reversed(weights), strict=True):
            gradient = self.run(part, (weight, back))["gradient"]
            back = gradient["carry"]
            xs.append(gradient["x"])
            total = gradient["params"] if total is None else jax.tree.map(operator.add, total, gradient["params"])
        gradients = {"params": total, "x": xs[::-1], "carry": back}
        return {"y": ys, "carry": carry, "gradient": gradients}

    def weights(self, inputs: Inputs) -> Any:
        """Random weights of every output; the same for the same shapes."""
        rng = np.random.default_rng(self._seed + 1)
        outputs = self.forward.eval_shape(self.params, inputs)
        return jax.tree.map(lambda leaf: draw(rng, leaf.shape, leaf.dtype) if inexact(leaf) else None, outputs)

    def fresh(self, rows: int | None = None) -> Any:
        """The carry of a new sequence: None, but where the caller must make room for it."""
        if self._initial_carry is None:
            return None
        rows = self.rows if rows is None else rows
        made = rows, jnp.result_type(float)  # another one where 64-bit types are on
        if made not in self._fresh:
            shape = jax.ShapeDtypeStruct((rows, 3 * self.time, *self.spec.shape[2:]), self.spec.dtype)
            self._fresh[made] = self._initial_carry({**self.state, "params": self.params}, shape)
        return self._fresh[made]

    @property
    def small(self) -> Inputs:
        """The inputs but their last two blocks, for what takes long to compile."""
        return cut(self.inputs, 0, self.time - 2 * self.block)

    @property
    def has_capacity(self) -> bool:
        """Whether the carry has to be made large enough beforehand."""
        return self._initial_carry is not None

    def none(self, starts: Any) -> Any:
        """No starts."""
        return np.zeros_like(starts) if self.has_starts else None

    def output_lengths(self, lengths: Any) -> np.ndarray:
        """Steps of y for so many steps of x."""
        if not hasattr(self.layer, "output_lengths"):
            return np.asarray(lengths)
        variables = {**self.state, "params": self.params}
        return np.asarray(self.layer.apply(variables, jnp.asarray(lengths), method="output_lengths"))

    def row(self, tree: Any, row: int) -> Any:
        """One row of a carry, still with its axis."""
        if tree is None:
            return None
        leaves, structure = jax.tree.flatten(tree, is_leaf=_missing)
        taken = [
            leaf if leaf is None or axis is None else np.take(leaf, [row], axis)
            for leaf, axis in zip(leaves, self.batch_axes, strict=True)
        ]
        return jax.tree.unflatten(structure, taken)

    def join(self, rows: Sequence[Any]) -> Any:
        """Rows of a carry put together again."""
        if rows[0] is None:
            return None
        structure = jax.tree.structure(rows[0], is_leaf=_missing)
        columns = zip(*(jax.tree.leaves(row, is_leaf=_missing) for row in rows), strict=True)
        joined = [
            leaves[0] if leaves[0] is None or axis is None else np.concatenate(leaves, axis)
            for leaves, axis in zip(columns, self.batch_axes, strict=True)
        ]
        return jax.tree.unflatten(structure, joined)

    def masked(self, tree: Any, keep: np.ndarray) -> Any:
        """A carry with 0 in the rows that are not kept."""
        leaves, structure = jax.tree.flatten(tree, is_leaf=_missing)
        masked = []
        for leaf, axis in zip(leaves, self.batch_axes, strict=True):
            if leaf is not None and axis is not None:
                shape = [1] * leaf.ndim
                shape[axis] = -1
                leaf = np.where(keep.reshape(shape), leaf, np.zeros((), leaf.dtype))
            masked.append(leaf)
        return jax.tree.unflatten(structure, masked)

    def _draw_x(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if self.vocabulary is not None:
            return rng.integers(self.vocabulary, size=shape).astype(self.spec.dtype)
        return draw(rng, shape, self.spec.dtype)

    def _carry_shapes(self, rows: int, time: int) -> list[jax.ShapeDtypeStruct]:
        x = jax.ShapeDtypeStruct((rows, time, *self.spec.shape[2:]), self.spec.dtype)
        lengths = jax.ShapeDtypeStruct((rows,), np.int32)
        starts = jax.ShapeDtypeStruct((rows, time), np.bool_) if self.has_starts else None
        return jax.tree.leaves(self.forward.eval_shape(self.params, Inputs(x, lengths, starts, self.fresh(rows)))[1])

    def _batch_axes(self) -> list[int | None]:
        few, more = (self._carry_shapes(rows, self.time) for rows in (self.rows, self.rows + 1))
        longer = self._carry_shapes(self.rows, self.time + self.block)
        if [leaf.shape for leaf in few] != [leaf.shape for leaf in longer]:
            raise ValueError(
                f"check_sequence_layer: the carry of {type(self.layer).__name__} grows with T "
                f"({[leaf.shape for leaf in few]} to {[leaf.shape for leaf in longer]}); pass "
                "initial_carry=, a function of (variables, spec) that returns one with room for the T of the spec"
            )
        return [
            next((axis for axis, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n), None)
            for a, b in zip(few, more, strict=True)
        ]


def cut(inputs: Inputs, begin: int, end: int) -> Inputs:
    """A part of time, with what is left of the lengths."""
    lengths = np.clip(inputs.lengths - begin, 0, end - begin).astype(np.int32)
    starts = None if inputs.starts is None else inputs.starts[:, begin:end]
    return inputs._replace(x=inputs.x[:, begin:end], lengths=lengths, starts=starts)


def inexact(leaf: Any) -> bool:
    """Whether a leaf has derivatives."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def widen(tree: Any) -> Any:
    """A tree in double precision."""

    def wide(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if not inexact(leaf):
            return leaf
        return leaf.astype(np.complex128 if np.iscomplexobj(leaf) else np.float64)

    return jax.tree.map(wide, tree)


def _missing(leaf: Any) -> bool:
    """An integer has no weight and no gradient: None, which counts as a leaf here."""
    return leaf is None


def differentiable(tree: Any) -> Any:
    """A tree without its integers."""
    return jax.tree.map(lambda leaf: leaf if inexact(leaf) else None, tree)


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Normal numbers, complex where the type is."""
    numbers = rng.normal(size=shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return (numbers + 1j * rng.normal(size=shape)).astype(dtype)
    return numbers.astype(dtype)


def _jitter(params: Any, rng: np.random.Generator) -> Any:
    """Parameters with a tenth of noise: zeros and ones would hide mistakes."""
    return jax.tree.map(
        lambda p: np.asarray(p) + np.asarray(0.1, p.dtype) * draw(rng, p.shape, p.dtype) if inexact(p) else p, params
    )


def _check(spec: jax.ShapeDtypeStruct, block: int, vocabulary: int | None) -> None:
    tokens = not jnp.issubdtype(spec.dtype, jnp.inexact)
    if len(spec.shape) < 2 or spec.shape[0] < 1 or spec.shape[1] % block or spec.shape[1] < 4 * block:
        raise ValueError(
            f"check_sequence_layer: spec must be [B, T, ...] with T a multiple of block={block}, at least four; it is "
            f"{spec.shape}"
        )
    if tokens != (vocabulary is not None):
        raise ValueError(f"check_sequence_layer: vocabulary={vocabulary} does not go with x of type {spec.dtype}")
