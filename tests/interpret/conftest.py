"""Everything here runs under strict dtype and rank promotion."""

import pytest


@pytest.fixture(autouse=True)
def _strict(strict_promotion):
    return
