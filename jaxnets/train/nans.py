"""Where the first number that is not finite came from: a function evaluated equation by equation."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util
from jax.extend.core import Literal

from jaxnets.train.paths import name

_CALLS = ("jit", "closed_call", "core_call", "eval_jaxpr", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
"""Primitives that do what the jaxpr inside them does, and nothing else."""


class NanSource(NamedTuple):
    """An operation that gave a number that is not finite, from such as are, or from an infinity; as text it is a line.

    Attributes:
      order: How many equations had been evaluated before it.
      operation: The primitive's name, or `"argument"` where the number was handed in.
      layer: The path of the Flax module that it stands in, with the model's own name first; `""` outside of any.
      gradient: Whether it is part of the gradient's computation, not of the value's.
      iterations: Of the loops around it, from 0, the outermost first; in a scan the place along time.
      found: `"nan"`, or `"inf"`.
      operands: Each with where it came from, shape and range.
      line: Where it stands in the source.
      because: The source of an infinity among the operands.
    """

    order: int
    operation: str
    layer: str
    gradient: bool
    iterations: tuple[int, ...]
    found: str
    operands: tuple[str, ...]
    line: str
    because: "NanSource | None"

    def __str__(self) -> str:
        if self.operation == "argument":
            return f"argument {self.operands[0]} holds {self.found}"
        where = f" in {self.layer}" if self.layer else ""
        where += "".join(f", iteration {i}" for i in self.iterations) + (", in the gradient" if self.gradient else "")
        because = f"; the infinity: {self.because}" if self.because else ""
        return f"{self.operation}{where} ({self.line}) gave {self.found} from {' and '.join(self.operands)}{because}"


def locate_nan(function: Callable[..., Any], *arguments: Any) -> NanSource | None:
    """Finds the first operation behind a result that is not finite: its layer, its operands, its place in a loop.

    The function is evaluated on the device equation by equation, loops step by step where something that is not finite
    comes out of them, so it takes minutes where the compiled function takes seconds: for one step that went wrong. Of a
    training step the forward pass, the gradient and the update are looked at alike:

        try:
            state, metrics = fit(state, step, data, steps=1000)
        except DivergedError as error:
            print(locate_nan(step, error.state, batch))

    An infinity that is written as such, as in a mask, is meant to be there. What reaches no result is no matter either,
    unless `isfinite` asks for it, as a guard does.

    Args:
      function: Of arrays, pure, such as a step or `model.apply`; not one that is only defined under a mesh.
      *arguments: Its arguments, pytrees.

    Returns:
      The source, that of a nan before that of an infinity; None if all is finite.

    >>> from flax import linen as nn
    >>> class Model(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return nn.Dense(2, name="last")(jnp.log(nn.Dense(3, name="first")(x)))
    >>> variables = Model().init(jax.random.key(0), -jnp.ones((1, 4)))
    >>> found = jn.train.locate_nan(Model().apply, variables, jnp.ones((1, 4)))
    >>> found.operation, found.layer, found.gradient
    ('log', 'Model', False)
    >>> jn.train.locate_nan(jnp.tanh, 1.0)
    """
    traced = jax.make_jaxpr(function)(*arguments)
    evaluation = _Evaluation()
    values = [evaluation.argument(name(path[1:]), leaf) for path, leaf in jax.tree.leaves_with_path(arguments)]
    results = evaluation.of(traced.jaxpr, [_Value(each, "a constant") for each in traced.consts], values)
    bad = [value for value in (*results, *evaluation.asked) if value.source]
    return min(bad, key=lambda value: _rank(value.found, value.source)).source if bad else None


class _Value(NamedTuple):
    """An array, what made it, whether it holds nan or else inf, and the source of that."""

    array: Any
    label: str
    found: str = ""
    source: NanSource | None = None


_Values = list[Any]
"""Several of them."""


class _Evaluation:
    """Evaluates jaxprs, and follows what is not finite."""

    def __init__(self) -> None:
        self.count = 0
        self.asked: list[Any] = []

    def argument(self, path: str, leaf: Any) -> _Value:
        """An argument, which may itself be the source."""
        array, found = jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf, _found(leaf)
        source = NanSource(-1, "argument", "", False, (), found, (path,), "", None) if found else None
        return _Value(array, path or "the argument", found, source)

    def of(
        self,
        jaxpr: Any,
        consts: _Values,
        arguments: _Values,
        names: str = "",
        iterations: tuple[int, ...] = (),
    ) -> list[Any]:
        """The results of a jaxpr."""
        known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

        def read(atom: Any) -> _Value:
            if isinstance(atom, Literal):
                return _Value(atom.val, f"the constant {atom.val}", _found(atom.val))
            return known[atom]

        for eqn in jaxpr.eqns:
            within = "/".join(filter(None, (names, str(eqn.source_info.name_stack))))
            results = self.equation(eqn, [read(atom) for atom in eqn.invars], within, iterations)
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, operands: _Values, names: str, iterations: tuple[int, ...]) -> list[Any]:
        """The results of an equation, of those inside it where it is a call, a branch or a loop."""
        operation, params = eqn.primitive.name, eqn.params
        if operation == "cond":
            index = int(np.clip(operands[0].array, 0, len(params["branches"]) - 1))
            return self.closed(params["branches"][index], operands[1:], names, iterations)
        if operation in _CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            return self.closed(inner, operands, names, iterations)

        out = eqn.primitive.bind(*(each.array for each in operands), **eqn.primitive.get_bind_params(params))
        arrays = list(out) if eqn.primitive.multiple_results else [out]
        founds = [_found(array) for array in arrays]
        self.count += 1
        if operation in ("scan", "while") and any(founds):
            loop = self.scan if operation == "scan" else self.while_loop
            return loop(params, operands, names, iterations)
        if operation == "is_finite":
            self.asked += operands

        def value(array: Any, found: str) -> _Value:
            source = self.source(eqn, operands, found, names, iterations) if found else None
            return _Value(array, f"the result of {operation}", found, source)

        return [value(array, found) for array, found in zip(arrays, founds, strict=True)]

    def closed(self, jaxpr: Any, operands: _Values, names: str, iterations: tuple[int, ...]) -> list[Any]:
        """The results of a jaxpr with its constants, or of one without any."""
        consts = [_Value(each, "a constant") for each in getattr(jaxpr, "consts", ())]
        return self.of(getattr(jaxpr, "jaxpr", jaxpr), consts, operands, names, iterations)

    def scan(self, params: Any, operands: _Values, names: str, iterations: tuple[int, ...]) -> list[Any]:
        """The results of a scan, step by step."""
        consts, carry, xs = _parts(params, operands)
        rows: dict[int, _Values] = {}
        order = range(params["length"])
        for i in reversed(order) if params["reverse"] else order:
            now = [_row(each, i) for each in xs]
            results = self.closed(params["jaxpr"], [*consts, *carry, *now], names, (*iterations, i))
            carry, rows[i] = results[: len(carry)], results[len(carry) :]
        return [*carry, *(_stacked(column) for column in zip(*(rows[i] for i in order), strict=True))]

    def while_loop(self, params: Any, operands: _Values, names: str, iterations: tuple[int, ...]) -> list[Any]:
        """The results of a loop, step by step."""
        asks, does = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry, i = operands[does:], 0
        while self.closed(params["cond_jaxpr"], [*operands[:asks], *carry], names, iterations)[0].array:
            inner = [*operands[asks:does], *carry]
            carry, i = self.closed(params["body_jaxpr"], inner, names, (*iterations, i)), i + 1
        return carry

    def source(
        self, eqn: Any, operands: _Values, found: str, names: str, iterations: tuple[int, ...]
    ) -> NanSource | None:
        """The source of a result: that of an operand that was no better, or the equation itself."""
        for operand in operands:
            if operand.found == found or operand.found == "nan":
                return operand.source
        because = next((operand.source for operand in operands if operand.source), None)
        shown = tuple(_shown(operand) for operand in operands)
        line = source_info_util.summarize(eqn.source_info)
        gradient = "transpose(" in names
        return NanSource(
            self.count, eqn.primitive.name, _layer(names), gradient, iterations, found, shown, line, because
        )


def _found(array: Any) -> str:
    if not jnp.issubdtype(jnp.result_type(array), jnp.inexact):
        return ""
    array = np.asarray(array)
    return "nan" if np.isnan(array).any() else "inf" if np.isinf(array).any() else ""


def _rank(found: str, source: NanSource | None) -> tuple[int, int]:
    """A nan goes before an infinity, and what came first before what came later."""
    return ("nan", "inf", "").index(found), source.order if source else 0


def _parts(params: Any, operands: _Values) -> tuple[_Values, _Values, _Values]:
    """The constants, carry and inputs of a scan, which newer versions of JAX tell by a tree, older ones by numbers."""
    if "ft_in" in params:
        consts, carry, xs = params["ft_in"].update(operands).unpack()
        return list(consts), list(carry), list(xs)
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    return operands[:first], operands[first:last], operands[last:]


def _row(value: _Value, i: int) -> _Value:
    """The i-th part of what a scan goes over, which may be finite where the whole is not."""
    found = _found(row := value.array[i])
    return _Value(row, value.label, found, value.source if found else None)


def _stacked(values: tuple[Any, ...]) -> _Value:
    worst = min(values, key=lambda each: _rank(each.found, each.source))
    return worst._replace(array=jnp.stack([each.array for each in values]))


def _shown(value: _Value) -> str:
    array, shape = np.asarray(value.array), np.shape(value.array)
    if not shape or not array.size or not jnp.issubdtype(array.dtype, jnp.number):
        return value.label if value.label.startswith("the constant") or array.size != 1 else f"{value.label}, {array}"
    return f"{value.label}, {array.dtype}[{','.join(map(str, shape))}] of {np.min(array):.3g} to {np.max(array):.3g}"


def _layer(names: str) -> str:
    """The path of modules among names such as `transpose(jvp(Model))/Dense_0`."""
    parts = re.sub(r"\w+\(|\)", "", names).split("/")
    parts = [part for part in parts if part and part not in ("checkpoint", "rematted_computation")]
    # What is computed again for the gradient has the model's name twice.
    return "/".join(parts[parts[:1] == parts[1:2] :])
