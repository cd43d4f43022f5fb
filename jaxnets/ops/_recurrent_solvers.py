"""The ways to run a recurrence over time, under one signature, and which of them a call takes."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnets.ops import _cudnn_lstm
from jaxnets.ops._newton import Newton, newton_recurrence
from jaxnets.ops._recurrence import recurrence
from jaxnets.ops._recurrent_cell import Cell
from jaxnets.ops._recurrent_cells import GRUCell, LSTMCell, RNNCell

Implementation = Literal["auto", "scan", "newton"] | Newton
LSTMImplementation = Literal["auto", "scan", "newton", "cudnn"] | Newton


def solver(
    op: str, implementation: Any, cell: Cell, extras: Any, checkpoint_every: int | None, starts: Any, x: Any
) -> tuple[str, Callable[..., Any]]:
    """The name of the way that is taken, and a function like `recurrence` without its first and last arguments.

    Raises:
      ValueError: If there is no such way, or not for this cell and these options.
      RuntimeError: If it needs a GPU.
    """
    name = "newton" if isinstance(implementation, Newton) else implementation
    scan = functools.partial(recurrence, cell, extras=extras, checkpoint_every=checkpoint_every)
    if name in ("auto", "scan"):
        return "scan", scan
    names = ["auto", "scan", "newton"] + ["cudnn"] * (op == "lstm")
    if name not in names:
        raise ValueError(f"{op}: implementation is {name!r} but wants one of {', '.join(names)}, or a Newton")
    if type(cell) not in (RNNCell, LSTMCell, GRUCell):
        raise ValueError(f"{op}: implementation {name!r} knows no variants and no noise: take 'scan' for them")
    if checkpoint_every is not None:
        raise ValueError(f"{op}: implementation {name!r} has no use for checkpoint_every: leave one of them out")
    if not all(isinstance(size, int) for size in x.shape[:2]):
        return "scan", scan
    if name == "newton":
        newton = implementation if isinstance(implementation, Newton) else Newton()
        return name, functools.partial(newton_recurrence, op, cell, newton)
    if starts is not None:
        raise ValueError(f"{op}: implementation 'cudnn' knows no starts: take 'scan' for them")
    if x.dtype == jnp.float64:
        raise ValueError(f"{op}: implementation 'cudnn' computes in float32 but x is float64: take 'scan' for it")
    if not _cudnn_lstm.available():
        raise RuntimeError(
            f"{op}: implementation 'cudnn' wants a GPU but the default platform is {jax.default_backend()!r}: "
            "take 'auto', which runs everywhere"
        )
    return name, _cudnn_lstm.cudnn_lstm
