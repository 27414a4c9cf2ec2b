"""The local adapter: a Chromium of this machine for each session, on a pipe and behind the gateway.

Rule: no debugging port, no shared profile, no browser that outlives its owner.

    find.py      which browser
    profiles.py  a folder for each session, and the sweeping of dead ones
    launch.py    the command line and the start
    process.py   the exit as an event
    window.py    the first page and the viewport
    backend.py   all of it together
    guard.py     the process that ends browsers with the lease
    forks.py     what a forked child must not keep
    procs.py     processes by more than their pid
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.errors import ReleaseFailed, StartFailed, UnsupportedOperation
from lifecycle.logs import get_logger
from lifecycle_adapters._owned import OwnedSessions, to_the_end
from lifecycle_adapters.local.find import FoundBrowser, candidates, find_browser

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lifecycle.config import SessionOptions
    from lifecycle.ports import Backend, Host
    from lifecycle_adapters.local.backend import LocalBackend

__all__ = ["FoundBrowser", "LocalAdapter", "candidates", "find_browser"]

_log: Final = get_logger(__name__)

_swept: Final[list[bool]] = []
"""Not empty once this process has swept: once is enough, and a session's start is no place to do it again."""

_REAP_BUDGET: Final = 8.0
"""Seconds in which the folder of a session whose owner died has to go."""

_LOOK_EVERY: Final = 0.05
"""Seconds between two looks at a folder that somebody else is removing."""


class LocalAdapter(OwnedSessions):
    """Runs Chromium on this machine. Needs Linux or macOS.

    Args:
        executable_path: The browser for sessions that name none; None to look for one (see `find_browser`).
        chrome_args: Switches for every session, before the session's own.
    """

    def __init__(self, *, executable_path: str | None = None, chrome_args: Sequence[str] = ()) -> None:
        self._executable_path = executable_path
        self._chrome_args = tuple(chrome_args)
        self._sweeping: threading.Thread | None = None
        if sys.platform != "win32":  # nothing is imported in the middle of a start: see `_NEEDED` in lifecycle.core
            for module in ("backend", "guard", "launch", "profiles", "window"):
                importlib.import_module(f"lifecycle_adapters.local.{module}")

    @property
    def name(self) -> str:
        """``local``."""
        return "local"

    @property
    def capabilities(self) -> frozenset[str]:
        """``pages``, ``cdp``, ``cookies``, and every option of a launch."""
        return frozenset(
            {
                "pages",
                "cdp",
                "headed",
                "proxy",
                "cookies",
                "viewport",
                "user_agent",
                "chrome_args",
                "profile",
                "downloads",
            }
        )

    def check(self, options: SessionOptions) -> None:
        """Refuse what a local Chromium can't do.

        Raises:
            UnsupportedOperation: Names the option and the way out.
        """
        if sys.platform == "win32":
            raise UnsupportedOperation(
                operation="a local browser on Windows",
                adapter=self.name,
                way_out='use Client(adapter="remote") or Client(adapter="memory"), or run it under WSL',
            )
        if options.proxy is not None and options.proxy.username is not None:
            raise UnsupportedOperation(
                operation="a proxy with username and password",
                adapter=self.name,
                way_out="Chromium takes no proxy credentials on its command line: leave them out here, and make a "
                "context with browser.new_context(proxy=...) or put a local forwarder that logs in between",
            )

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """Start a Chromium.

        Atomic: when it raises or is cancelled, the process has ended and its folder is gone.

        Raises:
            StartFailed: No browser was found, or it did not come up; says why and what to do.
        """
        self.check(options)
        self._sweep_once()
        found = await host.run_blocking(find_browser, options.executable_path or self._executable_path)
        backend = self._spawn(session_id, options, host, found)
        try:
            await backend.start(options, found.path)
        except BaseException as e:
            if await to_the_end(_released(backend)) and not isinstance(e, asyncio.CancelledError):
                raise asyncio.CancelledError from e
            raise
        return backend

    async def reap(self, session_id: str, facts: Mapping[str, str]) -> None:
        """End the browser of a session whose owner died, where it outlived that, and remove its folder.

        Raises:
            ReleaseFailed: The folder is still there.
        """
        loop = asyncio.get_running_loop()
        folder, until = facts.get("profile"), loop.time() + _REAP_BUDGET
        # Another sweep, of this process or another, may hold the lock of the folder and be at it.
        while folder is not None and not await asyncio.to_thread(_sweep_away, Path(folder)):
            if loop.time() > until:
                msg = f"the folder {folder} could not be removed; see that no Chromium runs on it, and remove it"
                raise ReleaseFailed(msg, session_id=session_id)
            await asyncio.sleep(_LOOK_EVERY)

    def _spawn(self, session_id: str, options: SessionOptions, host: Host, found: FoundBrowser) -> LocalBackend:
        """From nothing to a watched process, without a tick in between."""
        from lifecycle_adapters.local import launch  # noqa: PLC0415 - there is no such thing on Windows
        from lifecycle_adapters.local.backend import LocalBackend  # noqa: PLC0415
        from lifecycle_adapters.local.profiles import ProfileInUse, profiles  # noqa: PLC0415
        from lifecycle_adapters.local.window import place_window  # noqa: PLC0415

        headed = not options.headless and launch.display_exists()
        if not options.headless and not headed:
            _log.warning("headless=False, but there is no display (DISPLAY, WAYLAND_DISPLAY): running headless")
        if self._chrome_args:
            options = replace(options, chrome_args=(*self._chrome_args, *options.chrome_args))
        if options.downloads_folder is not None:
            _make(options.downloads_folder, self.name)
        try:
            profile = profiles.create(Path(options.profile) if options.profile is not None else None)
        except ProfileInUse as e:
            msg = f"another session uses profile={str(e)!r}; wait for its end, or give each session its own"
            raise StartFailed(msg, adapter=self.name) from None
        except OSError as e:
            way_out = "choose another profile=" if options.profile is not None else "free or set TMPDIR"
            raise StartFailed(f"no profile folder could be made: {e}; {way_out}", adapter=self.name) from e
        try:
            if options.viewport_width is not None and options.viewport_height is not None:
                place_window(profile, options.viewport_width, options.viewport_height, headed=headed)
            launched = launch.launch(found.path, launch.switches(options, profile, headed=headed), profile)
        except BaseException as e:
            profiles.remove(profile)
            if isinstance(e, OSError):
                raise StartFailed(f"{found.path} could not be started: {e}", adapter=self.name) from e
            raise
        try:
            profile.note_browser(launched.popen.pid, launched.started)
            return LocalBackend(session_id, host, profile, launched, headed=headed)
        except BaseException:
            launched.popen.kill()
            launched.popen.wait()
            launch.close_pipe(launched.pipe)
            profiles.remove(profile)
            raise

    def _sweep_once(self) -> None:
        """Clean up after dead processes, beside the first start and not before it."""
        if _swept:
            return
        from lifecycle_adapters.local.profiles import profiles  # noqa: PLC0415 - there is no such thing on Windows

        _swept.append(True)
        # A thread of its own: it may take seconds, and the supervisor's few workers are for sessions.
        self._sweeping = threading.Thread(target=profiles.sweep, name="lifecycle-sweep", daemon=True)
        try:
            self._sweeping.start()
        except RuntimeError:  # the interpreter is ending: the next process sweeps
            self._sweeping = None

    async def aclose(self) -> None:
        """Wait for the sweeping that the first start began. Idempotent."""
        if self._sweeping is not None:
            await asyncio.to_thread(self._sweeping.join)


async def _released(backend: LocalBackend) -> None:
    """Release a backend at once, and log what that raises: another error is under way."""
    try:
        await backend.release(grace=0)
    except Exception as e:  # noqa: BLE001 - the other one is told
        _log.error("a browser whose start failed could not be released: %s", e)


def _make(folder: str, adapter: str) -> None:
    """Make the folder for downloads, unless it is there.

    Raises:
        StartFailed: It can't be, or nothing can be put into it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as e:
        msg = f"nothing can be kept in downloads_folder={folder!r}: {e.strerror}; choose another"
        raise StartFailed(msg, adapter=adapter) from e


def _sweep_away(folder: Path) -> bool:
    """Sweep unless the folder of a session is gone; True when it is."""
    from lifecycle_adapters.local.profiles import profiles  # noqa: PLC0415 - there is no such thing on Windows

    if folder.exists():
        profiles.sweep()
    return not folder.exists()
