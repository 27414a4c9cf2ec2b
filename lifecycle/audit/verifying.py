"""Checks a whole log: bytes, chains, trees, sequences, the register, checkpoints, and the path of each attachment.

Rule: nothing is believed that can be computed. What stands in columns of the store is held against the bytes of the
records, these against the chain of their writer, the chain against the heads in the register, and the register against
checkpoints that were kept elsewhere. What those can't show is said, and not called right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.merkle import EMPTY, Peaks, leaf_hash
from lifecycle.audit.notes import DEFAULT_ORIGIN
from lifecycle.audit.paths import Life
from lifecycle.audit.record import FIRST
from lifecycle.audit.register import Entry, EntryKind
from lifecycle.errors import StoreError

if TYPE_CHECKING:
    from lifecycle.audit.notes import Key, Note
    from lifecycle.ports import Store, Stored

__all__ = ["Problem", "Verification", "verify"]

_PAGE: Final = 2000

_COLUMNS: Final = (
    "writer", "writer_seq", "attachment_id", "attachment_seq", "session_id", "kind", "event", "source", "dest",
)  # fmt: skip
"""What `Stored` holds between its number and its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong with a log.

    Attributes:
        what: The record, entry or checkpoint, such as ``record 7`` (its number in the store).
        why: What is wrong with it.
        number: The number of the record in the store; None for what is no record.
    """

    what: str
    why: str
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(slots=True)
class Verification:
    """What came of a check.

    Attributes:
        records: Number of records that were looked at.
        covered: ... that the register covers.
        older: ... that were written before there was a register, by an older version.
        writers: Number of writers in the register.
        entries: Number of its entries.
        checkpoints: Number of checkpoints it was held against.
        signed: ... whose signatures by the keys that were asked for are right.
        log: Identity of the log; None where there is no register.
        open: Attachments that have begun and not ended.
        problems: What is wrong, first of all the first.
        notes: What is not wrong and worth knowing: what could not be shown.
    """

    records: int = 0
    covered: int = 0
    older: int = 0
    writers: int = 0
    entries: int = 0
    checkpoints: int = 0
    signed: int = 0
    log: str | None = None
    open: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class _Chain:
    """The chain of one writer, as far as it was followed."""

    peaks: Peaks = field(default_factory=Peaks)
    last: str = FIRST
    heads: list[Entry] = field(default_factory=list)
    closed: int | None = None
    met: int = 0
    """How many of the heads were reached."""
    torn: bool = False
    """True once something was wrong with it: what follows from that is not told again."""


def verify(
    store: Store,
    *,
    checkpoints: Sequence[Note] = (),
    keys: Sequence[Key] = (),
    session_id: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Check a log as a whole. Blocks, for seconds where it is long; memory does not grow with the number of records.

    Args:
        store: The store, opened.
        checkpoints: Those that were kept elsewhere.
        keys: Each checkpoint must have a right signature by each of these.
        session_id: Check only the chains of the writers that wrote about this session, and its own attachments.
        progress: Called now and then with the number of records done.

    Returns:
        What was found. Nothing is raised for a log that is wrong.

    Raises:
        StoreError: The store can't be read.
    """
    found = Verification()
    chains = _check_register(store, found, checkpoints, keys)
    _Records(store, found, chains, session_id, progress or (lambda _: None)).check()
    found.problems.sort(key=lambda p: (p.number is not None, p.number or 0))
    return found


# --- the register -------------------------------------------------------------------------------------------------


def _entries(store: Store) -> Iterator[tuple[int, bytes, bytes]]:
    after = 0
    while page := store.register(after=after, limit=_PAGE):
        yield from page
        after = page[-1][0]


@dataclass(slots=True)
class _Chains:
    """What the register says of the writers."""

    begun: Entry | None = None
    of: dict[str, _Chain] = field(default_factory=dict)
    upto: int = 0


def _check_register(store: Store, found: Verification, checkpoints: Sequence[Note], keys: Sequence[Key]) -> _Chains:
    chains = _Chains()
    peaks, last = Peaks(), FIRST
    roots: dict[int, bytes] = {0: peaks.root()}
    wanted = {note.size for note in checkpoints}
    torn = False
    for seq, hash_kept, body in _entries(store):
        what = f"entry {seq} of the register"
        hash_, entry, wrong = EMPTY, None, None
        try:
            hash_ = leaf_hash(body)
            entry = Entry.from_json(body)
            if entry.to_json() != body:
                wrong = "it is not canonical JSON"
        except (ValueError, TypeError) as e:
            wrong = f"it is no entry of the register: {e}"
        if hash_ != hash_kept:
            wrong = "it has other bytes than were written"
        if entry is not None:
            misplaced = _misplaced(entry, seq, peaks, last, chains)
            told = _take(entry, chains)
            wrong = wrong or (None if torn else misplaced) or told
        if wrong is not None:
            found.problems.append(Problem(what=what, why=wrong))
            torn = True  # what follows from it is not told again
        peaks.add(hash_)
        last = hash_.hex()
        if peaks.size in wanted:
            roots[peaks.size] = peaks.root()
    found.entries = peaks.size
    found.writers = len(chains.of)
    found.log = chains.begun.log if chains.begun is not None else None
    for number, note in enumerate(checkpoints, 1):
        _check_note(note, f"checkpoint {number}", found, roots, keys)
    found.checkpoints = len(checkpoints)
    if found.entries and not checkpoints:
        found.notes.append(
            "no checkpoint was given: whoever can change the store could have made all of it anew, and this can't tell"
        )
    return chains


def _misplaced(entry: Entry, seq: int, peaks: Peaks, last: str, chains: _Chains) -> str | None:
    """Why an entry does not stand where it was made."""
    if entry.seq != seq or seq != peaks.size + 1:
        return f"it says that it is entry {entry.seq}, and {peaks.size} came before it"
    if entry.prev != last:
        return "it does not name the hash of the entry before it"
    if entry.tree != tuple(peak.hex() for peak in peaks.hashes):
        return "it does not fit the tree over the entries before it"
    if (entry.kind is EntryKind.BEGUN) != (seq == 1):
        return "the log begins with it" if seq > 1 else "the register begins with another entry than that of its log"
    if chains.begun is not None and entry.log != chains.begun.log:
        return f"it belongs to the log {entry.log}"
    if entry.upto < chains.upto:
        return "it covers less than the entry before it"
    return None


def _take(entry: Entry, chains: _Chains) -> str | None:
    """Take note of what an entry says of its writer, and tell what is wrong with that."""
    chains.upto = max(chains.upto, entry.upto)
    if entry.kind is EntryKind.BEGUN:
        chains.begun = chains.begun or entry
        return None
    writer = entry.writer or ""
    chain = chains.of.get(writer)
    if entry.kind is EntryKind.WRITER:
        chains.of.setdefault(writer, _Chain())
        return f"the writer {writer} was entered before" if chain is not None else None
    wrong = None
    if chain is None:
        chain = chains.of[writer] = _Chain()
        wrong = f"the writer {writer} was not entered before its head"
    before = chain.heads[-1].size if chain.heads else 0
    if entry.size < before or (entry.size == before and entry.kind is EntryKind.HEAD):
        wrong = wrong or f"the writer {writer} had {before} records before"
    if chain.closed is not None:
        wrong = wrong or f"the writer {writer} was closed before"
    chain.heads.append(entry)
    if entry.kind is EntryKind.CLOSED:
        chain.closed = entry.size
    return wrong


def _check_note(note: Note, what: str, found: Verification, roots: dict[int, bytes], keys: Sequence[Key]) -> None:
    if note.origin.startswith(DEFAULT_ORIGIN) and note.origin != f"{DEFAULT_ORIGIN}{found.log}":
        found.problems.append(Problem(what=what, why=f"it is of another log, {note.origin}"))
    elif note.size > found.entries:
        why = f"the register has {found.entries} entries, and had {note.size}: what came last is gone"
        found.problems.append(Problem(what=what, why=why))
    elif note.root != roots[note.size]:
        why = f"the first {note.size} entries of the register are not those that it was made over"
        found.problems.append(Problem(what=what, why=why))
    unsigned = [key.name for key in keys if not key.signed(note)]
    if unsigned:
        why = f"it has no right signature by {', '.join(unsigned)}"
        found.problems.append(Problem(what=what, why=why))
    elif keys:
        found.signed += 1


_INTEGERS: Final = ("writer_seq", "attachment_seq", "table", "schema")
_TEXTS: Final = ("writer", "attachment_id", "kind", "event", "source", "dest")


def _read(body: bytes) -> dict[str, Any]:
    """What a record says, as far as it is followed here.

    Raises:
        ValueError, KeyError, TypeError: It is no record.
    """
    told: Any = orjson.loads(body) if type(body) is bytes else {}
    if any(type(told[name]) is not int for name in _INTEGERS) or any(type(told[name]) is not str for name in _TEXTS):
        msg = "a field has another type"
        raise TypeError(msg)
    if told["schema"] > 1 and type(told["prev"]) is not str:
        msg = "it names no hash"
        raise TypeError(msg)
    told["session_id"]
    return told  # type: ignore[no-any-return]


# --- the records --------------------------------------------------------------------------------------------------


class _Records:
    """The second pass: every record, in the order of the store."""

    def __init__(
        self,
        store: Store,
        found: Verification,
        chains: _Chains,
        session_id: str | None,
        progress: Callable[[int], None],
    ) -> None:
        self.store = store
        self.found = found
        self.chains = chains
        self.session_id = session_id
        self.progress = progress
        self.lives: dict[str, Life] = {}
        self.unchained = 0

    def check(self) -> None:
        """Look at all of them."""
        if self.session_id is None:
            self._check_all()
        else:
            self._check_session(self.session_id)
        self.found.open = len(self.lives)
        self._check_ends()
        if self.unchained:
            self.found.notes.append(
                f"{self.unchained} record(s) of schema 1, by an older version that was running when this log began, "
                "are in no chain: nothing shows that they are whole"
            )

    def _check_all(self) -> None:
        begun = self.chains.begun
        older, upto = Peaks(), begun.upto if begun is not None and begun.size else 0
        after = 0
        while page := self.store.stored(after=after, limit=_PAGE):
            for stored in page:
                if stored.number <= upto and type(stored.body) is bytes:
                    older.add(leaf_hash(stored.body))
                self._look(stored, older=stored.number <= upto)
            after = page[-1].number
            self.progress(self.found.records)
        if begun is not None and tuple(peak.hex() for peak in older.hashes) != begun.peaks:
            why = f"they are not the {begun.size} that were there when it was made"
            self.found.problems.append(Problem(what="the records before the register", why=why, number=1))
        self.found.older = older.size
        for writer, chain in self.chains.of.items():
            self._check_chain_end(writer, chain)

    def _check_session(self, session_id: str) -> None:
        try:
            about = {r.attachment_id for _, r in self.store.records(session_id=session_id)}
            records = [found for a in sorted(about) for found in self.store.records(attachment_id=a)]
        except StoreError as e:
            self.found.problems.append(Problem(what=f"session {session_id}", why=str(e)))
            return
        writers = {r.writer for _, r in records}
        for number, record in records:
            self._follow(number, orjson.loads(record.to_json()))
        for writer in sorted(writers):
            after = 0
            while page := self.store.stored(writer=writer, after=after, limit=_PAGE):
                for stored in page:
                    self._look(stored, older=stored.hash is None, follow=False)
                after = page[-1].writer_seq
                self.progress(self.found.records)
            if writer in self.chains.of:
                self._check_chain_end(writer, self.chains.of[writer])

    def _look(self, stored: Stored, *, older: bool, follow: bool = True) -> None:
        self.found.records += 1
        number = stored.number
        try:
            told = _read(stored.body)
        except (ValueError, KeyError, TypeError):
            self._wrong(number, "it is no record")
            return
        differs = [name for name, kept in zip(_COLUMNS, stored[1:10], strict=True) if told[name] != kept]
        if differs:
            self._wrong(number, f"the store finds it by another {', '.join(differs)} than it says")
        if stored.hash is None and told["schema"] == 1:
            self.unchained += not older
        elif stored.hash is None:
            self._wrong(number, "its hash is gone")
        else:
            self._chain(stored, told)
        if follow:
            self._follow(number, told)

    def _chain(self, stored: Stored, told: dict[str, Any]) -> None:
        hash_ = leaf_hash(stored.body)
        chain = self.chains.of.get(stored.writer)
        wrong = None
        if chain is None:
            chain = self.chains.of[stored.writer] = _Chain()
            wrong = f"its writer {stored.writer} is not in the register"
        elif stored.writer_seq != chain.peaks.size + 1:
            wrong = f"it is number {stored.writer_seq} of its writer, after {chain.peaks.size}"
        elif told.get("prev") != chain.last:
            wrong = "it does not name the hash of the record before it of its writer"
        chain.peaks.add(hash_)
        chain.last = hash_.hex()
        wrong = wrong or self._check_heads(chain)
        if chain.closed is not None and chain.peaks.size > chain.closed:
            wrong = wrong or f"its writer was closed after {chain.closed} records"
        if hash_ != stored.hash:
            self._wrong(stored.number, "it has other bytes than were written")
        elif wrong is not None and not chain.torn:
            self._wrong(stored.number, wrong)
        chain.torn = chain.torn or wrong is not None or hash_ != stored.hash

    def _check_heads(self, chain: _Chain) -> str | None:
        """Hold the chain against the heads that it has reached."""
        wrong = None
        while chain.met < len(chain.heads) and chain.heads[chain.met].size <= chain.peaks.size:
            head = chain.heads[chain.met]
            chain.met += 1
            self.found.covered += head.size - (chain.heads[chain.met - 2].size if chain.met > 1 else 0)
            if head.peaks != tuple(peak.hex() for peak in chain.peaks.hashes) or head.last != chain.last:
                wrong = (
                    f"up to it, the records of its writer are not those that entry {head.seq} of the register covers"
                )
        return wrong

    def _check_chain_end(self, writer: str, chain: _Chain) -> None:
        last = chain.heads[-1].size if chain.heads else 0
        if chain.peaks.size < last:
            why = f"the register covers {last}, and {chain.peaks.size} are there: {last - chain.peaks.size} are gone"
            self.found.problems.append(Problem(what=f"the records of writer {writer}", why=why))

    def _follow(self, number: int, told: dict[str, Any]) -> None:
        attachment_id = told["attachment_id"]
        life = self.lives.get(attachment_id)
        seq = told["attachment_seq"]
        if life is None:
            life = self.lives[attachment_id] = Life() if seq == 1 else self._before(attachment_id, seq)
        wrong = life.follow(seq, told["kind"], told["event"], told["source"], told["dest"], told["table"])
        if wrong is not None:
            self._wrong(number, wrong)
        if life.over:
            del self.lives[attachment_id]

    def _before(self, attachment_id: str, seq: int) -> Life:
        """The life of an attachment that was over, or of which nothing was seen, before its record `seq`."""
        life = Life()
        try:
            earlier = self.store.records(attachment_id=attachment_id)
        except StoreError:  # one of them can't be read, which is told where it stands
            life.seq = seq - 1
            return life
        for _, r in earlier:
            if r.attachment_seq < seq:
                life.follow(r.attachment_seq, r.kind.value, r.event.value, r.source.value, r.dest.value, r.table)
        return life

    def _check_ends(self) -> None:
        pending = sorted(a for a, life in self.lives.items() if life.pending)
        if pending:
            self.found.notes.append(
                f"{len(pending)} attachment(s) have an intent with neither its commit nor a recovery, so their process "
                f"is at it or has died (`lifecycle sessions reap` tells): {', '.join(pending[:5])}"
            )

    def _wrong(self, number: int, why: str) -> None:
        self.found.problems.append(Problem(what=f"record {number}", why=why, number=number))
