"""The names that doctests take for granted."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _names(doctest_namespace):
    # Imported here, not above: what checks shapes at run time must be in place before jaxnets is.
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxnets as jn

    doctest_namespace.update(jax=jax, jnp=jnp, np=np, jn=jn)
