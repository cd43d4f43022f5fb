"""Looking into a traced function: its equations, however deep they lie."""

import math
from collections.abc import Iterator
from typing import Any


def equations(jaxpr: Any, *, names: str = "", times: int = 1) -> Iterator[tuple[Any, str, int]]:
    """All equations with the names of the modules they stand in and how often they run.

    A loop whose length is not known counts once; of the branches of a condition all are given.

    Args:
      jaxpr: What `jax.make_jaxpr` gives.
      names: Those of what the jaxpr is a part of.
      times: How often the jaxpr itself runs.

    Yields:
      An equation, names with slashes between, and a number.

    >>> import jax
    >>> traced = jax.make_jaxpr(jax.jit(lambda x: 2 * x))(1.0)
    >>> [(eqn.primitive.name, times) for eqn, _, times in equations(traced)]
    [('jit', 1), ('mul', 1)]
    """
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        within = "/".join(filter(None, (names, str(eqn.source_info.name_stack))))
        yield eqn, within, times
        inner = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        for parameter in eqn.params.values():
            for part in parameter if isinstance(parameter, list | tuple) else (parameter,):
                if hasattr(part, "eqns") or hasattr(getattr(part, "jaxpr", None), "eqns"):
                    yield from equations(part, names=within, times=inner)


def product_flops(eqn: Any) -> int:
    """Multiplications and additions of a matrix product or a convolution; 0 for any other equation."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if eqn.primitive.name in ("conv_general_dilated", "jaxnets_conv"):
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params.get("dimension_numbers")
        features = kernel[-1 if numbers is None else numbers.rhs_spec[0]]
        # Each output looks at the kernel of one feature; its inputs are those of one group already.
        return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
    return 0
