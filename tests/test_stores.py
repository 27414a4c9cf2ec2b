"""Both stores under the shipped contract; SQLite under faults of disks, processes and forks; how a store is chosen."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import platformdirs
import pytest

from lifecycle.audit import RecordKind, StepOutcome, StepResult
from lifecycle.audit.query import Query
from lifecycle.errors import ConfigError, StoreError
from lifecycle.states import State
from lifecycle.stores import StoreFallbackWarning, default_path, open_store, sqlite_file, sqlite_find, sqlite_index
from lifecycle.stores.common import UNFINISHED
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import APPLICATION_ID, SCHEMA_VERSION, SQLiteStore
from lifecycle.stores.sqlite_index import SEAL
from lifecycle.testing.store_suite import ODD_TEXTS, T0, StoreSuite, a_claim, a_record, a_row, a_writer, the_end
from lifecycle.testing.ways import in_threads

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX limits, users and forks")


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self):
        with closing(open_store("memory:")) as store:
            yield store

    def test_what_was_written_can_be_read_after_close(self, store):
        store.write([a_record()], [a_row()])
        store.close()
        assert [record for _, record in store.records()] == [a_record()]
        assert store.session("s") == a_row()


class TestSQLiteStore(StoreSuite):
    durable = True

    @pytest.fixture
    def store(self, tmp_path):
        with closing(open_store(f"sqlite:///{tmp_path}/records.db")) as store:
            yield store

    def reopen(self, store):
        store.close()
        return open_store(store.url)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.db"


@pytest.fixture
def store(path):
    with closing(SQLiteStore(path, busy_timeout=0.2)) as store:
        store.open()
        yield store


def run(code, *args, **options):
    """Run Python code in a process of its own and return it when it has ended well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def started(code, *args):
    """A process that runs Python code and tells by a line on stdout when it is ready; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


# --- what the database itself holds ---------------------------------------------------------------------------------


def test_the_exact_bytes_are_kept(store, path):
    store.write([a_record(1, 1), the_end(2, 2)], [])
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT body, terminal, typeof(body), event, dest, at FROM records ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [a_record(1, 1).to_json(), the_end(2, 2).to_json()]
    assert [row[1:] for row in rows] == [
        (0, "blob", "start", "active", "2024-01-01T12:00:00.001000+00:00"),
        (1, "blob", "stop", "closed", "2024-01-01T12:00:00.002000+00:00"),
    ]


REST = "session_id, kind, event, source, dest, at"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET body = x'00' WHERE id = 1",
        "DELETE FROM records WHERE id = 2",
        "DELETE FROM records",
        "INSERT OR REPLACE INTO records SELECT * FROM records WHERE id = 1",
        # a used id, a second end, a gap
        f"INSERT OR REPLACE INTO records SELECT 1, 'v', 1, 'b', 1, {REST}, 0, body, hash FROM records WHERE id = 2",
        f"INSERT OR REPLACE INTO records SELECT NULL, 'v', 1, 'a', 3, {REST}, 1, body, hash FROM records WHERE id = 2",
        f"INSERT INTO records SELECT NULL, 'v', 2, 'b', 1, {REST}, 0, body, hash FROM records WHERE id = 1",
        "UPDATE register SET body = x'00'",
        "DELETE FROM register WHERE seq = 2",
        "INSERT OR REPLACE INTO register SELECT * FROM register WHERE seq = 1",
        "INSERT INTO register SELECT 4, writer, hash, body FROM register WHERE seq = 1",
    ],
)
def test_the_database_refuses_change_and_deletion_by_anybody(store, path, statement):
    store.write([a_record(1, 1), the_end(2, 2)], [])
    assert store.enter([(None, b"one"), ("w", b"two")], after=0)
    before = (store.stored(), store.register())
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(statement)
    assert (store.stored(), store.register()) == before


def test_it_is_durable_in_wal_mode(store, path):
    with store._file.use() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT body FROM records WHERE session_id = 's' AND id > 5 ORDER BY id",
        "SELECT body FROM records WHERE attachment_id = 'a' AND id > 5 ORDER BY id",
        "SELECT * FROM sessions WHERE session_id = 's'",
        "SELECT session_id FROM sessions WHERE session_id >= 'a' AND session_id < 'b' ORDER BY session_id LIMIT 5",
        "SELECT * FROM sessions WHERE state = 'active' ORDER BY created_at DESC, rowid DESC LIMIT 50",
        "SELECT * FROM sessions ORDER BY created_at DESC, rowid DESC LIMIT 50",
        f"SELECT * FROM sessions INDEXED BY sessions_unfinished WHERE {UNFINISHED} ORDER BY created_at DESC",
    ],
)
def test_queries_use_an_index(store, path, sql):
    with closing(sqlite3.connect(path)) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any("USING" in step and "INDEX" in step for step in plan), plan
    if "WHERE state =" in sql:
        assert any("sessions_by_state" in step for step in plan), plan
    if UNFINISHED in sql:
        assert any("sessions_unfinished" in step for step in plan), plan
    if "sessions" in sql:
        assert not any("TEMP B-TREE" in step for step in plan), plan


@posix_only
def test_files_are_for_their_user_alone(tmp_path):
    old = os.umask(0)
    try:
        with closing(open_store(f"sqlite:///{tmp_path}/x.db")) as store:
            store.write([a_record()], [])
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


def test_a_newer_schema_is_refused(store, path):
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match=rf"schema {SCHEMA_VERSION + 1}.* reads {SCHEMA_VERSION}.*upgrade") as e:
        SQLiteStore(path).open()
    assert e.value.store == f"sqlite:///{path}"


INDEXES = (
    "record_classes", "record_index", "labels", "record_labels", "record_blocks", "session_labels", "record_label_bits",
)  # fmt: skip


def without_leases(db):
    """Makes of a database one from before there were leases."""
    for table, column in (("sessions", "writer"), ("sessions", "address"), ("claims", "writer")):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def without_index(db):
    """Makes of a database one from before there was an index."""
    without_leases(db)
    for name in INDEXES:
        db.execute(f"DROP TABLE {name}")


def index_of(path):
    """What is found by what, without the numbers that classes and labels happen to have."""
    classes = "(SELECT * FROM record_classes) AS c"
    with closing(sqlite3.connect(path)) as db:
        return {
            "classes": db.execute(
                "SELECT kind, event, state, cause, adapter, errors, pace, id, slowest "
                f"FROM record_index JOIN {classes} USING (class) ORDER BY id"
            ).fetchall(),
            "labels": db.execute(
                "SELECT key, value, kind, event, id, slowest FROM record_labels JOIN labels USING (label) "
                f"JOIN {classes} USING (class) ORDER BY id, key"
            ).fetchall(),
            "blocks": db.execute("SELECT * FROM record_blocks ORDER BY block").fetchall(),
            "sessions": db.execute(
                "SELECT key, value, state, created_at, session_id FROM session_labels "
                "JOIN labels USING (label) ORDER BY session_id, key"
            ).fetchall(),
        }


def test_what_was_written_before_there_was_an_index_is_in_it(store, path):
    odd = {f"k{text}": text for text in ODD_TEXTS}
    records = [a_record(n, n, at=T0 - timedelta(seconds=n), labels=odd if n % 2 else {}) for n in range(1, 1100)]
    broken = (
        StepResult(step="x", outcome=StepOutcome.FAILED, ms=9.99, error="ZError"),
        StepResult(step="y", outcome=StepOutcome.FAILED, ms=10.0, error="AError"),
    )
    records += [the_end(1100, 1100, error="Wrong", steps=broken, cause="signal"), the_end(1101, 1, attachment_id="b")]
    store.write(records[:5], [])
    store.write(records[5:], [a_row("s", labels=odd), a_row("t", labels={}), a_row("u", state=State.ERROR)])
    written = index_of(path)
    store.close()
    with closing(sqlite3.connect(path)) as db:
        bodies = db.execute("SELECT id, body FROM records").fetchall()
        without_index(db)
        db.execute("PRAGMA user_version=5")
    with closing(SQLiteStore(path)) as again:
        again.open()
        assert index_of(path) == written
        assert [len(part) for part in written.values()] == [1101, 550 * len(odd) + 2, 2, len(odd) + 1]
        assert [number for number, _ in again.query(Query(error="AError"))] == [1100]
        again.write([a_record(1102, 2, attachment_id="b", labels=odd)], [])
        assert again.query(Query(labels=odd), newest=True, limit=1)[0][0] == 1102
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id, body FROM records").fetchall()[:-1] == bodies
        for statement in ("UPDATE records SET body = x'00'", "DELETE FROM records"):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)


@pytest.mark.parametrize(
    "body",
    [b"\xff\x00", b"{", b"", b"[]", b"5", b"{}", b'{"labels": null, "steps": 5, "error": {}, "cause": []}',
     b'{"labels": {"a": 1, "b": null, "c": {}}, "steps": [1, "x", {"ms": "x", "error": 2}, null], "adapter": 1.5}'],
)  # fmt: skip
def test_a_record_that_cannot_be_read_does_not_keep_a_database_from_being_brought_up(store, path, body):
    store.write([a_record()], [])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        without_index(db)
        db.execute(
            "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, kind, event, source, dest, at, "
            "terminal, body) VALUES ('v', 1, 'b', 1, 'commit', 'stop', 'active', 'closed', '2024', 1, ?)",
            (body,),
        )
        db.execute("PRAGMA user_version=5")
        db.commit()
    with closing(SQLiteStore(path)) as again:
        again.open()
        assert again.bodies(Query(kind="commit")) == [(2, body)]
        assert [number for number, _ in again.query(Query(kind="intent", labels={"team": "blue"}))] == [1]
        with pytest.raises(StoreError, match="record 2 "):
            again.query(Query(kind="commit"))


ODD, EVEN, BOTH = {"odd": "x"}, {"even": "x"}, {"odd": "x", "even": "x"}
MEET = (2_500, 2_501, 3_900)


def crowded(n):
    """A record of many, which carry one of two labels, and both in three places; most have a label of their own."""
    labels = BOTH if n in MEET else ODD if n % 2 else EVEN
    return a_record(n, n, at=T0 + timedelta(seconds=n), kind=RecordKind.COMMIT if n % 3 else RecordKind.HELD,
                    labels={**labels, **({"own": str(n)} if n % 5 else {})})  # fmt: skip


@pytest.fixture
def crowd(store):
    """A store with four thousand of them: three blocks are full, the fourth is not."""
    for first in range(1, 4_001, 500):
        store.write([crowded(n) for n in range(first, first + 500)], [])
    return store


def bits_in(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT label, block, bits FROM record_label_bits ORDER BY 1, 2").fetchall()


def test_labels_that_seldom_meet_are_found_where_they_do(crowd, path):
    assert [block for label, block, _ in bits_in(path) if label == SEAL] == [0, 1, 2]
    for _ in range(2):
        assert [number for number, _ in crowd.query(Query(labels=BOTH))] == list(MEET)
        assert [number for number, _ in crowd.query(Query(labels=BOTH), newest=True, limit=2)] == list(MEET[1:])
        assert [number for number, _ in crowd.query(Query(labels=BOTH), after=MEET[0], limit=1)] == [MEET[1]]
        assert [n for n, _ in crowd.query(Query(labels=BOTH, kind="held"))] == [n for n in MEET if n % 3 == 0]
        since = T0 + timedelta(seconds=MEET[1])
        assert [number for number, _ in crowd.query(Query(labels=BOTH, since=since))] == list(MEET[1:])
        assert [number for number, _ in crowd.query(Query(labels={**BOTH, "own": "2501"}))] == [2_501]
        assert crowd.query(Query(labels={**ODD, "own": "2"})) == []
        assert [number for number, _ in crowd.query(Query(labels={**EVEN, "own": "2"}))] == [2]
        with crowd._file.use() as db:  # as a process of an older version leaves it, which goes on writing
            db.execute("DELETE FROM record_label_bits WHERE block = 2")


def test_full_blocks_in_which_labels_do_not_meet_are_passed_over(crowd):
    with crowd._file.use() as db:
        numbers = [db.execute("SELECT label FROM labels WHERE key = ?", (key,)).fetchone()[0] for key in BOTH]
        # That of the first two, and the one that is not full.
        assert sqlite_find._meeting(db, numbers, 1) == bytes([0, 0, 1, 1])
        assert sqlite_find._meeting(db, numbers, 3 * sqlite_index.BLOCK) == bytes([0, 0, 0, 1])


def test_blocks_that_were_left_over_are_sealed_with_the_next(crowd, path):
    sealed = bits_in(path)
    with crowd._file.use() as db:
        db.execute("DELETE FROM record_label_bits")
    crowd.close()
    with closing(SQLiteStore(path)) as again:
        again.open()
        again.write([crowded(n) for n in range(4_001, 4_101)], [])
        assert [row for row in bits_in(path) if row[1] < 3] == sealed
        assert [number for number, _ in again.query(Query(labels=BOTH))] == list(MEET)


def test_a_database_of_schema_6_is_brought_up(crowd, path):
    sealed = bits_in(path)
    crowd.close()
    with closing(sqlite3.connect(path)) as db:
        without_leases(db)
        db.execute("DROP TABLE record_label_bits")
        db.execute("PRAGMA user_version=6")
    with closing(SQLiteStore(path)) as again:
        again.open()
        assert bits_in(path) == sealed
        assert [number for number, _ in again.query(Query(labels=BOTH))] == list(MEET)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1024])
def test_the_bits_of_a_block_come_back(count):
    gather, places = sqlite_index._Bits(), random.Random(count).sample(range(sqlite_index.BLOCK), count)
    for place in places:
        gather.step(place)
    stored = gather.finalize()
    assert len(stored) == min(2 * count, 128)
    assert sqlite_index.bits_of(stored) == sum(1 << place for place in places)


def test_bits_of_blocks_that_were_taken_out_go_with_them(crowd, path):
    assert crowd.prune({"w": 2_000}, [], after=0) == 2_000
    assert {block for _, block, _ in bits_in(path)} == {1, 2}
    assert [number for number, _ in crowd.query(Query(labels=BOTH))] == list(MEET)


def test_what_a_refused_row_would_have_added_leads_no_later_record_astray(store, path):
    """The numbers that its labels and classes got are given to others afterwards."""
    with store._file.use() as db:
        db.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON sessions BEGIN SELECT RAISE(ABORT, 'not now'); END")
    with pytest.raises(StoreError, match="not now"):
        store.write([a_record(labels={"lost": "1"}, cause="signal")], [a_row(labels={"lost": "2"})])
    with store._file.use() as db:
        db.execute("DROP TRIGGER no")
    store.write([a_record(1, 1, labels={"kept": "1"}, cause="exit")], [a_row("t", labels={"kept": "2"})])
    store.write([a_record(2, 2, labels={"lost": "1"}, cause="signal")], [a_row("s", labels={"lost": "2"})])
    for query, number in (
        (Query(labels={"lost": "1"}), 2), (Query(cause="signal"), 2), (Query(labels={"kept": "1"}), 1),
        (Query(cause="exit"), 1),
    ):  # fmt: skip
        assert [n for n, _ in store.query(query)] == [number]
    assert [row.session_id for row in store.sessions(labels={"lost": "2"})] == ["s"]
    assert [row.session_id for row in store.sessions(labels={"kept": "2"})] == ["t"]


def test_numbers_that_were_forgotten_are_looked_up_again(store, monkeypatch):
    monkeypatch.setattr(sqlite_index, "_KEPT", 2)
    for _ in range(2):
        first = len(store.records()) + 1
        for n in range(6):
            store.write([a_record(first + n, first + n, labels={"run": str(n)}, cause=f"c{n}")], [])
            assert max(len(store._index._labels), len(store._index._classes)) <= 3
    for n in range(6):
        for query in (Query(labels={"run": str(n)}), Query(cause=f"c{n}")):
            assert [number for number, _ in store.query(query)] == [n + 1, n + 7]


def test_an_index_knows_nothing_of_the_file_that_was_there_before(store, path, tmp_path):
    store.write([a_record(labels={"first": "1"}, cause="signal")], [])
    store.close()
    for name in (path, f"{path}-wal", f"{path}-shm"):
        Path(name).unlink(missing_ok=True)
    store.open()
    store.write([a_record(labels={"second": "2"}, cause="exit")], [])
    store.write([a_record(1, 1, writer="v", attachment_id="b", labels={"first": "1"}, cause="signal")], [])
    for query in (Query(labels={"first": "1"}), Query(cause="signal")):
        assert [number for number, _ in store.query(query)] == [2]


@pytest.mark.parametrize("filters", [{"kind": "intent"}, {"labels": {"team": "blue"}}, {}, {"session": "s"}])
def test_a_query_sees_one_moment(store, path, filters):
    """Else who goes on behind the last record found would miss one of another class that was written meanwhile."""
    store.write([a_record(1, 1), a_record(2, 2, cause="exit")], [])
    with closing(SQLiteStore(path)) as other, store._file.use() as db:
        other.open()
        seq = iter(range(3, 1000))

        def write_between(statement):
            n = next(seq)
            other.write([a_record(n, n, cause="caller" if n % 2 else "exit")], [])

        db.set_trace_callback(write_between)
    try:
        found = [number for number, _ in store.query(Query(**filters))]
    finally:
        with store._file.use() as db:
            db.set_trace_callback(None)
    assert next(seq) > 4, "nothing was written meanwhile"
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize(
    "filters",
    [
        {"kind": "commit"}, {"error": "OSError"}, {"labels": {"team": "blue"}}, {"labels": {"team": "blue", "a": "b"}},
        {"since": T0}, {"until": T0}, {"slower_than": 3}, {"since": T0, "slower_than": 3, "labels": {"team": "blue"}},
        {"since": T0, "kind": "commit"},
    ],
    ids=str,
)  # fmt: skip
def test_a_page_is_neither_sorted_nor_scanned_for(store, filters, newest):
    store.write([a_record(labels={"team": "blue", "a": "b"}, kind="commit")], [])
    asked = []
    with store._file.use() as db:
        db.set_trace_callback(asked.append)
    store.query(Query(**filters), limit=100, newest=newest)
    with store._file.use() as db:
        db.set_trace_callback(None)
        plans = {
            sql: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
            for sql in asked
            if sql.endswith("LIMIT 100")
        }
    assert plans
    for sql, plan in plans.items():
        assert not any("TEMP B-TREE" in step for step in plan), (sql, plan)
        assert not any(step.startswith("SCAN") for step in plan), (sql, plan)
        assert all("SEARCH" in step or "CORRELATED" in step for step in plan), (sql, plan)


IN_ORDER_AT_FIRST = """CREATE TRIGGER records_in_order BEFORE INSERT ON records BEGIN
    SELECT RAISE(ABORT, 'a gap or a repeat in the writer''s sequence')
        WHERE NEW.writer_seq IS NOT 1 + coalesce(
            (SELECT max(writer_seq) FROM records WHERE writer = NEW.writer), 0);
END"""


def test_a_database_of_an_older_schema_is_brought_up(store, path):
    store.write([a_record()], [a_row()])
    store.close()
    with closing(sqlite3.connect(path)) as db:
        without_index(db)
        db.execute("DROP TABLE claims")
        db.execute("DROP INDEX sessions_unfinished")
        db.execute("DROP TRIGGER attachments_open")
        db.execute("DROP TRIGGER attachments_end")
        db.execute("DROP TABLE open_attachments")
        db.execute("DROP TABLE writers")
        db.execute("ALTER TABLE sessions DROP COLUMN held_until")
        db.execute("ALTER TABLE records DROP COLUMN hash")
        db.execute("DROP TABLE register")
        db.execute("DROP TRIGGER records_in_order")
        db.execute("DROP TABLE pruned")
        db.execute(IN_ORDER_AT_FIRST)
        db.execute("PRAGMA user_version=1")
    for _ in range(2):
        with closing(SQLiteStore(path)) as again:
            again.open()
            assert [r for _, r in again.records()] == [a_record()]
            assert again.claim(a_claim()) is None
            assert again.unfinished() == [a_row(held_until=None, writer=None, address=None)]
            again.renew(a_writer())
            assert again.open_attachments() == {}  # of what was open before, nobody knows the writer
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sessions_unfinished'").fetchone()
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_database_of_schema_7_is_brought_up(store, path):
    store.write([a_record()], [a_row()])
    store.claim(a_claim())
    store.close()
    with closing(sqlite3.connect(path)) as db:
        without_leases(db)
        db.execute("PRAGMA user_version=7")
    with closing(SQLiteStore(path)) as again:
        again.open()
        assert again.session("s") == a_row(writer=None, address=None)
        again.write([], [a_row(writer="w", address="https://there")])
        assert again.session("s") == a_row(writer="w", address="https://there")
        assert again.claim(a_claim(attachment_id="b")) == a_claim(writer=None)
        assert again.claim(a_claim(writer="w")) is None
        assert again.claim(a_claim(attachment_id="b")) == a_claim(writer="w")


def test_a_key_is_held_by_one_of_many_that_ask_at_once(store, path):
    def ask(name):
        with closing(SQLiteStore(path)) as mine:
            mine.open()
            return mine.claim(a_claim(attachment_id=name))

    held = in_threads([lambda n=n: ask(f"a{n}") for n in range(8)])
    assert held.count(None) == 1
    assert len(set(held)) == 2  # all others are told of the one


@pytest.mark.parametrize("setup", ["CREATE TABLE mine (x)", "PRAGMA user_version=1", "PRAGMA application_id=77"])
def test_another_programs_database_is_left_alone(path, setup):
    with closing(sqlite3.connect(path)) as db:
        db.execute(setup)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        SQLiteStore(path).open()
    assert path.read_bytes() == before
    assert APPLICATION_ID != 77


def test_a_record_of_a_later_schema_is_named(store, path):
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, kind, event, source, dest, at, "
            "terminal, body) VALUES ('w', 1, 'a', 1, '', '', '', '', '', 0, ?)",
            (json.dumps({"schema": 99}),),
        )
        db.commit()
    with pytest.raises(StoreError, match=r"record 1 .*99"):
        store.records()


@pytest.mark.parametrize(("column", "value"), [("state", "'melted'"), ("labels", "'{'"), ("created_at", "'soon'")])
def test_a_row_of_a_later_version_is_named(store, path, column, value):
    store.write([], [a_row("s")])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE sessions SET {column} = {value}")
    for read in (store.sessions, lambda: store.session("s")):
        with pytest.raises(StoreError, match="the row of session s can't be read"):
            read()


# --- disks ------------------------------------------------------------------------------------------------------


@posix_only
def test_a_full_disk_is_named_and_nothing_is_lost(path):
    done = run(
        """
        import resource, signal, sys
        from lifecycle.errors import StoreError
        from lifecycle.stores import open_store
        from lifecycle.testing.store_suite import a_record, a_row
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = open_store("sqlite:///" + sys.argv[1])
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        n = 0
        try:
            while n < 5000:
                store.write([a_record(n + 1, n + 1)], [a_row(f"s{n}")])
                n += 1
        except StoreError as e:
            print(e)
        assert 0 < n < 5000, n
        assert len(store.records()) == len(store.sessions(limit=9999)) == n
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.write([a_record(n + 1, n + 1)], [])
        print(n + 1)
        """,
        path,
    )
    message, count = done.stdout.splitlines()
    assert str(path) in message
    assert "full disk" in message
    assert "free some space" in message
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert len(store.records()) == int(count)


def test_a_database_at_its_limit_is_a_full_disk(store, path):
    store.write([a_record(1, 1)], [])
    with store._file.use() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match=r"the disk is full .*SQLITE_FULL.*free some space"):
        store.write([a_record(n, n, thread="x" * 4000) for n in range(2, 9)], [])
    with store._file.use() as db:
        db.execute("PRAGMA max_page_count=1000000")
    store.write([a_record(2, 2)], [])
    assert len(store.records()) == 2


def test_garbage_is_no_database(path):
    path.write_bytes(b"this is a text, and not a database\n" * 100)
    with pytest.raises(StoreError, match=r"not an SQLite database.*move it away"):
        SQLiteStore(path).open()
    assert path.read_bytes().startswith(b"this is a text")


@pytest.mark.parametrize(("keep", "what"), [(10, "not an SQLite database"), (50, "damaged"), (4095, "damaged")])
def test_a_torn_header_is_named(store, path, keep, what):
    store.close()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=rf"{what}.*move it away"):
        SQLiteStore(path).open()


def test_a_torn_file_is_damaged(store, path):
    store.write([a_record(n, n) for n in range(1, 200)], [])
    store.close()
    path.write_bytes(path.read_bytes()[: 4096 * 3])

    def read():
        with closing(SQLiteStore(path)) as torn:
            torn.open()
            torn.records()

    with pytest.raises(StoreError, match=r"it is damaged .*SQLITE_CORRUPT.*recover"):
        read()


@posix_only
def test_a_read_only_place_is_named():
    # Not tmp_path: as root this test becomes another user, who can't enter the folders of this run.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "records.db"
        with closing(SQLiteStore(path)) as store:
            store.open()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(
                StoreError, match=r"SQLITE_(READONLY|CANTOPEN).*; make the file and its folder writable"
            ):
                SQLiteStore(path).open()
            with pytest.raises(StoreError, match=r"Permission denied; make the file and its folder writable"):
                SQLiteStore(Path(folder) / "new.db").open()
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o755)


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_vanished_takes_no_record(store, path, tmp_path, how):
    store.write([a_record(1, 1)], [])
    if how == "deleted":
        for p in tmp_path.iterdir():
            p.unlink()
    else:
        path.rename(tmp_path / "elsewhere.db")
    if how == "replaced":
        path.write_bytes(b"")
    for call in (lambda: store.write([a_record(2, 2)], []), store.records, lambda: store.session("s"), store.sessions):
        with pytest.raises(StoreError, match=r"moved, deleted or replaced.*put it back"):
            call()
    assert path.exists() == (how == "replaced")  # it is not made anew in silence: the log would begin with a gap
    if how == "moved":
        (tmp_path / "elsewhere.db").rename(path)
        store.write([a_record(2, 2)], [])
        assert len(store.records()) == 2


def test_a_deleted_wal_takes_no_record(store, path):
    store.write([a_record(1, 1)], [])
    Path(f"{path}-wal").unlink()
    with pytest.raises(StoreError, match=r"-wal file was deleted"):
        store.write([a_record(2, 2)], [])


def test_the_one_that_made_the_file_holds_its_log_before_it_reads(path):
    with closing(SQLiteStore(path)) as maker:
        maker.open()
        with closing(SQLiteStore(path)) as other:
            other.open()
            with maker._file.use():
                pass  # looks whether the log is there
        maker.write([a_record()], [])
        assert len(maker.records()) == 1


@posix_only
def test_no_lock_is_lost_to_the_thread_that_makes_the_file(path, monkeypatch):
    close = os.close

    def slow_close(fd):
        if not entered.is_set():
            entered.set()
            assert not connected.wait(0.3), "another thread has opened it meanwhile"
        close(fd)

    def second():
        entered.wait(10)
        with closing(SQLiteStore(path)) as store:
            store.open()
            connected.set()

    entered, connected = threading.Event(), threading.Event()
    monkeypatch.setattr(sqlite_file.os, "close", slow_close)
    thread = threading.Thread(target=second, name="second")
    thread.start()
    with closing(SQLiteStore(path)) as store:
        store.open()
    thread.join(10)
    assert connected.is_set()


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(StoreError, match="not a regular file"):
        SQLiteStore(tmp_path).open()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=rf"{tmp_path}/no does not exist.*four slashes"):
        SQLiteStore(tmp_path / "no" / "x.db").open()


# --- other processes ------------------------------------------------------------------------------------------------


def test_a_lock_of_another_process_is_named_and_waited_for(store, path):
    store.write([a_record(1, 1)], [])
    with started(
        """
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        print("locked")
        sys.stdin.readline()
        db.execute("COMMIT")
        """,
        path,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=r"another process has kept it locked for more than 0\.2 s.*lsof"):
            store.write([a_record(2, 2)], [])
        assert len(store.records()) == 1  # a writer does not hold readers up
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.wait(30) == 0
    store.write([a_record(2, 2)], [])


def test_a_reader_does_not_hold_a_writer_up(store, path):
    store.write([a_record(1, 1)], [])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (1,)
        store.write([a_record(2, 2)], [a_row()])
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (1,)  # its own moment
    assert len(store.records()) == 2


APPEND = """
    import sys
    from lifecycle.stores import open_store
    from lifecycle.testing.store_suite import a_record, a_row
    url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    def wait():
        print("waiting")
        sys.stdin.readline()

    wait()
    store = open_store(url)
    for n in range(1, count + 1):
        if n == count // 2:
            wait()  # so that none of them is through before another begins
        store.write([a_record(n, n, writer=name, attachment_id=name)], [a_row(name, owner_pid=n)])
    store.close()
"""


def append_at_once(path, writers, count):
    names = [f"writer-{n}" for n in range(writers)]
    processes = []
    try:
        for name in names:
            command = [sys.executable, "-u", "-c", textwrap.dedent(APPEND), f"sqlite:///{path}", name, str(count)]
            pipe = subprocess.PIPE
            processes += [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)]
        for _ in range(2):
            for process in processes:
                assert process.stdout.readline() == "waiting\n", process.stderr.read()
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return names


def test_two_processes_append_at_once(path):
    names = append_at_once(path, writers=2, count=200)
    with closing(open_store(f"sqlite:///{path}")) as store:
        found = store.records()
        assert len(found) == 400
        assert len({number for number, _ in found}) == 400
        for name in names:
            mine = [record for _, record in found if record.writer == name]
            assert mine == [a_record(n, n, writer=name, attachment_id=name) for n in range(1, 201)]
            assert store.session(name).owner_pid == 200
    order = [record.writer for _, record in found]
    assert order not in (sorted(order), sorted(order, reverse=True)), "they ran one after the other"


def test_six_processes_make_one_new_file(path):
    append_at_once(path, writers=6, count=3)
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert len(store.records()) == 18


def test_a_file_that_is_made_at_this_very_moment_is_ours(path):
    raced = []

    def race(statement):
        if statement.startswith("PRAGMA application_id") and not raced:
            raced.append(statement)
            with contextlib.suppress(StoreError), closing(SQLiteStore(path, busy_timeout=0)) as other:
                other.open()

    with closing(SQLiteStore(path)) as store:
        prepare = store._file._prepare
        store._file._prepare = lambda db: (db.set_trace_callback(race), prepare(db))
        store.open()
        assert raced
        store.write([a_record(1, 1)], [])


class ChangingToWal:
    """A connection whose change to WAL is refused a few times.

    SQLite does so, without waiting, to one open in a hundred when six processes open a new file at the same moment.
    """

    def __init__(self, refusals, *, code=sqlite3.SQLITE_BUSY, mode="wal"):
        self.left, self.code, self.mode = refusals, code, mode

    def execute(self, sql):
        assert sql == "PRAGMA journal_mode=WAL"
        if self.left:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error
        return self

    def fetchone(self):
        return (self.mode,)


def test_a_change_to_wal_is_tried_again(path):
    file = SQLiteStore(path, busy_timeout=30)._file
    file._use_wal(db := ChangingToWal(3))
    assert db.left == 0
    with pytest.raises(sqlite3.OperationalError):
        SQLiteStore(path, busy_timeout=0)._file._use_wal(ChangingToWal(1_000_000))
    with pytest.raises(sqlite3.OperationalError):
        file._use_wal(ChangingToWal(1, code=sqlite3.SQLITE_IOERR))
    with pytest.raises(StoreError, match=r"no write-ahead log \(mode 'delete'\).*local disk"):
        file._use_wal(ChangingToWal(0, mode="delete"))


def test_what_was_acknowledged_survives_kill_9(path):
    code = """
        import os, sys
        from lifecycle.stores import open_store
        from lifecycle.testing.store_suite import a_record, a_row
        store = open_store("sqlite:///" + sys.argv[1])
        first = len(store.records()) + 1
        n = 1
        while True:
            writer = f"w{os.getpid()}"
            store.write([a_record(n, n, writer=writer, attachment_id=writer)], [a_row(writer, owner_pid=n)])
            print(n)
            n += 1
    """
    acknowledged = 0
    for after in (1, 40, 150):
        with started(code, path) as process:
            last = 0
            while last < after:
                last = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().split("\n")[:-1]  # the last line may be torn, then it was no acknowledgement
            last = int(rest[-1]) if rest else last
            name = f"w{process.pid}"
        with closing(open_store(f"sqlite:///{path}")) as store:
            mine = store.records(attachment_id=name)
            assert last <= len(mine) <= last + 1
            assert store.session(name).owner_pid == len(mine)  # a record and its row are there together
            acknowledged += len(mine)
            assert len(store.records()) == acknowledged
            with sqlite3.connect(path) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()


# --- forks ------------------------------------------------------------------------------------------------------

FORK = """
    import gc, os, sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of every fork beside threads
    from lifecycle.errors import ConfigError, StoreError
    from lifecycle.stores import open_store, sqlite_file
    from lifecycle.testing.store_suite import a_record, a_row

    url = sys.argv[1]
    to_child, from_parent = os.pipe(), os.pipe()

    def say(pipe): os.write(pipe[1], b"x")
    def hear(pipe): assert os.read(pipe[0], 1) == b"x"
"""


@posix_only
def test_a_child_and_its_parent_lose_nothing(path):
    # Without the care described in lifecycle.stores.sqlite_file the child's last five records are gone.
    run(
        FORK
        + """
    store = open_store(url)
    store.write([a_record(1, 1)], [])
    pid = os.fork()
    if pid == 0:
        try:
            store.write([a_record(2, 2)], [])
        except StoreError as e:
            assert "forked" in str(e), e
        else:
            raise SystemExit("the inherited store wrote")
        store.abandon_in_child()
        store.close()
        child = open_store(url)
        child.write([a_record(1, 1, writer="child", attachment_id="b")], [])
        say(to_child)
        hear(from_parent)
        for n in range(2, 7):
            child.write([a_record(n, n, writer="child", attachment_id="b")], [])
        raise SystemExit(0)  # not os._exit: the end of the interpreter must do no harm either
    hear(to_child)
    store.write([a_record(2, 2)], [])
    store.close()
    say(from_parent)
    assert os.waitpid(pid, 0)[1] == 0
        """,
        f"sqlite:///{path}",
    )
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert [record.writer for _, record in store.records(attachment_id="b")] == ["child"] * 6
        assert len(store.records(attachment_id="a")) == 2


@posix_only
def test_a_store_object_can_be_opened_anew_in_a_child(path):
    run(
        FORK
        + """
    store = open_store(url)
    store.write([a_record(1, 1)], [])
    pid = os.fork()
    if pid == 0:
        store.open()
        store.write([a_record(2, 2)], [])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    store.write([a_record(3, 3)], [])
    assert len(store.records()) == 3
        """,
        f"sqlite:///{path}",
    )


@posix_only
def test_a_connection_that_was_open_during_a_fork_is_never_used_or_closed(path):
    # A fork by C code runs no Python hooks before it, only after.
    done = run(
        FORK
        + """
    store = open_store(url)
    store.write([a_record(1, 1)], [])
    sqlite_file._before_fork.__code__ = (lambda: sqlite_file._forking.append(None)).__code__
    pid = os.fork()
    if pid == 0:
        try:
            open_store(url)
        except ConfigError as e:
            assert "can't be opened safely here" in str(e), e
            print("refused", flush=True)
        other = open_store(url + ".other")
        other.write([a_record(1, 1)], [])
        other.close()
        assert len(sqlite_file._kept) == 1
        assert sqlite_file._kept[0].total_changes >= 0  # raises where it is closed
        del store, other
        gc.collect()
        raise SystemExit(0)
    assert os.waitpid(pid, 0)[1] == 0
    wal = url.removeprefix("sqlite:///") + "-wal"
    assert os.path.exists(wal), "the child closed the connection of its parent"
    store.write([a_record(2, 2)], [])
    assert len(store.records()) == 2
        """,
        f"sqlite:///{path}",
    )
    assert done.stdout == "refused\n"


@posix_only
def test_what_is_kept_for_ever_outlives_the_interpreter():
    code = """
        import os
        from lifecycle.stores import sqlite_file
        class Thing:
            def __del__(self, write=os.write): write(1, b"finalized")
        thing = Thing()
        {}
    """
    assert run(code.format("sqlite_file._kept.append(thing)")).stdout == "finalized"  # what a list alone does
    assert run(code.format("sqlite_file._keep_for_ever(thing)")).stdout == ""


@posix_only
def test_a_fork_waits_for_a_write_and_a_write_for_a_fork(store, path):
    seen = []
    in_write, go_on = threading.Event(), threading.Event()

    def worker():
        with store._file.use():
            in_write.set()
            assert go_on.wait(30)
            seen.append("written")

    thread = threading.Thread(target=worker)
    thread.start()
    assert in_write.wait(30)
    forker = threading.Thread(target=lambda: (sqlite_file._before_fork(), seen.append("forking")))
    forker.start()
    while not sqlite_file._forking:
        time.sleep(0.001)
    go_on.set()
    thread.join()
    forker.join()
    assert seen == ["written", "forking"]
    assert store._file._db is None  # no connection is open while the process forks

    writer = threading.Thread(target=lambda: (store.write([a_record(1, 1)], []), seen.append("after")))
    writer.start()
    writer.join(0.1)
    assert seen == ["written", "forking"]
    sqlite_file._after_fork_in_parent()
    writer.join()
    assert seen == ["written", "forking", "after"]


def test_nothing_waits_for_ever_for_a_fork_that_was_struck_by_a_signal(store, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_PATIENCE", 0.05)
    sqlite_file._before_fork()
    try:
        store.write([a_record(1, 1)], [])
    finally:
        sqlite_file._after_fork_in_parent()
    with store._file._lock, pytest.raises(StoreError, match="another thread"):
        store.records()
    assert len(store.records()) == 1


# --- how a store is chosen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("sqlit:///x.db", "did you mean 'sqlite:'?"),
        ("memory", "did you mean 'memory:'"),
        ("mem:", "known: memory:, sqlite:///PATH, postgresql://..."),
        ("records.db", "did you mean 'sqlite:///records.db'"),
        ("/var/records.db", "did you mean 'sqlite:////var/records.db'"),
        ("", "known: memory:"),
        ("sqlite:x.db", "sqlite:///x.db"),
        ("sqlite://x.db", "three slashes before the path: sqlite:///x.db"),
        ("sqlite:", "sqlite:///PATH"),
        ("sqlite:///", "a path after"),
        ("sqlite:///:memory:", "memory:"),
        ("sqlite:///x.db?mode=ro", "without parameters"),
        ("sqlite:///x\0.db", "plain path"),
        ("sqlite:///no/such/folder/x.db", "does not exist"),
        ("postgresql:x", "known: memory:"),
        ("mysql://user:secret@host/db", "known: memory:"),
        ("host=h password=secret", "known: memory:"),
        (7, "an object with the methods open, write"),
        (Path("x.db"), "sqlite:///PATH"),
    ],
)
def test_a_bad_choice_is_named(spec, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as e:
        open_store(spec)
    assert e.value.option == "store"
    assert hint in e.value.allowed
    assert "secret" not in str(e.value)
    if isinstance(spec, str) and not set("@=") & set(spec):
        assert e.value.value == spec
    assert list(tmp_path.iterdir()) == []


def test_a_chosen_store_that_cannot_be_opened_is_refused(path):
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(ConfigError, match="not an SQLite database") as e:
        open_store(f"sqlite:///{path}")
    assert e.value.option == "store"
    assert e.value.value == f"sqlite:///{path}"
    assert isinstance(e.value.__cause__, StoreError)


def test_a_relative_path_is_fixed_when_it_is_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(open_store("sqlite:///here.db")) as store:
        monkeypatch.chdir("/")
        store.write([a_record()], [])
        assert store.url == f"sqlite:///{tmp_path}/here.db"
    assert (tmp_path / "here.db").exists()


def test_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(open_store("sqlite:///~/here.db")) as store:
        assert store.url == f"sqlite:///{tmp_path}/here.db"


def test_a_store_object_is_opened_and_passed_through(path):
    mine = SQLiteStore(path)
    with closing(open_store(mine)) as store:
        assert store is mine
        store.write([a_record()], [])
        assert open_store(mine) is mine
        assert len(mine.records()) == 1
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="not a regular file") as e:
        open_store(SQLiteStore(path))
    assert e.value.option == "store"


def test_the_environment_chooses_where_the_code_does_not(path, monkeypatch):
    monkeypatch.setenv("LIFECYCLE_STORE", "memory:")
    assert isinstance(open_store(None), MemoryStore)
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert isinstance(store, SQLiteStore)
    monkeypatch.setenv("LIFECYCLE_STORE", f"sqlite:///{path.parent}/no/x.db")
    with pytest.raises(ConfigError) as e:
        open_store(None)
    assert "from LIFECYCLE_STORE" in str(e.value.value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with an empty home and no choice made; returns the folder of the default store."""
    monkeypatch.delenv("LIFECYCLE_STORE", raising=False)
    for name in ("HOME", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    folder = Path(platformdirs.user_state_dir("lifecycle"))
    assert tmp_path in folder.parents
    return folder


@posix_only
def test_the_default_is_a_private_file_in_the_state_folder(home):
    old = os.umask(0)
    try:
        with closing(open_store(None)) as store:
            assert isinstance(store, SQLiteStore)
            assert store.path == default_path() == home / "lifecycle.db"
            assert stat.S_IMODE(home.stat().st_mode) == 0o700
            assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
        home.chmod(0o755)
        with closing(open_store(None)):
            assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        os.umask(old)


@pytest.mark.parametrize("fault", ["a file where the folder should be", "garbage", "a folder where the file should be"])
def test_a_default_that_cannot_be_used_falls_back_to_memory_with_one_warning(home, fault):
    if fault == "a file where the folder should be":
        home.parent.mkdir(parents=True)
        home.write_text("")
    elif fault == "garbage":
        home.mkdir(parents=True)
        (home / "lifecycle.db").write_bytes(b"garbage" * 100)
    else:
        (home / "lifecycle.db").mkdir(parents=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = open_store(None)
    assert [w.category for w in caught] == [StoreFallbackWarning]
    assert issubclass(StoreFallbackWarning, RuntimeWarning)
    assert str(home) in str(caught[0].message)
    assert "LIFECYCLE_STORE" in str(caught[0].message)
    assert isinstance(store, MemoryStore)
    store.write([a_record()], [a_row(state=State.ACTIVE)])
    assert len(store.records()) == 1


def test_only_the_store_that_is_used_is_loaded():
    run(
        """
        import sys
        loaded = set(sys.modules)  # a coverage tool brings its own
        from lifecycle.stores import open_store
        open_store("memory:")
        heavy = {"sqlite3", "platformdirs", "lifecycle.stores.sqlite", "lifecycle.stores.sqlite_file"}
        assert not heavy & (set(sys.modules) - loaded)
        """
    )
