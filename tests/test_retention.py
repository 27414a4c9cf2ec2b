"""Old records are taken out in whole segments, and what stays can still be checked; what is held stays."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from logs_rig import checkpoint_of, live
from test_checkpoints import spoil

from lifecycle import ConfigError, Event, RecordKind, State, StoreError
from lifecycle.audit import FIRST, prove, verify, verify_proof
from lifecycle.audit.merkle import Peaks, Tree, leaf_hash, verify_consistency, verify_inclusion
from lifecycle.audit.register import Entry, EntryKind, Maker, advance, announce
from lifecycle.audit.retention import held_sessions, hold, prune, release
from lifecycle.cli import main
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing.store_suite import T0, a_record, a_row

AUDITOR = Maker("auditor", "host", 1, "1.0")
NOW = T0 + timedelta(days=99)


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "log.db")
    store.open()
    yield store
    store.close()


class Pen:
    """Writes sessions of four records, a day each, by hand."""

    def __init__(self, store):
        self.store = store
        self.last = {}

    def write(self, writer, *records):
        """Records of one writer, numbered and chained."""
        seq, last = self.last.get(writer, (0, FIRST))
        if not seq:
            announce(self.store, [writer], Maker(writer, "host", 1, "1.0"), T0)
        made = []
        for record in records:
            seq += 1
            made.append(dataclasses.replace(record, writer=writer, writer_seq=seq, prev=last))
            last = made[-1].hash.hex()
        self.last[writer] = (seq, last)
        self.store.write(made, [])

    def session(self, writer, day, *, over=True):
        """A session of that day, and its row."""
        known = {"attachment_id": f"a{day}", "session_id": f"s{day}", "at": T0 + timedelta(days=day), "steps": ()}
        start = {"event": Event.START, "source": State.NOT_STARTED, "dest": State.ACTIVE}
        stop = {"event": Event.STOP, "source": State.ACTIVE, "dest": State.CLOSED}
        lives = [{"kind": kind, **edge} for edge in (start, stop) for kind in (RecordKind.INTENT, RecordKind.COMMIT)]
        self.write(writer, *(a_record(1, n, **known, **life) for n, life in enumerate(lives[: 4 if over else 2], 1)))
        state = State.CLOSED if over else State.ACTIVE
        row = a_row(f"s{day}", attachment_id=f"a{day}", state=state, released=over, created_at=known["at"])
        self.store.write([], [row])

    def head(self, writer, *, closing=False):
        """Enter the head of that writer, and what others wrote."""
        while advance(self.store, Maker(writer, "host", 1, "1.0"), T0, closing=closing)[1]:
            pass


@pytest.fixture
def pen(store):
    """Ten days of two writers, of which the register has a head each day; ``w`` goes on, ``v`` is closed."""
    pen = Pen(store)
    for day in range(10):
        pen.session("w" if day % 3 else "v", day)
        pen.head("w")
    pen.head("v", closing=True)
    return pen


def days(store):
    """The sessions of which there are records."""
    return sorted({int(r.session_id[1:]) for _, r in store.records()})


def entries_of(store):
    return [Entry.from_json(body) for _, _, body in store.register()]


def test_what_is_old_goes_and_the_rest_is_whole(store, pen):
    kept = checkpoint_of(store)
    found = prune(store, T0 + timedelta(days=5), AUDITOR, NOW)
    assert found.records == 20
    assert dict(found.writers) == {"w": 12, "v": 8}
    assert days(store) == [5, 6, 7, 8, 9]
    assert sorted(row.session_id for row in store.sessions()) == ["s5", "s6", "s7", "s8", "s9"]
    pruned = [entry for entry in entries_of(store) if entry.kind is EntryKind.PRUNED]
    assert [(e.writer, e.size, e.by, e.at) for e in pruned] == [("v", 8, "auditor", NOW), ("w", 12, "auditor", NOW)]
    checked = verify(store, checkpoints=[kept, checkpoint_of(store)])
    assert checked.problems == []
    assert (checked.records, checked.covered, checked.pruned) == (20, 20, 20)
    pen.session("w", 10)
    pen.head("w")
    checked = verify(store, checkpoints=[kept, checkpoint_of(store)])
    assert (checked.problems, checked.records, checked.covered) == ([], 24, 24)


def test_nothing_is_changed_by_a_trial(store, pen):
    before = (store.stored(), store.register())
    found = prune(store, T0 + timedelta(days=5), AUDITOR, NOW, dry_run=True)
    assert found.records == 20
    assert (store.stored(), store.register()) == before


def test_again_and_again(store, pen):
    assert [prune(store, T0 + timedelta(days=day), AUDITOR, NOW).records for day in (3, 3, 4, 99)] == [12, 0, 4, 24]
    assert days(store) == []
    assert list(store.stored()) == []
    checked = verify(store, checkpoints=[checkpoint_of(store)])
    assert (checked.problems, checked.pruned, checked.records) == ([], 40, 0)
    pen.session("w", 11)
    pen.head("w")
    assert verify(store).problems == []


def test_only_whole_segments_go(store):
    pen = Pen(store)
    for day in range(6):
        pen.session("w", day)
        if day % 2:
            pen.head("w")
    assert prune(store, T0 + timedelta(days=3), AUDITOR, NOW).records == 8  # days 2 and 3 are one segment
    assert days(store) == [2, 3, 4, 5]
    assert verify(store).problems == []


def test_what_is_not_in_the_register_stays(store):
    pen = Pen(store)
    pen.session("w", 0)
    assert prune(store, NOW, AUDITOR, NOW).records == 0
    assert days(store) == [0]


def test_a_session_that_goes_on_stays_and_all_after_it(store):
    pen = Pen(store)
    for day in range(4):
        pen.session("w", day, over=day != 1)
        pen.head("w")
    assert prune(store, NOW, AUDITOR, NOW).records == 4
    assert days(store) == [1, 2, 3]
    assert [row.session_id for row in store.sessions()] == ["s3", "s2", "s1"]
    assert verify(store).problems == []


def test_an_attachment_goes_whole_or_not_at_all(store):
    """Its end was recorded by another writer, a reaper, whose records stay."""
    pen = Pen(store)
    pen.session("w", 0)
    pen.head("w")
    pen.session("w", 1, over=False)
    pen.head("w")
    end = {"kind": RecordKind.RECOVERED, "event": Event.FAIL, "source": State.ACTIVE, "dest": State.ERROR}
    reaped = a_record(1, 3, attachment_id="a1", session_id="s1", at=T0 + timedelta(days=50), steps=(), **end)
    pen.write("reaper", reaped)
    pen.head("reaper")
    assert prune(store, T0 + timedelta(days=9), AUDITOR, NOW).records == 4
    assert days(store) == [1]
    assert verify(store).problems == []
    assert prune(store, T0 + timedelta(days=51), AUDITOR, NOW).records == 3
    assert verify(store).problems == []


def test_what_is_held_stays_until_it_is_released(store, pen):
    hold(store, "s1", "case 7", AUDITOR, NOW)
    assert held_sessions(store) == {"s1": "case 7"}
    with pytest.raises(ConfigError, match="one that is not held already"):
        hold(store, "s1", "again", AUDITOR, NOW)
    found = prune(store, T0 + timedelta(days=5), AUDITOR, NOW)
    assert (found.records, found.held) == (8, ("s1",))
    assert days(store) == [1, 2, 4, 5, 6, 7, 8, 9]
    assert verify(store).problems == []
    with pytest.raises(ConfigError, match="one that is held: s1"):
        release(store, "s2", "over", AUDITOR, NOW)
    release(store, "s1", "over", AUDITOR, NOW)
    assert held_sessions(store) == {}
    assert prune(store, T0 + timedelta(days=5), AUDITOR, NOW).records == 12
    assert verify(store).problems == []


def test_proofs_of_what_stays(store, pen):
    prune(store, T0 + timedelta(days=5), AUDITOR, NOW)
    for day in range(5, 10):
        assert verify_proof(prove(store, f"s{day}"), checkpoints=[checkpoint_of(store)]).ok


def test_what_was_kept_of_the_old_records_is_still_shown_by_the_register(store, pen):
    old = [row.body for row in store.stored(writer="w", limit=12)]
    prune(store, T0 + timedelta(days=5), AUDITOR, NOW)
    (pruned,) = (e for e in entries_of(store) if e.kind is EntryKind.PRUNED and e.writer == "w")
    peaks = Peaks()
    for body in old:
        peaks.add(leaf_hash(body))
    assert tuple(peak.hex() for peak in peaks.hashes) == pruned.peaks


def test_an_attachment_that_is_still_held_on_to_may_be_told_of_late(store):
    """Its program stops it once more, long after the end: the record has its number, and the log is whole."""
    pen = Pen(store)
    pen.session("w", 0)
    pen.head("w")
    assert prune(store, NOW, AUDITOR, NOW).records == 4
    late = {"kind": RecordKind.IGNORED, "event": Event.STOP, "source": State.CLOSED, "dest": State.CLOSED, "steps": ()}
    for seq in (4, 6):
        with pytest.raises(StoreError, match="a gap or a repeat in the attachment"):
            store.write([a_record(5, seq, attachment_id="a0", session_id="s0", writer="w", **late)], [])
    pen.write("w", a_record(1, 5, attachment_id="a0", session_id="s0", at=NOW, **late))
    pen.write("w", a_record(1, 6, attachment_id="a0", session_id="s0", at=NOW, **late))
    pen.head("w")
    assert verify(store, checkpoints=[checkpoint_of(store)]).problems == []
    wrong = {**late, "kind": RecordKind.INTENT, "source": State.ACTIVE}
    pen.write("w", a_record(1, 7, attachment_id="a0", session_id="s0", at=NOW, **wrong))
    assert verify(store).problems


def test_one_that_writes_meanwhile_is_not_hurt(store, pen):
    """It enters a head between the look at the register and the change: then all is looked at again."""
    pruned = store.prune
    strikes = [1]

    def prune_late(upto, entries, *, after):
        if strikes:
            strikes.clear()
            pen.session("w", 10)
            pen.head("w")
        return pruned(upto, entries, after=after)

    store.prune = prune_late
    assert prune(store, T0 + timedelta(days=5), AUDITOR, NOW).records == 20
    assert days(store) == [5, 6, 7, 8, 9, 10]
    assert verify(store, checkpoints=[checkpoint_of(store)]).problems == []


@pytest.mark.parametrize("seed", range(20))
def test_random_lives_pruned_at_random(store, seed):
    picked = random.Random(seed)
    pen = Pen(store)
    notes = []
    for day in range(picked.randint(5, 25)):
        pen.session(picked.choice("uvw"), day, over=picked.random() < 0.9)
        if picked.random() < 0.6:
            pen.head("w")
            notes.append(checkpoint_of(store))
        if picked.random() < 0.2:
            before = days(store)
            cut = picked.randint(0, day)
            prune(store, T0 + timedelta(days=cut), AUDITOR, NOW)
            assert [d for d in before if d >= cut] == [d for d in days(store) if d >= cut]
    found = verify(store, checkpoints=notes)
    assert found.problems == []
    pen.head("w")
    for day in days(store):
        assert verify_proof(prove(store, f"s{day}")).ok


# --- what is not that -------------------------------------------------------------------------------------------------


def test_records_that_went_without_an_entry_are_missed(tmp_path):
    path = tmp_path / "log.db"
    live(f"sqlite:///{path}", sessions=2)
    spoil(path, "DELETE FROM records WHERE writer_seq <= 4")
    with closing(SQLiteStore(path)) as store:
        store.open()
        assert any("are gone" in str(problem) for problem in verify(store).problems)


@pytest.mark.parametrize("change", [{"size": 4}, {"last": "00" * 32}, {"writer": "v"}, {"peaks": ()}])
def test_an_entry_that_fits_no_head_is_told(change):
    """Somebody takes records out by themselves, and writes an entry that says something else."""
    store = MemoryStore()
    store.open()
    pen = Pen(store)
    for day in range(4):
        pen.session("w", day)
        pen.head("w")
    pen.session("v", 4)
    pen.head("v")
    prune(store, T0 + timedelta(days=2), AUDITOR, NOW)
    entry = entries_of(store)[-1]
    assert entry.kind is EntryKind.PRUNED
    forged = dataclasses.replace(entry, **{"size": entry.size, **change})
    writer, _, _ = store._register[-1]
    store._register[-1] = (writer, leaf_hash(forged.to_json()), forged.to_json())
    (problem, *_) = verify(store).problems
    told = (
        "it is no entry of the register" if change == {"peaks": ()} else "had no such head, so nothing shows what was"
    )
    assert told in problem.why


def test_the_database_lets_nobody_else_delete(tmp_path):
    path = tmp_path / "log.db"
    live(f"sqlite:///{path}")
    with closing(SQLiteStore(path)) as store:
        store.open()
        prune(store, NOW, AUDITOR, NOW)
        live(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError, match="never deleted"):
            db.execute("DELETE FROM records")


def test_a_tree_of_which_the_beginning_is_gone():
    leaves = [leaf_hash(b"%d" % n) for n in range(40)]
    for size in range(1, 40):
        whole = Tree(leaves[:size])
        for gone in range(size + 1):
            before = Peaks()
            for leaf in leaves[:gone]:
                before.add(leaf)
            tree = Tree(leaves[gone:size], before)
            assert tree.root() == whole.root()
            for index in range(gone, size):
                path = tree.inclusion_path(index)
                assert path == whole.inclusion_path(index)
                assert verify_inclusion(leaf=leaves[index], index=index, size=size, path=path, root=tree.root())
            for first in range(gone, size + 1):
                path = tree.consistency_path(first)
                assert path == whole.consistency_path(first)
                assert verify_consistency(
                    first=first, first_root=whole.root(first), second=size, second_root=whole.root(), path=path
                )
            if gone > 1:
                with pytest.raises(IndexError, match="are gone"):
                    tree.inclusion_path(0)


# --- typed ------------------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    first, second = live(url, sessions=2)
    (third,) = live(url)
    capsys.readouterr()

    def lc(*args):
        code = main([*args, "--store", url])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    assert lc("audit", "hold", third[:8], "--reason", "case 7") == (0, f"the records of session {third} stay\n", "")
    assert (
        lc("audit", "prune", "--before", "1d")[1]
        == f"no segment in {url} is that old as a whole; nothing was taken out\n"
    )
    code, out, err = lc("audit", "prune", "--before", "2999-01-01", "--dry-run")
    assert (code, out) == (0, f"8 records of 1 writer would be taken out of {url}\n")
    assert err == f"session {third} is held, so it stays, and what lies in one segment with it\n"
    code, out, err = lc("audit", "prune", "--before", "2999-01-01")
    assert (code, out) == (0, f"8 records of 1 writer were taken out of {url}\n")
    assert lc("audit", "verify")[1] == (
        f"✓ {url} is whole: 4 records of 2 writers, 4 in the register; 8 were taken out, as it says\n"
    )
    assert lc("audit", "hold", third, "--reason", "again")[0] == 2
    assert lc("audit", "release", third, "--reason", "settled") == (0, f"the records of session {third} may go\n", "")
    assert lc("audit", "prune", "--before", "2999-01-01")[1].startswith("4 records of 1 writer were")
    assert lc("audit", "prune", "--before", "soon")[0] == 2
    assert {first, second, third}.isdisjoint(lc("sessions", "list")[1].split())
