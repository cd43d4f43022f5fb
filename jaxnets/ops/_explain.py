"""Which implementation each operation of a function takes on a platform, and why."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from jaxnets.ops._convolution_primitive import MEMBERS, algorithm


class Choice(NamedTuple):
    """What an operation takes, why, and in which module it stands ("" where there is none)."""

    op: str
    implementation: str
    why: str
    module: str

    def __str__(self) -> str:
        place = f"{self.module} " if self.module else ""
        return f"{place}{self.op}: {self.implementation}, {self.why}"


_SCOPE = re.compile(r"\b(\w+)\.(scan|newton|cudnn|sequential|associative|chunked|xla)\b")
_WHY = {
    "scan": "step by step, which is what 'auto' takes on every platform",
    "linear_attention.scan": "step by step: asked for, or a sequence of unknown length",
    "linear_attention.chunked": "blocks of steps at a time, which is what 'auto' takes on every platform",
    "chunked": "strips of queries: asked for, or weights that would take more than a GiB",
    "xla": "all weights at once: asked for, few queries, or sizes that are not known",
    "newton": "asked for; rows that do not converge are solved step by step",
    "cudnn": "asked for",
    "sequential": "one step after the other: asked for, a short sequence, or one of unknown length",
    "associative": "all steps at once: asked for",
}
_WHY_HERE = {
    "sequential": "what 'auto' takes on a CPU, where it was faster at every length",
    "associative": "what 'auto' takes on an accelerator, where each step of a loop is a kernel or more",
    "chunked": "what 'auto' takes on a CPU, where a strip of weights stays in cache",
    "xla": "what 'auto' takes on an accelerator while all weights fit a GiB",
}


def explain(function: Callable[..., Any], *args: Any, platform: str | None = None, **kwargs: Any) -> list[Choice]:
    """Tells which implementation the convolutions and recurrences of a function take, without running it.

    Args:
      function: Any function of arrays: a layer's `apply`, a gradient, a whole training step.
      *args: Its arguments; `jax.ShapeDtypeStruct` will do for arrays.
      platform: "cpu", "cuda", "rocm" or "tpu"; None means that of the default device.
      **kwargs: Its keyword arguments.

    Returns:
      The different choices, in the order of the program.

    >>> params = {"kernel": jnp.ones((3, 16)), "recurrent_kernel": jnp.ones((4, 16)), "bias": jnp.zeros(16)}
    >>> for choice in explain(jn.ops.lstm, params, jnp.ones((2, 5, 3)), platform="cpu"):
    ...     print(choice)
    lstm: scan, step by step, which is what 'auto' takes on every platform
    """
    if platform is None:
        platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    program = jax.make_jaxpr(function)(*args, **kwargs)
    return list(dict.fromkeys(_choices(program.jaxpr, "", platform, _WHY)))


def _choices(program: Jaxpr, outer: str, platform: str, why: dict[str, str]) -> Iterator[Choice]:
    """The operations of a program: our own primitives, and what is in a scope named after op and implementation."""
    for equation in program.eqns:
        place = f"{outer}/{equation.source_info.name_stack}"
        if equation.primitive in MEMBERS:
            a, b = (var.aval for var in equation.invars)
            taken, reason = algorithm(equation.primitive, equation.params["geometry"], a, b, platform)
            yield Choice(equation.primitive.name.removeprefix("jaxnets_"), taken, reason, _module(place))
        elif scope := _SCOPE.search(place):
            op, taken = scope.groups()
            yield Choice(op, taken, why.get(f"{op}.{taken}", why.get(taken, "")), _module(place[: scope.start()]))
        else:
            for part, reasons in _parts(equation, platform, why):
                yield from _choices(part, place, platform, reasons)


def _module(place: str) -> str:
    """The path of modules in a stack of names, such as transpose(jvp(Network))/lstm_1."""
    return "/".join(part for part in re.sub(r"\b\w+\(|\)", "", place).split("/") if part)


def _parts(equation: JaxprEqn, platform: str, why: dict[str, str]) -> Iterator[tuple[Jaxpr, dict[str, str]]]:
    """The programs within an operation: where it branches by platform, the branch that is taken."""
    branches = equation.params.get("branches_platforms")
    if branches is None:
        for part in jaxprs_in_params(equation.params):
            yield part, why
        return
    for platforms, branch in zip(branches, equation.params["branches"], strict=True):
        if platforms is None or platform in platforms:
            yield branch.jaxpr, {**why, **_WHY_HERE}
            return
