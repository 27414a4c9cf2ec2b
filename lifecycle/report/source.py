"""Which sessions a report is about, and their records, a session at a time.

Rule: the report is of one moment: records that come in while it is written are left out. Sessions without a ledger
row, and attachments that never got a session, are in the log and so in the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lifecycle.report.story import Story, tell
from lifecycle.stores.common import all_rows

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.ports import Store

__all__ = ["Source"]

_PAGE: Final = 500
"""Records that are asked for at a time."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A session, or an attachment that never got one."""

    session_id: str | None
    attachment_id: str


class Source:
    """The sessions of a store, newest first.

    Args:
        store: An open store.
        sessions: Whole ids; None for all that the store knows of.
    """

    def __init__(self, store: Store, sessions: Sequence[str] | None) -> None:
        self._store = store
        # Before the log is looked at, since a row comes with its first record.
        rows = [row.session_id for row in all_rows(store)] if sessions is None else []
        newest = store.records(limit=1, newest=True)
        self.last = newest[0][0] if newest else 0
        """The place of the newest record that the report takes in."""
        self._keys = _all(store, self.last) if sessions is None else [_Key(i, "") for i in dict.fromkeys(sessions)]
        known = {key.session_id for key in self._keys}
        self.bare = [session_id for session_id in rows if session_id not in known]
        """Sessions of the ledger of which the log has no record."""

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Story]:
        for key in self._keys:
            told = self._records(key)
            if not told:
                self.bare += [key.session_id] if key.session_id is not None else []
            else:
                row = self._store.session(key.session_id) if key.session_id is not None else None
                yield tell(key.session_id, row, told)

    def _records(self, key: _Key) -> list[tuple[int, Record]]:
        if key.session_id is None:
            return self._until(self._store.records(attachment_id=key.attachment_id))
        told = self._until(self._store.records(session_id=key.session_id))
        # A service gives an id while a start is under way: what was written before is found by its attachment.
        late = {r.attachment_id: r.attachment_seq for _, r in reversed(told)}
        early = [
            (number, r)
            for attachment_id, first in late.items()
            if first > 1
            for number, r in self._store.records(attachment_id=attachment_id)
            if r.attachment_seq < first
        ]
        return sorted([*early, *told], key=lambda found: found[0]) if early else told

    def _until(self, told: Sequence[tuple[int, Record]]) -> list[tuple[int, Record]]:
        return [found for found in told if found[0] <= self.last]


def _all(store: Store, last: int) -> list[_Key]:
    """All sessions, newest first."""
    known: dict[str, _Key] = {}
    nameless: dict[str, _Key] = {}
    number = 0
    while page := store.records(after=number, limit=_PAGE):
        number = page[-1][0]
        for place, r in page:
            if place > last:
                break
            if r.session_id is None:
                nameless.setdefault(r.attachment_id, _Key(None, r.attachment_id))
            else:
                nameless.pop(r.attachment_id, None)
                known.setdefault(r.session_id, _Key(r.session_id, r.attachment_id))
        if number >= last:
            break
    return [*reversed(nameless.values()), *reversed(known.values())]
