"""The audit trail as programs read it: pages, numbers, what is new; and that reading costs no import before."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from contextlib import closing
from datetime import timedelta

import pytest

from lifecycle import Client
from lifecycle.audit import GuardResult, RecordKind, StepOutcome, StepResult, stats
from lifecycle.audit.stats import Ending, Failure, summarize
from lifecycle.errors import ConfigError, StoreError
from lifecycle.states import CloseReason, Event, State
from lifecycle.stores import open_store
from lifecycle.testing.store_suite import T0, a_record
from lifecycle.trail import AuditTrail, Entry, News, Query

KINDS = [RecordKind.INTENT, RecordKind.COMMIT]


@pytest.fixture(params=["memory:", "sqlite:///{}/log.db"])
def store(request, tmp_path):
    with closing(open_store(request.param.format(tmp_path))) as store:
        yield store


# --- pages --------------------------------------------------------------------------------------------------------


def test_pages_lead_from_one_to_the_next(store):
    store.write([a_record(n, n, kind=KINDS[n % 2]) for n in range(1, 12)], [])
    trail = AuditTrail(store)
    query = Query(kind=RecordKind.COMMIT)
    first = trail.page(query, limit=4)
    second = trail.page(query, limit=4, after=first.after)
    third = trail.page(query, limit=4, after=second.after)
    assert [[e.number for e in page.entries] for page in (first, second, third)] == [[1, 3, 5, 7], [9, 11], []]
    assert [page.more for page in (first, second, third)] == [True, False, False]
    assert third.after == second.after == 11
    newest = trail.page(query, limit=2, newest=True)
    assert ([e.number for e in newest.entries], newest.more) == ([9, 11], False)
    assert first.entries[0] == Entry(1, a_record(1, 1, kind=RecordKind.COMMIT))
    for limit in (0, -1):
        with pytest.raises(ConfigError, match="limit"):
            trail.page(limit=limit)


def test_all_entries_come_over_any_number_of_pages(store, monkeypatch):
    monkeypatch.setattr("lifecycle.trail.PAGE", 3)
    records = [a_record(n, n, kind=KINDS[n % 2]) for n in range(1, 12)]
    store.write(records, [])
    trail = AuditTrail(store)
    assert [e.record for e in trail.entries()] == records
    assert [e.number for e in trail.entries(Query(kind="intent"), after=3)] == [4, 6, 8, 10]
    assert [e.number for e in trail.entries(Query(kind="intent"), last=2)] == [8, 10]
    assert list(trail.bodies(after=9)) == [(n, a_record(n, n, kind=KINDS[n % 2]).to_json()) for n in (10, 11)]
    assert (trail.newest(), trail.at(3), trail.at(12), trail.at(0)) == (11, records[2].to_json(), None, None)


def test_what_is_new_comes_once_and_the_place_passes_what_is_not_wanted(store):
    trail = AuditTrail(store)
    query = Query(kind="commit")
    assert trail.news(query, after=0) == News(bodies=(), after=0)
    store.write([a_record(n, n, kind=KINDS[n % 2]) for n in range(1, 7)], [])
    news = trail.news(query, after=0, limit=2)
    assert ([n for n, _ in news.bodies], news.after) == ([1, 3], 3)  # there may be more
    news = trail.news(query, after=3, limit=2)
    assert ([n for n, _ in news.bodies], news.after) == ([5], 6)
    assert trail.news(query, after=6) == News(bodies=(), after=6)


def test_a_record_that_comes_during_the_look_is_not_passed(store, monkeypatch):
    """The number of the newest record is asked for before the others: what comes between may be found, or is next."""
    store.write([a_record(1, 1)], [])
    trail = AuditTrail(store)
    bodies = store.bodies

    def meanwhile(query, **how):
        found = bodies(query, **how)
        store.write([a_record(2, 2)], []) if how.get("newest") else store.write([a_record(3, 3)], [])
        return found

    monkeypatch.setattr(store, "bodies", meanwhile)
    news = trail.news(after=0)
    assert ([n for n, _ in news.bodies], news.after) == ([1, 2], 2)
    monkeypatch.setattr(store, "bodies", bodies)
    assert [n for n, _ in trail.news(after=news.after).bodies] == [3]


def test_following_waits_for_what_comes(store):
    store.write([a_record(1, 1)], [])
    trail = AuditTrail(store)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        store.write([a_record(len(waits) + 1, len(waits) + 1)], [])

    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(n for news in trail.follow(wait=wait) for n, _ in news.bodies)
    assert seen == [1, 2, 3]
    assert waits == [0.2, 0.2, 0.2]


def test_a_store_that_was_given_stays_open_and_one_of_its_own_does_not(store, tmp_path):
    with AuditTrail(store) as trail:
        assert trail.url == store.url
    store.write([a_record()], [])
    with AuditTrail(f"sqlite:///{tmp_path}/own.db") as own:
        assert list(own.entries()) == []
    with pytest.raises(StoreError, match="closed"):
        own.newest()
    with pytest.raises(ConfigError, match="store="):
        AuditTrail("nonsense")


def test_nothing_of_it_is_loaded_before_it_is_used():
    code = (
        "import sys, lifecycle\n"
        "print([m for m in sys.modules if m in ('lifecycle.trail', 'lifecycle.audit.query', 'lifecycle.audit.stats') "
        "or m.startswith('lifecycle.stores.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# --- numbers ------------------------------------------------------------------------------------------------------


def a_life(number, *, seq, writer="w", opened=1.0, lived=10.0, end=None, **fields):
    """Records of one attachment that starts and, with `end`, ends; offsets and times in seconds."""
    base = {"attachment_id": f"a{number}", "writer": writer, "steps": (), **fields}
    begin = 100.0 * number

    def line(n, moment, **more):
        at = T0 + timedelta(seconds=moment)
        return a_record(seq + n, n + 1, **{**base, "offset": moment, "at": at, **more})

    records = [line(0, begin)]
    if opened is not None:
        records.append(line(1, begin + opened, kind=RecordKind.COMMIT))
    if end is not None:
        records.append(line(len(records), begin + (opened or 0) + lived, **end))
    return records


CLOSED = {
    "kind": RecordKind.COMMIT, "event": Event.STOP, "source": State.ACTIVE, "dest": State.CLOSED,
    "close_reason": CloseReason.MANUAL,
}  # fmt: skip
FAILED = {
    "kind": RecordKind.COMMIT, "event": Event.FAIL, "source": State.NOT_STARTED, "dest": State.ERROR,
    "cause": "step", "error": "StartFailed", "close_reason": CloseReason.BACKEND,
}  # fmt: skip


def bodies(*lives):
    return [record.to_json() for life in lives for record in life]


def test_times_in_states_are_those_between_the_commits():
    told = summarize(
        bodies(
            a_life(1, seq=1, opened=2.0, lived=30.0, end=CLOSED),
            a_life(2, seq=4, opened=4.0, lived=10.0, end=CLOSED),
            a_life(3, seq=7, opened=None, lived=6.0, end=FAILED),
            a_life(4, seq=9),
        )
    )
    states = {s.state: s for s in told.states}
    assert list(states) == list(State)
    assert {state: s.entered for state, s in states.items()} == {
        State.NOT_STARTED: 4, State.ACTIVE: 3, State.CLOSED: 2, State.ERROR: 1, State.TIMED_OUT: 0,
    }  # fmt: skip
    opening, active = states[State.NOT_STARTED].seconds, states[State.ACTIVE].seconds
    assert (opening.count, opening.max) == (4, 6.0)
    assert opening.p50 == pytest.approx(2.0, rel=0.01)
    assert (active.count, active.max) == (2, 30.0)  # of one that is active still, nobody knows how long
    assert states[State.CLOSED].seconds is None
    assert (told.records, told.forgotten) == (10, 0)
    assert told.first == T0 + timedelta(seconds=100)
    assert told.last == T0 + timedelta(seconds=401)
    assert told.endings == (
        Ending(state=State.CLOSED, close_reason=CloseReason.MANUAL, count=2),
        Ending(state=State.ERROR, close_reason=CloseReason.BACKEND, count=1),
    )
    assert told.failures == (Failure(cause="step", error="StartFailed", count=1),)


def test_one_writer_is_timed_by_its_own_clock_and_two_by_the_time_of_day():
    start, commit = a_life(1, seq=1, opened=2.0)
    jumped = a_record(3, 3, **{**CLOSED, "attachment_id": "a1", "offset": 112.0, "at": T0 - timedelta(days=1)})
    by_another = a_record(
        1, 3, **{**CLOSED, "kind": RecordKind.RECOVERED, "attachment_id": "a1", "writer": "v", "offset": 1.0},
        at=commit.at + timedelta(seconds=7),
    )  # fmt: skip
    for end, seconds in ((jumped, 10.0), (by_another, 7.0)):
        told = summarize(r.to_json() for r in (start, commit, end))
        assert told.states[1].seconds.max == seconds


def test_what_changes_no_state_is_no_time_in_one():
    life = a_life(1, seq=1, opened=2.0, lived=30.0, end=CLOSED)
    noise = a_record(9, 9, attachment_id="a1", kind=RecordKind.REJECTED, source=State.ACTIVE, dest=State.ACTIVE)
    intent = a_record(9, 9, **{**CLOSED, "attachment_id": "a1", "kind": RecordKind.INTENT})
    late = a_record(9, 9, attachment_id="a1", kind=RecordKind.IGNORED, source=State.CLOSED, dest=State.CLOSED)
    told = summarize(r.to_json() for r in (*life[:2], noise, intent, life[2], late))
    assert (told.states[1].entered, told.states[1].seconds.count, told.states[1].seconds.max) == (1, 1, 30.0)
    assert told.states[2].entered == 1
    assert sum(e.count for e in told.endings) == 1


def test_steps_are_timed_when_they_ran_and_their_failures_counted():
    steps = (
        StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=20.0),
        StepResult(step="read_cookies", outcome=StepOutcome.SKIPPED, note="no file"),
        StepResult(step="after:mine", outcome=StepOutcome.FAILED, ms=3.0, error="KeyError"),
    )
    more = (
        StepResult(step="open_backend", outcome=StepOutcome.FAILED, ms=40.0, error="StartFailed"),
        StepResult(step="open_backend", outcome=StepOutcome.TIMED_OUT, ms=0.0),
    )
    guards = (GuardResult(guard="idle", held=False),)
    told = summarize(a_record(n, n, steps=s, guards=guards).to_json() for n, s in ((1, steps), (2, more)))
    cookies, opened, hook = told.steps
    assert [s.step for s in told.steps] == ["read_cookies", "open_backend", "after:mine"]
    assert (cookies.ms, cookies.skipped, cookies.failures) == (None, 1, {})
    assert (opened.ms.count, opened.ms.max, opened.skipped) == (3, 40.0, 0)
    assert opened.failures == {"StartFailed": 1, "timed_out": 1}
    assert (hook.ms.p50, hook.failures) == (3.0, {"KeyError": 1})


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_one_percent(seed):
    rng = random.Random(seed)
    values = [rng.lognormvariate(4, 2) for _ in range(3001)]
    records = (
        a_record(n, n, steps=(StepResult(step="x", outcome=StepOutcome.DONE, ms=ms),)) for n, ms in enumerate(values, 1)
    )
    [step] = summarize(r.to_json() for r in records).steps
    exact = sorted(values)
    assert step.ms.p50 == pytest.approx(statistics.median(values), rel=0.0101)
    assert step.ms.p95 == pytest.approx(exact[2850], rel=0.0101)
    assert (step.ms.count, step.ms.max) == (3001, max(values))


def test_memory_is_bounded_and_what_was_forgotten_is_told(monkeypatch):
    monkeypatch.setattr(stats, "LIVE", 3)
    monkeypatch.setattr(stats, "NAMES", 2)
    lives = [a_life(n, seq=3 * n, opened=1.0) for n in range(6)]
    ends = [a_record(99, 3, **{**CLOSED, "attachment_id": f"a{n}", "offset": 1000.0}) for n in range(6)]
    told = summarize(bodies(*lives, ends))
    assert (told.forgotten, told.states[1].entered, told.states[1].seconds.count) == (3, 6, 3)
    assert told.endings[0].count == 6
    named = [StepResult(step=f"after:{n}", outcome=StepOutcome.FAILED, error=f"E{n}", ms=1.0) for n in range(5)]
    again = [StepResult(step="after:0", outcome=StepOutcome.FAILED, error=f"E{n}", ms=1.0) for n in range(5)]
    told = summarize(bodies([a_record(1, 1, steps=(*named, *again))]))
    assert {s.step: s.ms.count for s in told.steps} == {"after:0": 6, "after:1": 1, "(others)": 3}
    assert told.steps[1].failures == {"E0": 2, "E1": 1, "(others)": 3}


def test_nothing_is_summed_up_to_nothing_and_what_is_no_record_is_named(store):
    told = AuditTrail(store).stats()
    assert (told.records, told.first, told.last, told.steps, told.endings) == (0, None, None, (), ())
    for body in (b"{", b"[]", b"{}", b'{"at": "soon"}'):
        with pytest.raises(ValueError):
            summarize([body])


def test_the_numbers_of_real_sessions(tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    with Client(adapter="memory", store=url) as client:
        for team in ("blue", "blue", "red"):
            with client.Session(labels={"team": team}):
                pass
    with AuditTrail(url) as trail:
        told = trail.stats(Query(labels={"team": "blue"}))
        assert trail.stats().endings[0].count == 3
    assert told.endings == (Ending(state=State.CLOSED, close_reason=CloseReason.MANUAL, count=2),)
    assert [s.entered for s in told.states] == [2, 2, 2, 0, 0]
    assert told.states[1].seconds.count == 2
    assert {"open_backend", "release_backend"} <= {s.step for s in told.steps}


def test_a_record_that_cannot_be_summed_up_is_named(tmp_path):
    with closing(open_store(f"sqlite:///{tmp_path}/log.db")) as store:
        with store._file.use() as db:
            db.execute(
                "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, kind, event, source, dest, "
                "at, terminal, body) VALUES ('w', 1, 'a', 1, '', '', '', '', '', 0, '{}')"
            )
        with pytest.raises(StoreError, match="can't be summed up"):
            AuditTrail(store).stats()
