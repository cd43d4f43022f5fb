"""A GRU step by step and by Newton's method for all steps at once: where, if anywhere, which is faster."""

from benchmarks.case import Case
from benchmarks.cases.recurrent import batch, shape

_SIZES = (
    (1, 1000, 2, 2),
    (1, 30000, 2, 2),
    (1, 1000, 8, 8),
    (8, 1000, 8, 8),
    (1, 1000, 32, 32),
    (32, 100, 32, 32),
)


CASE = Case(
    name="newton",
    summary="a GRU step by step, and solved for all steps at once by Newton's method",
    shapes=tuple(shape(size, "jaxnets", "jaxnets_newton", "jaxnets_diagonal") for size in _SIZES),
    peers=(),
    agreement=dict.fromkeys(("y", "h", "loss", "x", "kernel", "recurrent_kernel", "bias", "recurrent_bias"), 1e-4),
    batch=batch,
    modes=("forward", "gradient"),
    seconds=0.1,
)
