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
from lifecycle.errors import ConfigError, LifecycleError
from lifecycle.report import write_report

if TYPE_CHECKING:
    from lifecycle.report import Verification

__all__ = ["NotWritten", "audit_report"]


class NotWritten(LifecycleError):  # noqa: N818 - named like the library's own
    """The report could not be written; a file that was there is as it was.

    Attributes:
        place: Where to.
        reason: What the system said.
    """

    def __init__(self, *, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"the report could not be written to {place}: {reason}")


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
        ConfigError: There can be no such file; names it.
        NotWritten: It could not be written to the end.
    """
    with reading(store) as opened:
        found = [find_session(opened, beginning) for beginning in sessions] or None
        if output == "-":
            with _telling("stdout"):
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
        ConfigError: There can be no such file.
        NotWritten: It could not be written to the end.
    """
    try:
        target = path.resolve()  # a link stays one
        if target.is_symlink():  # from Python 3.13 on, one that leads to itself is left as it is
            raise RuntimeError
        if target.is_dir():
            raise ConfigError(option="output", value=str(path), allowed="a file; this is a folder")
        if target.exists() and not target.is_file():
            part = target
        else:
            part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        out = part.open("wb" if part is target else "xb")
    except (OSError, RuntimeError) as e:  # up to Python 3.12 a link that leads to itself is the latter too
        why = _reason(e) if isinstance(e, OSError) else "a link that leads to itself"
        raise ConfigError(option="output", value=str(path), allowed=f"a file that can be made; here: {why}") from e
    try:
        with _telling(str(path)), out:
            yield out
            if part is not target:
                out.flush()
                os.fsync(out.fileno())
                if target.exists():
                    part.chmod(target.stat().st_mode & 0o777)
                part.replace(target)
    except BaseException:
        if part is not target:
            with contextlib.suppress(OSError):
                part.unlink()
        raise


@contextmanager
def _telling(place: str) -> Iterator[None]:
    """In the block, what can't be written is an error that names the place."""
    try:
        yield
    except BrokenPipeError:  # a reader that has enough, which is no error
        raise
    except OSError as e:
        raise NotWritten(place=place, reason=_reason(e)) from e


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
