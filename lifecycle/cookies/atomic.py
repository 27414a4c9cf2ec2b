"""Files that are whole at every moment, and the lock that several processes share.

Rule: whatever becomes of the writer, a reader sees the old content or the new, and nobody but the user can read it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_POLL: Final = 0.005
"""Seconds between looks at a lock that another process holds; a save takes about as long."""

_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: Path) -> bytes | None:
    """The content of a regular file, None when there is no such file.

    Raises:
        OSError: It can't be read, or is a folder, a device or a pipe.
    """
    try:
        # Without waiting: the open of a pipe would, for a writer.
        fd = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
        with open(fd, "rb", closefd=False) as f:
            return f.read()
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock of `path`, a file ``.NAME.lock`` beside it that stays there, for the ``with`` block.

    Args:
        path: The file that is about to be read and replaced.
        timeout: Seconds to wait for another process.

    Raises:
        OSError: The lock file can't be made, or another process holds it for longer.
    """
    from filelock import Timeout, unlock_descriptor  # noqa: PLC0415 - only saves need it

    fd = _lock_file(path.with_name(f".{path.name}.lock"), timeout)
    if fd is not None:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the close gives the lock up too, but for a forked child's copy
                unlock_descriptor(fd)
            os.close(fd)
        return
    from filelock import SoftFileLock  # noqa: PLC0415 - filelock itself imports it only here

    # A file that is there as long as the lock is held; of another name, since the one above stays.
    soft = SoftFileLock(path.with_name(f".{path.name}.held"), mode=0o600)
    try:
        soft.acquire(timeout=timeout, poll_interval=_POLL)
    except Timeout:
        raise _held(timeout) from None
    try:
        yield
    finally:
        soft.release()


def _lock_file(path: Path, timeout: float) -> int | None:
    """A descriptor that has the lock of the file; None where its file system has no locks."""
    from filelock import lock_descriptor  # noqa: PLC0415 - as above

    until = time.monotonic() + timeout
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            while not lock_descriptor(fd, blocking=False):
                if time.monotonic() >= until:
                    raise _held(timeout)
                time.sleep(_POLL)
            if os.fstat(fd).st_nlink:  # else somebody removed it meanwhile, and the next one would make another
                return fd
        except BaseException as e:
            os.close(fd)
            if isinstance(e, OSError) and e.errno == errno.ENOSYS:
                return None
            raise
        os.close(fd)


def _held(timeout: float) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"another process held its lock for {timeout:g} seconds")


def replace_file(path: Path, data: bytes) -> None:
    """Put a file with mode 0600 in the place of `path` in one step. Once `sync_folder` is done it is durable.

    Call it with the lock of `path` held: it also removes what killed writers left.

    Raises:
        OSError: The old file is as it was.
    """
    _sweep(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    try:
        try:
            _keep_owner(fd, path)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make what was replaced in `folder` outlast a loss of power. No lock is needed for it.

    Raises:
        OSError: The disk can't.
    """
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY | _FLAGS)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems have no such thing
            raise
    finally:
        os.close(fd)


def _sweep(path: Path) -> None:
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    with contextlib.suppress(OSError):  # a folder that can't be listed may still be written to
        for found in path.parent.iterdir():
            if left.fullmatch(found.name):
                found.unlink()


def _keep_owner(fd: int, path: Path) -> None:
    """Run as root, leave the file with the user that it belongs to, as far as this root may."""
    if sys.platform != "win32" and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            owner = path.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
