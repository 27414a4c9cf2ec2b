"""A proof shows one session's records without anyone else's, and holds to the bit."""

from __future__ import annotations

import dataclasses
import json
import random
import sqlite3
from contextlib import closing

import pytest
from logs_rig import checkpoint_of, damaged, flips, live, tip_of
from test_audit_verify import MAKER, OLD

from lifecycle import AuditError, Client, Event, RecordKind, State, UsageError
from lifecycle.audit import prove, verify_proof
from lifecycle.audit.canonical import canonical
from lifecycle.audit.merkle import Peaks, Tree, leaf_hash
from lifecycle.audit.notes import load_key, make_note, new_key, public_key
from lifecycle.audit.register import Entry, advance, announce
from lifecycle.stores.memory import MemoryStore
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing.store_suite import T0, a_record
from lifecycle_adapters.memory import MemoryAdapter


@pytest.fixture
def log():
    store = MemoryStore()
    live(store, sessions=3)
    return store


@pytest.fixture
def key(tmp_path):
    new_key(tmp_path / "key.pem")
    return load_key(tmp_path / "key.pem")


def test_a_session_is_shown_whole(log):
    (session,) = live(log)
    live(log, sessions=2)
    kept = checkpoint_of(log)
    found = verify_proof(prove(log, session), checkpoints=[kept])
    assert found.ok
    assert found.anchored
    assert (found.session_id, found.log, found.checkpoint, found.notes) == (session, tip_of(log).log, kept, [])
    (attachment,) = {r.attachment_id for _, r in log.records(session_id=session)}
    assert [r.to_json() for r in found.records] == [r.to_json() for _, r in log.records(attachment_id=attachment)]
    assert [r.dest for r in found.records] == [State.ACTIVE, State.ACTIVE, State.CLOSED, State.CLOSED]


def test_nothing_of_others_is_in_it(log):
    (session,) = live(log)
    proof = prove(log, session).decode()
    others = {r.attachment_id for _, r in log.records()} - {
        r.attachment_id for r in verify_proof(proof.encode()).records
    }
    assert len(others) == 3
    assert not [other for other in others if other in proof]


def test_owner_and_guest_are_both_in_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    with Client(adapter=MemoryAdapter(), store=url) as client, client.Session() as session:
        guest = client.Session(session.session_id, on_exit="detach").start()
        guest.detach()
    with closing(SQLiteStore(tmp_path / "log.db")) as store:
        store.open()
        found = verify_proof(prove(store, session.session_id))
    assert found.ok
    assert len({r.attachment_id for r in found.records}) == 2


def test_a_proof_leads_from_checkpoints_that_were_kept(log, key):
    earlier = checkpoint_of(log)
    (session,) = live(log)
    kept = checkpoint_of(log)
    live(log)
    proof = prove(log, session, since=[earlier, kept])
    found = verify_proof(proof, checkpoints=[kept])
    assert (found.ok, found.anchored) == (True, True)
    found = verify_proof(proof, checkpoints=[earlier])  # it stands for nothing that came after it
    (problem,) = found.problems
    assert problem.startswith(
        f"its records were entered in the register after the checkpoint of size {earlier.size} that"
    )
    assert not found.anchored
    public = public_key(key, f"lifecycle/{tip_of(log).log}")
    found = verify_proof(prove(log, session, key=key, since=[earlier]), checkpoints=[earlier], keys=[public])
    assert (found.ok, found.anchored, found.signed) == (True, False, 1)
    unknown = checkpoint_of(small())
    assert verify_proof(proof, checkpoints=[unknown]).problems == [
        "it fits none of the checkpoints that were kept; make it anew with --checkpoints"
    ]


def small():
    store = MemoryStore()
    live(store)
    return store


def test_one_made_up_from_a_checkpoint_alone_is_not_anchored(log):
    """Where the size is a power of two, the root is all there is to know of a tree: anybody can go on from there."""
    kept = make_note(tip_of(log).log, 4, leaf_hash(b"whatever it was"))
    forged = MemoryStore()
    live(forged)
    proof = json.loads(prove(forged, forged.sessions()[0].session_id))
    entry = Entry.from_json(proof["heads"][0]["entry"].encode())
    head = dataclasses.replace(entry, log=tip_of(log).log, seq=5, tree=(kept.root.hex(),)).to_json()
    root = Tree([leaf_hash(head)], Peaks(4, [kept.root])).root()
    proof["checkpoint"] = str(make_note(tip_of(log).log, 5, root))
    proof["since"] = [{"checkpoint": str(kept), "path": [leaf_hash(head).hex()]}]
    proof["heads"] = [{"entry": head.decode(), "path": [kept.root.hex()]}]
    found = verify_proof(canonical(proof), checkpoints=[kept])
    assert not found.anchored
    assert [problem.split(" that was kept")[0] for problem in found.problems] == [
        "its records were entered in the register after the checkpoint of size 4"
    ]


def test_a_checkpoint_that_contradicts_it(log):
    (session,) = live(log)
    proof = prove(log, session)
    note = checkpoint_of(log)
    other = make_note(tip_of(log).log, note.size, bytes(32))
    assert verify_proof(proof, checkpoints=[other]).problems[0] == (
        f"its checkpoint has another root than the one of size {note.size} that was kept"
    )


def test_signed(log, key):
    (session,) = live(log)
    proof = prove(log, session, key=key)
    public = public_key(key, f"lifecycle/{tip_of(log).log}")
    found = verify_proof(proof, keys=[public])
    assert (found.ok, found.signed, found.notes) == (True, 1, [])
    unsigned = verify_proof(prove(log, session), keys=[public])
    assert unsigned.problems == [f"its checkpoint has no right signature by {public.name}"]
    named = prove(log, session, key=key, origin="example.com/browsers")
    assert verify_proof(named, keys=[public_key(key, "example.com/browsers")]).ok


def test_without_a_key_or_a_checkpoint_it_says_what_it_does_not_show(log):
    (session,) = live(log)
    (note,) = verify_proof(prove(log, session)).notes
    assert note.endswith("kept elsewhere nor a key was given: it fits together, and anybody could have made it")


def test_a_session_that_goes_on(log):
    store = MemoryStore()
    with Client(adapter=MemoryAdapter(), store=store) as client, client.Session() as session:
        with pytest.raises(
            UsageError, match="record 1 of writer .* is not in the register yet; it will be within a minute"
        ):
            prove(store, session.session_id)
        maker = MAKER
        advance(store, maker, T0)
        found = verify_proof(prove(store, session.session_id))
        assert found.ok
        assert found.notes[1] == (
            f"no end of attachment {session.attachment_id} is shown: there may be later records of it"
        )


def test_sessions_without_a_proof(log, tmp_path):
    with pytest.raises(UsageError, match="no records of session 'nobody' are in memory:"):
        prove(log, "nobody")
    with closing(sqlite3.connect(tmp_path / "old.db")) as db:
        db.executescript(OLD.read_text())
    store = SQLiteStore(tmp_path / "old.db")
    store.open()
    with pytest.raises(
        UsageError, match="recorded by an older version, whose records are in no chain; it has no proof"
    ):
        prove(store, store.sessions()[0].session_id)
    store.close()


def test_a_log_that_does_not_fit_together_gives_no_proof(log):
    (session,) = live(log)
    other = damaged(log)
    row = other._records[-1]
    other._records[-1] = row._replace(body=row.body.replace(b"MainThread", b"MainThreat"))
    with pytest.raises(AuditError, match="is not among those that the register covers; see `lifecycle audit verify`"):
        prove(other, session)


# --- changed proofs -------------------------------------------------------------------------------------------------


def holds(proof, kept):
    try:
        return verify_proof(proof, checkpoints=[kept]).ok
    except AuditError:
        return False


def test_flipped_bits_are_found(log, counted):
    proof, kept = the_proof(log)
    flipped = list(flips(proof, step=37))
    assert [bit for bit, raw in flipped if holds(raw, kept)] == []
    counted("flipped bits of a proof", range(len(flipped)))


@pytest.mark.campaign
def test_every_flipped_bit_is_found(log, counted):
    proof, kept = the_proof(log)
    count = 0
    for bit, raw in flips(proof):
        assert not holds(raw, kept), bit
        count += 1
    assert count == 8 * len(proof) > 40_000
    counted("flipped bits of a proof", range(count))


def the_proof(log):
    (session,) = live(log)
    earlier = checkpoint_of(log)
    live(log)
    return prove(log, session, since=[earlier]), checkpoint_of(log)


def test_every_cut_is_found(log, counted):
    proof, kept = the_proof(log)
    for end in range(0, len(proof), 7):
        assert not holds(proof[:end], kept), end
    counted("cut proofs", range(0, len(proof), 7))


def test_parts_left_out_repeated_or_swapped_are_found(log, counted):
    proof, kept = the_proof(log)
    told = json.loads(proof)
    changed = []
    for part in ("heads", "records", "since"):
        items = told[part]
        changed += [{**told, part: items[:n] + items[n + 1 :]} for n in range(len(items) - (part != "heads"))]
        changed += [{**told, part: items[: n + 1] + items[n:]} for n in range(len(items)) if part == "records"]
        changed += [{**told, part: items[::-1]} for _ in range(len(items) > 1 and part == "records")]
        for n, item in enumerate(items):
            for m in range(len(item["path"])):
                path = item["path"]
                less = {**item, "path": path[:m] + path[m + 1 :]}
                twice = {**item, "path": path[: m + 1] + path[m:]}
                changed += [{**told, part: [*items[:n], new, *items[n + 1 :]]} for new in (less, twice)]
    changed += [{key: value for key, value in told.items() if key != name} for name in told]
    changed += [{**told, name: None} for name in told]
    changed.append({**told, "session_id": "another"})
    assert [n for n, other in enumerate(changed) if holds(canonical(other), kept)] == []
    assert len(changed) > 50
    counted("proofs with parts changed", range(len(changed)))


def test_a_proof_that_others_could_read_otherwise_is_refused(log):
    """A name that comes twice: some take the first, some the last. And any other form than the one it was made in."""
    (session,) = live(log)
    proof = prove(log, session)
    for other in (
        proof.replace(b'"heads":', b'"heads":[],"heads":', 1),
        json.dumps(json.loads(proof), indent=1).encode(),
    ):
        with pytest.raises(AuditError, match="it is not canonical JSON, so it is not as it was made"):
            verify_proof(other)


def test_a_record_of_another_session_does_not_slip_in(log):
    (session,) = live(log)
    (other,) = live(log)
    mine, theirs = json.loads(prove(log, session)), json.loads(prove(log, other))
    mixed = {**mine, "records": mine["records"] + theirs["records"], "heads": mine["heads"] + theirs["heads"]}
    problems = verify_proof(canonical(mixed)).problems
    assert any("is about another session" in problem for problem in problems)
    assert any("is of another session" in problem for problem in problems)


def test_an_attachment_without_its_end_or_beginning(log):
    (session,) = live(log)
    told = json.loads(prove(log, session))
    without_end = verify_proof(canonical({**told, "records": told["records"][:-1]}))
    assert "no end of attachment" in without_end.notes[1]
    without_beginning = verify_proof(canonical({**told, "records": told["records"][1:]}))
    assert "it comes after 0 records of its attachment" in without_beginning.problems[0]


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{}", b'{"format":"lifecycle proof, version 9"}', b"\xff", b"7"])
def test_what_is_no_proof_is_refused(raw):
    with pytest.raises(AuditError, match="this is no proof"):
        verify_proof(raw)


def test_a_proof_in_a_long_log():
    picked = random.Random(3)
    store = MemoryStore()
    store.open()
    announce(store, ["w"], MAKER, T0)
    last = "0" * 64
    records = []
    for n in range(1, 3001, 2):
        session = {"attachment_id": f"a{n}", "session_id": f"s{n}"}
        records.append(a_record(n, 1, **session, prev=last))
        end = {"kind": RecordKind.RECOVERED, "event": Event.FAIL, "source": State.NOT_STARTED, "dest": State.ERROR}
        records.append(a_record(n + 1, 2, **session, **end, prev=records[-1].hash.hex()))
        last = records[-1].hash.hex()
    store.write(records, [])
    while advance(store, MAKER, T0)[1]:
        pass
    for n in picked.sample(range(1, 3001, 2), 5):
        found = verify_proof(prove(store, f"s{n}"), checkpoints=[checkpoint_of(store)])
        assert found.ok
        assert [r.writer_seq for r in found.records] == [n, n + 1]
        assert all(0 < len(path) <= 12 for path in paths(prove(store, f"s{n}")))  # 2 ** 12 > 3,000


def paths(proof):
    return [item["path"] for item in json.loads(proof)["records"]]
