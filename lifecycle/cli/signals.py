"""Ctrl-C, SIGTERM and SIGHUP end a command through SystemExit, so that sessions stop and cookies are saved.

Rule: handlers are the command line's own affair; the library installs none unless it is asked. What was installed
before is put back. Only the main thread can have handlers, so elsewhere this does nothing.

Python drops an exception that strikes in a finalizer or in the callback of a weak reference, and with it the wish to
end. Such a one is seen by `sys.unraisablehook` and raised again a moment later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lifecycle.signals import heeded_signals

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Interrupted", "ending_on_signals"]

_AGAIN: Final = 0.01
"""Seconds until a dropped exception is raised again."""


class Interrupted(SystemExit):
    """A signal asked for the end. The exit code is that of shells: 128 and the signal's number.

    Attributes:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(128 + signum)


def _end_again(dropped: Interrupted) -> None:
    def again(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise Interrupted(dropped.signum)

    if sys.platform != "win32":  # which has no such timer; a second Ctrl-C does it there
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _say_nothing(dropped: sys.UnraisableHookArgs) -> None:
    del dropped


@contextmanager
def ending_on_signals() -> Iterator[Sequence[Interrupted]]:
    """In the block, a signal raises `Interrupted` in the main thread; gives those that were raised, first to last."""
    struck: list[Interrupted] = []
    if threading.current_thread() is not threading.main_thread():
        yield struck
        return

    def end(signum: int, frame: FrameType | None) -> None:
        del frame
        # Not print: the signal may have struck in the middle of one.
        os.write(2, f"lifecycle: {signal.Signals(signum).name}, ending what is open\n".encode())
        struck.append(Interrupted(signum))
        raise struck[-1]

    before = heeded_signals()
    numbers = [*before]
    if sys.platform != "win32":
        before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    tell: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook

    def unraisable(dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, Interrupted):
            _end_again(dropped.exc_value)
        else:
            tell(dropped)

    try:
        sys.unraisablehook = unraisable
        for number in numbers:
            signal.signal(number, end)
        yield struck
    finally:
        if struck and not os.environ.get("LIFECYCLE_DEBUG"):
            # What was broken off, such as Playwright's start, complains as the interpreter clears it away.
            tell = _say_nothing

        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = tell
