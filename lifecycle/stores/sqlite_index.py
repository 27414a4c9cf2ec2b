"""By what the SQLite store finds records and sessions, beside the records themselves.

Rule: what is here can be thrown away and made anew from the records and rows. It is filled in the transaction that
writes them, and no record is read, changed or moved for it later.

What most records have in common, such as their kind, cause and errors, comes in few combinations. Each combination is
a *class*, and one index holds the records of each class in their order: whatever these filters ask for, it is a few
classes, and a page is the first of each, merged. So a page costs the same whether many records match, few or none.
Labels have the same index, once for each label. Times and the slowest steps are kept as the least and the most of each
block of records, so that blocks without a match are passed over. Which records of a block carry a label is kept as bits
too, once the block is full: where several labels are asked for, blocks in which they do not meet are passed over.
"""
# ruff: noqa: S608 - statements are put together from texts of our own, and values are bound

from __future__ import annotations

import sqlite3
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from lifecycle.audit.query import MOVES

if TYPE_CHECKING:
    from lifecycle.audit.record import Record
    from lifecycle.ports import SessionRow

__all__ = [
    "BITS",
    "BLOCK",
    "FILL",
    "FILL_BITS",
    "SEAL",
    "TABLES",
    "Index",
    "bits_of",
    "functions",
    "iso",
    "pace_of",
    "prune",
]

BLOCK: Final = 1024
"""Records in a block; part of the schema."""

_PACES: Final = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Milliseconds by which classes are told apart by their slowest step; part of the schema."""


TABLES: Final = (
    """CREATE TABLE record_classes (
        class INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        event TEXT NOT NULL,
        state TEXT NOT NULL,
        cause TEXT NOT NULL,
        adapter TEXT NOT NULL,
        errors TEXT NOT NULL,
        pace INTEGER NOT NULL,
        UNIQUE (kind, event, state, cause, adapter, errors, pace)
    )""",
    """CREATE TABLE record_index (
        class INTEGER NOT NULL,
        id INTEGER NOT NULL,
        slowest REAL NOT NULL,
        PRIMARY KEY (class, id)
    ) WITHOUT ROWID""",
    "CREATE TABLE labels (label INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (key, value))",
    """CREATE TABLE record_labels (
        label INTEGER NOT NULL,
        class INTEGER NOT NULL,
        id INTEGER NOT NULL,
        slowest REAL NOT NULL,
        PRIMARY KEY (label, class, id)
    ) WITHOUT ROWID""",
    """CREATE TABLE record_blocks (
        block INTEGER PRIMARY KEY,
        earliest TEXT NOT NULL,
        latest TEXT NOT NULL,
        slowest REAL NOT NULL
    )""",
    """CREATE TABLE session_labels (
        label INTEGER NOT NULL,
        state TEXT NOT NULL,
        created_at TEXT NOT NULL,
        session_id TEXT NOT NULL,
        PRIMARY KEY (label, state, created_at, session_id)
    ) WITHOUT ROWID""",
)
"""The tables, for a new database and for one that is brought up."""

BITS: Final = (
    """CREATE TABLE record_label_bits (
        label INTEGER NOT NULL,
        block INTEGER NOT NULL,
        bits BLOB NOT NULL,
        PRIMARY KEY (label, block)
    ) WITHOUT ROWID""",
)
"""The table that came later."""

SEAL: Final = 0
"""In the place of a label: the bits of all labels in this block are there. A label that has none is on none of it."""

_SEALED_AT_ONCE: Final = 8
"""Blocks that are sealed in one transaction, where earlier ones were left over."""


def _each(column: str) -> str:
    """The entries of a column; one that holds no JSON has none, and is told of when its row is read."""
    return f"json_each(CASE WHEN json_valid({column}) THEN {column} ELSE '{{}}' END)"


_FACTS: Final = """
    SELECT id, at, kind, event, CASE WHEN kind IN ('commit', 'recovered') THEN dest ELSE source END AS state,
        coalesce(CAST(json_extract(body, '$.cause') AS TEXT), '') AS cause,
        coalesce(CAST(json_extract(body, '$.adapter') AS TEXT), '') AS adapter,
        (SELECT json_group_array(error) FROM (
            SELECT error FROM (
                SELECT CAST(json_extract(body, '$.error') AS TEXT) AS error
                UNION SELECT CAST(json_extract(value, '$.error') AS TEXT)
                    FROM json_each(body, '$.steps') WHERE type = 'object')
            WHERE error IS NOT NULL ORDER BY error)) AS errors,
        coalesce((SELECT max(CAST(json_extract(value, '$.ms') AS REAL))
            FROM json_each(body, '$.steps') WHERE type = 'object'), 0.0) AS slowest
    FROM (SELECT id, at, kind, event, source, dest,
        CASE WHEN json_valid(CAST(body AS TEXT)) THEN CAST(body AS TEXT) ELSE '{}' END AS body FROM records)
"""

_PACE: Final = f"CASE {' '.join(f'WHEN slowest < {p} THEN {n}' for n, p in enumerate(_PACES))} ELSE {len(_PACES)} END"

FILL: Final = (
    f"CREATE TEMP TABLE told AS {_FACTS}",  # in two steps: SQLite would look for the slowest step at each WHEN
    f"CREATE TEMP TABLE facts AS SELECT *, {_PACE} AS pace FROM told",
    "DROP TABLE told",
    """INSERT INTO record_classes (kind, event, state, cause, adapter, errors, pace)
        SELECT DISTINCT kind, event, state, cause, adapter, errors, pace FROM facts ORDER BY id""",
    """INSERT INTO record_index SELECT class, id, slowest
        FROM facts JOIN record_classes USING (kind, event, state, cause, adapter, errors, pace) ORDER BY class, id""",
    f"""INSERT INTO record_blocks
        SELECT id / {BLOCK}, min(at), max(at), max(slowest) FROM facts GROUP BY id / {BLOCK}""",
    "DROP TABLE facts",
    """CREATE TEMP TABLE given AS SELECT records.id AS id, given.key AS key, given.value AS value
        FROM (SELECT id, CAST(body AS TEXT) AS body FROM records) AS records,
            json_each(CASE WHEN json_valid(body) THEN body ELSE '{}' END, '$.labels') AS given""",
    "INSERT OR IGNORE INTO labels (key, value) SELECT DISTINCT key, value FROM given",
    "CREATE TEMP TABLE classes AS SELECT id, class, slowest FROM record_index ORDER BY id",
    "CREATE UNIQUE INDEX temp.classes_by_id ON classes (id)",
    """INSERT INTO record_labels SELECT label, class, given.id, slowest
        FROM given JOIN labels USING (key, value) JOIN classes USING (id) ORDER BY label, class, given.id""",
    "DROP TABLE classes",
    "DROP TABLE given",
    f"""INSERT OR IGNORE INTO labels (key, value)
        SELECT DISTINCT key, value FROM sessions, {_each("sessions.labels")}""",
    f"""INSERT INTO session_labels SELECT label, state, created_at, session_id
        FROM sessions, {_each("sessions.labels")} AS given JOIN labels USING (key, value) ORDER BY 1, 2, 3, 4""",
)
"""What fills them from the records and sessions that are there."""

FILL_BITS: Final = (
    f"""INSERT INTO record_label_bits SELECT label, id / {BLOCK}, lifecycle_bits(id % {BLOCK}) FROM record_labels
        WHERE id / {BLOCK} < (SELECT coalesce(max(id), 0) / {BLOCK} FROM records) GROUP BY label, id / {BLOCK}""",
    f"""INSERT INTO record_label_bits SELECT {SEAL}, block, x'' FROM record_blocks
        WHERE block < (SELECT coalesce(max(id), 0) / {BLOCK} FROM records)""",
)
"""What fills that from the others; needs `functions`."""

_SEAL_BLOCK: Final = (
    f"""INSERT INTO record_label_bits SELECT label, :block, lifecycle_bits(records.id % {BLOCK})
        FROM (SELECT id, CAST(body AS TEXT) AS body FROM records
                WHERE id BETWEEN :block * {BLOCK} AND :block * {BLOCK} + {BLOCK - 1}) AS records,
            json_each(CASE WHEN json_valid(body) THEN body ELSE '{{}}' END, '$.labels') AS given
            JOIN labels ON labels.key = given.key AND labels.value = given.value
        GROUP BY label""",
    f"INSERT INTO record_label_bits VALUES ({SEAL}, :block, x'')",
)
_LAST_SEALED: Final = f"SELECT max(block) FROM record_label_bits WHERE label = {SEAL}"


class _Bits:
    """Gathers the places of records in a block: two bytes for each while they are few, else a bit for each place."""

    def __init__(self) -> None:
        self._places: list[int] = []

    def step(self, place: Any) -> None:  # noqa: ANN401 - as sqlite3 types it
        self._places.append(int(place))

    def finalize(self) -> bytes:
        if len(self._places) * 2 < BLOCK // 8:
            return struct.pack(f"<{len(self._places)}H", *self._places)
        bits = 0
        for place in self._places:
            bits |= 1 << place
        return bits.to_bytes(BLOCK // 8, "little")


def bits_of(stored: bytes) -> int:
    """The bits of a label in a block: bit N is the record N of the block."""
    if len(stored) == BLOCK // 8:
        return int.from_bytes(stored, "little")
    bits = 0
    for place in struct.unpack(f"<{len(stored) // 2}H", stored):
        bits |= 1 << place
    return bits


def functions(db: sqlite3.Connection) -> None:
    """Give a connection what the statements here call."""
    db.create_aggregate("lifecycle_bits", 1, cast("Any", _Bits))  # typeshed has it that all of them give numbers


def prune(ended: str) -> tuple[str, ...]:
    """What takes out the records in the table `gone`, and the sessions that `ended` tells; blocks stay, as bounds."""
    return (
        "DELETE FROM record_index WHERE id IN (SELECT id FROM gone)",
        "DELETE FROM record_labels WHERE id IN (SELECT id FROM gone)",
        f"DELETE FROM session_labels WHERE {ended}",
        # Of blocks that are gone in part, the bits stay: they tell where to look, and nothing is found there.
        f"DELETE FROM record_label_bits WHERE block < (SELECT min(id) / {BLOCK} FROM records)",
    )


_Class = tuple[str, str, str, str, str, str, int]
_Label = tuple[str, str]

_ADD_CLASS: Final = (
    "INSERT INTO record_classes (kind, event, state, cause, adapter, errors, pace) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_FIND_CLASS: Final = (
    "SELECT class FROM record_classes WHERE kind = ? AND event = ? AND state = ? AND cause = ? AND adapter = ? "
    "AND errors = ? AND pace = ?"
)
_ADD_LABEL: Final = "INSERT INTO labels (key, value) VALUES (?, ?)"
_FIND_LABEL: Final = "SELECT label FROM labels WHERE key = ? AND value = ?"
_ADD_BLOCK: Final = (
    "INSERT INTO record_blocks VALUES (?, ?, ?, ?) ON CONFLICT (block) DO UPDATE SET "
    "earliest = min(earliest, excluded.earliest), latest = max(latest, excluded.latest), "
    "slowest = max(slowest, excluded.slowest)"
)

_OLD_ROW: Final = "SELECT state, labels, created_at FROM sessions WHERE session_id = ?"
_REMOVE_SESSION: Final = f"""WITH old (text) AS (VALUES (?)) DELETE FROM session_labels
    WHERE state = ? AND created_at = ? AND session_id = ?
    AND label IN (SELECT label FROM old, {_each("old.text")} AS given JOIN labels USING (key, value))"""
_ADD_SESSION: Final = "INSERT INTO session_labels VALUES (?, ?, ?, ?)"

_KEPT: Final = 10_000
"""Classes and labels whose numbers are remembered, so that most records ask for none."""


def iso(at: datetime) -> str:
    """A form of a time that sorts by time as text."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class Index:
    """Fills the index of one database, and finds by it."""

    def __init__(self) -> None:
        self._classes: dict[_Class, int] = {}
        self._labels: dict[_Label, int] = {}
        self._sealed = -1
        """The last block that this one knows to be sealed."""

    def forget(self) -> None:
        """Forget all numbers: the next connection may be to another file."""
        self._classes.clear()
        self._labels.clear()
        self._sealed = -1

    def add(
        self, db: sqlite3.Connection, numbered: Iterable[tuple[int, str, Record]]
    ) -> tuple[dict[_Class, int], dict[_Label, int]]:
        """Take in records that were written just now, in the transaction that wrote them.

        Args:
            db: The connection.
            numbered: The number of each record, its time as it is kept, and the record.

        Returns:
            The numbers of classes and labels for `keep`, their transaction has been committed.
        """
        classes: dict[_Class, int] = {}
        labels: dict[_Label, int] = {}
        of_classes: list[tuple[int, int, float]] = []
        of_labels: list[tuple[int, int, int, float]] = []
        blocks: dict[int, tuple[int, str, str, float]] = {}
        for number, at, record in numbered:
            shape, slowest = _shape(record)
            class_ = self._classes.get(shape) or classes.get(shape)
            if class_ is None:
                class_ = classes[shape] = _number(db, _ADD_CLASS, _FIND_CLASS, shape)
            of_classes.append((class_, number, slowest))
            for pair in record.labels.items():
                label = self._labels.get(pair) or labels.get(pair)
                if label is None:
                    label = labels[pair] = _number(db, _ADD_LABEL, _FIND_LABEL, pair)
                of_labels.append((label, class_, number, slowest))
            block = number // BLOCK
            _, earliest, latest, most = blocks.get(block, (block, at, at, slowest))
            blocks[block] = (block, min(earliest, at), max(latest, at), max(most, slowest))
        db.executemany("INSERT INTO record_index VALUES (?, ?, ?)", of_classes)
        db.executemany("INSERT INTO record_labels VALUES (?, ?, ?, ?)", of_labels)
        db.executemany(_ADD_BLOCK, blocks.values())
        if blocks and max(blocks) > self._sealed + 1:
            self._seal(db, max(blocks))
        return classes, labels

    def _seal(self, db: sqlite3.Connection, current: int) -> None:
        """Keep the bits of the blocks before `current`, which are full."""
        (last,) = db.execute(_LAST_SEALED).fetchone()
        first = last + 1 if last is not None else 0
        for block in range(first, min(current, first + _SEALED_AT_ONCE)):
            for statement in _SEAL_BLOCK:
                db.execute(statement, {"block": block})
            last = block
        self._sealed = last if last is not None else -1

    def put(self, db: sqlite3.Connection, row: SessionRow, labels: str, created_at: str) -> dict[_Label, int]:
        """Take in the row of a session that is about to be put, in the transaction that puts it.

        Args:
            db: The connection.
            row: The row.
            labels: Its labels, as they are kept.
            created_at: Its time, as it is kept.

        Returns:
            Numbers of labels for `keep`.
        """
        new: dict[_Label, int] = {}
        before = db.execute(_OLD_ROW, (row.session_id,)).fetchone()
        if before == (row.state, labels, created_at) or (before is None and not row.labels):
            return new
        if before is not None:
            old_state, old_labels, old_created_at = before
            db.execute(_REMOVE_SESSION, (old_labels, old_state, old_created_at, row.session_id))
        for pair in row.labels.items():
            number = self._labels.get(pair)
            if number is None:
                number = new[pair] = _number(db, _ADD_LABEL, _FIND_LABEL, pair)
            db.execute(_ADD_SESSION, (number, row.state, created_at, row.session_id))
        return new

    def keep(self, classes: Mapping[_Class, int], labels: Mapping[_Label, int]) -> None:
        """Remember the numbers that `add` and `put` gave, so that most records need not ask for any."""
        if len(self._classes) > _KEPT:
            self._classes.clear()
        if len(self._labels) > _KEPT:
            self._labels.clear()
        self._classes.update(classes)
        self._labels.update(labels)


def _shape(record: Record) -> tuple[_Class, float]:
    """What the class of a record is found by, and its slowest step; as `lifecycle.audit.query` says, in one go."""
    slowest = 0.0
    errors = set() if record.error is None else {record.error}
    for step in record.steps:
        slowest = max(slowest, step.ms)
        if step.error is not None:
            errors.add(step.error)
    told = orjson.dumps(sorted(errors)).decode() if errors else "[]"
    state = record.dest if record.kind in MOVES else record.source
    return (record.kind, record.event, state, record.cause, record.adapter, told, pace_of(slowest)), slowest


def pace_of(ms: float) -> int:
    """The class of a slowest step. What took longer than `ms` is of this one or of a later."""
    return bisect_right(_PACES, ms)


def _number(db: sqlite3.Connection, add: str, find: str, values: Sequence[object]) -> int:
    found = db.execute(find, values).fetchone()
    return int(found[0]) if found else int(db.execute(add, values).lastrowid or 0)
