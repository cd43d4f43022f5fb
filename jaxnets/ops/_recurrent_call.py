"""Between the user's arrays and the engine: checks, masks, the state to begin with, and the order of the axes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._recurrent_cell import Cell, Weights
from jaxnets.ops._recurrent_solvers import solver
from jaxnets.ops.masking import time_mask, zero_padding
from jaxnets.typing import Precision

Params = Mapping[str, Any]


def over_time(
    op: str,
    cell: Cell,
    weights: Weights,
    x: Array,
    template: Any,
    *,
    lengths: Array | None,
    starts: Array | None,
    carry: Any,
    initial_carry: Any,
    reverse: bool,
    precision: Precision,
    checkpoint_every: int | None,
    extras: Any = (),
    implementation: Any = "auto",
) -> tuple[Array, Any]:
    """Runs a cell over x [B, T, ...]; `template` is a carry of `jax.ShapeDtypeStruct` without the batch axis.

    The extras are pytrees of arrays [B, T, ...].
    """
    check_time(op, x, lengths, starts, checkpoint_every)
    carry, initial = states(op, template, x.shape[0], carry, initial_carry)
    valid = None if lengths is None else time_mask(lengths, x.shape[1])
    if starts is not None:
        starts = entries(starts, lengths) if reverse else starts if valid is None else starts & valid
    extras = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), extras)
    name, run = solver(op, implementation, cell, extras, checkpoint_every, starts, x)
    with jax.named_scope(f"{op}.{name}"):
        h, carry = run(
            weights,
            jnp.swapaxes(zero_padding(x, lengths), 0, 1),
            valid=None if valid is None else valid.T,
            starts=None if starts is None else starts.T,
            carry=carry,
            initial=initial,
            reverse=reverse,
            precision=_precision(precision),
        )
    return zero_padding(jnp.swapaxes(h, 0, 1).astype(x.dtype), lengths), carry


def entries(starts: Array, lengths: Array | None) -> Array:
    """Where time that runs backwards enters a sequence: at its last step, before which the next one starts."""
    if lengths is not None:
        starts = starts & time_mask(lengths, starts.shape[1])
    return jnp.concatenate([starts[:, 1:], jnp.zeros_like(starts[:, :1])], axis=1)


def one_step(
    op: str,
    cell: Cell,
    weights: Weights,
    x: Array,
    template: Any,
    *,
    carry: Any,
    precision: Precision,
    extras: Any = (),
) -> tuple[Array, Any]:
    """One step of a cell on x [B, ...]; the extras are [B, ...]."""
    y, carry = over_time(
        op,
        cell,
        weights,
        x[:, None],
        template,
        lengths=None,
        starts=None,
        carry=carry,
        initial_carry=None,
        reverse=False,
        precision=precision,
        checkpoint_every=None,
        extras=jax.tree.map(lambda a: a[:, None], extras),
    )
    return y[:, 0], carry


def state_dtype(x: Array) -> Any:
    """What states are kept in: at least float32."""
    return accumulation_dtype(x.dtype)


def check_x(op: str, x: Array, rank: int) -> None:
    """Checks that x is floating, and [B, T, D] or, for one step, [B, D]."""
    if x.ndim != rank:
        raise ValueError(f"{op}: x wants {'[B, T, D]' if rank == 3 else '[B, D]'} but has shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{op}: x wants a floating dtype but has {x.dtype}")


def check_params(op: str, params: Params, x: Array, rank: int, gates: int, names: tuple[str, ...] = ()) -> int:
    """Checks x against kernel [D, gates * H], recurrent_kernel [H, gates * H], bias [gates * H]; returns H.

    The arrays of the further `names` must have x's dtype too.
    """
    check_x(op, x, rank)
    for name in ("kernel", "recurrent_kernel", "bias", *names):
        if name not in params:
            raise ValueError(f"{op}: params has no {name!r}, only {sorted(params)}")
        if params[name].dtype != x.dtype:
            raise TypeError(f"{op}: params[{name!r}] wants the dtype of x, {x.dtype}, but has {params[name].dtype}")
    kernel, recurrent, bias = params["kernel"].shape, params["recurrent_kernel"].shape, params["bias"].shape
    if len(recurrent) != 2 or recurrent[1] != gates * recurrent[0]:
        raise ValueError(f"{op}: params['recurrent_kernel'] wants [H, {gates} * H] but has shape {recurrent}")
    if len(kernel) != 2 or kernel[1] != recurrent[1]:
        raise ValueError(f"{op}: params['kernel'] wants [D, {recurrent[1]}] but has shape {kernel}")
    if kernel[0] != x.shape[-1]:
        raise ValueError(
            f"{op}: x has {x.shape[-1]} features but params['kernel'] expects {kernel[0]} "
            f"(x.shape={x.shape}, kernel.shape={kernel})"
        )
    if bias != recurrent[1:]:
        raise ValueError(f"{op}: params['bias'] wants shape {recurrent[1:]} but has {bias}")
    return recurrent[0]


def check_time(op: str, x: Array, lengths: Array | None, starts: Array | None, checkpoint_every: int | None) -> None:
    """Checks what is said about the steps of x [B, T, ...]."""
    if lengths is not None:
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(f"{op}: lengths wants an integer dtype but has {lengths.dtype}")
        if lengths.shape != x.shape[:1]:
            raise ValueError(f"{op}: lengths wants shape {x.shape[:1]} but has {lengths.shape} (x.shape={x.shape})")
    if starts is not None:
        if starts.dtype != jnp.bool_:
            raise TypeError(f"{op}: starts wants dtype bool but has {starts.dtype}")
        if starts.shape != x.shape[:2]:
            raise ValueError(f"{op}: starts wants shape {x.shape[:2]} but has {starts.shape} (x.shape={x.shape})")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"{op}: checkpoint_every wants at least 1 step but got {checkpoint_every}")


def states(op: str, template: Any, batch: Any, carry: Any, initial: Any) -> tuple[Any, Any]:
    """The state to begin with and the initial one, with a batch axis."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros((batch, *leaf.shape), leaf.dtype), template)
    if initial is None:
        initial = zeros
    else:
        _check_state(op, "initial_carry", initial, template, (template, zeros))
        initial = jax.tree.map(lambda leaf, full: jnp.broadcast_to(leaf, full.shape), initial, zeros)
    if carry is None:
        return initial, initial
    _check_state(op, "carry", carry, template, (zeros,))
    return carry, initial


def _check_state(op: str, name: str, state: Any, template: Any, wanted: tuple[Any, ...]) -> None:
    kind = type(template)
    if not isinstance(state, kind):
        raise TypeError(f"{op}: {name} wants {kind.__name__} but is {type(state).__name__}")
    for field, leaf, like, *full in zip(kind._fields, state, template, *wanted, strict=True):
        shapes = [other.shape for other in full]
        if leaf.shape not in shapes:
            raise ValueError(f"{op}: {name}.{field} wants shape {' or '.join(map(str, shapes))} but has {leaf.shape}")
        if leaf.dtype != like.dtype:
            raise TypeError(f"{op}: {name}.{field} wants dtype {like.dtype} but has {leaf.dtype}")


def _precision(precision: Precision) -> Precision:
    # Read now: a custom derivative is traced when the context manager that sets it may be gone.
    return jax.config.jax_default_matmul_precision if precision is None else precision  # type: ignore[attr-defined]
