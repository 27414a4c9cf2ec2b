"""Targets that wait for a client, and clients that let them wait.

Rule: a client that asked new targets to wait for it (``waitForDebuggerOnStart``) and then froze holds up no other
client for more than some seconds: Chromium starts a page when the last of all who wait has let it go. So the gateway
lets it go in the client's place. Everything here runs on the gateway's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from lifecycle.gateway import policy
from lifecycle.logs import get_logger

__all__ = ["Waiting"]

_log: Final = get_logger(__name__)


class _Client(Protocol):
    heard_at: float
    frozen: bool


class Waiting:
    """The sessions of one browser whose targets wait.

    Args:
        loop: The gateway's loop.
        resume: Lets the target of a session go.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, resume: Callable[[str], None]) -> None:
        self._loop = loop
        self._resume = resume
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def add(self, client: _Client, session: str) -> None:
        """The target of `session` waits for `client`; not for one that let the last one wait and was silent since."""
        if client.frozen:
            self._resume(session)
        else:
            self._watch(client, session, self._loop.time())

    def _watch(self, client: _Client, session: str, since: float) -> None:
        due = min(max(client.heard_at, since) + policy.FROZEN_AFTER, since + policy.LONGEST_WAIT)
        self._timers[session] = self._loop.call_at(due, self._due, client, session, since)

    def _due(self, client: _Client, session: str, since: float) -> None:
        now = self._loop.time()
        silent = now >= max(client.heard_at, since) + policy.FROZEN_AFTER
        if not silent and now < since + policy.LONGEST_WAIT:
            self._watch(client, session, since)  # it is alive, only slow
            return
        self._timers.pop(session, None)
        client.frozen = silent
        _log.warning("a CDP client let a new target wait for %.1f s; it was let go in its place", now - since)
        self._resume(session)

    def done(self, session: str) -> None:
        """Its client let it go, or it is over."""
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Look no more. Idempotent."""
        for session in list(self._timers):
            self.done(session)
