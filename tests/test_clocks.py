"""The real clock, which fakes can't reach, and the manual one, which stands still until a test moves it."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

import lifecycle.clocks
from lifecycle.clocks import SystemClock
from lifecycle.errors import ConfigError
from lifecycle.testing import ManualClock


class LoopInThread:
    """An event loop on a thread of its own, that runs functions and hands back what they return."""

    def __enter__(self):
        self.errors = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        assert self.errors == []

    def do(self, func, *args):
        async def call():
            return func(*args)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def turn(self):
        """Wait until everything that is queued on the loop so far has run."""
        self.do(lambda: None)


@pytest.fixture
def loop():
    with LoopInThread() as loop:
        yield loop


# --- the real one -----------------------------------------------------------------------------------------------


def test_the_system_clock_tells_the_time():
    clock = SystemClock()
    assert time.monotonic() <= clock.monotonic() <= time.monotonic()
    assert datetime.now(UTC) <= clock.utcnow() <= datetime.now(UTC)
    assert clock.utcnow().tzinfo is UTC


def test_the_system_clock_wakes_on_the_running_loop():
    async def main():
        clock, woken = SystemClock(), asyncio.Event()
        began = clock.monotonic()
        clock.call_at(began + 0.05, woken.set)
        await asyncio.wait_for(woken.wait(), 30)
        assert clock.monotonic() - began >= 0.049
        woken.clear()
        clock.call_at(began - 100.0, woken.set)  # past already
        await asyncio.wait_for(woken.wait(), 30)
        timer = clock.call_at(began, woken.clear)
        timer.cancel()
        timer.cancel()
        await asyncio.sleep(0.01)
        assert woken.is_set()

    asyncio.run(main())


def test_the_system_clock_is_not_frozen_by_a_fake(monkeypatch):
    """What freezegun does: replace the names in `time` and `datetime`, and in each module that has them as globals."""

    class FakeDatetime(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(1999, 1, 1, tzinfo=tz)

    fakes = {id(time.monotonic): lambda: 7.0, id(datetime): FakeDatetime}
    for module in (time, dt, lifecycle.clocks):
        for name, value in list(vars(module).items()):
            if id(value) in fakes:
                monkeypatch.setattr(module, name, fakes[id(value)])
    assert time.monotonic() == 7.0
    clock = SystemClock()
    first = clock.monotonic()
    assert first != 7.0
    while clock.monotonic() == first:
        pass
    assert clock.utcnow().year >= 2024


def test_a_wake_up_needs_a_running_loop():
    for clock in (SystemClock(), ManualClock()):
        with pytest.raises(RuntimeError):
            clock.call_at(0.0, lambda: None)


# --- the manual one -----------------------------------------------------------------------------------------------


def test_manual_time_stands_still_until_it_is_moved():
    clock = ManualClock(start=datetime(2030, 5, 1, tzinfo=UTC), monotonic=5.0)
    assert (clock.monotonic(), clock.utcnow()) == (5.0, datetime(2030, 5, 1, tzinfo=UTC))
    clock.advance(90)
    assert (clock.monotonic(), clock.utcnow()) == (95.0, datetime(2030, 5, 1, 0, 1, 30, tzinfo=UTC))
    clock.advance(0)
    assert clock.monotonic() == 95.0


def test_the_wall_clock_jumps_alone():
    clock = ManualClock()
    before = clock.monotonic()
    clock.set_wall(datetime(2020, 2, 2, 14, 0, tzinfo=timezone(timedelta(hours=2))))
    assert clock.monotonic() == before
    assert clock.utcnow() == datetime(2020, 2, 2, 12, 0, tzinfo=UTC)
    assert clock.utcnow().tzinfo is UTC
    clock.advance(60)
    assert clock.utcnow() == datetime(2020, 2, 2, 12, 1, tzinfo=UTC)


def test_the_wall_clock_wakes_nobody(loop):
    clock, seen = ManualClock(), []
    loop.do(clock.call_at, clock.monotonic() + 10, lambda: seen.append(1))
    clock.set_wall(datetime(2099, 1, 1, tzinfo=UTC))
    loop.turn()
    assert seen == []


def test_callbacks_fire_in_order_of_time_on_their_own_loop(loop):
    clock, seen = ManualClock(), []

    def note(name):
        return lambda: seen.append((name, threading.current_thread()))

    now = clock.monotonic()
    with LoopInThread() as other:
        loop.do(clock.call_at, now + 3, note("third"))
        loop.do(clock.call_at, now + 1, note("first"))
        loop.do(clock.call_at, now + 2, note("second"))
        loop.do(clock.call_at, now + 3, note("third too"))
        loop.do(clock.call_at, now + 10, note("late"))
        other.do(clock.call_at, now + 2, note("other"))
        assert clock.next_due == now + 1
        clock.advance(0.999)
        loop.turn()
        assert seen == []
        clock.advance(8)
        loop.turn()
        other.turn()
        mine = [name for name, thread in seen if thread is loop.thread]
        assert mine == ["first", "second", "third", "third too"]
        assert [name for name, thread in seen if thread is other.thread] == ["other"]
        assert len(seen) == 5
        assert clock.next_due == now + 10


def test_steps_that_add_up_reach_what_they_add_up_to(loop):
    clock, seen = ManualClock(monotonic=0.0), []
    loop.do(clock.call_at, 1.0, lambda: seen.append(1))
    for _ in range(9):
        clock.advance(0.1)
    loop.turn()
    assert seen == []
    clock.advance(0.1)
    assert clock.monotonic() < 1.0, "the sum is not exact, which is the point"
    loop.turn()
    assert seen == [1]


def test_a_timer_set_by_a_callback_fires_too_when_it_is_due(loop):
    clock, seen = ManualClock(), []
    now = clock.monotonic()

    def again(n):
        seen.append(n)
        if n < 5:
            clock.call_at(now + n + 1, lambda: again(n + 1))

    loop.do(clock.call_at, now + 1, lambda: again(1))
    clock.advance(4)
    for _ in range(5):
        loop.turn()
    assert seen == [1, 2, 3, 4]
    assert clock.next_due == now + 5
    clock.advance(1)
    loop.turn()
    assert seen == [1, 2, 3, 4, 5]
    assert clock.next_due is None


def test_a_timer_in_the_past_fires_without_a_move(loop):
    clock, seen = ManualClock(), []
    loop.do(clock.call_at, clock.monotonic(), lambda: seen.append(1))
    loop.turn()
    assert seen == [1]


def test_a_cancelled_timer_never_fires(loop):
    clock, seen = ManualClock(), []
    now = clock.monotonic()
    before = loop.do(clock.call_at, now + 1, lambda: seen.append("before"))
    before.cancel()
    assert clock.next_due is None

    # ... not even when it is cancelled after the clock was moved, but before the loop came to it.
    waits, go_on = threading.Event(), threading.Event()
    timer = loop.do(clock.call_at, now + 1, lambda: seen.append("after"))
    loop.loop.call_soon_threadsafe(lambda: (waits.set(), go_on.wait(30)))
    assert waits.wait(30)
    clock.advance(1)
    timer.cancel()
    go_on.set()
    loop.turn()
    assert seen == []
    timer.cancel()


def test_a_closed_loop_does_not_spoil_the_others(loop):
    clock, seen = ManualClock(), []
    with LoopInThread() as other:
        other.do(clock.call_at, clock.monotonic() + 1, lambda: seen.append("never"))
    loop.do(clock.call_at, clock.monotonic() + 2, lambda: seen.append("mine"))
    clock.advance(3)
    loop.turn()
    assert seen == ["mine"]


def test_a_loop_does_not_wait_for_a_thread_that_moves_the_clock(loop):
    clock, seen = ManualClock(), []
    with clock._turn:
        loop.do(clock.call_at, clock.monotonic() + 1, lambda: seen.append(1))  # returns while the clock is held
        loop.do(clock.call_at, clock.monotonic(), lambda: seen.append(0))
        assert loop.do(clock.monotonic) == clock.monotonic()
    clock.advance(1)
    loop.turn()
    assert seen == [0, 1]


def test_threads_may_move_it_at_once(loop):
    clock, seen = ManualClock(monotonic=0.0), []
    timers, movers = 200, 4

    def register(n):
        clock.call_at(float(n), lambda: seen.append(n))

    def move():
        for _ in range(timers):
            clock.advance(1.0)

    threads = [threading.Thread(target=move) for _ in range(movers)]
    for thread in threads:
        thread.start()
    for n in range(1, timers + 1):
        loop.do(register, n)
    for thread in threads:
        thread.join()
    loop.turn()
    assert clock.monotonic() == timers * movers
    assert sorted(seen) == list(range(1, timers + 1))
    assert clock.next_due is None


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1"])
def test_a_move_that_is_none_is_refused(seconds):
    clock = ManualClock()
    before = clock.monotonic()
    with pytest.raises(ConfigError) as e:
        clock.advance(seconds)
    assert e.value.option == "seconds"
    assert clock.monotonic() == before


def test_a_wall_time_without_a_zone_is_refused():
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    with pytest.raises(ConfigError):
        ManualClock(start=naive)
    clock = ManualClock()
    before = clock.utcnow()
    with pytest.raises(ConfigError):
        clock.set_wall(naive)
    assert clock.utcnow() == before
