"""What to change where the memory of a device is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxnets.train.files import first_line


@contextmanager
def enough_memory(op: str) -> Iterator[None]:
    """Raises MemoryError with what to change in the place of JAX's error, for the operation named."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"{op}: a device has too little memory for a step; take smaller batches, or each in parts with "
            "make_step(accumulate=2), or compute in 16 bits with make_step(precision=Precision()): "
            f"{first_line(error)}"
        ) from error
