"""One timer for many deadlines: who is woken, and how often."""

from __future__ import annotations

import asyncio

import pytest

from lifecycle.deadlines import Deadlines
from lifecycle.testing import ManualClock


class Entry:
    def __init__(self, due):
        self.due = due
        self.told = []

    def due_at(self):
        return self.due

    def on_due(self):
        self.told.append(self.due)
        self.due = None


class Counting(ManualClock):
    """How often somebody is to be woken."""

    alarms = 0

    def call_at(self, when, callback):
        self.alarms += 1
        return super().call_at(when, callback)


@pytest.fixture
def clock():
    return Counting()


def moved(clock, seconds):
    async def advance():
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, seconds)

    return advance()


def test_thousands_that_moved_wake_nobody_but_once(clock):
    """Seen: ten thousand sessions that had started woke the loop ten thousand times, each for its start deadline."""

    async def main():
        deadlines = Deadlines(clock)
        entries = [Entry(clock.monotonic() + 60 + n * 0.01) for n in range(1_000)]
        for entry in entries:
            deadlines.watch(entry)
        for entry in entries:
            entry.due += 1_800
        before = clock.alarms
        for _ in range(80):
            await moved(clock, 1)
        assert clock.alarms - before <= 2
        assert not any(entry.told for entry in entries)
        await moved(clock, 1_800)
        assert all(len(entry.told) == 1 for entry in entries)

    asyncio.run(main())


def test_one_that_comes_before_those_that_moved_is_told_in_time(clock):
    async def main():
        deadlines = Deadlines(clock)
        far, near, gone = (Entry(clock.monotonic() + seconds) for seconds in (10, 20, 15))
        for entry in (far, near, gone):
            deadlines.watch(entry)
        far.due += 100
        gone.due = None
        await moved(clock, 19)
        assert near.told == []
        await moved(clock, 1.5)
        assert len(near.told) == 1
        assert far.told == gone.told == []
        await moved(clock, 90)
        assert len(far.told) == 1

    asyncio.run(main())
