"""The register of a log: which writers there are, and how far the records of each reach.

Rule: the register is a chain and a tree of its own. Each writer is entered in it before its first record; from time to
time the head of each writer that has written since is entered: how many records it has, the hash of the last, and the
peaks of the tree over all of them. So the root of this one tree, a few bytes in a checkpoint, stands for every record
of every writer; without the register nothing could show that all records of a writer are gone.

An entry is canonical JSON. It tells the peaks of the register before it, so whoever adds one reads only the last.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from lifecycle.audit.canonical import canonical, canonical_time
from lifecycle.audit.merkle import Peaks, leaf_hash
from lifecycle.audit.record import FIRST
from lifecycle.errors import ChainBroken

if TYPE_CHECKING:
    from lifecycle.ports import Store, Stored

__all__ = [
    "Entry",
    "EntryKind",
    "Head",
    "Maker",
    "Tip",
    "advance",
    "announce",
    "begin",
    "chain",
    "check_end",
    "follow_holds",
]

SCHEMA_VERSION: Final = 1
"""The version of an entry's shape."""

_PAGE: Final = 1000
"""Records that are looked at in one turn: some 10 ms."""


_END: Final = 200
"""Entries and records that are looked at before anything is added to a log: a millisecond or two."""


class EntryKind(enum.StrEnum):
    """What an entry of the register says."""

    BEGUN = "begun"
    """The log begins, or did so under an older version: `size` and `peaks` are those of a tree over the records that
    were there by then, in the order of the store."""
    WRITER = "writer"
    """A writer will write records from now on."""
    HEAD = "head"
    """So many records of `writer` are there, the last with that hash, and the tree over them has these peaks."""
    CLOSED = "closed"
    """As `HEAD`, and there will be no more of that writer."""
    PRUNED = "pruned"
    """So many records of `writer` were taken out on purpose; the rest is those of the head of that size."""
    HELD = "held"
    """The records of a session are not to be taken out, for the reason in `note`."""
    RELEASED = "released"
    """... may be, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the register.

    Attributes:
        kind: What it says.
        seq: Its number, contiguous, from 1.
        prev: The hash of the entry before, in hex, as with `Record.prev`.
        tree: The peaks of the tree over all entries before it, in hex, largest first.
        log: Identity of the log, random.
        at: When it was made, UTC.
        by: The writer that made it.
        writer: The writer that it is about; None where it is about none.
        session_id: The session that it is about; None where it is about none.
        note: The reason that was given, or None.
        size: Number of records in `peaks`.
        last: Hash of the last of them, in hex; `FIRST` where there is none.
        peaks: The peaks of the tree over the writer's records, in hex, largest first.
        upto: The number in the store of the last record that was looked at.
        host: Where `by` runs.
        pid: Its process.
        library: Its version of this library.
    """

    kind: EntryKind
    seq: int
    prev: str
    tree: tuple[str, ...]
    log: str
    at: datetime
    by: str
    writer: str | None
    size: int
    last: str
    peaks: tuple[str, ...]
    upto: int
    host: str
    pid: int
    library: str
    session_id: str | None = None
    note: str | None = None
    schema: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """The bytes that are stored and hashed."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return canonical({**told, "at": canonical_time(self.at)})

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """The entry in `raw`.

        Raises:
            ValueError: It is none that this version reads.
        """
        d: Any = orjson.loads(raw)
        schema = d.get("schema") if isinstance(d, dict) else None
        if type(schema) is not int or schema != SCHEMA_VERSION:
            msg = f"schema {schema!r} of an entry is unknown to this version, which reads {SCHEMA_VERSION}"
            raise ValueError(msg)
        try:
            d["kind"] = EntryKind(d["kind"])
            d["at"] = datetime.fromisoformat(d["at"]).astimezone(UTC)
            entry = cls(**{**d, "tree": tuple(d["tree"]), "peaks": tuple(d["peaks"])})
            Peaks.from_hex(entry.seq - 1, entry.tree)
            Peaks.from_hex(entry.size, entry.peaks)
        except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as e:
            msg = f"this is no entry of schema {SCHEMA_VERSION}: {type(e).__name__}: {e}"
            raise ValueError(msg) from e
        wrong = [name for name in _INTEGERS if type(getattr(entry, name)) is not int or getattr(entry, name) < 0]
        wrong += [name for name in _TEXTS if type(getattr(entry, name)) is not str]
        wrong += [name for name in _MAYBE if not isinstance(getattr(entry, name), str | None)]
        if wrong:
            msg = f"this is no entry of schema {SCHEMA_VERSION}: {', '.join(wrong)} of another type"
            raise ValueError(msg)
        return entry


def follow_holds(held: dict[str, str], entry: Entry) -> None:
    """Keep `held`, the reason by session, as it is after one more entry."""
    if entry.kind is EntryKind.HELD:
        held[entry.session_id or ""] = entry.note or ""
    elif entry.kind is EntryKind.RELEASED:
        held.pop(entry.session_id or "", None)


_INTEGERS: Final = ("seq", "size", "upto", "pid")
_TEXTS: Final = ("prev", "log", "by", "last", "host", "library")
_MAYBE: Final = ("writer", "session_id", "note")


@dataclass(frozen=True, slots=True)
class Tip:
    """How far the register reaches.

    Attributes:
        log: Identity of the log.
        peaks: Those of the tree over its entries.
        prev: Hash of the last entry, in hex.
        upto: The number in the store of the last record that it covers.
    """

    log: str
    peaks: Peaks
    prev: str
    upto: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.peaks.size

    @property
    def root(self) -> bytes:
        """The root of the tree over them."""
        return self.peaks.root()

    @classmethod
    def after(cls, body: bytes) -> Self:
        """The tip when `body` is the last entry.

        Raises:
            ChainBroken: It does not fit its own number.
        """
        try:
            entry = Entry.from_json(body)
            peaks = Peaks.from_hex(entry.seq - 1, entry.tree)
            hash_ = leaf_hash(body)
        except (ValueError, TypeError) as e:
            msg = f"the last entry of the register can't be gone on from: {e}; run `lifecycle audit verify`"
            raise ChainBroken(msg, seq=0) from e
        peaks.add(hash_)
        return cls(entry.log, peaks, hash_.hex(), entry.upto)


@dataclass(slots=True)
class Head:
    """The chain of one writer as it is followed.

    Attributes:
        writer: The writer.
        peaks: Those of the tree over its records so far.
        last: The hash of the last of them, in hex.
    """

    writer: str
    peaks: Peaks
    last: str

    @classmethod
    def of(cls, store: Store, writer: str) -> Self:
        """As the register has it."""
        body = store.last_entry(writer)
        if body is None:
            return cls(writer, Peaks(), FIRST)
        try:
            entry = Entry.from_json(body)
            return cls(writer, Peaks.from_hex(entry.size, entry.peaks), entry.last)
        except (ValueError, TypeError) as e:
            msg = (
                f"the last entry of the register about writer {writer} can't be read: {e}; run `lifecycle audit verify`"
            )
            raise ChainBroken(msg, seq=0) from e

    def add(self, stored: Stored, hash_: bytes) -> None:
        """Follow the chain by one record, of that hash.

        Raises:
            ChainBroken: It does not fit the one before it.
        """
        why = broken(stored, hash_, self.peaks.size, self.last)
        if why is not None:
            raise ChainBroken(f"{why}; run `lifecycle audit verify` for all that is wrong", seq=stored.writer_seq)
        self.peaks.add(hash_)
        self.last = hash_.hex()


@dataclass(frozen=True, slots=True)
class Maker:
    """Who makes entries: the fields of `Entry` by the same names."""

    by: str
    host: str
    pid: int
    library: str


def _named(stored: Stored) -> str:
    return f"record {stored.writer_seq} of writer {stored.writer} (number {stored.number} in the store)"


def hash_of(stored: Stored) -> bytes | None:
    """The hash of a record; None for one of schema 1, which is in no chain.

    Raises:
        ChainBroken: It is no record, or its hash is gone.
    """
    where = _named(stored)
    try:
        if stored.hash is not None:
            return leaf_hash(stored.body)
        if orjson.loads(stored.body)["schema"] == 1:
            return None
    except (ValueError, KeyError, TypeError) as e:
        raise ChainBroken(f"{where} is no record", seq=stored.writer_seq) from e
    raise ChainBroken(f"the hash of {where} is gone", seq=stored.writer_seq)


def broken(stored: Stored, hash_: bytes, before: int, last: str | None) -> str | None:
    """Why a record, of that hash, does not go on from `before` records of its writer with the last of the hash `last`.

    Where `last` is not known it is None.

    Returns:
        None when it does.
    """
    where = _named(stored)
    if stored.hash != hash_:
        return f"{where} has other bytes than were written"
    if stored.writer_seq != before + 1:
        return f"{where} comes after {before} records of that writer"
    try:
        prev = orjson.loads(stored.body)["prev"]
    except (ValueError, KeyError, TypeError):
        return f"{where} is no record"
    return None if last in (None, prev) else f"{where} does not name the hash of the one before it"


def check_end(store: Store) -> None:
    """Look at what was written last, before anything is added to it: a limited number of entries and records. Blocks.

    Raises:
        ChainBroken: One of them does not fit the one before it.
        StoreError: The store failed.
    """
    body = store.last_entry()
    if body is None:
        return
    tip = Tip.after(body)
    last = None
    for seq, kept, entry in store.register(after=max(0, tip.size - _END)):
        hash_ = leaf_hash(entry) if type(entry) is bytes else b""
        if kept != hash_:
            raise ChainBroken(f"entry {seq} of the register has other bytes than were written", seq=seq)
        try:
            follows = last is None or Entry.from_json(entry).prev == last
        except ValueError:
            follows = False
        if not follows:
            raise ChainBroken(f"entry {seq} of the register does not name the hash of the one before it", seq=seq)
        last = hash_.hex()
    ends: dict[str, tuple[int, str]] = {}
    for stored in store.stored(after=max(0, tip.upto - _END), limit=2 * _END):
        known = hash_of(stored)
        if known is None:
            continue
        before, prev = ends.get(stored.writer, (stored.writer_seq - 1, None))
        why = broken(stored, known, before, prev)
        if why is not None:
            raise ChainBroken(why, seq=stored.writer_seq)
        ends[stored.writer] = (stored.writer_seq, known.hex())


def announce(store: Store, writers: Sequence[str], maker: Maker, at: datetime) -> None:
    """Enter writers that are not in the register yet, before their first record. Blocks.

    Args:
        store: The store, opened.
        writers: Their ids.
        maker: Who makes the entries.
        at: Now, UTC.

    Raises:
        ChainBroken: The last entry can't be gone on from.
        StoreError: The store failed.
    """
    while True:
        new = [writer for writer in writers if store.last_entry(writer) is None]
        if not new:
            return
        entries, tip = begin(store, maker, at)
        for writer in new:
            tip = chain(entries, tip, EntryKind.WRITER, Head(writer, Peaks(), FIRST), maker, at)
        if _enter(store, entries):
            return


def advance(
    store: Store, maker: Maker, at: datetime, *, closing: bool = False, own: tuple[int, str] | None = None
) -> tuple[Tip, bool]:
    """Enter the heads of all writers that have written since the register last covered them. Blocks.

    Looks at a limited number of records; call it again while there are more.

    Args:
        store: The store, opened.
        maker: Who makes the entries.
        at: Now, UTC.
        closing: Enter that `maker` will write no more.
        own: What `maker` knows itself of its own records: the number of one, and its hash in hex.

    Returns:
        How far the register reaches now, and whether there is more to cover.

    Raises:
        ChainBroken: A record does not fit the one before it; nothing was entered.
        StoreError: The store failed.
    """
    while True:
        entries, tip = begin(store, maker, at)
        try:
            heads, upto, more = _new_heads(store, tip.upto, maker.by, own)
        except ChainBroken:
            if _moved(store, tip):
                continue  # a head was read that another process has entered since, further than the page begins
            raise
        tip = Tip(tip.log, tip.peaks, tip.prev, upto)
        closed = maker.by if closing and not more else None
        if closed is not None and closed not in heads:
            heads[closed] = Head.of(store, closed)
        for writer, head in heads.items():
            kind = EntryKind.CLOSED if writer == closed else EntryKind.HEAD
            tip = chain(entries, tip, kind, head, maker, at)
        if _enter(store, entries):
            return tip, more


def begin(store: Store, maker: Maker, at: datetime) -> tuple[list[Entry], Tip]:
    """The tip of the register, and the entry that begins it where it has none."""
    entries: list[Entry] = []
    body = store.last_entry()
    if body is not None:
        return entries, Tip.after(body)
    peaks, upto = _older(store)
    tip = Tip(uuid.uuid4().hex, Peaks(), FIRST, upto)
    return entries, chain(entries, tip, EntryKind.BEGUN, Head("", peaks, FIRST), maker, at)


def _moved(store: Store, tip: Tip) -> bool:
    """True when entries have come after that tip."""
    body = store.last_entry()
    return body is not None and leaf_hash(body).hex() != tip.prev


def _older(store: Store) -> tuple[Peaks, int]:
    """The tree over the records that were written before there was a register, and the number of the last."""
    peaks, upto = Peaks(), 0
    while page := store.stored(after=upto, limit=_PAGE):
        for stored in page:
            if hash_of(stored) is not None:
                raise ChainBroken("the register of the log is gone; restore it from a copy", seq=1)
            peaks.add(leaf_hash(stored.body))
        upto = page[-1].number
    return peaks, upto


def _new_heads(store: Store, upto: int, by: str, own: tuple[int, str] | None) -> tuple[dict[str, Head], int, bool]:
    """The heads that have moved since the record `upto`, how far they were followed, and whether there is more."""
    heads: dict[str, Head] = {}
    page = store.stored(after=upto, limit=_PAGE)
    for stored in page:
        hash_ = hash_of(stored)
        if hash_ is None:
            continue  # by a process of an older version that was running already; `verify` tells of it
        head = heads.get(stored.writer)
        if head is None:
            head = heads[stored.writer] = Head.of(store, stored.writer)
        head.add(stored, hash_)
        if head.writer == by and own is not None and own[0] == head.peaks.size and own[1] != head.last:
            msg = f"record {own[0]} of writer {by}, the last of this process, is not what was written"
            raise ChainBroken(msg, seq=own[0])
    return heads, page[-1].number if page else upto, len(page) == _PAGE


def chain(
    entries: list[Entry],
    tip: Tip,
    kind: EntryKind,
    head: Head,
    maker: Maker,
    at: datetime,
    *,
    session_id: str | None = None,
    note: str | None = None,
) -> Tip:
    """Append an entry that goes on from `tip`, and return the tip after it."""
    entry = Entry(
        kind=kind,
        seq=tip.size + 1,
        prev=tip.prev,
        tree=tip.peaks.in_hex(),
        log=tip.log,
        at=at,
        by=maker.by,
        writer=head.writer or None,
        size=head.peaks.size,
        last=head.last,
        peaks=head.peaks.in_hex(),
        upto=tip.upto,
        host=maker.host,
        pid=maker.pid,
        library=maker.library,
        session_id=session_id,
        note=note,
    )
    entries.append(entry)
    return Tip.after(entry.to_json())


def _enter(store: Store, entries: Sequence[Entry]) -> bool:
    if not entries:
        return True
    return store.enter([(entry.writer, entry.to_json()) for entry in entries], after=entries[0].seq - 1)
