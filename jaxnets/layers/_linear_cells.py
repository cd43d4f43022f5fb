"""What the layers MinGRU, MinLSTM, LRU and RGLRU share: their checks, and parameters in the type to compute in."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxnets.layers.recurrent import label
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._linear_cells import check_call
from jaxnets.ops._recurrent_call import states


def check(
    layer: Any,
    x: Array,
    lengths: Array | None,
    starts: Array | None,
    carry: Any,
    kind: type[Any],
    width: int | None = None,
    is_complex: bool = False,
) -> None:
    """Checks the input of a layer, before any parameter is made."""
    name, width = label(layer), layer.features if width is None else width
    if layer.features < 1 or width < 1:
        raise ValueError(f"{name}: features and state_features want at least 1 but are {layer.features} and {width}")
    check_call(name, x, lengths, starts, layer.implementation)
    dtype = accumulation_dtype(compute_dtype(layer, x))
    if is_complex:
        dtype = jnp.dtype(jnp.complex128 if dtype == jnp.float64 else jnp.complex64)
    states(name, kind(jax.ShapeDtypeStruct((width,), dtype)), x.shape[0], carry, None)


def check_stored(layer: Any, x: Array, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Names a stored kernel of another shape before Linen does."""
    for kernel, shape in shapes.items():
        if layer.has_variable("params", kernel) and layer.get_variable("params", kernel).shape != shape:
            raise ValueError(
                f"{label(layer)}: x has {x.shape[-1]} features, which take {kernel!r} {shape}, but params[{kernel!r}] "
                f"is {layer.get_variable('params', kernel).shape} (x.shape={x.shape})"
            )


def gates(layer: Any, x: Array, gates: int, offsets: tuple[float, ...] | None = None) -> tuple[Array, dict[str, Array]]:
    """x, `kernel` and `bias` in the type to compute in; `offsets` go on the gates' biases."""
    shape = (x.shape[-1], gates * layer.features)
    check_stored(layer, x, {"kernel": shape})

    def bias(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        made = layer.bias_init(key, shape, dtype)
        return made if offsets is None else made + jnp.repeat(jnp.array(offsets, dtype), layer.features)

    made = {
        "kernel": layer.param("kernel", layer.kernel_init, shape, layer.param_dtype),
        "bias": layer.param("bias", bias, shape[1:], layer.param_dtype),
    }
    dtype = compute_dtype(layer, x)
    return jnp.asarray(x, dtype), cast(made, dtype)


def cast(params: Mapping[str, Any], dtype: Any) -> dict[str, Array]:
    return {name: jnp.asarray(param, dtype) for name, param in params.items()}


def compute_dtype(layer: Any, x: Array) -> Any:
    return x.dtype if layer.dtype is None else jnp.dtype(layer.dtype)
