"""Profile folders: one for each session, under a root that this process holds a lock for.

    TMP/lifecycle-UID/                 0700, ours, or it is not used
        PID-RANDOM.lock                flock held while the process has sessions
        PID-RANDOM/
            RANDOM/                    one session
                profile/               --user-data-dir
                tmp/                   Chromium's own temporary files
                chromium.log           its stderr
                browser.json           its pid and start time

A session whose profile is kept (``profile=``) has its ``--user-data-dir`` elsewhere, in a folder of the user's, and
holds the lock in it; only what is the session's own lies here.

Rule: a root whose lock is free has no owner any more; whoever takes the lock may end its browsers and remove it. The
lock file exists before the root and goes after it, so a root without one is dead too. A browser is ended only if its
pid has the start time that was noted AND its command line names the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lifecycle.logs import get_logger
from lifecycle_adapters.local import forks, procs

__all__ = ["Profile", "ProfileInUse", "Profiles", "profiles"]

_REMOVE_BUDGET: Final = 3.0
"""Seconds that removing a folder may take while processes that are ending still write to it."""

_END_BUDGET: Final = 3.0
"""Seconds that a browser which was left over gets to go once it was killed."""

LOCK_NAME: Final = "lifecycle.lock"
"""The file in a kept profile whose lock its session holds."""

_SOCKET: Final = "/org.chromium.Chromium.XXXXXX/SingletonSocket"
_SOCKET_ROOM: Final = (108 if sys.platform == "linux" else 104) - 1 - len(_SOCKET)
"""Longest folder that Chromium can still put its socket into (`sockaddr_un.sun_path` with its closing NUL)."""

_log: Final = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The folder of one session."""

    folder: Path
    kept: Path | None = None
    kept_lock: int | None = None

    @property
    def user_data(self) -> Path:
        """What Chromium gets as its ``--user-data-dir``."""
        return self.kept if self.kept is not None else self.folder / "profile"

    @property
    def temp(self) -> Path | None:
        """Where Chromium should put temporary files; None where the path would be too long for its socket.

        Chromium leaves a folder behind when it is killed, and here that is removed with the rest.
        """
        temp = self.folder / "tmp"
        return temp if len(os.fsencode(temp)) <= _SOCKET_ROOM else None

    @property
    def downloads(self) -> Path:
        """Where Chromium puts what pages download, until it has a name elsewhere."""
        return self.folder / "downloads"

    @property
    def log(self) -> Path:
        """Chromium's stderr."""
        return self.folder / "chromium.log"

    def note_browser(self, pid: int, started: str) -> None:
        """Note which process runs on this folder, for whoever has to sweep it."""
        (self.folder / "browser.json").write_text(json.dumps({"pid": pid, "started": started}))


@dataclass(slots=True, eq=False)
class _Root:
    folder: Path
    lock_fd: int
    sessions: set[Path] = field(default_factory=set)

    @property
    def lock_file(self) -> Path:
        return _lock_of(self.folder)


class Profiles:
    """The profile folders of this process. All methods may block for a moment; any thread may call them."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._root: _Root | None = None
        forks.in_child(self._forget)

    def create(self, kept: Path | None = None) -> Profile:
        """Make a folder for a session.

        Args:
            kept: The folder of a browser profile that outlives the session; made where there is none.

        Raises:
            OSError: There is no room, or no right to write.
            ProfileInUse: Another session uses the kept one.
        """
        if kept is None:
            return self._create(None, None)
        lock = _hold(kept)
        try:
            return self._create(kept, lock)
        except BaseException:
            _let_go(lock)
            raise

    def _create(self, kept: Path | None, lock: int | None) -> Profile:
        with self._mutex:
            if self._root is None:
                self._root = _make_root(_base())
            root = self._root
            profile = Profile(folder=root.folder / secrets.token_hex(4), kept=kept, kept_lock=lock)
            root.sessions.add(profile.folder)
            try:
                profile.folder.mkdir(mode=0o700)
                if profile.temp is not None:
                    profile.temp.mkdir(mode=0o700)
            except BaseException:
                self._left(root, profile.folder)
                raise
            return profile

    def remove(self, profile: Profile) -> bool:
        """Remove a session's folder, and the root with the last one. Idempotent.

        Returns:
            False when something of it is still there; the next sweep has another go.
        """
        if not profile.folder.exists():
            return True
        _remove_socket(profile.user_data)
        if profile.kept_lock is not None:
            _let_go(profile.kept_lock)
        gone = _remove_tree(profile.folder, _REMOVE_BUDGET)
        with self._mutex:
            root = self._root
            if root is not None:
                self._left(root, profile.folder)
        return gone

    def _left(self, root: _Root, folder: Path) -> None:
        """A session of `root` is over; with the last one, so is the root."""
        if folder not in root.sessions:
            return
        root.sessions.discard(folder)
        if root.sessions:
            return
        self._root = None
        with contextlib.suppress(OSError):  # not empty: a folder could not be removed, and a sweep will find it
            root.folder.rmdir()
            root.lock_file.unlink(missing_ok=True)
        forks.drop(root.lock_fd)
        os.close(root.lock_fd)

    def _forget(self) -> None:
        """In a forked child: the folders are the parent's."""
        self._mutex = threading.Lock()
        self._root = None

    @staticmethod
    def sweep() -> int:
        """Remove what dead processes of this user left, and end browsers that still run there. Never raises.

        Returns:
            How many roots were removed.
        """
        swept = 0
        for base in _bases():
            try:
                names = os.listdir(base)  # noqa: PTH208 - names only
            except OSError as e:
                _log.warning("temporary folder %s can't be swept: %s", base, e.strerror)
                continue
            for name in names:
                root = base / name.removesuffix(".lock")
                orphan = not name.endswith(".lock") and f"{name}.lock" not in names and not _lock_of(root).exists()
                if name.endswith(".lock") or orphan:
                    try:
                        swept += _sweep_root(root)
                    except OSError as e:
                        _log.warning("temporary folder %s can't be swept: %s", root, e.strerror)
        return swept


profiles: Final = Profiles()
"""The folders of this process."""


# --- roots --------------------------------------------------------------------------------------------------------


def _lock_of(root: Path) -> Path:
    return root.with_name(root.name + ".lock")


def _ours(folder: Path) -> bool:
    """True when nobody but this user can put anything into `folder`."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and info.st_mode & 0o077 == 0


def _bases() -> Iterator[Path]:
    """The user's folders in the temporary folder."""
    temp = Path(tempfile.gettempdir())
    uid = os.geteuid()
    for folder in (temp / f"lifecycle-{uid}", *sorted(temp.glob(f"lifecycle-{uid}-*"))):
        if _ours(folder):
            yield folder


def _base() -> Path:
    """The user's folder, made if need be. One that somebody else made under its name is left alone."""
    temp = Path(tempfile.gettempdir())
    uid = os.geteuid()
    with contextlib.suppress(FileExistsError):
        (temp / f"lifecycle-{uid}").mkdir(mode=0o700)
    for folder in _bases():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"lifecycle-{uid}-", dir=temp))


def _make_root(base: Path) -> _Root:
    """A new root below `base`, locked."""
    while True:
        folder = base / f"{os.getpid()}-{secrets.token_hex(4)}"
        fd = _take(_lock_of(folder), os.O_CREAT | os.O_EXCL)
        if fd is None:
            continue  # a sweeper was there between the opening and the lock
        try:
            folder.mkdir(mode=0o700)
        except BaseException:
            _lock_of(folder).unlink(missing_ok=True)
            os.close(fd)
            raise
        forks.keep(fd)
        return _Root(folder, fd)


def _take(file: Path, create: int = 0) -> int | None:
    """The descriptor that holds the lock in `file`, or None when somebody else has it or the file is gone.

    Args:
        file: The file.
        create: ``os.O_CREAT`` to make it where there is none, with ``os.O_EXCL`` to take none that is there already.
    """
    import fcntl  # noqa: PLC0415 - there is none on Windows, where this is never called

    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | create, 0o600)
    except (FileNotFoundError, FileExistsError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed the file: a lock on a file without a name locks nothing.
        if file.stat(follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        _log.debug("the lock %s is taken, or gone", file)
    os.close(fd)
    return None


# --- profiles that are kept ---------------------------------------------------------------------------------------


class ProfileInUse(Exception):  # noqa: N818 - never leaves this package
    """Another session holds the lock of a kept profile."""


def _hold(kept: Path) -> int:
    """The descriptor that holds the lock in a kept profile. Silent when the folder is there already."""
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = _take(kept / LOCK_NAME, os.O_CREAT)
    if fd is None:
        raise ProfileInUse(str(kept))
    forks.keep(fd)
    return fd


def _let_go(lock: int) -> None:
    forks.drop(lock)
    os.close(lock)


# --- sweeping -----------------------------------------------------------------------------------------------------


def _sweep_root(root: Path) -> bool:
    """Remove `root` if its owner is gone."""
    lock = _lock_of(root)
    fd = _take(lock)
    if fd is None and lock.exists():
        return False  # its owner lives
    try:
        if root.is_dir() and not root.is_symlink():
            for folder in root.iterdir():
                _end_browser(folder)
                _remove_socket(folder / "profile")
            if not _remove_tree(root, _REMOVE_BUDGET):
                return False
        lock.unlink(missing_ok=True)
    finally:
        if fd is not None:
            os.close(fd)
    return True


def _end_browser(folder: Path) -> None:
    """End the browser that still runs on a dead process's folder, if there is one."""
    try:
        noted = json.loads((folder / "browser.json").read_text())
        pid, started = int(noted["pid"]), str(noted["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # none was started, or its note was cut short together with its owner
    if procs.same_process(pid, started) and str(folder) in procs.command_line(pid):
        _log.warning("Chromium (pid %d) outlived its owner and was ended", pid)
        procs.kill_group(pid, started)
        procs.wait_group(pid, _END_BUDGET)


def _remove_socket(user_data: Path) -> None:
    """Remove the folder of the socket that a killed Chromium left in the system's temporary folder (see `temp`)."""
    try:
        home = Path(os.readlink(user_data / "SingletonSocket")).parent  # noqa: PTH115 - not to be resolved
    except OSError:
        return  # it was closed, or had none
    named = home.name.startswith(("org.chromium.", ".org.chromium.", "com.google.", ".com.google."))
    if named and home.parent == Path(tempfile.gettempdir()) and _ours(home):
        shutil.rmtree(home, ignore_errors=True)


def _remove_tree(folder: Path, seconds: float) -> bool:
    """Remove `folder` with all that is in it. A process that is ending may still put files there, so try again."""
    until = time.monotonic() + seconds
    pause = 0.01
    while True:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            return True
        if time.monotonic() >= until:
            _log.warning("temporary folder %s could not be removed; the next start tries again", folder)
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.2)
