"""Checkpoints are notes as C2SP has them, are made in time, and go where they should; a damaged log is not added to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from logs_rig import checkpoint_of, flips, live, small_log, tip_of
from waiting import until

from lifecycle import AsyncClient, AuditError, Client, ConfigError, RecordKind, State, StoreError, journal
from lifecycle.audit import Checkpoints, Key, Note, read_notes, verify
from lifecycle.audit.notes import Publisher, load_key, make_note, new_key, public_key
from lifecycle.audit.register import Entry, EntryKind
from lifecycle.clocks import SystemClock
from lifecycle.journal import Journal
from lifecycle.loops import SerialWorker
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing.store_suite import a_record, a_writer
from lifecycle_adapters.memory import MemoryAdapter

ROOT = bytes(range(32))


@pytest.fixture
def key_file(tmp_path):
    new_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


# --- notes ----------------------------------------------------------------------------------------------------------

# The key, text and signature that the documentation of Go's golang.org/x/mod/sumdb/note gives as its example.
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SAID = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


def test_a_key_and_a_signature_of_another_implementation():
    key = Key.parse(NEUMANN)
    plus = Key("a", b"\x01", b"\xfb" * 32)
    assert str(plus).count("+") > 2
    assert Key.parse(str(plus)) == plus
    assert (key.name, key.id.hex(), str(key)) == ("PeterNeumann", "c74f20a3", NEUMANN)
    blob = base64.b64decode(SIGNED)
    assert key.verifies(SAID, blob)
    assert not key.verifies(SAID + " ", blob)
    for _, raw in flips(blob):
        assert not key.verifies(SAID, raw)


def test_the_text_of_a_note():
    note = make_note("abc", 7, ROOT)
    assert note.text == "lifecycle/abc\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert str(note) == f"{note.text}\n"
    key = Ed25519PrivateKey.generate()
    signed = make_note("abc", 7, ROOT, origin="example.com/log", key=key)
    public = public_key(key, "example.com/log")
    assert public.signed(signed)
    assert str(signed).startswith(
        "example.com/log\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\u2014 example.com/log "
    )
    assert Note.parse(str(signed)) == signed
    assert Key.parse(str(public)) == public
    assert not public_key(key, "example.com/other").signed(signed)
    assert not public_key(Ed25519PrivateKey.generate(), "example.com/log").signed(signed)
    assert not public.signed(make_note("abc", 8, ROOT, origin="example.com/log"))


def test_a_witness_cosigns():
    """https://c2sp.org/tlog-cosignature: what is signed is the time and the text."""
    note, witness = make_note("abc", 7, ROOT), Ed25519PrivateKey.from_private_bytes(ROOT)
    key = Key("witness.example/w1", b"\x04", witness.public_key().public_bytes_raw())
    blob = (1_700_000_000).to_bytes(8, "big") + witness.sign(f"cosignature/v1\ntime 1700000000\n{note.text}".encode())
    cosigned = Note(note.origin, note.size, note.root, (("witness.example/w1", key.id + blob),))
    assert key.signed(Note.parse(str(cosigned)))
    assert Key.parse(str(key)) == key
    later = (1_700_000_001).to_bytes(8, "big") + blob[8:]
    assert not key.signed(Note(note.origin, note.size, note.root, (("witness.example/w1", key.id + later),)))


def test_lines_that_others_add_are_kept_and_signed():
    note = Note.parse("abc\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nmore\n\n")
    assert note.extra == ("more",)
    assert note.text.endswith("\nmore\n")


ENCODED = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n7\n",
        f"a\n7\n{ENCODED}\n",
        f"\n7\n{ENCODED}\n\n",
        f"a\nseven\n{ENCODED}\n\n",
        f"a\n07\n{ENCODED}\n\n",
        f"a\n-7\n{ENCODED}\n\n",
        f"a\n\u0667\n{ENCODED}\n\n",
        "a\n7\nAAEC\n\n",
        "a\n7\n!\n\n",
        f"a\n7\n{ENCODED[:-2]}9=\n\n",
        f"a\n7\n{ENCODED}\n\n- name AAEC\n",
        f"a\n7\n{ENCODED}\n\n\u2014 name\n",
        f"a\n7\n{ENCODED}\n\n\u2014 name AAEC",
    ],
)
def test_what_is_no_note_is_refused(text):
    with pytest.raises(ValueError):
        Note.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "name", "name+c74f20a3", "name+c74f20a3+AAAA", "x+0+!", NEUMANN[1:], NEUMANN.replace("c74f20a3", "c74f20a4")],
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(ConfigError, match="name\\+hash\\+key"):
        Key.parse(text)


def test_a_key_that_openssl_makes(tmp_path):
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, capture_output=True)
    note = make_note("abc", 7, ROOT, key=load_key(path))
    (tmp_path / "text").write_text(note.text)
    (tmp_path / "signature").write_bytes(note.signatures[0][1][4:])
    command = ["openssl", "pkeyutl", "-verify", "-inkey", path, "-rawin", "-in", tmp_path / "text", "-sigfile",
               tmp_path / "signature"]  # fmt: skip
    assert "Success" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("made", ["absent", "text", "rsa", "folder"])
def test_a_key_that_is_none_is_refused(tmp_path, made):
    path = tmp_path / "key.pem"
    if made == "text":
        path.write_text("no key")
    elif made == "rsa":
        subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", path], check=True, capture_output=True)
    elif made == "folder":
        path.mkdir()
    with pytest.raises(
        ConfigError, match=r"key.*key\.pem.*Ed25519 key in PEM; make one with `lifecycle audit key --new"
    ):
        Client(adapter=MemoryAdapter(), store="memory:", checkpoints=Checkpoints(to=print, key=path))


def test_a_new_key_is_the_users_alone_and_replaces_none(key_file):
    assert key_file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        new_key(key_file)


# --- when they are made ---------------------------------------------------------------------------------------------


def entries_of(store):
    return [Entry.from_json(body) for _, _, body in store.register()]


def test_at_the_end_all_is_covered(tmp_path):
    notes = tmp_path / "notes.txt"
    store = MemoryStore()
    with Client(adapter=MemoryAdapter(), store=store, checkpoints=notes) as client, client.Session():
        pass
    assert [entry.kind for entry in entries_of(store)] == [EntryKind.BEGUN, EntryKind.WRITER, EntryKind.CLOSED]
    assert read_notes(notes) == ([checkpoint_of(store)], "")
    assert verify(store, checkpoints=read_notes(notes)[0]).notes == []
    assert notes.stat().st_mode & 0o777 == 0o600


def test_a_client_that_writes_nothing_leaves_nothing():
    store, given = MemoryStore(), []
    with Client(adapter=MemoryAdapter(), store=store, checkpoints=given.append):
        pass
    assert (store.register(), given) == ([], [])


def test_after_a_time_also_when_idle(monkeypatch):
    monkeypatch.setattr(journal, "CHECKPOINT_SECONDS", 0.05)
    store, given = MemoryStore(), []
    with Client(adapter=MemoryAdapter(), store=store, checkpoints=given.append) as client, client.Session():
        until(lambda: given)  # nobody does anything
        assert Note.parse(given[0]) == checkpoint_of(store)
        heads = [entry for entry in entries_of(store) if entry.kind is EntryKind.HEAD]
        until(lambda: verify(store).covered == 2)
        assert heads
    assert len(given) == len(set(given))  # one that says nothing new is not handed out again


def test_after_so_many_records(monkeypatch):
    monkeypatch.setattr(journal, "CHECKPOINT_RECORDS", 10)
    store, given = MemoryStore(), []
    with Client(adapter=MemoryAdapter(), store=store, checkpoints=given.append) as client:
        for _ in range(2):
            with client.Session():
                pass
        assert given == []
        with client.Session():
            until(lambda: given)
        assert Note.parse(given[0]) == checkpoint_of(store)


def test_an_async_client_has_them_too(tmp_path):
    notes = tmp_path / "notes.txt"

    async def main():
        async with AsyncClient(adapter=MemoryAdapter(), store="memory:", checkpoints=notes) as client, client.Session():
            pass

    asyncio.run(main())
    assert len(read_notes(notes)[0]) == 1


def test_of_two_clients_on_one_store_each_gets_its_own(tmp_path):
    url, first, second = f"sqlite:///{tmp_path / 'log.db'}", [], []
    with Client(adapter=MemoryAdapter(), store=url, checkpoints=first.append) as one:
        with Client(adapter=MemoryAdapter(), store=url, checkpoints=second.append) as two, two.Session():
            pass
        assert len(second) == 1  # when it was closed, though the other goes on with the log
        with one.Session():
            pass
    assert len(second) == 1
    assert first[0] == second[0]
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        store.open()
        found = verify(store, checkpoints=[Note.parse(text) for text in first + second])
        assert (found.ok, found.records, found.covered) == (True, 8, 8)


def test_the_environment_names_file_and_key(tmp_path, monkeypatch, key_file):
    monkeypatch.setenv("LIFECYCLE_CHECKPOINTS", str(tmp_path / "notes.txt"))
    monkeypatch.setenv("LIFECYCLE_CHECKPOINT_KEY", str(key_file))
    store = small_log()
    (note,), _ = read_notes(tmp_path / "notes.txt")
    assert public_key(load_key(key_file), note.origin).signed(note)
    assert verify(store, checkpoints=[note], keys=[public_key(load_key(key_file), note.origin)]).signed == 1


def test_signatures_are_asked_for(key_file):
    store = small_log()
    key = public_key(load_key(key_file), checkpoint_of(store).origin)
    problems = verify(store, checkpoints=[checkpoint_of(store)], keys=[key]).problems
    assert [str(p) for p in problems] == [f"checkpoint 1: it has no right signature by {key.name}"]


def test_a_writer_is_closed_once_also_when_a_checkpoint_was_under_way():
    store = MemoryStore()
    store.open()

    async def main():
        worker, gate = SerialWorker("test-store"), threading.Event()
        it = Journal(store, SystemClock(), worker, as_writer=lambda writer, _: a_writer(writer=writer))
        made = a_record(kind=RecordKind.REJECTED, dest=State.NOT_STARTED)
        fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init}
        for name in ("writer", "writer_seq", "prev", "at", "offset", "skew", "pid", "host", "library"):
            del fields[name]
        await it.append(it.record(**fields))
        before = asyncio.ensure_future(worker.run(gate.wait))
        under_way = asyncio.ensure_future(it.checkpoint())
        closing = asyncio.ensure_future(it.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(before, under_way, closing)
        worker.stop()

    asyncio.run(main())
    kinds = [entry.kind for entry in entries_of(store)]
    assert kinds == [EntryKind.BEGUN, EntryKind.WRITER, EntryKind.HEAD, EntryKind.CLOSED]
    assert verify(store).ok


def test_what_a_killed_process_wrote_the_next_one_covers(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    code = (
        "import sys, os, signal\n"
        "from lifecycle import Client\n"
        "session = Client(adapter='memory', store=sys.argv[1]).Session().start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], check=False)
    assert done.returncode == -signal.SIGKILL
    live(url)
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        store.open()
        found = verify(store, checkpoints=[checkpoint_of(store)])
        assert (found.ok, found.notes) == (True, [])
        assert (found.records, found.covered, found.writers) == (7, 7, 2)  # two, four, and that its owner has died
        kinds = [(entry.kind, entry.size) for entry in entries_of(store)]
        assert (EntryKind.HEAD, 2) in kinds


def test_many_processes_on_one_log(tmp_path):
    url, notes = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "notes.txt"
    code = (
        "import sys\n"
        "from lifecycle import Client, journal\n"
        "journal.CHECKPOINT_RECORDS = 7\n"
        "with Client(adapter='memory', store=sys.argv[1], checkpoints=sys.argv[2]) as client:\n"
        "    for _ in range(10):\n"
        "        with client.Session(): pass\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, url, str(notes)]) for _ in range(4)]
    assert [run.wait(60) for run in runs] == [0] * 4
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        store.open()
        kept, torn = read_notes(notes)
        found = verify(store, checkpoints=kept)
        assert (found.problems, torn) == ([], "")
        assert (found.records, found.covered, found.writers) == (160, 160, 4)
        assert len(kept) > 4
        assert max(note.size for note in kept) == found.entries


def test_the_last_follows_one_that_is_being_handed_out_as_the_client_ends(monkeypatch):
    monkeypatch.setattr("lifecycle.journal.CHECKPOINT_RECORDS", 1)
    store, given, go = MemoryStore(), [], threading.Event()

    def slow(text):
        given.append(Note.parse(text))
        go.wait(20)

    client = Client(adapter=MemoryAdapter(), store=store, checkpoints=slow)
    with client.Session():
        until(lambda: given)
    ending = threading.Thread(target=client.close)
    ending.start()
    until(lambda: EntryKind.CLOSED in [entry.kind for entry in entries_of(store)])
    go.set()
    ending.join()
    assert given[-1].size == len(entries_of(store))
    assert verify(store, checkpoints=given).ok


# --- where they go --------------------------------------------------------------------------------------------------


def test_a_function_that_raises_hurts_nothing_and_is_told_of(captured):
    store, given = MemoryStore(), []

    def refuse(text):
        given.append(text)
        raise OSError("no")

    with Client(adapter=MemoryAdapter(), store=store, checkpoints=refuse) as client, client.Session():
        pass
    assert len(given) == 1
    until(lambda: [event for event in captured if event["event"] == "lifecycle.checkpoint_not_published"])
    told = [event for event in captured if event["event"] == "lifecycle.checkpoint_not_published"]
    assert [(event["error"], event["size"]) for event in told] == [("OSError", 3)]
    assert verify(store).covered == 4


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "a\nb"])
def test_names_that_no_note_can_have_are_refused(origin):
    with pytest.raises(ConfigError, match="origin.*without spaces and plus signs"):
        Client(adapter=MemoryAdapter(), store="memory:", checkpoints=Checkpoints(to=print, origin=origin))


@pytest.mark.parametrize("given", [7, b"raw", object()])
def test_places_that_are_none_are_refused(given):
    with pytest.raises(ConfigError, match=r"checkpoints.*a file, a function"):
        Client(adapter=MemoryAdapter(), store="memory:", checkpoints=given)


def test_a_place_that_can_not_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoints=.*notes\.txt.*a file that can be written \(No such file"):
        Client(adapter=MemoryAdapter(), store="memory:", checkpoints=tmp_path / "missing" / "notes.txt")


@pytest.mark.parametrize("content", ["my diary\n", "x" * 100_000])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not a file of checkpoints; move it away or choose another"):
        Client(adapter=MemoryAdapter(), store="memory:", checkpoints=path)
    assert path.read_text() == content


def test_a_write_that_was_interrupted_is_put_aside(tmp_path):
    """Wherever it was cut, the first note or the third."""
    store, path = MemoryStore(), tmp_path / "notes.txt"
    for _ in range(3):
        with Client(adapter=MemoryAdapter(), store=store, checkpoints=path) as client, client.Session():
            pass
    whole = path.read_bytes()
    notes, _ = read_notes(path)
    ends = [0]
    for note in notes:
        ends.append(ends[-1] + len(f"{note}--\n".encode()))
    assert ends[-1] == len(whole)
    aside = tmp_path / "notes.txt.torn"
    for end in range(len(whole) + 1):
        aside.unlink(missing_ok=True)
        path.write_bytes(whole[:end])
        kept = max(e for e in ends if e <= end)
        if whole[:end].decode() in (str(notes[0]), f"{notes[0]}-", f"{notes[0]}--"):
            assert (end == len(str(notes[0]))) == (read_notes(path) == ([notes[0]], ""))  # one alone needs no end
        else:
            assert read_notes(path) == (notes[: ends.index(kept)], whole[kept:end].decode())
        Publisher(Checkpoints(to=path)).publish(tip_of(store))
        assert path.read_bytes() == whole[:kept] + f"{notes[2]}--\n".encode()
        assert (aside.read_bytes() if aside.exists() else b"") == whole[kept:end]


def test_a_damaged_file_of_checkpoints_is_named(tmp_path):
    path = tmp_path / "notes.txt"
    publisher = Publisher(Checkpoints(to=path))
    store = small_log()
    publisher.publish(tip_of(store))
    live(store)
    publisher.publish(tip_of(store))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n3\n", b"\n03\n"))
    with pytest.raises(AuditError, match=r"checkpoint 1 in .*notes\.txt is damaged: the size"):
        read_notes(path)
    path.write_bytes(b"\xff" + whole)
    with pytest.raises(AuditError, match="no file of checkpoints, or is damaged"):
        read_notes(path)


@pytest.mark.slow
def test_every_flipped_bit_in_a_file_of_checkpoints_is_found(tmp_path, key_file, counted):
    """With the key: a note that can't be read, one that does not fit, or a signature that is wrong."""
    store, path = small_log(), tmp_path / "notes.txt"
    options = Checkpoints(to=path, key=key_file)
    Publisher(options).publish(tip_of(store))
    live(store)
    Publisher(options).publish(tip_of(store))
    key = public_key(load_key(key_file), checkpoint_of(store).origin)
    whole = path.read_bytes()
    for bit, raw in flips(whole):
        path.write_bytes(raw)
        with contextlib.suppress(AuditError):
            notes, torn = read_notes(path)
            assert torn or len(notes) < 2 or not verify(store, checkpoints=notes, keys=[key]).ok, bit
    counted("flipped bits of a file of checkpoints", range(8 * len(whole)))


# --- a damaged log is not added to ----------------------------------------------------------------------------------


def spoil(path, statement):
    """Change a store as somebody would who can write to its file."""
    with closing(sqlite3.connect(path, timeout=10)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        assert db.execute(statement).rowcount > 0
        db.commit()


DAMAGE = (
    "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id = 1",
    "UPDATE records SET body = CAST(replace(body, 'MainThread', 'MainThreat') AS BLOB) WHERE id = 2",
    "DELETE FROM records WHERE id = 1",
    "UPDATE register SET body = x'00' WHERE seq = 2",
)


@pytest.fixture
def rescue(tmp_path, monkeypatch):
    """Where rescue files go."""
    monkeypatch.setattr("lifecycle.spill._folders", lambda: (tmp_path / "rescue",))
    return tmp_path / "rescue"


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_met_while_it_runs(tmp_path, monkeypatch, captured, rescue, statement):
    monkeypatch.setattr(journal, "CHECKPOINT_RECORDS", 3)
    path = tmp_path / "log.db"

    def use():
        with Client(adapter=MemoryAdapter(), store=f"sqlite:///{path}") as client:
            session = client.Session().start()
            spoil(path, statement)
            session.extend(minutes=1)  # the third record: the register is due
            until(lambda: [event for event in captured if event["event"] == "lifecycle.log_damaged"])
            with pytest.raises(AuditError, match="is damaged, so nothing is added to it"):
                client.Session().start()
            with pytest.raises(AuditError, match="is damaged, so nothing is added to it") as refused:
                session.stop()
            assert session.state.terminal  # an ending fails open
            assert os.path.dirname(refused.value.rescue_path) == str(rescue)

    with pytest.raises(StoreError, match="could not be written; they are kept in"):
        use()
    with closing(SQLiteStore(path)) as store:
        store.open()
        assert verify(store).problems


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_is_met_before_the_first_record(tmp_path, rescue, statement):
    path = tmp_path / "log.db"
    live(f"sqlite:///{path}")
    spoil(path, statement)

    def use():
        with Client(adapter=MemoryAdapter(), store=f"sqlite:///{path}") as client:
            session = client.Session()
            with pytest.raises(AuditError, match="is damaged, so nothing is added to it"):
                session.start()

    # What is gone before the first of those that are looked at, `audit verify` alone can see.
    if statement.startswith("DELETE"):
        live(f"sqlite:///{path}")
    else:
        with pytest.raises(StoreError, match="could not be written; they are kept in"):
            use()
        assert len(list(rescue.iterdir())) == 1
    with closing(SQLiteStore(path)) as store:
        store.open()
        assert verify(store).problems
