"""The store in an SQLite file: WAL, synchronous=FULL, for any number of processes that write at once.

Rule: the database itself holds what the log promises. Triggers and unique indexes refuse a gap, a repeat, a second end
of one attachment, a change and a deletion, whoever writes; this module only puts their answer into words.

Every write takes the write lock first (BEGIN IMMEDIATE), so no two of them work from the same state, and is on disk
when it returns. A reader sees the last commit and holds nobody up.

Columns that a later version needs come with ALTER TABLE ADD COLUMN under the next `SCHEMA_VERSION`; rows from before
keep NULL there. What records are found by lies beside them (`lifecycle.stores.sqlite_index`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.merkle import leaf_hash
from lifecycle.ports import ROW_TIMES, Claim, SessionRow, Stored, Writer
from lifecycle.stores import sqlite_index
from lifecycle.stores.common import UNFINISHED, check_page, check_rows, decode, encode, kept_hash, refused, row_of
from lifecycle.stores.sqlite_file import SQLiteFile

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.states import State

__all__ = ["SCHEMA_VERSION", "SQLiteStore"]

SCHEMA_VERSION: Final = 8
"""The version of the tables, kept in the file's ``user_version``."""

APPLICATION_ID: Final = 0x6C696665
"""Kept in the file's ``application_id``, so that no other program's database is taken for ours ("life")."""

BUSY_TIMEOUT: Final = 10.0
"""Seconds to wait for another process that writes."""

_CLAIMS: Final = """CREATE TABLE claims (
        adapter TEXT NOT NULL,
        key TEXT NOT NULL,
        attachment_id TEXT NOT NULL,
        session_id TEXT,
        owner_pid INTEGER NOT NULL,
        owner_started TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        host TEXT NOT NULL,
        PRIMARY KEY (adapter, key)
    )"""

_UNFINISHED_INDEX: Final = f"CREATE INDEX sessions_unfinished ON sessions (created_at) WHERE {UNFINISHED}"

_WRITERS: Final = (
    """CREATE TABLE writers (
        writer TEXT PRIMARY KEY,
        owner_pid INTEGER NOT NULL,
        owner_started TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        host TEXT NOT NULL,
        renewed_at TEXT NOT NULL
    )""",
    "CREATE TABLE open_attachments (attachment_id TEXT PRIMARY KEY, writer TEXT NOT NULL)",
    """CREATE TRIGGER attachments_open AFTER INSERT ON records
        WHEN NEW.kind = 'intent' AND NEW.event IN ('start', 'attach') BEGIN
        INSERT OR IGNORE INTO open_attachments VALUES (NEW.attachment_id, NEW.writer);
    END""",
    """CREATE TRIGGER attachments_end AFTER INSERT ON records WHEN NEW.terminal BEGIN
        DELETE FROM open_attachments WHERE attachment_id = NEW.attachment_id;
    END""",
)

_REGISTER: Final = (
    """CREATE TABLE register (
        seq INTEGER PRIMARY KEY,
        writer TEXT,
        hash BLOB NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX register_of_writer ON register (writer, seq)",
    """CREATE TRIGGER register_in_order BEFORE INSERT ON register BEGIN
        SELECT RAISE(ABORT, 'a gap or a repeat in the register')
            WHERE NEW.seq IS NOT 1 + coalesce((SELECT max(seq) FROM register), 0);
    END""",
    """CREATE TRIGGER register_never_changes BEFORE UPDATE ON register BEGIN
        SELECT RAISE(ABORT, 'an entry of the register is never changed');
    END""",
    """CREATE TRIGGER register_never_goes BEFORE DELETE ON register BEGIN
        SELECT RAISE(ABORT, 'an entry of the register is never deleted');
    END""",
    # Where the sequences of writers and attachments go on of which no record is left.
    """CREATE TABLE pruned (
        what TEXT NOT NULL,
        id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (what, id)
    ) WITHOUT ROWID""",
)

# INSERT OR REPLACE deletes without a DELETE trigger, so whatever it could replace is refused before. Where no id is
# given, NEW.id is -1 here.
_IN_ORDER: Final = """CREATE TRIGGER records_in_order BEFORE INSERT ON records BEGIN
        SELECT RAISE(ABORT, 'a gap or a repeat in the writer''s sequence')
            WHERE NEW.writer_seq IS NOT 1 + coalesce(
                (SELECT max(writer_seq) FROM records WHERE writer = NEW.writer),
                (SELECT seq FROM pruned WHERE what = 'writer' AND id = NEW.writer), 0);
        SELECT RAISE(ABORT, 'a gap or a repeat in the attachment''s sequence')
            WHERE NEW.attachment_seq IS NOT 1 + coalesce(
                (SELECT max(attachment_seq) FROM records WHERE attachment_id = NEW.attachment_id),
                (SELECT seq FROM pruned WHERE what = 'attachment' AND id = NEW.attachment_id), 0);
        SELECT RAISE(ABORT, 'the attachment has ended already')
            WHERE NEW.terminal AND EXISTS (
                SELECT 1 FROM records WHERE attachment_id = NEW.attachment_id AND terminal);
        SELECT RAISE(ABORT, 'a record is never replaced')
            WHERE NEW.id > 0 AND EXISTS (SELECT 1 FROM records WHERE id = NEW.id);
    END"""

_NEVER_GO: Final = """CREATE TRIGGER records_never_go BEFORE DELETE ON records BEGIN
        SELECT RAISE(ABORT, 'a record is never deleted');
    END"""

_LEASES: Final = (
    "ALTER TABLE sessions ADD COLUMN writer TEXT",
    "ALTER TABLE sessions ADD COLUMN address TEXT",
    "ALTER TABLE claims ADD COLUMN writer TEXT",
)

_UPGRADES: Final[Mapping[int, Sequence[str]]] = {
    1: (_CLAIMS,),
    2: (_UNFINISHED_INDEX, "ALTER TABLE sessions ADD COLUMN held_until TEXT"),
    3: _WRITERS,
    4: ("ALTER TABLE records ADD COLUMN hash BLOB", *_REGISTER, "DROP TRIGGER records_in_order", _IN_ORDER),
    5: (*sqlite_index.TABLES, *sqlite_index.FILL),
    6: (*sqlite_index.BITS, *sqlite_index.FILL_BITS),
    7: _LEASES,
}
"""What makes a database of a version into one of the next."""

_SCHEMA: Final = (
    """CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        writer TEXT NOT NULL,
        writer_seq INTEGER NOT NULL,
        attachment_id TEXT NOT NULL,
        attachment_seq INTEGER NOT NULL,
        session_id TEXT,
        kind TEXT NOT NULL,
        event TEXT NOT NULL,
        source TEXT NOT NULL,
        dest TEXT NOT NULL,
        at TEXT NOT NULL,
        terminal INTEGER NOT NULL,
        body BLOB NOT NULL,
        hash BLOB,
        UNIQUE (writer, writer_seq),
        UNIQUE (attachment_id, attachment_seq)
    )""",
    "CREATE INDEX records_of_session ON records (session_id)",
    "CREATE UNIQUE INDEX one_end_of_an_attachment ON records (attachment_id) WHERE terminal",
    _IN_ORDER,
    """CREATE TRIGGER records_never_change BEFORE UPDATE ON records BEGIN
        SELECT RAISE(ABORT, 'a record is never changed');
    END""",
    _NEVER_GO,
    """CREATE TABLE sessions (
        session_id TEXT NOT NULL UNIQUE,
        attachment_id TEXT NOT NULL,
        adapter TEXT NOT NULL,
        state TEXT NOT NULL,
        released INTEGER NOT NULL,
        name TEXT,
        labels TEXT NOT NULL,
        created_at TEXT NOT NULL,
        closed_at TEXT,
        last_accessed_at TEXT NOT NULL,
        held_until TEXT,
        timeout_minutes REAL NOT NULL,
        max_duration_minutes REAL NOT NULL,
        close_reason TEXT,
        error TEXT,
        owner_pid INTEGER NOT NULL,
        owner_started TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        host TEXT NOT NULL,
        control TEXT,
        facts TEXT NOT NULL
    )""",
    "CREATE INDEX sessions_by_age ON sessions (created_at)",
    "CREATE INDEX sessions_by_state ON sessions (state, created_at)",
    _UNFINISHED_INDEX,
    _CLAIMS,
    *_LEASES,
    *_WRITERS,
    *_REGISTER,
    *sqlite_index.TABLES,
    *sqlite_index.BITS,
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)

_INSERT: Final = (
    "INSERT INTO records (writer, writer_seq, attachment_id, attachment_seq, session_id, kind, event, source, dest, "
    "at, terminal, body, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_STORED: Final = f"SELECT {', '.join('id' if name == 'number' else name for name in Stored._fields)} FROM records"  # noqa: S608
_CLAIMED: Final = tuple(f.name for f in fields(Claim))
_CLAIM: Final = (
    f"INSERT INTO claims ({', '.join(_CLAIMED)}) VALUES ({', '.join('?' * len(_CLAIMED))}) "  # noqa: S608
    f"ON CONFLICT (adapter, key) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _CLAIMED)} "
    "WHERE claims.attachment_id IN (excluded.attachment_id, ?)"
)
_HELD: Final = f"SELECT {', '.join(_CLAIMED)} FROM claims WHERE adapter = ? AND key = ?"  # noqa: S608 - as above
_WRITER: Final = tuple(f.name for f in fields(Writer) if f.compare)
_RENEW: Final = f"INSERT OR REPLACE INTO writers ({', '.join(_WRITER)}) VALUES ({', '.join('?' * len(_WRITER))})"  # noqa: S608
_OPEN: Final = f"SELECT attachment_id, {', '.join(_WRITER)} FROM open_attachments JOIN writers USING (writer)"  # noqa: S608
_COLUMNS: Final = tuple(f.name for f in fields(SessionRow))
_LABELS, _CREATED = _COLUMNS.index("labels"), _COLUMNS.index("created_at")
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM sessions"  # noqa: S608 - names of our own
_PUT: Final = (
    f"INSERT INTO sessions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (session_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)


class SQLiteStore:
    """Records and ledger rows in one SQLite file, shared by any number of processes on this machine.

    Args:
        path: The file. Made with mode 0600 when it does not exist; its folder must exist.
        busy_timeout: Seconds to wait for another process that writes.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self._file = SQLiteFile(Path(path).absolute(), busy_timeout=busy_timeout, prepare=self._prepare)
        self._index = sqlite_index.Index()

    def __reduce__(self) -> tuple[type[SQLiteStore], tuple[Path]]:
        """Another process gets a store on the same file that it has to open."""
        return type(self), (self.path,)

    @property
    def url(self) -> str:
        """``sqlite:///`` and the absolute path."""
        return self._file.url

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def open(self) -> None:
        """Open or create the file. Idempotent; in a forked child it opens the file anew.

        Raises:
            StoreError: Names the file, what is wrong with it and the way out.
        """
        self._file.open()

    def close(self) -> None:
        """Close it. Idempotent."""
        self._file.close()

    def abandon_in_child(self) -> None:
        """In a forked child: let go of the parent's connection without touching it. Silent anywhere else."""
        self._file.abandon()

    def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        """Append `records` and put `rows`, all or nothing, on disk when it returns.

        Raises:
            StoreError: Nothing was written.
        """
        bodies = encode(records, store=self.url)
        check_rows(rows, store=self.url)
        values = [_to_columns(row) for row in rows]
        with self._file.use() as db:
            with _transaction(db):
                added: list[tuple[int, str, Record]] = []
                for r, body in zip(records, bodies, strict=True):
                    at = sqlite_index.iso(r.at)
                    try:
                        inserted = db.execute(
                            _INSERT,
                            (
                                r.writer, r.writer_seq, r.attachment_id, r.attachment_seq, r.session_id, r.kind,
                                r.event, r.source, r.dest, at, r.terminal, body, kept_hash(r),
                            ),
                        )  # fmt: skip
                    except sqlite3.IntegrityError as e:
                        raise refused(r, str(e), store=self.url) from e
                    added.append((inserted.lastrowid or 0, at, r))
                classes, labels = self._index.add(db, added)
                for row, put in zip(rows, values, strict=True):
                    labels |= self._index.put(db, row, put[_LABELS], put[_CREATED])
                    db.execute(_PUT, put)
            self._index.keep(classes, labels)

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
        where = ["id > ?"]
        parameters: list[object] = [after]
        for column, value in (("session_id", session_id), ("attachment_id", attachment_id)):
            if value is not None:
                where.append(f"{column} = ?")
                parameters.append(value)
        order = "DESC" if newest else "ASC"
        sql = f"SELECT id, body FROM records WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT ?"  # noqa: S608
        with self._file.use() as db:
            found = db.execute(sql, (*parameters, -1 if limit is None else limit)).fetchall()
        if newest:
            found.reverse()
        return [(number, decode(number, body, store=self.url)) for number, body in found]

    def stored(self, *, writer: str | None = None, after: int = 0, limit: int | None = None) -> Sequence[Stored]:
        """Records as they are kept; see `lifecycle.ports.Store.stored`."""
        check_page(limit=limit)
        parameters: tuple[object, ...] = (after,) if writer is None else (after, writer)
        where = "id > ? ORDER BY id" if writer is None else "writer_seq > ? AND writer = ? ORDER BY writer_seq"
        sql = f"{_STORED} WHERE {where} LIMIT ?"
        with self._file.use() as db:
            found = db.execute(sql, (*parameters, -1 if limit is None else limit)).fetchall()
        return list(map(Stored._make, found))

    def register(self, *, after: int = 0, limit: int | None = None) -> Sequence[tuple[int, bytes, bytes]]:
        """Entries of the register; see `lifecycle.ports.Store.register`."""
        check_page(limit=limit)
        with self._file.use() as db:
            sql = "SELECT seq, hash, body FROM register WHERE seq > ? ORDER BY seq LIMIT ?"
            return db.execute(sql, (after, -1 if limit is None else limit)).fetchall()

    def last_entry(self, writer: str | None = None) -> bytes | None:
        """The last entry of the register; see `lifecycle.ports.Store.last_entry`."""
        where, parameters = ("", ()) if writer is None else ("WHERE writer = ?", (writer,))
        with self._file.use() as db:
            sql = f"SELECT body FROM register {where} ORDER BY seq DESC LIMIT 1"  # noqa: S608
            found = db.execute(sql, parameters).fetchone()
        return found[0] if found else None

    def enter(self, entries: Sequence[tuple[str | None, bytes]], *, after: int) -> bool:
        """Add entries to the register; see `lifecycle.ports.Store.enter`.

        Raises:
            StoreError: Nothing was written.
        """
        with self._file.use() as db, _transaction(db):
            return _enter(db, entries, after)

    def query(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, Record]]:
        """Records that a query wants, with their number; see `lifecycle.ports.Store.query`."""
        found = self.bodies(query, after=after, limit=limit, newest=newest)
        return [(number, decode(number, body, store=self.url)) for number, body in found]

    def bodies(
        self, query: Query, *, after: int = 0, limit: int | None = None, newest: bool = False
    ) -> Sequence[tuple[int, bytes]]:
        """What `query` finds, as the bytes that are stored; see `lifecycle.ports.Store.bodies`."""
        from lifecycle.stores.sqlite_find import find_records  # noqa: PLC0415 - sessions never ask so

        check_page(limit=limit)
        with self._file.use() as db, _transaction(db, "DEFERRED"):
            return find_records(db, query, after=after, limit=limit, newest=newest, store=self.url)

    def prune(self, upto: Mapping[str, int], entries: Sequence[tuple[str | None, bytes]], *, after: int) -> int | None:
        """Take records out; see `lifecycle.ports.Store.prune`.

        Raises:
            StoreError: Nothing was changed.
        """
        with self._file.use() as db, _transaction(db):
            if not _enter(db, entries, after):
                return None
            db.execute("CREATE TEMP TABLE gone (id INTEGER PRIMARY KEY, session_id TEXT)")
            db.executemany(
                "INSERT INTO gone SELECT id, session_id FROM records WHERE writer = ? AND writer_seq <= ?", upto.items()
            )
            db.executemany("INSERT OR REPLACE INTO pruned VALUES ('writer', ?, ?)", upto.items())
            db.execute(
                "INSERT OR REPLACE INTO pruned SELECT 'attachment', attachment_id, max(attachment_seq) FROM records "
                "WHERE id IN (SELECT id FROM gone) GROUP BY attachment_id"
            )
            # Nobody sees the table without its trigger: what makes it anew is in the same transaction.
            db.execute("DROP TRIGGER records_never_go")
            count = db.execute("DELETE FROM records WHERE id IN (SELECT id FROM gone)").rowcount
            db.execute(_NEVER_GO)
            ended = f"""session_id IN (SELECT session_id FROM gone)
                AND session_id NOT IN (SELECT session_id FROM records WHERE session_id IS NOT NULL)
                AND session_id IN (SELECT session_id FROM sessions WHERE NOT {UNFINISHED})"""  # noqa: S608
            for statement in sqlite_index.prune(ended):
                db.execute(statement)
            db.execute(f"DELETE FROM sessions WHERE {ended}")  # noqa: S608
            db.execute("DROP TABLE gone")
        return count

    def session(self, session_id: str) -> SessionRow | None:
        """The ledger row of a session."""
        with self._file.use() as db:
            found = db.execute(f"{_SELECT} WHERE session_id = ?", (session_id,)).fetchone()
        return self._to_row(found) if found else None

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
        if labels:
            from lifecycle.stores.sqlite_find import find_sessions  # noqa: PLC0415 - most ask for none

            with self._file.use() as db, _transaction(db, "DEFERRED"):
                found = find_sessions(db, _SELECT, state=status, labels=labels, limit=limit, offset=offset)
            return [self._to_row(row) for row in found]
        where, parameters = ("1", ()) if status is None else ("state = ?", (str(status),))
        sql = f"{_SELECT} WHERE {where} ORDER BY created_at DESC, rowid DESC LIMIT ? OFFSET ?"
        with self._file.use() as db:
            found = db.execute(sql, (*parameters, limit, offset)).fetchall()
        return [self._to_row(row) for row in found]

    def session_ids(self, beginning: str, *, limit: int) -> Sequence[str]:
        """Ids of sessions that begin so; see `lifecycle.ports.Store.session_ids`."""
        check_page(limit=limit)
        # Between the two lie those that begin so: the last code point is no character, so no id goes on with it.
        sql = "SELECT session_id FROM sessions WHERE session_id >= ? AND session_id < ? ORDER BY session_id LIMIT ?"
        with self._file.use() as db:
            found = db.execute(sql, (beginning, f"{beginning}\U0010ffff", limit)).fetchall()
        return [session_id for (session_id,) in found]

    def unfinished(self) -> Sequence[SessionRow]:
        """Ledger rows of which something is still to be done; see `lifecycle.ports.Store.unfinished`."""
        # Left to itself, SQLite looks at every session that failed.
        sql = f"{_SELECT} INDEXED BY sessions_unfinished WHERE {UNFINISHED} ORDER BY created_at DESC, rowid DESC"
        with self._file.use() as db:
            found = db.execute(sql).fetchall()
        return [self._to_row(row) for row in found]

    def renew(self, writer: Writer) -> None:
        """Take note of a writer; see `lifecycle.ports.Store.renew`.

        Raises:
            StoreError: Nothing was written.
        """
        values = {name: getattr(writer, name) for name in _WRITER}
        values["renewed_at"] = sqlite_index.iso(writer.renewed_at)
        with self._file.use() as db, _transaction(db):
            db.execute(_RENEW, tuple(values.values()))

    def open_attachments(self) -> Mapping[str, Writer]:
        """Attachments without an end; see `lifecycle.ports.Store.open_attachments`."""
        with self._file.use() as db:
            found = db.execute(_OPEN).fetchall()
        writers: dict[str, Writer] = {}
        for attachment_id, *values in found:
            known = dict(zip(_WRITER, values, strict=True))
            known["renewed_at"] = datetime.fromisoformat(known["renewed_at"])
            writers[attachment_id] = Writer(**known)
        return writers

    def claim(self, claim: Claim, *, replacing: str | None = None) -> Claim | None:
        """Hold a key unless somebody else does; see `lifecycle.ports.Store.claim`.

        Raises:
            StoreError: Nothing was written.
        """
        with self._file.use() as db, _transaction(db):
            db.execute(_CLAIM, (*(getattr(claim, name) for name in _CLAIMED), replacing))
            found = db.execute(_HELD, (claim.adapter, claim.key)).fetchone()
        held = Claim(**dict(zip(_CLAIMED, found, strict=True)))
        return None if held.attachment_id == claim.attachment_id else held

    def unclaim(self, claim: Claim) -> None:
        """Give a key up; silent when `claim` does not hold it.

        Raises:
            StoreError: Nothing was written.
        """
        with self._file.use() as db, _transaction(db):
            db.execute(
                "DELETE FROM claims WHERE adapter = ? AND key = ? AND attachment_id = ?",
                (claim.adapter, claim.key, claim.attachment_id),
            )

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Check whose database it is, and make its tables or bring them up. Changes nothing in anybody else's."""
        self._index.forget()
        sqlite_index.functions(db)
        with _transaction(db, "DEFERRED"):  # one moment for all that is looked at
            if self._version(db) == SCHEMA_VERSION:
                return
        with _transaction(db):
            version = self._version(db)  # another process may have made them while this one waited
            statements = [*_SCHEMA] if version is None else []
            for older in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
                statements += [*_UPGRADES[older], f"PRAGMA user_version={older + 1}"]
            for statement in statements:
                db.execute(statement)

    def _version(self, db: sqlite3.Connection) -> int | None:
        """The version of its tables; None for an empty file."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise self._file.error(
                f"a newer version of lifecycle wrote it (schema {version}, this version reads {SCHEMA_VERSION})",
                "upgrade this installation, or choose another file",
            )
        if application == APPLICATION_ID and version > 0:
            return int(version)
        if application or version or tables:
            raise self._file.error("it is a database of another program", "choose another file")
        return None

    def _to_row(self, found: tuple[Any, ...]) -> SessionRow:
        values = dict(zip(_COLUMNS, found, strict=True))
        try:
            return row_of(values)
        except ValueError as e:
            what = f"the row of session {values['session_id']} can't be read ({e})"
            raise self._file.error(what, "read it with the version of lifecycle that wrote it") from e


def _enter(db: sqlite3.Connection, entries: Sequence[tuple[str | None, bytes]], after: int) -> bool:
    """Add entries to the register, unless the last has not the number `after`."""
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM register").fetchone()
    if last != after:
        return False
    rows = [(seq, writer, leaf_hash(body), body) for seq, (writer, body) in enumerate(entries, after + 1)]
    db.executemany("INSERT INTO register (seq, writer, hash, body) VALUES (?, ?, ?, ?)", rows)
    return True


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself after some errors, such as a full disk
            db.execute("ROLLBACK")
        raise


def _to_columns(row: SessionRow) -> tuple[Any, ...]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    for name in ("labels", "facts"):
        values[name] = orjson.dumps(dict(values[name]), option=orjson.OPT_SORT_KEYS).decode()
    for name in ROW_TIMES:
        if values[name] is not None:
            values[name] = sqlite_index.iso(values[name])
    return tuple(values.values())
