"""How one edge is carried out when something goes wrong at each of its steps, and what the log says of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from both_ways import PATIENCE, FailingStore, eventually, in_threads

from lifecycle import (
    AsyncClient,
    AuditError,
    BackendError,
    Client,
    ConnectionLost,
    CookieSaveError,
    Event,
    LifecycleError,
    RecordKind,
    ReleaseFailed,
    SessionClosed,
    SessionFailed,
    SessionTimedOut,
    StartFailed,
    State,
    StepOutcome,
    StoreError,
    spill,
)
from lifecycle.engine import supervisor
from lifecycle.flow import DeadlineEntry
from lifecycle.ports import BackendEnd
from lifecycle.states import STEPS, CloseReason, InFlight, Step
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import Fault, MemoryAdapter

CRASHED = BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail="crashed")
COOKIE = {"name": "sid", "value": "42", "domain": "example.com", "path": "/"}


@dataclass
class World:
    """A client on the memory adapter, a clock that stands still, a cookie file."""

    tmp_path: object
    faults: list = field(default_factory=list)
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self):
        self.clock = ManualClock()
        self.adapter = MemoryAdapter(faults=self.faults)
        self.client = Client(adapter=self.adapter, store=self.store, clock=self.clock)
        self.cookie_file = self.tmp_path / "cookies.json"
        self.cookie_file.write_text(json.dumps([COOKIE]))

    def session(self, **options):
        return self.client.Session(cookie_file=self.cookie_file, **options)

    def hangs(self):
        """Wait until a step hangs."""
        eventually(lambda: self.adapter._hanging, "nothing hangs")

    def let_time_pass(self, seconds):
        """Move the clock once something hangs: its budget is set then."""
        self.hangs()
        self.clock.advance(seconds)

    def records(self, session):
        return [r for _, r in self.store.records(attachment_id=session.attachment_id)]

    def told(self, session):
        return [(r.kind, r.event, r.dest) for r in self.records(session)]


@pytest.fixture
def world(tmp_path):
    made = []

    def make(*faults, store=None, kept=0):
        """`kept`: this many sessions are not released, because their release fails."""
        made.append((World(tmp_path, list(faults), store or MemoryStore()), kept))
        return made[-1][0]

    yield make
    for w, kept in made:
        w.adapter.release_hangs()
        if isinstance(w.store, FailingStore):
            w.store.broken = False
            w.store.failing.clear()
        w.client.close()
        check_log(w.store)
        assert len(w.adapter.live) == kept
        assert len(w.adapter.opened) == len(w.adapter.released) + kept
        assert set(w.adapter.released) <= set(w.adapter.opened)
        assert w.adapter.unused == []


def check_log(store):
    """What holds for every log: no gap, one terminal commit for each attachment, an intent before each commit."""
    by_writer, by_attachment = {}, {}
    for _, r in store.records():
        by_writer.setdefault(r.writer, []).append(r.writer_seq)
        by_attachment.setdefault(r.attachment_id, []).append(r)
    for numbers in by_writer.values():
        assert numbers == list(range(1, len(numbers) + 1))
    for records in by_attachment.values():
        assert [r.attachment_seq for r in records] == list(range(1, len(records) + 1))
        assert sum(r.terminal for r in records) == 1, [(r.kind, r.event) for r in records]
        intents = 0
        for r in records:
            intents += r.kind is RecordKind.INTENT
            if r.kind is RecordKind.COMMIT:
                assert intents > 0
                assert r.source != r.dest
        last = records[-1]
        assert last.adapter == "memory"


def steps(record):
    return [(s.step, s.outcome) for s in record.steps]


DONE, FAILED, TIMED_OUT, SKIPPED, CANCELLED = (
    StepOutcome.DONE, StepOutcome.FAILED, StepOutcome.TIMED_OUT, StepOutcome.SKIPPED, StepOutcome.CANCELLED
)  # fmt: skip
INTENT, COMMIT, DIVERTED = RecordKind.INTENT, RecordKind.COMMIT, RecordKind.DIVERTED


# --- start: each step, each fault ---------------------------------------------------------------------------------

START_STEPS = ["read_cookies", "open_backend", "load_cookies", "open_viewer"]


@pytest.mark.parametrize("kind", ["fail", "hang", "crash"])
@pytest.mark.parametrize("step", ["open_backend", "load_cookies"])
def test_a_start_that_fails_at_a_step_diverts(world, step, kind):
    w = world(Fault(step=step, kind=kind))
    session = w.session()
    if kind == "hang":
        budget = min(STEPS[Step(step)].budget, 60.0)
        waiter = threading.Thread(target=w.let_time_pass, args=(budget,))
        waiter.start()
    error = SessionTimedOut if step == "open_backend" and kind == "hang" else LifecycleError
    with pytest.raises(error) as caught:
        session.start()
    if kind == "hang":
        waiter.join()
    if step == "open_backend" and kind == "hang":
        return  # the start's own deadline is no later than this budget; looked at below
    assert session.state is State.ERROR
    opened = step != "open_backend"
    outcome = {"fail": FAILED, "hang": TIMED_OUT, "crash": FAILED}[kind]
    if kind == "crash" and step == "load_cookies":
        outcome = SKIPPED  # a step that needs the backend ends with it
    first, diverted, second, end = w.records(session)
    assert [(r.kind, r.event, r.source, r.dest) for r in (first, diverted, second, end)] == [
        (INTENT, Event.START, State.NOT_STARTED, State.ACTIVE),
        (DIVERTED, Event.START, State.NOT_STARTED, State.ACTIVE),
        (INTENT, Event.FAIL, State.NOT_STARTED, State.ERROR),
        (COMMIT, Event.FAIL, State.NOT_STARTED, State.ERROR),
    ]
    assert steps(diverted) == [(s, DONE) for s in START_STEPS[: START_STEPS.index(step)]] + [(step, outcome)]
    undone = DONE if opened else SKIPPED
    assert steps(end) == [("close_connections", undone), ("release_backend", undone)]
    assert (end.cause, second.cause) == ("step", "step")
    assert end.error == diverted.error == type(caught.value).__name__
    reason = CloseReason.CRASH if kind == "crash" else CloseReason.BACKEND
    assert (end.close_reason, session.status().close_reason) == (reason, reason)
    if kind == "fail" and step == "open_backend":
        assert isinstance(caught.value, StartFailed)
    if kind == "hang":
        assert "longer than its budget of 15 seconds" in str(caught.value)


@pytest.mark.parametrize("foreign", [OSError("disk"), ValueError("x"), StopIteration(), KeyError("k")])
def test_a_foreign_error_is_wrapped_and_names_step_and_adapter(world, foreign):
    w = world(Fault(step="open_backend", kind="fail", error=foreign))
    with pytest.raises(StartFailed) as caught:
        w.session().start()
    assert (caught.value.step, caught.value.adapter) == ("open_backend", "memory")
    cause = caught.value.__cause__
    assert cause is foreign or isinstance(foreign, StopIteration)


@pytest.mark.parametrize("strange", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("step", ["open_backend", "load_cookies"])
def test_an_adapter_that_raises_what_is_no_exception_fails_the_start_only(world, strange, step):
    w = world(Fault(step=step, kind="fail", error=strange))
    session = w.session()
    with pytest.raises(BackendError):
        session.start()
    assert session.state is State.ERROR
    with w.client.Session() as other:  # the supervisor lives
        assert other.state is State.ACTIVE


@pytest.mark.parametrize("strange", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("step", ["save_cookies", "close_connections"])
def test_an_adapter_that_raises_what_is_no_exception_aborts_no_teardown(world, strange, step):
    w = world(Fault(step=step, kind="fail", error=strange))
    session = w.session().start()
    with pytest.raises(LifecycleError):
        session.stop()
    assert session.state is State.CLOSED
    assert w.adapter.released == [session.session_id]


def test_a_torn_cookie_file_fails_the_start_before_a_browser_exists(world):
    w = world()
    w.cookie_file.write_text('[{"name": "a",\n oops')
    session = w.session()
    with pytest.raises(LifecycleError) as caught:
        session.start()
    assert caught.value.line == 2
    assert caught.value.path == str(w.cookie_file)
    assert w.adapter.opened == []
    assert steps(w.records(session)[1]) == [("read_cookies", FAILED)]


def test_a_session_without_a_cookie_file_skips_its_steps(world):
    w = world()
    session = w.client.Session().start()
    session.stop()
    start, stop = (r for r in w.records(session) if r.kind is COMMIT)
    assert steps(start) == [
        ("read_cookies", SKIPPED), ("open_backend", DONE), ("load_cookies", SKIPPED), ("open_viewer", SKIPPED)
    ]  # fmt: skip
    assert steps(stop) == [("save_cookies", SKIPPED), ("close_connections", DONE), ("release_backend", DONE)]
    assert start.steps[0].note == "no cookie file"


def test_milliseconds_are_those_of_the_clock(world):
    w = world(Fault(step="open_backend", kind="hang"))
    session = w.session()

    def pass_time():
        w.let_time_pass(12.5)
        w.adapter.release_hangs()

    waiter = threading.Thread(target=pass_time)
    waiter.start()
    session.start()
    waiter.join()
    commit = w.records(session)[1]
    assert {s.step: s.ms for s in commit.steps}["open_backend"] == 12500.0


# --- attach -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fail", "hang", "crash"])
@pytest.mark.parametrize("step", ["probe_backend", "connect_backend"])
def test_an_attach_that_fails_leaves_the_session_alone(tmp_path, step, kind):
    """A service's session: the failure of one who attaches is nobody else's."""
    clock, store = ManualClock(), MemoryStore()
    adapter = MemoryAdapter(faults=[Fault(step=step, kind=kind)], can_live_on=True)
    with Client(adapter=adapter, store=store, clock=clock) as client:
        owner = client.Session().start()
        guest = client.Session(owner.session_id)
        if kind == "hang":
            waiter = threading.Thread(
                target=lambda: (eventually(lambda: adapter._hanging), clock.advance(STEPS[Step(step)].budget))
            )
            waiter.start()
        with pytest.raises(LifecycleError):
            guest.start()
        if kind == "hang":
            waiter.join()
        assert guest.state is State.ERROR
        [end] = [r for _, r in store.records(attachment_id=guest.attachment_id) if r.terminal]
        assert steps(end) == [("close_connections", SKIPPED), ("release_backend", SKIPPED)]
        if kind == "crash":
            assert owner.wait_ended(timeout=PATIENCE).close_reason is CloseReason.CRASH
        else:
            assert owner.state is State.ACTIVE
            assert adapter.released == []
        assert adapter.unused == []


def test_the_opener_may_leave_a_session_that_lives_on_without_it():
    """A service's session: its opener detaches, the row says that it was not released, and others find it."""
    adapter, store = MemoryAdapter(can_live_on=True), MemoryStore()
    with Client(adapter=adapter, store=store) as client:
        opener = client.Session().start()
        opener.detach()
        assert (opener.state, opener.status().close_reason) == (State.CLOSED, CloseReason.DETACHED)
        assert adapter.live == [opener.session_id]
        row = store.session(opener.session_id)
        assert (row.state, row.released, row.close_reason) == (State.CLOSED, False, CloseReason.DETACHED)
        with client.Session(opener.session_id) as guest:
            assert guest.get_cookies() == []
    assert adapter.live == []
    check_log(store)


# --- budgets of the start -----------------------------------------------------------------------------------------


def test_a_start_that_hangs_ends_at_the_start_deadline(world):
    w = world(Fault(step="open_backend", kind="hang"))
    session = w.session(start_timeout_minutes=0.5)
    waiter = threading.Thread(target=w.let_time_pass, args=(30,))
    waiter.start()
    with pytest.raises(SessionTimedOut) as caught:
        session.start()
    waiter.join()
    assert (caught.value.deadline, caught.value.minutes) == (CloseReason.START_TIMEOUT, 0.5)
    assert session.state is State.TIMED_OUT
    assert session.status().close_reason is CloseReason.START_TIMEOUT
    first, second, diverted, end = w.records(session)
    assert [(r.kind, r.event) for r in (first, second, diverted, end)] == [
        (INTENT, Event.START), (INTENT, Event.EXPIRE), (DIVERTED, Event.START), (COMMIT, Event.EXPIRE)
    ]  # fmt: skip
    assert second.in_flight is InFlight.START
    assert second.cause == "deadline"
    assert steps(diverted) == [("read_cookies", DONE), ("open_backend", CANCELLED)]
    assert steps(end) == [("cancel_start", DONE), ("close_connections", SKIPPED), ("release_backend", SKIPPED)]


def test_a_start_that_hangs_ends_at_the_budget_of_its_step_where_that_is_first(world):
    w = world(Fault(step="open_backend", kind="hang"))
    session = w.session(start_timeout_minutes=5)
    waiter = threading.Thread(target=w.let_time_pass, args=(60,))
    waiter.start()
    with pytest.raises(StartFailed, match="longer than its budget of 60 seconds") as caught:
        session.start()
    waiter.join()
    assert caught.value.step == "open_backend"
    assert (session.state, session.status().close_reason) == (State.ERROR, CloseReason.BACKEND)


def test_a_hang_after_the_backend_was_opened_releases_it_at_the_start_deadline(world):
    w = world(Fault(step="load_cookies", kind="hang"))
    session = w.session(start_timeout_minutes=0.1)
    waiter = threading.Thread(target=w.let_time_pass, args=(6,))
    waiter.start()
    with pytest.raises(SessionTimedOut):
        session.start()
    waiter.join()
    end = w.records(session)[-1]
    assert steps(end) == [("cancel_start", DONE), ("close_connections", DONE), ("release_backend", DONE)]
    assert w.adapter.released == [session.session_id]


def test_the_start_deadline_is_over_with_the_start(world):
    w = world()
    session = w.session(start_timeout_minutes=0.1, timeout_minutes=5).start()
    w.clock.advance(60)
    session.get_cookies()
    assert session.state is State.ACTIVE


# --- stop: each step, each fault ----------------------------------------------------------------------------------

STOP_STEPS = ["save_cookies", "close_connections", "release_backend"]
KIND_OF_ERROR = {"save_cookies": LifecycleError, "close_connections": LifecycleError}


@pytest.mark.parametrize("kind", ["fail", "hang", "crash"])
@pytest.mark.parametrize("step", STOP_STEPS)
def test_a_stop_goes_on_past_a_step_that_fails(world, step, kind):
    w = world(Fault(step=step, kind=kind))
    session = w.session().start()
    waiter = None
    if kind == "hang":
        waiter = threading.Thread(target=w.let_time_pass, args=(STEPS[Step(step)].budget,))
        waiter.start()
    told = None
    try:
        session.stop()
    except LifecycleError as e:
        told = e
    if waiter is not None:
        waiter.join()
    # One failed release is tried again; a crash in the two last steps leaves nothing to fail.
    silent = step == "release_backend" or (kind == "crash" and step == "close_connections")
    end = w.records(session)[-1] if w.records(session)[-1].terminal else w.records(session)[-2]
    assert end.terminal
    expected = {"fail": FAILED, "hang": TIMED_OUT, "crash": DONE}[kind]
    if step == "save_cookies" and kind == "crash":
        expected = SKIPPED
        assert isinstance(told, CookieSaveError)
        assert "before its cookies could be read" in str(told)
    if step == "release_backend":
        expected = DONE
    assert steps(end) == [(s, expected if s == step else DONE) for s in STOP_STEPS]
    assert (told is None) == silent, told
    assert (session.state, session.status().close_reason) == (State.CLOSED, CloseReason.MANUAL)
    assert w.adapter.released == [session.session_id]
    retried = {s.step: s.attempts for s in end.steps}["release_backend"]
    assert retried == (2 if step == "release_backend" and kind in ("fail", "hang") else 1)


def test_cookies_that_cant_be_read_from_the_browser_are_an_error_that_names_the_file(world):
    w = world(Fault(step="save_cookies", kind="hang"))
    session = w.session().start()
    waiter = threading.Thread(target=w.let_time_pass, args=(15,))
    waiter.start()
    with pytest.raises(CookieSaveError) as caught:
        session.stop()
    waiter.join()
    assert caught.value.path == str(w.cookie_file)
    assert session.state is State.CLOSED
    assert json.loads(w.cookie_file.read_text()) == [COOKIE], "the file is as it was"


@pytest.mark.parametrize("kind", ["fail", "hang"])
def test_a_release_that_fails_each_time_ends_in_error(world, kind):
    w = world(*(Fault(step="release_backend", kind=kind, nth=n) for n in (1, 2, 3)), kept=1)
    session = w.session().start()
    waiter = None
    if kind == "hang":

        def pass_budgets():
            for n in range(3):
                eventually(lambda n=n: len(w.adapter.unused) == 2 - n and w.adapter._hanging)
                w.clock.advance(15)

        waiter = threading.Thread(target=pass_budgets)
        waiter.start()
    with pytest.raises(ReleaseFailed) as caught:
        session.stop()
    if waiter is not None:
        waiter.join()
    assert caught.value.session_id == session.session_id
    assert session.state is State.ERROR
    status = session.status()
    assert status.close_reason is CloseReason.MANUAL
    assert "ReleaseFailed" in status.error
    _, _, intent, diverted, end = w.records(session)
    assert [(r.kind, r.event, r.source, r.dest) for r in (intent, diverted, end)] == [
        (INTENT, Event.STOP, State.ACTIVE, State.CLOSED),
        (DIVERTED, Event.STOP, State.ACTIVE, State.CLOSED),
        (COMMIT, Event.FAIL, State.ACTIVE, State.ERROR),
    ]
    assert steps(diverted)[-1] == ("release_backend", FAILED if kind == "fail" else TIMED_OUT)
    assert diverted.steps[-1].attempts == 3
    assert end.error == "ReleaseFailed"
    row = w.store.session(session.session_id)
    assert (row.state, row.released) == (State.ERROR, False), "the ledger keeps the row for the reaper"
    assert w.adapter.released == []
    with pytest.raises(SessionFailed):
        session.get_cookies()


def test_the_row_of_a_released_session_says_so(world):
    w = world()
    session = w.session().start()
    row = w.store.session(session.session_id)
    assert (row.state, row.released, row.closed_at) == (State.ACTIVE, False, None)
    assert row.control is not None
    session.stop()
    row = w.store.session(session.session_id)
    assert (row.state, row.released, row.close_reason) == (State.CLOSED, True, CloseReason.MANUAL)
    assert row.closed_at == w.clock.utcnow()
    assert row.control is None


def test_the_row_is_durable_before_the_browser_is_opened(world):
    w = world(Fault(step="open_backend", kind="hang"))
    session = w.session()
    starter = threading.Thread(target=lambda: in_threads([session.start]))
    starter.start()
    w.hangs()
    row = w.store.session(session.session_id)
    assert (row.state, row.released) == (State.NOT_STARTED, False)
    assert w.told(session) == [(INTENT, Event.START, State.ACTIVE)]
    w.adapter.release_hangs()
    starter.join()


# --- crashes ------------------------------------------------------------------------------------------------------


def test_a_crash_while_active(world):
    w = world()
    session = w.session().start()
    session.set_cookies(cookies=[{**COOKIE, "value": "43"}])
    w.adapter.crash(session.session_id)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.CRASH
    assert session.state is State.ERROR
    intent, end = w.records(session)[-2:]
    assert (intent.event, intent.cause, intent.error) == (Event.FAIL, "backend", "ConnectionLost")
    assert steps(end) == [("save_cookies", SKIPPED), ("close_connections", DONE), ("release_backend", DONE)]
    assert end.steps[0].note == "the backend is gone, its last cookies with it"
    assert json.loads(w.cookie_file.read_text()) == [COOKIE], "a crash costs no cookie that was in the file"


def test_a_crash_during_an_ending_skips_what_needs_the_backend(world):
    w = world(Fault(step="save_cookies", kind="hang"))
    session = w.session().start()
    crasher = threading.Thread(target=lambda: (w.hangs(), w.adapter.crash(session.session_id)))
    crasher.start()
    with pytest.raises(CookieSaveError, match="gone before its cookies could be read") as caught:
        session.stop()
    assert caught.value.rescue_path is None
    crasher.join()
    assert (session.state, session.status().close_reason) == (State.CLOSED, CloseReason.MANUAL)
    records = w.records(session)
    [end] = [r for r in records if r.terminal]
    assert steps(end) == [("save_cookies", SKIPPED), ("close_connections", DONE), ("release_backend", DONE)]
    assert [r.kind for r in records if r.event is Event.FAIL] == [RecordKind.IGNORED]


def test_a_crash_during_the_start_is_its_failure(world):
    w = world(Fault(step="load_cookies", kind="hang"))
    session = w.session()
    crasher = threading.Thread(target=lambda: (w.hangs(), w.adapter.crash(session.session_id)))
    crasher.start()
    with pytest.raises(ConnectionLost, match="crashed"):
        session.start()
    crasher.join()
    assert (session.state, session.status().close_reason) == (State.ERROR, CloseReason.CRASH)


def test_a_second_report_of_an_end_changes_nothing(world):
    w = world()
    session = w.session().start()

    async def crash_twice(_):  # in one go, or the session may be released in between
        w.adapter.crash(session.session_id)
        w.adapter.crash(session.session_id)

    supervisor().call(crash_twice)
    session.wait_ended(timeout=PATIENCE)
    assert [r.kind for r in w.records(session) if r.event is Event.FAIL] == [INTENT, COMMIT]


@pytest.mark.parametrize(
    ("state", "event"), [(State.CLOSED, Event.STOP), (State.ERROR, Event.FAIL), (State.TIMED_OUT, Event.EXPIRE)]
)
def test_a_backend_that_ends_by_itself_says_where_that_leads(world, state, event):
    w = world()
    session = w.session().start()
    w.adapter.end(session.session_id, state=state, reason=CloseReason.BACKEND, detail="says the service")
    status = session.wait_ended(timeout=PATIENCE)
    assert (status.status, status.close_reason) == (state, CloseReason.BACKEND)
    end = w.records(session)[-1]
    assert (end.event, end.cause, end.dest) == (event, "backend", state)


# --- deadlines ----------------------------------------------------------------------------------------------------


def test_the_idle_deadline(world):
    w = world()
    session = w.session(timeout_minutes=1, max_duration_minutes=10).start()
    session.set_cookies(cookies=[{**COOKIE, "value": "43"}])
    w.clock.advance(59.9)
    assert session.get_cookies()
    w.clock.advance(59.9)
    assert session.state is State.ACTIVE
    w.clock.advance(0.2)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT
    assert session.state is State.TIMED_OUT
    intent, end = w.records(session)[-2:]
    assert (intent.event, intent.cause, intent.close_reason) == (Event.EXPIRE, "deadline", CloseReason.IDLE_TIMEOUT)
    assert {g.guard: g.held for g in intent.guards} == {
        "no ending in flight": True, "a deadline passed or the backend says so": True
    }  # fmt: skip
    assert steps(end) == [(s, DONE) for s in STOP_STEPS]
    assert json.loads(w.cookie_file.read_text())[0]["value"] == "43", "cookies are saved on expiry too"


def test_the_maximum_duration_counts_from_the_start_of_the_start(world):
    w = world()
    session = w.session(timeout_minutes=1, max_duration_minutes=1.5).start()
    for _ in range(4):
        w.clock.advance(20)
        session.get_cookies()
    w.clock.advance(10)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.MAX_DURATION
    with pytest.raises(SessionTimedOut) as caught:
        session.get_cookies()
    assert caught.value.minutes == 1.5


def test_an_operation_in_flight_holds_the_idle_deadline(world):
    w = world(Fault(step="save_cookies", kind="hang"))
    session = w.session(timeout_minutes=0.5, max_duration_minutes=60).start()
    results = []
    worker = threading.Thread(target=lambda: results.extend(in_threads([session.get_cookies])))
    worker.start()
    w.let_time_pass(45)
    w.hangs()
    assert session.state is State.ACTIVE
    w.adapter.release_hangs()
    worker.join()
    assert [c["name"] for c in results[0]] == ["sid"]
    w.clock.advance(29)
    assert session.get_cookies(), "the idle time counts from the end of the operation"


def test_an_operation_that_never_ends_is_given_up(world):
    w = world(Fault(step="save_cookies", kind="hang"))
    session = w.session(timeout_minutes=10).start()
    waiter = threading.Thread(target=w.let_time_pass, args=(60,))
    waiter.start()
    with pytest.raises(ConnectionLost, match="did not answer within 60 seconds"):
        session.get_cookies()
    waiter.join()
    assert session.state is State.ACTIVE


def test_use_between_the_timer_and_the_decision_keeps_the_session_and_its_deadline(world, monkeypatch):
    """The timer only asks; a use that comes in before the decision is no expiry, and the deadline stays watched."""
    w = world()
    session = w.session(timeout_minutes=1, max_duration_minutes=60).start()
    original = DeadlineEntry.on_due

    def used_at_the_last_moment(entry):
        original(entry)
        if entry._att() is session._att:
            entry._att().used()
            monkeypatch.setattr(DeadlineEntry, "on_due", original)

    monkeypatch.setattr(DeadlineEntry, "on_due", used_at_the_last_moment)
    w.clock.advance(61)
    eventually(lambda: any(r.kind is RecordKind.IGNORED for r in w.records(session)))
    assert session.state is State.ACTIVE
    w.clock.advance(61)
    assert session.wait_ended(timeout=5).close_reason is CloseReason.IDLE_TIMEOUT


def test_a_clock_that_is_set_back_or_forward_moves_no_deadline(world):
    from datetime import timedelta

    w = world()
    session = w.session(timeout_minutes=1, max_duration_minutes=60).start()
    w.clock.set_wall(w.clock.utcnow() + timedelta(days=400))
    w.clock.advance(1)
    assert session.get_cookies() is not None
    w.clock.set_wall(w.clock.utcnow() - timedelta(days=800))
    w.clock.advance(1)
    assert session.state is State.ACTIVE
    assert session.status().duration >= timedelta()
    w.clock.advance(61)
    assert session.wait_ended(timeout=PATIENCE).status is State.TIMED_OUT


def test_a_machine_that_slept_expires_what_was_due_once(world):
    w = world()
    sessions = [w.session(timeout_minutes=1 + n / 10).start() for n in range(5)]
    w.clock.advance(86_400)
    for session in sessions:
        assert session.wait_ended(timeout=PATIENCE).status is State.TIMED_OUT
    assert all([r.kind for r in w.records(s)] == [INTENT, COMMIT, INTENT, COMMIT] for s in sessions)


# --- endings that meet --------------------------------------------------------------------------------------------


def test_a_stop_during_the_start(world):
    w = world(Fault(step="open_backend", kind="hang"))
    session = w.session()
    starter_results = []
    starter = threading.Thread(target=lambda: starter_results.extend(in_threads([session.start])))
    starter.start()
    w.hangs()
    session.stop()
    starter.join()
    assert isinstance(starter_results[0], SessionClosed)
    assert (session.state, session.status().close_reason) == (State.CLOSED, CloseReason.MANUAL)
    first, second, diverted, end = w.records(session)
    assert [(r.kind, r.event) for r in (first, second, diverted, end)] == [
        (INTENT, Event.START), (INTENT, Event.STOP), (DIVERTED, Event.START), (COMMIT, Event.STOP)
    ]  # fmt: skip
    assert steps(end)[0] == ("cancel_start", DONE)


def test_a_stop_of_a_start_that_ignores_its_cancellation(world):
    """An adapter that swallows its cancellation and opens all the same: what it opened is released."""
    adapter = MemoryAdapter()
    go_on = threading.Event()
    original = adapter.open

    async def stubborn(session_id, options, host):
        backend = await original(session_id, options, host)
        reached.set()
        while not go_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                go_on.set()
        return backend

    reached = threading.Event()
    adapter.open = stubborn
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session()
        starter = threading.Thread(target=lambda: in_threads([session.start]))
        starter.start()
        assert reached.wait(PATIENCE)
        session.stop()
        starter.join()
        assert session.state is State.CLOSED
        assert adapter.released == [session.session_id]


def test_a_stop_and_an_expiry_and_a_crash_in_one_tick_are_one_end(world):
    w = world()
    for first in ("stop", "expire", "crash"):
        session = w.session(timeout_minutes=1).start()
        att, flow = session._att, session._core.flow

        def all_at_once(first=first, att=att, flow=flow, session=session):
            acts = {
                "stop": lambda: flow._host.fire(
                    flow._quietly(att, Event.STOP, "caller", CloseReason.MANUAL, None), "s"
                ),
                "expire": lambda: flow.expire(att),
                "crash": lambda: flow.backend_ended(att, CRASHED),
            }
            w.clock._now += 61
            acts.pop(first)()
            for act in acts.values():
                act()

        session._core.supervisor.thread.post(all_at_once)
        status = session.wait_ended(timeout=PATIENCE)
        assert status.status is {"stop": State.CLOSED, "expire": State.TIMED_OUT, "crash": State.ERROR}[first]
        eventually(lambda s=session: len(w.records(s)) == 6)
        kinds = [r.kind for r in w.records(session)]
        assert kinds.count(COMMIT) == 2
        assert kinds.count(RecordKind.IGNORED) == 2 or kinds.count(RecordKind.JOINED) == 1


def test_stops_expiries_and_crashes_from_many_threads_are_one_end(world):
    w = world()
    for _ in range(20):
        session = w.session(timeout_minutes=4 / 60).start()  # shorter than the budget of any step

        def crash(session=session):
            try:
                w.adapter.crash(session.session_id)
            except LifecycleError:
                return  # it was over

        results = in_threads([session.stop, session.stop, crash, lambda: w.clock.advance(4.1), session.stop])
        session.wait_ended(timeout=PATIENCE)
        [end] = [r for r in w.records(session) if r.terminal]
        lost = end.dest is State.CLOSED and ("save_cookies", SKIPPED) in steps(end)
        kinds = {type(r) for r in results if r is not None}
        assert kinds == ({CookieSaveError} if lost else set()), "each stop is told when the crash took the cookies"


# --- cancellation -------------------------------------------------------------------------------------------------


def test_a_start_that_is_cancelled_in_any_tick_leaves_nothing_open(tmp_path):
    async def main():
        outcomes = set()
        for tick in range(120):
            adapter, store = MemoryAdapter(), MemoryStore()
            async with AsyncClient(adapter=adapter, store=store) as client:
                session = client.Session()
                task = asyncio.create_task(session.start())
                for _ in range(tick):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    outcomes.add("cancelled")
                    assert session.state.terminal or session.state is State.NOT_STARTED
                    assert adapter.live == []
                else:
                    outcomes.add("started")
                    assert session.state is State.ACTIVE
            assert sorted(adapter.opened) == sorted(adapter.released)
            if store.records():
                check_log(store)
        return outcomes

    assert "cancelled" in asyncio.run(main())


@pytest.mark.parametrize("step", ["open_backend", "load_cookies"])
def test_asyncio_timeout_around_a_start_that_hangs(tmp_path, step):
    path = tmp_path / "c.json"
    path.write_text(json.dumps([COOKIE]))
    adapter = MemoryAdapter(faults=[Fault(step=step, kind="hang")])

    async def main():
        async with AsyncClient(adapter=adapter, store="memory:") as client:
            session = client.Session(cookie_file=path)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.start()
            assert session.state is State.CLOSED
            assert adapter.opened == adapter.released
            assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_a_stop_that_is_cancelled_is_carried_out_and_the_cancellation_raised(tmp_path):
    adapter = MemoryAdapter(faults=[Fault(step="close_connections", kind="hang")])

    async def main():
        async with AsyncClient(adapter=adapter, store="memory:") as client:
            session = await client.Session().start()
            task = asyncio.create_task(session.stop())
            await asyncio.to_thread(eventually, lambda: adapter._hanging, "nothing hangs")
            task.cancel()
            await asyncio.sleep(0)
            adapter.release_hangs()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert session.state is State.CLOSED
            assert adapter.released == [session.session_id]

    asyncio.run(main())


# --- the store fails ----------------------------------------------------------------------------------------------


def test_a_store_that_fails_at_the_intent_means_no_browser(world, monkeypatch):
    store = FailingStore(1)
    w = world(store=store)
    session = w.session()
    with pytest.raises(StoreError) as caught:
        session.start()
    assert "as scripted" in str(caught.value)
    assert w.adapter.opened == []
    assert session.state is State.ERROR
    with w.session() as later:  # the store works again: nothing was lost on the way
        pass
    assert [r.kind for r in w.records(session)] == [INTENT, DIVERTED, INTENT, RecordKind.SPILLED, COMMIT]
    assert w.records(session)[-2].counts == {"records": 1}
    assert later.state is State.CLOSED


def test_a_store_that_stays_broken_lets_no_browser_be_opened(world):
    store = FailingStore()
    w = world(store=store)
    store.broken = True
    for _ in range(3):
        session = w.session()
        with pytest.raises(StoreError) as caught:
            session.start()
        assert w.adapter.opened == []
        assert session.state is State.ERROR
        assert caught.value.rescue_path
    store.broken = False
    w.client.Session().start().stop()
    kinds = Counter(r.kind for _, r in store.records())
    assert kinds == {INTENT: 3 * 2 + 2, DIVERTED: 3, COMMIT: 3 + 2, RecordKind.SPILLED: 3}


def test_a_store_that_fails_at_the_commit_of_the_start_fails_it_closed(world):
    store = FailingStore(2)
    w = world(store=store)
    session = w.session()
    with pytest.raises(StoreError):
        session.start()
    assert session.state is State.ERROR
    assert w.adapter.opened == w.adapter.released == [session.session_id]


@pytest.mark.parametrize("failing", [(3,), (4,), (3, 4)])
def test_a_store_that_fails_during_the_stop_fails_open(world, failing):
    store = FailingStore(*failing)
    w = world(store=store)
    session = w.session().start()
    with pytest.raises(AuditError) as caught:
        session.stop()
    assert w.adapter.released == [session.session_id]
    assert (session.state, session.status().close_reason) == (State.CLOSED, CloseReason.MANUAL)
    assert json.loads(w.cookie_file.read_text()), "cookies were saved all the same"
    rescue = caught.value.rescue_path
    assert rescue is not None
    session.stop()  # told once
    w.client.Session().start().stop()
    assert w.told(session)[:4] == [
        (INTENT, Event.START, State.ACTIVE), (COMMIT, Event.START, State.ACTIVE),
        (INTENT, Event.STOP, State.CLOSED), (COMMIT, Event.STOP, State.CLOSED),
    ]  # fmt: skip


def test_records_that_the_store_refused_are_in_the_rescue_file_and_written_later(world):
    store = FailingStore()
    w = world(store=store)
    session = w.session().start()
    store.broken = True
    with pytest.raises(AuditError) as caught:
        session.stop()
    rescue = Path(caught.value.rescue_path)
    kept = spill.read(rescue).records
    assert [(r.kind, r.event) for r in kept] == [(INTENT, Event.STOP), (COMMIT, Event.STOP)]
    assert rescue.stat().st_mode & 0o777 == 0o600
    assert [r.kind for r in w.records(session)] == [INTENT, COMMIT]
    store.broken = False
    w.client.Session().start().stop()
    eventually(lambda: not rescue.exists(), "the rescue file goes once its records are in the store")
    *told, last = w.records(session)[2:]
    assert told == kept
    assert (last.kind, last.source, last.dest) == (RecordKind.SPILLED, State.CLOSED, State.CLOSED)
    assert (last.cause, last.counts, last.attachment_seq) == ("rescue file", {"records": 2}, 5)
    row = store.session(session.session_id)
    assert (row.state, row.released) == (State.CLOSED, True)


def test_what_a_foreign_store_raises_is_a_store_error(world):
    store = FailingStore(1, error=OSError("disk on fire"))
    w = world(store=store)
    with pytest.raises(StoreError, match="the store raised OSError") as caught:
        w.session().start()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("first_bad", range(1, 9))
def test_whatever_write_fails_the_session_ends_and_the_log_has_no_gap(world, first_bad):
    """The store fails at one write after the other, for good or once: released, over, and nothing missing later."""
    for again in (1, 2, 100):
        store = FailingStore(*range(first_bad, first_bad + again))
        w = world(store=store)
        told = []
        sessions = []
        for _ in range(2):
            session = w.session()
            sessions.append(session)
            try:
                session.start()
                session.stop()
            except AuditError as e:
                told.append(e)
            assert session.state.terminal
            assert sorted(w.adapter.opened) == sorted(w.adapter.released)
        assert told or store.writes < first_bad
        store.failing.clear()
        w.client.Session().start().stop()
        assert sum(r.terminal for _, r in store.records()) == 3


def test_the_store_fails_while_an_expiry_is_carried_out(world):
    store = FailingStore()
    w = world(store=store)
    session = w.session(timeout_minutes=1).start()
    store.broken = True
    w.clock.advance(61)
    assert session.wait_ended(timeout=PATIENCE).close_reason is CloseReason.IDLE_TIMEOUT
    assert w.adapter.released == [session.session_id]
    store.broken = False


def test_an_extension_that_could_not_be_recorded_is_not_acknowledged(world):
    store = FailingStore()
    w = world(store=store)
    session = w.session(timeout_minutes=5, max_duration_minutes=5).start()
    store.broken = True
    with pytest.raises(StoreError):
        session.extend(minutes=5)
    store.broken = False
    assert session.state is State.ACTIVE


# --- the record ---------------------------------------------------------------------------------------------------


def test_rejected_and_ignored_events_are_records(world):
    w = world()
    session = w.session()
    with pytest.raises(LifecycleError):
        session.get_cookies()
    session.start()
    with pytest.raises(LifecycleError):
        session.start()
    session.stop()
    session.stop()
    with pytest.raises(LifecycleError):
        session.get_cookies()
    told = [(r.kind, r.event, r.source, r.dest, r.error) for r in session.history()]
    closed, active = State.CLOSED, State.ACTIVE
    assert told == [
        (RecordKind.REJECTED, Event.OPERATE, State.NOT_STARTED, State.NOT_STARTED, "InvalidTransition"),
        (INTENT, Event.START, State.NOT_STARTED, active, None),
        (COMMIT, Event.START, State.NOT_STARTED, active, None),
        (RecordKind.REJECTED, Event.START, active, active, told[3][4]),
        (INTENT, Event.STOP, active, closed, None),
        (COMMIT, Event.STOP, active, closed, None),
        (RecordKind.IGNORED, Event.STOP, closed, closed, None),
        (RecordKind.REJECTED, Event.OPERATE, closed, closed, "SessionClosed"),
    ]
    assert told[3][4] in ("InvalidTransition", "GuardRejected")


def test_secrets_enter_no_record_and_no_row(world):
    w = world(Fault(step="save_cookies", kind="fail", error=RuntimeError("hush-hush-value")))
    session = w.session().start()
    session.set_cookies(cookies=[{**COOKIE, "value": "hush-hush-value"}])
    with pytest.raises(RuntimeError):
        session.get_cookies()
    session.stop()
    assert b"hush-hush" not in b"".join(r.to_json() for _, r in w.store.records())
    row = w.store.session(session.session_id)
    assert "hush-hush" not in repr(row)


def test_a_foreign_error_text_enters_no_record_and_no_row(world):
    w = world(Fault(step="open_backend", kind="fail", error=RuntimeError("token=hush-hush")))
    session = w.session()
    with pytest.raises(StartFailed):
        session.start()
    assert b"hush-hush" not in b"".join(r.to_json() for _, r in w.store.records())
    assert "hush-hush" not in repr(w.store.session(session.session_id))


def test_events_are_decided_in_the_order_in_which_they_arrive(world):
    w = world()
    session = w.session().start()
    core = session._core
    order = []

    def burst():
        for n in range(10):
            core.fire(note(n), "n")

    async def note(n):
        await core.flow.stop(session._att, None, cause=f"burst-{n}", reason=CloseReason.MANUAL)
        order.append(n)

    core.supervisor.thread.post(burst)
    session.wait_ended(timeout=PATIENCE)
    eventually(lambda: len(order) == 10)
    causes = [r.cause for r in w.records(session) if r.kind in (INTENT, RecordKind.JOINED) and r.event is Event.STOP]
    assert causes == [f"burst-{n}" for n in range(10)]
