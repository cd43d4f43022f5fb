"""Ctrl-C and SIGTERM: to a trainer in a process of its own, outside `fit`, in an event loop, and in another thread."""

import asyncio
import dataclasses
import os
import signal
import sys
import threading
import time

import pytest

from jaxnets import train
from jaxnets.train import cli, interruption
from jaxnets.train.files import replacing
from jaxnets.train.interruption import terminable
from tests.campaigns import sigterm

SIGNALS = [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, train.Terminated, 143)]
both = pytest.mark.parametrize(("number", "error", "code"), SIGNALS, ids=["Ctrl-C", "SIGTERM"])


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def steps_saved(made, folder, callback, error):
    """The checkpoints of a training in whose first step the callback is called, and which ends by an error."""
    call = lambda step, *_: step == 1 and callback()  # noqa: E731
    with train.Checkpoints(folder) as checkpoints:
        options = {"callbacks": [train.every(100, checkpoints), call], "seconds_per_call": 1e-9}
        with pytest.raises(error):
            train.fit(made.state(), made.step, made.data, steps=9, **options)
    return checkpoints.steps()


@pytest.fixture(autouse=True)
def _left_as_they_were():
    before, pipe = handlers(), signal.set_wakeup_fd(-1)
    yield
    assert handlers() == before
    assert signal.set_wakeup_fd(pipe) == -1
    assert "SIGTERM" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    "when",
    [when if when == "training" else pytest.param(when, marks=pytest.mark.exhaustive) for when in sigterm.MOMENTS],
)
def test_sigterm_ends_a_trainer(tmp_path, when):
    assert sigterm.check(tmp_path / "run", when) < sigterm.SECONDS


@pytest.mark.exhaustive
def test_ctrl_c_ends_a_trainer_that_loads(tmp_path):
    assert sigterm.check(tmp_path / "run", "loading", signal.SIGINT) < sigterm.SECONDS


@both
def test_a_command_outside_fit_ends_in_one_line_and_leaves_nothing_half_written(tmp_path, capsys, number, error, code):
    (tmp_path / "old").write_text("whole")

    @dataclasses.dataclass
    class Command:
        debug: bool = False

        def __call__(self):
            for name in ("old", "new"):
                with replacing(tmp_path / name) as part:
                    part.write_text("half")
                    signal.raise_signal(number)

    assert cli.main({"go": Command, "more": Command}, ["go"]) == code
    assert capsys.readouterr() == ("", "interrupted\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "whole")]


@both
def test_fit_in_a_command_saves_first_and_the_command_still_listens(made, tmp_path, number, error, code):
    with terminable():
        around, pipe = handlers(), signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(pipe)
        assert steps_saved(made, tmp_path, lambda: signal.raise_signal(number), error) == [2]
        assert handlers() == around
        assert signal.set_wakeup_fd(pipe) == pipe != -1
        with pytest.raises(error):
            signal.raise_signal(number)


def test_a_command_leaves_a_handler_of_the_programs_own_alone():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


@both
def test_fit_in_a_coroutine_as_in_a_cell_of_a_notebook(made, tmp_path, number, error, code):
    async def cell():
        before, heard = handlers(), []

        def stop():
            heard.extend(thread.name for thread in threading.enumerate() if thread.name == "SIGTERM")
            signal.raise_signal(number)

        steps = steps_saved(made, tmp_path, stop, error)
        assert handlers() == before
        await asyncio.sleep(0)  # the loop was not told to end
        return steps, heard

    # The thread hears of SIGTERM while something is compiled, too.
    assert asyncio.run(cell()) == ([2], ["SIGTERM"])


def test_an_event_loop_that_handles_sigterm_hears_of_it_after_fit(made):
    async def cell():
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
        stop = lambda step, *_: step == 1 and signal.raise_signal(signal.SIGTERM)  # noqa: E731
        state, _ = train.fit(made.state(), made.step, made.data, steps=3, callbacks=[stop], seconds_per_call=1e-9)
        await asyncio.wait_for(asked.wait(), 10)
        return int(state.step)

    assert asyncio.run(cell()) == 3


def test_another_thread_is_told_that_signals_do_not_reach_it(made, caplog):
    before, inside, states, over = handlers(), [], [], threading.Event()

    def called(step, state, metrics):
        inside.append(handlers())
        over.wait(10)
        return over.is_set()

    def work():
        with terminable():
            states.append(train.fit(made.state(), made.step, made.data, steps=9, callbacks=[called])[0])

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # is the main thread's
    over.set()
    thread.join()
    assert caplog.messages == [
        "fit: Ctrl-C and SIGTERM do not reach the thread worker: end it by a callback that returns True"
    ]
    assert int(states[0].step) < 9
    assert inside[0] == before


def test_the_descriptor_of_an_event_loop_is_left_alone(made):
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells)
    try:
        with terminable():
            train.fit(made.state(), made.step, made.data, steps=1)
        assert signal.set_wakeup_fd(-1) == tells
    finally:
        os.close(hears)
        os.close(tells)


def test_what_is_half_written_goes_with_a_process_that_ends_at_once(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(interruption, "_PATIENCE", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append((code, list(tmp_path.iterdir()))))
    monkeypatch.setattr(interruption, "_raise_terminated", lambda number, frame: None)  # as if it compiled

    def write():
        with replacing(tmp_path / "new") as part:
            part.write_text("half")
            signal.raise_signal(signal.SIGTERM)
            while not ended:
                time.sleep(0.001)

    with terminable(), pytest.raises(FileNotFoundError):
        write()
    assert ended == [(143, [])]


def test_what_cannot_be_raised_ends_the_process_without_a_traceback(monkeypatch, capfd):
    ended = threading.Event()
    monkeypatch.setattr(interruption, "_PATIENCE", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())

    class Garbage:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    with terminable():
        Garbage(train.Terminated())
        Garbage(ValueError())

        class Collected:
            def __del__(self):
                signal.raise_signal(signal.SIGTERM)

        Collected()
        assert ended.wait(10)
    assert told == [ValueError]
    assert capfd.readouterr() == ("", "")
