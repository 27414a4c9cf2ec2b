"""What the library gives to tests of others: assertions on transitions, coverage of the table, the whole process."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from campaign import CELLS, each_in_a_folder, live, slice_of

from lifecycle import (
    AsyncClient,
    Client,
    InvalidTransition,
    LifecycleError,
    RecordKind,
    SessionClosed,
    StartFailed,
    UnsupportedOperation,
    UsageError,
)
from lifecycle.errors import ConfigError, ReleaseFailed
from lifecycle.flow import DeadlineEntry
from lifecycle.testing import (
    ManualClock,
    TransitionCoverage,
    active_sessions,
    assert_transitions,
    reset,
    transitions,
    watching,
)
from lifecycle.testing.coverage import ITEMS
from lifecycle.testing.failures import draw_way, log_lines
from lifecycle.testing.process import flush
from lifecycle.testing.ways import eventually, in_threads
from lifecycle_adapters.memory import Fault, MemoryAdapter


@pytest.fixture
def adapter():
    return MemoryAdapter()


@pytest.fixture
def client(way, adapter):
    return way.client(adapter=adapter)


# --- transitions ----------------------------------------------------------------------------------------------------


def test_the_edges_that_were_taken(way, client):
    client_session = client.Session()
    session = way.raw(client_session)
    assert transitions(session) == []
    client_session.start()
    assert transitions(session) == ["start: not_started -> active"]
    client_session.stop()
    assert transitions(session) == ["start: not_started -> active", "stop: active -> closed"]
    assert transitions(client_session.history()) == transitions(session)


@pytest.mark.parametrize(
    "expected",
    [
        ["start", "stop"],
        ["start: not_started -> active", "stop: active -> closed"],
        ["start", "stop: active -> closed"],
    ],
)
def test_what_is_as_expected_passes(expected, client, way):
    session = client.Session()
    with session:
        pass
    assert_transitions(way.raw(session), *expected)


def test_what_went_another_way_is_shown_line_by_line(way):
    clock = ManualClock()
    client = way.client(adapter=MemoryAdapter(), clock=clock)
    session = client.Session(timeout_minutes=1)
    session.start()
    with pytest.raises(InvalidTransition):
        session.start()
    clock.advance(61)
    session.wait_ended()
    with pytest.raises(AssertionError) as failed:
        assert_transitions(way.raw(session), "start", "stop")
    assert str(failed.value).splitlines() == [
        "the session took other transitions (-: expected, +: taken):",
        "      start: not_started -> active   by caller",
        "    - stop",
        "    + expire: active -> timed_out    by deadline, idle_timeout",
        "and its records say besides:",
        "    rejected  start: active -> active               by caller, InvalidTransition",
    ]
    with pytest.raises(AssertionError, match=r"\+ expire: active -> timed_out"):
        assert_transitions(way.raw(session), "start")
    with pytest.raises(AssertionError, match=r"- stop"):
        assert_transitions(way.raw(session), "start", "expire", "stop")


def test_why_an_edge_was_given_up_is_shown(way):
    client = way.client(adapter=MemoryAdapter(faults=[Fault(step="open_backend", kind="fail")]))
    session = client.Session()
    with pytest.raises(StartFailed):
        session.start()
    with pytest.raises(AssertionError) as failed:
        assert_transitions(way.raw(session), "start")
    assert "+ fail: not_started -> error   by step, backend, StartFailed" in str(failed.value)
    assert "diverted  start: not_started -> active" in str(failed.value)
    assert "open_backend failed (StartFailed)" in str(failed.value)


@pytest.mark.parametrize("name", ["stopp", "stop: active -> error"])
def test_an_expectation_that_is_none_is_told(name, client, way):
    with pytest.raises(UsageError, match=rf"{name!r} is no event and no edge; "):
        assert_transitions(way.raw(client.Session()), name)


# --- the log and the diagram of a failure ---------------------------------------------------------------------------


def test_the_log_in_lines():
    adapter = MemoryAdapter(faults=[Fault(step="release_backend", kind="fail", nth=n) for n in (1, 2, 3)])
    with Client(adapter=adapter, store="memory:") as client:
        session, other = client.Session(), client.Session()
        session.start()
        other.start()
        with pytest.raises(ReleaseFailed):
            session.stop()
        records = [*session.history(), *other.history()]
        svg = draw_way(session.history())
        other.stop()
    lines = log_lines(records)
    assert [line for line in lines if line.startswith("session")] == [
        f"session {s.session_id} on memory, attachment {s.attachment_id}" for s in (session, other)
    ]
    assert len(lines) == len(records) + 2
    assert any("release_backend failed (ReleaseFailed)" in line for line in lines)
    assert log_lines([]) == []
    assert svg.count('class="taken edge"') == 2  # start, and the edge that its failed stop went on along
    assert svg.count('class="left edge"') == 1
    assert "<style>" in svg


# --- all clients of the process -------------------------------------------------------------------------------------


def test_every_session_that_is_active_is_found(way, client, adapter):
    assert active_sessions() == []
    session = client.Session()
    session.start()
    other = way.client(adapter=adapter)
    with other.Session() as second:
        found = {s.session_id: s for s in active_sessions()}
        assert set(found) == {session.session_id, second.session_id}
        assert [s.session_id for s in active_sessions(way.raw(other))] == [second.session_id]
    (left,) = active_sessions()
    assert (left.attachment_id, left.adapter, left.state) == (session.attachment_id, "memory", "active")
    assert not left.has_pages
    assert str(left) == f"session {session.session_id} on memory (active)"
    left.stop()
    assert active_sessions() == []
    assert (session.state, session.status().close_reason) == ("closed", "abandoned")


def test_one_that_starts_is_found_too():
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="hang")])
    with Client(adapter=adapter, store="memory:") as client:
        session = client.Session()

        def look():
            eventually(lambda: adapter.live)
            (found,) = active_sessions()
            found.stop()
            return found.state, found.session_id

        struck, found = in_threads([session.start, look])
        assert isinstance(struck, SessionClosed)
        assert found == ("not_started", session.session_id)
        assert (active_sessions(), session.state) == ([], "closed")


def test_records_of_all_clients_are_watched(way):
    seen = []
    with watching(seen.append):
        for _ in range(2):
            with way.client(adapter="memory").Session():
                pass
        flush()
        assert [r.kind for r in seen].count(RecordKind.COMMIT) == 4
    with way.client(adapter="memory").Session():
        pass
    flush()
    assert [r.kind for r in seen].count(RecordKind.COMMIT) == 4


def test_what_a_watcher_raises_no_session_feels():
    with pytest.raises(ZeroDivisionError), watching(lambda _: 1 / 0):
        with Client(adapter="memory", store="memory:") as client, client.Session() as session:
            assert session.state == "active"
        assert session.state == "closed"


def test_reset_ends_everything(way, client, adapter):
    sessions = [client.Session() for _ in range(3)]
    for session in sessions:
        session.start()
    other = way.client(adapter=adapter)
    assert reset() == 3
    assert active_sessions() == []
    assert sorted(adapter.opened) == sorted(adapter.released)
    assert [session.state for session in sessions] == ["closed"] * 3
    for closed in (client, other):
        with pytest.raises(UsageError, match="the client is closed"):
            closed.Session()
    assert reset() == 0
    with way.client(adapter=adapter).Session() as after:
        assert after.state == "active"


def test_reset_closes_the_pages_of_its_thread():
    with Client(adapter="local", store="memory:") as client:
        session = client.Session()
        session.start()
        session.page.set_content("<h1>x</h1>")
        assert reset() == 1
        assert session.state == "closed"


def test_reset_from_a_loop_that_runs():
    async def main():
        client = AsyncClient(adapter="memory", store="memory:")
        session = client.Session()
        await session.start()
        assert reset() == 1
        assert session.state == "closed"

    asyncio.run(main())


# --- coverage -------------------------------------------------------------------------------------------------------


def test_what_one_life_takes():
    coverage = TransitionCoverage()
    with watching(coverage.take), Client(adapter="memory", store="memory:") as client, client.Session():
        pass
    assert coverage.to_json() == {
        "edges": {"start: not_started -> active [idle, no session_id]": 1,
                  "stop: active -> closed [no ending in flight]": 1},
        "guards": {"idle: yes": 1, "no session_id: yes": 1, "no ending in flight: yes": 1},
        "steps": {"open_backend on start: not_started -> active": 1,
                  "close_connections on stop: active -> closed": 1, "release_backend on stop: active -> closed": 1},
        "diversions": {},
    }  # fmt: skip
    assert coverage.percent == pytest.approx(100 * 8 / sum(map(len, ITEMS.values())))
    missing = coverage.missing()
    assert {kind: len(items) - len(missing[kind]) for kind, items in ITEMS.items()} == {
        "edges": 2, "guards": 3, "steps": 3, "diversions": 0,
    }  # fmt: skip


def test_parts_are_added():
    one, both = TransitionCoverage(), TransitionCoverage()
    with watching(one.take), Client(adapter="memory", store="memory:") as client, client.Session():
        pass
    for _ in range(2):
        both.add(json.loads(json.dumps(one.to_json())))
    assert both.percent == one.percent
    assert both.to_json()["edges"]["stop: active -> closed [no ending in flight]"] == 2
    with pytest.raises(ConfigError, match="coverage of edges"):
        both.add({"edges": {"fly": 1}})


class LateClock(ManualClock):
    """One whose timers come late: time has passed, and nobody was told."""

    def pass_unnoticed(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self._now += seconds


def refused(act, cookie_file, *, before=()):
    """A session whose release is refused each time, and whose life `act` ends."""
    cookie_file.write_text(json.dumps([{"name": "sid", "value": "x", "domain": "example.com", "path": "/"}]))
    faults = [Fault(step="release_backend", kind="fail", nth=n) for n in range(1, 10)]
    adapter, clock = MemoryAdapter(faults=[*before, *faults]), ManualClock()
    with contextlib.suppress(LifecycleError), Client(adapter=adapter, store="memory:", clock=clock) as client:
        session = client.Session(timeout_minutes=1, start_timeout_minutes=0.5, cookie_file=cookie_file)
        act(adapter, clock, session)
    assert session.state == "error"


def hanging(then):
    """Has `then` called with the adapter, the clock and the session while that hangs in its start."""

    def act(adapter, clock, session):
        def second():
            eventually(lambda: all(fault.step != "load_cookies" for fault in adapter.unused))
            then(adapter, clock, session)

        in_threads([session.start, second])
        session.wait_ended()

    return act


def started(then):
    """Has `then` called once the session is active."""

    def act(adapter, clock, session):
        session.start()
        then(adapter, clock, session)
        session.wait_ended()

    return act


@pytest.mark.slow
@pytest.mark.no_cover
def test_all_that_there_is_can_be_taken(tmp_path, monkeypatch):
    """Nothing is asked for that no session can do: an eighth of the fault campaign takes most, and these the rest."""
    coverage = TransitionCoverage()
    hang, cookie_file = [Fault(step="load_cookies", kind="hang")], tmp_path / "cookies.json"
    with watching(coverage.take):
        each_in_a_folder(slice_of(CELLS, 0, 8), tmp_path, lambda cell, life: live(cell, life).check(life))
        for act in (
            lambda _adapter, _clock, session: session.stop(),
            lambda _adapter, clock, _session: clock.advance(61),
            lambda adapter, _clock, session: adapter.crash(session.session_id),
        ):
            refused(started(act), cookie_file)
            refused(hanging(act), cookie_file, before=hang)
        clock = LateClock()
        with Client(adapter="memory", store="memory:", clock=clock) as client:
            client.Session().stop()
            with client.Session(timeout_minutes=1) as session:
                with pytest.raises(UnsupportedOperation, match="its browser ends with this process"):
                    session.detach()
                clock.pass_unnoticed(61)
                with pytest.raises(LifecycleError):
                    session.get_cookies()
        early(monkeypatch)
        flush()
    assert coverage.missing() == {"edges": [], "guards": [], "steps": [], "diversions": []}
    assert coverage.percent == 100


def early(monkeypatch):
    """A timer that asks for an end which is no longer due when that is decided."""
    original = DeadlineEntry.on_due

    def used_at_the_last_moment(entry):
        original(entry)
        entry._att().used()
        monkeypatch.setattr(DeadlineEntry, "on_due", original)

    monkeypatch.setattr(DeadlineEntry, "on_due", used_at_the_last_moment)
    clock = ManualClock()
    with Client(adapter="memory", store="memory:", clock=clock) as client, client.Session(timeout_minutes=1) as session:
        clock.advance(61)
        eventually(lambda: any(r.kind is RecordKind.IGNORED for r in session.history()))
