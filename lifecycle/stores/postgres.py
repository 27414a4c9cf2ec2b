"""The store in a PostgreSQL database, for any number of processes on any number of machines.

Rule: as for the SQLite store, the database itself holds what the log promises (``postgres.sql``). Each write is one
statement, so that nobody who is stopped in the middle of one holds anything up, and is on the server's disk when it
returns. Two writers never wait for each other.

Times of records are those of the hosts, which nothing is ordered by; each has the time of the database beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from psycopg import DatabaseError, errors

from lifecycle.audit.merkle import leaf_hash
from lifecycle.errors import LeaseLost
from lifecycle.ports import ROW_TIMES, Claim, SessionRow, Stored, Writer
from lifecycle.stores.common import UNFINISHED, check_page, check_rows, decode, encode, kept_hash, refused, row_of
from lifecycle.stores.postgres_find import find_records, find_sessions, label_texts, shape_of
from lifecycle.stores.postgres_server import LOST, NO_TABLES, Connection, Server

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.errors import StoreError
    from lifecycle.states import State

__all__ = ["OLDEST", "ROLES", "SCHEMA_VERSION", "SECONDS", "PostgresStore", "script"]

SCHEMA_VERSION: Final = 2
"""The version of the tables that this version of the library makes and writes."""

OLDEST: Final = 1
"""The oldest version of the tables that a program may know and still work with those of `SCHEMA_VERSION`."""

SECONDS: Final = 10.0
"""How long to wait for the server, to connect and for each answer."""

_READ_SECONDS: Final = 120.0
"""How long to wait for an answer that a whole log may have to be gone through for."""

ROLES: Final = ("lifecycle_writer", "lifecycle_pruner", "lifecycle_reader")
"""The roles, which log in by nothing themselves: what works with the store is granted one of them."""

_FILES: Final = ("postgres.sql", "postgres_leases.sql")
"""What makes tables of the first version, and of each version those of the next."""

_ABOUT: Final = f"INSERT INTO about (version, oldest) VALUES ({SCHEMA_VERSION}, {OLDEST})"  # noqa: S608

_GRANTS: Final[Sequence[str]] = (
    "GRANT USAGE ON SCHEMA lifecycle TO {writer}, {pruner}, {reader}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA lifecycle TO {writer}, {pruner}, {reader}",
    "GRANT SELECT ON SEQUENCE record_ids TO {writer}, {pruner}, {reader}",
    "GRANT USAGE ON SEQUENCE record_ids TO {writer}",
    "GRANT INSERT ON records, register, record_classes, sessions, claims, writers TO {writer}",
    "GRANT UPDATE ON sessions, claims, writers TO {writer}",
    "GRANT DELETE ON claims TO {writer}",
    "GRANT INSERT ON register, pruned TO {pruner}",
    "GRANT UPDATE ON pruned TO {pruner}",
    "GRANT DELETE ON records, sessions TO {pruner}",
)

_RECORD_COLUMNS: Final = {
    "writer": "text", "writer_seq": "bigint", "attachment_id": "text", "attachment_seq": "bigint",
    "session_id": "text", "kind": "text", "event": "text", "source": "text", "dest": "text", "at": "timestamptz",
    "terminal": "boolean", "hash": "bytea", "body": "bytea", "class": "integer", "slowest": "double precision",
}  # fmt: skip
_ROW_COLUMNS: Final = {
    "session_id": "text", "attachment_id": "text", "adapter": "text", "state": "text", "released": "boolean",
    "name": "text", "labels": "text", "created_at": "timestamptz", "closed_at": "timestamptz",
    "last_accessed_at": "timestamptz", "held_until": "timestamptz", "timeout_minutes": "double precision",
    "max_duration_minutes": "double precision", "close_reason": "text", "error": "text", "owner_pid": "bigint",
    "owner_started": "text", "boot_id": "text", "host": "text", "control": "text", "facts": "text",
    "writer": "text", "address": "text",
}  # fmt: skip


def _from_arrays(columns: Mapping[str, str], table: str, labels: str) -> str:
    """An INSERT of rows that come as one array for each column, and their labels as one text each, lines of it."""
    names = ", ".join(columns)
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    return (
        f"INSERT INTO {table} ({names}, {labels}) "  # noqa: S608 - names of our own
        f"SELECT {names}, string_to_array(label_lines, E'\\n') "
        f"FROM unnest({arrays}, %s::text[]) WITH ORDINALITY AS given ({names}, label_lines, n) ORDER BY n"
    )


_ADD: Final = _from_arrays(_RECORD_COLUMNS, "records", "labels")
_PUT: Final = (
    f"{_from_arrays(_ROW_COLUMNS, 'sessions', 'label_set')} ON CONFLICT (session_id) DO UPDATE SET "
    f"{', '.join(f'{c} = excluded.{c}' for c in (*[*_ROW_COLUMNS][1:], 'label_set'))}"
)
_STORED: Final = f"SELECT {', '.join('id' if n == 'number' else n for n in Stored._fields)} FROM records"  # noqa: S608
_CLASS: Final = ("kind", "event", "state", "cause", "adapter", "errors", "pace")
_CLAIMED: Final = tuple(f.name for f in fields(Claim))
_CLAIM: Final = (
    f"INSERT INTO claims ({', '.join(_CLAIMED)}) VALUES ({', '.join(['%s'] * len(_CLAIMED))}) "  # noqa: S608
    f"ON CONFLICT (adapter, key) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _CLAIMED)} "
    "WHERE claims.attachment_id IN (excluded.attachment_id, %s) RETURNING 1"
)
_HELD: Final = f"SELECT {', '.join(_CLAIMED)} FROM claims WHERE adapter = %s AND key = %s"  # noqa: S608 - as above
_WRITER: Final = (*(f.name for f in fields(Writer) if f.compare), "lease_seconds")
_STANDS: Final = ("fenced", "silent")
_STANDING: Final = (
    f"{', '.join(_WRITER)}, fenced_at IS NOT NULL, extract(epoch FROM clock_timestamp() - seen_at)::float8"
)
_RENEW: Final = (
    f"INSERT INTO writers ({', '.join(_WRITER)}, seen_at) "  # noqa: S608 - as above
    f"VALUES ({', '.join(['%s'] * len(_WRITER))}, clock_timestamp()) "
    f"ON CONFLICT (writer) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in (*_WRITER[1:], 'seen_at'))}"
)
_OPEN: Final = f"SELECT attachment_id, {_STANDING} FROM open_attachments JOIN writers USING (writer)"  # noqa: S608 - as above
_LEASE: Final = f"SELECT {_STANDING} FROM writers WHERE writer = %s"  # noqa: S608 - as above
_FENCED: Final = "SELECT 1 FROM writers WHERE writer = ANY(%s) AND fenced_at IS NOT NULL"
_FENCE: Final = (
    "UPDATE writers SET fenced_at = clock_timestamp() WHERE writer = %s AND fenced_at IS NULL "
    "AND seen_at + make_interval(secs => lease_seconds) < clock_timestamp()"
)
_SELECT: Final = f"SELECT {', '.join(_ROW_COLUMNS)} FROM sessions"  # noqa: S608 - names of our own

_CLOCK: Final = "SELECT clock_timestamp()"

_time: Final = (time.time,)  # in a tuple, where clock fakes do not find it

_REFUSED: Final = "LC001"
"""The code with which a trigger of ours refuses."""
_KEPT: Final = 10_000
"""Classes whose numbers are remembered, so that most records ask for none."""


class PostgresStore:
    """Records and ledger rows in a PostgreSQL database, shared by any number of processes on any machines.

    Needs the extra ``postgres``. The tables are made by ``lifecycle store init URL``, or by `make`.

    Args:
        url: A libpq URL, ``postgresql://user@host:5432/database``. What it leaves out comes from PG* variables and
            from ``~/.pgpass``.
        seconds: How long to wait for the server, to connect and for each answer to a write or a small question.

    Raises:
        ConfigError: It is no such URL.
    """

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        self._given = (url, seconds)
        self._server = Server(url, seconds=seconds, prepare=self._prepare)
        self._classes: dict[tuple[object, ...], int] = {}
        self.skew: float | None = None
        """Seconds by which the server's clock was ahead of this host's, as the last answer told; None before one."""

    def __reduce__(self) -> tuple[object, ...]:
        """Another process gets a store on the same database that it has to open."""
        return _again, self._given

    @property
    def url(self) -> str:
        """``postgresql://host:port/database``, without user, password and parameters."""
        return self._server.url

    # --- opening and closing ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect. Idempotent; in a forked child it connects anew.

        Raises:
            StoreError: Names the server, what is wrong and the way out.
        """
        self._server.open()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._server.close()

    def abandon_in_child(self) -> None:
        """In a forked child: let go of the parent's connection without a word. Silent anywhere else."""
        self._server.abandon()

    def make(self, *, roles: bool = True) -> bool:
        """Make the tables, in the schema ``lifecycle`` of the database, or bring them up; and the roles.

        Args:
            roles: True to make the roles too, where they do not exist, and to give them their rights.

        Returns:
            False where there was nothing to do but that.

        Raises:
            StoreError: Nothing was changed.
        """
        return self._bring_up(roles=roles, new=True)

    def upgrade(self, *, roles: bool = True) -> bool:
        """As `make`, for tables that are there.

        Raises:
            StoreError: Nothing was changed; there are none.
        """
        return self._bring_up(roles=roles, new=False)

    def _bring_up(self, *, roles: bool, new: bool) -> bool:
        server = Server(self._given[0], seconds=self._given[1], prepare=lambda _: None)
        server.open()
        try:
            with server.use(seconds=None) as db, db.transaction():
                db.ask("SELECT pg_advisory_xact_lock(1818846821, 0)")  # one at a time
                told = self._about(db)
                version = told[0] if told is not None else None
                if version is None and not new:
                    raise server.error(*NO_TABLES)
                if version is not None and version > SCHEMA_VERSION:
                    raise server.error(*_newer(version))
                for statements in _tables(since=version or 0):
                    db.ask(statements)
                if version is None:
                    db.ask(_ABOUT)
                db.ask("UPDATE about SET version = %s, oldest = %s", (SCHEMA_VERSION, OLDEST))
                if roles:
                    db.ask(_rights())
        finally:
            server.close()
        return version != SCHEMA_VERSION

    def _prepare(self, db: Connection) -> None:
        self._classes.clear()
        told = self._about(db)
        if told is None:
            raise self._server.error(*NO_TABLES)
        version, oldest = told
        if version < SCHEMA_VERSION:
            what = f"its tables are of an older version (schema {version}, this version writes {SCHEMA_VERSION})"
            raise self._server.error(what, "bring them up with: lifecycle store upgrade")
        if oldest > SCHEMA_VERSION:
            raise self._server.error(*_newer(version))
        self._ask_time(db)

    @staticmethod
    def _about(db: Connection) -> tuple[int, int] | None:
        """The version of the tables, and the oldest that they let work with them; None where there are none."""
        found = db.ask("SELECT to_regclass('lifecycle.about') IS NOT NULL").fetchone()
        if found != (True,):
            return None
        told = db.ask("SELECT version, oldest FROM lifecycle.about").fetchone()
        return (int(told[0]), int(told[1])) if told else None

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        """Append `records` and put `rows`, all or nothing, on the server's disk when it returns.

        Raises:
            StoreError: Nothing was written; or nobody knows, where the connection broke before the answer.
        """
        bodies = encode(records, store=self.url)
        check_rows(rows, store=self.url)
        put = {row.session_id: row for row in rows}  # the last of each counts
        if not records and not put:
            return
        with self._server.use() as db:
            statements, values = [], []
            if records:
                statements.append(f"added AS ({_ADD} RETURNING 1)")
                values += self._record_arrays(db, records, bodies)
            if put:
                statements.append(f"put AS ({_PUT} RETURNING 1)")
                values += _row_arrays(list(put.values()))
            statement = f"WITH {', '.join(statements)} {_CLOCK}"
            try:
                try:
                    self._ask_time(db, statement, values)
                except errors.UniqueViolation:
                    # Another process was in the middle of writing the same; what the trigger sees now, it can tell of.
                    self._ask_time(db, statement, values)
            except DatabaseError as e:
                if e.sqlstate != _REFUSED:
                    raise
                if db.ask(_FENCED, ([record.writer for record in records],)).fetchone():
                    raise LeaseLost(LOST.format(self.url), store=self.url) from e  # which is why it does not fit
                raise self._refusal(e, records) from e

    def _ask_time(self, db: Connection, statement: str = _CLOCK, values: Sequence[object] = ()) -> None:
        """Carry out what also gives the server's time, and compare it."""
        before = _time[0]()
        found = db.ask(statement, values).fetchone()
        after = _time[0]()
        if found is not None:
            self.skew = round(found[0].timestamp() - (before + after) / 2, 3)

    def _refusal(self, error: DatabaseError, records: Sequence[Record]) -> StoreError:
        """What a trigger of ours has to say of one of these records."""
        why = error.diag.message_primary or ""
        seq, _, writer = (error.diag.message_detail or "").partition(" ")
        for record in records:
            if (str(record.writer_seq), record.writer) == (seq, writer):
                return refused(record, why, store=self.url)
        return self._server.error(why, "see what writes there")

    def _record_arrays(self, db: Connection, records: Sequence[Record], bodies: Sequence[bytes]) -> list[object]:
        given: list[tuple[object, ...]] = []
        for record, body in zip(records, bodies, strict=True):
            shape, slowest = shape_of(record)
            texts = (record.writer, record.attachment_id, record.session_id or "", record.host, record.adapter,
                     record.cause, *cast("Sequence[str]", shape[5]))  # fmt: skip
            if any("\0" in text for text in texts):
                raise refused(record, "PostgreSQL keeps no text with a NUL in it", store=self.url)
            class_ = self._classes.get(shape)
            if class_ is None:
                if len(self._classes) > _KEPT:
                    self._classes.clear()
                class_ = self._classes[shape] = _class_number(db, shape)
            given.append((
                record.writer, record.writer_seq, record.attachment_id, record.attachment_seq, record.session_id,
                str(record.kind), str(record.event), str(record.source), str(record.dest), record.at, record.terminal,
                kept_hash(record), body, class_, slowest, "\n".join(label_texts(record.labels)) or None,
            ))  # fmt: skip
        return [list(column) for column in zip(*given, strict=True)]

    # --- records ------------------------------------------------------------------------------------------------

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
        where = ["id > %s", "id <= %s"]
        parameters: list[object] = []
        for column, value in (("session_id", session_id), ("attachment_id", attachment_id)):
            if value is not None:
                where.append(f"{column} = %s")
                parameters.append(value)
        order = "DESC" if newest else "ASC"
        statement = f"SELECT id, body FROM records WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT %s"  # noqa: S608
        with self._server.use(seconds=_READ_SECONDS) as db:
            found = db.ask(statement, (after, _settled(db), *parameters, limit)).fetchall()
        if newest:
            found.reverse()
        return [(number, decode(number, body, store=self.url)) for number, body in found]

    def stored(self, *, writer: str | None = None, after: int = 0, limit: int | None = None) -> Sequence[Stored]:
        """Records as they are kept; see `lifecycle.ports.Store.stored`."""
        check_page(limit=limit)
        with self._server.use(seconds=_READ_SECONDS) as db:
            if writer is None:
                statement = f"{_STORED} WHERE id > %s AND id <= %s ORDER BY id LIMIT %s"
                found = db.ask(statement, (after, _settled(db), limit)).fetchall()
            else:  # one process writes these, one after the other
                statement = f"{_STORED} WHERE writer_seq > %s AND writer = %s ORDER BY writer_seq LIMIT %s"
                found = db.ask(statement, (after, writer, limit)).fetchall()
        return list(map(Stored._make, found))

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
        check_page(limit=limit)
        with self._server.use(seconds=_READ_SECONDS) as db:
            upto = _settled(db)
            return find_records(db, query, after=after, upto=upto, limit=limit, newest=newest)

    # --- the register -------------------------------------------------------------------------------------------

    def register(self, *, after: int = 0, limit: int | None = None) -> Sequence[tuple[int, bytes, bytes]]:
        """Entries of the register; see `lifecycle.ports.Store.register`."""
        check_page(limit=limit)
        statement = "SELECT seq, hash, body FROM register WHERE seq > %s ORDER BY seq LIMIT %s"
        with self._server.use(seconds=_READ_SECONDS) as db:
            return db.ask(statement, (after, limit)).fetchall()

    def last_entry(self, writer: str | None = None) -> bytes | None:
        """The last entry of the register; see `lifecycle.ports.Store.last_entry`."""
        where, parameters = ("", ()) if writer is None else ("WHERE writer = %s", (writer,))
        with self._server.use() as db:
            found = db.ask(f"SELECT body FROM register {where} ORDER BY seq DESC LIMIT 1", parameters).fetchone()  # noqa: S608
        return found[0] if found else None

    def enter(self, entries: Sequence[tuple[str | None, bytes]], *, after: int) -> bool:
        """Add entries to the register; see `lifecycle.ports.Store.enter`.

        Raises:
            StoreError: Nothing was written; or nobody knows, where the connection broke before the answer.
        """
        with self._server.use() as db:
            return _enter(db, entries, after)

    def prune(self, upto: Mapping[str, int], entries: Sequence[tuple[str | None, bytes]], *, after: int) -> int | None:
        """Take records out; see `lifecycle.ports.Store.prune`. Needs the role ``lifecycle_pruner``.

        Raises:
            StoreError: Nothing was changed.
        """
        with self._server.use(seconds=None) as db, db.transaction():
            if not _enter(db, entries, after):
                return None
            marks = (list(upto), list(upto.values()))
            db.ask(
                "INSERT INTO pruned SELECT 'writer', * FROM unnest(%s::text[], %s::bigint[]) "
                "ON CONFLICT (what, id) DO UPDATE SET seq = excluded.seq",
                marks,
            )
            gone = "records AS r USING unnest(%s::text[], %s::bigint[]) AS u (writer, upto) "
            gone += "WHERE r.writer = u.writer AND r.writer_seq <= u.upto"
            db.ask(
                "INSERT INTO pruned SELECT 'attachment', r.attachment_id, max(r.attachment_seq) "
                "FROM records AS r JOIN unnest(%s::text[], %s::bigint[]) AS u (writer, upto) "
                "ON r.writer = u.writer AND r.writer_seq <= u.upto GROUP BY r.attachment_id "
                "ON CONFLICT (what, id) DO UPDATE SET seq = excluded.seq",
                marks,
            )
            taken = db.ask(
                f"DELETE FROM {gone} RETURNING r.session_id",  # noqa: S608 - as above
                marks,
            )
            count, sessions = taken.rowcount, {session_id for (session_id,) in taken} - {None}
            db.ask(
                f"DELETE FROM sessions AS s WHERE s.session_id = ANY(%s) AND NOT {UNFINISHED} "  # noqa: S608
                "AND NOT EXISTS (SELECT FROM records AS r WHERE r.session_id = s.session_id)",
                (list(sessions),),
            )
        return count

    # --- ledger rows --------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> SessionRow | None:
        """The ledger row of a session."""
        rows = self._rows("WHERE session_id = %s", (session_id,)) if "\0" not in session_id else []
        return rows[0] if rows else None

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
        state = str(status) if status is not None else None
        if labels:
            with self._server.use() as db:
                found = find_sessions(db, _SELECT, state=state, labels=labels, limit=limit, offset=offset)
            return [self._to_row(values) for values in found]
        where, parameters = ("WHERE state = %s", (state,)) if state is not None else ("", ())
        order = "ORDER BY created_at DESC, number DESC LIMIT %s OFFSET %s"
        return self._rows(f"{where} {order}", (*parameters, limit, offset))

    def session_ids(self, beginning: str, *, limit: int) -> Sequence[str]:
        """Ids of sessions that begin so; see `lifecycle.ports.Store.session_ids`."""
        check_page(limit=limit)
        # Between the two lie those that begin so: the last code point is no character, so no id goes on with it.
        statement = "SELECT session_id FROM sessions WHERE session_id >= %s AND session_id < %s ORDER BY 1 LIMIT %s"
        with self._server.use() as db:
            return [found for (found,) in db.ask(statement, (beginning, f"{beginning}\U0010ffff", limit))]

    def unfinished(self) -> Sequence[SessionRow]:
        """Ledger rows of which something is still to be done; see `lifecycle.ports.Store.unfinished`."""
        return self._rows(f"WHERE {UNFINISHED} ORDER BY created_at DESC, number DESC", ())

    def _rows(self, condition: str, parameters: Sequence[object]) -> list[SessionRow]:
        with self._server.use() as db:
            found = db.ask(f"{_SELECT} {condition}", parameters).fetchall()
        return [self._to_row(values) for values in found]

    def _to_row(self, found: tuple[Any, ...]) -> SessionRow:
        values = dict(zip(_ROW_COLUMNS, found, strict=True))
        for name in ROW_TIMES:
            if values[name] is not None:
                values[name] = values[name].astimezone(UTC)
        try:
            return row_of(values)
        except ValueError as e:
            what = f"the row of session {values['session_id']} can't be read ({e})"
            raise self._server.error(what, "read it with the version of lifecycle that wrote it") from e

    # --- who writes, and who holds a key ------------------------------------------------------------------------

    def renew(self, writer: Writer) -> None:
        """Take note of a writer; see `lifecycle.ports.Store.renew`.

        Raises:
            LeaseLost: Its lease has ended, and another took it.
            StoreError: Nothing was written.
        """
        with self._server.use() as db:
            db.ask(_RENEW, [getattr(writer, name) for name in _WRITER])

    def fence(self, writer: str) -> bool:
        """Take a writer's lease, where it is over; see `lifecycle.ports.Leases.fence`.

        Raises:
            StoreError: Nothing was changed; or nobody knows, where the connection broke before the answer.
        """
        with self._server.use() as db:
            db.ask(_FENCE, (writer,))
            if db.ask(_FENCED, ([writer],)).fetchone() is None:
                return False
            _settled(db)  # what had looked before has ended; what looks from now on is refused
            return True

    def lease(self, writer: str) -> Writer | None:
        """How a writer stands; see `lifecycle.ports.Leases.lease`."""
        with self._server.use() as db:
            found = db.ask(_LEASE, (writer,)).fetchone()
        return _to_writer(found) if found else None

    def open_attachments(self) -> Mapping[str, Writer]:
        """Attachments without an end; see `lifecycle.ports.Store.open_attachments`."""
        with self._server.use() as db:
            found = db.ask(_OPEN).fetchall()
        return {attachment_id: _to_writer(values) for attachment_id, *values in found}

    def claim(self, claim: Claim, *, replacing: str | None = None) -> Claim | None:
        """Hold a key unless somebody else does; see `lifecycle.ports.Store.claim`.

        Raises:
            LeaseLost: The lease that it would be held under has ended, and another took it.
            StoreError: Nothing was written; or nobody knows, where the connection broke before the answer.
        """
        values = [*(getattr(claim, name) for name in _CLAIMED), replacing]
        with self._server.use() as db:
            while True:
                if db.ask(_CLAIM, values).fetchone():
                    return None
                held = db.ask(_HELD, (claim.adapter, claim.key)).fetchone()
                if held:  # else it was given up between the two
                    return Claim(**dict(zip(_CLAIMED, held, strict=True)))

    def unclaim(self, claim: Claim) -> None:
        """Give a key up; silent when `claim` does not hold it.

        Raises:
            StoreError: Nothing was written.
        """
        with self._server.use() as db:
            db.ask(
                "DELETE FROM claims WHERE adapter = %s AND key = %s AND attachment_id = %s",
                (claim.adapter, claim.key, claim.attachment_id),
            )


def _to_writer(values: Sequence[Any]) -> Writer:
    known = dict(zip((*_WRITER, *_STANDS), values, strict=True))
    return Writer(**{**known, "renewed_at": cast("datetime", known["renewed_at"]).astimezone(UTC)})


def _again(url: str, seconds: float) -> PostgresStore:
    return PostgresStore(url, seconds=seconds)


def script(*, roles: bool = True) -> str:
    """All that `PostgresStore.make` does to an empty database, as statements for whoever may do it there."""
    tables = "\n".join(_tables())
    return f"BEGIN;\n\n{tables}\n{_ABOUT};\n\n{_rights() if roles else ''}COMMIT;\n"


def _tables(*, since: int = 0) -> list[str]:
    """What makes tables of a version into those of this one; of none, the whole."""
    files = resources.files("lifecycle.stores")
    return [files.joinpath(name).read_text(encoding="utf-8") for name in _FILES[since:]]


def _rights() -> str:
    """What makes the roles, where they do not exist, and gives them their rights."""
    statements = [
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') "
        f"THEN CREATE ROLE {role} NOLOGIN; END IF; END $$;\n"
        for role in ROLES
    ]
    names = {role.rpartition("_")[2]: role for role in ROLES}
    return "".join([*statements, *(f"{grant.format(**names)};\n" for grant in _GRANTS)])


def _newer(version: int) -> tuple[str, str]:
    what = f"a newer version of lifecycle made its tables (schema {version}, this version knows {SCHEMA_VERSION})"
    return what, "upgrade this installation, or choose another database"


def _settled(db: Connection) -> int:
    """The number up to which no record can come any more."""
    ((last,),) = db.ask("SELECT settled()").fetchall()
    return int(last)


def _class_number(db: Connection, shape: Sequence[object]) -> int:
    """The number of a class of records, which is made where it does not exist."""
    shape = [list(part) if isinstance(part, tuple) else part for part in shape]
    names, places = ", ".join(_CLASS), ", ".join(["%s"] * len(_CLASS))
    where = " AND ".join(f"{name} = %s" for name in _CLASS)
    while True:
        found = db.ask(f"SELECT class FROM record_classes WHERE {where}", shape).fetchone()  # noqa: S608 - names of ours
        if found:
            return int(found[0])
        add = f"INSERT INTO record_classes ({names}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608
        db.ask(add, shape)


def _enter(db: Connection, entries: Sequence[tuple[str | None, bytes]], after: int) -> bool:
    """Add entries to the register, unless the last has not the number `after`."""
    found = db.ask("SELECT coalesce((SELECT seq FROM register ORDER BY seq DESC LIMIT 1), 0)").fetchone()
    if found != (after,):
        return False
    if not entries:
        return True
    writers, bodies = zip(*entries, strict=True)
    values = (
        list(range(after + 1, after + 1 + len(entries))),
        list(writers),
        [leaf_hash(body) for body in bodies],
        list(bodies),
    )
    statement = (
        "INSERT INTO register (seq, writer, hash, body) "
        "SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::bytea[]) AS e (seq, writer, hash, body) "
        "ORDER BY seq"
    )
    try:
        with db.transaction():  # a part of the one around it, where there is one
            db.ask(statement, values)
    except DatabaseError as e:
        if isinstance(e, errors.UniqueViolation) or e.sqlstate == _REFUSED:
            return False  # another process was faster
        raise
    return True


def _row_arrays(rows: Sequence[SessionRow]) -> list[object]:
    given: list[tuple[object, ...]] = []
    for row in rows:
        values: dict[str, Any] = {name: _told(getattr(row, name)) for name in _ROW_COLUMNS}
        for name in ("labels", "facts"):
            values[name] = orjson.dumps(dict(values[name]), option=orjson.OPT_SORT_KEYS).decode()
        given.append((*values.values(), "\n".join(label_texts(row.labels)) or None))
    return [list(column) for column in zip(*given, strict=True)]


def _told(value: object) -> object:
    """A value of a row as PostgreSQL can keep it, which has no text with a NUL in it."""
    return str(value).replace("\0", "\\x00") if isinstance(value, str) else value
