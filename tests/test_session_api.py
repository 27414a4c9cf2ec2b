"""What a session does for the program that uses it, sync and async alike, on the memory backend."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import subprocess
import sys
import textwrap
import threading
import traceback
import types
from contextlib import AsyncExitStack, ExitStack, closing
from datetime import UTC, datetime, timedelta

import pytest
from both_ways import PATIENCE, eventually, in_threads

import lifecycle
from lifecycle import (
    AsyncClient,
    AsyncSession,
    Client,
    ConfigError,
    GuardRejected,
    InvalidTransition,
    Record,
    RecordKind,
    ReleaseFailed,
    Session,
    SessionClosed,
    SessionFailed,
    SessionStatus,
    SessionTimedOut,
    StoreError,
    UnsupportedOperation,
    UsageError,
)
from lifecycle import client as client_module
from lifecycle.control import GuestBackend
from lifecycle.errors import BackendError, CookieRejected, LifecycleError, SessionEnded
from lifecycle.flow import DeadlineEntry
from lifecycle.states import CloseReason, Event, Guard, InFlight, State
from lifecycle.stores import open_store
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter


@pytest.fixture
def clock():
    return ManualClock()


def commits(session):
    return [r for r in session.history() if r.kind is RecordKind.COMMIT]


def ends_of(store, attachment_id):
    return [r for _, r in store.records(attachment_id=attachment_id) if r.terminal]


COOKIE = {"name": "sid", "value": "42", "domain": "example.com", "path": "/"}


# --- start, stop, state, status -----------------------------------------------------------------------------------


def test_a_session_goes_from_start_to_stop(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    assert session.state is State.NOT_STARTED
    assert session.state == "not_started"
    session.start()
    assert session.state is State.ACTIVE
    assert adapter.live == [session.session_id]
    session.stop()
    assert session.state is State.CLOSED
    assert (adapter.live, adapter.opened, adapter.released) == ([], [session.session_id], [session.session_id])


def test_start_returns_the_session_itself(way):
    session = way.client().Session()
    assert way.raw(session.start()) is way.raw(session)


def test_with_block_starts_and_stops(way):
    adapter = MemoryAdapter()
    with way.client(adapter=adapter).Session() as session:
        assert session.state is State.ACTIVE
    assert session.state is State.CLOSED
    assert session.status().close_reason is CloseReason.MANUAL
    assert adapter.opened == adapter.released


def test_status_has_every_field_at_each_state(way, clock):
    begin = clock.utcnow()
    client = way.client(clock=clock)
    session = client.Session(
        timeout_minutes=2, max_duration_minutes=10, name="shop", labels={"team": "blue", "run": "7"}
    )
    fresh = session.status()
    assert fresh == SessionStatus(
        session_id=session.session_id,
        status=State.NOT_STARTED,
        created_at=begin,
        closed_at=None,
        last_accessed_at=begin,
        timeout_minutes=2.0,
        max_duration_minutes=10.0,
        duration=timedelta(),
        expires_at=None,
        adapter="memory",
        close_reason=None,
        error=None,
        name="shop",
        labels={"team": "blue", "run": "7"},
    )
    clock.advance(7)
    session.start()
    started = begin + timedelta(seconds=7)
    active = session.status()
    assert (active.status, active.created_at, active.last_accessed_at) == (State.ACTIVE, started, started)
    assert (active.duration, active.expires_at) == (timedelta(), started + timedelta(minutes=2))
    clock.advance(90)
    session.get_cookies()
    clock.advance(30)
    used = session.status()
    assert used.last_accessed_at == started + timedelta(seconds=90)
    assert used.duration == timedelta(seconds=120)
    assert used.expires_at == started + timedelta(seconds=90, minutes=2)
    assert (used.closed_at, used.close_reason, used.error) == (None, None, None)
    session.stop()
    ended = started + timedelta(seconds=120)
    clock.advance(1000)
    over = session.status()
    assert (over.status, over.closed_at, over.duration) == (State.CLOSED, ended, timedelta(seconds=120))
    assert over.last_accessed_at == started + timedelta(seconds=90)
    assert (over.expires_at, over.close_reason, over.error) == (None, CloseReason.MANUAL, None)


def test_status_of_a_failed_session_says_what_went_wrong(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    adapter.crash(session.session_id)
    status = session.wait_ended(timeout=PATIENCE)
    assert (status.status, status.close_reason) == (State.ERROR, CloseReason.CRASH)
    assert "crashed" in status.error
    assert session.status() == status


def test_the_nearest_deadline_is_told(way, clock):
    session = way.client(clock=clock).Session(timeout_minutes=4, max_duration_minutes=5).start()
    clock.advance(3 * 60)
    session.get_cookies()
    assert session.status().expires_at == session.status().created_at + timedelta(minutes=5)


def test_times_are_aware_utc_and_the_duration_a_timedelta(way):
    with way.client().Session() as session:
        status = session.status()
    assert status.created_at.tzinfo is UTC
    assert status.last_accessed_at.tzinfo is UTC
    assert status.expires_at.tzinfo is UTC
    assert isinstance(status.duration, timedelta)
    assert abs(datetime.now(UTC) - status.created_at) < timedelta(minutes=1)


def test_a_status_survives_json(way):
    with way.client().Session(labels={"a": "b"}) as session:
        active = session.status()
    for status in (active, session.status()):
        told = json.loads(json.dumps(status.to_json()))
        assert SessionStatus.from_json(told) == status


def test_the_id_is_known_before_the_start(way):
    session = way.client().Session()
    before = session.session_id
    assert session.start().session_id == before


def test_plain_reads_ask_nobody(way, monkeypatch):
    session = way.client().Session().start()
    raw = way.raw(session)

    def no(*args, **kwargs):
        raise AssertionError("the supervisor was asked")

    with monkeypatch.context() as patch:
        for name in ("call", "begin", "acall", "abegin", "_run"):
            patch.setattr(raw._core.supervisor, name, no)
        assert (raw.state, raw.session_id, raw.attachment_id) == (
            State.ACTIVE,
            raw._att.session_id,
            raw._att.attachment_id,
        )
        assert raw.session_id in repr(raw)
        assert "active" in repr(raw)


def test_state_can_be_read_while_the_supervisor_is_stuck(way):
    session = way.client().Session().start()
    raw = way.raw(session)
    stuck, go_on = threading.Event(), threading.Event()

    def block():
        stuck.set()
        go_on.wait(PATIENCE)

    raw._core.supervisor.thread.post(block)
    try:
        assert stuck.wait(PATIENCE)
        assert raw.state is State.ACTIVE
    finally:
        go_on.set()


# --- history ------------------------------------------------------------------------------------------------------


def test_history_is_an_intent_and_a_commit_for_each_edge(way):
    session = way.client().Session(labels={"team": "blue"}, principal="ada@example.com").start()
    session.stop()
    told = [(r.kind, r.event, r.source, r.dest, r.in_flight) for r in session.history()]
    opening, ending = InFlight.START, InFlight.ENDING
    assert told == [
        (RecordKind.INTENT, Event.START, State.NOT_STARTED, State.ACTIVE, opening),
        (RecordKind.COMMIT, Event.START, State.NOT_STARTED, State.ACTIVE, told[1][4]),
        (RecordKind.INTENT, Event.STOP, State.ACTIVE, State.CLOSED, InFlight.NOTHING),
        (RecordKind.COMMIT, Event.STOP, State.ACTIVE, State.CLOSED, ending),
    ]
    records = session.history()
    assert [r.attachment_seq for r in records] == [1, 2, 3, 4]
    assert {r.session_id for r in records} == {session.session_id}
    assert {r.attachment_id for r in records} == {session.attachment_id}
    assert all(r.labels == {"team": "blue"} and r.adapter == "memory" for r in records)
    assert {r.principal for r in records} == {"ada@example.com"}
    assert [s.step for s in records[1].steps] == ["read_cookies", "open_backend", "load_cookies", "open_viewer"]
    assert [s.step for s in records[3].steps] == ["save_cookies", "close_connections", "release_backend"]
    assert records[3].close_reason is CloseReason.MANUAL
    assert {g.guard for g in records[0].guards} == {"idle", "no session_id"}
    assert all(g.held for g in records[0].guards)


def test_records_name_the_thread_or_task_that_asked(way):
    session = way.client().Session().start()
    [first, *_] = session.history()
    assert first.thread == ("MainThread" if not way.is_async else first.thread)
    assert first.thread != "supervisor"
    assert first.cause == "caller"


def test_history_can_be_read_in_every_state(way):
    session = way.client().Session()
    assert session.history() == []
    session.stop()
    assert [r.kind for r in session.history()] == [RecordKind.INTENT, RecordKind.COMMIT]


def test_operations_are_counted_not_logged(way):
    session = way.client().Session().start()
    for _ in range(5):
        session.get_cookies()
    session.stop()
    assert [r.event for r in session.history()] == [Event.START, Event.START, Event.STOP, Event.STOP]
    assert commits(session)[-1].counts["operations"] == 5


# --- cookies ------------------------------------------------------------------------------------------------------


def test_cookies_are_set_and_got(way):
    with way.client().Session() as session:
        assert session.get_cookies() == []
        session.set_cookies(cookies=[COOKIE])
        [got] = session.get_cookies()
    assert (got["name"], got["value"], got["domain"], got["path"]) == ("sid", "42", "example.com", "/")


def test_cookies_are_set_from_a_file(way, tmp_path):
    path = tmp_path / "cookies.json"
    path.write_text(json.dumps([COOKIE]))
    with way.client().Session() as session:
        session.set_cookies(cookie_file=path)
        assert [c["name"] for c in session.get_cookies()] == ["sid"]


def test_one_bad_cookie_is_named_and_the_others_are_set(way):
    bad = {"name": "half", "value": "1", "domain": "example.com", "path": "/", "sameSite": "None", "secure": False}
    with way.client().Session() as session:
        with pytest.raises(CookieRejected) as caught:
            session.set_cookies(cookies=[bad, {"value": "nameless"}, COOKIE])
        assert "half" in caught.value.names
        assert len(caught.value.names) == 2
        assert [c["name"] for c in session.get_cookies()] == ["sid"]


@pytest.mark.parametrize("given", [{}, {"cookies": [COOKIE], "cookie_file": "x.json"}])
def test_set_cookies_takes_one_source(way, given):
    with way.client().Session() as session, pytest.raises(UsageError, match="one of them"):
        session.set_cookies(**given)


def test_a_missing_cookie_file_is_named(way, tmp_path):
    path = tmp_path / "nowhere.json"
    with way.client().Session() as session, pytest.raises(lifecycle.CookieFileError) as caught:
        session.set_cookies(cookie_file=path)
    assert caught.value.path == str(path)


def test_cookies_go_through_the_file_of_the_session(way, tmp_path):
    path = tmp_path / "cookies.json"
    client = way.client()
    with client.Session(cookie_file=path) as session:
        session.set_cookies(cookies=[COOKIE])
    with client.Session(cookie_file=path) as session:
        assert [(c["name"], c["value"]) for c in session.get_cookies()] == [("sid", "42")]
    assert commits(session)[0].counts["cookies_loaded"] == 1
    assert commits(session)[1].counts["cookies_saved"] == 1


# --- stop is idempotent, from anywhere ----------------------------------------------------------------------------


def test_a_repeated_stop_is_silent_and_recorded_as_ignored(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    session.stop()
    session.stop()
    session.stop()
    assert adapter.released == [session.session_id]
    assert [r.kind for r in session.history()][-2:] == [RecordKind.IGNORED, RecordKind.IGNORED]
    assert sum(r.terminal for r in session.history()) == 1


def test_16_stops_at_once_are_one_teardown(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    results = way.together([(session, "stop")] * 16)
    assert results == [None] * 16
    assert adapter.released == [session.session_id]
    kinds = [r.kind for r in session.history() if r.event is Event.STOP]
    assert kinds.count(RecordKind.INTENT) == 1
    assert kinds.count(RecordKind.COMMIT) == 1
    assert kinds.count(RecordKind.JOINED) + kinds.count(RecordKind.IGNORED) == 15


def test_async_session_is_stopped_from_16_threads_with_loops_of_their_own():
    async def start():
        client = AsyncClient(adapter=adapter, store="memory:")
        return client, await client.Session().start()

    adapter = MemoryAdapter()
    client, session = asyncio.run(start())
    assert in_threads([lambda: asyncio.run(session.stop())] * 16) == [None] * 16
    assert adapter.released == [session.session_id]
    asyncio.run(client.close())


def test_everybody_who_joins_a_stop_hears_what_went_wrong_in_it(way):
    """Joining a stop means to get its outcome, and that includes its error."""
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    session = way.client(adapter=adapter).Session().start()
    results = way.together([(session, "stop")] * 8)
    joined = sum(r.kind is RecordKind.JOINED for r in session.history())
    assert sum(isinstance(r, ReleaseFailed) for r in results) == joined + 1
    assert len({id(r) for r in results if r is not None}) == joined + 1, "each caller needs an error of its own"


def test_stop_gives_up_waiting_after_its_timeout_and_the_teardown_goes_on(way):
    adapter = MemoryAdapter(faults=[Fault(step="close_connections", kind="hang")])
    session = way.client(adapter=adapter).Session().start()
    with pytest.raises(TimeoutError, match="goes on in the background"):
        session.stop(timeout=0.05)
    assert session.state is State.ACTIVE
    adapter.release_hangs()
    assert session.wait_ended(timeout=PATIENCE).status is State.CLOSED


def test_an_early_stop_is_not_lost(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    session.stop()
    assert session.state is State.CLOSED
    assert session.status().close_reason is CloseReason.MANUAL
    with pytest.raises(InvalidTransition) as caught:
        session.start()
    assert (caught.value.state, caught.value.event, caught.value.allowed) == (State.CLOSED, Event.START, ())
    assert adapter.opened == []
    assert session.state is State.CLOSED
    assert [r.kind for r in session.history()] == [RecordKind.INTENT, RecordKind.COMMIT, RecordKind.REJECTED]


def test_a_start_that_was_refused_leaves_nothing_behind(way):
    client = way.client()
    core = way.raw(client)._core
    early, ended = client.Session(), client.Session().start()
    early.stop()
    ended.stop()
    for session in (early, ended):
        with pytest.raises(InvalidTransition):
            session.start()
        assert session.attachment_id not in core.active
        assert session.session_id not in core.supervisor.owned
        assert session.attachment_id not in way.raw(client)._kept


def test_a_session_starts_once(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    with pytest.raises(InvalidTransition) as caught:
        session.start()
    assert (caught.value.state, caught.value.event) == (State.ACTIVE, Event.START)
    assert caught.value.allowed == (Event.OPERATE, Event.STOP, Event.DETACH, Event.EXPIRE, Event.FAIL)
    assert session.state is State.ACTIVE, "the session that runs is not hurt by the second start"
    assert adapter.opened == [session.session_id]


def test_a_second_start_while_the_first_is_in_flight_is_refused(way):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    session = way.client(adapter=adapter).Session()
    waker = threading.Thread(
        target=lambda: (eventually(lambda: rejected.is_set() and adapter._hanging), adapter.release_hangs())
    )
    rejected = threading.Event()
    sub = way.raw(session)._core.subscribers

    def see(record):
        if record is not None and record.kind is RecordKind.REJECTED:
            rejected.set()

    sub.append(see)
    waker.start()
    results = way.together([(session, "start"), (session, "start")])
    waker.join()
    [refused] = [r for r in results if isinstance(r, BaseException)]
    assert isinstance(refused, GuardRejected)
    assert (refused.guard, refused.state, refused.event) == (Guard.IDLE, State.NOT_STARTED, Event.START)
    assert session.state is State.ACTIVE
    assert len(adapter.opened) == 1


def test_entering_a_session_that_runs_does_not_end_it(way):
    session = way.client().Session().start()
    with pytest.raises(InvalidTransition):
        session.__enter__()
    gc.collect()
    assert session.get_cookies() == []
    assert session.state is State.ACTIVE


# --- operations in the wrong state --------------------------------------------------------------------------------

OPERATIONS = {
    "get_cookies": lambda s: s.get_cookies(),
    "set_cookies": lambda s: s.set_cookies(cookies=[COOKIE]),
    "cdp_url": lambda s: s.cdp_url(),
    "extend": lambda s: s.extend(minutes=1),
    "hold": lambda s: s.hold("a look", 1),
    "page": lambda s: s.page() if isinstance(getattr(s, "_target", s), AsyncSession) else s.page,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_before_the_start_says_what_to_do(way, operation):
    session = way.client().Session()
    with pytest.raises(InvalidTransition) as caught:
        OPERATIONS[operation](session)
    assert (caught.value.state, caught.value.event) == (State.NOT_STARTED, Event.OPERATE)
    assert set(caught.value.allowed) == {Event.START, Event.ATTACH, Event.STOP, Event.EXPIRE, Event.FAIL}
    assert "call start() first" in str(caught.value)
    assert session.start().state is State.ACTIVE


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_after_the_stop_raises_session_closed(way, operation):
    with way.client().Session() as session:
        pass
    with pytest.raises(SessionClosed) as caught:
        OPERATIONS[operation](session)
    error = caught.value
    assert (error.session_id, error.close_reason) == (session.session_id, CloseReason.MANUAL)
    assert error.closed_at == session.status().closed_at


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("reason", "minutes"), [(CloseReason.IDLE_TIMEOUT, 2.0), (CloseReason.MAX_DURATION, 2.5)])
def test_an_operation_after_a_deadline_names_the_deadline(way, clock, operation, reason, minutes):
    session = way.client(clock=clock).Session(timeout_minutes=2, max_duration_minutes=2.5).start()
    if reason is CloseReason.MAX_DURATION:
        clock.advance(100)
        session.get_cookies()
        clock.advance(50)
    else:
        clock.advance(120)
    session.wait_ended(timeout=PATIENCE)
    with pytest.raises(SessionTimedOut) as caught:
        OPERATIONS[operation](session)
    error = caught.value
    assert (error.deadline, error.close_reason, error.minutes) == (reason, reason, minutes)
    assert f"{reason} deadline of {minutes:g} minutes" in str(error)
    assert session.state is State.TIMED_OUT


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_after_a_crash_raises_session_failed(way, operation):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    adapter.crash(session.session_id)
    session.wait_ended(timeout=PATIENCE)
    with pytest.raises(SessionFailed, match="crashed") as caught:
        OPERATIONS[operation](session)
    assert caught.value.close_reason is CloseReason.CRASH


def test_an_operation_that_comes_just_before_the_expiry_timer_waits_for_the_end(way, clock, monkeypatch):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter, clock=clock).Session(timeout_minutes=1).start()
    monkeypatch.setattr(DeadlineEntry, "on_due", lambda self: None)  # the timer has not had its turn yet
    clock.advance(61)
    with pytest.raises(SessionTimedOut) as caught:
        session.get_cookies()
    assert caught.value.deadline is CloseReason.IDLE_TIMEOUT
    assert caught.value.closed_at is not None
    assert adapter.released == [session.session_id]


def test_an_operation_during_the_stop_is_told_that_the_session_is_ending(way):
    adapter = MemoryAdapter(faults=[Fault(step="close_connections", kind="hang")])
    session = way.client(adapter=adapter).Session().start()
    with pytest.raises(TimeoutError):
        session.stop(timeout=0.05)
    with pytest.raises(SessionClosed) as caught:
        session.get_cookies()
    assert caught.value.closed_at is None
    adapter.release_hangs()


def test_an_operation_in_flight_when_the_browser_crashes_raises_session_failed(way):
    adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="hang")])
    session = way.client(adapter=adapter).Session().start()
    crasher = threading.Thread(target=lambda: (eventually(lambda: adapter._hanging), adapter.crash(session.session_id)))
    crasher.start()
    with pytest.raises(SessionFailed):
        session.get_cookies()
    crasher.join()
    assert session.state is State.ERROR


def test_a_failed_operation_leaves_the_session_alone(way):
    adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="fail")])
    with way.client(adapter=adapter).Session() as session:
        with pytest.raises(BackendError, match="as scripted"):
            session.get_cookies()
        assert session.get_cookies() == []


def test_what_this_adapter_has_not_names_the_way_out(way):
    with way.client().Session() as session:
        for operation in ("cdp_url", "page"):
            with pytest.raises(UnsupportedOperation) as caught:
                OPERATIONS[operation](session)
            assert caught.value.adapter == "memory"
            assert "local" in caught.value.way_out


# --- deadlines ----------------------------------------------------------------------------------------------------


def test_extend_moves_the_maximum_duration_and_is_recorded(way, clock):
    session = way.client(clock=clock).Session(timeout_minutes=60, max_duration_minutes=60).start()
    status = session.extend(minutes=30)
    assert status.max_duration_minutes == 90.0
    for _ in range(8):
        clock.advance(10 * 60)
        session.get_cookies()
    assert session.state is State.ACTIVE
    clock.advance(10 * 60)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.MAX_DURATION
    assert session.status().duration == timedelta(minutes=90)
    [extended] = [r for r in session.history() if r.kind is RecordKind.EXTENDED]
    assert (extended.source, extended.dest, extended.event) == (State.ACTIVE, State.ACTIVE, Event.OPERATE)
    with pytest.raises(SessionTimedOut) as caught:
        session.extend(minutes=1)
    assert caught.value.minutes == 90.0


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), True, "5", None, 10**9])
@pytest.mark.parametrize("ask", [lambda s, m: s.extend(minutes=m), lambda s, m: s.hold("a look", m)])
def test_what_is_no_number_of_minutes_is_refused(way, minutes, ask):
    with way.client().Session() as session, pytest.raises(ConfigError) as caught:
        ask(session, minutes)
    assert caught.value.option == "minutes"


def test_a_hold_keeps_it_open_without_use_and_is_recorded(way, clock):
    session = way.client(clock=clock).Session(timeout_minutes=3, max_duration_minutes=60).start()
    status = session.hold("looking at the form", 20)
    assert status.expires_at == clock.utcnow() + timedelta(minutes=20)
    clock.advance(19 * 60)
    assert session.state is State.ACTIVE
    session.get_cookies()
    assert session.status().expires_at == clock.utcnow() + timedelta(minutes=3), "use counts after it as before"
    clock.advance(2 * 60)
    assert session.state is State.ACTIVE
    clock.advance(60)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT
    [held] = [r for r in session.history() if r.kind is RecordKind.HELD]
    assert (held.note, held.counts["seconds"], held.source, held.dest) == (
        "looking at the form", 1200, State.ACTIVE, State.ACTIVE,
    )  # fmt: skip
    with pytest.raises(SessionTimedOut):
        session.hold("once more", 1)


def test_a_later_hold_replaces_an_earlier_one(way, clock):
    session = way.client(clock=clock).Session(timeout_minutes=1, max_duration_minutes=60).start()
    session.hold("a long look", 30)
    clock.advance(90)  # the timer has looked, and waits for the end of the long one
    session.hold("a shorter one", 5)
    clock.advance(5 * 60 - 1)
    assert session.state is State.ACTIVE
    clock.advance(1)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT


def test_a_hold_beyond_the_longest_duration_names_the_way_out(way, clock):
    session = way.client(clock=clock).Session(timeout_minutes=1, max_duration_minutes=10).start()
    clock.advance(30)
    with pytest.raises(ConfigError, match=r"minutes.*12.*at most 9\.5, what is left.*extend") as caught:
        session.hold("a look", 12)
    assert caught.value.option == "minutes"
    session.extend(minutes=5)
    session.hold("a look", 12)
    clock.advance(12 * 60 - 1)
    assert session.state is State.ACTIVE


@pytest.mark.parametrize("reason", ["", " ", None, 7, "two\nlines", "\udcff"])
def test_a_hold_says_what_for(way, reason):
    with way.client().Session() as session, pytest.raises(ConfigError, match="reason"):
        session.hold(reason, 1)


def test_a_guests_hold_is_its_owners(way, clock, tmp_path):
    store = f"sqlite:///{tmp_path}/s.db"
    owner = way.client(clock=clock, store=store).Session(timeout_minutes=3, max_duration_minutes=15).start()
    guest = way.client(clock=clock, store=store).Session(owner.session_id).start()
    told = guest.hold("a look", 10)
    assert told.expires_at == owner.status().expires_at == clock.utcnow() + timedelta(minutes=10)
    with pytest.raises(ConfigError, match="at most 15"):
        guest.hold("a look", 16)
    with closing(open_store(store)) as opened:
        row = opened.session(owner.session_id)
    assert SessionStatus.of_row(row, clock.utcnow()).expires_at == told.expires_at, "as a list elsewhere tells it"
    clock.advance(9 * 60)
    assert owner.state is State.ACTIVE
    guest.stop()


def test_wait_ended_waits_and_gives_the_final_status(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    with pytest.raises(TimeoutError):
        session.wait_ended(timeout=0.02)
    threading.Timer(0.05, adapter.end, [session.session_id], {
        "state": State.TIMED_OUT, "reason": CloseReason.BACKEND, "detail": "the service's own limit"
    }).start()  # fmt: skip
    status = session.wait_ended(timeout=PATIENCE)
    assert (status.status, status.close_reason) == (State.TIMED_OUT, CloseReason.BACKEND)
    assert session.wait_ended() == status


def test_deadlines_are_kept_while_the_caller_sleeps():
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session(timeout_minutes=0.05 / 60).start()
        eventually(lambda: adapter.released)  # this thread asks the library for nothing meanwhile
        eventually(lambda: session.state is State.TIMED_OUT)
        with pytest.raises(SessionTimedOut):
            session.get_cookies()


# --- the user's own exception -------------------------------------------------------------------------------------


class Oops(Exception):
    pass


def assert_untouched(error, context, tb_functions):
    assert error.__context__ is context
    assert error.__cause__ is None
    assert not error.__suppress_context__
    assert not getattr(error, "__notes__", [])
    assert [f.name for f in traceback.extract_tb(error.__traceback__)] == tb_functions


def _raise(error):
    raise error


def test_an_exception_of_the_body_arrives_unchanged():
    adapter = MemoryAdapter()
    mine = Oops("mine")
    with Client(adapter=adapter, store="memory:") as client:
        with pytest.raises(Oops) as caught, client.Session() as session:
            _raise(mine)
        assert caught.value is mine
        assert_untouched(mine, None, ["test_an_exception_of_the_body_arrives_unchanged", "_raise"])
        assert session.state is State.CLOSED
        assert session.status().close_reason is CloseReason.MANUAL
        assert adapter.released == [session.session_id]


def test_an_exception_of_the_body_keeps_its_own_context():
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        first = ValueError("first")
        with pytest.raises(Oops) as caught, client.Session():
            try:
                raise first
            except ValueError:
                raise Oops from None
        assert caught.value.__context__ is first


def test_an_exception_of_the_async_body_arrives_unchanged():
    adapter = MemoryAdapter()
    mine = Oops("mine")

    async def main():
        async with AsyncClient(adapter=adapter, store="memory:") as client, client.Session():
            _raise(mine)

    with pytest.raises(Oops) as caught:
        asyncio.run(main())
    assert caught.value is mine
    assert mine.__context__ is None
    assert not getattr(mine, "__notes__", [])
    assert [f.name for f in traceback.extract_tb(mine.__traceback__)][-2:] == ["main", "_raise"]
    assert adapter.opened == adapter.released


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_is_no_exception_arrives_unchanged_too(kind):
    adapter = MemoryAdapter()
    mine = kind("mine")
    with Client(adapter=adapter, store="memory:") as client:
        with pytest.raises(kind) as caught, client.Session():
            raise mine
        assert caught.value is mine
        assert mine.__context__ is None
        assert adapter.opened == adapter.released


@pytest.mark.parametrize("use_async", [False, True])
def test_trouble_in_the_teardown_becomes_a_note_on_it(use_async):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    mine = Oops("mine")
    if use_async:

        async def main():
            async with AsyncClient(adapter=adapter, store="memory:") as client, client.Session():
                raise mine

        with pytest.raises(Oops) as caught:
            asyncio.run(main())
    else:
        with Client(adapter=adapter, store="memory:") as client:
            with pytest.raises(Oops) as caught, client.Session() as session:
                raise mine
            assert session.state is State.ERROR
    assert caught.value is mine
    assert mine.__context__ is None
    [note] = mine.__notes__
    assert "ReleaseFailed" in note


def test_trouble_in_the_teardown_of_a_good_body_is_raised(way):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    with pytest.raises(ReleaseFailed) as caught, way.client(adapter=adapter).Session() as session:
        pass
    assert caught.value.session_id == session.session_id
    assert session.state is State.ERROR
    session.stop()  # told once; a repeated stop is silent


def test_trouble_of_an_expiry_is_told_at_the_end_of_the_block(way, clock):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    client = way.client(adapter=adapter, clock=clock)
    with pytest.raises(ReleaseFailed), client.Session(timeout_minutes=1) as session:
        clock.advance(61)
        session.wait_ended(timeout=PATIENCE)


def test_a_block_that_outlives_its_session_ends_without_an_error(way, clock):
    with way.client(clock=clock).Session(timeout_minutes=1) as session:
        clock.advance(61)
        session.wait_ended(timeout=PATIENCE)
    assert session.state is State.TIMED_OUT
    assert session.status().close_reason is CloseReason.IDLE_TIMEOUT


# --- owner and guests ---------------------------------------------------------------------------------------------


def test_a_guest_uses_the_session_of_its_owner(way, clock):
    client = way.client(clock=clock)
    owner = client.Session(name="shop", labels={"a": "b"}).start()
    guest = client.Session(owner.session_id)
    assert guest.state is State.NOT_STARTED
    guest.start()
    assert guest.session_id == owner.session_id
    assert guest.attachment_id != owner.attachment_id
    guest.set_cookies(cookies=[COOKIE])
    assert owner.get_cookies() == guest.get_cookies() != []
    clock.advance(30)
    assert guest.status() == owner.status()
    assert guest.extend(minutes=5).max_duration_minutes == 20.0
    assert owner.status().max_duration_minutes == 20.0
    guest.stop()


def test_use_by_a_guest_moves_the_idle_deadline(way, clock):
    client = way.client(clock=clock)
    owner = client.Session(timeout_minutes=1).start()
    guest = client.Session(owner.session_id).start()
    for _ in range(4):
        clock.advance(40)
        guest.get_cookies()
    assert owner.state is guest.state is State.ACTIVE
    clock.advance(61)
    assert guest.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT
    with pytest.raises(SessionTimedOut):
        guest.get_cookies()


def test_a_detached_guest_is_closed_and_the_session_goes_on(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    owner = client.Session().start()
    guest = client.Session(owner.session_id).start()
    guest.detach()
    assert (guest.state, guest.status().close_reason) == (State.CLOSED, CloseReason.DETACHED)
    assert adapter.released == []
    assert owner.get_cookies() == []
    with pytest.raises(SessionClosed) as caught:
        guest.get_cookies()
    assert caught.value.close_reason is CloseReason.DETACHED
    guest.detach()  # silent, as a repeated stop
    guest.stop()  # it has left: this is no stop for the others any more
    assert owner.state is State.ACTIVE


def test_the_stop_of_a_guest_is_everybodys_stop(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    owner = client.Session().start()
    guest, other = client.Session(owner.session_id).start(), client.Session(owner.session_id).start()
    guest.stop()
    assert guest.state is State.CLOSED
    assert owner.state is State.CLOSED, "a stop returns when the session is over"
    assert other.wait_ended(timeout=PATIENCE).status is State.CLOSED
    assert {s.status().close_reason for s in (owner, guest, other)} == {CloseReason.MANUAL}
    assert adapter.released == [owner.session_id]


ENDINGS = {
    "stop": (lambda adapter, owner, clock: owner.stop(), State.CLOSED, CloseReason.MANUAL),
    "crash": (lambda adapter, owner, clock: adapter.crash(owner.session_id), State.ERROR, CloseReason.CRASH),
    "idle": (lambda adapter, owner, clock: clock.advance(61), State.TIMED_OUT, CloseReason.IDLE_TIMEOUT),
    "max": (lambda adapter, owner, clock: clock.advance(121), State.TIMED_OUT, CloseReason.MAX_DURATION),
    "backend": (
        lambda adapter, owner, clock: adapter.end(
            owner.session_id, state=State.CLOSED, reason=CloseReason.BACKEND, detail="closed by hand"
        ),
        State.CLOSED,
        CloseReason.BACKEND,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_guest_follows_the_end_of_its_owner(way, clock, ending):
    end, state, reason = ENDINGS[ending]
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter, clock=clock)
    idle = 2 if ending == "max" else 1
    owner = client.Session(timeout_minutes=idle, max_duration_minutes=2).start()
    if ending == "max":
        clock.advance(30)
        owner.get_cookies()
    guest = client.Session(owner.session_id).start()
    end(adapter, owner, clock)
    told = guest.wait_ended(timeout=PATIENCE)
    final = owner.wait_ended(timeout=PATIENCE)
    assert (final.status, final.close_reason) == (state, reason)
    assert (told.status, told.close_reason) == (state, reason)
    assert adapter.released == [owner.session_id]
    assert sum(r.terminal for r in guest.history()) == 2
    assert {r.attachment_id for r in guest.history() if r.terminal} == {owner.attachment_id, guest.attachment_id}
    with pytest.raises(SessionEnded) as mine:
        guest.get_cookies()
    with pytest.raises(SessionEnded) as theirs:
        owner.get_cookies()
    assert type(mine.value) is type(theirs.value)


def test_the_owner_cant_detach(way):
    session = way.client().Session().start()
    with pytest.raises(UnsupportedOperation) as caught:
        session.detach()
    assert "lifecycle serve" in caught.value.way_out
    assert caught.value.adapter == "memory"
    assert session.state is State.ACTIVE
    assert session.get_cookies() == []
    assert [r.kind for r in session.history()][-1] is RecordKind.REJECTED


def test_detach_before_the_start_is_no_edge(way):
    session = way.client().Session()
    with pytest.raises(InvalidTransition) as caught:
        session.detach()
    assert caught.value.event is Event.DETACH
    assert session.state is State.NOT_STARTED


@pytest.mark.parametrize("on_exit", ["stop", "detach"])
def test_on_exit_says_what_the_end_of_a_block_does(way, on_exit):
    client = way.client()
    owner = client.Session().start()
    with client.Session(owner.session_id, on_exit=on_exit) as guest:
        guest.get_cookies()
    assert guest.state is State.CLOSED
    assert owner.state is (State.CLOSED if on_exit == "stop" else State.ACTIVE)
    assert guest.status().close_reason is (CloseReason.MANUAL if on_exit == "stop" else CloseReason.DETACHED)


def test_on_exit_detach_needs_a_session_to_leave_behind(way):
    with pytest.raises(ConfigError) as caught:
        way.client().Session(on_exit="detach")
    assert (caught.value.option, caught.value.value) == ("on_exit", "detach")


def test_eight_guests_eight_detaches_and_a_stop_are_one_end(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    owner = client.Session().start()
    guests = [client.Session(owner.session_id).start() for _ in range(8)]
    results = way.together([*((g, "detach") for g in guests), (owner, "stop")])
    assert [r for r in results if r is not None] == []
    assert adapter.released == [owner.session_id]
    for session in (owner, *guests):
        status = session.wait_ended(timeout=PATIENCE)
        assert status.status is State.CLOSED
    records = owner.history()
    assert sum(r.terminal and r.attachment_id == owner.attachment_id for r in records) == 1
    for guest in guests:
        assert sum(r.terminal and r.attachment_id == guest.attachment_id for r in records) == 1
    for attachment in {r.attachment_id for r in records}:
        numbers = [r.attachment_seq for r in records if r.attachment_id == attachment]
        assert numbers == list(range(1, len(numbers) + 1))


def test_eight_guests_that_all_stop_are_one_end(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    owner = client.Session().start()
    guests = [client.Session(owner.session_id).start() for _ in range(8)]
    results = way.together([*((g, "stop") for g in guests), (owner, "stop")])
    assert [r for r in results if r is not None] == []
    assert adapter.released == [owner.session_id]
    assert {s.state for s in (owner, *guests)} == {State.CLOSED}


def test_guests_at_work_while_the_owner_stops_see_nothing_but_its_end():
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store="memory:") as client:
        for _ in range(5):
            owner = client.Session().start()
            guests = [client.Session(owner.session_id).start() for _ in range(4)]
            working = threading.Semaphore(0)

            def work(guest, working=working):
                working.release()
                with pytest.raises(SessionClosed):
                    while True:
                        guest.get_cookies()
                        guest.status()

            def stop(owner=owner, working=working):
                for _ in range(4):
                    assert working.acquire(timeout=PATIENCE)
                owner.stop()

            *ends, stopped = in_threads([*(lambda g=g: work(g) for g in guests), stop])
            assert stopped is None
            assert ends == [None] * 4


@pytest.mark.parametrize("when", ["before", "as it connects", "once it is connected"])
@pytest.mark.parametrize(
    ("state", "error"), [("closed", SessionClosed), ("timed_out", SessionTimedOut), ("error", SessionFailed)]
)
def test_attaching_to_a_session_that_is_over_tells_how_it_ended(way, clock, state, error, when, monkeypatch):
    adapter, store, real = MemoryAdapter(), MemoryStore(), GuestBackend.connect
    owner = Client(adapter=adapter, store=store, clock=clock).Session(timeout_minutes=1).start()

    def end():
        {
            "closed": owner.stop,
            "timed_out": lambda: clock.advance(61),
            "error": lambda: adapter.crash(owner.session_id),
        }[state]()
        owner.wait_ended(timeout=PATIENCE)

    async def connect(*args):
        backend = await real(*args) if when == "once it is connected" else None
        await asyncio.to_thread(end)
        return backend or await real(*args)

    if when == "before":
        end()
    else:
        monkeypatch.setattr(GuestBackend, "connect", connect)
    guest = way.client(store=store).Session(owner.session_id)
    with pytest.raises(error) as caught:
        guest.start()
    assert caught.value.close_reason is owner.status().close_reason
    assert caught.value.session_id == owner.session_id
    assert guest.state is State.ERROR
    assert sum(r.terminal for r in guest.history() if r.attachment_id == guest.attachment_id) == 1


def test_attaching_to_an_unknown_session_names_it(way):
    client = way.client()
    with pytest.raises(ConfigError) as caught:
        client.Session("no-such-session").start()
    assert (caught.value.option, caught.value.value) == ("session_id", "no-such-session")


def test_a_guest_can_attach_through_another_client_on_the_same_store(way, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    owner = way.client(store=url).Session().start()
    guest = way.client(store=url).Session(owner.session_id).start()
    guest.stop()
    assert owner.state is State.CLOSED


def test_closing_a_client_stops_its_sessions_and_leaves_those_it_visits(way, tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"
    adapter = MemoryAdapter()
    one, two = way.client(store=url, adapter=adapter), way.client(store=url)
    owner = one.Session().start()
    mine = two.Session().start()
    visitor = two.Session(owner.session_id, on_exit="detach").start()
    two.close()
    assert (mine.state, visitor.state) == (State.CLOSED, State.CLOSED)
    assert visitor.status().close_reason is CloseReason.DETACHED
    assert owner.state is State.ACTIVE
    one.close()
    assert owner.state is State.CLOSED
    assert adapter.released == [owner.session_id]


# --- a session of another process ---------------------------------------------------------------------------------

OWNER = """
    import sys
    from lifecycle import Client
    from lifecycle_adapters.memory import MemoryAdapter

    adapter = MemoryAdapter()
    client = Client(adapter=adapter, store=sys.argv[1])
    session = client.Session(name="theirs", labels={"who": "child"}, timeout_minutes=5)
    session.start()
    print(session.session_id, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["crash"]:
                adapter.crash(session.session_id)
            case ["cookies"]:
                print(len(session.get_cookies()), flush=True)
            case ["stop"]:
                session.stop()
            case ["wait"]:
                status = session.wait_ended(timeout=20)
                print(status.status, status.close_reason, len(adapter.released), flush=True)
"""


class OtherProcess:
    """A process that owns one memory session."""

    def __init__(self, store):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OWNER), store],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.session_id = self.read()

    def read(self):
        return self.process.stdout.readline().strip()

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line):
        self.say(line)
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture
def other(url):
    other = OtherProcess(url)
    yield other
    other.end()


def test_a_guest_in_another_process_works_and_stops_the_session(way, url, other):
    client = way.client(store=url)
    with client.Session(other.session_id) as guest:
        assert guest.state is State.ACTIVE
        status = guest.status()
        assert (status.name, status.labels, status.timeout_minutes) == ("theirs", {"who": "child"}, 5.0)
        guest.set_cookies(cookies=[COOKIE])
        assert other.ask("cookies") == "1"
        assert guest.extend(minutes=5).max_duration_minutes == 20.0
    assert other.ask("wait") == "closed manual 1"
    assert guest.state is State.CLOSED


def test_a_guest_in_another_process_detaches(way, url, other):
    guest = way.client(store=url).Session(other.session_id).start()
    guest.detach()
    assert guest.status().close_reason is CloseReason.DETACHED
    assert other.ask("cookies") == "0"


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [("stop", State.CLOSED, CloseReason.MANUAL), ("crash", State.ERROR, CloseReason.CRASH)],
)
def test_a_guest_in_another_process_follows_the_end(way, url, other, how, state, reason):
    guest = way.client(store=url).Session(other.session_id).start()
    other.say(how)
    status = guest.wait_ended(timeout=PATIENCE)
    assert (status.status, status.close_reason) == (state, reason)


def test_a_guest_of_a_killed_process_fails_with_owner_died(way, url, other):
    client = way.client(store=url)
    guest = client.Session(other.session_id).start()
    other.process.kill()
    other.process.wait(PATIENCE)
    status = guest.wait_ended(timeout=PATIENCE)
    assert (status.status, status.close_reason) == (State.ERROR, CloseReason.OWNER_DIED)
    with pytest.raises(SessionFailed):
        guest.get_cookies()
    guest.stop()
    seen = client.sessions.get(other.session_id)
    assert (seen.status, seen.close_reason) == (State.ERROR, CloseReason.OWNER_DIED)
    with pytest.raises(SessionFailed) as caught:
        client.Session(other.session_id).start()
    assert caught.value.close_reason is CloseReason.OWNER_DIED


def test_sessions_of_another_process_are_listed_got_and_stopped(way, url, other):
    client = way.client(store=url)
    [listed] = client.sessions.list(status="active", label="who=child")
    assert listed.session_id == other.session_id
    assert client.sessions.get(other.session_id).name == "theirs"
    assert client.sessions.stop(other.session_id).status is State.CLOSED
    assert client.sessions.stop(other.session_id).close_reason is CloseReason.MANUAL
    assert other.ask("wait") == "closed manual 1"
    assert client.sessions.list(status="active") == []


def test_an_owner_that_ends_its_process_ends_its_guests(way, url, other):
    guest = way.client(store=url).Session(other.session_id).start()
    other.end()
    status = guest.wait_ended(timeout=PATIENCE)
    assert status.status is State.CLOSED
    assert status.close_reason is CloseReason.ABANDONED


# --- sessions by id -----------------------------------------------------------------------------------------------


def test_sessions_are_listed_newest_first_and_filtered(way, clock):
    client = way.client(clock=clock)
    made = []
    for n in range(6):
        session = client.Session(labels={"n": str(n), "odd": str(n % 2)}).start()
        made.append(session)
        clock.advance(1)
        if n >= 4:
            session.stop()
    ids = [s.session_id for s in made]

    def listed(**kwargs):
        return [ids.index(s.session_id) for s in client.sessions.list(**kwargs)]

    assert listed() == [5, 4, 3, 2, 1, 0]
    assert listed(status="active") == [3, 2, 1, 0]
    assert listed(status="closed") == [5, 4]
    assert listed(status="error") == []
    assert listed(label="odd=1") == [5, 3, 1]
    assert listed(label={"odd": "1", "n": "3"}) == [3]
    assert listed(label="odd=1", status="active") == [3, 1]
    assert listed(limit=2) == [5, 4]
    assert listed(limit=2, offset=3) == [2, 1]
    assert client.sessions.list(limit=1)[0] == made[5].status()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("status", "activ"),
        ("label", "novalue"),
        ("label", "=x"),
        ("limit", 0),
        ("limit", True),
        ("offset", -1),
        ("limit", "5"),
    ],
)
def test_a_bad_filter_is_named(way, option, value):
    with pytest.raises(ConfigError) as caught:
        way.client().sessions.list(**{option: value})
    assert (caught.value.option, caught.value.value) == (option, value)
    if option == "status":
        assert "did you mean 'active'" in caught.value.allowed


def test_a_session_is_got_and_stopped_by_its_id(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    session = client.Session().start()
    assert client.sessions.get(session.session_id).status is State.ACTIVE
    assert client.sessions.stop(session.session_id).status is State.CLOSED
    assert adapter.released == [session.session_id]
    assert client.sessions.stop(session.session_id).status is State.CLOSED
    assert client.sessions.get(session.session_id) == session.status()
    assert session.history()[-1].cause == "sessions.stop"


@pytest.mark.parametrize("call", ["get", "stop"])
def test_an_unknown_id_is_named(way, call):
    with pytest.raises(ConfigError) as caught:
        getattr(way.client().sessions, call)("nobody")
    assert (caught.value.option, caught.value.value) == ("session_id", "nobody")


def test_a_session_that_is_being_started_can_be_stopped_by_its_id(way):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    client = way.client(adapter=adapter)
    session = client.Session()
    raw = way.raw(client)

    def stop():
        eventually(lambda: adapter._hanging)
        core = raw._core

        async def work(caller):
            return await core.stop_session(way.raw(session).session_id, caller)

        return core.supervisor.call(work)

    results = []
    stopper = threading.Thread(target=lambda: results.append(stop()))
    stopper.start()
    with pytest.raises(SessionClosed):
        session.start()
    stopper.join()
    assert results[0].status is State.CLOSED
    assert adapter.opened == adapter.released


# --- events -------------------------------------------------------------------------------------------------------


def test_events_are_the_records_as_they_become_durable():
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        with Client(adapter=MemoryAdapter(), store="memory:") as stranger:
            events = client.events()
            with stranger.Session(), client.Session() as session:
                pass
            seen = [events.get(timeout=PATIENCE) for _ in range(4)]
            assert seen == session.history()
            assert all(isinstance(r, Record) for r in seen)
            with pytest.raises(TimeoutError):
                events.get(timeout=0.02)
        later = client.events()
    assert list(events) == []  # the end of the client is the end of the stream
    assert later.get(timeout=PATIENCE) is None
    assert later.get(timeout=PATIENCE) is None


def test_events_of_an_async_client():
    async def main():
        client = AsyncClient(adapter=MemoryAdapter(), store="memory:")
        events = client.events()
        async with client.Session() as session:
            pass
        seen = [await events.get(timeout=PATIENCE) for _ in range(4)]
        assert seen == await session.history()
        with pytest.raises(TimeoutError):
            await events.get(timeout=0.02)
        await client.close()
        assert [r async for r in events] == []

    asyncio.run(main())


def test_two_clients_on_one_store_hear_of_their_own_sessions_only(url):
    with (
        Client(adapter=MemoryAdapter(), store=url) as one,
        Client(adapter=MemoryAdapter(), store=url) as two,
    ):
        first, second = one.events(), two.events()
        with one.Session() as mine:
            pass
        with two.Session() as theirs:
            pass
        assert {first.get(PATIENCE).session_id for _ in range(4)} == {mine.session_id}
        assert {second.get(PATIENCE).session_id for _ in range(4)} == {theirs.session_id}


def test_a_closed_stream_ends_and_gets_no_more():
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        events = client.events()
        with client.Session():
            pass
        events.close()
        events.close()
        with client.Session():
            pass
        assert len(list(events)) == 4


def test_a_reader_that_falls_behind_loses_the_oldest_and_is_told_how_many(monkeypatch):
    monkeypatch.setattr(client_module, "EVENTS_KEPT", 3)
    with Client(adapter=MemoryAdapter(), store="memory:") as client:
        events = client.events()
        with client.Session() as session:
            pass
        eventually(lambda: events.dropped == 1)
        assert [events.get(PATIENCE) for _ in range(3)] == session.history()[1:]


# --- the life of a client -----------------------------------------------------------------------------------------


def test_a_closed_client_makes_and_starts_nothing(way):
    client = way.client()
    session = client.Session()
    client.close()
    client.close()
    with pytest.raises(UsageError, match="client is closed"):
        client.Session()
    with pytest.raises(UsageError, match="client is closed"):
        session.start()
    with pytest.raises(UsageError, match="client is closed"):
        client.sessions.list()


def test_stopping_a_session_of_a_closed_client_neither_hangs_nor_fails(way):
    client = way.client()
    never, ended = client.Session(), client.Session().start()
    client.close()
    assert ended.state is State.CLOSED
    ended.stop(timeout=PATIENCE)
    never.stop(timeout=PATIENCE)
    with pytest.raises(SessionClosed):
        ended.get_cookies()
    assert ended.status().status is State.CLOSED


def test_closing_a_client_stops_a_session_that_is_being_started(way):
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    client = way.client(adapter=adapter)
    session = client.Session()
    core = way.raw(client)._core

    def close():
        eventually(lambda: adapter._hanging)

        async def work(_):
            return await core.close()

        core.supervisor.call(work)

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(SessionClosed):
        session.start()
    closer.join(PATIENCE)
    assert adapter.opened == adapter.released


def test_a_start_that_meets_the_end_of_its_client_opens_nothing(monkeypatch):
    """The first start of a process waits for the control socket; the client may be closed meanwhile."""
    adapter = MemoryAdapter()
    client = Client(adapter=adapter, store="memory:")
    session = client.Session()
    core = client._core
    waiting, go_on = threading.Event(), asyncio.Event()

    async def ensure_control():
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr(core.supervisor, "ensure_control", ensure_control)
    results = []
    starter = threading.Thread(target=lambda: results.extend(in_threads([session.start])))
    starter.start()
    assert waiting.wait(PATIENCE)
    client.close()
    core.supervisor.thread.post(go_on.set)
    starter.join(PATIENCE)
    assert not starter.is_alive()
    assert isinstance(results[0], LifecycleError)
    assert adapter.opened == adapter.released


def test_a_dropped_client_stops_its_sessions_and_says_so():
    adapter = MemoryAdapter()
    store = MemoryStore()
    client = Client(adapter=adapter, store=store)
    session_id = client.Session().start().session_id
    with pytest.warns(ResourceWarning, match="dropped with 1 session"):
        del client
        gc.collect()
    eventually(lambda: adapter.released == [session_id])
    eventually(lambda: any(r.terminal for _, r in store.records()))
    [end] = [r for _, r in store.records() if r.terminal]
    assert (end.cause, end.close_reason) == ("abandoned", CloseReason.ABANDONED)


def test_a_client_keeps_its_active_sessions_alive(way):
    adapter = MemoryAdapter()
    client = way.client(adapter=adapter)
    session_id = client.Session().start().session_id
    gc.collect()
    assert adapter.live == [session_id]
    assert client.sessions.get(session_id).status is State.ACTIVE


def test_an_ended_session_is_let_go(way):
    import weakref

    client = way.client()
    with client.Session() as session:
        pass
    att = weakref.ref(way.raw(session)._att)
    gone = weakref.ref(way.raw(session))
    del session
    for _ in range(3):
        gc.collect()
    assert gone() is None
    del att


def test_close_raises_what_went_wrong_in_the_teardowns(way):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    client = way.client(adapter=adapter)
    client.Session().start()
    with pytest.raises(ReleaseFailed):
        client.close()
    client.close()


def test_fork_gives_the_child_a_client_of_its_own(tmp_path):
    script = """
        import os, sys
        from lifecycle import Client, UsageError
        client = Client(adapter="memory", store=sys.argv[1])
        session = client.Session().start()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    session.get_cookies()
                except UsageError as e:
                    assert "forked" in str(e), e
                    with client.Session() as mine:
                        assert mine.state == "active"
                    code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert session.get_cookies() == []
        session.stop()
        print(os.waitstatus_to_exitcode(status), session.state)
    """
    url = f"sqlite:///{tmp_path / 's.db'}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script), url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == (["0", "closed"], "")


def test_the_end_of_the_interpreter_stops_what_is_active(tmp_path):
    script = """
        import sys
        from lifecycle import Client
        client = Client(adapter="memory", store=sys.argv[1])
        session = client.Session(cookie_file=sys.argv[2]).start()
        session.set_cookies(cookies=[{"name": "a", "value": "b", "domain": "example.com", "path": "/"}])
        print(session.session_id)
    """
    url, cookies = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "c.json"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), url, str(cookies)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    with Client(adapter="memory", store=url) as client:
        status = client.sessions.get(done.stdout.strip())
    assert (status.status, status.close_reason) == (State.CLOSED, CloseReason.ABANDONED)
    assert "example.com" in cookies.read_text()


# --- bad input ----------------------------------------------------------------------------------------------------

BAD_OPTIONS = [
    ("timeout_minutes", 0, {}),
    ("timeout_minutes", -1, {}),
    ("timeout_minutes", True, {}),
    ("timeout_minutes", "3", {}),
    ("timeout_minutes", float("nan"), {}),
    ("timeout_minutes", float("inf"), {}),
    ("timeout_minutes", 10**7, {}),
    ("timeout_minutes", 20, {"max_duration_minutes": 10}),
    ("idle_timeout_minutes", 0, {}),
    ("idle_timeout_minutes", 20, {"max_duration_minutes": 10}),
    ("idle_timeout_minutes", 4, {"timeout_minutes": 5}),
    ("max_duration_minutes", 0, {}),
    ("max_duration_minutes", -0.5, {}),
    ("max_duration_minutes", [], {}),
    ("start_timeout_minutes", 0, {}),
    ("headless", "no", {}),
    ("headless", 1, {}),
    ("viewport_width", 0, {"viewport_height": 100}),
    ("viewport_width", 1.5, {"viewport_height": 100}),
    ("viewport_height", 10_001, {"viewport_width": 100}),
    ("user_agent", "", {}),
    ("user_agent", "a\r\nHost: b", {}),
    ("user_agent", 5, {}),
    ("executable_path", 5, {}),
    ("executable_path", "", {}),
    ("cookie_file", b"bytes", {}),
    ("cookie_file", "a\0b", {}),
    ("cookie_scope", "some", {}),
    ("on_exit", "leave", {}),
    ("prefetch_page", "yes", {}),
    ("name", "", {}),
    ("name", "two\nlines", {}),
    ("name", "half \ud800 a pair", {}),
    ("principal", "", {}),
    ("principal", "two\nlines", {}),
    ("principal", 7, {}),
    ("labels", ["a"], {}),
    ("labels", {"": "x"}, {}),
    ("labels", {"a": 1}, {}),
    ("labels", {"a": "x" * 1001}, {}),
    ("labels", {"a": "\ud800"}, {}),
    ("labels", {"\udc00": "a"}, {}),
    ("chrome_args", "--flag", {}),
    ("chrome_args", ["flag"], {}),
    ("chrome_args", ["--remote-debugging-port=9222"], {}),
    ("proxy", 5, {}),
    ("proxy", "ftp://host", {}),
    ("proxy", {"server": "http://host", "pass": "x"}, {}),
]


@pytest.mark.parametrize(("option", "value", "others"), BAD_OPTIONS, ids=lambda v: ascii(v)[:40])
def test_a_bad_option_is_named_with_its_value_and_what_is_allowed(way, option, value, others):
    client = way.client()
    with pytest.raises(ConfigError) as caught:
        client.Session(**{option: value}, **others)
    error = caught.value
    assert error.option == option
    assert error.allowed
    assert error.option in str(error)
    assert error.allowed in str(error)
    if option not in ("chrome_args", "proxy", "labels"):
        assert error.value is value or error.value == value


def test_half_a_viewport_names_the_other_half(way):
    client = way.client()
    with pytest.raises(ConfigError) as caught:
        client.Session(viewport_width=100)
    assert caught.value.option == "viewport_height"
    with pytest.raises(ConfigError) as caught:
        client.Session(viewport_height=100)
    assert caught.value.option == "viewport_width"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("timeout_minute", "timeout_minutes"), ("headles", "headless"), ("cookies_file", "cookie_file")],
)
def test_an_unknown_option_names_the_nearest(way, given, meant):
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'") as caught:
        way.client().Session(**{given: 1})
    assert caught.value.option == given


@pytest.mark.parametrize("session_id", ["", "   ", 5, b"x", "half \ud800"])
def test_a_bad_session_id_is_named(way, session_id):
    with pytest.raises(ConfigError) as caught:
        way.client().Session(session_id)
    assert caught.value.option == "session_id"


def test_good_options_arrive(way):
    session = way.client().Session(idle_timeout_minutes=20)
    assert session.status().timeout_minutes == 20.0
    assert session.status().max_duration_minutes == 20.0
    assert way.client().Session().status().timeout_minutes == 3.0
    assert way.client().Session().status().max_duration_minutes == 15.0


def test_options_are_keyword_only(way):
    with pytest.raises(TypeError):
        way.client().Session("id", True)


def test_an_unknown_adapter_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'memory'") as caught:
        Client(adapter="memroy")
    assert caught.value.option == "adapter"


@pytest.mark.parametrize("adapter", [MemoryAdapter, object(), 5, {}])
def test_what_is_no_adapter_object_is_refused(adapter):
    with pytest.raises(ConfigError) as caught:
        Client(adapter=adapter, store="memory:")
    assert caught.value.option == "adapter"


@pytest.mark.parametrize("clock", [5, "now", ManualClock, object()])
def test_what_is_no_clock_is_refused(clock):
    with pytest.raises(ConfigError) as caught:
        Client(adapter="memory", store="memory:", clock=clock)
    assert caught.value.option == "clock"


def test_the_environment_names_the_adapter(monkeypatch):
    monkeypatch.setenv("LIFECYCLE_ADAPTER", "memory")
    with Client(store="memory:") as client, client.Session() as session:
        assert session.status().adapter == "memory"
    monkeypatch.setenv("LIFECYCLE_ADAPTER", "nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        Client(store="memory:")


@pytest.mark.parametrize(
    "store", ["sqlite:////no/such/folder/s.db", "sqlite:////proc/s.db", "mongodb://x", "memory", 5, "sqlite:s.db"]
)
def test_a_store_that_cant_be_used_is_named(store):
    with pytest.raises(ConfigError) as caught:
        Client(adapter="memory", store=store)
    assert caught.value.option == "store"


def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine, not yours\n" * 100)
    with pytest.raises(ConfigError) as caught:
        Client(adapter="memory", store=f"sqlite:///{path}")
    assert caught.value.option == "store"
    assert path.read_text() == "mine, not yours\n" * 100


def test_texts_that_have_no_utf8_form_never_stop_the_log(way, tmp_path):
    """A record that can't be written would keep every later one out: such texts are refused or replaced."""
    client = way.client(store=f"sqlite:///{tmp_path / 's.db'}")
    path = tmp_path / "cookies.json"
    path.write_text(json.dumps([{"name": "odd\ud800", "value": "1", "domain": "example.com", "path": "/"}]))
    bad_path = str(tmp_path / "torn\udcff.json")
    with open(bad_path, "w") as f:
        f.write("[{")
    threading.current_thread().name = "odd\ud800"
    try:
        with client.Session(cookie_file=path) as session:
            pass
        with pytest.raises(lifecycle.CookieFileError):
            client.Session(cookie_file=bad_path).start()
    finally:
        threading.current_thread().name = "MainThread"
    with client.Session() as later:
        pass
    assert len(later.history()) == 4
    assert len(session.history()) == 4


# --- the two clients are one --------------------------------------------------------------------------------------


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


PAIRS = [
    (Client, AsyncClient),
    (Session, AsyncSession),
    (client_module.Sessions, client_module.AsyncSessions),
    (client_module.EventStream, client_module.AsyncEventStream),
]


@pytest.mark.parametrize(("sync", "mirror"), PAIRS)
def test_the_async_side_mirrors_every_name(sync, mirror):
    assert public(sync) == public(mirror)
    for name in public(sync):
        one, two = inspect.getattr_static(sync, name), inspect.getattr_static(mirror, name)
        if (sync, name) == (Session, "page"):
            assert isinstance(one, property)
            assert inspect.iscoroutinefunction(two)
            continue
        assert type(one) is type(two), name
        if isinstance(one, types.FunctionType):
            ours, theirs = inspect.signature(one), inspect.signature(two)
            assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
            assert (one.__doc__ is None) == (two.__doc__ is None), name


def test_what_waits_in_one_is_a_coroutine_in_the_other():
    plain = {"Session", "hook", "events", "ref"}
    for sync, mirror in PAIRS[:3]:
        for name in public(sync) - {"page"}:
            if isinstance(inspect.getattr_static(sync, name), types.FunctionType):
                assert inspect.iscoroutinefunction(getattr(mirror, name)) == (name not in plain), name
                assert not inspect.iscoroutinefunction(getattr(sync, name))


def test_options_of_both_are_keyword_only():
    for kind in (Client, AsyncClient):
        parameters = list(inspect.signature(kind).parameters.values())
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters)
        assert [p.name for p in parameters] == [
            "adapter",
            "store",
            "clock",
            "reap_on_start",
            "spool",
            "lease_seconds",
            "peers",
            "checkpoints",
        ]


def test_all_is_exact():
    names = {
        name
        for name, value in vars(lifecycle).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert sorted(names) == lifecycle.__all__
    assert len(set(lifecycle.__all__)) == len(lifecycle.__all__)


def test_every_error_is_exported():
    from lifecycle import errors

    assert set(errors.__all__) <= set(lifecycle.__all__)
    found = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, LifecycleError)}
    assert found == set(errors.__all__)


# --- what adversaries found ---------------------------------------------------------------------------------------


def test_a_session_is_not_stopped_through_a_client_of_another_store(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session().start()
    with pytest.raises(ConfigError) as caught:
        way.client().sessions.stop(session.session_id)
    assert caught.value.option == "session_id"
    assert session.state is State.ACTIVE


def test_stopping_by_id_tells_of_a_failed_release(way):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    client = way.client(adapter=adapter)
    session = client.Session().start()
    with pytest.raises(ReleaseFailed):
        client.sessions.stop(session.session_id)
    assert client.sessions.get(session.session_id).status is State.ERROR
    with pytest.raises(ReleaseFailed):
        session.stop()  # nobody told this handle yet


def test_a_guest_whose_stop_meets_a_failed_release_is_told(way):
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    client = way.client(adapter=adapter)
    owner = client.Session().start()
    guest = client.Session(owner.session_id).start()
    with pytest.raises(ReleaseFailed):
        guest.stop()
    assert owner.wait_ended(timeout=PATIENCE).status is State.ERROR


def test_an_operation_of_a_guest_in_flight_when_it_leaves_is_told_at_once():
    adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="hang")])
    with Client(adapter=adapter, store="memory:") as client:
        owner = client.Session().start()
        guest = client.Session(owner.session_id).start()

        def leave():
            eventually(lambda: adapter._hanging)
            guest.detach()

        operation, left = in_threads([guest.get_cookies, leave])
        assert left is None
        assert isinstance(operation, SessionClosed)
        assert operation.close_reason is CloseReason.DETACHED
        adapter.release_hangs()
        assert owner.state is State.ACTIVE


def test_a_second_close_waits_for_the_first():
    adapter = MemoryAdapter(faults=[Fault(step="close_connections", kind="hang")])
    client = Client(adapter=adapter, store="memory:")
    session = client.Session().start()
    states = []

    def close():
        client.close()
        states.append(session.state)

    def wake():
        eventually(lambda: adapter._hanging)
        eventually(lambda: client._core.closed)
        adapter.release_hangs()

    in_threads([close, close, wake])
    assert states == [State.CLOSED, State.CLOSED]


ERRORS = [
    InvalidTransition(state=State.CLOSED, event=Event.START, allowed=[Event.STOP], hint="x"),
    GuardRejected(guard=Guard.IDLE, state=State.ACTIVE, event=Event.STOP),
    UnsupportedOperation(operation="a", adapter="b", way_out="c"),
    ConfigError(option="o", value=1, allowed="two"),
    SessionTimedOut(session_id="s", close_reason=CloseReason.IDLE_TIMEOUT, closed_at=datetime.now(UTC), minutes=3.0),
    SessionFailed(session_id=None, close_reason=None),
    CookieRejected(names=["a"], reasons=["b"]),
    lifecycle.CookieSaveError(path="p", rescue_path="r", reason="q"),
    lifecycle.CookieFileError(path="p", line=3, reason="q"),
    lifecycle.HookError(edge="e", hook="h", reason="r"),
    lifecycle.StartFailed("m", step="s", adapter="a"),
    ReleaseFailed("m", session_id="s"),
    lifecycle.RemoteRejected("m", status=500),
    lifecycle.ChainBroken("m", seq=5),
    StoreError("m", store="s", rescue_path="r"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_can_be_pickled_and_copied(error):
    """Errors cross processes in worker pools; one that can't be loaded there breaks the pool."""
    import copy
    import pickle

    error.add_note("a note")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)
        assert vars(twin), "there is something to lose"


def test_ending_ids_with_odd_characters(way):
    client = way.client()
    for odd in ("../../etc/passwd", "a'b\"c; DROP TABLE sessions", "x" * 5000, "\u4e16\U0001f9ea", "a\nb", "%s{}"):
        with pytest.raises(ConfigError):
            client.Session(odd).start()
        with pytest.raises(ConfigError):
            client.sessions.get(odd)
    with client.Session() as session:
        assert session.state is State.ACTIVE


@pytest.mark.parametrize("session_id", [None, 5, [], {}, b"x", "", "half \ud800"], ids=ascii)
@pytest.mark.parametrize("call", ["get", "stop"])
@pytest.mark.parametrize("store", ["memory:", "file"])
def test_what_is_no_session_id_is_named(way, tmp_path, store, call, session_id):
    client = way.client(store=store if store == "memory:" else f"sqlite:///{tmp_path / 's.db'}")
    with pytest.raises(ConfigError) as caught:
        getattr(client.sessions, call)(session_id)
    assert caught.value.option == "session_id"


@pytest.mark.parametrize(
    ("option", "value"), [("limit", 10**30), ("offset", 10**30), ("label", 5), ("label", {"a": 1}), ("label", {1: "a"}),
                          ("label", "a=\ud800"), ("status", 5), ("status", [])]
)  # fmt: skip
def test_a_filter_that_no_store_can_answer_is_named(way, tmp_path, option, value):
    client = way.client(store=f"sqlite:///{tmp_path / 's.db'}")
    with pytest.raises(ConfigError) as caught:
        client.sessions.list(**{option: value})
    assert caught.value.option == option


def test_a_stop_inside_the_block_is_the_end_of_it(way):
    with way.client().Session() as session:
        session.stop()
        assert session.state is State.CLOSED
    assert sum(r.terminal for r in session.history()) == 1


def test_of_sixteen_starts_at_once_one_counts(way):
    adapter = MemoryAdapter()
    session = way.client(adapter=adapter).Session()
    results = way.together([(session, "start")] * 16)
    refused = [r for r in results if isinstance(r, BaseException)]
    assert len(refused) == 15
    assert {type(r) for r in refused} <= {GuardRejected, InvalidTransition}
    assert session.state is State.ACTIVE
    assert adapter.opened == [session.session_id]


def test_a_loop_that_is_gone_leaves_nothing_behind():
    """`asyncio.run` that ends in the middle of a start or stop: the session is torn down without it."""
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    client = Client(adapter=MemoryAdapter(), store="memory:")
    made = []

    async def main():
        made.append(AsyncClient(adapter=adapter, store="memory:"))
        made.append(made[0].Session())
        task = asyncio.create_task(made[1].start())
        await asyncio.to_thread(eventually, lambda: adapter._hanging, "nothing hangs")
        return task

    asyncio.run(main())
    eventually(lambda: made[1].state.terminal)
    assert adapter.opened == adapter.released
    asyncio.run(made[0].close())
    client.close()


def test_many_clients_at_once_on_one_file(tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"

    def work():
        with Client(adapter=MemoryAdapter(), store=url) as client:
            for _ in range(3):
                with client.Session() as session:
                    session.get_cookies()
        return session.session_id

    ids = in_threads([work] * 8)
    assert all(isinstance(i, str) for i in ids), ids
    with Client(adapter=MemoryAdapter(), store=url) as client:
        listed = client.sessions.list(limit=100)
        assert len(listed) == 24
        assert {s.status for s in listed} == {State.CLOSED}
        assert set(ids) <= {s.session_id for s in listed}


def test_history_and_lists_come_back_while_others_write_all_the_time(way):
    """Waiting for what is queued must not mean waiting for what comes after it."""
    client = way.client()
    busy = Client(adapter=MemoryAdapter(), store=way.raw(client)._core._opened.store)
    session = client.Session().start()
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            with busy.Session():
                pass

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert len(session.history()) == 2
            assert client.sessions.list(limit=1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        busy.close()


def test_an_exit_stack_ends_what_it_entered():
    """Seen: an ExitStack looks `__exit__` up on the class, and got one that wants more than it is given."""
    adapter = MemoryAdapter()
    with ExitStack() as stack:
        client = stack.enter_context(Client(adapter=adapter, store="memory:"))
        session = stack.enter_context(client.Session())
        assert session.state is State.ACTIVE
    assert session.state is State.CLOSED

    async def main():
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncClient(adapter=adapter, store="memory:"))
            session = await stack.enter_async_context(client.Session())
            assert session.state is State.ACTIVE
        return session

    assert asyncio.run(main()).state is State.CLOSED
    assert adapter.live == []
    with pytest.raises(ZeroDivisionError), ExitStack() as stack:
        stack.enter_context(stack.enter_context(Client(adapter=adapter, store="memory:")).Session())
        raise ZeroDivisionError
    assert adapter.live == []
