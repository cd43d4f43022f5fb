"""The convolution as three JAX primitives, each the transpose of the others, lowered by platform.

<conv(x, kernel), g> is linear in each of its three arguments. Fixing two of them gives the output, the gradient of the
input and the gradient of the kernel; the derivative of any of the three is again one of the three. As primitives they
keep forward mode, reverse mode and every higher order on the fast algorithm, and the choice of algorithm waits until
the platform is known.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from jaxnets.ops import _im2col, _winograd
from jaxnets.ops._convolution_geometry import Geometry

Member = Callable[[Geometry, Array, Array], Array]

_FEWEST_TILES = 128  # of Winograd: with fewer, transforming the kernel costs more than the products save
_FEWEST_CHANNELS = 16
_IM2COL_BYTES = 16 << 20

# ---- the three members by XLA's own convolution


def _xla_output(geometry: Geometry, x: Array, kernel: Array) -> Array:
    spatial = "DHW"[3 - geometry.rank :]
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def _xla_input_gradient(geometry: Geometry, g: Array, kernel: Array) -> Array:
    x = jax.ShapeDtypeStruct(_input_shape(geometry, g, kernel), g.dtype)
    return jax.linear_transpose(lambda x: _xla_output(geometry, x, kernel), x)(g)[0]


def _xla_kernel_gradient(geometry: Geometry, x: Array, g: Array) -> Array:
    kernel = jax.ShapeDtypeStruct(_kernel_shape(geometry, x, g), x.dtype)
    return jax.linear_transpose(lambda kernel: _xla_output(geometry, x, kernel), kernel)(g)[0]


_ALGORITHMS: dict[str, tuple[Member, Member, Member]] = {
    "xla": (_xla_output, _xla_input_gradient, _xla_kernel_gradient),
    "im2col": (_im2col.im2col, _im2col.im2col_input_gradient, _im2col.im2col_kernel_gradient),
    "winograd": (_winograd.winograd, _winograd.winograd_input_gradient, _winograd.winograd_kernel_gradient),
}


def algorithm(primitive: Primitive, geometry: Geometry, a: Any, b: Any, platform: str) -> tuple[str, str]:
    """The algorithm that `implementation` stands for on a platform, by the convolution's size, and why.

    Winograd from 16 channels and 128 tiles up, where the transforms of tiles and kernel are worth their cost; not under
    padding to one side, which is how a causal convolution comes, since within a tile what is not finite would travel
    back in time. Otherwise im2col, until the patches of a single image leave the cache.
    """
    batch, (channels, features) = a.shape[0], _channels(primitive, geometry, a, b)
    if platform == "cpu" and (0 in geometry.out_spatial or not geometry.is_concrete):
        return "xla", "its image is empty, or of unknown size"
    if geometry.implementation != "auto":
        return geometry.implementation, "asked for"
    if platform != "cpu":
        return "xla", "the platform's own is fast"
    if geometry.groups > 1:
        return "xla", "the others know no groups"
    refusal = _why_not_winograd(geometry, batch, channels, features)
    if not refusal:
        return "winograd", "a centred 3x3 window, many channels, many tiles"
    if _im2col.row_bytes(geometry, channels) <= _IM2COL_BYTES:
        return "im2col", f"the patches of an image fit a cache; not winograd: {refusal}"
    return "xla", f"the patches of an image fit no cache; not winograd: {refusal}"


def _why_not_winograd(geometry: Geometry, batch: Any, channels: int, features: int) -> str:
    if not _winograd.fits(geometry):
        return "the window is not a plain 3x3"
    if min(channels, features) < _FEWEST_CHANNELS:
        return f"fewer than {_FEWEST_CHANNELS} channels"
    if not isinstance(batch, int) or _winograd.tiles(geometry, batch) < _FEWEST_TILES:
        return f"fewer than {_FEWEST_TILES} tiles, or of unknown number"
    if any(low != high for low, high in geometry.padding):
        return "padding to one side"
    return "" if geometry.precision is None else "a precision is asked for"


# ---- the primitives


def _input_shape(geometry: Geometry, g: Any, kernel: Any) -> tuple[Any, ...]:
    return (g.shape[0], *geometry.in_spatial, kernel.shape[-2] * geometry.groups)


def _kernel_shape(geometry: Geometry, x: Any, g: Any) -> tuple[Any, ...]:
    return (*geometry.window, x.shape[-1] // geometry.groups, g.shape[-1])


def _output_shape(geometry: Geometry, x: Any, kernel: Any) -> tuple[Any, ...]:
    return (x.shape[0], *geometry.out_spatial, kernel.shape[-1])


output_p = Primitive("jaxnets_conv")
input_gradient_p = Primitive("jaxnets_conv_input_gradient")
kernel_gradient_p = Primitive("jaxnets_conv_kernel_gradient")


def output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """The convolution of x and kernel."""
    return output_p.bind(*_varying_alike(x, kernel), geometry=geometry)


def input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    """The gradient of x for the output's gradient g."""
    return input_gradient_p.bind(*_varying_alike(g, kernel), geometry=geometry)


def kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    """The gradient of the kernel for the output's gradient g."""
    return kernel_gradient_p.bind(*_varying_alike(x, g), geometry=geometry)


def _varying_alike(a: Array, b: Array) -> tuple[Array, Array]:
    """Both marked as differing between devices along the same axes, as `shard_map` asks of a primitive's arguments."""
    axes = [jax.typeof(array).manual_axis_type.varying for array in (a, b)]
    lacking = [tuple(sorted((axes[0] | axes[1]) - own)) for own in axes]
    a, b = (
        lax.pcast(array, to="varying", axis_name=names) if names else array
        for array, names in zip((a, b), lacking, strict=True)
    )
    return a, b


def _register(primitive: Primitive, member: int, shape: Callable[[Geometry, Any, Any], tuple[Any, ...]]) -> None:
    def lowered(a: Array, b: Array, *, geometry: Geometry, platform: str) -> Array:
        taken, _ = algorithm(primitive, geometry, a, b, platform)
        return _ALGORITHMS[taken][member](geometry, a, b)

    on_cpu = functools.partial(lowered, platform="cpu")
    elsewhere = functools.partial(lowered, platform="other")

    def batch(arrays: Any, axes: Any, *, geometry: Geometry) -> tuple[Array, int]:
        a, b = arrays
        if axes[1] is None and primitive is not kernel_gradient_p:
            a = jnp.moveaxis(a, axes[0], 0)  # one kernel for all: the mapped axis is more of the batch
            y = primitive.bind(a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), b, geometry=geometry)
            return y.reshape(*a.shape[:2], *y.shape[1:]), 0
        cpu, default = (functools.partial(f, geometry=geometry) for f in (on_cpu, elsewhere))
        by_platform = functools.partial(lax.platform_dependent, cpu=cpu, default=default)
        return jax.vmap(by_platform, in_axes=axes)(a, b), 0

    def compiled(a: Array, b: Array, *, geometry: Geometry) -> Array:
        with jax.disable_jit(False):  # a primitive has no other way to run
            return bind(a, b, geometry=geometry)

    bind = jax.jit(primitive.bind, static_argnames="geometry")
    primitive.def_abstract_eval(lambda a, b, *, geometry: a.update(shape=shape(geometry, a, b), weak_type=False))
    primitive.def_impl(compiled)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    batching.primitive_batchers[primitive] = batch


def _channels(primitive: Primitive, geometry: Geometry, a: Any, b: Any) -> tuple[int, int]:
    if primitive is kernel_gradient_p:
        return a.shape[-1], b.shape[-1]
    return b.shape[-2] * geometry.groups, b.shape[-1]


MEMBERS = (output_p, input_gradient_p, kernel_gradient_p)

_register(output_p, 0, _output_shape)
_register(input_gradient_p, 1, _input_shape)
_register(kernel_gradient_p, 2, _kernel_shape)

# Each rule takes the cotangent and the argument that stays, and gives the gradient of the other.
ad.defbilinear(
    output_p,
    lambda g, x, kernel, *, geometry: input_gradient(g, kernel, geometry),
    lambda g, x, kernel, *, geometry: kernel_gradient(x, g, geometry),
)
ad.defbilinear(
    input_gradient_p,
    lambda x, g, kernel, *, geometry: output(x, kernel, geometry),
    lambda x, g, kernel, *, geometry: kernel_gradient(x, g, geometry),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda kernel, x, g, *, geometry: input_gradient(g, kernel, geometry),
    lambda kernel, x, g, *, geometry: output(x, kernel, geometry),
)
