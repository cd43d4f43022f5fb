"""A plain honest layer passes every law."""

import pytest

import jaxnets as jn
from tests.testing.honest import FAST, GRU


@pytest.mark.parametrize("law", jn.testing.LAWS)
def test_a_scanned_gru_obeys(law):
    jn.testing.check_sequence_layer(GRU(), laws=[law], compiler_options=FAST)
