"""The PostgreSQL store: the shipped contract, and what a server, several writers and a network can do to it."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import json
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources

import psycopg
import pytest
from postgres_rig import server as run_server

from lifecycle import Client
from lifecycle.audit import FIRST, RecordKind, StepOutcome, StepResult, verify
from lifecycle.audit.query import Query
from lifecycle.audit.register import Maker, announce
from lifecycle.errors import ConfigError, StoreError
from lifecycle.recovery import long_silent
from lifecycle.states import State
from lifecycle.stores import open_store, postgres, postgres_find
from lifecycle.stores.postgres import PostgresStore
from lifecycle.testing.store_suite import T0, StoreSuite, a_claim, a_record, a_row, a_writer, the_end
from lifecycle.testing.ways import eventually, in_threads

_numbers = itertools.count(1)


@pytest.fixture
def server(postgres):
    return postgres


@pytest.fixture
def database(server):
    """The name of a database of its own, with the tables."""
    with server.database() as name:
        yield name


@pytest.fixture
def url(server, database):
    return server.url(database)


@pytest.fixture
def store(url):
    with closing(PostgresStore(url, seconds=5)) as store:
        store.open()
        yield store


@pytest.fixture
def raw(url):
    """A connection beside the store, in a transaction of its own."""
    with psycopg.connect(url, options="-c search_path=lifecycle") as db:
        yield db


class TestPostgresStore(StoreSuite):
    durable = True

    @pytest.fixture
    def store(self, url):
        self.place = url
        with closing(open_store(url)) as store:
            yield store

    def reopen(self, store):
        store.close()
        return open_store(self.place)


@pytest.mark.parametrize(
    "name",
    [
        "test_each_filter_finds_what_it_says",
        "test_labels_of_records_are_whole_and_exact",
        "test_rows_are_chosen_by_labels",
        "test_labelled_rows_come_newest_first_whatever_becomes_of_them",
    ],
)
def test_what_is_not_near_the_end_is_found_too(store, monkeypatch, name):
    monkeypatch.setattr(postgres_find, "_NEAR", 2)
    getattr(StoreSuite(), name)(store)


def test_a_session_with_a_label_is_found_however_many_are_newer(store, monkeypatch):
    monkeypatch.setattr(postgres_find, "_NEAR", 2)
    for n in range(40):
        store.write([], [a_row(f"s{n}", created_at=T0 + timedelta(seconds=n), labels={"old": str(n < 3)})])
    assert [row.session_id for row in store.sessions(labels={"old": "True"}, limit=2, offset=1)] == ["s1", "s0"]
    old = {"status": State.ACTIVE, "labels": {"old": "True"}, "limit": 1}
    assert [row.session_id for row in store.sessions(**old)] == ["s2"]


@pytest.mark.slow
def test_a_rare_label_is_looked_up_and_not_looked_for(server, database, store):
    """Whatever the planner believes of how often it comes: it knows no values that seldom come."""
    for first in range(1, 20_001, 1000):
        numbers = range(first, first + 1000)
        records = [a_record(n, n, labels={"team": "blue", "run": str(n)}) for n in numbers]
        store.write(records, [a_row(f"s{n}", labels=r.labels) for n, r in zip(numbers, records, strict=True)])
    server.ask("VACUUM ANALYZE", database=database)
    count = "SELECT coalesce(sum(heap_blks_read + heap_blks_hit), 0) FROM pg_statio_user_tables"

    def blocks_of(ask):
        with store._server.use() as db:
            db.ask("SELECT pg_stat_force_next_flush()")
        before = server.ask(count, database=database)[0][0]
        found = ask()
        with store._server.use() as db:
            db.ask("SELECT pg_stat_force_next_flush()")
        return found, server.ask(count, database=database)[0][0] - before

    whole = server.ask("SELECT pg_relation_size('lifecycle.records') / 8192", database=database)[0][0]
    assert whole > 2000
    for newest in (True, False):
        found, blocks = blocks_of(lambda: store.query(Query(labels={"run": "9999"}), limit=2, newest=newest))  # noqa: B023
        assert [number for number, _ in found] == [9999]
        assert blocks < whole / 2
    found, blocks = blocks_of(lambda: store.query(Query(labels={"team": "blue"}), limit=100))
    assert len(found) == 100
    assert blocks < whole / 2


@pytest.mark.parametrize("ms", [5e-324, 0.5, 1.0, 9.99, 10.0, 1e4, 1e9])
def test_what_took_longer_is_found_at_each_bound(store, ms):
    step = StepResult(step="open_backend", outcome=StepOutcome.DONE, ms=ms)
    store.write([a_record(1, 1, steps=()), a_record(2, 2, steps=(step,))], [])

    def slower(than):
        return [number for number, _ in store.query(Query(slower_than=than))]

    assert slower(0) == slower(math.nextafter(ms, 0)) == [2]
    assert slower(ms) == []


def test_a_span_of_time_is_found_whatever_clocks_say(store):
    """Of hosts whose clocks are apart, and of records that come late."""
    minute = timedelta(minutes=1)
    times = [T0 + n * minute for n in range(3000)]
    times[100], times[2900] = T0 + 5000 * minute, T0 - minute
    for first in range(0, 3000, 500):
        store.write([a_record(n + 1, n + 1, at=times[n]) for n in range(first, first + 500)], [])

    def found(**filters):
        return [number for number, _ in store.query(Query(**filters))]

    def expected(since=T0 - 9999 * minute, until=T0 + 9999 * minute):
        return [n + 1 for n, at in enumerate(times) if since <= at < until]

    for n in (0, 1, 1023, 1024, 1500, 2899, 2999):
        assert found(since=times[n]) == expected(since=times[n])
        assert found(until=times[n]) == expected(until=times[n])
        assert found(since=times[n], kind="intent") == expected(since=times[n])
        later = times[n] + 10 * minute
        assert found(since=times[n], until=later) == expected(times[n], later)
    assert found(since=T0 + 4000 * minute) == [101]
    assert found(until=T0) == [2901]
    assert found(since=T0 + 6000 * minute) == found(until=T0 - 6 * minute) == []


# --- what the database itself holds ---------------------------------------------------------------------------------


def test_the_exact_bytes_are_kept(store, raw):
    store.write([a_record(1, 1), the_end(2, 2)], [])
    rows = raw.execute("SELECT body, terminal, event, dest, at, id FROM records ORDER BY id").fetchall()
    at = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert rows == [
        (a_record(1, 1).to_json(), False, "start", "active", at + timedelta(milliseconds=1), 1),
        (the_end(2, 2).to_json(), True, "stop", "closed", at + timedelta(milliseconds=2), 2),
    ]


REST = "session_id, kind, event, source, dest, at"
NAMES = f"writer, writer_seq, attachment_id, attachment_seq, {REST}, terminal, body, class, slowest"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = '' WHERE id = 1",
        "UPDATE records SET id = 7 WHERE id = 1",
        "DELETE FROM records WHERE id = 2",
        "DELETE FROM records",
        "TRUNCATE records",
        "TRUNCATE records CASCADE",
        # a repeat, a second end, a gap
        f"INSERT INTO records ({NAMES}) SELECT {NAMES} FROM records WHERE id = 1",
        f"INSERT INTO records ({NAMES}) SELECT 'v', 1, 'a', 3, {REST}, true, body, class, 0 FROM records WHERE id = 2",
        f"INSERT INTO records ({NAMES}) SELECT 'v', 2, 'b', 1, {REST}, false, body, class, 0 FROM records WHERE id = 1",
        f"INSERT INTO records ({NAMES}) SELECT 'v', 1, 'b', 2, {REST}, false, body, class, 0 FROM records WHERE id = 1",
        "UPDATE register SET body = ''",
        "DELETE FROM register WHERE seq = 2",
        "TRUNCATE register",
        "INSERT INTO register SELECT * FROM register WHERE seq = 1",
        "INSERT INTO register SELECT 4, writer, hash, body FROM register WHERE seq = 1",
    ],
)
def test_the_database_refuses_change_and_deletion_by_anybody(store, raw, statement):
    store.write([a_record(1, 1), the_end(2, 2)], [])
    assert store.enter([(None, b"one"), ("w", b"two")], after=0)
    before = (store.stored(), store.register())
    with pytest.raises(psycopg.Error) as e:
        raw.execute(statement)
    assert e.value.sqlstate in ("LC001", "23505")
    raw.rollback()
    assert (store.stored(), store.register()) == before


def test_a_number_and_a_time_are_given_by_the_database_alone(store, raw):
    store.write([a_record(1, 1)], [])
    raw.execute(
        f"INSERT INTO records (id, stored_at, {NAMES}) "
        f"SELECT 99, '2001-01-01', 'v', 1, 'b', 1, {REST}, false, body, class, 0 FROM records"
    )
    raw.commit()
    ((number, at),) = raw.execute("SELECT id, stored_at FROM records WHERE writer = 'v'").fetchall()
    assert number == 2
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


def test_what_is_acknowledged_is_on_disk_whatever_the_database_is_set_to(server, database, url):
    server.ask(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with closing(open_store(url)) as store, store._server.use() as db:
        assert db.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_two_that_end_one_attachment_at_once_are_told_apart(url, store, raw):
    store.write([a_record(1, 1)], [])
    ends = queue.SimpleQueue()
    raw.execute(
        f"INSERT INTO records ({NAMES}, hash) SELECT 'v', 1, 'a', 2, {REST}, true, body, class, 0, hash FROM records"
    )

    def end_too():
        with pytest.raises(StoreError) as e:
            store.write([the_end(2, 2)], [a_row()])
        ends.put(str(e.value))

    thread = threading.Thread(target=end_too)
    thread.start()
    eventually(lambda: raw.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall(), "it waits for the other")
    raw.commit()
    thread.join()
    assert "number 2 of writer w and 2 of attachment a: a gap or a repeat in the attachment's sequence" in ends.get()
    assert store.session("s") is None


def test_what_a_write_reads_does_not_grow_with_the_log(server, database, store):
    """Nor before the server has looked at how large the tables have become."""
    server.ask("ALTER TABLE lifecycle.records SET (autovacuum_enabled = off)", database=database)
    count = "SELECT sum(idx_tup_read) + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables) FROM pg_stat_user_indexes"

    def read_by(numbers):
        before = server.ask(count, database=database)[0][0]
        for n in numbers:
            store.write([a_record(n, n)], [a_row()])
        with store._server.use() as db:
            db.ask("SELECT pg_stat_force_next_flush()")
            db.ask("SELECT 1")
        return server.ask(count, database=database)[0][0] - before

    read_by(range(1, 1001))
    assert read_by(range(1001, 1101)) < 100 * 20
    assert store.enter([("w", b"one")] * 500, after=0)
    assert store.enter([("w", b"two")], after=500)


# --- writers at once ------------------------------------------------------------------------------------------------


def test_a_writer_in_the_middle_of_a_write_holds_no_other_up(url, raw):
    """Not at the log, not at the index, not at the ledger, and not at the register."""
    with closing(PostgresStore(url, seconds=1)) as store:
        store.open()
        store.write([a_record(1, 1)], [])
        raw.execute(f"INSERT INTO records ({NAMES}) SELECT 'v', 1, 'b', 1, {REST}, false, body, class, 0 FROM records")
        raw.execute("INSERT INTO open_attachments VALUES ('z', 'v')")
        store.write([a_record(2, 2), a_record(3, 1, attachment_id="c", cause="new")], [a_row()])
        store.write([the_end(4, 3)], [])
        assert store.enter([("w", b"one")], after=0)
        store.renew(a_writer())
        assert [row.writer_seq for row in store.stored(writer="w")] == [1, 2, 3, 4]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("ask", ["records", "stored", "query"])
def test_who_reads_by_number_waits_for_those_who_are_adding(store, url, raw, ends, ask):
    """Else who goes on behind the last one found would miss what is given a lower number and comes later."""
    store.write([a_record(1, 1)], [])
    raw.execute(f"INSERT INTO records ({NAMES}) SELECT 'v', 1, 'b', 1, {REST}, false, body, class, 0 FROM records")
    store.write([a_record(2, 2)], [])  # with the number 3
    found = queue.SimpleQueue()

    def read():
        with closing(open_store(url)) as other:
            calls = {"records": other.records, "stored": other.stored, "query": lambda: other.query(Query())}
            found.put([row[0] for row in calls[ask]()])

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: raw.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall(), "it waits")
    store.write([a_record(3, 3)], [])  # nobody waits for the one who waits
    assert found.empty()
    getattr(raw, ends)()
    reader.join()
    assert found.get() == ([1, 2, 3] if ends == "commit" else [1, 3])  # and not what came after it had asked
    assert raw.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []


@pytest.mark.parametrize("stays", range(4))
def test_who_waits_for_one_that_is_adding_holds_up_none_of_the_others(store, url, stays):
    store.write([a_record(1, 1)], [])
    options = "-c search_path=lifecycle -c lock_timeout=2s"
    add = (
        f"INSERT INTO records ({NAMES}) SELECT %s, %s, %s, %s, {REST}, false, body, class, 0 FROM records WHERE id = 1"
    )
    with contextlib.ExitStack() as stack:
        adding = [stack.enter_context(psycopg.connect(url, options=options)) for _ in range(4)]
        for n, db in enumerate(adding):
            db.execute(add, (f"v{n}", 1, f"b{n}", 1))
        reader = threading.Thread(target=store.records)
        reader.start()
        eventually(lambda: adding[stays].execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall(), "it waits")
        for n, db in enumerate(adding):
            if n != stays:
                db.commit()
        for n, db in enumerate(adding):  # it waits for the one that stays, whichever it looked at first
            if n != stays:
                db.execute(add, (f"v{n}", 2, f"b{n}", 2))
                db.commit()
        adding[stays].rollback()
        reader.join()


WRITER = """
import random, sys
from lifecycle.stores import open_store
from lifecycle.testing.store_suite import a_record
url, name = sys.argv[1:]
store, rng, n = open_store(url), random.Random(name), 0
print("ready", flush=True)
sys.stdin.readline()
while n < 300:
    count = rng.choice((1, 1, 2, 5))
    store.write([a_record(n + i, n + i, writer=name, attachment_id=name) for i in range(1, count + 1)], [])
    n += count
print(n, flush=True)
"""


@pytest.mark.parametrize("filters", [{}, {"kind": "intent"}])
def test_who_follows_the_log_of_many_writers_misses_nothing(store, url, filters):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, f"w{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        seen, after, running = [], 0, True
        while running:
            running = any(writer.poll() is None for writer in writers)
            page = store.query(Query(**filters), after=after)
            seen += [(record.writer, record.writer_seq) for _, record in page]
            after = page[-1][0] if page else after
        counts = [int(writer.stdout.read()) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert len(seen) == sum(counts)
    for n, count in enumerate(counts):
        assert [seq for name, seq in seen if name == f"w{n}"] == list(range(1, count + 1))


def test_a_key_is_held_by_one_of_many_that_ask_at_once(url):
    def ask(name):
        with closing(open_store(url)) as mine:
            return mine.claim(a_claim(attachment_id=name))

    held = in_threads([lambda n=n: ask(f"a{n}") for n in range(8)])
    assert held.count(None) == 1
    assert len(set(held)) == 2  # all others are told of the one


def test_the_register_is_added_to_by_one_of_many_at_once(url):
    def add(name):
        with closing(open_store(url)) as mine:
            after, done = 0, 0
            while done < 10:
                while not mine.enter([(name, f"{name} {done} {n}".encode()) for n in (0, 1)], after=after):
                    ((after, _, _),) = mine.register(after=max(0, after - 1))[-1:] or [(0, b"", b"")]
                done += 1

    in_threads([lambda n=n: add(f"w{n}") for n in range(4)])
    with closing(open_store(url)) as store:
        bodies = [body.decode() for _, _, body in store.register()]
    assert len(bodies) == 80
    for one, two in zip(bodies[::2], bodies[1::2], strict=True):
        assert (one[:-1] + "1") == two  # what is added together stays together
    for n in range(4):
        assert [b for b in bodies if b.startswith(f"w{n}")] == [f"w{n} {d} {i}" for d in range(10) for i in (0, 1)]


# --- clocks ---------------------------------------------------------------------------------------------------------


def set_host_clock(monkeypatch, seconds):
    """This host's clock goes wrong by so many seconds."""
    monkeypatch.setattr(postgres, "_time", (lambda: time.time() + seconds,))


@pytest.mark.parametrize("seconds", [0, 600, -600])
def test_each_record_has_the_time_of_the_host_and_that_of_the_database(url, raw, captured, monkeypatch, seconds):
    set_host_clock(monkeypatch, seconds)
    with Client(adapter="memory", store=url) as client:
        session = client.Session().start()
        session.stop()
        told = [record.skew for record in session.history()]
    assert len(told) == 4
    assert all(abs(skew + seconds) < 1 for skew in told)
    warned = [event["seconds"] for event in captured if event["event"] == "lifecycle.clock_skew"]
    assert len(warned) == (1 if seconds else 0)
    assert all(abs(skew + seconds) < 1 for skew in warned)
    for at, stored in raw.execute("SELECT at, stored_at FROM records"):
        assert abs(stored - at) < timedelta(seconds=30)  # only what compares the clocks was told that they are apart


@pytest.mark.parametrize("clock", [timedelta(minutes=10), timedelta(), timedelta(minutes=-10)], ids=str)
@pytest.mark.parametrize(("silent", "over"), [(0, False), (240, False), (320, True)])
def test_whether_a_process_on_another_host_lives_is_told_by_the_clock_of_the_database(store, raw, clock, silent, over):
    store.write([a_record(1, 1)], [])
    store.renew(a_writer(host="another.host", renewed_at=datetime.now(UTC) - timedelta(hours=1)))
    store.renew(a_writer(host="another.host", renewed_at=datetime.now(UTC) + clock))
    raw.execute("UPDATE writers SET seen_at = seen_at - make_interval(secs => %s)", (silent,))
    raw.commit()
    (writer,) = store.open_attachments().values()
    assert silent <= writer.silent < silent + 30
    assert long_silent(writer) is over
    store.renew(a_writer(host="another.host", renewed_at=datetime.now(UTC) - timedelta(hours=1)))
    (writer,) = store.open_attachments().values()
    assert writer.silent < 30


def test_records_come_in_the_order_of_their_numbers_whatever_the_time_is(store):
    store.write([a_record(1, 1, at=T0)], [])
    store.write([a_record(1, 1, writer="v", attachment_id="b", at=T0 - timedelta(days=9))], [])
    assert [record.writer for _, record in store.records()] == ["w", "v"]
    assert [record.writer for _, record in store.query(Query(since=T0 - timedelta(days=10)))] == ["w", "v"]


# --- roles ----------------------------------------------------------------------------------------------------------


@contextmanager
def somebody(server, database, *roles):
    """The URL for a user that has these roles."""
    name = f"user{next(_numbers)}"
    server.ask(f"CREATE ROLE {name} LOGIN", *(f"GRANT {role} TO {name}" for role in roles))
    try:
        yield server.url(database, user=name)
    finally:
        server.ask(f"DROP ROLE {name}")


def test_a_writer_does_what_a_client_does_and_no_more(server, database, url):
    with somebody(server, database, "lifecycle_writer") as mine, closing(open_store(mine)) as store:
        store.renew(a_writer())
        store.write([a_record(1, 1)], [a_row()])
        store.write([the_end(2, 2)], [a_row(state=State.CLOSED)])
        assert store.open_attachments() == {}
        assert store.enter([("w", b"one")], after=0)
        assert store.claim(a_claim()) is None
        store.unclaim(a_claim())
        assert [record for _, record in store.query(Query(kind="commit"))] == [the_end(2, 2)]
        with pytest.raises(StoreError, match=r"this role may not do that \(42501.*lifecycle store init"):
            store.prune({"w": 1}, [], after=1)
        with psycopg.connect(mine, autocommit=True, options="-c search_path=lifecycle") as db:
            for statement in (
                "DELETE FROM records", "UPDATE records SET body = ''", "TRUNCATE records", "DELETE FROM register",
                "UPDATE register SET body = ''", "DELETE FROM sessions", "INSERT INTO pruned VALUES ('writer', 'w', 9)",
                "DELETE FROM open_attachments", "UPDATE about SET version = 9", "DROP TABLE records",
                "ALTER TABLE records DISABLE TRIGGER ALL", "SELECT setval('record_ids', 1)",
                "CREATE TABLE lifecycle.more (x int)", "DELETE FROM writers",
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    db.execute(statement)


def test_a_pruner_takes_out_and_writes_no_record(server, database, store):
    store.write([a_record(1, 1), the_end(2, 2)], [a_row(state=State.CLOSED, released=True)])
    with somebody(server, database, "lifecycle_pruner") as mine, closing(open_store(mine)) as pruner:
        with pytest.raises(StoreError, match="may not"):
            pruner.write([a_record(3, 3)], [])
        with pytest.raises(psycopg.Error, match="goes only as its writer is pruned"):
            server.ask("DELETE FROM lifecycle.records", database=database, user=pruner._given[0].partition("user=")[2])
        assert pruner.prune({"w": 2}, [(None, b"gone")], after=0) == 2
    assert list(store.stored()) == list(store.sessions()) == []


def test_a_reader_reads_and_does_nothing_else(server, database, store):
    store.write([a_record(1, 1)], [a_row()])
    with somebody(server, database, "lifecycle_reader") as mine, closing(open_store(mine)) as reader:
        assert [record for _, record in reader.records()] == [a_record(1, 1)]
        assert reader.session("s") == a_row()
        for change in (
            lambda: reader.write([a_record(2, 2)], []), lambda: reader.write([], [a_row()]),
            lambda: reader.enter([(None, b"one")], after=0), lambda: reader.renew(a_writer()),
            lambda: reader.claim(a_claim()),
        ):  # fmt: skip
            with pytest.raises(StoreError, match="may not"):
                change()


def test_who_has_no_role_is_told_which_there_are(server, database):
    with somebody(server, database) as mine, pytest.raises(ConfigError, match=r"may not.*lifecycle store init"):
        open_store(mine)


# --- making and bringing up -----------------------------------------------------------------------------------------


@pytest.fixture
def empty(server):
    """The URL of a database without tables."""
    name = f"empty{next(_numbers)}"
    server.ask(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.ask(f"DROP DATABASE {name} WITH (FORCE)")


def test_tables_are_made_when_somebody_asks_for_it_and_not_before(empty):
    with pytest.raises(ConfigError, match="lifecycle store init"):
        open_store(empty)
    with pytest.raises(StoreError, match="lifecycle store init"):
        PostgresStore(empty).upgrade()
    with pytest.raises(ConfigError, match="lifecycle store init"):
        open_store(empty)
    assert PostgresStore(empty).make()
    assert not PostgresStore(empty).make()
    assert not PostgresStore(empty).upgrade()
    with closing(open_store(empty)) as store:
        assert list(store.records()) == []


def test_tables_are_made_once_by_many_at_once(empty):
    assert sorted(in_threads([PostgresStore(empty).make] * 4)) == [False, False, False, True]


def test_roles_may_be_made_by_somebody_else(server, empty, monkeypatch):
    name = f"user{next(_numbers)}"
    database = empty.partition("?")[0].rpartition("/")[2]
    server.ask(f"CREATE ROLE {name} LOGIN", f"GRANT CREATE ON DATABASE {database} TO {name}")
    mine = server.url(database, user=name)
    monkeypatch.setattr(postgres, "ROLES", ("another_writer", "another_pruner", "another_reader"))
    with pytest.raises(StoreError, match="may not"):
        PostgresStore(mine).make()
    with pytest.raises(ConfigError, match="no tables"):  # all or nothing
        open_store(mine)
    assert PostgresStore(mine).make(roles=False)
    with closing(open_store(mine)) as store:  # whoever made them owns them
        store.write([a_record()], [])


OLD = "session_id, attachment_id, adapter, state, released, name, labels, label_set, created_at, closed_at, "
OLD += "last_accessed_at, held_until, timeout_minutes, max_duration_minutes, close_reason, error, owner_pid, "
OLD += "owner_started, boot_id, host, control, facts"


def of_version_1(db, number, writer="w", *, name="s", prev=FIRST):
    """Writes what the version that knew no leases would, as it did; the hash of its record."""
    given = {"kind": RecordKind.REJECTED, "dest": State.NOT_STARTED} if number > 1 else {}
    record = a_record(number, number, writer=writer, attachment_id=f"of {writer}", prev=prev, **given)
    row = a_row(name)
    values = {
        **{column: getattr(row, column, None) for column in OLD.split(", ")},
        "labels": json.dumps(dict(row.labels)), "facts": json.dumps(dict(row.facts)), "state": str(row.state),
        "label_set": None,
    }  # fmt: skip
    db.execute(
        "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, session_id, kind, event, source, dest,"
        " at, terminal, hash, body, class, slowest) VALUES (%s, %s, %s, %s, 's', %s, 'start', 'not_started', %s,"
        " %s, false, %s, %s, 1, 0)",
        (
            writer,
            number,
            record.attachment_id,
            number,
            record.kind,
            record.dest,
            record.at,
            record.hash,
            record.to_json(),
        ),
    )
    places = ", ".join(f"%({column})s" for column in OLD.split(", "))
    updates = ", ".join(f"{column} = excluded.{column}" for column in OLD.split(", ")[1:])
    db.execute(
        f"INSERT INTO sessions ({OLD}) VALUES ({places}) ON CONFLICT (session_id) DO UPDATE SET {updates}", values
    )
    db.execute(
        "INSERT INTO writers (writer, owner_pid, owner_started, boot_id, host, renewed_at, seen_at) VALUES "
        "(%s, 42, '1234', 'boot', 'host', %s, clock_timestamp()) ON CONFLICT (writer) DO UPDATE SET "
        "renewed_at = excluded.renewed_at, seen_at = excluded.seen_at",
        (writer, T0),
    )
    db.execute(
        "INSERT INTO claims (key, adapter, attachment_id, session_id, owner_pid, owner_started, boot_id, host) VALUES "
        "('a key', 'memory', 'a', 's', 42, '1234', 'boot', 'host') ON CONFLICT (adapter, key) DO NOTHING"
    )
    return record.hash.hex()


def test_tables_of_version_1_are_brought_up_when_somebody_asks(server, empty):
    files = resources.files("lifecycle.stores")
    with closing(psycopg.connect(empty, autocommit=True)) as db:
        db.execute("BEGIN;" + files.joinpath("postgres.sql").read_text() + "INSERT INTO about VALUES (true, 1, 1); END")
        db.execute("SET search_path = lifecycle, pg_temp")
        of_version_1(db, 1)
        with pytest.raises(ConfigError, match=r"schema 1, this version writes 2.*lifecycle store upgrade"):
            open_store(empty)
        assert PostgresStore(empty).upgrade()
        assert not PostgresStore(empty).upgrade()
        assert db.execute("SELECT version, oldest FROM about").fetchall() == [(2, 1)]
        with closing(open_store(empty)) as store:
            assert store.session("s") == a_row(writer=None, address=None)
            assert store.claim(a_claim(attachment_id="b")) == a_claim(writer=None)
            assert store.lease("w") == a_writer(renewed_at=T0)
            store.write([a_record(1, 1, writer="v", attachment_id="v")], [a_row(writer="v")])
            assert store.session("s") == a_row(writer="v")
            assert [number for number, _ in store.records()] == [1, 2]


def test_a_program_that_knows_older_tables_goes_on_as_long_as_they_let_it(server, database, url, store):
    """One after the other can be brought to a newer version, while all of them write; the log of both verifies."""
    with Client(adapter="memory", store=url) as client, closing(psycopg.connect(url, autocommit=True)) as db:
        db.execute("SET search_path = lifecycle, pg_temp")
        announce(store, ["old"], Maker("old", "host", 42, "0.1"), T0)
        prev = FIRST
        for number in range(1, 4):
            with client.Session() as session:
                assert store.session(session.session_id).writer == client._core.journal.writer
            prev = of_version_1(db, number, "old", name="t", prev=prev)
    assert verify(store).problems == []
    assert len(store.records(attachment_id="of old")) == 3
    assert store.lease("old").lease_seconds is None
    assert not store.fence("old")  # its lease is none that anybody could take
    server.ask("UPDATE lifecycle.about SET version = 9, oldest = 3", database=database)
    with pytest.raises(ConfigError, match=r"newer version of lifecycle made its tables \(schema 9, .* knows 2\)"):
        open_store(url)
    with pytest.raises(StoreError, match="newer version"):
        PostgresStore(url).upgrade()
    assert server.ask("SELECT version, oldest FROM lifecycle.about", database=database) == [(9, 3)]


# --- what a server and a network do ---------------------------------------------------------------------------------


@pytest.fixture
def own_server():
    """A server of this test's own, which it may end; and the URL of its store."""
    with run_server() as made:
        made.ask("CREATE DATABASE log")
        PostgresStore(made.url("log")).make()
        yield made


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_was_started_anew_is_gone_on_with(own_server, how):
    with closing(PostgresStore(own_server.url("log"), seconds=5)) as store:
        store.open()
        store.write([a_record(1, 1)], [])
        own_server.stop(how)
        for ask in (lambda: store.write([a_record(2, 2)], []), store.records, lambda: store.session("s")):
            with pytest.raises(StoreError, match=r"can't be reached|going down") as e:
                ask()
            assert e.value.store == store.url
        own_server.start()
        store.write([a_record(2, 2)], [a_row()])  # at once, and not only from the second try on
        own_server.stop(how)
        own_server.start()
        assert len(store.records()) == 2
        assert store.session("s") == a_row()


def test_a_connection_that_was_ended_is_made_anew(server, database, store):
    store.write([a_record(1, 1)], [])
    for n in (2, 3):
        ended = server.ask(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")
        assert ended == [(True,)]
        store.write([a_record(n, n)], [])
    assert len(store.records()) == 3


def test_a_server_that_does_not_answer_is_given_up(server, url):
    with closing(PostgresStore(url, seconds=0.5)) as store:
        store.open()
        store.write([a_record(1, 1)], [])
        with store._server.use() as db:
            backend = db.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"no answer within 0\.5 s"):
                store.write([a_record(2, 2)], [])
            assert time.monotonic() - began < 20
            assert len(store.stored(writer="w")) == 1  # by a connection of its own, and it is not there
            with pytest.raises(StoreError):
                store.write([a_record(3, 3)], [])
        finally:
            os.kill(backend, signal.SIGCONT)
        # What was given up may still be carried out, and whoever tries again is told.
        eventually(lambda: len(store.stored(writer="w")) == 2)
        with pytest.raises(StoreError, match="number 2 of writer w"):
            store.write([a_record(2, 2)], [])
        store.write([a_record(3, 3)], [])


def test_a_long_answer_may_take_longer_than_a_short_one(server, database, url, monkeypatch):
    with closing(PostgresStore(url, seconds=0.2)) as store:
        store.open()
        slow = "CREATE OR REPLACE FUNCTION lifecycle.settled() RETURNS bigint LANGUAGE sql AS "
        server.ask(slow + "$$ SELECT pg_sleep(1); SELECT 0::bigint $$", database=database)
        assert list(store.records()) == []
        monkeypatch.setattr(postgres, "_READ_SECONDS", 0.2)
        with pytest.raises(StoreError, match="no answer"):
            store.records()


def test_an_interrupted_call_leaves_nothing_behind(server, url, raw):
    """Ctrl-C in a program that uses a store by itself, in the middle of a wait."""
    with closing(open_store(url)) as store:
        raw.execute("LOCK TABLE records IN ACCESS EXCLUSIVE MODE")
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            store.write([a_record(1, 1)], [])
        raw.rollback()
        store.write([a_record(1, 1)], [])
        assert len(store.records()) == 1


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "it can't be reached"),
        ("postgresql://me:secret@no.such.host.invalid/x", "it can't be reached"),
        ("postgresql://me:secret@/x?host=/no/such/folder", "it can't be reached"),
        ("postgresql://me:secret@h/x?nonsense=1", "postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql://me:secret@h:port/x", "it can't be reached"),
        ("postgresql://me:secret%zz@h/x", "postgresql://USER@HOST:PORT/DATABASE"),
        ("postgresql:x", "known: memory:"),
    ],
)
def test_a_place_that_is_none_is_named_without_its_secrets(place, hint):
    with pytest.raises(ConfigError) as e:
        open_store(place)
    assert hint in str(e.value)
    for text in (str(e.value), repr(e.value), repr(e.value.__cause__)):
        assert "secret" not in text


def test_a_database_and_a_user_that_are_not_there_are_named(server):
    with pytest.raises(ConfigError, match="createdb"):
        open_store(server.url("nowhere"))
    with pytest.raises(ConfigError, match="lets this user in"):
        open_store(server.url("made", user="nobody_at_all"))


def test_the_url_tells_one_database_from_another_and_no_secret(monkeypatch):
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    told = {
        "postgresql://me:secret@h:77/x?sslmode=require": "postgresql://h:77/x",
        "postgres://h/x": "postgresql://h:5432/x",
        "postgresql://me@h": "postgresql://h:5432/me",
        "postgresql:///x?host=/run/pg&port=7&password=secret": "postgresql://%2Frun%2Fpg:7/x",
        "postgresql://h1:1,h2:2/x": "postgresql://h1:1,h2:2/x",
        "postgresql://[::1]:5/x": "postgresql://[::1]:5/x",
    }
    assert {given: PostgresStore(given).url for given in told} == told
    monkeypatch.setenv("PGHOST", "there")
    monkeypatch.setenv("PGDATABASE", "logs")
    assert PostgresStore("postgresql://").url == "postgresql://there:5432/logs"


@pytest.mark.slow
def test_a_replica_tells_of_sessions_and_neither_takes_records_nor_tells_them_by_number(server, store, database):
    store.write([a_record(1, 1)], [a_row()])
    with run_server(primary=server) as copy_, closing(PostgresStore(copy_.url(database))) as replica:
        replica.open()
        eventually(lambda: replica.session("s") == a_row())
        assert [row.writer_seq for row in replica.stored(writer="w")] == [1]
        with pytest.raises(StoreError, match=r"takes no writes, as a replica does.*the primary"):
            replica.write([a_record(2, 2)], [])
        for ask in (replica.records, replica.stored, lambda: replica.query(Query())):
            with pytest.raises(StoreError, match="at the primary server only"):
                ask()


# --- forks, copies and what can't be kept ---------------------------------------------------------------------------

FORK = """
import gc, os, sys
from lifecycle.errors import StoreError
from lifecycle.stores import open_store
from lifecycle.testing.store_suite import a_record
url = sys.argv[1]
store = open_store(url)
store.write([a_record(1, 1)], [])
"""


def run(code, *args):
    """Run Python code in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK + textwrap.dedent(code), *args],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tcp", [True, False])
def test_a_child_says_nothing_on_the_connection_of_its_parent(server, database, tcp):
    told = run(
        """
        with store._server.use() as db:
            before = db.info.backend_pid
        pid = os.fork()
        if pid == 0:
            for ask in (store.records, lambda: store.write([a_record(2, 2)], [])):
                try:
                    ask()
                except StoreError as e:
                    assert "forked" in str(e), e
                else:
                    raise SystemExit("the inherited store answered")
            store.close()
            child = open_store(url)
            child.write([a_record(1, 1, writer="child", attachment_id="b")], [])
            store.open()
            store.write([a_record(2, 2, writer="child", attachment_id="b")], [])
            del store, child
            gc.collect()
            raise SystemExit(0)  # not os._exit: the end of the interpreter must do no harm either
        assert os.waitpid(pid, 0)[1] == 0
        store.write([a_record(2, 2)], [])
        with store._server.use() as db:
            assert db.info.backend_pid == before, "the connection was lost"
        print(len(store.records()))
        """,
        server.url(database, tcp=tcp),
    )
    assert told == "4\n"


def test_a_copy_opens_a_connection_of_its_own(store):
    store.write([a_record()], [])
    for other in (pickle.loads(pickle.dumps(store)), copy.copy(store)):
        with closing(other):
            with pytest.raises(StoreError, match="it is closed"):
                other.records()
            other.open()
            assert len(other.records()) == 1
    assert len(store.records()) == 1


def test_a_store_that_is_dropped_closes_its_connection(server, database, url):
    store = open_store(url)
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    assert server.ask(count) == [(1,)]
    del store
    gc.collect()
    eventually(lambda: server.ask(count) == [(0,)])


def test_text_that_postgresql_does_not_keep(store):
    with pytest.raises(StoreError, match="number 1 of writer w.*no text with a NUL"):
        store.write([a_record(cause="a\0b")], [])
    store.write([a_record(1, 1, labels={"k\0": "v\0"}, note="n\0")], [a_row(error="e\0", labels={"k\0": "v\0"})])
    assert [record.note for _, record in store.query(Query(labels={"k\0": "v\0"}))] == ["n\0"]
    assert [(row.error, row.labels) for row in store.sessions(labels={"k\0": "v\0"})] == [("e\\x00", {"k\0": "v\0"})]
    assert store.session("\0") is None
    assert list(store.query(Query(kind="intent", labels={"k": "v"}))) == []


def test_classes_that_were_forgotten_are_looked_up_again(store, monkeypatch):
    monkeypatch.setattr(postgres, "_KEPT", 2)
    for _ in range(2):
        first = len(store.records()) + 1
        for n in range(6):
            store.write([a_record(first + n, first + n, cause=f"c{n}")], [])
            assert len(store._classes) <= 3
    for n in range(6):
        assert [number for number, _ in store.query(Query(cause=f"c{n}"))] == [n + 1, n + 7]


def test_without_its_driver_the_store_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("lifecycle.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"pip install 'session-lifecycle\[postgres\]'") as e:
        open_store("postgresql://me:secret@h/x")
    assert "secret" not in str(e.value)


# --- the command line, and a client as a whole ----------------------------------------------------------------------


def cli(*args, env=None):
    """What ``lifecycle`` prints, and how it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "lifecycle.cli", *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_store_is_made_shown_and_brought_up_from_the_command_line(empty):
    code, out, err = cli("store", "show", empty)
    assert (code, out) == (2, "")
    assert "make them with: lifecycle store init" in err
    code, out, _ = cli("store", "init", env={"LIFECYCLE_STORE": empty})
    assert code == 0
    assert "its tables were made" in out
    assert "GRANT lifecycle_writer TO somebody" in out
    for command in ("init", "upgrade"):
        code, out, _ = cli("store", command, empty, "--no-roles")
        assert (code, out.splitlines()) == (0, [f"{PostgresStore(empty).url}: its tables are as they should be"])
    with Client(adapter="memory", store=empty) as client, client.Session():
        code, out, _ = cli("store", "show", empty, "--json")
        told = json.loads(out)
        assert code == 0
        assert abs(told.pop("clock_skew_seconds")) < 1
        assert datetime.now(UTC) - datetime.fromisoformat(told.pop("last_record")) < timedelta(minutes=1)
        assert told == {"store": PostgresStore(empty).url, "active_sessions": 1, "unfinished_sessions": 1}
        code, out, _ = cli("store", "show", empty)
        assert "active sessions      1\n" in out


def test_what_would_be_done_is_printed_and_does_it(server, empty):
    code, out, _ = cli("store", "init", "--print-sql")
    assert code == 0
    database = empty.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server.url(database), autocommit=True) as db:
        db.execute(out.encode())
    assert not PostgresStore(empty).make()
    with somebody(server, database, "lifecycle_writer") as mine, closing(open_store(mine)) as store:
        store.write([a_record()], [a_row()])


def test_a_file_needs_no_making(tmp_path):
    place = f"sqlite:///{tmp_path}/log.db"
    for command in ("init", "upgrade"):
        code, out, _ = cli("store", command, place)
        assert code == 0
        assert f"{place} is ready" in out
    code, out, _ = cli("store", "show", place)
    assert "clock skew seconds   -\n" in out


@pytest.mark.parametrize(
    "command", [["store", "init"], ["audit", "verify", "--store"], ["sessions", "list", "--store"]]
)
def test_no_command_tells_a_password(command):
    code, out, err = cli(*command, "postgresql://me:secret@127.0.0.1:1/x")
    assert code in (1, 2)
    assert "postgresql://127.0.0.1:1/x" in err
    assert "secret" not in out + err


def test_the_doctor_tells_no_password(server, database):
    place = server.url(database, tcp=True).replace("postgres@", "postgres:secret@")
    _, out, err = cli("doctor", env={"LIFECYCLE_STORE": place})
    assert f"postgresql://127.0.0.1:{server.port}/{database}" in out
    assert "secret" not in out + err


def test_a_log_of_several_clients_is_verified_proved_held_and_pruned(server, database, url, tmp_path):
    """Each with the role that it needs, and no more."""
    with somebody(server, database, "lifecycle_writer") as mine:
        for n in range(3):
            with Client(adapter="memory", store=mine) as client:
                for _ in range(3):
                    with client.Session(labels={"run": str(n)}) as session:
                        pass
    with somebody(server, database, "lifecycle_reader") as mine:
        code, out, err = cli("audit", "verify", "--store", mine)
        assert code == 0, out + err
        proof = tmp_path / "proof.json"
        assert cli("audit", "prove", session.session_id, "--output", proof, "--store", mine)[0] == 0
        assert cli("audit", "verify-proof", proof)[0] == 0
        code, out, _ = cli("audit", "log", "--label", "run=1", "--json", "--store", mine)
        assert len(out.splitlines()) == 12
        code, out, _ = cli("sessions", "list", "--json", "--store", mine)
        assert len(json.loads(out)) == 9
    with somebody(server, database, "lifecycle_pruner") as mine:
        assert cli("audit", "hold", session.session_id, "--reason", "a case", "--store", mine)[0] == 0
        code, out, err = cli("audit", "prune", "--before", "0s", "--store", mine)
        assert code == 0, out + err
    assert len(server.ask("SELECT id FROM lifecycle.records", database=database)) == 12
    assert cli("audit", "verify", "--store", url)[0] == 0
    server.ask(
        "ALTER TABLE lifecycle.records DISABLE TRIGGER ALL",
        "UPDATE lifecycle.records SET body = replace(convert_from(body, 'UTF8'), 'manual', 'crash')::bytea "
        "WHERE id = (SELECT max(id) FROM lifecycle.records)",
        database=database,
    )
    code, out, err = cli("audit", "verify", "--store", url)
    assert code == 1
    assert "it has other bytes than were written" in out + err
