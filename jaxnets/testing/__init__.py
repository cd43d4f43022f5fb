"""The laws of a layer over time, as checks to run on your own.

A sequence layer is a Flax Linen module with

    y, carry = layer.apply(variables, x, lengths=None, starts=None, carry=None, train=False)

for x [B, T, ...], `lengths` int [B], `starts` bool [B, T] (True where a new sequence begins in a packed row), and a
carry that is a pytree. One that obeys the laws can be stacked, packed, streamed and exported like any other. Here is
one that averages over the past, and its check:

>>> import flax.linen as nn
>>> class Average(nn.Module):
...     @nn.compact
...     def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
...         rows, time, features = x.shape
...         keep = jax.nn.sigmoid(self.param("keep", nn.initializers.zeros, (features,)))
...         initial = jnp.zeros((rows, features), jnp.promote_types(x.dtype, "float32"))
...         valid = jnp.arange(time) < (jnp.full(rows, time) if lengths is None else lengths)[:, None]
...         starts = jnp.zeros((rows, time), bool) if starts is None else starts
...         x = jnp.where(valid[..., None], x, 0)
...         def step(h, inputs):
...             x, start, valid = inputs
...             new = jnp.where(start, 0, h) * keep.astype(h.dtype) + x
...             return jnp.where(valid, new, h), jnp.where(valid, new, 0)
...         inputs = (x.astype(initial.dtype), starts[..., None], valid[..., None])
...         inputs = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), inputs)
...         carry, y = jax.lax.scan(step, initial if carry is None else carry, inputs)
...         return y.swapaxes(0, 1).astype(x.dtype), carry
>>> check_sequence_layer(Average())

What breaks a law is named, with the place and the size of the error:

>>> class Forgetful(Average):
...     def __call__(self, x, *, lengths=None, starts=None, carry=None, train=False):
...         return super().__call__(x, lengths=lengths, starts=starts, train=train)
>>> check_chunks(Forgetful())  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
jaxnets.testing.LawError: Forgetful breaks chunks
...
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax

from jaxnets.testing import _modes, _precision, _time, _transforms
from jaxnets.testing._findings import Finding, LawError
from jaxnets.testing._subject import Subject

# They are shown by the name that users import them by.
Finding.__module__ = LawError.__module__ = __name__

__all__ = [
    "LAWS",
    "Finding",
    "LawError",
    "check_batch",
    "check_both_modes",
    "check_chunks",
    "check_empty_rows",
    "check_export",
    "check_packing",
    "check_padding",
    "check_precision",
    "check_sequence_layer",
    "quick_compile",
]

_LAWS = {
    "chunks": _time.chunks,
    "padding": _time.padding,
    "empty_rows": _time.empty_rows,
    "packing": _time.packing,
    "batch": _transforms.batch,
    "precision": _precision.precision,
    "both_modes": _modes.both_modes,
    "export": _transforms.export,
}

LAWS = tuple(_LAWS)
"""The names of the laws, in their order."""


def quick_compile() -> dict[str, Any]:
    """Compiler options with which a check takes less time: programs for a CPU less optimised than what users run.

    They are those that the XLA at hand knows: its options come and go.

    >>> check_chunks(jn.layers.LSTM(features=2), compiler_options=quick_compile())
    """
    options = {}
    for option, value in (("xla_backend_optimization_level", 0), ("xla_cpu_use_fusion_emitters", False)):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
            options[option] = value
    return options


def check_sequence_layer(
    layer: nn.Module,
    spec: jax.ShapeDtypeStruct | None = None,
    *,
    laws: Iterable[str] = LAWS,
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
) -> None:
    """Runs the laws on a layer, in value and in gradient, at `train=False` and the highest precision of products.

    Everything is compared by max|difference| / max|reference|, leaf by leaf. It takes seconds: keep the layer small.

    Args:
      layer: The layer.
      spec: Shape and type of x, [B, T, ...] with T of at least four blocks; None is float32 [3, 5, 4].
      laws: Names of the laws to run.
      key: For the parameters and the data; None is a fixed one.
      variables: Variables of the layer; None initialises them, and moves the parameters a little.
      tolerance: What is allowed between two ways to compute the same.
      bfloat16_tolerance: What is allowed between bfloat16 and float32.
      carry: Whether the layer can stream. If not, it must return () and raise an error on a carry.
      starts: Whether the layer takes packed rows. If not, it must raise an error on `starts`.
      vocabulary: For tokens, integers from 0: how many of them there are.
      block: Steps of x that the layer takes at a time, such as a stride: time is cut, and sequences begin, at
        multiples of it. A layer that changes time has `output_lengths(lengths)`.
      initial_carry: For a carry whose size limits the time it can serve: a function of (variables, spec) that makes a
        new one with room for the T of the spec.
      compiler_options: As in `jax.jit`. Nearly all the time goes into compiling, less of it with `quick_compile()`.

    Raises:
      LawError: If a law is broken: which, where, and by how much. All broken laws are in it.
      ValueError: If the spec or an option cannot be.
    """
    laws = tuple(laws)
    if unknown := set(laws) - set(LAWS):
        raise ValueError(f"check_sequence_layer: laws has {sorted(unknown)}; the laws are {LAWS}")
    with jax.default_matmul_precision("highest"):
        try:
            subject = Subject(
                layer,
                spec,
                key=key,
                variables=variables,
                tolerance=tolerance,
                bfloat16_tolerance=bfloat16_tolerance,
                carry=carry,
                starts=starts,
                vocabulary=vocabulary,
                block=block,
                initial_carry=initial_carry,
                compiler_options=compiler_options,
            )
        except flax.errors.InvalidRngError as error:
            raise LawError(layer, (Finding("export", "train=False without a key", "", f"raised {error}"),)) from error
        findings: list[Finding] = []
        cause: Exception | None = None
        for law in (law for law in LAWS if law in laws):
            # A law that the layer cannot run through is broken; the others are still worth a look.
            try:
                findings.extend(Finding(law, case, *difference) for case, difference in _LAWS[law](subject))
            except Exception as error:
                cause = cause or error
                findings.append(Finding(law, "", "", f"raised {type(error).__name__}: {error}"))
    if findings:
        raise LawError(layer, tuple(findings)) from cause


def check_chunks(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 1: any split of time, the carry threaded through, equals the whole; with starts, wherever the split falls.

    Takes the options of `check_sequence_layer` and raises as it does, as all the laws do.
    """
    check_sequence_layer(layer, spec, laws=("chunks",), **options)


def check_padding(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 2: past the lengths x may hold NaN, inf or noise; y is 0 there, all else is bit-equal, gradients too."""
    check_sequence_layer(layer, spec, laws=("padding",), **options)


def check_empty_rows(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 3: a length of 0, and T = 0, return the incoming carry and zeros."""
    check_sequence_layer(layer, spec, laws=("empty_rows",), **options)


def check_packing(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 4: sequences packed in a row with `starts` equal the same sequences run apart."""
    check_sequence_layer(layer, spec, laws=("packing",), **options)


def check_batch(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 5: a row alone equals the row in its batch; `vmap` equals the loop; `jit` equals no `jit`."""
    check_sequence_layer(layer, spec, laws=("batch",), **options)


def check_precision(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 6: parameters in float32, y in the type of x, a carry of at least float32; float64 stays, errors are bounded.

    float64 is tried for the length of the check only, whatever `jax_enable_x64` says. In bfloat16 the parameters are
    rounded too, which alone can change the gradients of several narrow blocks with norms by a tenth: check such a model
    at 64 features rather than 8.
    """
    check_sequence_layer(layer, spec, laws=("precision",), **options)


def check_both_modes(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 7: forward and reverse mode agree, once and twice, with each other and with small steps in float64."""
    check_sequence_layer(layer, spec, laws=("both_modes",), **options)


def check_export(layer: nn.Module, spec: jax.ShapeDtypeStruct | None = None, **options: Any) -> None:
    """Law 8: the layer needs no key, is exported for any batch and time, and lowers for cpu, cuda and tpu."""
    check_sequence_layer(layer, spec, laws=("export",), **options)
