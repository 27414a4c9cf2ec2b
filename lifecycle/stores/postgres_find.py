"""How the PostgreSQL store finds records.

Rule: the server plans. Where a filter is told by the class of a record (its kind, event, state, cause, adapter and
errors), each class is asked for its first, by the index that holds them in their order, and these are merged; for all
else there is an index, and the planner knows what is rare.
"""
# ruff: noqa: S608 - statements are put together from texts of our own, and values are bound

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.query import errors_of, slowest_of, state_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.stores.postgres_server import Connection

__all__ = ["find_records", "label_texts", "shape_of"]

_PACES: Final = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Milliseconds by which classes are told apart by their slowest step; part of the schema."""

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
    if any("\0" in text for text in values.values() if isinstance(text, str)):
        return []  # nothing that is kept has one
    found = f"SELECT r.id, r.body FROM records AS r WHERE {' AND '.join(where)}"
    tail = f"ORDER BY id {order} LIMIT %(limit)s"
    if classes is None:
        statement = f"{found} {tail}"
    elif query.labels or query.session is not None or query.attachment is not None:
        statement = f"{found} AND r.class = ANY(%(classes)s) {tail}"
    else:
        statement = (
            "SELECT f.id, f.body FROM unnest(%(classes)s::integer[]) AS c (class) "
            f"CROSS JOIN LATERAL ({found} AND r.class = c.class {tail}) AS f {tail}"
        )
    rows = db.ask(statement, values).fetchall()
    return rows[::-1] if newest else rows


def _classes(db: Connection, query: Query) -> list[int] | None:
    """The classes of which a record may match; None where no filter asks for what they tell apart."""
    values: dict[str, Any] = {n: str(v) for n, v in query.given.items() if n in _CLASS_COLUMNS}
    where = [f"{name} = %({name})s" for name in values]
    if query.error is not None:
        where.append("%(error)s = ANY(errors)")
        values["error"] = query.error
    if query.slower_than is not None:
        where.append("pace >= %(pace)s")
        values["pace"] = bisect_right(_PACES, query.slower_than)
    if not where:
        return None
    if any(isinstance(value, str) and "\0" in value for value in values.values()):
        return []
    statement = f"SELECT class FROM record_classes WHERE {' AND '.join(where)}"
    return [class_ for (class_,) in db.ask(statement, values)]
