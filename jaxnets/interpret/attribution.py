"""Which inputs decided: what each adds to a function's value, on the way from a baseline."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def integrated_gradients(
    function: Callable[[Float[Array, "b ..."]], Float[Array, " b"]],
    x: Float[Array, "b ..."],
    *,
    baseline: Float[Array, "..."] | None = None,
    steps: int = 32,
) -> Float[Array, "b ..."]:
    """Each input's share in function(x) - function(baseline): the gradient, integrated along the straight way to x.

    a_i = (x_i - z_i) integral_0^1 df/dx_i (z + t (x - z)) dt, with baseline z, by Gauss-Legendre quadrature. The shares
    of a row add up to the difference (completeness), but for the quadrature's error: none to speak of where the
    function is smooth along the way, and about 1 / steps of it where there are kinks, as of ReLU.

    Args:
      function: Gives a number for each row, by that row alone.
      x: The inputs, finite everywhere.
      baseline: What says nothing, with a shape that x's can be reached from; None for zeros.
      steps: Points at which the gradient is taken, one after another, in one program.

    Raises:
      ValueError: If steps is not positive, or the function gives something else than a number for each row.

    References:
      Sundararajan, Taly and Yan, 2017. Axiomatic attribution for deep networks.

    >>> integrated_gradients(lambda x: x[:, 0] * x[:, 1] + 3 * x[:, 2], jnp.array([[2.0, 5.0, 1.0]])).round(4)
    Array([[5., 5., 3.]], dtype=float32)
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients: steps must be positive, got {steps}")
    shape = jax.eval_shape(function, x).shape
    if shape != x.shape[:1]:
        raise ValueError(f"integrated_gradients: function wants to give shape {x.shape[:1]}, got {shape}")
    start = jnp.zeros_like(x) if baseline is None else jnp.broadcast_to(baseline, x.shape).astype(x.dtype)
    points, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    gradient = jax.grad(lambda x: jnp.sum(function(x)))

    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        point, weight = node
        return total + weight * gradient(start + point * (x - start)), None

    nodes = jnp.asarray((points + 1) / 2, x.dtype), jnp.asarray(weights / 2, x.dtype)
    return (x - start) * lax.scan(add, jnp.zeros_like(x), nodes)[0]
