"""Runs programs of their own: the end of a process, a fork or a signal can only be seen there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie
    from lifecycle.ports import Backend, Host

BOUND = 60
"""Seconds that a child may take; one that hangs prints its stacks a little earlier."""

WATCHDOG = f"""
import faulthandler
faulthandler.dump_traceback_later({BOUND - 10}, exit=True)
"""

PRELUDE = """
import os, sys, threading, time
from lifecycle import *
from lifecycle_adapters.memory import MemoryAdapter
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}
"""


def running(part: bytes) -> int:
    """How many children of this process run whose command line holds `part`; Linux only."""
    found = 0
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in task.read_text().split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found += part in Path("/proc", pid, "cmdline").read_bytes()
    return found


def environment(*, struck: bool = False) -> dict[str, str]:
    """The environment of a child: that of this process, with the helpers of the tests to import.

    Args:
        struck: True for one whose signal handlers raise or wait for another thread. Coverage is not measured in it:
            its tracer holds a lock in Python code, where a handler that strikes may find it or leave it held.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if not (struck and name.startswith("COVERAGE_PROCESS_"))}
    return {**kept, "PYTHONPATH": path}


def run(code: str, *args: object, forks: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `code` after the prelude to its end, within the bound; every warning is an error in it.

    Args:
        code: The program; it may be indented.
        args: Its ``sys.argv[1:]``.
        forks: True for one that forks, which must do without the watchdog: a fork of that waits for ever at its end.
    """
    text = ("" if forks else WATCHDOG) + PRELUDE + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text, *map(str, args)],
        env=environment(), capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip


def run_file(script: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a program that other processes have to find again, as `run`."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(script), *map(str, args)],
        env=environment(), capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip


def left_running(text: str) -> list[str]:
    """Command lines of processes that hold `text`, such as a browser's profile folder, and do not end within 5 s."""
    until = time.monotonic() + 5
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if text in command and path.name != str(os.getpid()):
                found.append(f"{path.name} {command[:200]}")
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


class SlowAdapter(MemoryAdapter):
    """Memory sessions that take some milliseconds to open, to answer and to release.

    Args:
        pause: Seconds before each thing that a backend does.
        on_step: Called before each pause, on the supervisor.
    """

    def __init__(self, pause: float = 0.002, on_step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._pause = pause
        self.on_step = on_step

    async def pause(self) -> None:
        self.on_step()
        await asyncio.sleep(self._pause)

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        await self.pause()
        backend = await super().open(session_id, options, host)
        try:
            await self.pause()
        except BaseException:
            await backend.release()
            raise
        return _SlowBackend(backend, self)


class _SlowBackend:
    """A backend that waits before each thing it does."""

    def __init__(self, backend: Backend, adapter: SlowAdapter) -> None:
        self._backend = backend
        self._adapter = adapter

    @property
    def session_id(self) -> str:
        return self._backend.session_id

    @property
    def can_live_on(self) -> bool:
        return self._backend.can_live_on

    async def get_cookies(self) -> Sequence[Cookie]:
        await self._adapter.pause()
        return await self._backend.get_cookies()

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        await self._adapter.pause()
        return await self._backend.set_cookies(cookies)

    async def clear_cookies(self) -> None:
        await self._backend.clear_cookies()

    async def cdp_url(self) -> str:
        return await self._backend.cdp_url()

    async def close_connections(self, reason: str) -> None:
        await self._adapter.pause()
        await self._backend.close_connections(reason)

    async def release(self) -> None:
        await self._adapter.pause()
        await self._backend.release()
