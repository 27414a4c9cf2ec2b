"""Looks at a session now and then, for the end that its vendor tells of.

Rule: what the vendor says of the session is passed on; what goes wrong on the way says nothing about the session. For a
WebDriver server each look is use, too, without which it would end the session.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from lifecycle.errors import BackendError
from lifecycle.logs import get_logger
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.ports import Clock, Host
    from lifecycle_adapters.vendors.vendor import Vendor

__all__ = ["Watch"]

EVERY: Final = 60.0
"""Seconds between two looks. An end is seen at once where it breaks the connection to the browser."""

_log: Final = get_logger(__name__)


class Watch:
    """Watches one session until it is told to stop.

    Args:
        vendor: Whom to ask.
        remote_id: The vendor's id of the session.
        host: Whom to tell.
    """

    def __init__(self, vendor: Vendor, remote_id: str, host: Host) -> None:
        self.remote_id = remote_id
        self._vendor = vendor
        self._host = host
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Look no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=2.0)

    async def _run(self) -> None:
        failed = False
        while True:
            await _pause(self._host.clock, EVERY)
            try:
                end = await self._look()
            except BackendError as e:
                if not failed:
                    _log.warning("session %s at %s can't be watched now: %s", self.remote_id, self._vendor.NAME, e)
                failed = True
                continue
            failed = False
            if end is not None:
                self._host.ended(end)
                return

    async def _look(self) -> BackendEnd | None:
        told = await self._vendor.look(self.remote_id)
        if told is None:
            detail = f"{self._vendor.NAME} does not know the session any more"
            return BackendEnd(state=State.ERROR, reason=CloseReason.BACKEND, detail=detail)
        state = self._vendor.state(told)
        if state is State.ACTIVE:
            return None
        reason = CloseReason.MAX_DURATION if state is State.TIMED_OUT else CloseReason.BACKEND
        return BackendEnd(state=state, reason=reason, detail=f"{self._vendor.NAME} says {told.status}")


async def _pause(clock: Clock, seconds: float) -> None:
    passed = asyncio.Event()
    timer = clock.call_at(clock.monotonic() + seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()
