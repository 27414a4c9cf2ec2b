"""Leases: what a process holds is its own only as long as the store has seen it, and nobody's twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import children
import psycopg
import pytest
from lease_rig import Host, Wire, hosts, runs

from lifecycle import (
    AuditError,
    Client,
    ConfigError,
    LeaseLost,
    RecordKind,
    SessionFailed,
    State,
    StoreError,
    journal,
    lease,
)
from lifecycle.audit import verify
from lifecycle.audit.register import Maker, announce
from lifecycle.clocks import boot_seconds
from lifecycle.ports import Leases
from lifecycle.states import CloseReason
from lifecycle.stores.postgres import PostgresStore
from lifecycle.testing.store_suite import T0, a_claim, a_record, a_row, a_writer, the_end
from lifecycle.testing.ways import eventually
from lifecycle_adapters.local import procs
from lifecycle_adapters.local.guard import guard
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow


@pytest.fixture
def database(postgres):
    with postgres.database() as name:
        yield name


@pytest.fixture
def url(postgres, database):
    return postgres.url(database)


@pytest.fixture
def store(url):
    with closing(PostgresStore(url)) as made:
        made.open()
        yield made


@pytest.fixture
def db(url):
    with closing(psycopg.connect(url, autocommit=True)) as made:
        made.execute("SET search_path = lifecycle, pg_temp")
        yield made


def age(db, seconds):
    """Let so much time pass for the database, as far as leases are concerned."""
    db.execute("UPDATE writers SET seen_at = seen_at - make_interval(secs => %s) WHERE fenced_at IS NULL", (seconds,))


# --- the store ------------------------------------------------------------------------------------------------------


def leased(**fields):
    return a_writer(lease_seconds=60.0, **fields)


def test_a_lease_is_taken_once_it_is_over_and_not_before(store, db):
    assert isinstance(store, Leases)
    store.renew(leased())
    assert (store.lease("w").lease_over, store.lease("w").lease_seconds, store.lease("v")) == (False, 60.0, None)
    age(db, 59)
    assert not store.fence("w")
    store.renew(leased())
    age(db, 59)
    assert not store.fence("w"), "it was renewed"
    age(db, 1.5)
    assert (store.lease("w").lease_over, store.lease("w").fenced) == (True, False)
    assert store.fence("w")
    assert store.fence("w"), "it stays so"
    assert store.lease("w").fenced
    with pytest.raises(LeaseLost):
        store.renew(leased())
    assert not store.fence("nobody")


def test_a_writer_that_took_no_lease_can_lose_none(store, db):
    store.renew(a_writer())
    age(db, 10_000)
    assert not store.fence("w")
    assert not store.lease("w").lease_over


@pytest.mark.parametrize(
    "say",
    [
        lambda s: s.write([the_end(2, 2)], []),
        lambda s: s.write([], [a_row(state=State.CLOSED)]),
        lambda s: s.write([the_end(2, 2)], [a_row(state=State.CLOSED)]),
        lambda s: s.claim(a_claim(session_id="t")),
        lambda s: s.claim(a_claim(key="another")),
        lambda s: s.renew(leased()),
    ],
    ids=["a record", "a row", "both", "its claim", "a claim", "that it lives"],
)
def test_nothing_of_a_writer_is_taken_whose_lease_was(store, db, say):
    store.renew(leased())
    store.write([a_record(1, 1)], [a_row()])
    store.claim(a_claim())
    age(db, 61)
    assert store.fence("w")
    with pytest.raises(LeaseLost, match="lease of this process has ended"):
        say(store)
    assert [r for _, r in store.records()] == [a_record(1, 1)]
    assert store.session("s") == a_row()
    assert store.claim(a_claim(attachment_id="b", writer="v")) == a_claim()
    store.renew(leased(writer="v"))
    store.write([the_end(1, 2, writer="v")], [a_row(state=State.ERROR, writer="v")])
    assert store.claim(a_claim(attachment_id="b", writer="v"), replacing="a") is None


@pytest.mark.parametrize("what", ["records", "a row"])
def test_who_takes_a_lease_waits_for_what_is_being_written_under_it(store, url, db, what):
    """So what it finds then is all that there will ever be."""
    store.renew(leased())
    with closing(PostgresStore(url)) as late, closing(psycopg.connect(url)) as held:
        late.open()
        held.execute("SET search_path = lifecycle, pg_temp")
        store.write([], [a_row()])
        # Stopped in the middle of a write, when the lease had been looked at.
        held.execute(
            "UPDATE sessions SET state = 'closed'"
            if what == "a row"
            else "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, kind, event, source, dest,"
            " at, terminal, body, class, slowest) VALUES ('w', 1, 'a', 1, 'x', 'x', 'x', 'x', now(), false, '', 1, 0)"
        )
        age(db, 61)
        done = threading.Event()
        thread = threading.Thread(target=lambda: late.fence("w") and done.set())
        thread.start()
        eventually(lambda: store.lease("w").fenced, "it is fenced at once, for those that look from now on")
        assert not done.wait(0.3)
        held.commit()
        thread.join(10)
        assert done.is_set()
        found = store.session("s").state is State.CLOSED if what == "a row" else len(store.stored()) == 1
        assert found


def test_nobody_lifts_a_fence(store, db):
    store.renew(leased())
    age(db, 61)
    store.fence("w")
    with pytest.raises(psycopg.DatabaseError, match="has ended and was taken"):
        db.execute("UPDATE writers SET fenced_at = NULL")


# --- a process that has lost its lease --------------------------------------------------------------------------------


def taken(client, store, db):
    """Another process finds the lease of the client over, and takes it."""
    age(db, 10_000)
    assert store.fence(client._core.journal.writer)


def kinds(store, session_id):
    return [r.kind.value for _, r in store.records(session_id=session_id)]


def test_who_has_lost_its_lease_is_told_and_says_nothing_that_counts(url, store, db, way):
    client = way.client(adapter="memory", store=url)
    session = client.Session(labels={"team": "blue"}).start()
    taken(client, store, db)
    with pytest.raises(LeaseLost, match="taken over the session meanwhile"):
        session.stop()
    assert session.state in (State.CLOSED, State.ERROR)
    assert store.session(session.session_id).state is State.ACTIVE, "whoever took the lease says how it ended"
    told = [r for _, r in store.records(session_id=session.session_id)]
    assert [r.kind for r in told[:2]] == [RecordKind.INTENT, RecordKind.COMMIT]
    assert {r.kind for r in told[2:]} == {RecordKind.STALE}
    assert [r.said for r in told[2:]].count(RecordKind.COMMIT) == 1
    assert {r.attachment_id for r in told[2:]} == {f"{told[0].attachment_id}~{client._core.journal.writer}"}
    assert {r.writer for r in told[2:]} == {client._core.journal.writer} != {told[0].writer}
    assert told[2].labels == {"team": "blue"}
    assert [r.attachment_seq for r in told[2:]] == [*range(1, len(told) - 1)]
    with client.Session() as another:  # under a lease of its own
        assert store.session(another.session_id).writer == client._core.journal.writer
    assert store.session(another.session_id).state is State.CLOSED
    assert verify(store).problems == []


def test_a_session_ends_with_the_lease_that_another_has_taken(url, store, db, way):
    """Without anybody asking for it: a lease is renewed."""
    client = way.client(adapter="memory", store=url, lease_seconds=3)
    session = client.Session().start()
    taken(client, store, db)
    status = session.wait_ended(timeout=30)
    assert (status.status, status.close_reason) == (State.ERROR, CloseReason.LEASE_LOST)
    with pytest.raises(SessionFailed):
        session.get_cookies()


def test_a_start_that_was_under_way_does_not_become_a_session(url, store, db):
    class Slow(MemoryAdapter):
        async def open(self, *args):
            backend = await super().open(*args)
            await args[2].run_blocking(taken, client, store, db)
            return backend

    adapter = Slow()
    with Client(adapter=adapter, store=url) as client:
        with pytest.raises(AuditError) as caught:
            client.Session().start()
        assert isinstance(caught.value, LeaseLost)
        assert list(adapter.live) == []
    (attachment,) = {r.attachment_id for _, r in store.records() if r.kind is RecordKind.INTENT}
    assert not any(r.terminal for _, r in store.records(attachment_id=attachment))
    with Client(adapter=adapter, store=url) as client:  # whoever comes next ends it
        assert [s.close_reason for s in client.sessions.reap()] == [CloseReason.LEASE_LOST]
    assert verify(store).problems == []


def test_a_session_that_begins_after_the_lease_was_lost_begins_under_a_new_one(url, store, db):
    with Client(adapter="memory", store=url) as client:
        with client.Session():
            pass
        taken(client, store, db)
        with client.Session() as session:
            row = store.session(session.session_id)
            assert row.writer == client._core.journal.writer
        assert kinds(store, session.session_id) == ["intent", "commit", "intent", "commit"]
    assert not [r for _, r in store.records() if r.kind is RecordKind.STALE]
    assert verify(store).problems == []


def test_what_was_written_unknown_to_its_writer_is_not_said_twice(url, store, db):
    """The server had taken the write, the answer was lost, and by the next try the lease was."""

    class Forgetful(PostgresStore):
        lose = False

        def write(self, records, rows):
            super().write(records, rows)
            if self.lose and records:
                self.lose = False
                taken(client, store, db)
                client._core.journal.lease._seen -= 11  # it is renewed before the next write: that is what tells
                raise StoreError("the connection broke", store=self.url)

    mine = Forgetful(url)
    with Client(adapter="memory", store=mine, reap_on_start=False, lease_seconds=60) as client:
        session = client.Session().start()
        mine.lose = True
        with pytest.raises(AuditError):
            session.stop()
        eventually(lambda: not client._core.journal.refused(), "it went in")
        told = [r for _, r in store.records(session_id=session.session_id)]
        assert [r.kind for r in told[:3]] == ["intent", "commit", "intent"]
        said = [(r.said or r.kind, r.event) for r in told]
        assert len(said) == len(set(said))
    assert verify(store).problems == []


def test_what_was_spilled_by_who_has_lost_its_lease_goes_in_as_stale(postgres, database, store, db, tmp_path):
    """It was cut off, its session was taken over elsewhere, and it was killed before it could say a word."""
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path)}
    with hosts() as keep:
        wire = keep(Wire(postgres.port))
        cut = keep(Host(wire, database, "one", env=env, reaps=False, spool=True, seconds=0.5, lease=60))
        begun = cut.ask("start")
        wire.cut()
        unknown = cut.ask("start")
        assert cut.ask("stop", of=1)["status"]["status"] == "closed"
        age(db, 61)
        there = keep(Host(keep(Wire(postgres.port)), database, "two", reaps=False))
        assert there.ask("reap")["reaped"] == [begun["session_id"]]
        assert store.session(begun["session_id"]).close_reason is CloseReason.LEASE_LOST
        cut.kill()
        wire.heal()
        later = keep(Host(wire, database, "one", env=env, reaps=False))
        assert later.ask("reap")["reaped"] == [unknown["session_id"]], "nobody knew of it before"
        assert store.session(begun["session_id"]).close_reason is CloseReason.LEASE_LOST, "what was decided counts"
        told = [r for _, r in store.records(session_id=begun["session_id"])]
        assert [(r.kind, r.said) for r in told] == [
            ("intent", None), ("commit", None), ("recovered", None), ("stale", "intent"), ("stale", "commit"),
        ]  # fmt: skip
        assert (told[-1].dest, told[-1].close_reason, told[-1].host) == (State.CLOSED, CloseReason.MANUAL, "one")
        assert not list((tmp_path / "state").rglob("*.jsonl"))
        for host in (there, later):
            host.end()
    assert verify(store).problems == []


def test_a_crash_after_the_end_of_the_lease_is_that_end(url, store, monkeypatch):
    """The guard has ended its browser while the process was stopped: that is what it sees first."""
    adapter = MemoryAdapter()
    with Client(adapter=adapter, store=url) as client:
        session = client.Session().start()
        renewed = client._core.journal.lease._seen
        monkeypatch.setattr(client._core.journal.lease, "_seen", renewed - 1000)
        adapter.crash(session.session_id)
        assert session.wait_ended(timeout=30).close_reason is CloseReason.LEASE_LOST
    assert store.session(session.session_id).close_reason is CloseReason.LEASE_LOST, "nobody has taken it"


def test_a_backend_is_told_of_the_lease_that_its_session_comes_under(url, store, monkeypatch):
    """Also where the store took its beginning late, and the lease is not renewed for long."""

    class Refusing(PostgresStore):
        refuses = False

        def write(self, records, rows):
            if self.refuses and records:
                raise StoreError("not now", store=self.url)
            super().write(records, rows)

    class Following(MemoryAdapter):
        async def open(self, session_id, options, host):
            host.follow_lease(told.append)
            return await super().open(session_id, options, host)

    monkeypatch.setattr(journal, "RETRY_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(lease, "RENEW_SECONDS", 1000)
    told, mine = [], Refusing(url)
    with Client(adapter=Following(), store=mine, spool=True) as client:
        with client.Session():
            assert len(told) == 1, "at once"
        told.clear()
        mine.refuses = True
        with client.Session() as session:
            assert told == [], "it is under none"
            mine.refuses = False
            eventually(lambda: told, "it is told")
            assert told == [client._core.journal.lease.held_until]
            assert store.session(session.session_id)


# --- one that can't renew it ------------------------------------------------------------------------------------------


def lease_of(db, session_id):
    """Whether the lease is over that a session was begun under, by the clock of the database."""
    ((over,),) = db.execute(
        "SELECT fenced_at IS NOT NULL OR seen_at + make_interval(secs => lease_seconds) < clock_timestamp() "
        "FROM records JOIN writers USING (writer) WHERE session_id = %s AND (kind, event) = ('intent', 'start')",
        (session_id,),
    ).fetchall()
    return over


def gone_in_time(db, session_id, pid, started):
    """Wait until the process of a session has ended, and see that its lease had not."""
    while runs(pid, started):
        over = lease_of(db, session_id)
        assert not (over and runs(pid, started)), "a browser without an owner, past its lease"
        time.sleep(0.005)


def ended_with_its_lease(host):
    """Its first session has, as far as it knows itself."""

    def ended():
        status = host.ask("status", of=1)["status"]
        return (status["status"], status["close_reason"]) == ("error", "lease_lost")

    eventually(ended, "it knows that its session has ended")


def facts_of(store, session_id):
    facts = store.session(session_id).facts
    return int(facts["pid"]), facts.get("started") or procs.start_time(int(facts["pid"]))


def test_who_is_cut_off_ends_its_sessions_before_the_lease_does(postgres, database, store, db):
    with hosts() as keep:
        wire = keep(Wire(postgres.port))
        host = keep(Host(wire, database, "one", adapter="process", lease=4, seconds=1))
        session_id = host.ask("start")["session_id"]
        pid, started = facts_of(store, session_id)
        wire.cut()
        gone_in_time(db, session_id, pid, started)
        ended_with_its_lease(host)
        assert host.ask("start")["error"] == "StoreError", "without a lease nothing begins"
        wire.heal()
        eventually(lambda: store.session(session_id).state.terminal, "it is in the log when the log is there")
        assert host.ask("start")["session_id"]
        host.end()
    assert store.session(session_id).close_reason is CloseReason.LEASE_LOST
    assert kinds(store, session_id) == ["intent", "commit", "intent", "commit", "spilled"]
    assert verify(store).problems == []


def test_a_session_that_began_without_the_store_is_under_no_lease_until_that_knows_it(postgres, database, store, db):
    with hosts() as keep:
        wire = keep(Wire(postgres.port))
        host = keep(Host(wire, database, "one", adapter="process", lease=2, spool=True, seconds=0.5))
        known = host.ask("start")["session_id"]
        wire.cut()
        unknown = host.order("start")
        unknown = host.answer(unknown)["session_id"]
        eventually(lambda: host.ask("status", of=1)["status"]["status"] == "error", "the lease of the first is over")
        assert host.ask("status", of=2)["status"]["status"] == "active"
        assert store.session(unknown) is None
        wire.heal()
        eventually(lambda: store.session(unknown), "the store knows it")
        pid, started = facts_of(store, unknown)
        eventually(lambda: not lease_of(db, unknown), "it is under a lease now")
        wire.cut()
        gone_in_time(db, unknown, pid, started)
        wire.heal()
        assert known != unknown
        host.end()
    assert verify(store).problems == []


@pytest.mark.parametrize("adapter", ["process", "local"])
def test_a_browser_ends_with_the_lease_of_an_owner_that_is_stopped(postgres, database, store, db, adapter):
    with hosts() as keep:
        host = keep(Host(keep(Wire(postgres.port)), database, "one", adapter=adapter, lease=4))
        other = keep(Host(keep(Wire(postgres.port)), database, "two", adapter=adapter, lease=4, reaps=False))
        session_id = host.ask("start")["session_id"]
        pid, started = facts_of(store, session_id)
        host.pause()
        assert other.ask("reap")["reaped"] == []
        gone_in_time(db, session_id, pid, started)
        eventually(lambda: lease_of(db, session_id), "its lease ends")
        (listed,) = other.ask("list")["statuses"]
        assert (listed["status"], listed["close_reason"]) == ("error", "lease_lost")
        assert other.ask("reap")["reaped"] == [session_id]
        row = store.session(session_id)
        assert (row.state, row.close_reason, row.released) == (State.ERROR, CloseReason.LEASE_LOST, True)
        host.go_on()
        assert host.ask("operate", of=1)["error"] == "SessionFailed"
        ended_with_its_lease(host)
        assert host.ask("start")["session_id"], "it goes on, under another lease"
        assert store.session(session_id) == row
        for made in (host, other):
            made.end()
    assert kinds(store, session_id)[:3] == ["intent", "commit", "recovered"]
    assert set(kinds(store, session_id)[3:]) == {"stale"}
    assert verify(store).problems == []


@pytest.mark.parametrize("shift", [-600, 600])
def test_the_clock_of_a_host_decides_nothing(postgres, database, store, shift):
    with hosts() as keep:
        wrong = keep(Host(keep(Wire(postgres.port)), database, "one", lease=60, shift=shift))
        other = keep(Host(keep(Wire(postgres.port)), database, "two", lease=60, shift=-shift, reaps=False))
        session_id = wrong.ask("start")["session_id"]
        assert other.ask("reap")["reaped"] == []
        mine = other.ask("start")["session_id"]
        assert wrong.ask("reap")["reaped"] == []
        assert wrong.ask("status", of=1)["status"]["status"] == "active"
        for host in (wrong, other):
            host.end()
    assert {store.session(s).state for s in (session_id, mine)} == {State.CLOSED}


def test_a_key_goes_to_another_host_once_the_lease_of_its_holder_has_ended(postgres, database, store, db):
    with hosts() as keep:
        one = keep(Host(keep(Wire(postgres.port)), database, "one", adapter="process", lease=4))
        two = keep(Host(keep(Wire(postgres.port)), database, "two", adapter="process", lease=4))
        first = one.ask("start", key="k")
        pid, started = facts_of(store, first["session_id"])
        one.pause()
        waits = two.order("start", key="k")
        gone_in_time(db, first["session_id"], pid, started)
        answer = two.answer(waits)
        while "error" in answer:  # as long as the session of the other counts as active, and can't be attached to
            assert answer["error"] in ("StartFailed", "SessionFailed"), answer
            answer = two.ask("start", key="k")
        assert answer["created"]
        assert answer["session_id"] != first["session_id"]
        one.go_on()
        assert one.ask("operate", of=1)["error"] == "SessionFailed"
        for host in (one, two):
            host.end()
    assert verify(store).problems == []


def held_far_away(store):
    """A session is active on another host."""
    store.renew(leased(host="far"))
    announce(store, ["w"], Maker("w", "far", 42, "0.1"), T0)
    store.write([a_record(1, 1)], [a_row(host="far")])


def test_a_reaper_that_is_stopped_in_the_middle_keeps_nobody_from_it(url, store, db):
    """What it has claimed goes to the next with its lease, and what it says then is refused."""
    held_far_away(store)
    store.renew(leased(writer="reaper"))
    store.claim(a_claim(adapter="(reaper)", key="a", attachment_id="r", writer="reaper", host="far"))
    age(db, 61)
    with Client(adapter="memory", store=url, reap_on_start=False) as client:
        assert [s.session_id for s in client.sessions.reap()] == ["s"]
    with pytest.raises(LeaseLost):
        store.write([the_end(1, 2, writer="reaper")], [])


def test_a_reaper_leaves_an_owner_alone_that_was_quicker(url, store, db, monkeypatch):
    """Its lease was over when it was looked for, and renewed when it was to be taken."""
    held_far_away(store)
    age(db, 61)
    with Client(adapter="memory", store=url, reap_on_start=False) as client:
        fence = PostgresStore.fence
        monkeypatch.setattr(PostgresStore, "fence", lambda s, w: store.renew(leased(writer=w)) or fence(s, w))
        assert client.sessions.reap() == []
        assert store.session("s") == a_row(host="far")
        monkeypatch.setattr(PostgresStore, "fence", fence)
        age(db, 61)
        assert [s.close_reason for s in client.sessions.reap()] == [CloseReason.LEASE_LOST]


def test_who_has_lost_a_session_may_end_it_itself_where_nobody_else_has(url, store, db):
    """Whoever took its lease has died, say, before it came to that."""
    with Client(adapter="memory", store=url, reap_on_start=False) as client:
        session = client.Session().start()
        taken(client, store, db)
        with pytest.raises(LeaseLost):
            session.stop()
        assert store.session(session.session_id).state is State.ACTIVE
        assert [s.session_id for s in client.sessions.reap()] == [session.session_id]
        assert client.sessions.reap() == []
    row = store.session(session.session_id)
    assert (row.state, row.close_reason, row.released) == (State.ERROR, CloseReason.LEASE_LOST, True)
    assert store.open_attachments() == {}
    assert verify(store).problems == []


def test_a_client_looks_again_and_again_for_leases_that_are_over(url, store, db):
    with Client(adapter="memory", store=url, lease_seconds=2):
        held_far_away(store)
        age(db, 61)
        eventually(lambda: store.session("s").state.terminal, "it is reaped")


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.fixture
def process():
    """A process that ends with its stdin, and leads a group."""
    made = []

    def make():
        made.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True))
        return made[-1], procs.start_time(made[-1].pid)

    yield make
    for process in made:
        if (left := guard.forget(process.pid)) is not None:
            guard.end(left)
        process.kill()
        process.stdin.close()
        process.wait()


def test_the_guard_ends_a_process_when_its_time_has_come_and_not_before(process):
    (early, started), (late, later) = process(), process()
    guard.hold(early.pid, started, boot_seconds() + 0.5)
    guard.hold(late.pid, later, boot_seconds() + 60)
    guard.hold(early.pid, started, boot_seconds() + 1.5)  # it was moved
    began = time.monotonic()
    assert early.wait(20) == -signal.SIGKILL
    assert time.monotonic() - began > 1.4
    assert late.poll() is None


def test_the_guard_ends_no_process_that_only_has_the_number(process):
    one, started = process()
    other, its = process()
    guard.hold(one.pid, started + "0", boot_seconds())
    guard.hold(other.pid, its, boot_seconds())
    assert other.wait(20) == -signal.SIGKILL
    assert one.poll() is None


def test_a_guard_that_has_ended_is_made_anew_and_knows_all(process):
    (one, started), (other, its) = process(), process()
    guard.hold(one.pid, started, boot_seconds() + 60)
    first = guard._process
    first.kill()
    first.wait()
    guard.hold(one.pid, started, boot_seconds() + 1)
    guard.hold(other.pid, its, boot_seconds() + 60)
    assert guard._process.pid != first.pid
    assert one.wait(20) == -signal.SIGKILL
    assert other.poll() is None


def test_a_guard_that_reads_nothing_is_made_anew_and_holds_nobody_up(process):
    (one, started), (other, its) = process(), process()
    guard.hold(one.pid, started, boot_seconds() + 600)
    stuck = guard._process
    stuck.send_signal(signal.SIGSTOP)
    while guard._process is stuck:
        guard.hold(one.pid, started, boot_seconds() + 600)
    guard.hold(other.pid, its, boot_seconds())
    assert other.wait(20) == -signal.SIGKILL


def test_there_is_no_guard_without_a_browser_under_a_lease(url, process):
    one, started = process()
    guard.hold(one.pid, started, boot_seconds() + 60)
    running = guard._process
    assert running.poll() is None
    guard.end(guard.forget(one.pid))
    assert running.returncode == 0
    assert guard._process is None
    with Client(adapter="memory", store=url) as client, client.Session():
        assert guard._process is None


def test_a_forked_child_keeps_no_guard_alive(process):
    one, started = process()
    guard.hold(one.pid, started, boot_seconds() + 60)
    running = guard._process
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(into)
        os._exit(0 if guard._process is None and os.read(out, 1) == b"" else 1)
    os.close(out)
    guard.end(guard.forget(one.pid))
    assert running.returncode == 0, "it saw its end, though the child runs"
    os.close(into)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_guard_ends_with_its_owner(tmp_path):
    program = """
import subprocess, sys
from lifecycle.audit.register import Maker, announce
from lifecycle.clocks import boot_seconds
from lifecycle_adapters.local import procs
from lifecycle_adapters.local.guard import guard
process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
guard.hold(process.pid, procs.start_time(process.pid), boot_seconds() + 60)
print(guard._process.pid, process.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=children.environment(),
    ) as owner:  # fmt: skip
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        started = [procs.start_time(pid) for pid in pids]
        owner.kill()
        for pid, began in zip(pids, started, strict=True):
            eventually(lambda pid=pid, began=began: not runs(pid, began), "it ended with its owner")


def test_the_end_of_a_lease_cannot_be_shorter_than_makes_sense(url):
    for seconds in (1.9, 0, -1, True, "60", float("nan")):
        with pytest.raises(ConfigError, match="lease_seconds=.*2 to"):
            Client(store=url, lease_seconds=seconds)
