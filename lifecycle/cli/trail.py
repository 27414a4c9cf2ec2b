"""``lifecycle audit``: the transition log as a table, in numbers, as it grows, and as a file.

Rule: reading opens the store and nothing else. What a program reads (``--json``, ``export``) is streamed, and is the
stored bytes where it is a record.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.audit.query import Query
from lifecycle.cli.cursor import Cursor, open_cursor
from lifecycle.cli.filters import Filters, query_of
from lifecycle.cli.signals import Interrupted
from lifecycle.cli.tables import record_line, records_table, stats_tables
from lifecycle.cli.terminal import err, marks, out, print_block, print_json
from lifecycle.signals import heeded_signals
from lifecycle.stores.common import decode
from lifecycle.trail import AuditTrail

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["export_log", "follow_log", "print_log", "print_stats"]

RECORDS_SHOWN: Final = 100
"""Newest records in a table of all sessions, where nothing else was asked for."""


@contextmanager
def _asked(store: str | None, session: str | None, filters: Filters) -> Iterator[tuple[AuditTrail, Query]]:
    """The trail of a store and what is asked of it."""
    query_of(filters)  # told before a store is opened, or made
    from lifecycle.cli.stored import find_session, reading  # noqa: PLC0415 - it loads the client, for sessions

    with reading(store) as opened:
        found = find_session(opened, session) if session is not None else None
        yield AuditTrail(opened), query_of(filters, session=found)


def print_log(session: str | None, filters: Filters, *, limit: int | None, store: str | None, as_json: bool) -> None:
    """Print the transition log, oldest first: of one session whole, of all the newest records."""
    with _asked(store, session, filters) as (trail, query):
        if as_json:
            _write(body + b"\n" for _, body in trail.bodies(query, last=limit))
            return
        if limit is None and session is None:
            limit = RECORDS_SHOWN
        # One more than is shown tells whether there are more.
        last = limit + 1 if limit is not None else None
        records = [entry.record for entry in trail.entries(query, last=last)]
        url = trail.url
    cut = limit is not None and len(records) > limit
    if cut:
        records = records[1:]
    if not records:
        print(f"no {'such ' if query.given else ''}records in {url}")
        return
    console = out(table=True)
    print_block(console, records_table(records, console))
    if cut:
        err().print(f"the newest {limit} records; --limit N shows more", style="dim")


def print_stats(session: str | None, filters: Filters, *, store: str | None, as_json: bool) -> None:
    """Print times in states, times of steps, endings and failures."""
    with _asked(store, session, filters) as (trail, query):
        stats = trail.stats(query)
        url = trail.url
    if as_json:
        print_json(stats, indent=True)
        return
    if not stats.records:
        print(f"no {'such ' if query.given else ''}records in {url}")
        return
    console = out(table=True)
    for n, table in enumerate(stats_tables(stats, console)):
        if n:
            print()
        print_block(console, table)


def export_log(session: str | None, filters: Filters, *, form: str, path: Path | None, store: str | None) -> None:
    """Write the log to a file or to stdout."""
    from lifecycle.cli.export import export  # noqa: PLC0415 - only this needs it

    target = None if path is None or str(path) == "-" else path
    with _asked(store, session, filters) as (trail, query):
        count = export(trail, query, form=form, path=target)
    if target is not None:
        print(f"{count} records in {target}")


def follow_log(
    session: str | None, filters: Filters, *, cursor_file: Path | None, store: str | None, as_json: bool
) -> None:
    """Print records as they come, until a signal ends it; each at least once with a cursor file."""
    with _asked(store, session, filters) as (trail, query), _until_a_signal() as wait:
        held = open_cursor(cursor_file, trail, query) if cursor_file is not None else nullcontext()
        with held as cursor:
            _follow(trail, query, cursor, wait=wait, as_json=as_json)


def _follow(
    trail: AuditTrail, query: Query, cursor: Cursor | None, *, wait: Callable[[float], None], as_json: bool
) -> None:
    signs = marks(out())

    def line(number: int, body: bytes) -> bytes:
        if as_json:
            return body + b"\n"
        text = record_line(decode(number, body, store=trail.url), signs)
        return (text + "\n").encode(sys.stdout.encoding, "replace")

    _begin_a_line()
    for news in trail.follow(query, after=cursor.after if cursor is not None else trail.newest(), wait=wait):
        if news.bodies:
            _write(line(number, body) for number, body in news.bodies)
            _sync_stdout()
        if cursor is not None:  # only now: what is written out may be printed again, and nothing is left out
            cursor.move(news.after)
        wait(0)


@contextmanager
def _until_a_signal() -> Iterator[Callable[[float], None]]:
    """A wait that raises `Interrupted` once a signal asked for the end, so that no line and no cursor is half done.

    A second signal does not wait for that: the reader of stdout may not come back.
    """
    struck: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        struck.append(signum)
        if len(struck) > 1:
            raise Interrupted(signum)

    def wait(seconds: float) -> None:
        if seconds and not struck:
            time.sleep(seconds)
        if struck:
            raise Interrupted(struck[0])

    if threading.current_thread() is not threading.main_thread():
        yield wait
        return
    before = heeded_signals()
    try:
        for number in before:
            signal.signal(number, note)
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(lines: Iterable[bytes]) -> None:
    sys.stdout.flush()
    for line in lines:
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _stdout_file() -> int | None:
    """The descriptor of stdout where that is a file on a disk."""
    try:
        fd = sys.stdout.fileno()
        return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except (OSError, ValueError):
        return None


def _sync_stdout() -> None:
    """Put on disk what was printed into a file: the cursor, which is put there next, must not know more."""
    fd = _stdout_file()
    if fd is not None:
        os.fsync(fd)


def _begin_a_line() -> None:
    """End the line that a reader which was killed has left half written in the file that stdout is."""
    fd = _stdout_file()
    if fd is None or os.fstat(fd).st_size == 0:
        return
    try:
        with open(f"/dev/fd/{fd}", "rb") as printed:  # noqa: PTH123 - it may be open for writing only
            printed.seek(-1, os.SEEK_END)
            whole = printed.read(1) == b"\n"
    except OSError:  # a system without that folder, or a file that may not be read: nothing is known of its end
        return
    if not whole:
        _write([b"\n"])
