"""Rescue files of the log: what a store refused, kept where it survives the process until the store takes it.

Rule: a file is made whole or not at all, and what is added to it is one line, which counts once it is ended. The first
line says which store refused, and which process wrote it; each line after it is one write, of records, each a text of
the bytes that the store would keep, and of ledger rows. Of rows of one session the last counts.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from lifecycle.audit import Record
from lifecycle.ports import SessionRow, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Spilled", "add", "keep", "kept", "read"]

_NAME: Final = "lifecycle-records-{}.jsonl"
_RECORD: Final = b'{"record":'  # a line of version 0.0, as is one that begins with a row


@dataclass(frozen=True, slots=True)
class Spilled:
    """What a rescue file holds.

    Attributes:
        store: URL of the store that refused.
        writer: The process that wrote the file.
        records: The records, in their order.
        rows: The ledger rows, one of a session.
        torn: It ends in the middle of a write, which was not acknowledged unless the file was torn later.
    """

    store: str
    writer: Writer
    records: Sequence[Record]
    rows: Sequence[SessionRow]
    torn: bool = False


def _folders() -> tuple[Path, ...]:
    import platformdirs  # noqa: PLC0415 - only needed here

    return (Path(platformdirs.user_state_dir("lifecycle")) / "rescue", Path(tempfile.gettempdir()))


def keep(spilled: Spilled) -> Path | None:
    """Write a rescue file, in place of an earlier one of the same writer; None where none can be written. Blocks."""
    head = {"store": spilled.store, "writer": asdict(spilled.writer)}
    lines = [orjson.dumps(head), _line(spilled.records, spilled.rows)]
    try:
        folders = _folders()
    except OSError:
        return None  # there is no folder for temporary files either
    for folder in folders:
        path = folder / _NAME.format(spilled.writer.writer)
        part = path.with_suffix(".part")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(b"".join(line + b"\n" for line in lines))
                f.flush()
                os.fsync(f.fileno())
            part.replace(path)
            _sync_folder(folder)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            continue  # the next place; None tells the caller that there was none
        return path
    return None


def _sync_folder(folder: Path) -> None:
    """Have the name of a file on disk, too; where folders can be opened for it."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _line(records: Sequence[Record], rows: Sequence[SessionRow]) -> bytes:
    return orjson.dumps({"records": [record.to_json().decode() for record in records], "rows": rows}, default=dict)


def add(path: Path, records: Sequence[Record], rows: Sequence[SessionRow]) -> bool:
    """Add to a rescue file of this process; False where that can't be, and another has to be written. Blocks."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(fd, "ab") as f:
            f.write(_line(records, rows) + b"\n")
            f.flush()
            os.fsync(f.fileno())
    except OSError:
        return False
    return True


def kept() -> list[Path]:
    """The rescue files of this user, of any store and process. Blocks."""
    return sorted(path for folder in _folders() for path in folder.glob(_NAME.format("*")) if _mine(path))


def _mine(path: Path) -> bool:
    """True for a plain file of this user's: the folder for temporary files is everybody's."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not path.is_symlink() and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def read(path: Path) -> Spilled:
    """What a rescue file holds. Blocks.

    Raises:
        ValueError: It is no rescue file of a version that this one reads.
        OSError: It can't be read.
    """
    first, *raw, end = path.read_bytes().split(b"\n")
    head = orjson.loads(first)
    records: list[Record] = []
    rows: dict[str, SessionRow] = {}
    try:
        for line in raw:
            told = orjson.loads(line)
            # Texts, or cut out, and not made anew: their bytes are what hashes were taken of.
            old = [line[len(_RECORD) : -1]] if line.startswith(_RECORD) else []
            records += [Record.from_json(text) for text in told.get("records", old)]
            rows |= {
                r["session_id"]: SessionRow.of(r) for r in told.get("rows", [told["row"]] if "row" in told else ())
            }
        writer = Writer(**{**head["writer"], "renewed_at": datetime.fromisoformat(head["writer"]["renewed_at"])})
        return Spilled(head["store"], writer, records, list(rows.values()), torn=bool(end))
    except (KeyError, TypeError, AttributeError) as e:
        msg = f"{path} is no rescue file: {type(e).__name__}: {e}"
        raise ValueError(msg) from e
