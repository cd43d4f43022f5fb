import jax
import jax.numpy as jnp
import pytest

from jaxnets import train
from jaxnets.train.memory import enough_memory
from jaxnets.typing import Mean


def test_too_little_memory_says_what_to_change(made):
    def step(state, batch):
        # More than can be addressed, and a sort needs it whole.
        numbers = jax.lax.broadcasted_iota(jnp.float32, (2**23, 2**22), 0) * state.step.astype(jnp.float32)
        ends = jnp.sort(numbers, axis=1)[:, 0]
        return state.replace(step=state.step + 1), {"loss": Mean(ends[-1], jnp.float32(1))}

    with pytest.raises(MemoryError, match=r"^fit: .*smaller batches.*accumulate=2.*RESOURCE_EXHAUSTED: [^\n]*$"):
        train.fit(made.state(), step, made.data, steps=1)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), enough_memory("fit"):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such luck")
