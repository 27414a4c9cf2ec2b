"""What the stores have in common.

Rule: two stores answer the same call with the same result or the same error, so what both need is here once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit import Record
from lifecycle.errors import ConfigError, StoreError
from lifecycle.ports import SessionRow
from lifecycle.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lifecycle.ports import Store

__all__ = [
    "UNFINISHED",
    "all_rows",
    "check_page",
    "check_rows",
    "decode",
    "encode",
    "is_unfinished",
    "kept_hash",
    "refused",
    "row_of",
]


_PAGE: Final = 1000
"""Rows that are asked for at a time."""


def all_rows(store: Store, *, status: State | None = None) -> Iterator[SessionRow]:
    """Every ledger row, newest first, a page at a time. Blocks."""
    for offset in itertools.count(0, _PAGE):
        rows = store.sessions(status=status, limit=_PAGE, offset=offset)
        yield from rows
        if len(rows) < _PAGE:
            return


def is_unfinished(row: SessionRow) -> bool:
    """True while its owner, or a reaper, has something to do about a row."""
    return not row.state.terminal or (row.state is State.ERROR and not row.released)


UNFINISHED: Final = "(state IN ('not_started', 'active') OR (state = 'error' AND NOT released))"
"""What `is_unfinished` says of a row, as a condition of SQL."""


def check_page(*, limit: int | None, offset: int = 0) -> None:
    """Refuse a page that no store can cut.

    Raises:
        ConfigError: `limit` or `offset` is negative.
    """
    for option, value in (("limit", limit), ("offset", offset)):
        if value is not None and value < 0:
            raise ConfigError(option=option, value=value, allowed="0 or more")


def encode(records: Sequence[Record], *, store: str) -> list[bytes]:
    """The bytes to keep for each record.

    Raises:
        StoreError: One of them has no JSON form, for example text with half a surrogate pair.
    """
    bodies = []
    for record in records:
        try:
            bodies.append(record.to_json())
        except (TypeError, ValueError) as e:
            raise refused(record, f"it can't be written as JSON ({e})", store=store) from e
    return bodies


def row_of(values: dict[str, Any]) -> SessionRow:
    """The ledger row of the columns that a store keeps; labels and facts are JSON in them.

    Raises:
        ValueError: One of them is none that this version reads.
    """
    return SessionRow.of({**values, **{name: orjson.loads(values[name]) for name in ("labels", "facts")}})


def kept_hash(record: Record) -> bytes | None:
    """What a store keeps as the hash of a record: none for one of schema 1, which is in no chain."""
    return record.hash if record.schema > 1 else None


def check_rows(rows: Sequence[SessionRow], *, store: str) -> None:
    """Refuse a row that no file could hold.

    Raises:
        StoreError: One of them has no JSON form, for example text with half a surrogate pair.
    """
    for row in rows:
        try:
            orjson.dumps(row, default=dict)
        except TypeError as e:
            message = f"{store} refused the row of session {row.session_id!r}: {e}; nothing was written"
            raise StoreError(message, store=store) from e


def decode(number: int, body: bytes, *, store: str) -> Record:
    """The record in `body`.

    Raises:
        StoreError: It is none that this version reads.
    """
    try:
        return Record.from_json(body)
    except ValueError as e:
        msg = f"record {number} in {store} can't be read: {e}; read it with the version of lifecycle that wrote it"
        raise StoreError(msg, store=store) from e


def refused(record: Record, why: str, *, store: str) -> StoreError:
    """The error for a record that does not fit the log."""
    return StoreError(
        f"{store} refused the {record.kind} of {record.event}, number {record.writer_seq} of writer {record.writer} "
        f"and {record.attachment_seq} of attachment {record.attachment_id}: {why}; nothing was written",
        store=store,
    )
