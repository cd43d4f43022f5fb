"""Ctrl-C and SIGTERM: a training that ends where it can be gone on with, and soon."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jaxnets.train.files import remove_parts

TERMINATED = 143
"""The exit code of a process that SIGTERM ended: 128 and the signal's number."""

_PATIENCE = 2.0
"""Seconds that a training has to end by itself: a scheduler that sends SIGTERM soon sends SIGKILL."""

_LOGGER = logging.getLogger(__name__)

_PIPES: set[int] = set()
"""The descriptors that the signals of this process are told to, of the threads that listen for SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, and what was done ended as it does at Ctrl-C."""


class Interruption:
    """What came of Ctrl-C and SIGTERM.

    Attributes:
      first: The exception to raise later, None until a signal came.
      saving: Held while something is saved, by whoever does it.
      ends: Set once the main thread sees to the end by itself.
    """

    def __init__(self) -> None:
        self.first: KeyboardInterrupt | None = None
        self.saving = threading.Lock()
        self.ends = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Keeps the first signal for later, and raises at the second."""
        stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if self.first is not None:
            raise stop
        self.first = stop


@contextmanager
def terminable() -> Iterator[None]:
    """Has SIGTERM raise `Terminated` in what the main thread does here, as Ctrl-C raises KeyboardInterrupt.

    So files that are half written are taken back on the way out. `fit` saves first, as without this. Where the main
    thread is not out within two seconds, as while a program is compiled, another one ends the process with code 143. In
    another thread than the main one, and where the program has a handler of its own, nothing is changed.

    >>> try:
    ...     with terminable():
    ...         signal.raise_signal(signal.SIGTERM)
    ... except Terminated:
    ...     "terminated"
    'terminated'
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    tell_dropped = sys.unraisablehook

    def drop(dropped: Any) -> None:
        # Raised where Python cannot pass it on, as while garbage is collected: the other thread ends the process.
        if dropped.exc_type is not Terminated:
            tell_dropped(dropped)

    signal.signal(signal.SIGTERM, _raise_terminated)
    sys.unraisablehook = drop
    try:
        with _watched(Interruption(), lambda: None, True):
            yield
    finally:
        sys.unraisablehook = tell_dropped
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interruption(save: Callable[[], None]) -> Iterator[Interruption]:
    """Turns the first Ctrl-C or SIGTERM into an exception to raise later.

    Python runs a handler once the main thread is back from what it does, and XLA may compile for minutes. So another
    thread hears of SIGTERM too: where the main one has not set `ends` soon after, it saves and ends the process.

    Python lets the main thread alone handle signals: any other is told that they do not reach it.

    Args:
      save: Keeps what there is and waits until it is written; called on the other thread.
    """
    interrupted = Interruption()
    handled: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        interrupt, terminate = (signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
        if interrupt not in (None, signal.SIG_IGN):
            handled[signal.SIGINT] = interrupt
        if terminate in (signal.SIG_DFL, _raise_terminated):
            handled[signal.SIGTERM] = terminate
    else:
        _LOGGER.warning(
            "fit: Ctrl-C and SIGTERM do not reach the thread %s: end it by a callback that returns True",
            threading.current_thread().name,
        )
    try:
        for number in handled:
            signal.signal(number, interrupted.handle)
        with _watched(interrupted, save, signal.SIGTERM in handled):
            yield interrupted
    finally:
        for number, before in handled.items():
            signal.signal(number, before)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def _watched(interrupted: Interruption, save: Callable[[], None], wanted: bool) -> Iterator[None]:
    """Has a thread listen for SIGTERM, unless something else, such as an event loop, listens for signals already."""
    if not wanted:
        yield
        return
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    other = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    own = other == -1 or other in _PIPES
    if not own:
        signal.set_wakeup_fd(other)
    _PIPES.add(tells)
    watcher = threading.Thread(target=_watch, args=(hears, interrupted, save), name="SIGTERM", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        if own:
            signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        _PIPES.remove(tells)
        interrupted.ends.set()
        os.close(tells)
        watcher.join()
        os.close(hears)


def _watch(hears: int, interrupted: Interruption, save: Callable[[], None]) -> None:
    while number := os.read(hears, 1):
        if number[0] != signal.SIGTERM or interrupted.ends.wait(_PATIENCE):
            continue
        # Where the main thread comes to save after all, it waits here for the end of the process.
        with interrupted.saving:
            if not interrupted.ends.is_set():
                try:
                    _LOGGER.warning("SIGTERM: ending without waiting for what is being computed or compiled")
                    save()
                    remove_parts()
                except Exception as error:  # whatever it is, the process is to end
                    _LOGGER.warning("not saved, the checkpoint before stands: %s", error)
                finally:
                    os._exit(TERMINATED)
