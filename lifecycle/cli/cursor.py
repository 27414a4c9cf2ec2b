"""How far ``lifecycle audit follow`` has come, in a file.

Rule: the file says at every moment that a record was printed only where it was. It is replaced in one step, on disk
before the next page is read, and held by one reader at a time. It knows its place by the record there, and not by a
number or a path alone: on any other log it is refused, and on a copy that was moved it goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from lifecycle.audit.query import Query
from lifecycle.cookies.atomic import locked, read_file, replace_file, sync_folder
from lifecycle.errors import ConfigError

if TYPE_CHECKING:
    from lifecycle.trail import AuditTrail

__all__ = ["Cursor", "open_cursor"]

_VERSION: Final = 1


class Cursor:
    """A place in a log that outlives the process. Made by `open_cursor`.

    Attributes:
        after: Records up to this number have been printed, or were not wanted.
    """

    def __init__(self, path: Path, trail: AuditTrail, query: Query) -> None:
        self.after = 0
        self._path = path
        self._trail = trail
        self._filters = _filters(query)

    def load(self) -> None:
        """Read where to go on; at the first record where there is no file yet.

        Raises:
            ConfigError: The file is none of ours, or is that of another log or of other filters.
        """
        try:
            raw = read_file(self._path)
        except OSError as e:
            raise self._refused(f"a file that can be read: {e.strerror or e}") from e
        if raw is None:
            return
        kept = self._parse(raw)
        if kept["filters"] != self._filters:
            shown = ", ".join(f"{name}={value}" for name, value in kept["filters"].items()) or "no filters"
            raise self._refused(f"a cursor of the same filters; this one has {shown}; name another file for others")
        if kept["number"] == 0:
            same = kept["store"] == self._trail.url
        else:
            same = self._digest(kept["number"]) == kept["digest"]
        if not same:
            raise self._refused(
                f"a cursor of the log in {self._trail.url}; this one is of {kept['store']}, or of a log that was there "
                "before; name another file, or remove it to print all records again"
            )
        self.after = kept["number"]

    def move(self, after: int) -> None:
        """Go on from there the next time; on disk when it returns. Call it once what is before has been written out.

        Raises:
            ConfigError: The file can't be written.
        """
        kept = {
            "version": _VERSION,
            "store": self._trail.url,
            "number": after,
            "digest": self._digest(after),
            "filters": self._filters,
        }
        try:
            replace_file(self._path, orjson.dumps(kept) + b"\n")
            sync_folder(self._path.parent)
        except OSError as e:
            raise self._refused(f"a file that can be written: {e.strerror or e}") from e
        self.after = after

    def _parse(self, raw: bytes) -> Mapping[str, Any]:
        allowed = "a file that `lifecycle audit follow` of this version has written; name another one"
        try:
            kept = orjson.loads(raw)
            found = {name: kept[name] for name in ("store", "number", "digest", "filters")}
        except (ValueError, KeyError, TypeError) as e:
            raise self._refused(allowed) from e
        if (
            kept.get("version") != _VERSION
            or type(found["number"]) is not int
            or not isinstance(found["filters"], dict)
        ):
            raise self._refused(allowed)
        return found

    def _digest(self, number: int) -> str | None:
        """What tells the record with a number from any other; None where there is none."""
        found = self._trail.at(number)
        return hashlib.sha256(found).hexdigest() if found is not None else None

    def _refused(self, allowed: str) -> ConfigError:
        return ConfigError(option="cursor-file", value=str(self._path), allowed=allowed)


def _filters(query: Query) -> dict[str, Any]:
    """The filters as they are kept. Not the times: a span back from now is another one each time."""
    given = {name: value for name, value in query.given.items() if name not in ("since", "until")}
    kept: dict[str, Any] = orjson.loads(orjson.dumps(given, default=dict, option=orjson.OPT_SORT_KEYS))
    return kept


@contextmanager
def open_cursor(path: Path, trail: AuditTrail, query: Query) -> Iterator[Cursor]:
    """The cursor in a file, for the block, for one process at a time.

    Raises:
        ConfigError: Another process has it, or it is none for this log and these filters.
    """
    path = path.absolute()
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, timeout=0))
        except TimeoutError as e:
            allowed = "a file that no other process follows with; name another one"
            raise ConfigError(option="cursor-file", value=str(path), allowed=allowed) from e
        except OSError as e:
            allowed = f"a file in a folder that can be written to: {e.strerror or e}"
            raise ConfigError(option="cursor-file", value=str(path), allowed=allowed) from e
        cursor = Cursor(path, trail, query)
        cursor.load()
        yield cursor
