"""What minGRU, minLSTM, LRU and RG-LRU share: their checks, their products, and the recurrence with its carry."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array

from jaxnets.ops._affine_scan import Implementation
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._product import product
from jaxnets.ops._recurrent_call import check_time, check_x, states
from jaxnets.ops.linear_recurrence import check_implementation, linear_recurrence
from jaxnets.typing import Precision

Params = Mapping[str, Any]


def project(params: Params, x: Array, precision: Precision) -> Array:
    return (
        widened_product(x, params["kernel"], precision) + params["bias"].astype(accumulation_dtype(x.dtype))[None, None]
    )


def widened_product(x: Array, kernel: Array, precision: Precision) -> Array:
    """X times a kernel, in at least float32."""
    return product(x, kernel, precision=precision, preferred_element_type=accumulation_dtype(x.dtype))


def over_time(
    op: str,
    kind: type[Any],
    a: Array,
    b: Array,
    dtype: Any,
    lengths: Array | None,
    starts: Array | None,
    carry: Any,
    reverse: bool,
    implementation: Implementation,
) -> tuple[Array, Any]:
    if carry is not None:
        carry, _ = states(op, kind(jax.ShapeDtypeStruct(b.shape[2:], b.dtype)), b.shape[0], carry, None)
    h, last = linear_recurrence(
        a,
        b,
        lengths=lengths,
        starts=starts,
        carry=None if carry is None else carry.h,
        reverse=reverse,
        implementation=implementation,
    )
    return h.astype(dtype), kind(last)


def check_call(op: str, x: Array, lengths: Array | None, starts: Array | None, implementation: str) -> None:
    check_x(op, x, 3)
    check_time(op, x, lengths, starts, None)
    check_implementation(op, implementation, x.shape[1])


def check_gates(op: str, params: Params, x: Array, gates: int) -> None:
    columns = width(op, params, "bias")
    if columns % gates:
        raise ValueError(f"{op}: params['bias'] wants [{gates} * H] but has shape {params['bias'].shape}")
    check_params(op, params, {"kernel": (x.shape[-1], columns), "bias": (columns,)}, x.dtype)


def width(op: str, params: Params, name: str) -> int:
    """The last axis of a parameter."""
    if name not in params:
        raise ValueError(f"{op}: params has no {name!r}, only {sorted(params)}")
    return params[name].shape[-1] if params[name].ndim else 0


def check_params(op: str, params: Params, shapes: Mapping[str, tuple[int, ...]], dtype: Any) -> None:
    for name, shape in shapes.items():
        width(op, params, name)
        if params[name].shape != shape:
            raise ValueError(f"{op}: params[{name!r}] wants shape {shape}, for x's width, but has {params[name].shape}")
        if params[name].dtype != dtype:
            raise TypeError(f"{op}: params[{name!r}] wants dtype {dtype} but has {params[name].dtype}")
