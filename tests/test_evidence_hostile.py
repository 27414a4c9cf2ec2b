"""What an attacker tried on the log as evidence, and what made an honest log look damaged or stopped one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import stat
import threading
from contextlib import closing
from datetime import timedelta

import orjson
import pytest
from logs_rig import checkpoint_of, damaged, live, small_log, tip_of
from test_audit_verify import MAKER, why
from test_checkpoints import spoil
from waiting import until

from lifecycle import AuditError, Client, ConfigError, RecordKind, State, StoreError, journal, spill
from lifecycle.audit import prove, verify, verify_proof
from lifecycle.audit.canonical import canonical
from lifecycle.audit.merkle import leaf_hash
from lifecycle.audit.notes import make_note
from lifecycle.audit.register import advance, announce
from lifecycle.audit.retention import hold, prune
from lifecycle.clocks import SystemClock
from lifecycle.journal import Journal
from lifecycle.loops import SerialWorker
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing.store_suite import T0, a_record, a_row, a_writer
from lifecycle_adapters.memory import MemoryAdapter


@pytest.fixture
def log():
    store = small_log()
    store.open()
    return store


def fields(record):
    """What a journal is told of it; the rest it knows itself."""
    own = ("writer", "writer_seq", "prev", "at", "offset", "skew", "pid", "host", "library", "schema", "table")
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.init and f.name not in own}


def rejected(seq):
    return fields(a_record(1, seq, kind=RecordKind.REJECTED, dest=State.NOT_STARTED))


def with_journal(store, life, **options):
    """Runs `life` with a journal on `store`."""

    async def main():
        worker = SerialWorker("test-store")
        it = Journal(store, SystemClock(), worker, as_writer=lambda writer, _: a_writer(writer=writer), **options)
        try:
            await life(it)
            await it.close()
        finally:
            worker.stop()
        return it

    return asyncio.run(main())


# --- what was called whole ------------------------------------------------------------------------------------------


def test_what_was_taken_out_after_the_last_checkpoint_is_said(log):
    kept = checkpoint_of(log)
    assert prune(log, T0 + timedelta(days=99_999), MAKER, T0).records == 4
    found = verify(log, checkpoints=[kept])
    assert found.ok
    (note,) = found.notes
    assert note.startswith(
        f"records of writer {log._records[0].writer}, up to 4, were taken out by w on host at 2024-01-01"
    )
    assert note.endswith("as entry 4 of the register says; no checkpoint shows it")
    assert verify(log, checkpoints=[checkpoint_of(log)]).notes == []


def test_a_session_that_is_held_and_gone_is_missed(log):
    (session,) = {r.session_id for _, r in log.records()} - {None}
    hold(log, session, "case 7", MAKER, T0)
    assert verify(log).ok
    log.prune({log._records[0].writer: 4}, [], after=tip_of(log).size)
    assert f"session {session}: it is held, and none of its records is there" in why(log)


def test_one_session_of_which_nothing_is_there(log):
    assert why(log, session_id="gone") == ["session gone: the store has no record of it"]


@pytest.mark.parametrize("whose", ["registered", "another"])
def test_a_record_that_says_an_older_version_wrote_it(log, whose):
    """Rows of the first schema have no hash, and none has written to this log."""
    other = damaged(log)
    row = log._records[-1]
    told = {**json.loads(row.body), "schema": 1, "writer_seq": 5, "attachment_seq": 5, "kind": "ignored"}
    told |= {"source": "closed", "dest": "closed"}
    del told["prev"], told["principal"]
    told["writer"] = row.writer if whose == "registered" else "another"
    other._records.append(
        row._replace(
            number=5, writer=told["writer"], writer_seq=5, attachment_seq=5, kind="ignored", source="closed",
            body=json.dumps(told).encode(), hash=None,
        )
    )  # fmt: skip
    assert why(other, checkpoints=[checkpoint_of(log)]) == [
        "record 5: it says that an older version wrote it, and none has written to this log"
    ]
    other._records[-1] = other._records[-1]._replace(body=json.dumps({**told, "schema": True}).encode())
    assert why(other) == ["record 5: its hash is gone"]


def test_a_record_whose_number_jumps(log):
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    first = a_record(1, 1, kind=RecordKind.REJECTED, dest=State.NOT_STARTED)
    store.write([first], [])
    second = a_record(3, 2, kind=RecordKind.REJECTED, dest=State.NOT_STARTED, prev=first.hash.hex())
    row = store._records[0]._replace(number=2, writer_seq=3, attachment_seq=2, body=second.to_json(), hash=second.hash)
    store._records.append(row)
    assert why(store) == ["record 2: it is number 3 of its writer, after 1"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE register SET writer = NULL", "the store finds another last entry about writer"),
        ("UPDATE records SET id = -id WHERE id = 4", "record -4: there is no such number"),
        ("UPDATE register SET seq = -seq WHERE seq = 3", "entry -3 of the register: there is no such number"),
    ],
)
def test_what_the_store_finds_things_by(tmp_path, statement, expected):
    path = tmp_path / "log.db"
    live(f"sqlite:///{path}")
    spoil(path, statement)
    with closing(SQLiteStore(path)) as store:
        store.open()
        assert any(expected in problem for problem in why(store))


def test_a_checkpoint_of_nothing_shows_nothing(log):
    note = make_note(tip_of(log).log, 0, leaf_hash(b""))
    assert why(log, checkpoints=[note]) == ["checkpoint 1: it was made before there was anything, so it shows nothing"]


def test_keys_without_checkpoints_are_a_mistake(log):
    with pytest.raises(ConfigError, match="checkpoints= beside it"):
        verify(log, keys=["a key"])


# --- what is honest, and was called damaged -------------------------------------------------------------------------


@pytest.mark.parametrize("strike", ["a new writer", "more of one", "pruned"])
def test_a_log_that_is_written_to_while_it_is_checked(log, strike):
    """Between the look at the register and at the records."""
    (writer,) = {row.writer for row in log._records}
    register, strikes = log.register, [1]

    def reading(*, after=0, limit=None):
        found = register(after=after, limit=limit)
        if strikes and after and not found:  # it was read to its end
            strikes.clear()
            if strike == "pruned":
                prune(log, T0 + timedelta(days=99_999), MAKER, T0)
            else:
                log.open()
                live(log, sessions=2 if strike == "a new writer" else 1)
        return found

    log.register = reading
    assert why(log) == []
    assert not strikes
    assert writer


def test_heads_of_records_that_came_meanwhile(log):
    """The register is read after the number of the newest record: it covers some that are not looked at otherwise."""
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    first = a_record(1, 1, kind=RecordKind.REJECTED, dest=State.NOT_STARTED)
    store.write([first], [])
    second = a_record(2, 2, kind=RecordKind.REJECTED, dest=State.NOT_STARTED, prev=first.hash.hex())
    register, strikes = store.register, [1]

    def reading(*, after=0, limit=None):
        if strikes:
            strikes.clear()
            store.write([second], [])
            advance(store, MAKER, T0)
        return register(after=after, limit=limit)

    store.register = reading
    found = verify(store)
    assert (found.problems, found.covered) == ([], 2)


def test_what_comes_after_an_end_needs_no_look_back():
    store = MemoryStore()
    with Client(adapter=MemoryAdapter(), store=store) as client:
        with client.Session() as session:
            pass
        for _ in range(300):
            session.stop()
    looks = []
    records = store.records
    store.records = lambda **asked: looks.append(asked) or records(**asked)
    assert verify(store).ok
    assert looks == []


# --- what is hostile, and must be told and not raised ---------------------------------------------------------------


def hostile(entry):
    """Entries of which a field is something else."""
    told = json.loads(entry)
    for name in told:
        for value in (None, "x", -1, 1.5, [], {}, True, "0001-01-01T00:00:00+14:00", ["zz"], 10**30):
            if value != told[name]:
                yield json.dumps({**told, name: value}).encode()
        yield json.dumps({key: value for key, value in told.items() if key != name}).encode()
    yield b"[" * 10_000
    yield b"\xff"
    yield b""
    yield "text"
    yield None
    yield 7


def test_entries_that_are_none(log):
    for n, (writer, hash_, body) in enumerate(log._register):
        for changed in hostile(body):
            other = damaged(log)
            other._register[n] = (writer, hash_, changed)
            assert verify(other).problems, changed
            other._register[n] = (writer, leaf_hash(changed) if isinstance(changed, bytes) else hash_, changed)
            assert verify(other, checkpoints=[checkpoint_of(log)]).problems, changed


@pytest.mark.slow
@pytest.mark.no_cover  # many times what other tests do once
def test_records_that_are_none(log):
    (session,) = {r.session_id for _, r in log.records()} - {None}
    kept = checkpoint_of(log)
    for n, row in enumerate(log._records):
        for changed in hostile(row.body):
            for hash_ in (row.hash, leaf_hash(changed) if isinstance(changed, bytes) else None):
                other = damaged(log)
                other._records[n] = row._replace(body=changed, hash=hash_)
                assert verify(other, checkpoints=[kept]).problems, changed
                assert verify(other, checkpoints=[kept], session_id=session).problems, changed


def test_proofs_that_are_none(log):
    (session,) = {r.session_id for _, r in log.records()} - {None}
    told = json.loads(prove(log, session))
    for part in ("heads", "records"):
        name = "entry" if part == "heads" else "record"
        for changed in hostile(told[part][0][name].encode()):
            text = changed.decode(errors="replace") if isinstance(changed, bytes) else changed
            proof = {**told, part: [{**told[part][0], name: text}, *told[part][1:]]}
            with contextlib.suppress(AuditError):  # it is no proof, which is as good
                assert verify_proof(canonical(proof)).problems, changed
    with pytest.raises(AuditError):
        verify_proof(b"[" * 10_000)


def test_no_proof_of_a_log_with_a_hole(log):
    (session,) = {r.session_id for _, r in log.records()} - {None}
    other = damaged(log)
    other._by_writer = {writer: numbers[:-1] for writer, numbers in log._by_writer.items()}
    with pytest.raises(AuditError, match="does not fit together, so there is no proof"):
        prove(other, session)


# --- what is damaged is not added to --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM register",
        "UPDATE records SET hash = NULL WHERE id = 4",
        "UPDATE records SET body = CAST(body AS TEXT)",
        "UPDATE register SET body = CAST(body AS TEXT)",
    ],
)
def test_it_is_seen_before_the_first_record(tmp_path, monkeypatch, statement):
    path = tmp_path / "log.db"
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path / "rescue",))
    live(f"sqlite:///{path}")
    spoil(path, statement)

    def use():
        with Client(adapter=MemoryAdapter(), store=f"sqlite:///{path}") as client:
            client.Session().start()

    with pytest.raises(StoreError, match="is damaged, so nothing is added to it"):
        use()


def test_nothing_is_entered_either_once_it_was_seen(log, monkeypatch):
    monkeypatch.setattr("lifecycle.spill._folders", list)
    log.open()

    async def life(it):
        await it.append(it.record(**rejected(1)))
        row = log._records[0]
        log._records[0] = row._replace(body=b"{}")
        log.stored_upto = None
        it._damage = journal.ChainBroken("seen", seq=1)
        before = len(log._register)
        await it.checkpoint()
        assert len(log._register) == before
        log._records[0] = row

    with_journal(log, life)


# --- what stopped the log of a process ------------------------------------------------------------------------------


def test_a_write_that_seemed_to_fail_is_not_written_twice(monkeypatch, tmp_path):
    """The store has it, and raised after it."""
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path,))
    store = MemoryStore()
    store.open()
    write, strikes = store.write, [1]

    def struck(records, rows):
        write(records, rows)
        if strikes and len(records) == 2:
            strikes.clear()
            raise StoreError("the file was not where it was", store="memory:")

    store.write = struck

    async def life(it):
        await it.append(it.record(**rejected(1)))
        two = (it.record(**rejected(2)), it.record(**rejected(3)))
        with pytest.raises(StoreError):
            await it.append(*two)
        await it.append(it.record(**rejected(4)))
        assert it.lost() is None

    with_journal(store, life)
    assert [row.writer_seq for row in store.stored()] == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []
    assert verify(store).ok


def test_a_rescue_file_that_stays_hangs_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path,))
    store, told = MemoryStore(), []
    store.open()
    write, strikes = store.write, [1]

    def struck(records, rows):
        if strikes:
            strikes.clear()
            raise StoreError("full", store="memory:")
        write(records, rows)

    def stays(_):
        raise PermissionError(1, "Operation not permitted")

    store.write = struck
    monkeypatch.setattr(journal, "_remove", stays)

    async def life(it):
        with pytest.raises(StoreError):
            await it.append(it.record(**rejected(1)))
        await asyncio.wait_for(it.append(it.record(**rejected(2))), 30)

    with_journal(store, life, on_trouble=lambda event, **_: told.append(event))
    assert told == ["lifecycle.store_refused", "lifecycle.rescue_file_left"]
    assert len(store.stored()) == 2


@pytest.mark.skipif(os.name != "posix", reason="POSIX folders")
def test_a_rescue_file_is_on_disk_when_it_counts(monkeypatch, tmp_path):
    """Each write of it, whole, and its name."""
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path,))
    synced, fsync = [], os.fsync

    def watched(fd):
        status = os.fstat(fd)
        synced.append("folder" if stat.S_ISDIR(status.st_mode) else status.st_size)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    path = spill.keep(spill.Spilled("memory:", a_writer(), [a_record(1, 1)], []))
    assert synced == [path.stat().st_size, "folder"]
    assert spill.add(path, [a_record(2, 2)], [a_row()])
    assert synced[2:] == [path.stat().st_size]
    assert spill.add(path, [], [a_row("t")])
    found = spill.read(path)
    assert ([r.writer_seq for r in found.records], found.rows, found.torn) == ([1, 2], [a_row(), a_row("t")], False)


def test_a_write_that_was_cut_short_is_none_and_the_others_are_whole(monkeypatch, tmp_path):
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path,))
    path = spill.keep(spill.Spilled("memory:", a_writer(), [a_record(1, 1)], [a_row()]))
    whole = path.stat().st_size
    assert spill.add(path, [a_record(2, 2)], [a_row(state=State.CLOSED)])
    told = path.read_bytes()
    for size in range(whole, len(told)):
        path.write_bytes(told[:size])
        found = spill.read(path)
        assert (len(found.records), found.rows, found.torn) == (1, [a_row()], size > whole)
    path.write_bytes(told)
    assert spill.read(path).rows == [a_row(state=State.CLOSED)]
    path.unlink()
    assert not spill.add(path, [a_record(3, 3)], [])
    assert not path.exists()


def test_a_rescue_file_of_an_earlier_version_is_read(tmp_path):
    record = a_record(1, 1, note="é")
    head = orjson.dumps({"store": "memory:", "writer": a_writer()})
    lines = [
        head,
        b'{"record":' + record.to_json() + b"}",
        b'{"row":' + orjson.dumps(a_row(), default=dict) + b"}",
        b"",
    ]
    (tmp_path / "kept").write_bytes(b"\n".join(lines))
    found = spill.read(tmp_path / "kept")
    assert (found.records, found.rows, found.records[0].to_json()) == ([record], [a_row()], record.to_json())


def test_no_folder_for_rescue_files_hangs_nobody(monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(spill, "_folders", none)
    store = MemoryStore()
    store.open()

    def full(*_):
        raise StoreError("full", store="memory:")

    store.write = full

    async def life(it):
        with pytest.raises(StoreError) as refused:
            await asyncio.wait_for(it.append(it.record(**rejected(1))), 30)
        assert refused.value.rescue_path is None

    with_journal(store, life)


def test_facts_that_are_no_texts_are_written_as_texts():
    store = MemoryStore()
    store.open()

    async def life(it):
        await it.append(it.record(**rejected(1)), row=a_row(facts={"pid": 123, 7: None}))

    with_journal(store, life)
    assert store.session("s").facts == {"pid": "123", "7": "None"}


def test_a_function_that_hangs_holds_no_session_up(monkeypatch, captured):
    monkeypatch.setattr(journal, "CHECKPOINT_RECORDS", 2)
    monkeypatch.setattr(journal, "PUBLISH_SECONDS", 0.2)
    called, gate = threading.Event(), threading.Event()

    def hang(_):
        called.set()
        gate.wait(60)

    with Client(adapter=MemoryAdapter(), store="memory:", checkpoints=hang) as client:
        with client.Session():
            assert called.wait(60)
            with client.Session() as other:  # while it hangs
                pass
        assert other.state is State.CLOSED
    gate.set()
    until(lambda: [event for event in captured if event["event"] == "lifecycle.checkpoint_not_published"])


def test_a_store_that_raises_anything_ends_no_keeper():
    store, told = MemoryStore(), []
    store.open()
    entered, strikes = store.enter, [1]

    def enter(entries, *, after):
        if after >= 2 and strikes:
            strikes.clear()
            raise RuntimeError("odd")
        return entered(entries, after=after)

    store.enter = enter

    async def life(it):
        await it.append(it.record(**rejected(1)))
        await it.checkpoint()
        assert told == [("lifecycle.checkpoint_failed", "RuntimeError")]
        await it.checkpoint()

    with_journal(store, life, on_trouble=lambda event, **f: told.append((event, f.get("why"))))
    assert verify(store).covered == 1
