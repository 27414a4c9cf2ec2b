"""The real clock.

Rule: what reads the time is bound when this module is imported, and not under a module-level name, because clock
fakes (freezegun and the like) replace `time.monotonic` and `datetime.datetime` wherever they find them by name. A
test that freezes its own clock must not freeze the deadlines of a browser. time-machine goes deeper, into
`datetime.now` itself: under it records carry the fake's time, while deadlines go on. For a clock that tests may move,
see `lifecycle.testing.ManualClock`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifecycle.ports import Timer

__all__ = ["SystemClock", "boot_seconds"]


def _boot_clock() -> Callable[[], float]:
    return partial(time.clock_gettime, time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic


class _Boot:
    seconds: Final = staticmethod(_boot_clock())


def boot_seconds() -> float:
    """Seconds since the machine came up, the same in all of its processes, and on Linux also those that it slept."""
    return _Boot.seconds()


class SystemClock:
    """The clock of the machine: `time.monotonic` and the wall clock in UTC."""

    __slots__ = ()

    _monotonic: Final = staticmethod(time.monotonic)
    _now: Final = staticmethod(datetime.now)
    _utc: Final = UTC

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        return self._monotonic()

    def utcnow(self) -> datetime:
        """The wall clock as an aware UTC time. It may jump; nothing is measured with it."""
        return self._now(self._utc)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running event loop once `monotonic()` reaches `when`; at once when it has already.

        Raises:
            RuntimeError: No event loop runs in this thread.
        """
        # The delay is handed on, not `when`: the loop's own clock may have been replaced by a fake with another zero.
        return asyncio.get_running_loop().call_later(max(0.0, when - self._monotonic()), callback)
