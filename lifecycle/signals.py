"""Sessions that are stopped when a signal asks the process to end, for programs that want that.

Rule: the library installs no handler unless it is asked. A signal stops what is active first, then does what it did
before; a second one while that lasts does so at once.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from lifecycle.engine import EXIT_BUDGET, running_supervisor
from lifecycle.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["SignalStops", "heeded_signals", "stop_on_signals"]

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


def heeded_signals() -> dict[int, Any]:
    """The signals that ask a process to end, with the handler of each.

    One that the parent has ignored, as nohup does with SIGHUP, is not among them: it stays ignored.
    """
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    return {number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN}


class SignalStops:
    """The handlers that `stop_on_signals` installed. As a context manager it removes them at the end of the block."""

    def __init__(self) -> None:
        self._handler: Any = self._strike  # one object: each look at a method makes another
        self._before: dict[int, Any] = {}
        self._waiting: queue.SimpleQueue[bool] | None = None
        self._on = False

    @property
    def signals(self) -> frozenset[signal.Signals]:
        """The signals that stop sessions by these handlers."""
        return frozenset(signal.Signals(number) for number in self._before) if self._on else frozenset()

    def _install(self) -> None:
        self._on = True
        for number, before in heeded_signals().items():
            installed = getattr(before, "__self__", None)
            if before is None or (isinstance(installed, SignalStops) and installed.signals):
                continue  # of C code, which nothing could call; or one of this kind, which does it already
            self._before[number] = before
            signal.signal(number, self._handler)

    def remove(self) -> None:
        """Put back the handlers that were there. One that another has wrapped since passes signals on. Idempotent.

        Raises:
            UsageError: Called outside the main thread.
        """
        _in_the_main_thread()
        self._on = False
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler:
                signal.signal(number, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _strike(self, signum: int, frame: FrameType | None) -> None:
        waiting = self._waiting
        if waiting is not None:
            waiting.put(False)
        elif self._on:
            self._stop()
        self._pass_on(signum, frame)

    def _stop(self) -> None:
        supervisor = running_supervisor()
        if supervisor is None:  # in a forked child too: what is active is its parent's
            return
        waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waiting = waiting
        try:
            supervisor.stop_everything(waiting.put)
            waiting.get(timeout=EXIT_BUDGET)
        except queue.Empty:
            os.write(2, f"lifecycle: sessions could not be ended within {EXIT_BUDGET:g} seconds\n".encode())
        finally:
            self._waiting = None

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        before = self._before[signum]
        if callable(before):
            before(signum, frame)
        else:  # what the system does: the process ends, and its parent sees by which signal
            signal.signal(signum, signal.SIG_DFL)
            for stream in (sys.stdout, sys.stderr):
                _flushed(stream)
            signal.raise_signal(signum)


def _flushed(stream: Any) -> None:  # noqa: ANN401 - whatever stands there
    try:
        stream.flush()
    except (AttributeError, OSError, RuntimeError, ValueError):
        return  # there is none, it is closed, or the signal struck in the middle of a write to it


def _in_the_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        msg = "handlers of signals belong to the main thread: call this there"
        raise UsageError(msg)


def stop_on_signals() -> SignalStops:
    """From now on SIGINT, SIGTERM and SIGHUP stop every active session of this process, and then do what they did.

    Whatever was there comes after: Ctrl-C raises KeyboardInterrupt, SIGTERM and SIGHUP end the process where nobody
    handles them, a handler of your own is called. A second signal while sessions are being stopped does so at once.
    A signal that is ignored stays ignored. Asked twice, nothing more is installed.

    Returns:
        The handlers: `SignalStops.remove`, or a ``with`` block, puts back what was there.

    Raises:
        UsageError: Called outside the main thread.
    """
    _in_the_main_thread()
    stops = SignalStops()
    stops._install()  # noqa: SLF001 - made here only
    return stops
