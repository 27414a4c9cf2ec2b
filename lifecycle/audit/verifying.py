"""Checks a whole log: bytes, chains, trees, sequences, the register, checkpoints, and the path of each attachment.

Rule: nothing is believed that can be computed. What stands in columns of the store is held against the bytes of the
records, these against the chain of their writer, the chain against the heads in the register, and the register against
checkpoints that were kept elsewhere. What those can't show is said, and not called right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from orjson import loads

from lifecycle.audit.merkle import EMPTY, Peaks, leaf_hash
from lifecycle.audit.notes import DEFAULT_ORIGIN
from lifecycle.audit.paths import BEGINNING, ENDED, KNOWN, Standing, follow, replay
from lifecycle.audit.query import Query
from lifecycle.audit.record import FIRST
from lifecycle.audit.register import Entry, EntryKind, follow_holds
from lifecycle.errors import ConfigError, StoreError
from lifecycle.states import TERMINAL

if TYPE_CHECKING:
    from lifecycle.audit.notes import Key, Note
    from lifecycle.ports import Store, Stored

__all__ = ["Problem", "Verification", "verify"]

_PAGE: Final = 100
"""Records and entries that are read at a time: more of them fit no cache, which costs a quarter of the speed."""

_REMEMBERED: Final = 10_000
"""Attachments that have ended and are remembered, so that what comes after their end needs no look back."""

_SHARE: Final = 25_000
"""Records that a process looks at before it takes the next: a quarter of a second."""

_COLUMNS: Final = (
    "writer", "writer_seq", "attachment_id", "attachment_seq", "session_id", "kind", "event", "source", "dest",
)  # fmt: skip
"""What `Stored` holds between its number and its hash."""

_FOUND_BY: Final = itemgetter(*_COLUMNS)


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
        pruned: ... that were taken out on purpose, as the register says.
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
    pruned: int = 0
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
    pruned: int = 0
    """How many of its records were taken out; `peaks` and `last` begin with what they were."""
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
    processes: int = 1,
) -> Verification:
    """Check a log as a whole. Blocks, for seconds where it is long; memory does not grow with the number of records.

    Args:
        store: The store, opened.
        checkpoints: Those that were kept elsewhere.
        keys: Each checkpoint must have a right signature by each of these.
        session_id: Check only the chains of the writers that wrote about this session, and its own attachments.
        progress: Called now and then with the number of records done.
        processes: How many processes look at a long log together, where its store is a file: started by
            ``multiprocessing``, so the program must be one that may be imported (``if __name__ == "__main__"``).

    Returns:
        What was found. Nothing is raised for a log that is wrong.

    Raises:
        StoreError: The store can't be read.
    """
    if keys and not checkpoints:
        raise ConfigError(
            option="keys", value=str(keys[0]), allowed="checkpoints= beside it: it is these that are signed"
        )
    while True:
        found = Verification()
        newest = _newest(store)  # first: whoever wrote up to there is in the register by now
        chains = _check_register(store, found, checkpoints, keys)
        tell = progress or (lambda _: None)
        _check_older(store, found, chains)
        if processes > 1 and session_id is None and newest > 2 * _SHARE and store.url.startswith("sqlite:"):
            _together(store, found, chains, newest, tell, processes)
        else:
            _Records(store, found, chains, tell).check(session_id, newest)
        if not any(entry.kind is EntryKind.PRUNED for entry in _later(store, found.entries)):
            break  # else records were taken out while they were looked at
    found.problems.sort(key=lambda p: (p.number is not None, p.number or 0))
    return found


def _newest(store: Store) -> int:
    """The number of the newest record. None is looked into: it may be one that can't be read."""
    below, above = 0, 1
    while store.stored(after=above, limit=1):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if store.stored(after=middle, limit=1) else (below, middle)
    return above if store.stored(after=below, limit=1) else below


def _later(store: Store, after: int) -> Iterator[Entry]:
    """Entries that came meanwhile; one that can't be read is told when it is looked at."""
    for _, _, body in store.register(after=after):
        with contextlib.suppress(ValueError, TypeError):
            yield Entry.from_json(body)


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

    @property
    def older(self) -> int:
        """The number of the last record from before the register."""
        return self.begun.upto if self.begun is not None and self.begun.size else 0


def _check_register(store: Store, found: Verification, checkpoints: Sequence[Note], keys: Sequence[Key]) -> _Chains:
    chains = _Chains()
    peaks, last = Peaks(), FIRST
    roots: dict[int, bytes] = {0: peaks.root()}
    wanted = {note.size for note in checkpoints}
    torn = False
    about: dict[str, bytes] = {}
    held: dict[str, str] = {}
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
            if entry.writer is not None and entry.kind is not EntryKind.PRUNED:
                about[entry.writer] = body
            _note_pruning(entry, max(wanted, default=0), held, found)
            wrong = wrong or (None if torn else misplaced) or told
        if wrong is not None:
            found.problems.append(Problem(what=what, why=wrong))
            torn = True  # what follows from it is not told again
        peaks.add(hash_)
        last = hash_.hex()
        if peaks.size in wanted:
            roots[peaks.size] = peaks.root()
    for writer, last_about in about.items():
        if store.last_entry(writer) != last_about:
            why = f"the store finds another last entry about writer {writer} than there is"
            found.problems.append(Problem(what="the register", why=why))
    if (below := store.register(after=-(1 << 62), limit=1)) and below[0][0] < 1:
        found.problems.append(Problem(what=f"entry {below[0][0]} of the register", why="there is no such number"))
    if (hidden := store.stored(after=-(1 << 62), limit=1)) and hidden[0].number < 1:
        number = hidden[0].number
        found.problems.append(Problem(what=f"record {number}", why="there is no such number", number=number))
    for session_id in sorted(held):
        if not store.bodies(Query(session=session_id), limit=1):
            why = "it is held, and none of its records is there"
            found.problems.append(Problem(what=f"session {session_id}", why=why))
    found.entries = peaks.size
    found.writers = len(chains.of)
    found.pruned = sum(chain.pruned for chain in chains.of.values())
    found.log = chains.begun.log if chains.begun is not None else None
    for number, note in enumerate(checkpoints, 1):
        _check_note(note, f"checkpoint {number}", found, roots, keys)
    found.checkpoints = len(checkpoints)
    if found.entries and not checkpoints:
        found.notes.append(
            "no checkpoint was given: whoever can change the store could have made all of it anew, and this can't tell"
        )
    return chains


def _note_pruning(entry: Entry, kept: int, held: dict[str, str], found: Verification) -> None:
    """Follow which sessions are held, and tell of what was taken out since the last checkpoint that was kept."""
    follow_holds(held, entry)
    if entry.kind is EntryKind.PRUNED and entry.seq > kept:
        found.notes.append(
            f"records of writer {entry.writer}, up to {entry.size}, were taken out by {entry.by} on {entry.host} at "
            f"{entry.at:%Y-%m-%d %H:%M} UTC, as entry {entry.seq} of the register says; no checkpoint shows it"
        )


def _misplaced(entry: Entry, seq: int, peaks: Peaks, last: str, chains: _Chains) -> str | None:
    """Why an entry does not stand where it was made."""
    if entry.seq != seq or seq != peaks.size + 1:
        return f"it says that it is entry {entry.seq}, and {peaks.size} came before it"
    if entry.prev != last:
        return "it does not name the hash of the entry before it"
    if entry.tree != peaks.in_hex():
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
    if entry.kind in (EntryKind.HELD, EntryKind.RELEASED):
        return None
    if chain is None:
        chain = chains.of[writer] = _Chain()
        wrong = f"the writer {writer} was not entered before its head"
    if entry.kind is EntryKind.PRUNED:
        if (entry.size, entry.last, entry.peaks) not in {(head.size, head.last, head.peaks) for head in chain.heads}:
            return wrong or f"the writer {writer} had no such head, so nothing shows what was taken out"
        if entry.size <= chain.pruned:
            return wrong or f"{chain.pruned} records of the writer {writer} were taken out before"
        chain.pruned, chain.last = entry.size, entry.last
        chain.peaks = Peaks.from_hex(entry.size, entry.peaks)
        chain.met = sum(head.size <= entry.size for head in chain.heads)
        return wrong
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
    elif note.size == 0:
        found.problems.append(Problem(what=what, why="it was made before there was anything, so it shows nothing"))
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


# --- the records --------------------------------------------------------------------------------------------------


class _Records:
    """The second pass: every record, in the order of the store."""

    def __init__(self, store: Store, found: Verification, chains: _Chains, progress: Callable[[int], None]) -> None:
        self.store = store
        self.found = found
        self.chains = chains
        self.progress = progress
        self.lives: dict[str, tuple[int, Standing]] = {}
        self.over: dict[str, tuple[int, Standing]] = {}
        """Attachments that ended last: more may be told of them."""
        self.partial = False
        self.ended: set[str] = set()
        """Attachments that are over, of a part: they may have begun before it."""
        self.unchained = 0

    def check(self, session_id: str | None, newest: int) -> None:
        """Look at all of them, or at those of one session and of who wrote about it."""
        if session_id is None:
            self.check_part(0, newest)
            for writer, chain in list(self.chains.of.items()):
                self.check_end(writer, chain, newest)
        else:
            self._check_session(session_id)
        _tell_ends(self.found, self.lives, self.unchained)

    def check_end(self, writer: str, chain: _Chain, newest: int) -> None:
        """Miss what the register covers of a writer and is not there; what has come since, it may cover already."""
        last = chain.heads[-1].size if chain.heads else 0
        while chain.peaks.size < last:
            page = self.store.stored(writer=writer, after=chain.peaks.size, limit=_PAGE)
            page = [stored for stored in page if stored.number > newest and stored.writer_seq <= last]
            if not page:
                break
            self.look(page, upto=self.chains.older, follow_lives=False)
        _check_chain_end(self.found, writer, chain.peaks.size, chain.heads)

    def check_part(self, after: int, upto: int) -> None:
        """Look at those with numbers above `after`, up to `upto`; the chains are where they were when `after` was 0."""
        older = self.chains.older
        first, begun = after == 0, set[str]()
        self.partial = not first
        while page := self.store.stored(after=after, limit=_PAGE):
            if page[-1].number > upto:
                page = [stored for stored in page if stored.number <= upto]
            if not page:
                return
            for stored in () if first else page:
                if stored.writer not in begun:
                    begun.add(stored.writer)
                    self.begin(stored)
            self.look(page, upto=older)
            after = page[-1].number
            self.progress(self.found.records)

    def begin(self, stored: Stored) -> None:
        """Follow the chain of a writer from the last head before this record of it up to there; others look at that."""
        chain = self.chains.of.get(stored.writer)
        before = stored.writer_seq - 1
        if chain is None or stored.hash is None or before <= chain.peaks.size:
            return
        heads = [head for head in chain.heads if chain.peaks.size < head.size <= before]
        if heads:
            chain.peaks = Peaks.from_hex(heads[-1].size, heads[-1].peaks)
            chain.last = heads[-1].last
        chain.met = sum(head.size <= before for head in chain.heads)
        for earlier in self.store.stored(writer=stored.writer, after=chain.peaks.size, limit=before - chain.peaks.size):
            if earlier.writer_seq <= before:
                hash_ = leaf_hash(earlier.body) if type(earlier.body) is bytes else EMPTY
                chain.peaks.add(hash_)
                chain.last = hash_.hex()

    def _check_session(self, session_id: str) -> None:
        try:
            about = {r.attachment_id for _, r in self.store.records(session_id=session_id)}
            records = [found for a in sorted(about) for found in self.store.records(attachment_id=a)]
        except StoreError as e:
            self.found.problems.append(Problem(what=f"session {session_id}", why=str(e)))
            return
        if not records:
            why = "the store has no record of it"
            self.found.problems.append(Problem(what=f"session {session_id}", why=why))
        self.found.notes.append(
            "only what the store finds by the id of the session was looked at, and who wrote about it"
        )
        for attachment in replay(r for _, r in records).values():
            what = f"attachment {attachment.attachment_id} of session {session_id}"
            self.found.problems += [Problem(what=what, why=problem) for problem in attachment.problems]
            self.found.open += not attachment.state.terminal
        for writer in sorted({r.writer for _, r in records}):
            after = 0
            while page := self.store.stored(writer=writer, after=after, limit=_PAGE):
                self.look(page, upto=self.chains.older, follow_lives=False)
                after = page[-1].writer_seq
                self.progress(self.found.records)
            if writer in self.chains.of:
                chain = self.chains.of[writer]
                _check_chain_end(self.found, writer, chain.peaks.size, chain.heads)

    def look(self, page: Sequence[Stored], *, upto: int, follow_lives: bool = True) -> None:
        """Look at records in their order; those numbered up to `upto` were there before the register.

        This is where a long log spends its time, so what happens to each record stands in one place.
        """
        lives, over, chains = self.lives, self.over, self.chains.of
        self.found.records += len(page)
        for stored in page:
            number, writer, writer_seq, attachment, seq, _, kind, event, source, dest, hash_kept, body = stored
            try:
                told = loads(body)
                found = _FOUND_BY(told)
                table, schema, prev = told["table"], told["schema"], told.get("prev")
            except (ValueError, KeyError, TypeError):
                self._differs(stored, None)
                continue
            if found != stored[1:10] or type(body) is not bytes or type(seq) is not int or type(table) is not int:
                self._differs(stored, found)
                continue
            if hash_kept is None and type(schema) is int and schema == 1:
                if writer in chains or (self.chains.begun is not None and number > upto == 0):
                    self._wrong(number, "it says that an older version wrote it, and none has written to this log")
                self.unchained += number > upto
            elif hash_kept is None:
                self._wrong(number, "its hash is gone")
            else:
                hash_ = sha256(b"\0" + body).digest()
                chain = chains.get(writer)
                if (
                    chain is None
                    or writer_seq != chain.peaks.size + 1
                    or prev != chain.last
                    or hash_ != hash_kept
                    or (chain.closed is not None and chain.peaks.size >= chain.closed)
                ):
                    chain = self._break(stored, hash_, prev)
                chain.peaks.add(hash_)
                chain.last = hash_.hex()
                if chain.met < len(chain.heads):
                    self._check_heads(chain, number)
            if follow_lives:
                before, standing = (
                    lives.get(attachment)
                    or over.get(attachment)
                    or (seq > 1 and self._before(stored))
                    or (0, BEGINNING)
                )
                step = (standing, kind, event, source, dest, table)
                after = KNOWN.get(step)
                wrong = None
                if after is None:
                    after, wrong = follow(step)
                if seq != before + 1:
                    wrong = f"it comes after {before} records of its attachment"
                if wrong is not None:
                    self._wrong(number, wrong)
                if after.over:
                    lives.pop(attachment, None)
                    if self.partial:
                        self.ended.add(attachment)
                    over[attachment] = (seq, after)
                    if len(over) > _REMEMBERED:
                        del over[next(iter(over))]
                else:
                    lives[attachment] = (seq, after)

    def _differs(self, stored: Stored, told: tuple[object, ...] | None) -> None:
        """Something is wrong with the bytes of a record themselves, so nothing is followed from it."""
        chain = self.chains.of.get(stored.writer)
        if chain is not None:
            chain.peaks.add(EMPTY)
            chain.last, chain.torn = "", True
        if told is None or type(stored.body) is not bytes:
            self._wrong(stored.number, "it is no record")
        elif stored.hash is not None and leaf_hash(stored.body) != stored.hash:
            self._wrong(stored.number, "it has other bytes than were written")
        elif told == stored[1:10]:
            self._wrong(stored.number, "it is no record")
        else:
            differs = [name for name, a, b in zip(_COLUMNS, told, stored[1:10], strict=True) if a != b]
            self._wrong(stored.number, f"the store finds it by another {', '.join(differs)} than it says")

    def _break(self, stored: Stored, hash_: bytes, prev: object) -> _Chain:
        """Tell what is wrong with a record in the chain of its writer, once for what follows from it."""
        chain = self.chains.of.get(stored.writer)
        if chain is None:
            wrong = f"its writer {stored.writer} is not in the register"
            chain = self.chains.of[stored.writer] = _Chain()
        elif stored.writer_seq != chain.peaks.size + 1:
            wrong = f"it is number {stored.writer_seq} of its writer, after {chain.peaks.size}"
        elif prev != chain.last:
            wrong = "it does not name the hash of the record before it of its writer"
        else:
            wrong = f"its writer was closed after {chain.closed} records"
        if hash_ != stored.hash:
            self._wrong(stored.number, "it has other bytes than were written")
        elif not chain.torn:
            self._wrong(stored.number, wrong)
        chain.torn = True
        return chain

    def _check_heads(self, chain: _Chain, number: int) -> None:
        """Hold the chain against the heads that it has reached."""
        while chain.met < len(chain.heads) and chain.heads[chain.met].size <= chain.peaks.size:
            head = chain.heads[chain.met]
            chain.met += 1
            self.found.covered += head.size - (chain.heads[chain.met - 2].size if chain.met > 1 else 0)
            fits = head.peaks == chain.peaks.in_hex() and head.last == chain.last
            if not fits and not chain.torn:
                chain.torn = True
                why = f"up to it, the records of its writer are not those that entry {head.seq} of the register covers"
                self._wrong(number, why)

    def _before(self, stored: Stored) -> tuple[int, Standing]:
        """Where an attachment stood before a record that is not its first: it was over, or it begins in the middle."""
        seq = stored.attachment_seq
        try:
            earlier = self.store.records(attachment_id=stored.attachment_id)
        except StoreError:  # one of them can't be read, which is told where it stands
            return seq - 1, Standing(ENDED)
        told = [r for number, r in earlier if r.attachment_seq < seq and number < stored.number]
        source = told[0].source.value if told else stored.source
        standing = BEGINNING
        if self.found.pruned and source in TERMINAL and (told[0].attachment_seq if told else seq) > 1:
            standing = Standing(source)  # told late, when all that it was told before had been taken out
        for r in told:
            standing, _ = follow((standing, r.kind.value, r.event.value, r.source.value, r.dest.value, r.table))
        if told:
            return told[-1].attachment_seq, standing
        return seq - 1 if standing.over else 0, standing

    def _wrong(self, number: int, why: str) -> None:
        self.found.problems.append(Problem(what=f"record {number}", why=why, number=number))


def _check_older(store: Store, found: Verification, chains: _Chains) -> None:
    """Hold the records from before the register against its first entry."""
    older, after = Peaks(), 0
    while after < chains.older and (page := store.stored(after=after, limit=_PAGE)):
        for stored in page:
            if stored.number <= chains.older and type(stored.body) is bytes:
                older.add(leaf_hash(stored.body))
        after = page[-1].number
    if chains.begun is not None and older.in_hex() != chains.begun.peaks:
        why = f"they are not the {chains.begun.size} that were there when it was made"
        found.problems.append(Problem(what="the records before the register", why=why, number=1))
    found.older = older.size


def _check_chain_end(found: Verification, writer: str, size: int, heads: Sequence[Entry]) -> None:
    """Miss what the register covers and is not there."""
    last = heads[-1].size if heads else 0
    if size < last:
        why = f"the register covers {last}, and {size} are there: {last - size} are gone"
        found.problems.append(Problem(what=f"the records of writer {writer}", why=why))


def _tell_ends(found: Verification, lives: Mapping[str, tuple[int, Standing]], unchained: int) -> None:
    """Tell of attachments that have not ended, and of what nothing shows."""
    found.open += len(lives)
    pending = sorted(attachment for attachment, (_, standing) in lives.items() if standing.pending)
    if pending:
        found.notes.append(
            f"{len(pending)} attachment(s) have an intent with neither its commit nor a recovery, so their process "
            f"is at it or has died (`lifecycle sessions reap` tells): {', '.join(pending[:5])}"
        )
    if unchained:
        found.notes.append(
            f"{unchained} record(s) of schema 1 are in no chain: an older version that was running when this log began "
            "may have written them, and so may anybody else"
        )


# --- several processes --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """What came of a part of the records."""

    found: Verification
    lives: dict[str, tuple[int, Standing]]
    ended: set[str]
    unchained: int
    sizes: dict[str, int]
    """How far each chain was followed."""


def _check_one(store: Store, chains: _Chains, pruned: int, after: int, upto: int) -> _Part:
    """Look at one part, in a process of its own, which was given a store that is not open there."""
    store.open()
    try:
        records = _Records(store, Verification(pruned=pruned), chains, lambda _: None)
        records.check_part(after, upto)
    finally:
        store.close()
    sizes = {writer: chain.peaks.size for writer, chain in chains.of.items() if chain.peaks.size}
    return _Part(records.found, records.lives, records.ended, records.unchained, sizes)


def _together(
    store: Store, found: Verification, chains: _Chains, last: int, progress: Callable[[int], None], processes: int
) -> None:
    """Look at all records, a part in each process at a time."""
    import multiprocessing  # noqa: PLC0415 - only for long logs
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    lives: dict[str, tuple[int, Standing]] = {}
    sizes = {writer: chain.peaks.size for writer, chain in chains.of.items()}
    unchained = 0
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        begins = range(0, last, _SHARE)
        jobs = [pool.submit(_check_one, store, chains, found.pruned, n, min(n + _SHARE, last)) for n in begins]
        for job in jobs:
            part = job.result()
            found.records += part.found.records
            found.covered += part.found.covered
            found.problems += part.found.problems
            unchained += part.unchained
            lives = {a: life for a, life in lives.items() if a not in part.ended} | part.lives
            sizes.update({writer: max(size, sizes.get(writer, 0)) for writer, size in part.sizes.items()})
            progress(found.records)
    ends = _Records(store, found, chains, progress)
    for writer, chain in chains.of.items():
        size = sizes.get(writer, 0)
        more = store.stored(writer=writer, after=size, limit=1) if chain.heads and size < chain.heads[-1].size else ()
        if more and more[0].number > last:
            ends.begin(more[0])
            ends.check_end(writer, chain, last)
        else:
            _check_chain_end(found, writer, size, chain.heads)
    _tell_ends(found, lives, unchained)
