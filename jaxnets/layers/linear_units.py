"""The linear recurrent units LRU and RGLRU as layers; the mathematics is in `jaxnets.ops`."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxnets import ops
from jaxnets.layers._linear_cells import cast, check, check_stored, compute_dtype, gates
from jaxnets.layers.recurrent import label
from jaxnets.ops import LRUCarry, RGLRUCarry
from jaxnets.ops._affine_scan import Implementation
from jaxnets.ops._dtype import accumulation_dtype
from jaxnets.typing import Precision

Initializer = Callable[..., Array]


class LRU(nn.Module):
    """Linear recurrent unit, of a complex state: h_t = lambda h_{t-1} + gamma (x_t B), y_t = Re(h_t C) + x_t D.

    Parameters: `input_kernel` [D, 2N], `output_kernel` [2N, features] (real parts, then imaginary ones), `skip_kernel`
    [D, features], and `nu_log`, `theta_log` and `gamma_log` [N], which are never computed with in less than float32.

    Attributes:
      features: Width of the output.
      state_features: N, complex numbers of the state; None means as many as `features`.
      r_min: Least modulus of lambda when it is made: lambda is uniform on the ring from `r_min` to `r_max`.
      r_max: Greatest modulus of lambda when it is made; near 1 for long memory.
      max_phase: Greatest phase of lambda when it is made, in radians; small for slow oscillations. In float32 a phase
        is known to about 1e-7 of itself, and t steps turn by t times that: a small one is also the more exact.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. The state is in at least complex64.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      input_kernel_init: Initialiser of each part of B.
      output_kernel_init: Initialiser of C; it sees the 2N rows of both parts.
      skip_kernel_init: Initialiser of D.
      implementation: See `ops.linear_recurrence`.

    References:
      Orvieto et al., 2023. Resurrecting recurrent neural networks for long sequences.

    >>> layer = LRU(features=8, state_features=6, r_min=0.9, r_max=0.99)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 8), (2, 6))
    """

    features: int
    state_features: int | None = None
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    # Complex entries of variance 1 / D and 1 / N, half of it in each part.
    input_kernel_init: Initializer = nn.initializers.variance_scaling(0.5, "fan_in", "normal")
    output_kernel_init: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    skip_kernel_init: Initializer = nn.initializers.lecun_normal()
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: LRUCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], LRUCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape or the ring does not fit.
        """
        del train
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(f"{label(self)}: wants 0 <= r_min < r_max <= 1 but has {self.r_min} and {self.r_max}")
        n, width = self.features if self.state_features is None else self.state_features, x.shape[-1]
        check(self, x, lengths, starts, carry, LRUCarry, n, is_complex=True)
        shapes = {
            "input_kernel": (width, 2 * n),
            "output_kernel": (2 * n, self.features),
            "skip_kernel": (width, self.features),
        }
        check_stored(self, x, shapes)

        def ring(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            """log(-log |lambda|): areas of the ring are uniform where |lambda|^2 is."""
            low, high = self.r_min**2, self.r_max**2
            square = jax.random.uniform(key, shape, jnp.float32, low, high)
            tiny = jnp.finfo(jnp.float32).tiny
            return jnp.log(-0.5 * jnp.log(jnp.clip(square, tiny, 1 - 2**-24))).astype(dtype)

        def phase(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            angle = self.max_phase * jax.random.uniform(key, shape, jnp.float32)
            return jnp.log(jnp.maximum(angle, jnp.finfo(jnp.float32).tiny)).astype(dtype)

        dtype = compute_dtype(self, x)
        nu_log = self.param("nu_log", ring, (n,), self.param_dtype)

        def gamma(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            """Log sqrt(1 - |lambda|^2)."""
            return (0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu_log.astype(jnp.float32))))).astype(dtype)

        rings = {
            "nu_log": nu_log,
            "theta_log": self.param("theta_log", phase, (n,), self.param_dtype),
            "gamma_log": self.param("gamma_log", gamma, (n,), self.param_dtype),
        }
        kernels = {
            name: self.param(name, getattr(self, f"{name}_init"), shape, self.param_dtype)
            for name, shape in shapes.items()
        }
        return ops.lru(
            cast(rings, accumulation_dtype(dtype)) | cast(kernels, dtype),
            jnp.asarray(x, dtype),
            lengths=lengths,
            starts=starts,
            carry=carry,
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
        )


class RGLRU(nn.Module):
    """Real-gated linear recurrent unit: h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t, as wide as its input.

    Parameters: `kernel` [features, 2 features] and `bias` [2 features], ordered r, i, and `decay` [features], which is
    never computed with in less than float32.

    Attributes:
      features: Width of the input, the state and the output.
      c: How far a gate can bend the decay.
      a_min: Least a^c = sigmoid(decay)^c when it is made: it is uniform from `a_min` to `a_max`.
      a_max: Greatest a^c when it is made.
      reverse: Whether to run from the last step (of each row that counts) to the first.
      dtype: Type to compute in and of the output; None follows x. The state is in at least float32.
      param_dtype: Type of the parameters.
      precision: Precision of the products, as in `jax.lax`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      implementation: See `ops.linear_recurrence`.

    References:
      De et al., 2024. Griffin: mixing gated linear recurrences with local attention for efficient language models.

    >>> layer = RGLRU(features=3)
    >>> (y, carry), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y.shape, carry.h.shape
    ((2, 5, 3), (2, 3))
    """

    features: int
    c: float = 8.0
    a_min: float = 0.9
    a_max: float = 0.999
    reverse: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t h"],
        *,
        lengths: Int[Array, " b"] | None = None,
        starts: Bool[Array, "b t"] | None = None,
        carry: RGLRUCarry | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t h"], RGLRUCarry]:
        """Runs over the steps of x.

        Raises:
          TypeError: If a dtype does not fit.
          ValueError: If a shape or the range of the decay does not fit.
        """
        del train
        if not 0 < self.a_min < self.a_max < 1:
            raise ValueError(f"{label(self)}: wants 0 < a_min < a_max < 1 but has {self.a_min} and {self.a_max}")
        check(self, x, lengths, starts, carry, RGLRUCarry)
        if x.shape[-1] != self.features:
            raise ValueError(
                f"{label(self)}: x has {x.shape[-1]} features but features={self.features}, and the two want to be one "
                f"(x.shape={x.shape})"
            )
        x, params = gates(self, x, 2)

        def decay(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            """Logit of a."""
            log_a = jnp.log(jax.random.uniform(key, shape, jnp.float32, self.a_min, self.a_max)) / self.c
            return (log_a - jnp.log(-jnp.expm1(log_a))).astype(dtype)

        made = self.param("decay", decay, (self.features,), self.param_dtype)
        return ops.rg_lru(
            {**params, "decay": jnp.asarray(made, accumulation_dtype(x.dtype))},
            x,
            c=self.c,
            lengths=lengths,
            starts=starts,
            carry=carry,
            reverse=self.reverse,
            precision=self.precision,
            implementation=self.implementation,
        )
