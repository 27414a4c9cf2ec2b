"""Rescue files of the log: what a store refused, kept where it survives the process until the store takes it.

Rule: a file is whole or not there at all. Its first line says which store refused, and which process wrote it; each
line after it is a record, as the bytes that the store would keep, or a ledger row.
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

__all__ = ["Spilled", "keep", "kept", "read"]

_NAME: Final = "lifecycle-records-{}.jsonl"
_RECORD: Final = b'{"record":'


@dataclass(frozen=True, slots=True)
class Spilled:
    """What a rescue file holds.

    Attributes:
        store: URL of the store that refused.
        writer: The process that wrote the file.
        records: The records, in their order.
        rows: The ledger rows, one of a session.
    """

    store: str
    writer: Writer
    records: Sequence[Record]
    rows: Sequence[SessionRow]


def _folders() -> tuple[Path, ...]:
    import platformdirs  # noqa: PLC0415 - only needed here

    return (Path(platformdirs.user_state_dir("lifecycle")) / "rescue", Path(tempfile.gettempdir()))


def keep(spilled: Spilled) -> Path | None:
    """Write a rescue file, in place of an earlier one of the same writer; None where none can be written. Blocks."""
    head = {"store": spilled.store, "writer": asdict(spilled.writer)}
    lines = [orjson.dumps(head)]
    lines += [_RECORD + record.to_json() + b"}" for record in spilled.records]
    lines += [b'{"row":' + orjson.dumps(row, default=dict) + b"}" for row in spilled.rows]
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
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            continue  # the next place; None tells the caller that there was none
        return path
    return None


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
    first, *raw = path.read_bytes().splitlines()
    head = orjson.loads(first)
    lines = [orjson.loads(line) for line in raw if not line.startswith(_RECORD)]
    try:
        writer = Writer(**{**head["writer"], "renewed_at": datetime.fromisoformat(head["writer"]["renewed_at"])})
        return Spilled(
            store=head["store"],
            writer=writer,
            # Cut out and not made anew: their bytes are what hashes were taken of.
            records=[Record.from_json(line[len(_RECORD) : -1]) for line in raw if line.startswith(_RECORD)],
            rows=[SessionRow.of(line["row"]) for line in lines],
        )
    except (KeyError, TypeError) as e:
        msg = f"{path} is no rescue file: {type(e).__name__}: {e}"
        raise ValueError(msg) from e
