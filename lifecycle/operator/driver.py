"""The one Playwright driver of the supervisor.

Rule: it runs as long as a session uses it. All of this is called on the supervisor's loop.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from playwright.async_api import Playwright, async_playwright

from lifecycle.driver_process import has_ended, in_loop_time, start_async_driver
from lifecycle.errors import ConnectionLost
from lifecycle.logs import get_logger

__all__ = ["Driver"]

STOP_BUDGET: Final = 5.0
"""Seconds that the end of the process waits for the driver's."""

_log: Final = get_logger(__name__)


class Driver:
    """The driver, and who uses it."""

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._manager: Any = None
        self._starting: asyncio.Task[Playwright] | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def use(self, user: object) -> Playwright:
        """The running driver, started when it is not, or has ended by itself; `user` keeps it until `drop`.

        Raises:
            ConnectionLost: It could not be started.
        """
        self._users.add(user)
        if self._starting is None or self.ended:
            self._manager = async_playwright()
            self._starting = asyncio.get_running_loop().create_task(
                start_async_driver(self._manager), name="playwright"
            )
        starting = self._starting
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            raise
        except Exception as e:
            if self._starting is starting:
                self._starting = None
            msg = f"Playwright's driver could not be started: {type(e).__name__}"
            raise ConnectionLost(msg) from e

    @property
    def ended(self) -> bool:
        """True when it ended by itself: what was connected through it is not any more."""
        return has_ended(self._manager)

    def drop(self, user: object) -> None:
        """`user` needs it no more; with the last one it stops, on its own. Idempotent."""
        self._users.discard(user)
        if self._users or self._starting is None:
            return
        starting, self._starting = self._starting, None
        task = asyncio.get_running_loop().create_task(_stop(starting, self._manager), name="playwright stop")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def stopped(self) -> None:
        """Wait, for some seconds at most, until every driver that was told to stop has ended."""
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=STOP_BUDGET)


async def _stop(starting: asyncio.Task[Playwright], manager: Any) -> None:  # noqa: ANN401 - no public type
    try:
        playwright = await starting
        with in_loop_time(manager):
            await playwright.stop()
    except Exception as e:  # noqa: BLE001 - nobody waits for it, and a driver that did not start need not stop
        _log.warning("Playwright's driver did not stop as it should: %s", type(e).__name__)
