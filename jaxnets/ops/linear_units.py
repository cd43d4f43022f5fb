"""Linear recurrent units: LRU, of a complex state, and RG-LRU, whose decay is gated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int

from jaxnets.ops._affine_scan import Implementation
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.ops._linear_cells import Params, check_call, check_params, over_time, project, widened_product, width
from jaxnets.ops._recurrent_call import check_x
from jaxnets.ops._recurrent_cells import sigmoid
from jaxnets.ops.masking import zero_padding
from jaxnets.typing import Precision


class LRUCarry(NamedTuple):
    """The state of an LRU."""

    h: Complex[Array, "*b n"]


class RGLRUCarry(NamedTuple):
    """The state of an RG-LRU."""

    h: Float[Array, "*b h"]


def lru(
    params: Params,
    x: Float[Array, "b t d"],
    *,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: LRUCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t h"], LRUCarry]:
    """Runs a linear recurrent unit over time: h_t = lambda h_{t-1} + gamma (x_t B), y_t = Re(h_t C) + x_t D.

    The state is complex and lambda = exp(-exp(nu) + i exp(theta)) lies inside the unit circle whatever the parameters;
    gamma = exp(gamma_log), made as sqrt(1 - |lambda|^2), keeps the state's size at that of x B. Padding, starts and
    types are as for `min_gru`; the state is complex64, or complex128 for float64.

    Args:
      params: `input_kernel` [D, 2N] (the real parts of B, then the imaginary ones), `output_kernel` [2N, H] (those of
        C likewise) and `skip_kernel` [D, H], in the dtype of x; `nu_log`, `theta_log` and `gamma_log` [N], in that of
        the state's parts, at least float32.
      lengths: As for `min_gru`.
      starts: As for `min_gru`.
      carry: As for `min_gru`.
      reverse: As for `min_gru`.
      precision: As for `min_gru`.
      implementation: As for `linear_recurrence`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or the implementation do not fit.

    References:
      Orvieto et al., 2023. Resurrecting recurrent neural networks for long sequences.

    >>> params = {"nu_log": jnp.zeros(6), "theta_log": jnp.zeros(6), "gamma_log": jnp.zeros(6)}
    >>> params |= {"input_kernel": jnp.ones((3, 12)), "output_kernel": jnp.ones((12, 4))}
    >>> y, carry = lru(params | {"skip_kernel": jnp.ones((3, 4))}, jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape, carry.h.dtype
    ((2, 5, 4), (2, 6), dtype('complex64'))
    """
    check_call("lru", x, lengths, starts, implementation)
    hidden = width("lru", params, "nu_log")
    features = width("lru", params, "skip_kernel")
    kernels = {
        "input_kernel": (x.shape[-1], 2 * hidden),
        "output_kernel": (2 * hidden, features),
        "skip_kernel": (x.shape[-1], features),
    }
    dtype = accumulation_dtype(x.dtype)
    check_params("lru", params, kernels, x.dtype)
    check_params("lru", params, dict.fromkeys(("nu_log", "theta_log", "gamma_log"), (hidden,)), dtype)

    x = zero_padding(x, lengths)
    modulus, phase = jnp.exp(-jnp.exp(params["nu_log"])), jnp.exp(params["theta_log"])
    a = lax.complex(modulus * jnp.cos(phase), modulus * jnp.sin(phase))[None, None]
    gamma = jnp.exp(params["gamma_log"])[None, None]
    real, imaginary = jnp.split(widened_product(x, params["input_kernel"], precision), 2, axis=-1)
    b = lax.complex(gamma * real, gamma * imaginary)
    h, carry = over_time("lru", LRUCarry, a, b, b.dtype, lengths, starts, carry, reverse, implementation)
    parts = jnp.concatenate([h.real, -h.imag], axis=-1).astype(x.dtype)
    y = widened_product(parts, params["output_kernel"], precision) + widened_product(
        x, params["skip_kernel"], precision
    )
    return y.astype(x.dtype), carry


def lru_step(
    params: Params,
    x: Float[Array, "b d"],
    carry: LRUCarry | None = None,
    *,
    precision: Precision = None,
) -> tuple[Float[Array, "b h"], LRUCarry]:
    """One step of `lru`, with its arguments.

    >>> params = {"nu_log": jnp.zeros(6), "theta_log": jnp.zeros(6), "gamma_log": jnp.zeros(6)}
    >>> params |= {"input_kernel": jnp.ones((3, 12)), "output_kernel": jnp.ones((12, 4))}
    >>> lru_step(params | {"skip_kernel": jnp.ones((3, 4))}, jnp.ones((2, 3)))[0].shape
    (2, 4)
    """
    check_x("lru_step", x, 2)
    y, carry = lru(params, x[:, None], carry=carry, precision=precision)
    return y[:, 0], carry


def rg_lru(
    params: Params,
    x: Float[Array, "b t h"],
    *,
    c: float = 8.0,
    lengths: Int[Array, " b"] | None = None,
    starts: Bool[Array, "b t"] | None = None,
    carry: RGLRUCarry | None = None,
    reverse: bool = False,
    precision: Precision = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "b t h"], RGLRUCarry]:
    """Runs a real-gated linear recurrent unit over time: h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t.

    a_t = sigmoid(decay)^(c r_t), with r_t = sigmoid(u) and i_t = sigmoid(v) for [u, v] = x_t kernel + bias; as wide as
    x. Powers are taken in the logarithm, and sqrt(1 - a_t^2) = sqrt(-expm1(2 log a_t)) loses no digits near a_t = 1.
    Where 1 - a_t is less than about 1e-19 (the root of the smallest float32) the square root counts as 0, and with it
    its derivatives, which would overflow. Padding, starts and types are as for `min_gru`.

    Args:
      params: `kernel` [H, 2H] and `bias` [2H], in the dtype of x, ordered r, i; `decay` [H], in that of the state, at
        least float32.
      c: How far a gate can bend the decay.
      lengths: As for `min_gru`.
      starts: As for `min_gru`.
      carry: As for `min_gru`.
      reverse: As for `min_gru`.
      precision: As for `min_gru`.
      implementation: As for `linear_recurrence`.

    Returns:
      y, and the state after the last step.

    Raises:
      TypeError: If x is not floating, or the dtypes differ.
      ValueError: If the shapes or the implementation do not fit.

    References:
      De et al., 2024. Griffin: mixing gated linear recurrences with local attention for efficient language models.

    >>> params = {"kernel": jnp.ones((3, 6)), "bias": jnp.zeros(6), "decay": jnp.full(3, 4.0)}
    >>> rg_lru(params, jnp.ones((2, 5, 3)))[0].shape
    (2, 5, 3)
    """
    check_call("rg_lru", x, lengths, starts, implementation)
    dtype, hidden = accumulation_dtype(x.dtype), x.shape[-1]
    check_params("rg_lru", params, {"kernel": (hidden, 2 * hidden), "bias": (2 * hidden,)}, x.dtype)
    check_params("rg_lru", params, {"decay": (hidden,)}, dtype)
    x = zero_padding(x, lengths)
    r, i = jnp.split(sigmoid(project(params, x, precision)), 2, axis=-1)
    log_a = c * r * jax.nn.log_sigmoid(params["decay"])[None, None]
    a, b = jnp.exp(log_a), _complement(log_a) * i * x.astype(dtype)
    return over_time("rg_lru", RGLRUCarry, a, b, x.dtype, lengths, starts, carry, reverse, implementation)


def rg_lru_step(
    params: Params,
    x: Float[Array, "b h"],
    carry: RGLRUCarry | None = None,
    *,
    c: float = 8.0,
    precision: Precision = None,
) -> tuple[Float[Array, "b h"], RGLRUCarry]:
    """One step of `rg_lru`, with its arguments.

    >>> params = {"kernel": jnp.ones((3, 6)), "bias": jnp.zeros(6), "decay": jnp.full(3, 4.0)}
    >>> rg_lru_step(params, jnp.ones((2, 3)))[0].shape
    (2, 3)
    """
    check_x("rg_lru_step", x, 2)
    y, carry = rg_lru(params, x[:, None], c=c, carry=carry, precision=precision)
    return y[:, 0], carry


def _complement(log_a: Array) -> Array:
    """sqrt(1 - a^2)."""
    inside = log_a < -(jnp.finfo(log_a.dtype).tiny ** 0.5)
    # Twice, so that the branch not taken has a finite derivative too.
    root = jnp.sqrt(-jnp.expm1(2 * jnp.where(inside, log_a, -jnp.ones_like(log_a))))
    return jnp.where(inside, root, jnp.zeros_like(root))
