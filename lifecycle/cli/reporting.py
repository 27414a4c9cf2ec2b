"""``lifecycle audit report``: the page of `lifecycle.report`, into a file or on stdout.

Rule: a file is whole or as it was. What is no regular file, such as a pipe, is written to and not replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lifecycle.cli.stored import find_session, reading
from lifecycle.cli.terminal import err
from lifecycle.errors import ConfigError
from lifecycle.report import write_report

if TYPE_CHECKING:
    from lifecycle.report import Verification

__all__ = ["audit_report"]


def audit_report(
    sessions: Sequence[str], *, output: str, store: str | None, verification: Verification | None = None
) -> None:
    """Write the report on these sessions, or on all.

    Args:
        sessions: Ids, or their beginnings; none for all sessions.
        output: The file, or ``-`` for stdout.
        store: The store, as for `open_store`.
        verification: What came of verifying the log; None where nobody did.

    Raises:
        UsageError: There is no such session.
        ConfigError: The file can't be written; names it.
    """
    with reading(store) as opened:
        found = [find_session(opened, beginning) for beginning in sessions] or None
        if output == "-":
            write_report(opened, sys.stdout.buffer, sessions=found, verification=verification)
            sys.stdout.buffer.flush()
            return
        with _replacing(Path(output)) as out:
            number = write_report(opened, out, sessions=found, verification=verification)
    what = "1 session" if number == 1 else f"{number:,} sessions"
    err().print(f"{output}: a report on {what}", markup=False, soft_wrap=True)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well.

    Raises:
        ConfigError: It can't be written.
    """
    try:
        target = path.resolve()  # a link stays one
        if target.is_dir():
            raise ConfigError(option="output", value=str(path), allowed="a file; this is a folder")
        if target.exists() and not target.is_file():
            with target.open("wb") as out:
                yield out
            return
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            if target.exists():
                part.chmod(target.stat().st_mode & 0o777)
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as e:
        why = (e.strerror or type(e).__name__).lower()
        raise ConfigError(option="output", value=str(path), allowed=f"a file that can be written ({why})") from e
