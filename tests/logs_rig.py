"""Logs for tests: made by real clients, and damaged row by row in every way there is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from lifecycle import Client
from lifecycle.audit import Note, verify
from lifecycle.audit.notes import make_note
from lifecycle.audit.register import Tip
from lifecycle.stores.memory import MemoryStore
from lifecycle_adapters.memory import MemoryAdapter

Damage = tuple[str, MemoryStore]


def live(store: object, *, sessions: int = 1) -> list[str]:
    """Live so many sessions on a store, by one client, and return their ids."""
    ids = []
    with Client(adapter=MemoryAdapter(), store=store) as client:  # type: ignore[arg-type]
        for n in range(sessions):
            with client.Session(labels={"n": str(n)}) as session:
                ids.append(session.session_id or "")
    return ids


def small_log() -> MemoryStore:
    """One writer, one session: four records and three entries."""
    store = MemoryStore()
    live(store)
    return store


def tip_of(store: MemoryStore) -> Tip:
    """How far its register reaches."""
    body = store.last_entry()
    assert body is not None
    return Tip.after(body)


def checkpoint_of(store: MemoryStore) -> Note:
    """The checkpoint that a client handed out when it was closed just now."""
    tip = tip_of(store)
    return make_note(tip.log, tip.size, tip.root)


def damaged(store: MemoryStore) -> MemoryStore:
    """A copy to be damaged; its rows are replaced and never changed."""
    other = copy.copy(store)
    other._records = list(store._records)
    other._register = list(store._register)
    return other


def reindexed(store: MemoryStore, records: Sequence[object]) -> MemoryStore:
    """A copy that holds these rows, numbered anew, and finds them by what they say."""
    other = damaged(store)
    other._records = [row._replace(number=n) for n, row in enumerate(records, 1)]  # type: ignore[attr-defined]
    other._by_attachment, other._by_session, other._by_writer = {}, {}, {}
    for row in other._records:
        other._by_attachment.setdefault(row.attachment_id, []).append(row.number)
        other._by_writer.setdefault(row.writer, []).append(row.number)
        if row.session_id is not None:
            other._by_session.setdefault(row.session_id, []).append(row.number)
    return other


def flips(raw: bytes, *, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """Every bit of `raw` flipped, or each of them that `step` leaves."""
    for bit in range(0, 8 * len(raw), step):
        yield bit, raw[: bit // 8] + bytes([raw[bit // 8] ^ (1 << bit % 8)]) + raw[bit // 8 + 1 :]


def bit_flips(store: MemoryStore, *, step: int = 1) -> Iterator[Damage]:
    """Each bit of each record, entry and hash."""
    for n, row in enumerate(store._records):
        for name in ("body", "hash"):
            for bit, raw in flips(getattr(row, name), step=step):
                other = damaged(store)
                other._records[n] = row._replace(**{name: raw})
                yield f"bit {bit} of the {name} of record {n + 1}", other
    for n, (writer, hash_, body) in enumerate(store._register):
        for bit, raw in flips(body, step=step):
            other = damaged(store)
            other._register[n] = (writer, hash_, raw)
            yield f"bit {bit} of the body of entry {n + 1}", other
        for bit, raw in flips(hash_, step=step):
            other = damaged(store)
            other._register[n] = (writer, raw, body)
            yield f"bit {bit} of the hash of entry {n + 1}", other


def column_changes(store: MemoryStore) -> Iterator[Damage]:
    """Each column that the store finds a record by."""
    for n, row in enumerate(store._records):
        for name in row._fields[1:10]:
            value = getattr(row, name)
            for new in (value + 1, value - 1) if isinstance(value, int) else (f"{value}x", "", None):
                if new != value:
                    other = damaged(store)
                    other._records[n] = row._replace(**{name: new})
                    yield f"{name} of record {n + 1} is {new!r}", other
        other = damaged(store)
        other._records[n] = row._replace(hash=None)
        yield f"hash of record {n + 1} is None", other


def row_damage(store: MemoryStore) -> Iterator[Damage]:
    """Each deletion, truncation, duplication and swap, of records and of entries."""
    rows, entries = store._records, store._register
    for n in range(len(rows)):
        yield f"record {n + 1} deleted", reindexed(store, [*rows[:n], *rows[n + 1 :]])
        yield f"truncated to {n} records", reindexed(store, rows[:n])
        for m in range(len(rows) + 1):
            yield f"record {n + 1} again at {m + 1}", reindexed(store, [*rows[:m], rows[n], *rows[m:]])
        for m in range(n):
            swapped = list(rows)
            swapped[n], swapped[m] = rows[m], rows[n]
            yield f"records {m + 1} and {n + 1} swapped", reindexed(store, swapped)
            bodies = list(rows)
            bodies[n] = rows[n]._replace(body=rows[m].body, hash=rows[m].hash)
            bodies[m] = rows[m]._replace(body=rows[n].body, hash=rows[n].hash)
            yield f"the bodies of records {m + 1} and {n + 1} swapped", reindexed(store, bodies)
    for n in range(len(entries)):
        for what, changed in (
            (f"entry {n + 1} deleted", [*entries[:n], *entries[n + 1 :]]),
            (f"truncated to {n} entries", entries[:n]),
            *(
                (f"entry {n + 1} again at {m + 1}", [*entries[:m], entries[n], *entries[m:]])
                for m in range(len(entries) + 1)
            ),
        ):
            other = damaged(store)
            other._register = list(changed)
            yield what, other
        for m in range(n):
            other = damaged(store)
            other._register[n], other._register[m] = entries[m], entries[n]
            yield f"entries {m + 1} and {n + 1} swapped", other


def unseen(damages: Iterator[Damage], kept: Note) -> tuple[int, list[str]]:
    """How many there are, and those that `verify` calls whole."""
    count, missed = 0, []
    for what, store in damages:
        count += 1
        if verify(store, checkpoints=[kept]).ok:
            missed.append(what)
    return count, missed
