"""A store in memory: for tests, and for programs that want no files.

Rule: it refuses what the SQLite store refuses, and keeps bytes and copies, so that nothing a caller changes later
changes the log. It takes no lock: a write is checked as a whole and then added with operations that other threads see
either before or after.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from lifecycle.audit.merkle import leaf_hash
from lifecycle.errors import StoreError
from lifecycle.ports import Stored
from lifecycle.stores.common import check_page, check_rows, decode, encode, is_unfinished, kept_hash, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.ports import Claim, SessionRow, Writer
    from lifecycle.states import State

__all__ = ["MemoryStore"]


class MemoryStore:
    """Records and ledger rows in this process. They can still be read after `close`."""

    def __init__(self) -> None:
        self._records: list[Stored] = []
        self._gone: set[int] = set()  # numbers of records that were pruned; something without bytes is in their place
        self._by_writer: dict[str, list[int]] = {}
        self._register: list[tuple[str | None, bytes, bytes]] = []  # the writer that it is about, its hash, its bytes
        self._by_session: dict[str, list[int]] = {}
        self._by_attachment: dict[str, list[int]] = {}
        self._ended: set[str] = set()
        self._open: dict[str, str] = {}  # attachments without an end, each with the writer of its beginning
        self._writers: dict[str, Writer] = {}
        self._rows: dict[str, SessionRow] = {}
        self._claims: dict[tuple[str, str], Claim] = {}
        self._open_in: int | None = None

    @property
    def url(self) -> str:
        """Always ``memory:``."""
        return "memory:"

    def open(self) -> None:
        """Make it writable. Idempotent; what was written before is kept."""
        self._open_in = os.getpid()

    def close(self) -> None:
        """Make it read-only. Idempotent."""
        self._open_in = None

    def abandon_in_child(self) -> None:
        """In a forked child: refuse writes until it is opened there."""
        self._open_in = None

    def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        """Append `records` and put `rows`, all or nothing.

        Raises:
            StoreError: A record does not fit its writer's or attachment's sequence, or the store is not open here.
        """
        self._check_open()
        bodies = encode(records, store=self.url)
        check_rows(rows, store=self.url)
        last_of_writer: dict[str, int] = {}
        last_of_attachment: dict[str, int] = {}
        ended: set[str] = set()
        for r in records:
            last = last_of_writer.get(r.writer, len(self._by_writer.get(r.writer, ())))
            if r.writer_seq != last + 1:
                raise refused(r, "a gap or a repeat in the writer's sequence", store=self.url)
            last_of_writer[r.writer] = r.writer_seq
            last = last_of_attachment.get(r.attachment_id, len(self._by_attachment.get(r.attachment_id, ())))
            if r.attachment_seq != last + 1:
                raise refused(r, "a gap or a repeat in the attachment's sequence", store=self.url)
            last_of_attachment[r.attachment_id] = r.attachment_seq
            if r.terminal:
                if r.attachment_id in self._ended or r.attachment_id in ended:
                    raise refused(r, "the attachment has ended already", store=self.url)
                ended.add(r.attachment_id)

        first = len(self._records) + 1
        self._records.extend(
            Stored(
                number, r.writer, r.writer_seq, r.attachment_id, r.attachment_seq, r.session_id, str(r.kind),
                str(r.event), str(r.source), str(r.dest), kept_hash(r), body,
            )
            for number, (r, body) in enumerate(zip(records, bodies, strict=True), first)
        )  # fmt: skip
        self._ended.update(ended)
        for number, r in enumerate(records, first):
            self._by_writer.setdefault(r.writer, []).append(number)
            self._by_attachment.setdefault(r.attachment_id, []).append(number)
            if r.session_id is not None:
                self._by_session.setdefault(r.session_id, []).append(number)
            if r.opens:
                self._open.setdefault(r.attachment_id, r.writer)
            if r.terminal:
                self._open.pop(r.attachment_id, None)
        for row in rows:
            kept = replace(row, labels=dict(row.labels), facts=dict(row.facts))
            self._rows[row.session_id] = kept

    def renew(self, writer: Writer) -> None:
        """Take note of a writer; see `lifecycle.ports.Store.renew`.

        Raises:
            StoreError: The store is not open here.
        """
        self._check_open()
        self._writers[writer.writer] = writer

    def open_attachments(self) -> Mapping[str, Writer]:
        """Attachments without an end; see `lifecycle.ports.Store.open_attachments`."""
        self._check_open()
        return {a: self._writers[writer] for a, writer in list(self._open.items()) if writer in self._writers}

    def claim(self, claim: Claim, *, replacing: str | None = None) -> Claim | None:
        """Hold a key unless somebody else does; see `lifecycle.ports.Store.claim`.

        Raises:
            StoreError: The store is not open here.
        """
        self._check_open()
        place = (claim.adapter, claim.key)
        held = self._claims.setdefault(place, claim)
        if held.attachment_id in {claim.attachment_id, replacing}:
            self._claims[place] = claim
            return None
        return held

    def unclaim(self, claim: Claim) -> None:
        """Give a key up; silent when `claim` does not hold it.

        Raises:
            StoreError: The store is not open here.
        """
        self._check_open()
        held = self._claims.get((claim.adapter, claim.key))
        if held is not None and held.attachment_id == claim.attachment_id:
            del self._claims[claim.adapter, claim.key]

    def _check_open(self) -> None:
        if self._open_in != os.getpid():
            msg = "the store in memory is not open in this process; make a new Client"
            raise StoreError(msg, store=self.url)

    def records(
        self,
        *,
        session_id: str | None = None,
        attachment_id: str | None = None,
        after: int = 0,
        limit: int | None = None,
        newest: bool = False,
    ) -> Sequence[tuple[int, Record]]:
        """Records with their number, oldest first; see `lifecycle.ports.Store.records`."""
        check_page(limit=limit)
        numbers = self._numbers(session_id, attachment_id, after)
        if limit is not None:
            numbers = numbers[max(0, len(numbers) - limit) :] if newest else numbers[:limit]
        return [(n, decode(n, self._records[n - 1].body, store=self.url)) for n in numbers]

    def query(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, Record]]:
        """Records that a query wants, with their number; see `lifecycle.ports.Store.query`. Looks at each."""
        check_page(limit=limit)
        numbers = self._numbers(query.session, query.attachment, after)
        records = (
            (n, decode(n, self._records[n - 1].body, store=self.url)) for n in (numbers[::-1] if newest else numbers)
        )
        page = list(islice((pair for pair in records if query.matches(pair[1])), limit))
        return page[::-1] if newest else page

    def bodies(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, bytes]]:
        """What `query` finds, as the bytes that are stored; see `lifecycle.ports.Store.bodies`."""
        found = self.query(query, after=after, limit=limit, newest=newest)
        return [(number, self._records[number - 1].body) for number, _ in found]

    def _numbers(self, session_id: str | None, attachment_id: str | None, after: int) -> Sequence[int]:
        """Numbers of records, in their order, numbered above `after`."""
        numbers: Sequence[int]
        if attachment_id is not None:
            numbers = self._by_attachment.get(attachment_id, ())
        elif session_id is not None:
            numbers = self._by_session.get(session_id, ())
        else:
            numbers = range(1, len(self._records) + 1)
        numbers = [n for n in numbers[bisect_right(numbers, after) :] if n not in self._gone]
        if attachment_id is not None and session_id is not None:
            of_session = set(self._by_session.get(session_id, ()))
            numbers = [n for n in numbers if n in of_session]
        return numbers

    def stored(self, *, writer: str | None = None, after: int = 0, limit: int | None = None) -> Sequence[Stored]:
        """Records as they are kept; see `lifecycle.ports.Store.stored`."""
        check_page(limit=limit)
        numbers: Sequence[int] = range(1, len(self._records) + 1) if writer is None else self._by_writer.get(writer, ())
        found = (self._records[n - 1] for n in numbers[after:] if n not in self._gone)
        return list(islice(found, limit))

    def register(self, *, after: int = 0, limit: int | None = None) -> Sequence[tuple[int, bytes, bytes]]:
        """Entries of the register; see `lifecycle.ports.Store.register`."""
        check_page(limit=limit)
        found = self._register[after : None if limit is None else after + limit]
        return [(seq, hash_, body) for seq, (_, hash_, body) in enumerate(found, after + 1)]

    def last_entry(self, writer: str | None = None) -> bytes | None:
        """The last entry of the register; see `lifecycle.ports.Store.last_entry`."""
        return next((body for about, _, body in reversed(self._register) if writer in (None, about)), None)

    def enter(self, entries: Sequence[tuple[str | None, bytes]], *, after: int) -> bool:
        """Add entries to the register; see `lifecycle.ports.Store.enter`.

        Raises:
            StoreError: The store is not open here.
        """
        self._check_open()
        if len(self._register) != after:
            return False
        self._register.extend((writer, leaf_hash(body), body) for writer, body in entries)
        return True

    def prune(self, upto: Mapping[str, int], entries: Sequence[tuple[str | None, bytes]], *, after: int) -> int | None:
        """Take records out; see `lifecycle.ports.Store.prune`.

        Raises:
            StoreError: The store is not open here.
        """
        if not self.enter(entries, after=after):
            return None
        gone = {n for writer, seq in upto.items() for n in self._by_writer[writer][:seq]} - self._gone
        sessions = {self._records[n - 1].session_id for n in gone} - {None}
        for n in gone:
            self._records[n - 1] = self._records[n - 1]._replace(body=b"", hash=None)
        self._gone |= gone
        for session_id in sessions:
            left = [n for n in self._by_session.get(session_id or "", ()) if n not in self._gone]
            row = self._rows.get(session_id or "")
            if not left and row is not None and not is_unfinished(row):
                del self._rows[row.session_id]
        return len(gone)

    def session(self, session_id: str) -> SessionRow | None:
        """The ledger row of a session."""
        return self._rows.get(session_id)

    def sessions(
        self,
        *,
        status: State | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Sequence[SessionRow]:
        """Ledger rows, newest first. With `labels`, those that carry all of them."""
        check_page(limit=limit, offset=offset)
        wanted = (labels or {}).items()
        found = [
            row
            for row in reversed(list(self._rows.values()))
            if (status is None or row.state == status) and wanted <= row.labels.items()
        ]
        return _newest_first(found)[offset : offset + limit]

    def session_ids(self, beginning: str, *, limit: int) -> Sequence[str]:
        """Ids of sessions that begin so; see `lifecycle.ports.Store.session_ids`."""
        check_page(limit=limit)
        return sorted(found for found in list(self._rows) if found.startswith(beginning))[:limit]

    def unfinished(self) -> Sequence[SessionRow]:
        """Ledger rows of which something is still to be done; see `lifecycle.ports.Store.unfinished`."""
        self._check_open()
        return _newest_first([row for row in reversed(list(self._rows.values())) if is_unfinished(row)])


def _newest_first(rows: Sequence[SessionRow]) -> list[SessionRow]:
    """Sorted; of rows of the same instant, those given first come first."""
    return sorted(rows, key=lambda row: row.created_at, reverse=True)
