"""Everything here runs under strict dtype and rank promotion."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def _strict(strict_promotion):
    return


@pytest.fixture
def own_errors():
    """Leaves bad shapes to the library, as for a user: under pytest jaxtyping would object first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
