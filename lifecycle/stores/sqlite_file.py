"""One SQLite file with one connection, and what can happen to either.

Rule: no connection is open while this process forks. SQLite keeps its file locks in a table that a child inherits,
while the locks themselves stay with the parent: a child that then opens the same file believes it holds locks that it
does not, its parent deletes the write-ahead log under it, and records that were acknowledged are gone. So the
connection is closed before a fork and opened again at the next use. Where that was not possible (the fork was made
without Python's hooks, or a write would not end), the child refuses the file, and the inherited connection is kept
for ever: to finalize it is as harmful as to use it.

Source: "Carrying an open database connection across a fork()", https://www.sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SQLiteFile"]

_monotonic: Final = (time.monotonic,)  # in a tuple, where clock fakes do not find it

_PATIENCE: Final = 5.0
"""Seconds that one thread waits for another which uses the file, or forks."""

_POLL: Final = 0.002
"""Seconds between two looks at something that tells nobody when it is over."""

_making: Final = [threading.RLock()]
"""Held while an empty file is made. To close it takes the locks off it that this process has there by then: POSIX."""

Identity = tuple[int, int]


class SQLiteFile:
    """A SQLite database in WAL mode, whose connection may be closed and opened again between two uses.

    Args:
        path: Absolute path; made with mode 0600 when it does not exist.
        busy_timeout: Seconds to wait for other processes that write.
        prepare: Called with each new connection, to check the schema or make it.
    """

    def __init__(self, path: Path, *, busy_timeout: float, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._wal = f"{path}-wal"
        self._busy_timeout = busy_timeout
        self._prepare = prepare
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._is_open = False
        self._identity: Identity | None = None
        self._wal_identity: Identity | None = None
        _files[id(self)] = self

    def open(self) -> None:
        """Open the file, or make it. Idempotent. In a forked child: open it anew.

        Raises:
            StoreError: Names the file and the way out.
        """
        if self._pid != os.getpid():
            self.abandon()
            self._pid = os.getpid()
        if self._is_open:
            return
        self._identity = self._wal_identity = None
        self._is_open = True
        try:
            with self.use():
                pass
        except BaseException:
            self._is_open = False
            raise

    def close(self) -> None:
        """Close it. Idempotent; in a forked child it only forgets."""
        self._is_open = False
        if self._pid == os.getpid():
            self.suspend()

    def suspend(self) -> None:
        """Close the connection until the next use. Waits for a use that goes on, but not for ever."""
        if self._lock.acquire(timeout=_PATIENCE):
            try:
                db, self._db = self._db, None
                self._wal_identity = None
                if db is not None:
                    db.close()
            finally:
                self._lock.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without touching it."""
        if self._pid == os.getpid():
            return
        self._is_open = False
        self._lock = threading.Lock()  # the old one may be held by a thread that the child does not have
        if self._db is not None:
            _keep_for_ever(self._db)
            if self._identity is not None:
                _inherited.add(self._identity)
            self._db = None

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; every SQLite error leaves as StoreError."""
        lock = self._enter()
        try:
            try:
                self._check_place()
                if self._db is None:
                    self._db = self._connect()
                yield self._db
                self._check_place()
            except sqlite3.Error as e:
                raise self.error(*_explain(e, self.path, self._busy_timeout)) from e
            except OSError as e:
                raise self.error(f"{e.strerror or e}", "make the file and its folder writable for this user") from e
        finally:
            lock.release()

    def error(self, what: str, way_out: str) -> StoreError:
        """A StoreError about this file."""
        return StoreError(f"the store {self.path}: {what}; {way_out}", store=self.url)

    def _enter(self) -> threading.Lock:
        if self._pid != os.getpid():
            raise self.error(f"it was opened by process {self._pid}, which forked this one", "make a new Client")
        deadline = _monotonic[0]() + _PATIENCE
        while True:
            lock = self._lock
            if not lock.acquire(timeout=_PATIENCE):
                raise self.error("another thread has used it for too long", "try again")
            if not self._is_open:
                lock.release()
                raise self.error("it is closed", "make a new Client")
            # A thread that forks holds no lock meanwhile: a signal handler might strike it there and wait for us.
            if not _forking or _monotonic[0]() > deadline:
                return lock
            lock.release()
            time.sleep(_POLL)

    def _connect(self) -> sqlite3.Connection:
        if self._identity is None:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
            try:
                with _making[0]:
                    os.close(os.open(self.path, flags, 0o600))
            except FileExistsError:
                pass  # the usual case
            except FileNotFoundError as e:
                hint = "make it first; an absolute path takes four slashes, as in sqlite:////var/lib/records.db"
                raise self.error(f"its folder {self.path.parent} does not exist", hint) from e
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise self.error("it is not a regular file", "name a file")
        identity = (status.st_dev, status.st_ino)
        if identity in _inherited:
            raise self.error(
                "the process that forked this one was using it at that moment, so it can't be opened safely here",
                "choose another file with store=, or start processes with spawn",
            )
        db = sqlite3.connect(self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
            self._use_wal(db)
            # Whoever changes the mode opens the log, and locks it against deletion, at its first read only.
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA trusted_schema=OFF")
            db.execute("PRAGMA journal_size_limit=16777216")
        except BaseException:
            db.close()
            raise
        if self._identity is None:
            self._identity = identity
        return db

    def _use_wal(self, db: sqlite3.Connection) -> None:
        # A change of mode needs the file for itself for a moment, and SQLite does not wait for that by itself.
        deadline = _monotonic[0]() + self._busy_timeout
        while True:
            try:
                mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as e:
                if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or _monotonic[0]() > deadline:
                    raise
            time.sleep(_POLL)
        if mode != "wal":
            raise self.error(f"its file system has no write-ahead log (mode {mode!r})", "put it on a local disk")

    def _check_place(self) -> None:
        """Refuse a file that is gone: SQLite would go on writing where nobody finds it."""
        if self._identity is None:
            return
        if _identity_of(self.path) != self._identity:
            raise self.error("it was moved, deleted or replaced while in use", "put it back, or make a new Client")
        if self._db is None:
            return
        wal = _identity_of(self._wal)
        if self._wal_identity is None:
            self._wal_identity = wal
        elif wal != self._wal_identity:
            raise self.error("its -wal file was deleted while in use", "make a new Client, and leave that file alone")


def _identity_of(path: Path | str) -> Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - twice as fast, and called four times for each write
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _explain(error: sqlite3.Error, path: Path, busy_timeout: float) -> tuple[str, str]:
    """What went wrong and the way out. Source of the codes: https://www.sqlite.org/rescode.html."""
    code = getattr(error, "sqlite_errorcode", None)
    table = {
        sqlite3.SQLITE_FULL: ("the disk is full", "free some space"),
        sqlite3.SQLITE_BUSY: (
            f"another process has kept it locked for more than {busy_timeout:g} s",
            f"end the process that holds it (lsof {path} names it)",
        ),
        sqlite3.SQLITE_READONLY: ("it is read-only", "make the file and its folder writable for this user"),
        sqlite3.SQLITE_PERM: ("access is denied", "make the file and its folder writable for this user"),
        sqlite3.SQLITE_CANTOPEN: (
            "it or the -wal file beside it can't be opened",
            "make the file and its folder writable for this user",
        ),
        sqlite3.SQLITE_NOTADB: ("it is not an SQLite database", "move it away or choose another file"),
        sqlite3.SQLITE_CORRUPT: (
            "it is damaged",
            f"move it away, or save what is left with: sqlite3 {path} .recover",
        ),
        sqlite3.SQLITE_IOERR: (
            "reading or writing failed (a full disk, a limit on the size of files, or a failing disk)",
            "free some space and look at the disk",
        ),
    }
    what, way_out = table.get(code & 0xFF if code is not None else -1, ("SQLite refused", "choose another file"))
    return f"{what} ({getattr(error, 'sqlite_errorname', type(error).__name__)}: {error})", way_out


# --- forks ------------------------------------------------------------------------------------------------------

_files: Final[weakref.WeakValueDictionary[int, SQLiteFile]] = weakref.WeakValueDictionary()
_forking: Final[list[None]] = []
"""One entry for each thread that is forking now. A list, because its append and pop need no lock."""
_inherited: Final[set[Identity]] = set()
"""Files that a parent of this process had open at the moment of the fork."""
_kept: Final[list[object]] = []


def _all_files() -> list[SQLiteFile]:
    return [file for ref in _files.valuerefs() if (file := ref()) is not None]


def _before_fork() -> None:
    _forking.append(None)
    for file in _all_files():
        file.suspend()


def _after_fork_in_parent() -> None:
    _forking.pop()


def _after_fork_in_child() -> None:
    _forking.clear()
    _making[0] = threading.RLock()  # a thread that the child does not have may hold the old one
    for file in _all_files():
        file.abandon()


def _keep_for_ever(thing: object) -> None:
    """Keep `thing` past the end of the interpreter, which clears the globals of every module."""
    _kept.append(thing)
    try:
        import ctypes  # noqa: PLC0415 - only in a child that inherited an open connection

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    except (ImportError, AttributeError):
        return  # built without ctypes, or not CPython: the list keeps it as long as the interpreter lives


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
