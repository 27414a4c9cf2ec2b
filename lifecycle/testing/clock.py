"""A clock that stands still until a test moves it.

Rule: a callback runs on the event loop it was registered on, never in the thread that moves the clock, and a loop
never waits for that thread: `call_at` leaves its timer in an inbox when the clock is being moved, and whoever moves it
takes the timer up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from lifecycle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifecycle.ports import Timer

__all__ = ["ManualClock"]

_START: Final = datetime(2024, 1, 1, 12, 0, 0, tzinfo=UTC)

_RESOLUTION: Final = 1e-6
"""Seconds by which a timer counts as due early, so that three steps of 60 s reach what was set for 180 s."""


class _ManualTimer:
    """One pending callback; ordered by time, then by when it was registered."""

    __slots__ = ("_callback", "_loop", "order")

    def __init__(self, order: tuple[float, int], loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self.order = order
        self._loop = loop
        self._callback: Callable[[], None] | None = callback

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        """Drop it; silent when it has fired already."""
        self._callback = None

    def post(self) -> None:
        """Hand the callback to its loop."""
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._callback = None  # the loop has been closed, and what it would have woken with it

    def _run(self) -> None:
        # Looked at here and not when it was posted: it may be cancelled while it waits for its turn on the loop.
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class ManualClock:
    """Time for tests: monotonic and wall time stand still until `advance` or `set_wall` moves them.

    Safe to use from any thread and from several event loops at once.

    Args:
        start: The wall clock at the beginning, an aware time.
        monotonic: The monotonic clock at the beginning, in seconds.

    Raises:
        ConfigError: `start` is not an aware time.
    """

    def __init__(self, *, start: datetime = _START, monotonic: float = 1000.0) -> None:
        self._now = float(monotonic)
        self._wall_at_zero = _aware("start", start) - timedelta(seconds=self._now)
        self._count = itertools.count()
        self._inbox: deque[_ManualTimer] = deque()
        self._heap: list[tuple[tuple[float, int], _ManualTimer]] = []
        # Held by whoever moves the clock. Reentrant, because a signal handler may move it too.
        self._turn = threading.RLock()

    def monotonic(self) -> float:
        """Seconds on the monotonic clock."""
        return self._now

    def utcnow(self) -> datetime:
        """The wall clock, in UTC."""
        return self._wall_at_zero + timedelta(seconds=self._now)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running event loop once `monotonic()` reaches `when`; at once when it has already.

        Raises:
            RuntimeError: No event loop runs in this thread.
        """
        timer = _ManualTimer((when, next(self._count)), asyncio.get_running_loop(), callback)
        self._inbox.append(timer)
        self._settle()
        return timer

    def advance(self, seconds: float) -> None:
        """Move both clocks on by `seconds`, and hand every callback that is due to its loop, in order of time.

        The clocks jump, as after a machine has slept: a callback sees the time moved to, not the time it was set
        for. A timer that a callback sets in the past of that time is due at once. When this returns, the callbacks
        have been queued on their loops, which may not have run them yet.

        Raises:
            ConfigError: `seconds` is negative or not finite.
        """
        if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0):
            raise ConfigError(option="seconds", value=seconds, allowed="a number of seconds, 0 or more")
        with self._moving():
            self._now += seconds

    def set_wall(self, when: datetime) -> None:
        """Set the wall clock, forward or back, as an administrator or NTP does. Monotonic time does not move.

        Raises:
            ConfigError: `when` is not an aware time.
        """
        when = _aware("when", when)
        with self._moving():
            self._wall_at_zero = when - timedelta(seconds=self._now)

    @property
    def next_due(self) -> float | None:
        """When the next timer is due, in monotonic seconds; None when there is none. ``advance`` up to it fires it."""
        with self._moving():
            pass
        return min((order[0] for order, timer in list(self._heap) if timer.pending), default=None)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        with self._turn:
            yield
            self._fire()
        self._settle()

    def _settle(self) -> None:
        """Take the inbox up, unless somebody is at it: then they do, because they look again when they are through."""
        while self._inbox:
            if not self._turn.acquire(blocking=False):
                return
            try:
                self._fire()
            finally:
                self._turn.release()

    def _fire(self) -> None:
        while self._inbox:
            timer = self._inbox.popleft()
            heapq.heappush(self._heap, (timer.order, timer))
        while self._heap:
            order, timer = heapq.heappop(self._heap)  # popped before it is looked at: a signal handler may pop as well
            if order[0] > self._now + _RESOLUTION:
                heapq.heappush(self._heap, (order, timer))
                return
            timer.post()


def _aware(option: str, when: datetime) -> datetime:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ConfigError(option=option, value=when, allowed="a datetime with a time zone, such as one in UTC")
    return when.astimezone(UTC)
