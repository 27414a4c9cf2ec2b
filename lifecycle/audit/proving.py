"""Proofs for one session: its records, and what shows that they stand in the log, without anyone else's.

Rule: a proof is checked with nothing but itself, and at best a checkpoint that was kept elsewhere. It shows that each
record is in the log as it is, and that none of an attachment is left out before the last that is shown. That there was
no other attachment to the session, or no later record of one, it can't show.

The file is canonical JSON: ``format``, ``session_id``, ``checkpoint`` (a note), ``since`` (earlier checkpoints, each
with the path that shows that this one continues it), ``heads`` (entries of the register, each with the path from it to
the checkpoint's root), and ``records`` (each with the path from it to the head of its writer). Hashes are in hex, paths
begin with the hash next to the entry, and bytes that are hashed stand as text, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.canonical import canonical
from lifecycle.audit.merkle import Peaks, Tree, leaf_hash, verify_consistency, verify_inclusion
from lifecycle.audit.notes import DEFAULT_ORIGIN, Note, make_note
from lifecycle.audit.paths import replay
from lifecycle.audit.record import Record
from lifecycle.audit.register import Entry, EntryKind
from lifecycle.errors import AuditError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from lifecycle.audit.notes import Key
    from lifecycle.ports import Store

__all__ = ["FORMAT", "Proven", "prove", "verify_proof"]

FORMAT: Final = "lifecycle proof, version 1"


@dataclass(slots=True)
class Proven:
    """What a proof shows.

    Attributes:
        session_id: The session that it is about.
        log: Identity of the log.
        checkpoint: The checkpoint that it leads to.
        records: The records that it shows, in the order of the file.
        signed: Number of the keys asked for by which the checkpoint is signed: all of them, where nothing is wrong.
        anchored: True when a checkpoint that was kept elsewhere stands for all that is shown.
        problems: What is wrong.
        notes: What it does not show.
    """

    session_id: str = ""
    log: str = ""
    checkpoint: Note | None = None
    records: list[Record] = field(default_factory=list)
    signed: int = 0
    anchored: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


def prove(
    store: Store,
    session_id: str,
    *,
    key: Ed25519PrivateKey | None = None,
    origin: str | None = None,
    since: Sequence[Note] = (),
) -> bytes:
    """A proof of the records of one session. Blocks; hashes each record of the writers that wrote about it.

    Args:
        store: The store, opened.
        session_id: Which session.
        key: Signs the checkpoint.
        origin: The name of the log in it, as in `lifecycle.audit.notes.Checkpoints`.
        since: Checkpoints that were kept elsewhere: the proof shows that its own continues them.

    Returns:
        The file: JSON, in UTF-8.

    Raises:
        UsageError: There are no records of that session, or some that no proof can be made of yet.
        AuditError: The log does not fit together; `verify` tells what is wrong.
    """
    attachments = sorted({r.attachment_id for _, r in store.records(session_id=session_id)})
    wanted = [r for a in attachments for _, r in store.records(attachment_id=a)]
    if not wanted:
        msg = f"no records of session {session_id!r} are in {store.url}"
        raise UsageError(msg)
    if any(r.schema == 1 for r in wanted):
        msg = f"session {session_id} was recorded by an older version, whose records are in no chain; it has no proof"
        raise UsageError(msg)
    entries = [body for _, _, body in store.register()]
    heads, gone = _last_heads(entries, {r.writer for r in wanted})
    uncovered = [r for r in wanted if r.writer not in heads or heads[r.writer][1].size < r.writer_seq]
    if uncovered:
        msg = (
            f"record {uncovered[0].writer_seq} of writer {uncovered[0].writer} is not in the register yet; it will be "
            "within a minute if its process runs, else once another one has written to this store"
        )
        raise UsageError(msg)
    try:
        return _made(store, session_id, wanted, entries, heads, gone, key=key, origin=origin, since=since)
    except (IndexError, ValueError) as e:
        msg = f"the log does not fit together, so there is no proof: {e}; see `lifecycle audit verify`"
        raise AuditError(msg) from e


def _made(
    store: Store,
    session_id: str,
    wanted: Sequence[Record],
    entries: Sequence[bytes],
    heads: Mapping[str, tuple[int, Entry]],
    gone: Mapping[str, Entry],
    *,
    key: Ed25519PrivateKey | None,
    origin: str | None,
    since: Sequence[Note],
) -> bytes:
    register = Tree([leaf_hash(body) for body in entries])
    trees = {w: _tree(store, head, gone.get(w)) for w, (_, head) in heads.items()}
    log = Entry.from_json(entries[0]).log
    proof = canonical(
        {
            "format": FORMAT,
            "session_id": session_id,
            "checkpoint": str(make_note(log, register.size, register.root(), origin=origin, key=key)),
            "since": [
                {"checkpoint": str(n), "path": _hex(register.consistency_path(min(n.size, register.size)))}
                for n in since
            ],
            "heads": [
                {"entry": entries[index].decode(), "path": _hex(register.inclusion_path(index))}
                for index, _ in heads.values()
            ],
            "records": [
                {"record": r.to_json().decode(), "path": _hex(trees[r.writer].inclusion_path(r.writer_seq - 1))}
                for r in wanted
            ],
        }
    )
    if problems := verify_proof(proof).problems:
        msg = f"the log does not fit together, so there is no proof: {problems[0]}; see `lifecycle audit verify`"
        raise AuditError(msg)
    return proof


def verify_proof(raw: bytes, *, checkpoints: Sequence[Note] = (), keys: Sequence[Key] = ()) -> Proven:
    """Check a proof, offline.

    Args:
        raw: The file.
        checkpoints: Those that were kept elsewhere: the proof must fit one of them, and contradict none.
        keys: Its checkpoint must have a right signature by each of these.

    Returns:
        What it shows, and what is wrong with it.

    Raises:
        AuditError: It is no proof of a version that this one reads.
    """
    try:
        told: Any = orjson.loads(raw)
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            found = told.get("format") if isinstance(told, dict) else None
            msg = f"its format is {found!r}, and this version reads {FORMAT!r}"
            raise ValueError(msg)
        if canonical(told) != raw:
            msg = "it is not canonical JSON, so it is not as it was made"
            raise ValueError(msg)
        return _Check(told, checkpoints, keys).done()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        msg = f"this is no proof: {e if isinstance(e, ValueError) else f'{type(e).__name__}: {e}'}"
        raise AuditError(msg) from e


class _Check:
    """One proof as it is checked."""

    def __init__(self, told: dict[str, Any], checkpoints: Sequence[Note], keys: Sequence[Key]) -> None:
        note = Note.parse(told["checkpoint"])
        self.found = Proven(session_id=told["session_id"], checkpoint=note)
        self.note = note
        self.told = told
        self.reach = 0
        """The size of the largest checkpoint that was kept, and that it leads from."""
        self.asked = bool(checkpoints), bool(keys)
        self._check_note(checkpoints, keys)
        self.heads = self._check_heads()
        self.found.records = [self._check_record(item) for item in told["records"]]
        self._check_session()
        self._check_reach()

    def done(self) -> Proven:
        """What was found."""
        return self.found

    def _wrong(self, why: str) -> None:
        self.found.problems.append(why)

    def _check_note(self, checkpoints: Sequence[Note], keys: Sequence[Key]) -> None:
        unsigned = [key.name for key in keys if not key.signed(self.note)]
        if unsigned:
            self._wrong(f"its checkpoint has no right signature by {', '.join(unsigned)}")
        self.found.signed = len(keys) - len(unsigned)
        known = [self.note]
        for item in self.told["since"]:
            earlier = Note.parse(item["checkpoint"])
            known.append(earlier)
            if earlier.origin != self.note.origin or not verify_consistency(
                first=earlier.size, first_root=earlier.root, second=self.note.size, second_root=self.note.root,
                path=_bytes(item["path"]),
            ):  # fmt: skip
                self._wrong(f"its checkpoint does not continue the one of size {earlier.size}")
        for kept in checkpoints:
            if any((n.origin, n.size) == (kept.origin, kept.size) and n.root != kept.root for n in known):
                self._wrong(f"its checkpoint has another root than the one of size {kept.size} that was kept")
            elif any((n.origin, n.size, n.root) == (kept.origin, kept.size, kept.root) for n in known):
                self.reach = max(self.reach, kept.size)
        if checkpoints and not self.reach:
            self._wrong("it fits none of the checkpoints that were kept; make it anew with --checkpoints")
        if not checkpoints and not keys:
            self.found.notes.append(
                "neither a checkpoint that was kept elsewhere nor a key was given: it fits together, and anybody could "
                "have made it"
            )

    def _check_reach(self) -> None:
        """A checkpoint that was kept stands for nothing that was entered after it."""
        beyond = [head.seq for head in self.heads.values() if head.seq > self.reach]
        self.found.anchored = bool(self.reach) and not beyond
        checkpoints, keys = self.asked
        if checkpoints and self.reach and beyond and not (keys and self.found.signed):
            self._wrong(
                f"its records were entered in the register after the checkpoint of size {self.reach} that was kept, so "
                "that does not stand for them; take one that was made later, or the key of the log"
            )

    def _check_heads(self) -> dict[str, Entry]:
        heads = {}
        for item in self.told["heads"]:
            raw = item["entry"].encode()
            entry = Entry.from_json(raw)
            if not verify_inclusion(
                leaf=leaf_hash(raw), index=entry.seq - 1, size=self.note.size, path=_bytes(item["path"]),
                root=self.note.root,
            ):  # fmt: skip
                self._wrong(f"entry {entry.seq} is not in the register that its checkpoint is of")
            if entry.kind not in (EntryKind.HEAD, EntryKind.CLOSED):
                self._wrong(f"entry {entry.seq} is no head of a writer")
            named = self.note.origin.startswith(DEFAULT_ORIGIN) and self.note.origin != f"{DEFAULT_ORIGIN}{entry.log}"
            if self.found.log not in ("", entry.log) or named:
                self._wrong(f"entry {entry.seq} is of another log, {entry.log}")
            self.found.log = entry.log
            heads[entry.writer or ""] = entry
        return heads

    def _check_record(self, item: dict[str, Any]) -> Record:
        raw = item["record"].encode()
        record = Record.from_json(raw)
        what = f"record {record.writer_seq} of writer {record.writer}"
        head = self.heads.get(record.writer)
        if head is None:
            self._wrong(f"{what} has no head of its writer")
        else:
            root = Peaks(head.size, _bytes(head.peaks)).root()
            if not verify_inclusion(
                leaf=leaf_hash(raw), index=record.writer_seq - 1, size=head.size, path=_bytes(item["path"]), root=root
            ):
                self._wrong(f"{what} is not among those that the register covers")
        if record.session_id not in (None, self.found.session_id):
            self._wrong(f"{what} is about another session, {record.session_id}")
        return record

    def _check_session(self) -> None:
        replayed = replay(self.found.records)
        for attachment in replayed.values():
            if attachment.session_id != self.found.session_id:
                self._wrong(f"attachment {attachment.attachment_id} is of another session, {attachment.session_id}")
            for problem in attachment.problems:
                self._wrong(f"attachment {attachment.attachment_id}, {problem}")
            if not attachment.state.terminal:
                self.found.notes.append(
                    f"no end of attachment {attachment.attachment_id} is shown: there may be later records of it"
                )
        if not replayed:
            self._wrong("it shows no record")


def _last_heads(entries: Sequence[bytes], writers: set[str]) -> tuple[dict[str, tuple[int, Entry]], dict[str, Entry]]:
    """The last head of each of these writers, with its index in the register, and what was last taken out of it."""
    heads, gone = {}, {}
    for index, body in enumerate(entries):
        entry = Entry.from_json(body)
        if entry.writer in writers and entry.kind in (EntryKind.HEAD, EntryKind.CLOSED):
            heads[entry.writer] = (index, entry)
        elif entry.writer in writers and entry.kind is EntryKind.PRUNED:
            gone[entry.writer] = entry
    return heads, gone


def _tree(store: Store, head: Entry, gone: Entry | None) -> Tree:
    """The tree over the records of a writer that its head covers."""
    writer, before = head.writer or "", gone.size if gone is not None else 0
    leaves = [leaf_hash(s.body) for s in store.stored(writer=writer, after=before, limit=head.size - before)]
    return Tree(leaves, Peaks(gone.size, _bytes(gone.peaks)) if gone is not None else None)


def _hex(hashes: Sequence[bytes]) -> list[str]:
    return [hash_.hex() for hash_ in hashes]


def _bytes(hashes: Sequence[str]) -> list[bytes]:
    raw = [bytes.fromhex(hash_) for hash_ in hashes]
    if _hex(raw) != list(hashes):
        msg = "a hash is not in hex as it was made"
        raise ValueError(msg)
    return raw
