"""Clients and sessions in threads: who keeps whom, what a dropped client does, many threads at once."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref

import pytest
from both_ways import eventually
from children import SlowAdapter

from lifecycle import (
    AsyncClient,
    Client,
    CloseReason,
    Event,
    RecordKind,
    SessionClosed,
    State,
    StepOutcome,
    UsageError,
)
from lifecycle.engine import supervisor
from lifecycle_adapters.memory import MemoryAdapter

BOUND = 20.0


def wait_until_over(att) -> None:
    """Wait on the supervisor for the end of an attachment whose client is gone."""

    async def over(_: object) -> None:
        if not att.state.terminal:
            att.ended = att.ended or asyncio.Event()
            await att.ended.wait()

    supervisor().call(over, timeout=BOUND)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_dropped_client_stops_what_it_left_active(kind, tmp_path):
    adapter = MemoryAdapter()

    async def begin(client: AsyncClient):
        return await client.Session(cookie_file=tmp_path / "cookies.json").start()

    client = kind(adapter=adapter, store="memory:")
    store = client._core.journal.store
    if kind is Client:
        session = client.Session(cookie_file=tmp_path / "cookies.json").start()
    else:
        session = asyncio.run(begin(client))
    att = session._att
    gone = weakref.ref(client)
    handle = weakref.ref(session)
    del session
    gc.collect()
    assert handle() is not None  # the client keeps it: a program may live on its cdp_url alone
    assert att.state is State.ACTIVE
    with pytest.warns(ResourceWarning, match=r"dropped with 1 session\(s\) active"):
        del client
        # Its supervisor may be about to let go of the call that started the session, and of the client with it.
        eventually(lambda: (gc.collect(), gone() is None)[1])
    wait_until_over(att)
    assert att.close_reason is CloseReason.ABANDONED
    assert adapter.opened == adapter.released
    (end,) = [record for _, record in store.records(attachment_id=att.attachment_id) if record.terminal]
    assert (end.dest, end.cause, end.close_reason) == (State.CLOSED, "abandoned", CloseReason.ABANDONED)
    assert [s.outcome for s in end.steps if s.step == "save_cookies"] == [StepOutcome.DONE]


def test_a_dropped_client_stops_what_it_left_active_where_warnings_are_errors(recwarn):
    """The warning can't be raised there; what matters is that it does not keep the sessions from being stopped."""
    adapter = MemoryAdapter()
    client = Client(adapter=adapter, store="memory:")
    att = client.Session().start()._att
    unraised: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda u: unraised.append(u.exc_value))
        patch.setattr("warnings.filters", [("error", None, ResourceWarning, None, 0)])
        del client
        gc.collect()
    assert [type(e) for e in unraised] == [ResourceWarning]
    wait_until_over(att)
    assert adapter.opened == adapter.released


def test_a_dropped_client_without_active_sessions_is_silent():
    client = Client(adapter="memory", store="memory:")
    with client.Session():
        pass
    gone = weakref.ref(client)
    del client
    gc.collect()  # a warning would be an error
    assert gone() is None


def test_a_closed_client_is_not_kept_by_anything():
    with Client(adapter="memory", store="memory:") as client, client.Session() as session:
        pass
    gone = weakref.ref(client), weakref.ref(session)
    del client, session
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_sessions_of_many_threads_at_once():
    adapter = SlowAdapter(0.001)
    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    with Client(adapter=adapter, store="memory:") as client:
        gate = threading.Barrier(16)

        def live() -> None:
            try:
                gate.wait(BOUND)
                for _ in range(5):
                    with client.Session() as session:
                        session.set_cookies(
                            cookies=[{"name": session.session_id, "value": "1", "url": "http://s.test/"}]
                        )
                        assert [c["name"] for c in session.get_cookies()] == [session.session_id]
            except BaseException as e:
                failed.put(e)

        threads = [threading.Thread(target=live) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert failed.empty(), failed.get()
        assert not any(thread.is_alive() for thread in threads)
        assert len(client.sessions.list(limit=200)) == 80
    assert sorted(adapter.opened) == sorted(adapter.released)


def test_sixteen_threads_that_stop_one_session_run_one_teardown():
    adapter = SlowAdapter(0.01)
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session().start()
        gate = threading.Barrier(16)
        states: queue.SimpleQueue[State] = queue.SimpleQueue()

        def stop() -> None:
            gate.wait(BOUND)
            session.stop()
            states.put(session.state)

        threads = [threading.Thread(target=stop) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert [states.get_nowait() for _ in threads] == [State.CLOSED] * 16
        history = session.history()
    assert [r.kind for r in history if r.terminal] == [RecordKind.COMMIT]
    assert len([r for r in history if r.event is Event.STOP and r.kind is RecordKind.INTENT]) == 1
    assert {r.kind for r in history if r.event is Event.STOP} <= {
        RecordKind.INTENT, RecordKind.COMMIT, RecordKind.JOINED, RecordKind.IGNORED
    }  # fmt: skip
    assert adapter.released == adapter.opened


def test_a_session_is_stopped_by_another_thread_while_its_own_waits_in_it():
    with Client(adapter="memory", store="memory:") as client:
        session = client.Session().start()
        waiting = threading.Event()
        seen: queue.SimpleQueue[object] = queue.SimpleQueue()

        def wait() -> None:
            waiting.set()
            seen.put(session.wait_ended(BOUND).close_reason)

        thread = threading.Thread(target=wait)
        thread.start()
        waiting.wait(BOUND)
        session.stop()
        thread.join(BOUND)
        assert seen.get_nowait() is CloseReason.MANUAL
        with pytest.raises(SessionClosed):
            session.get_cookies()


def test_a_sync_session_inside_a_running_loop():
    """Everything works there but the page, which Playwright can't do; what to do instead is said."""

    async def main() -> None:
        with Client(adapter="memory", store="memory:") as client, client.Session() as session:
            assert session.status().status is State.ACTIVE
            session.set_cookies(cookies=[{"name": "a", "value": "1", "url": "http://s.test/"}])
            assert session.get_cookies()
        assert session.state is State.CLOSED

    asyncio.run(main())


def test_a_call_on_the_supervisor_s_own_thread_is_refused():
    """It would wait for itself."""
    with Client(adapter="memory", store="memory:") as client, client.Session() as session:

        async def inside(_: object) -> None:
            session.status()

        with pytest.raises(UsageError, match="own thread"):
            supervisor().call(inside)
