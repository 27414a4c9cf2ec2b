"""One timer for the deadlines of every session.

Rule: an entry is asked when it is due, never told: use of a session only sets a number on it, which any thread may
do for every CDP command, and the heap is touched when the timer fires.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lifecycle.ports import Clock, Timer

_SLACK = 1e-4
"""Seconds by which a timer may fire early and still count as due."""


_MOVED = 1.0
"""Seconds by which a deadline must have moved to be looked at before it is due: one that moves all the time is not."""

_FEW = 64
"""About so many entries may be held without use, beside as many as are of use."""


class Entry(Protocol):
    """Something with a deadline."""

    def due_at(self) -> float | None:
        """Monotonic seconds at which it is due as things stand; None when it has no deadline any more."""

    def on_due(self) -> None:
        """The deadline passed. Must not block or raise."""


class Deadlines:
    """The deadlines of all entries on one clock, with at most one timer pending."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = itertools.count()
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._ended = 0

    def watch(self, entry: Entry) -> None:
        """Watch `entry` until its `due_at` is None. Call again when its deadline came nearer."""
        due = entry.due_at()
        if due is None:
            return
        heapq.heappush(self._heap, (due, next(self._count), entry))
        self._arm()

    def ended(self) -> None:
        """A session ended. Its entries are let go before long, even if its deadline was a week away."""
        self._ended += 1
        if self._ended * 4 > len(self._heap) + _FEW:
            self._heap = [item for item in self._heap if item[2].due_at() is not None]
            heapq.heapify(self._heap)
            self._ended = 0

    def _arm(self) -> None:
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._clock.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic() + _SLACK
        while self._heap:
            at, _, entry = self._heap[0]
            due = entry.due_at()
            if due is None:
                heapq.heappop(self._heap)
            elif due <= now:
                heapq.heappop(self._heap)
                entry.on_due()
            elif at <= now or due > at + _MOVED:
                # Others that moved too go on with it, though their time has not come: else each would wake somebody.
                heapq.heapreplace(self._heap, (due, next(self._count), entry))
            else:
                break
        self._arm()
