"""One connection to a PostgreSQL server, and what can happen to it.

Rule: nothing waits for ever. A server that gives no answer in time is given up, and with it the connection, because
what it would still answer is of no use to anybody; the next use connects anew. Every error leaves as StoreError, says
what is wrong and what to do, and holds no password.

A child that is forked has the socket of its parent, and whatever it said on it, even goodbye, would be taken for the
parent's words. So the child's end is made one of nothing before anything there can speak.
"""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import conninfo
from psycopg.pq import TransactionStatus

from lifecycle.errors import ConfigError, LeaseLost, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["LOST", "NO_TABLES", "Connection", "Server"]

RV = TypeVar("RV")
Parameters = Sequence[object] | Mapping[str, object]

_ENTER_SECONDS: Final = 60.0
"""How long one thread waits for another that uses the connection."""

_SET: Final = (
    # Each statement by itself is short, and none is left half way: this is for a program that was stopped in between.
    ("idle_in_transaction_session_timeout", "10s"),
    ("lock_timeout", "10s"),
    ("synchronous_commit", "on"),  # what is acknowledged is on disk, whatever the role or the database is set to
    ("search_path", "lifecycle, pg_temp"),
    ("enable_seqscan", "off"),  # a plan that is made while a table is small is kept while it grows; all has an index
    ("jit", "off"),
    ("timezone", "UTC"),
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
)

_STALE: Final = "LC004"
"""The code with which a trigger of ours refuses a writer whose lease was taken."""

LOST: Final = (
    "the store {}: the lease of this process has ended, and another may have taken over what it held; nothing was "
    "written"
)

_KEEPALIVE: Final = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for an answer so many seconds, and no longer.

    Attributes:
        seconds: How long; None for as long as it takes.
    """

    seconds: float | None = None

    def wait(self, gen: Generator[Any, Any, RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server; called by psycopg for whatever it asks."""
        return super().wait(gen, interval, self.seconds if timeout is None else timeout)

    def ask(
        self,
        statement: str,
        parameters: Sequence[object] | Mapping[str, object] = (),
        *,
        prepare: bool | None = None,
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Carry out a statement that was put together from texts of ours, with values that are bound."""
        return self.execute(statement.encode(), parameters or None, prepare=prepare)

    def __del__(self, *_: object) -> None:
        """Hang up without a warning: with a store that is dropped nothing is lost, whatever it is made of."""
        self.close()


class Server:
    """A database on a server, whose connection may be lost and made anew between two uses.

    Args:
        url: A libpq URL, ``postgresql://user@host/database``. What it leaves out comes from the usual environment
            variables (PGHOST, PGPASSWORD, ...) and files (``~/.pgpass``, the service file).
        seconds: How long to wait for a connection or an answer.
        prepare: Called with each new connection, to check the schema.

    Raises:
        ConfigError: It is no such URL.
    """

    def __init__(self, url: str, *, seconds: float, prepare: Callable[[Connection], None]) -> None:
        try:
            given = conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # what it says may have a part of a password in it
            allowed = "postgresql://USER@HOST:PORT/DATABASE, with %XX for characters that mean something there"
            raise ConfigError(option="store", value="postgresql://...", allowed=allowed) from None
        self._conninfo = url
        self.url = _shown(given)
        self._options: dict[str, Any] = {k: v for k, v in _KEEPALIVE.items() if k not in given}
        self._options.setdefault("application_name", given.get("application_name") or "lifecycle")
        # Of what is sent and not even received, the system waits for a quarter of an hour else.
        self._options.setdefault("tcp_user_timeout", given.get("tcp_user_timeout") or str(round(seconds * 1000)))
        self._options.setdefault("connect_timeout", given.get("connect_timeout") or str(max(2, round(seconds))))
        self._seconds = seconds
        self._prepare = prepare
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._pid = os.getpid()
        self._is_open = False
        _servers[id(self)] = self

    def open(self) -> None:
        """Connect. Idempotent; in a forked child it connects anew.

        Raises:
            StoreError: Names the server and the way out.
        """
        if self._pid != os.getpid():
            self.abandon()
            self._pid = os.getpid()
        if self._is_open:
            return
        self._is_open = True
        try:
            with self.use():
                pass
        except BaseException:
            self._is_open = False
            raise

    def close(self) -> None:
        """Close the connection. Idempotent; in a forked child it only forgets."""
        self._is_open = False
        if self._pid == os.getpid() and self._lock.acquire(timeout=self._seconds):
            try:
                self._drop()
            finally:
                self._lock.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without a word."""
        if self._pid == os.getpid():
            return
        self._is_open = False
        self._lock = threading.Lock()  # the old one may be held by a thread that the child does not have
        connection, self._connection = self._connection, None
        if connection is not None and not connection.closed:
            nowhere = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(nowhere, connection.fileno(), inheritable=False)
            finally:
                os.close(nowhere)

    @contextmanager
    def use(self, *, seconds: float | None = -1) -> Iterator[Connection]:
        """The connection, for one thread at a time; every error of PostgreSQL's leaves as StoreError.

        Args:
            seconds: How long to wait for each answer, instead of the usual; None for as long as it takes.
        """
        if self._pid != os.getpid():
            raise self.error(f"it was opened by process {self._pid}, which forked this one", "make a new Client")
        if not self._lock.acquire(timeout=_ENTER_SECONDS):
            raise self.error("another thread has used it for too long", "try again")
        try:
            if not self._is_open:
                raise self.error("it is closed", "make a new Client")
            try:
                connection = self._usable()
                connection.seconds = self._seconds if seconds == -1 else seconds
                yield connection
            except psycopg.Error as e:
                if e.sqlstate == _STALE:
                    raise LeaseLost(LOST.format(self.url), store=self.url) from e
                raise self.error(*self._explain(e)) from e
            finally:
                self._look_after()
        finally:
            self._lock.release()

    def error(self, what: str, way_out: str) -> StoreError:
        """A StoreError about this server."""
        return StoreError(f"the store {self.url}: {what}; {way_out}", store=self.url)

    def _usable(self) -> Connection:
        """The connection, made anew where the server has hung up since the last use."""
        connection = self._connection
        if connection is not None and not connection.closed and select.select([connection], [], [], 0)[0]:
            self._drop()  # between two questions a server says nothing, but that it is going away
        if self._connection is None or self._connection.closed:
            self._drop()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        connection = Connection.connect(self._conninfo, autocommit=True, **self._options)
        try:
            connection.seconds = self._seconds
            names = ", ".join(f"set_config('{name}', %s, false)" for name, _ in _SET)
            connection.ask(f"SELECT {names}", [value for _, value in _SET])
            connection.prepare_threshold = 2
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _look_after(self) -> None:
        """Give up a connection that is not at rest: an answer may still be under way, or a transaction left open."""
        connection = self._connection
        if connection is not None and connection.info.transaction_status != TransactionStatus.IDLE:
            self._drop()

    def _explain(self, error: psycopg.Error) -> tuple[str, str]:
        """What went wrong and the way out. Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html."""
        state = error.sqlstate
        said = " ".join(str(error.diag.message_primary or error).split())
        if state is not None:
            for prefix, (what, way_out) in _CODES.items():
                if state.startswith(prefix):
                    return f"{what} ({state}: {said})", way_out
            return f"PostgreSQL refused ({state}: {said})", "see what the server has written to its own log"
        if "timeout expired" in said or type(error).__name__ == "_WaitTimeout":
            what = f"no answer within {self._seconds:g} s"
            return what, "see whether the server runs, and is not stopped or overloaded"
        way_out = "see that the server runs, has this database (createdb) and lets this user in, or correct the URL"
        return f"it can't be reached ({said})", way_out


NO_TABLES: Final = ("it has no tables of lifecycle", "make them with: lifecycle store init")
"""What is wrong, and the way out, where a database was never made a store."""

_CODES: Final = {
    "3F000": NO_TABLES,
    "42P01": NO_TABLES,
    "42501": ("this role may not do that", "give it one of the roles that `lifecycle store init` made"),
    "LC003": ("the log is read by its numbers at the primary server only", "name that"),
    "25006": ("it takes no writes, as a replica does", "name the primary server"),
    "53100": ("the disk of the server is full", "free some space there"),
    "53": ("the server has no room", "raise its limits, or use fewer clients"),
    "57P": ("the server is going down or coming up", "try again when it is up"),
    "57014": ("the server broke it off", "see what the server has written to its own log"),
    "55P03": ("another transaction holds a lock for too long", "end it; pg_stat_activity names it"),
    "40": ("two transactions were in each other's way", "try again"),
    "08": ("the connection broke", "see whether the server runs"),
    "XX": ("the database is damaged", "see what the server has written to its own log"),
}
"""By the beginning of the code, the most special one first."""


def _shown(given: dict[str, Any]) -> str:
    """The URL without user, password and parameters: what tells one database from another."""
    host = str(given.get("host") or os.environ.get("PGHOST") or given.get("hostaddr") or "localhost")
    hosts = [quote(h, safe="") if h.startswith("/") else f"[{h}]" if ":" in h else h for h in host.split(",")]
    port = str(given.get("port") or os.environ.get("PGPORT") or "5432")
    user = given.get("user") or os.environ.get("PGUSER") or ""
    name = str(given.get("dbname") or os.environ.get("PGDATABASE") or user or "postgres")
    ports = port.split(",")
    places = ",".join(f"{each}:{ports[min(n, len(ports) - 1)]}" for n, each in enumerate(hosts))
    return f"postgresql://{places}/{quote(name, safe='')}"


# --- forks ------------------------------------------------------------------------------------------------------

_servers: Final[weakref.WeakValueDictionary[int, Server]] = weakref.WeakValueDictionary()


def _after_fork_in_child() -> None:
    for ref in _servers.valuerefs():
        server = ref()
        if server is not None:
            server.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
