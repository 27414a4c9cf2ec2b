"""How the SQLite store finds records and sessions, by the index of `lifecycle.stores.sqlite_index`.

Rule: a page costs about the same whether many records match, few or none, and is read at one moment, so that a caller
who goes on behind it has missed none. Both functions need a transaction around them.

Of several labels the rarest is gone through and the others are looked up, in the blocks in which all of them meet.
"""
# ruff: noqa: S608 - statements are put together from texts of our own, and values are bound

from __future__ import annotations

import functools
import operator
import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.query import MOVES
from lifecycle.states import State
from lifecycle.stores.common import decode
from lifecycle.stores.sqlite_index import BLOCK, SEAL, bits_of, iso, pace_of

if TYPE_CHECKING:
    from lifecycle.audit.query import Query

__all__ = ["find_records", "find_sessions"]

_CLASS_COLUMNS: Final = ("kind", "event", "state", "cause", "adapter")
"""Filters that are columns of the classes; ``error`` and ``slower_than`` are told apart by classes too."""

_STATE: Final = f"CASE WHEN kind IN ({', '.join(repr(str(kind)) for kind in MOVES)}) THEN dest ELSE source END"

_COLUMNS: Final = {
    "session": "m.session_id = :session",
    "attachment": "m.attachment_id = :attachment",
    "kind": "m.kind = :kind",
    "event": "m.event = :event",
    "state": f"{_STATE} = :state",
}
"""Filters that the table of records has a column for."""

_COUNTED: Final = 20_000
"""Records or sessions of a label that are counted, to begin with the label that has the fewest."""

_LAST: Final = 2**63 - 1

_BLOCKS: Final = "SELECT block FROM record_label_bits WHERE label = ? AND block >= ?"
_BITS: Final = "SELECT block, bits FROM record_label_bits WHERE label = ? AND block >= ?"


def find_records(
    db: sqlite3.Connection, query: Query, *, after: int, limit: int | None, newest: bool, store: str
) -> list[tuple[int, bytes]]:
    """Numbers and bodies of the records that a query wants, oldest first.

    Args:
        db: The connection.
        query: Which.
        after: Only records that are numbered above this.
        limit: At most so many.
        newest: Of these, the last `limit`.
        store: The store's URL, for errors.

    Raises:
        StoreError: A record that had to be looked at can't be read.
    """
    given = dict(query.given)
    values: dict[str, Any] = {name: str(value) for name, value in given.items() if isinstance(value, str)}
    values |= {"since": iso(query.since) if query.since else "", "until": iso(query.until) if query.until else ""}
    values |= {"slower_than": query.slower_than, "low": after + 1, "high": _LAST, "limit": _most(limit)}
    if query.session is not None or query.attachment is not None:
        found = _of_one(db, query, values, newest=newest, limit=limit, store=store)
    elif given.keys() <= {"since", "until"}:
        found = db.execute(_statement(query, "records", newest=newest), values).fetchall()
    else:
        found = _of_classes(db, query, values, newest=newest, limit=limit)
    return found[::-1] if newest else found


def _most(limit: int | None) -> int:
    return -1 if limit is None else min(limit, _LAST)


def _statement(query: Query, table: str, *, newest: bool, more: Sequence[str] = (), meeting: bool = False) -> str:
    """The question for the records of one class, of one label and class, or of all, in their order.

    Blocks are joined where a time or a slowest step is asked for: those that have no match are passed over.
    """
    order = "DESC" if newest else "ASC"
    tables, orders, low, high = [f"{table} AS m"], [f"m.id {order}"], ":low", ":high"
    where = [*more]
    times = [f"{{}}.at {sign} :{name}" for name, sign in (("since", ">="), ("until", "<")) if name in query.given]
    of_blocks = {
        "since": "b.latest >= :since",
        "until": "b.earliest < :until",
        "slower_than": "b.slowest > :slower_than",
    }
    pruned = [text for name, text in of_blocks.items() if name in query.given]
    if meeting:
        pruned.append("substr(:meeting, b.block + 1, 1) = x'01'")
    if pruned:
        tables.insert(0, "record_blocks AS b")
        orders.insert(0, f"b.block {order}")
        where += [f"b.block BETWEEN :low / {BLOCK} AND :high / {BLOCK}", *pruned]
        low, high = f"max({low}, b.block * {BLOCK})", f"min({high}, b.block * {BLOCK} + {BLOCK - 1})"
    where.append(f"m.id BETWEEN {low} AND {high}")
    if table == "records":
        where += [text.format("m") for text in times]
    else:
        if query.slower_than is not None:
            where.append("m.slowest > :slower_than")
        if times:
            tables.append("records AS r")
            where += ["r.id = m.id", *(text.format("r") for text in times)]
    columns = "m.id, m.body" if table == "records" else "m.id"
    # CROSS JOIN keeps the order of the tables, by which the answer comes sorted: https://www.sqlite.org/optoverview.html
    return (
        f"SELECT {columns} FROM {' CROSS JOIN '.join(tables)} "
        f"WHERE {' AND '.join(where)} ORDER BY {', '.join(orders)} LIMIT :limit"
    )


def _of_one(
    db: sqlite3.Connection, query: Query, values: Mapping[str, Any], *, newest: bool, limit: int | None, store: str
) -> list[tuple[int, bytes]]:
    """Of one session or attachment, which have few records: each is looked at, and no other."""
    where = [text for name, text in _COLUMNS.items() if name in query.given]
    where += [f"m.at {sign} :{name}" for name, sign in (("since", ">="), ("until", "<")) if name in query.given]
    sql = (
        "SELECT m.id, m.body FROM records AS m WHERE m.id BETWEEN :low AND :high "
        f"AND {' AND '.join(where)} ORDER BY m.id {'DESC' if newest else 'ASC'} LIMIT :limit"
    )
    if query.given.keys() <= {*_COLUMNS, "since", "until"}:
        return db.execute(sql, values).fetchall()
    found: list[tuple[int, bytes]] = []
    for number, body in db.execute(sql, {**values, "limit": -1}):
        if limit is not None and len(found) >= limit:
            break
        if query.matches(decode(number, body, store=store)):
            found.append((number, body))
    return found


def _of_classes(
    db: sqlite3.Connection, query: Query, values: dict[str, Any], *, newest: bool, limit: int | None
) -> list[tuple[int, bytes]]:
    """Of each class the first that match, merged."""
    labels = _labels(db, query.labels, "record_labels")
    if labels is None:
        return []
    more = ["m.class = :class"]
    if labels:
        more.insert(0, "m.label = :label")
        values |= {"label": labels[0]} | {f"label{n}": label for n, label in enumerate(labels[1:])}
        more += [
            f"EXISTS (SELECT 1 FROM record_labels AS o WHERE o.label = :label{n} AND o.class = m.class AND o.id = m.id)"
            for n in range(len(labels) - 1)
        ]
    if len(labels) > 1:
        values["meeting"] = _meeting(db, labels, values["low"])
    sql = _statement(
        query, "record_labels" if labels else "record_index", newest=newest, more=more, meeting=len(labels) > 1
    )
    found: list[int] = []
    for class_ in _classes(db, query, values, of_label=bool(labels)):
        found += [number for (number,) in db.execute(sql, {**values, "class": class_})]
        found.sort(reverse=newest)
        if limit is not None and len(found) >= limit:
            del found[limit:]
            if not found:
                break
            values["low" if newest else "high"] = found[-1]  # what comes after that is not on the page
    text = orjson.dumps(found).decode()
    return db.execute(
        "SELECT r.id, r.body FROM json_each(?) AS j CROSS JOIN records AS r WHERE r.id = j.value", (text,)
    ).fetchall()


def _meeting(db: sqlite3.Connection, labels: Sequence[int], low: int) -> bytes:
    """For each block a byte: 1 where all labels may meet, in records from `low` on, and where it is not full yet."""
    first = low // BLOCK
    sealed = {block for (block,) in db.execute(_BLOCKS, (SEAL, first))}
    bits = [dict(db.execute(_BITS, (label, first))) for label in labels]
    meet = {
        block
        for block in set(bits[0]).intersection(*bits[1:])
        if functools.reduce(operator.and_, (bits_of(of_label[block]) for of_label in bits))
    }
    (last,) = db.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()
    blocks = range(last // BLOCK + 1)
    return bytes(block >= first and (block in meet or block not in sealed) for block in blocks)


def _classes(db: sqlite3.Connection, query: Query, values: Mapping[str, Any], *, of_label: bool) -> list[int]:
    """The classes of which a record may match."""
    where = [f"{name} = :{name}" for name in _CLASS_COLUMNS if name in query.given]
    if query.error is not None:
        where.append("EXISTS (SELECT 1 FROM json_each(errors) WHERE value = :error)")
    if query.slower_than is not None:
        where.append(f"pace >= {pace_of(query.slower_than)}")
    if of_label:  # from one class of the label to the next: https://www.sqlite.org/lang_with.html
        where.append(
            "class IN (WITH RECURSIVE present (class) AS ("
            "SELECT min(class) FROM record_labels WHERE label = :label UNION ALL "
            "SELECT (SELECT min(class) FROM record_labels WHERE label = :label AND class > present.class) "
            "FROM present WHERE present.class IS NOT NULL) SELECT class FROM present WHERE class IS NOT NULL)"
        )
    sql = f"SELECT class FROM record_classes WHERE {' AND '.join(where)} ORDER BY class DESC"
    return [class_ for (class_,) in db.execute(sql, values)]


def _labels(db: sqlite3.Connection, labels: Mapping[str, str], table: str) -> list[int] | None:
    """The numbers of labels, first the one with the fewest records or sessions; None where nothing has one of them."""
    counted: list[tuple[int, int]] = []
    for pair in labels.items():
        found = db.execute("SELECT label FROM labels WHERE key = ? AND value = ?", pair).fetchone()
        if found is None:
            return None
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE label = ? LIMIT {_COUNTED})"
        count = db.execute(sql, found).fetchone()[0] if len(labels) > 1 else 0
        counted.append((count, found[0]))
    return [label for _, label in sorted(counted)]


def find_sessions(
    db: sqlite3.Connection, select: str, *, state: State | None, labels: Mapping[str, str], limit: int, offset: int
) -> list[tuple[Any, ...]]:
    """Rows of sessions that carry all of some labels, newest first; of the same instant, the last written first.

    Args:
        db: The connection.
        select: What to read from ``sessions``, as far as its FROM.
        state: Only those in this state.
        labels: The labels, one at least.
        limit: At most so many.
        offset: So many are left out before.
    """
    numbers = _labels(db, labels, "session_labels")
    if numbers is None or limit == 0:
        return []
    others = "".join(
        f" AND EXISTS (SELECT 1 FROM session_labels AS o WHERE o.label = {number} AND o.state = m.state "
        "AND o.created_at = m.created_at AND o.session_id = m.session_id)"
        for number in numbers[1:]
    )
    of_label = f"FROM session_labels AS m WHERE m.label = {numbers[0]} AND m.state = ?{others}"
    states = [str(state)] if state is not None else [str(each) for each in State]
    times: list[str] = []
    for each in states:
        sql = f"SELECT m.created_at {of_label} ORDER BY m.created_at DESC LIMIT ?"
        times += [at for (at,) in db.execute(sql, (each, min(offset + limit, _LAST)))]
    times.sort(reverse=True)
    if len(times) <= offset:
        return []
    newest, oldest = times[offset], times[offset + limit - 1] if len(times) >= offset + limit else ""
    before = bisect_left(times, True, key=lambda at: at <= newest)
    # Which of the same instant was written last, only the rows tell: so all of an instant are read.
    ids: list[str] = []
    for each in states:
        sql = f"SELECT m.session_id {of_label} AND m.created_at BETWEEN ? AND ?"
        ids += [found for (found,) in db.execute(sql, (each, oldest, newest))]
    sql = f"{select} WHERE session_id IN (SELECT value FROM json_each(?)) ORDER BY created_at DESC, rowid DESC"
    found = db.execute(f"{sql} LIMIT ? OFFSET ?", (orjson.dumps(ids).decode(), limit, offset - before))
    return found.fetchall()
