"""``lifecycle audit export``: the log as lines of JSON, or as a table for spreadsheets.

Rule: JSON lines are the stored bytes. In a CSV file no text of the log can become a formula: a text that begins with
a sign that spreadsheets take for the beginning of one gets an apostrophe before it, and so does one that begins with an
apostrophe, so that the mark can be taken off again. Numbers and times are the library's own and stay as they are.
Source of the signs: "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection.

A file is whole or not there: it is written beside its place, put on disk, and moved there at the end.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import orjson

from lifecycle.audit import StepOutcome
from lifecycle.audit.query import slowest_of
from lifecycle.cookies.atomic import sync_folder
from lifecycle.errors import ConfigError

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.audit.query import Query
    from lifecycle.trail import AuditTrail

__all__ = ["COLUMNS", "export", "plain"]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")
"""What a cell must not begin with; the four after the line breaks are full-width forms of the first four."""

COLUMNS: Final[dict[str, Callable[[Record], str | int | float | None]]] = {
    "at": lambda r: r.at.isoformat(),
    "session_id": lambda r: r.session_id,
    "attachment_id": lambda r: r.attachment_id,
    "attachment_seq": lambda r: r.attachment_seq,
    "writer": lambda r: r.writer,
    "writer_seq": lambda r: r.writer_seq,
    "kind": lambda r: r.kind,
    "event": lambda r: r.event,
    "source": lambda r: r.source,
    "dest": lambda r: r.dest,
    "in_flight": lambda r: r.in_flight,
    "cause": lambda r: r.cause,
    "close_reason": lambda r: r.close_reason,
    "error": lambda r: r.error,
    "adapter": lambda r: r.adapter,
    "slowest_ms": slowest_of,
    "steps": lambda r: "; ".join(f"{s.step}={s.outcome} {s.ms:g} ms" for s in r.steps),
    "failed_steps": lambda r: "; ".join(
        f"{s.step}={s.error or s.outcome}" for s in r.steps if s.outcome not in (StepOutcome.DONE, StepOutcome.SKIPPED)
    ),
    "guards_not_held": lambda r: "; ".join(g.guard for g in r.guards if not g.held),
    "counts": lambda r: "; ".join(f"{name}={n}" for name, n in sorted(r.counts.items())),
    "note": lambda r: r.note,
    "labels": lambda r: orjson.dumps(dict(r.labels), option=orjson.OPT_SORT_KEYS).decode(),
    "host": lambda r: r.host,
    "pid": lambda r: r.pid,
    "thread": lambda r: r.thread,
    "library": lambda r: r.library,
}
"""The columns after the number, each with what is in it."""


def plain(cell: str | float | None) -> str | float | None:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA) else cell


def export(trail: AuditTrail, query: Query, *, form: str, path: Path | None) -> int:
    """Write the records that a query wants, oldest first, to a file or to stdout.

    Returns:
        How many they are.

    Raises:
        ConfigError: The file can't be made.
        StoreError: The store or a record can't be read.
    """
    lines = _jsonl(trail, query) if form == "jsonl" else _csv(trail, query)
    count = 0
    with _target(path) as out:
        if form == "csv":
            out.write(_row(["number", *COLUMNS]))
        for count, line in enumerate(lines, 1):  # noqa: B007 - the last one is the count
            out.write(line)
    return count


def _jsonl(trail: AuditTrail, query: Query) -> Iterator[bytes]:
    for _, body in trail.bodies(query):
        yield body + b"\n"


def _csv(trail: AuditTrail, query: Query) -> Iterator[bytes]:
    for number, record in trail.entries(query):
        yield _row([number, *(plain(cell(record)) for cell in COLUMNS.values())])


def _row(cells: list[str | int | float | None]) -> bytes:
    """One line, with the line ending of RFC 4180."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


@contextmanager
def _target(path: Path | None) -> Iterator[IO[bytes]]:
    """Stdout, or a file that takes its place at the end of the block, for its user alone."""
    if path is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = path.absolute()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if path.is_dir():
            raise ConfigError(option="output", value=str(path), allowed="a file, and not a folder")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as e:
        allowed = f"a file that can be made: {e.strerror or e}"
        raise ConfigError(option="output", value=str(path), allowed=allowed) from e
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(fd)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
