"""How the PostgreSQL store finds records.

Rule: the server plans. Where a filter is told by the class of a record (its kind, event, state, cause, adapter and
errors), each class is asked for its first, by the index that holds them in their order, and these are merged; for all
else there is an index. The planner knows how often a label comes, and not where: so what is near is asked for first,
and then the index of labels has to be used.
"""
# ruff: noqa: S608 - statements are put together from texts of our own, and values are bound

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.query import errors_of, slowest_of, state_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.stores.postgres_server import Connection

__all__ = ["find_records", "find_sessions", "label_texts", "shape_of"]

_PACES: Final = (5e-324, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Milliseconds by which classes are told apart by their slowest step, from none at all on; part of the schema."""

_BLOCK: Final = 1024
"""Numbers in a block; part of the schema."""

_NEAR: Final = 5000
"""Records or sessions at the end that is asked for, which are looked through for a label before its index is.

Of one that is common a page is among them, and its index would have half the log to go through.
"""

_CLASS_COLUMNS: Final = ("kind", "event", "state", "cause", "adapter")


def label_texts(labels: Mapping[str, str]) -> list[str]:
    """Labels as they are kept: a JSON list of key and value each, which has neither a NUL nor a line break."""
    return [orjson.dumps(pair).decode() for pair in labels.items()]


def shape_of(record: Record) -> tuple[tuple[object, ...], float]:
    """What the class of a record is found by, and its slowest step in milliseconds."""
    slowest, errors = slowest_of(record), tuple(sorted(errors_of(record)))
    told = (str(record.kind), str(record.event), str(state_after(record)), record.cause, record.adapter, errors)
    return (*told, bisect_right(_PACES, slowest)), slowest


def find_records(
    db: Connection, query: Query, *, after: int, upto: int, limit: int | None, newest: bool
) -> list[tuple[Any, ...]]:
    """Numbers and bodies of the records that a query wants, oldest first.

    Args:
        db: The connection.
        query: Which.
        after: Only records that are numbered above this.
        upto: ... and not above this.
        limit: At most so many; None for all.
        newest: Of these, the last `limit`.
    """
    order = "DESC" if newest else "ASC"
    values: dict[str, Any] = {"after": after, "upto": upto, "limit": limit}
    where = ["r.id > %(after)s", "r.id <= %(upto)s"]
    for name, condition in (
        ("session", "r.session_id = %(session)s"),
        ("attachment", "r.attachment_id = %(attachment)s"),
        ("since", "r.at >= %(since)s"),
        ("until", "r.at < %(until)s"),
        ("slower_than", "r.slowest > %(slower_than)s"),
    ):
        if name in query.given:
            where.append(condition)
            values[name] = query.given[name]
    if query.labels:
        where.append("r.labels @> %(labels)s::text[]")
        values["labels"] = label_texts(query.labels)
    classes = _classes(db, query)
    if classes is not None:
        values["classes"] = classes
    if query.since is not None or query.until is not None:
        blocks = _blocks(db, query)
        if blocks is None:
            return []
        values["after"] = max(after, blocks[0] * _BLOCK - 1)
        values["upto"] = min(upto, blocks[1] * _BLOCK + _BLOCK - 1)
    if any("\0" in text for text in values.values() if isinstance(text, str)):
        return []  # nothing that is kept has one
    found = f"SELECT r.id, r.body FROM records AS r WHERE {' AND '.join(where)}"
    tail = f"ORDER BY id {order} LIMIT %(limit)s"
    rows: list[tuple[Any, ...]] = []
    if query.labels:
        if classes is not None:
            found += " AND r.class = ANY(%(classes)s)"
        if limit is not None:
            ends = (max(after, upto - _NEAR), upto) if newest else (after, min(upto, after + _NEAR))
            near = {**values, "after": max(values["after"], ends[0]), "upto": min(values["upto"], ends[1])}
            rows = _planned(db, f"{found} {tail}", near)
        if limit is None or len(rows) < limit:  # by its index, whatever the planner believes of the rest of the log
            rows = _planned(db, f"SELECT * FROM ({found} OFFSET 0) AS f {tail}", values)
    elif classes is None:
        rows = _planned(db, f"{found} {tail}", values)
    elif query.session is not None or query.attachment is not None:
        rows = _planned(db, f"{found} AND r.class = ANY(%(classes)s) {tail}", values)
    else:
        each = f"({found} AND r.class = c.class {tail})"
        of_classes = f"unnest(%(classes)s::integer[]) AS c (class) CROSS JOIN LATERAL {each} AS f"
        rows = _planned(db, f"SELECT f.id, f.body FROM {of_classes} {tail}", values)
    return rows[::-1] if newest else rows


def find_sessions(
    db: Connection, select: str, *, state: str | None, labels: Mapping[str, str], limit: int, offset: int
) -> list[tuple[Any, ...]]:
    """Rows of sessions that carry all of some labels, newest first.

    Args:
        db: The connection.
        select: What to read, as far as the table.
        state: Only those in this state.
        labels: The labels.
        limit: At most so many.
        offset: So many are left out before.
    """
    values: dict[str, Any] = {"state": state, "labels": label_texts(labels), "limit": limit, "offset": offset}
    values["near"] = max(_NEAR, 4 * (offset + limit))
    where = " WHERE state = %(state)s" if state is not None else ""
    order, page = "ORDER BY created_at DESC, number DESC", "LIMIT %(limit)s OFFSET %(offset)s"
    carry = "label_set @> %(labels)s::text[]"
    near = f"(SELECT * FROM sessions{where} {order} LIMIT %(near)s) AS sessions"
    rows = _planned(db, f"{select.replace('FROM sessions', f'FROM {near}')} WHERE {carry} {order} {page}", values)
    if len(rows) < limit:
        all_ = f"(SELECT * FROM sessions{where}{' AND' if where else ' WHERE'} {carry} OFFSET 0) AS sessions"
        rows = _planned(db, f"{select.replace('FROM sessions', f'FROM {all_}')} {order} {page}", values)
    return rows


def _planned(db: Connection, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    """Rows of a statement that is planned anew: what is rare depends on the values."""
    return db.ask(statement, values, prepare=False).fetchall()


def _blocks(db: Connection, query: Query) -> tuple[int, int] | None:
    """The first and the last block with a record of that time; None where there is none."""
    given = {"since": "latest >= %(since)s", "until": "earliest < %(until)s"}
    where = [text for name, text in given.items() if name in query.given]
    statement = f"SELECT min(block), max(block) FROM record_blocks WHERE {' AND '.join(where)}"
    ((first, last),) = db.ask(statement, query.given).fetchall()
    return (first, last) if first is not None else None


def _classes(db: Connection, query: Query) -> list[int] | None:
    """The classes of which a record may match; None where no filter asks for what they tell apart."""
    values: dict[str, Any] = {n: str(v) for n, v in query.given.items() if n in _CLASS_COLUMNS}
    where = [f"{name} = %({name})s" for name in values]
    if query.error is not None:
        where.append("%(error)s = ANY(errors)")
        values["error"] = query.error
    if query.slower_than is not None:
        where.append("pace >= %(pace)s")
        values["pace"] = bisect_right(_PACES, math.nextafter(query.slower_than, math.inf))
    if not where:
        return None
    if any(isinstance(value, str) and "\0" in value for value in values.values()):
        return []
    statement = f"SELECT class FROM record_classes WHERE {' AND '.join(where)}"
    return [class_ for (class_,) in db.ask(statement, values)]
