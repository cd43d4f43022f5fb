"""What the tests of models share."""

import jaxtyping
import pytest


@pytest.fixture
def own_errors():
    """Leaves bad shapes to the library, as for a user: under pytest jaxtyping would object first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
