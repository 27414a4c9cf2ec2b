"""Taking old records out of a log, so that what stays can still be checked; and keeping those that must not go.

Rule: only whole segments go: records of a writer up to one of its heads, all of them old, none of a session that is
held, and none of an attachment that is not over or has records that stay. The head remains in the register, with an
entry that says what was taken out, when and by whom: so the rest of the chain is checked from there, and a copy of the
old records that somebody kept can be, too.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.merkle import Peaks
from lifecycle.audit.record import FIRST, RecordKind
from lifecycle.audit.register import Entry, EntryKind, Head, Maker, begin, chain, follow_holds
from lifecycle.errors import ConfigError
from lifecycle.states import TERMINAL

if TYPE_CHECKING:
    from lifecycle.ports import Store

__all__ = ["Pruned", "held_sessions", "hold", "prune", "release"]

_PAGE: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was taken out, or would be.

    Attributes:
        records: How many records.
        writers: Up to which of its records, by writer.
        held: Sessions whose records stay because they are held.
    """

    records: int
    writers: Mapping[str, int]
    held: tuple[str, ...]


def hold(store: Store, session_id: str, reason: str, maker: Maker, at: datetime) -> None:
    """Keep the records of a session from being taken out, until `release`. Blocks.

    Raises:
        ConfigError: It is held already.
        ChainBroken: The register can't be gone on from.
        StoreError: The store failed.
    """
    if session_id in held_sessions(store):
        raise ConfigError(option="session", value=session_id, allowed="one that is not held already")
    _say(store, EntryKind.HELD, session_id, reason, maker, at)


def release(store: Store, session_id: str, reason: str, maker: Maker, at: datetime) -> None:
    """Let the records of a session be taken out again. Blocks.

    Raises:
        ConfigError: It is not held.
        ChainBroken: The register can't be gone on from.
        StoreError: The store failed.
    """
    held = held_sessions(store)
    if session_id not in held:
        raise ConfigError(
            option="session", value=session_id, allowed=f"one that is held: {', '.join(held) or 'none is'}"
        )
    _say(store, EntryKind.RELEASED, session_id, reason, maker, at)


def held_sessions(store: Store) -> dict[str, str]:
    """The sessions that are held, each with the reason. Blocks."""
    held: dict[str, str] = {}
    for entry in _entries(store):
        follow_holds(held, entry)
    return held


def prune(store: Store, before: datetime, maker: Maker, at: datetime, *, dry_run: bool = False) -> Pruned:
    """Take out all whole segments whose records were made before a time. Blocks; reads the whole log once.

    Args:
        store: The store, opened.
        before: Records from then on stay (aware).
        maker: Who does it.
        at: Now, UTC.
        dry_run: Only tell what would be taken out.

    Raises:
        ChainBroken: The register can't be gone on from.
        StoreError: The store failed; nothing was changed.
    """
    while True:
        entries, tip = begin(store, maker, at)
        heads, gone, held = _register(store)
        log = _Log(store, before, held)
        upto = {writer: size for writer, size in log.segments(heads).items() if size > gone.get(writer, 0)}
        count = sum(size - gone.get(writer, 0) for writer, size in upto.items())
        found = Pruned(records=count, writers=upto, held=tuple(sorted(log.held_back)))
        if dry_run or not upto:
            return found
        for writer, size in sorted(upto.items()):
            head = next(entry for entry in heads[writer] if entry.size == size)
            peaks = Peaks.from_hex(size, head.peaks)
            tip = chain(entries, tip, EntryKind.PRUNED, Head(writer, peaks, head.last), maker, at)
        # None of these is about a writer for who goes on with its chain: there the head is the last word.
        bodies = [(None, entry.to_json()) for entry in entries]
        if store.prune(upto, bodies, after=entries[0].seq - 1) is not None:
            return found


def _say(store: Store, kind: EntryKind, session_id: str, reason: str, maker: Maker, at: datetime) -> None:
    while True:
        entries, tip = begin(store, maker, at)
        chain(entries, tip, kind, Head("", Peaks(), FIRST), maker, at, session_id=session_id, note=reason)
        if store.enter([(None, entry.to_json()) for entry in entries], after=entries[0].seq - 1):
            return


def _entries(store: Store) -> Iterator[Entry]:
    after = 0
    while page := store.register(after=after, limit=_PAGE):
        yield from (Entry.from_json(body) for _, _, body in page)
        after = page[-1][0]


def _register(store: Store) -> tuple[dict[str, list[Entry]], dict[str, int], dict[str, str]]:
    """The heads of each writer, how much of it is gone, and the sessions that are held."""
    heads: dict[str, list[Entry]] = {}
    gone: dict[str, int] = {}
    held: dict[str, str] = {}
    for entry in _entries(store):
        if entry.kind in (EntryKind.HEAD, EntryKind.CLOSED) and entry.writer is not None:
            heads.setdefault(entry.writer, []).append(entry)
        elif entry.kind is EntryKind.PRUNED and entry.writer is not None:
            gone[entry.writer] = entry.size
        else:
            follow_holds(held, entry)
    return heads, gone, held


@dataclass(slots=True)
class _Attachment:
    """Where the records of an attachment lie: first and last number of each writer that wrote some."""

    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    over: bool = False
    stays: bool = False


class _Log:
    """What decides over each record: its time, its attachment, and its session."""

    def __init__(self, store: Store, before: datetime, held: Container[str]) -> None:
        self.attachments: dict[str, _Attachment] = {}
        self.held_back: set[str] = set()
        after = 0
        while page := store.stored(after=after, limit=_PAGE):
            for stored in page:
                told: Any = orjson.loads(stored.body)
                attachment = self.attachments.setdefault(stored.attachment_id, _Attachment())
                first, _ = attachment.spans.get(stored.writer, (stored.writer_seq, 0))
                attachment.spans[stored.writer] = (first, stored.writer_seq)
                attachment.over = attachment.over or _ends(told)
                attachment.stays = attachment.stays or datetime.fromisoformat(told["at"]) >= before
                if stored.session_id is not None and stored.session_id in held:
                    attachment.stays = True
                    self.held_back.add(stored.session_id)
            after = page[-1].number

    def segments(self, heads: Mapping[str, list[Entry]]) -> dict[str, int]:
        """Up to which record of each writer all may go."""
        upto = {writer: found[-1].size for writer, found in heads.items()}
        moved = True
        while moved:
            moved = False
            for attachment in self.attachments.values():
                goes = attachment.over and not attachment.stays
                if goes and all(last <= upto.get(writer, 0) for writer, (_, last) in attachment.spans.items()):
                    continue
                for writer, (first, _) in attachment.spans.items():
                    if upto.get(writer, 0) >= first:
                        upto[writer] = max((head.size for head in heads[writer] if head.size < first), default=0)
                        moved = True
        return {writer: size for writer, size in upto.items() if size}


def _ends(told: dict[str, Any]) -> bool:
    """True for a record after which nothing more is expected of its attachment."""
    return told["kind"] in (RecordKind.COMMIT, RecordKind.RECOVERED) and told["dest"] in TERMINAL
