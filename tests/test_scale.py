"""Many sessions at once in one process: they cost no thread and no descriptor, and none is lost.

What they cost in time is measured, beside few sessions, by `make bench`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter

import pytest

from lifecycle import AsyncClient, Client, RecordKind, State
from lifecycle.states import CloseReason
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.no_cover  # it goes ten thousand times through what other tests go through once

MANY = 10_000


def descriptors():
    return len(os.listdir("/dev/fd"))


async def in_groups(calls, size=500):
    """Await many calls, so many at a time."""
    calls = list(calls)
    for start in range(0, len(calls), size):
        await asyncio.gather(*(call() for call in calls[start : start + size]))


def check(store, adapter, dest, reason, *, count):
    records = [r for _, r in store.records()]
    assert sorted(adapter.opened) == sorted(adapter.released)
    kinds = Counter((r.kind, r.dest) for r in records)
    assert kinds == {
        (RecordKind.INTENT, State.ACTIVE): count,
        (RecordKind.COMMIT, State.ACTIVE): count,
        (RecordKind.INTENT, dest): count,
        (RecordKind.COMMIT, dest): count,
    }
    ends = [r for r in records if r.terminal]
    assert len({r.attachment_id for r in ends}) == len(ends) == count
    assert {r.close_reason for r in ends} == {reason}
    assert [r.writer_seq for r in records] == list(range(1, 4 * count + 1))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_sessions_live_at_once_and_are_stopped():
    adapter, store = MemoryAdapter(), MemoryStore()
    Client(adapter=MemoryAdapter(), store="memory:").close()  # the supervisor's threads are there

    async def main():
        async with AsyncClient(adapter=adapter, store=store) as client:
            await (await client.Session().start()).stop()  # what the process opens once, for all its sessions
            threads, fds = threading.active_count(), descriptors()
            sessions = [client.Session(timeout_minutes=60) for _ in range(MANY)]
            await in_groups([s.start for s in sessions])
            assert len(adapter.live) == MANY
            assert {s.state for s in sessions} == {State.ACTIVE}
            assert threading.active_count() == threads
            assert descriptors() == fds
            assert (await sessions[MANY // 2].get_cookies()) == []
            await in_groups([s.stop for s in sessions])
            assert {s.state for s in sessions} == {State.CLOSED}
            assert threading.active_count() == threads

    asyncio.run(main())
    check(store, adapter, State.CLOSED, CloseReason.MANUAL, count=MANY + 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("many", [1_000, pytest.param(MANY, marks=pytest.mark.campaign)])
def test_sessions_expire_by_the_thousand_in_one_moment(many):
    adapter, store, clock = MemoryAdapter(), MemoryStore(), ManualClock()
    before = threading.active_count()
    with Client(adapter=adapter, store=store, clock=clock) as client:

        async def start():
            core = client._core
            sessions = [client.Session(timeout_minutes=1) for _ in range(many)]

            async def work(caller):
                for begin in range(0, many, 500):
                    await asyncio.gather(*(core.start(s._att, caller) for s in sessions[begin : begin + 500]))

            await core.supervisor.acall(work)
            return sessions

        sessions = asyncio.run(start())
        assert len(adapter.live) == many
        clock.advance(61)
        for session in sessions:
            assert session.wait_ended(timeout=200).status is State.TIMED_OUT
    assert threading.active_count() <= before + 20
    check(store, adapter, State.TIMED_OUT, CloseReason.IDLE_TIMEOUT, count=many)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_closing_the_client_ends_all_of_them():
    fewer = 2_000
    adapter, store = MemoryAdapter(), MemoryStore()

    async def main():
        client = AsyncClient(adapter=adapter, store=store)
        sessions = [client.Session(timeout_minutes=60) for _ in range(fewer)]
        await in_groups([s.start for s in sessions])
        await client.close()
        assert {s.state for s in sessions} == {State.CLOSED}

    asyncio.run(main())
    check(store, adapter, State.CLOSED, CloseReason.MANUAL, count=fewer)


def test_ended_sessions_leave_no_memory_behind():
    """Sessions that end long before their deadline are let go at once, whatever the deadline."""
    import weakref

    adapter = MemoryAdapter()
    with Client(adapter=adapter, store="memory:") as client:
        attachments = []
        for _ in range(300):
            with client.Session(timeout_minutes=60 * 24 * 7, max_duration_minutes=60 * 24 * 7) as session:
                attachments.append(weakref.ref(session._att))
            del session
        gc.collect()
        alive = sum(ref() is not None for ref in attachments)
        assert alive < 100, f"{alive} of 300 ended sessions are still held"
        waiting = len(client._core.deadlines._heap)
        assert waiting < 200, f"{waiting} deadlines of 300 ended sessions are still watched"
