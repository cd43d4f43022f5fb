"""The one tolerance of each dtype: how far an op may be from its float64 reference."""

import jax.numpy as jnp

_TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


def tolerance(dtype: object) -> dict[str, float]:
    """Relative and absolute tolerance for `np.testing.assert_allclose`, for values of order one."""
    bound = _TOLERANCES[jnp.dtype(dtype).name]
    return {"rtol": bound, "atol": bound}
