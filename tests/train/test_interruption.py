"""SIGTERM to a trainer in a process of its own."""

import os
import signal

import pytest

from jaxnets import train
from tests.campaigns import sigterm


@pytest.mark.parametrize(
    "when",
    [when if when == "training" else pytest.param(when, marks=pytest.mark.exhaustive) for when in sigterm.MOMENTS],
)
def test_sigterm_saves_and_ends_a_trainer(tmp_path, when):
    sigterm.check(tmp_path / "run", when)


def test_the_descriptor_of_an_event_loop_is_left_alone(made):
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    before = signal.set_wakeup_fd(tells)
    try:
        train.fit(made.state(), made.step, made.data, steps=1)
        assert signal.set_wakeup_fd(before) == tells
    finally:
        os.close(hears)
        os.close(tells)
