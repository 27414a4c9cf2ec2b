"""What adapters share: an undo that goes to its end, and sessions that live in the process that opened them.

Rule: such a process answers for its sessions, over its control socket; there is no service to ask about them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lifecycle.errors import ConfigError, UnsupportedOperation

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from lifecycle.config import SessionOptions
    from lifecycle.ports import Backend, BackendEnd, Host

__all__ = ["OwnedSessions", "to_the_end"]


class OwnedSessions:
    """The half of an adapter that has nobody to ask about sessions of other processes."""

    @property
    def name(self) -> str:
        """Short name of the adapter."""
        raise NotImplementedError

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        """Raise ConfigError: sessions of this adapter live in the process that opened them, which answers for them."""
        del host
        raise ConfigError(option="session_id", value=session_id, allowed="the id of a session whose owner still runs")

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """Raise UnsupportedOperation: the owner's process is the way to its sessions."""
        del options, host
        raise UnsupportedOperation(
            operation=f"connecting to session {session_id} without its owner",
            adapter=self.name,
            way_out="attach while the process that opened it runs",
        )


async def to_the_end(coro: Coroutine[Any, Any, None]) -> bool:
    """Await `coro` even when this task is cancelled meanwhile; True when it was."""
    task = asyncio.ensure_future(coro)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    return cancelled
