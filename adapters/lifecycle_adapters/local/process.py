"""The browser process: its exit as an event, and its end.

Rule: the process is reaped exactly once, by this module, and its group is signalled only before that. Its exit is
seen through a pidfd on Linux, elsewhere by a thread that waits for it; nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

from lifecycle_adapters.local import forks, procs

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifecycle_adapters.local.launch import Launched

__all__ = ["BrowserProcess"]

_KILL_BUDGET: Final = 5.0
"""Seconds that a killed process gets to be gone."""


class BrowserProcess:
    """A browser process, watched from the loop that it is made on.

    Args:
        launched: The process.
        on_exit: Called once on the loop with the return code, as `subprocess` counts it.
    """

    def __init__(self, launched: Launched, on_exit: Callable[[int], None]) -> None:
        self._popen = launched.popen
        self._started = launched.started
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._pidfd: int | None = None
        self.exited: asyncio.Future[int] = self._loop.create_future()
        """Settles with the return code."""
        self._watch()

    @property
    def pid(self) -> int:
        """Its pid, which is its process group's too."""
        return self._popen.pid

    def _watch(self) -> None:
        opener = getattr(os, "pidfd_open", None)
        if opener is not None:
            with contextlib.suppress(OSError):  # an old kernel, or a sandbox that knows no such call
                self._pidfd = opener(self.pid)
        if self._pidfd is not None:
            forks.keep(self._pidfd)
            self._loop.add_reader(self._pidfd, self._ended)
        else:
            threading.Thread(target=self._wait, name=f"lifecycle-wait-{self.pid}", daemon=True).start()

    def _wait(self) -> None:
        self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            forks.drop(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._popen.returncode is None:  # still to be reaped, so its pid and group are its own
            procs.kill_group(self.pid, self._started)
        code = self._popen.wait()  # returns at once
        if not self.exited.done():
            self.exited.set_result(code)
            self._on_exit(code)

    async def kill(self) -> bool:
        """End the process and its children, now. Idempotent.

        Returns:
            False when the system did not end it within some seconds.
        """
        if not self.exited.done():
            procs.kill_group(self.pid, self._started)
            await asyncio.wait({self.exited}, timeout=_KILL_BUDGET)
        return self.exited.done()
