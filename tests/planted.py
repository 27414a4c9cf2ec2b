"""Secrets of the tests, each of which holds a mark; and the search for that mark in what a run writes.

Records, errors and lines of the log are looked at as they are made, databases and what else is left in files at the end
of the run. The file of cookies, or a browser's own, is where such a thing belongs, and is not searched.
"""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["API_KEY", "COOKIE", "FORM", "QUERY", "TOKEN", "found", "in_files", "watch"]

_MARK: Final = "c4n4ry"

API_KEY: Final = f"{_MARK}-api-key"
COOKIE: Final = f"{_MARK}-cookie"
FORM: Final = f"{_MARK}-form-value"
QUERY: Final = f"{_MARK}-query-string"
TOKEN: Final = f"{_MARK}-token-of-the-tests"

found: Final[list[str]] = []
"""What was found since it was last cleared."""

_DATABASE: Final = b"SQLite format 3\0"
_OURS: Final = (0x6C696665).to_bytes(4, "big")
"""The id of our databases, at byte 68."""

_WRITTEN: Final = frozenset({".csv", ".html", ".jsonl", ".log"})
"""Endings of other files of ours: reports, exports, and records that a store refused."""


def watch() -> None:
    """Look at each record, error and line of the log of this process, from now on."""
    logging.getLogger("lifecycle").addHandler(_Lines())
    audit, errors = sys.modules["lifecycle.audit.record"], sys.modules["lifecycle.errors"]
    _after(audit.Record, "_encode", lambda record, body: _look(f"a record ({record.kind})", body.decode()))
    _after(errors.LifecycleError, "__init__", lambda error, _: _look(type(error).__name__, f"{error}{vars(error)}"))


def in_files(*folders: Path) -> list[str]:
    """Files below that hold what they must not."""
    return [str(path) for folder in folders for path in _files(folder) if _MARK.encode() in path.read_bytes()]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix in _WRITTEN or path.name.startswith("proof"):
            yield path
        elif path.stat().st_size >= 100:
            with path.open("rb") as file:
                head = file.read(72)
            if head.startswith(_DATABASE) and head[68:] == _OURS:
                yield from (path, *path.parent.glob(f"{path.name}-wal"))


def _look(what: str, text: str) -> None:
    if _MARK in text:
        at = text.index(_MARK)
        found.append(f"{text[at : at + 20]} is in {what}: {text[max(at - 200, 0) : at + 40]}")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _look("the log", self.format(record))


def _after(kind: Any, name: str, look: Callable[[Any, Any], None]) -> None:
    """Have `look` called with the object and the result of a method, after each call of it."""
    method = getattr(kind, name)

    @functools.wraps(method)
    def looked_at(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        look(self, result)
        return result

    setattr(kind, name, looked_at)
