"""The process behind a Playwright driver: whether it still answers, and its end where it does not.

Rule: of what Playwright keeps to itself, only this module and `lifecycle.page` know. Where a version of it keeps it
elsewhere, nothing is known, and nothing is ended.
"""
# ruff: noqa: ANN401, SLF001 - Playwright's managers have no public type, nor what they keep

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "PATIENCE",
    "children",
    "has_ended",
    "in_loop_time",
    "in_time",
    "new_drivers",
    "process_of",
    "start_async_driver",
    "start_driver",
]

PATIENCE: Final = 5.0
"""Seconds that a driver has for its own end, or to close a connection; then its process is ended."""

START_PATIENCE: Final = 30.0
"""Seconds that a driver has to come up; one that was stopped meanwhile never does."""


def process_of(manager: Any) -> Any:
    """The driver's process as asyncio has it; None while there is none, or where Playwright keeps it elsewhere."""
    return getattr(getattr(getattr(manager, "_client", None), "_transport", None), "_proc", None)


def has_ended(manager: Any) -> bool:
    """True when nobody reads from the driver any more: it has ended, or a signal struck the task that reads."""
    return process_of(manager) is not None and bool(manager._client._close_promise.done())


def children() -> dict[int, bytes]:
    """The command line of each child of this process; empty where the system has no ``/proc``, as on macOS.

    Source: the fourth field of ``/proc/PID/stat``.
    """
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_bytes().rsplit(b")", 1)[1].split()[1]
            if int(parent) == os.getpid():
                found[int(path.name)] = (path / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def new_drivers(before: Mapping[int, bytes]) -> set[int]:
    """Playwright's drivers among the children that are new since `before`. Blocks for a moment, a second at most."""
    until = time.monotonic() + 1.0
    while True:
        new = {pid: line for pid, line in children().items() if pid not in before}
        if _own_line() not in new.values() or time.monotonic() > until:  # one that has forked, and not yet become it
            return {pid for pid, line in new.items() if b"run-driver" in line}
        time.sleep(0.002)


def _own_line() -> bytes:
    try:
        return Path("/proc/self/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _end(manager: Any) -> None:
    process = process_of(manager)  # there may be one only now
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def in_time(manager: Any, patience: float = PATIENCE) -> Iterator[None]:
    """End the driver's process when what is inside takes too long, or is struck.

    A signal that strikes while a message is read takes the message with it, and who waits for its answer waits for
    ever (seen). The end of the process ends the wait.
    """
    timer = threading.Timer(patience, _end, (manager,))
    timer.daemon = True
    try:
        try:
            timer.start()
        except RuntimeError:  # the interpreter ends, and starts no thread any more
            _end(manager)
        yield
    except BaseException as struck:
        if not isinstance(struck, Exception):
            _end(manager)
        raise
    finally:
        timer.cancel()


@contextlib.contextmanager
def in_loop_time(manager: Any) -> Iterator[None]:
    """End the driver's process when what is awaited inside takes too long: a process that was stopped never answers."""
    timer = asyncio.get_running_loop().call_later(PATIENCE, _end, manager)
    try:
        yield
    finally:
        timer.cancel()


def start_driver(manager: Any) -> Any:
    """Start a sync driver; one that does not come up is ended, and its start fails."""
    with in_time(manager, START_PATIENCE):
        return manager.start()


async def start_async_driver(manager: Any) -> Any:
    """Start an async driver; one that does not come up is ended, and its start fails."""
    starting = manager.start()
    timer = asyncio.get_running_loop().call_later(START_PATIENCE, _end_starting, starting)
    try:
        async with asyncio.timeout(START_PATIENCE + PATIENCE):  # where its process is not known
            return await starting
    finally:
        timer.cancel()


def _end_starting(starting: Any) -> None:
    """End the process of a driver that is being started: Playwright tells of it only once it is up."""
    while starting is not None:
        frame = getattr(starting, "cr_frame", None)
        client = frame.f_locals.get("client") if frame is not None else None
        if client is not None:
            _end(SimpleNamespace(_client=client))
        starting = getattr(starting, "cr_await", None)
