"""A log that is whole is called so, and any damage to it is found, named, and told where it is."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import shutil
import sqlite3
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest
from logs_rig import (
    bit_flips,
    checkpoint_of,
    column_changes,
    damaged,
    live,
    reindexed,
    row_damage,
    small_log,
    tip_of,
    unseen,
)  # fmt: skip

import lifecycle
from lifecycle import Client, Event, RecordKind, State
from lifecycle.audit import FIRST, replay, verify
from lifecycle.audit.merkle import Peaks, leaf_hash
from lifecycle.audit.notes import make_note
from lifecycle.audit.paths import TABLES
from lifecycle.audit.register import Entry, EntryKind, Maker, Tip, advance, announce
from lifecycle.states import EDGES, TABLE_VERSION
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing import ManualClock
from lifecycle.testing.store_suite import T0, a_record, the_end
from lifecycle_adapters.memory import Fault, MemoryAdapter

OLD = Path(__file__).parent / "logs" / "schema_1.sql"
UNCHAINED = (
    "record(s) of schema 1 are in no chain: an older version that was running when this log began may have written "
    "them, and so may anybody else"
)
MAKER = Maker("w", "host", 42, "1.0")


@pytest.fixture
def log():
    return small_log()


def why(store, **options):
    """All that is wrong, in words."""
    return [str(problem) for problem in verify(store, **options).problems]


# --- what is whole --------------------------------------------------------------------------------------------------


def test_a_whole_log(log):
    live(log, sessions=3)
    kept = checkpoint_of(log)
    found = verify(log, checkpoints=[kept])
    assert found.ok
    assert (found.problems, found.notes) == ([], [])
    assert (found.records, found.covered, found.older) == (16, 16, 0)
    assert (found.writers, found.entries, found.checkpoints, found.signed, found.open) == (2, 5, 1, 0, 0)
    assert found.log == tip_of(log).log
    assert f"lifecycle/{found.log}" == kept.origin


def test_without_a_checkpoint_it_says_what_it_can_not_tell(log):
    found = verify(log)
    assert found.ok
    assert found.notes == [
        "no checkpoint was given: whoever can change the store could have made all of it anew, and this can't tell"
    ]


def test_an_empty_log():
    found = verify(MemoryStore())
    assert (found.ok, found.records, found.entries, found.log, found.notes) == (True, 0, 0, None, [])


def test_every_kind_of_life_is_a_path(tmp_path):
    store = SQLiteStore(tmp_path / "log.db")
    adapter = MemoryAdapter(faults=[Fault(step="open_backend", kind="fail", nth=2)])
    with Client(adapter=adapter, store=store) as client:
        with client.Session() as session:
            session.extend(minutes=1)
            session.hold("a look", minutes=2)
            guest = client.Session(session.session_id, on_exit="detach").start()
            guest.detach()
            with pytest.raises(lifecycle.InvalidTransition):
                session.start()
        session.stop()  # ignored
        with pytest.raises(lifecycle.StartFailed):
            client.Session().start()
        client.Session().stop()
        with client.Session(timeout_minutes=0.001) as short:
            short.wait_ended(60)
        running = client.Session().start()
        assert why(store) == []
        replayed = replay(r for _, r in store.records())
        assert replayed[running.attachment_id].state is State.ACTIVE
        assert verify(store).open == 1
    store.open()
    found = verify(store)
    assert found.problems == []
    assert found.open == 0
    kinds = {r.kind for _, r in store.records()}
    assert kinds >= {RecordKind.DIVERTED, RecordKind.HELD, RecordKind.EXTENDED, RecordKind.REJECTED, RecordKind.IGNORED}
    for life in replay(r for _, r in store.records()).values():
        assert life.problems == ()
        assert life.state.terminal
    store.close()


def test_what_is_in_flight_is_no_damage():
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    store.write([a_record(1, 1)], [])
    found = verify(store)
    assert found.ok
    assert (found.covered, found.open) == (0, 1)
    assert "1 attachment(s) have an intent with neither its commit nor a recovery" in found.notes[1]


def test_progress_is_told(log):
    done = []
    verify(log, progress=done.append)
    assert done == [4]


# --- damage ---------------------------------------------------------------------------------------------------------

SLICE = 37
"""Of the bits of a small log, one in so many; no multiple of 8, so that each bit of a byte has its turn."""


def test_flipped_bits_are_found(log, counted):
    count, missed = unseen(bit_flips(log, step=SLICE), checkpoint_of(log))
    assert missed == []
    counted("flipped bits of a small log", range(count))


@pytest.mark.campaign
def test_every_flipped_bit_is_found(log, counted):
    count, missed = unseen(bit_flips(log), checkpoint_of(log))
    assert missed == []
    assert count > 40_000
    counted("flipped bits of a small log", range(count))


def test_every_change_of_a_column_is_found(log, counted):
    count, missed = unseen(column_changes(log), checkpoint_of(log))
    assert missed == []
    assert count > 80
    counted("changed columns of a small log", range(count))


def test_every_deletion_truncation_duplication_and_swap_is_found(log, counted):
    live(log)
    live(log, sessions=2)
    kept = checkpoint_of(log)
    whose = [row.writer for row in log._records]
    damages = list(row_damage(log))
    missed = [what for what, store in damages if verify(store, checkpoints=[kept]).ok]
    # Which of two writers wrote first, the times in their records tell and not their numbers in the store.
    allowed = {f"records {m} and {n} swapped" for n in range(1, 17) for m in range(1, n) if kept_in_order(whose, m, n)}
    assert set(missed) == allowed
    assert len(damages) > 500
    counted("deletions, truncations, duplications and swaps in a small log", range(len(damages)))


def kept_in_order(whose, m, n):
    """True when no record between these two, or they themselves, has a writer of theirs."""
    return {whose[m - 1], whose[n - 1]}.isdisjoint(whose[m : n - 1]) and whose[m - 1] != whose[n - 1]


def random_damage(log, kept, picked, times):
    for _ in range(times):
        other = damaged(log)
        n = picked.randrange(len(log._records) + len(log._register))
        if n < len(log._records):
            row = log._records[n]
            other._records[n] = row._replace(body=flipped(row.body, picked))
        else:
            writer, hash_, body = log._register[n - len(log._records)]
            other._register[n - len(log._records)] = (writer, hash_, flipped(body, picked))
        found = verify(other, checkpoints=[kept])
        assert not found.ok, n


def flipped(raw, picked):
    at = picked.randrange(8 * len(raw))
    return raw[: at // 8] + bytes([raw[at // 8] ^ (1 << at % 8)]) + raw[at // 8 + 1 :]


SHARES = [pytest.param(0, id="a slice"), *(pytest.param(n, marks=pytest.mark.campaign) for n in range(1, 11))]


@pytest.mark.parametrize("share", SHARES)
def test_random_flips_in_a_larger_log_are_found(counted, share):
    log = MemoryStore()
    for _ in range(3):
        live(log, sessions=40)
    times = 2_000 if share else 100
    random_damage(log, checkpoint_of(log), random.Random(share), times)
    counted("random flips in a larger log", ((share, n) for n in range(times)))


def test_the_first_record_that_is_wrong_is_named(log):
    live(log, sessions=2)
    row = log._records[5]
    other = damaged(log)
    other._records[5] = row._replace(body=row.body.replace(b"MainThread", b"MainThreat"))
    found = verify(other)
    assert found.problems[0].number == 6
    assert str(found.problems[0]) == "record 6: it has other bytes than were written"
    assert len(found.problems) == 1  # what follows from it is not told again


def test_a_record_that_is_missing_is_told_by_the_next(log):
    assert why(reindexed(log, [log._records[0], *log._records[2:]])) == [
        f"the records of writer {log._records[0].writer}: the register covers 4, and 3 are there: 1 are gone",
        "record 2: it is number 3 of its writer, after 1",
        "record 2: it comes after 1 records of its attachment",
        "record 3: it leaves the state active, and its attachment was not_started",
    ]


def test_a_number_that_its_writer_left_out_is_told_though_the_chain_goes_on():
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    first = a_record(1, 1)
    second = a_record(3, 2, kind=RecordKind.COMMIT, prev=first.hash.hex())
    store.write([first, dataclasses.replace(second, writer_seq=2)], [])
    row = store._records[1]._replace(writer_seq=3, body=second.to_json(), hash=second.hash)
    assert why(reindexed(store, [store._records[0], row])) == ["record 2: it is number 3 of its writer, after 1"]


def test_bytes_and_hash_changed_together_break_the_chain(log):
    row = log._records[1]
    body = row.body.replace(b"MainThread", b"MainThreat")
    other = damaged(log)
    other._records[1] = row._replace(body=body, hash=leaf_hash(body))
    assert why(other) == ["record 3: it does not name the hash of the record before it of its writer"]


def test_a_chain_made_anew_does_not_fit_the_register(log):
    found = verify(rewritten(log), checkpoints=[checkpoint_of(log)])
    assert [str(p) for p in found.problems] == [
        "record 4: up to it, the records of its writer are not those that entry 3 of the register covers"
    ]


def rewritten(log):
    """A copy in which the first record is another, and all that follow name its hash."""
    rows, last = [], FIRST
    for row in log._records:
        body = row.body.replace(b"MainThread", b"MainThreat").replace(
            row.body[row.body.index(b'"prev":"') :][8:72], last.encode()
        )
        rows.append(row._replace(body=body, hash=leaf_hash(body)))
        last = leaf_hash(body).hex()
    return reindexed(log, rows)


def test_all_made_anew_is_seen_with_a_checkpoint_alone(log):
    kept = checkpoint_of(log)
    forged = rewritten(log)
    last, peaks = FIRST, Peaks()
    tree = Peaks()
    for row in forged._records:
        tree.add(row.hash)
    for n, (writer, _, body) in enumerate(log._register):
        entry = Entry.from_json(body)
        changed = {name: getattr(entry, name) for name in Entry.__slots__}
        changed.update(prev=last, tree=tuple(p.hex() for p in peaks.hashes))
        if entry.kind is EntryKind.CLOSED:
            changed.update(last=forged._records[-1].hash.hex(), peaks=tuple(p.hex() for p in tree.hashes))
        made = Entry(**changed).to_json()
        forged._register[n] = (writer, leaf_hash(made), made)
        last = leaf_hash(made).hex()
        peaks.add(leaf_hash(made))
    assert verify(forged).ok  # as it says itself: without a checkpoint it can't tell
    assert why(forged, checkpoints=[kept]) == [
        "checkpoint 1: the first 3 entries of the register are not those that it was made over"
    ]


def test_a_writer_of_whom_all_is_gone_is_missed(log):
    live(log, sessions=2)
    gone = log._records[0].writer
    without = reindexed(log, [row for row in log._records if row.writer != gone])
    assert why(without) == [f"the records of writer {gone}: the register covers 4, and 0 are there: 4 are gone"]


def test_a_writer_whose_entries_are_gone_too_is_missed(log):
    first = log._records[0].writer
    live(log, sessions=2)
    without = reindexed(log, [row for row in log._records if row.writer != first])
    without._register = [entry for entry in log._register if entry[0] != first]
    assert why(without)[0].startswith("entry 2 of the register: it says that it is entry 4, and 1 came before it")


def test_entries_cut_off_are_seen_with_a_checkpoint_alone(log):
    live(log)
    kept = checkpoint_of(log)
    cut = reindexed(log, log._records[:4])
    cut._register = log._register[:3]
    assert verify(cut).ok
    assert why(cut, checkpoints=[kept]) == [
        "checkpoint 1: the register has 3 entries, and had 5: what came last is gone"
    ]


def test_an_entry_that_names_another_before_it_though_the_tree_fits(log):
    writer, _, body = log._register[-1]
    entry = Entry.from_json(body)
    made = Entry(**{**{name: getattr(entry, name) for name in Entry.__slots__}, "prev": "f" * 64}).to_json()
    other = damaged(log)
    other._register = [*log._register[:-1], (writer, leaf_hash(made), made)]
    assert why(other) == ["entry 3 of the register: it does not name the hash of the entry before it"]


def test_a_writer_that_nobody_entered(log):
    other = damaged(log)
    other.open()
    other.write([a_record(1, 1), the_end(2, 2)], [])
    assert why(other)[0] == "record 5: its writer w is not in the register"


def test_records_after_a_writer_was_closed():
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    first = a_record(1, 1)
    store.write([first], [])
    advance(store, MAKER, T0, closing=True)
    store.write([the_end(2, 2, kind=RecordKind.RECOVERED, event=Event.FAIL, dest=State.ERROR,
                         source=State.NOT_STARTED, prev=first.hash.hex())], [])  # fmt: skip
    assert why(store) == ["record 2: its writer was closed after 1 records"]


def test_a_checkpoint_of_another_log(log):
    other = small_log()
    note = checkpoint_of(other)
    assert why(log, checkpoints=[note]) == [f"checkpoint 1: it is of another log, {note.origin}"]
    named = make_note("", note.size, note.root, origin="example.com/browsers")
    assert why(log, checkpoints=[named]) == [
        "checkpoint 1: the first 3 entries of the register are not those that it was made over"
    ]


def test_checkpoints_are_held_against_each_size(log):
    notes = [checkpoint_of(log)]
    for _ in range(3):
        live(log)
        notes.append(checkpoint_of(log))
    assert [note.size for note in notes] == [3, 5, 7, 9]
    assert verify(log, checkpoints=notes).ok
    wrong = [make_note(tip_of(log).log, note.size, notes[0].root) for note in notes[1:]]
    assert len(why(log, checkpoints=[notes[0], *wrong])) == 3


def test_one_session_alone(log):
    first = log._records[0].session_id or log._records[1].session_id
    (second,) = live(log)
    other = damaged(log)
    row = other._records[5]
    other._records[5] = row._replace(body=row.body.replace(b"MainThread", b"MainThreat"))
    assert verify(other, session_id=first).ok
    assert verify(other, session_id=first).records == 4
    assert why(other, session_id=second) == ["record 6: it has other bytes than were written"]


# --- damage that the chain can't show, since it was written so ------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([a_record(1, 1, kind=RecordKind.COMMIT)], "no intent came before it", id="a commit alone"),
        pytest.param([a_record(1, 1), a_record(2, 2)], "another intent of its attachment was not carried out yet",
                     id="a second intent"),
        pytest.param([a_record(1, 1, event=Event.ATTACH, dest=State.CLOSED)], "the table has no edge attach",
                     id="no edge"),
        pytest.param([a_record(1, 1), a_record(2, 2, kind=RecordKind.COMMIT),
                      a_record(3, 3, kind=RecordKind.IGNORED, event=Event.STOP, dest=State.NOT_STARTED)],
                     "it leaves the state not_started, and its attachment was active", id="another state"),
        pytest.param([a_record(1, 1), a_record(2, 2, kind=RecordKind.IGNORED, event=Event.STOP)],
                     "which a record of its kind never does", id="ignored, and led somewhere"),
        pytest.param([a_record(1, 1, table=TABLE_VERSION + 1)], "version 2 of the table", id="a table of the future"),
        pytest.param([a_record(1, 1, kind=RecordKind.JOINED, event=Event.STOP, dest=State.NOT_STARTED)],
                     "no ending in flight", id="joined nothing"),
        pytest.param([a_record(1, 1, kind=RecordKind.DIVERTED)], "no intent came before it", id="diverted nothing"),
    ],
)  # fmt: skip
def test_records_that_are_no_path(records, expected):
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    last, chained = FIRST, []
    for record in records:
        chained.append(dataclasses.replace(record, prev=last))
        last = chained[-1].hash.hex()
    store.write(chained, [])
    problems = why(store)
    assert expected in problems[-1]
    assert [p for life in replay(chained).values() for p in life.problems]


def test_the_table_of_each_version_is_known():
    """Written out by hand: one that changes needs a new version, and the old one is kept for old logs."""
    opening = {("start", "not_started", "active"), ("attach", "not_started", "active"), ("operate", "active", "active")}
    endings = {
        (event, source, dest)
        for event, dest in (("stop", "closed"), ("expire", "timed_out"), ("fail", "error"))
        for source in ("not_started", "active")
    }
    assert dict(TABLES) == {1: opening | endings | {("detach", "active", "closed")}}
    assert TABLES[TABLE_VERSION] == {(e.event.value, e.source.value, e.dest.value) for e in EDGES}


# --- in a file ------------------------------------------------------------------------------------------------------


def test_a_file_changed_with_other_means(tmp_path):
    path = tmp_path / "log.db"
    live(f"sqlite:///{path}", sessions=2)
    with closing(SQLiteStore(path)) as store:
        store.open()
        kept = checkpoint_of(store)
        assert verify(store, checkpoints=[kept]).ok
    for statement, expected in (
        (
            "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id = 3",
            "record 3: it has other",
        ),
        ("UPDATE records SET session_id = 'x' WHERE id = 4", "record 4: the store finds it by another session_id"),
        ("UPDATE records SET body = CAST(body AS TEXT) WHERE id = 3", "record 3: it is no record"),
        ("UPDATE records SET hash = hex(hash) WHERE id = 3", "record 3: it has other bytes"),
        ("UPDATE register SET body = CAST(body AS TEXT) WHERE seq = 2", "entry 2 of the register: it has other bytes"),
        ("DELETE FROM records WHERE id = 8", "are there: 1 are gone"),
        ("DELETE FROM records", "are there: 8 are gone"),
        ("UPDATE register SET body = x'00' WHERE seq = 1", "entry 1 of the register: it has other bytes"),
        ("DELETE FROM register", "record 1: its writer"),
        ("UPDATE records SET body = x'00' WHERE id = 2", "record 2: it is no record"),
    ):
        copy = tmp_path / "copy.db"
        shutil.copy(path, copy)
        with closing(sqlite3.connect(copy)) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")
            assert db.execute(statement).rowcount > 0
            db.commit()
        with closing(SQLiteStore(copy)) as store:
            store.open()
            assert any(expected in problem for problem in why(store, checkpoints=[kept])), statement


# --- several processes ----------------------------------------------------------------------------------------------


def told(found):
    """All of it, to be compared."""
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return {**values, "problems": sorted(map(str, found.problems))}


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A log of several writers at once, in a file, which is looked at in parts of seven records."""
    monkeypatch.setattr("lifecycle.audit.verifying._SHARE", 7)
    store = SQLiteStore(tmp_path / "log.db")
    store.open()
    with Client(adapter=MemoryAdapter(), store=store.url, clock=ManualClock()) as one:
        for _ in range(3):
            with one.Session() as session:
                with Client(adapter=MemoryAdapter(), store=store.url, clock=ManualClock()) as two, two.Session():
                    session.extend(minutes=1)
                for _ in range(3):
                    with pytest.raises(lifecycle.InvalidTransition):
                        session.start()
                advance(store, MAKER, T0)  # of each writer, heads in the middle of parts
            session.stop()
    yield store
    store.close()


def test_several_processes_find_what_one_finds(shared):
    kept = checkpoint_of(shared)
    whole = verify(shared, checkpoints=[kept], processes=2)
    assert (whole.problems, whole.records, whole.covered) == ([], len(shared.stored()), len(shared.stored()))
    assert whole.writers == 4
    assert told(whole) == told(verify(shared, checkpoints=[kept]))
    done = []
    verify(shared, processes=2, progress=done.append)
    assert done[-1] == len(shared.stored())
    assert len(done) == -(-len(shared.stored()) // 7)


def test_several_processes_tell_of_damage(shared):
    kept = checkpoint_of(shared)
    with shared._file.use() as db:
        db.execute("DROP TRIGGER records_never_change")
        db.execute("UPDATE records SET session_id = 'x' WHERE id = 8")
    assert why(shared, checkpoints=[kept], processes=2) == [
        "record 8: the store finds it by another session_id than it says"
    ]


class InPlace:
    """Runs the jobs of a pool of processes in this one, each with copies of what it was given."""

    def __init__(self, *_args, **_options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def submit(self, job, *given):
        done = Future()
        done.set_result(job(*pickle.loads(pickle.dumps(given))))
        return done


def changed(body):
    return body.replace(b"MainThread", b"MainThreat")


DAMAGE = {
    "bytes": lambda db, n, body: db.execute("UPDATE records SET body = ? WHERE id = ?", (changed(body), n)),
    "bytes and hash": lambda db, n, body: db.execute(
        "UPDATE records SET body = ?, hash = ? WHERE id = ?", (changed(body), leaf_hash(changed(body)), n)
    ),
    "gone": lambda db, n, _: db.execute("DELETE FROM records WHERE id = ?", (n,)),
    "session": lambda db, n, _: db.execute("UPDATE records SET session_id = 'x' WHERE id = ?", (n,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_parts_find_damage_wherever_they_begin_and_end(shared, damage, tmp_path, monkeypatch):
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", InPlace)
    kept, stored = checkpoint_of(shared), shared.stored()
    shared.close()
    for number, body in ((row.number, row.body) for row in stored):
        copy = tmp_path / "copy.db"
        shutil.copy(shared.path, copy)
        with closing(sqlite3.connect(copy)) as db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")
            assert DAMAGE[damage](db, number, body).rowcount == 1
            db.commit()
        with closing(SQLiteStore(copy)) as store:
            store.open()
            alone, parts = (verify(store, checkpoints=[kept], processes=n) for n in (1, 2))
            assert not parts.ok
            # What follows from the first may be told otherwise; and that one is gone, by its chain or its attachment.
            first, second = ([p for p in found.problems if p.number is not None][:1] for found in (alone, parts))
            assert [p.number for p in first] == [p.number for p in second], number
            assert first == second or damage == "gone", number


# --- older versions -------------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A store as the first version left it."""
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD.read_text())
    store = SQLiteStore(path)
    store.open()
    yield store
    store.close()


def test_a_log_of_the_first_schema_is_read_and_gone_on_with(old):
    records = [r for _, r in old.records()]
    assert len(records) == 17
    assert {r.schema for r in records} == {1}
    assert {life.problems for life in replay(records).values()} == {()}
    found = verify(old)
    assert found.ok
    assert found.notes == [f"17 {UNCHAINED}"]
    live(old.url)
    found = verify(old, checkpoints=[checkpoint_of(old)])
    assert (found.ok, found.problems, found.notes) == (True, [], [])
    assert (found.records, found.older, found.covered) == (21, 17, 4)


def test_from_then_on_the_old_records_are_covered_too(old):
    live(old.url)
    with old._file.use() as db:
        db.execute("DROP TRIGGER records_never_change")
        db.execute("UPDATE records SET body = CAST(replace(body, 'blue', 'glue') AS BLOB) WHERE id = 2")
    assert why(old) == ["the records before the register: they are not the 17 that were there when it was made"]


def added(old, **fields):
    """A record of a writer that is not in the register, put into the table without a hash."""
    last = old.records(newest=True, limit=1)[0][1]
    live(old.url)
    late = {**json.loads(last.to_json()), "writer_seq": 18, "attachment_id": "late", "attachment_seq": 1, **fields}
    late |= {"session_id": None, "kind": "ignored", "event": "stop", "source": "not_started", "dest": "not_started"}
    with old._file.use() as db:
        db.execute(
            "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, session_id, kind, event, source, "
            "dest, at, terminal, body) SELECT writer, 18, 'late', 1, NULL, 'ignored', 'stop', 'not_started', "
            "'not_started', at, 0, ? FROM records WHERE id = 17",
            (json.dumps(late).encode(),),
        )


def test_an_old_version_that_still_runs_is_told_of(old):
    """It was running when this one made the register, and writes on."""
    added(old)
    live(old.url)
    found = verify(old, checkpoints=[checkpoint_of(old)])
    assert found.problems == []
    assert found.notes == [f"1 {UNCHAINED}"]


def test_a_record_of_this_version_without_a_hash_is_not_taken_for_an_older_one(old):
    added(old, schema=2)
    found = verify(old, checkpoints=[checkpoint_of(old)])
    assert [str(problem) for problem in found.problems] == ["record 22: its hash is gone"]
    assert found.notes == []


# --- the register ---------------------------------------------------------------------------------------------------


def test_two_that_write_the_register_at_once_make_one():
    """Each reads the last entry before the other writes: the one that comes second starts again."""
    store = MemoryStore()
    store.open()
    entered = store.enter
    strikes = [1]

    def enter(entries, *, after):
        if strikes.pop() if strikes else False:
            announce(store, ["other"], Maker("other", "host", 43, "1.0"), T0)
        return entered(entries, after=after)

    store.enter = enter
    announce(store, ["w"], MAKER, T0)
    kinds = [(entry.kind, entry.writer) for entry in entries_of(store)]
    assert kinds == [(EntryKind.BEGUN, None), (EntryKind.WRITER, "other"), (EntryKind.WRITER, "w")]
    assert verify(store).ok


def test_one_that_goes_on_while_another_has_entered_more_is_not_taken_for_damage():
    """Between its looks at the register and at the records, another process writes records and enters their head."""
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    first = a_record(1, 1)
    store.write([first], [])
    second = a_record(2, 2, kind=RecordKind.REJECTED, dest=State.NOT_STARTED, prev=first.hash.hex())
    looked = store.last_entry
    strikes = [1]

    def last_entry(writer=None):
        if writer is not None and strikes:
            strikes.clear()
            store.write([second], [])
            advance(store, Maker("other", "host", 43, "1.0"), T0)
        return looked(writer)

    store.last_entry = last_entry
    assert advance(store, MAKER, T0)[0].size == 3
    assert [entry.size for entry in entries_of(store)] == [0, 0, 2]
    assert verify(store).ok


def entries_of(store):
    return [Entry.from_json(body) for _, _, body in store.register()]


def test_a_long_log_is_covered_in_turns():
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    last, records = FIRST, []
    for n in range(1, 2502):
        records.append(a_record(n, n, kind=RecordKind.REJECTED, dest=State.NOT_STARTED, prev=last))
        last = records[-1].hash.hex()
    store.write(records, [])
    turns = 1
    while advance(store, MAKER, T0)[1]:
        turns += 1
    assert turns == 3
    assert [entry.size for entry in entries_of(store)] == [0, 0, 1000, 2000, 2501]
    assert [entry.upto for entry in entries_of(store)] == [0, 0, 1000, 2000, 2501]
    assert advance(store, MAKER, T0)[0].size == 5  # nothing new, so nothing is entered
    found = verify(store, checkpoints=[checkpoint_of(store)])
    assert (found.ok, found.covered) == (True, 2501)


def test_an_entry_comes_back_equal():
    (_, _, body) = small_log().register()[2]
    entry = Entry.from_json(body)
    assert entry.to_json() == body
    assert Tip.after(body).size == entry.seq == 3
    with pytest.raises(ValueError, match="schema 9 of an entry is unknown"):
        Entry.from_json(body.replace(b'"schema":1', b'"schema":9'))
    with pytest.raises(ValueError, match="no entry of schema 1"):
        Entry.from_json(body.replace(b'"upto"', b'"upt0"'))
