"""What the library gives to tests of others: assertions on transitions, coverage of the table, the whole process."""

from __future__ import annotations

import asyncio
import json

import pytest

from lifecycle import AsyncClient, Client, InvalidTransition, RecordKind, SessionClosed, StartFailed, UsageError
from lifecycle.errors import ConfigError, ReleaseFailed
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
    session = way.raw(client.Session())
    assert transitions(session) == []
    way.wrap(session).start()
    assert transitions(session) == ["start: not_started -> active"]
    way.wrap(session).stop()
    assert transitions(session) == ["start: not_started -> active", "stop: active -> closed"]
    assert transitions(way.wrap(session).history()) == transitions(session)


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
    client = way.client(adapter=MemoryAdapter(faults=[Fault(step="save_cookies", kind="fail")]), clock=clock)
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
        "      start: not_started -> active    by caller",
        "    - stop",
        "    + expire: active -> timed_out     by deadline, idle_timeout",
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
    assert "open_backend failed (BackendError)" in str(failed.value)


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
        other.stop()
    lines = log_lines(records)
    assert [line for line in lines if line.startswith("session")] == [
        f"session {s.session_id} on memory, attachment {s.attachment_id}" for s in (session, other)
    ]
    assert len(lines) == len(records) + 2
    assert any("release_backend failed (ReleaseFailed)" in line for line in lines)
    assert log_lines([]) == []
    svg = draw_way(session.history())
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
    status = session.status()
    assert (status.state, status.close_reason) == ("closed", "abandoned")


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
