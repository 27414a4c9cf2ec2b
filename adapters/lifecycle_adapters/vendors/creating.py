"""One create at a vendor, and what becomes of it when its answer is lost.

Rule: the tag is journalled before the create and the id the moment it is known. A create whose request may have
reached the vendor is never sent again: what it made is looked for, for a bounded time, and kept where it is surely
ours, else released.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lifecycle.errors import BackendError, RemoteRejected, StartFailed
from lifecycle.logs import get_logger
from lifecycle.states import State
from lifecycle_adapters.remote.client import Lost
from lifecycle_adapters.vendors.ending import end
from lifecycle_adapters.vendors.finding import find

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from lifecycle_adapters.vendors.told import Told
    from lifecycle_adapters.vendors.vendor import Vendor

    Journal = Callable[[Mapping[str, str]], Awaitable[None]]

__all__ = ["Creating"]

WHAT: Final = "creating a session"

SURE: Final = 2.0  # seconds in which what a create made is looked for that was answered by an error
SLACK: Final = timedelta(seconds=2)  # how far the vendor's own times may be apart from each other

_log: Final = get_logger(__name__)


class Creating:
    """One create.

    Args:
        vendor: Where.
        facts: What is journalled before it; ``tag``, the id of the session, is what it can be found by.
        body: The create request.
        seconds: What its answer may take.
        journal: Keeps facts of the session durably.
    """

    def __init__(
        self, vendor: Vendor, facts: Mapping[str, str], body: Mapping[str, Any], *, seconds: float, journal: Journal
    ) -> None:
        self._vendor = vendor
        self._facts = facts
        self._tag = facts["tag"]
        self._body = body
        self._seconds = min(seconds, vendor.service.seconds)
        self._journal = journal
        self._since = datetime.now(UTC)
        self._unanswered = False
        self._made: Told | None = None

    async def run(self) -> Told:
        """Create the session, or find the one that was made.

        Raises:
            StartFailed: There is none, or its answer was lost; says what became of what it may have made.
            AuthenticationError, CapacityError, RemoteRejected: The vendor refused.
        """
        service = self._vendor.service
        await self._journal(self._facts)
        self._since = datetime.now(UTC) - service.ahead() - SLACK
        self._unanswered = True
        try:
            answer = await service.exchange("POST", self._vendor.CREATE, body=self._body, seconds=self._seconds)
        except Lost as e:
            error = service.lost(e, WHAT)
            if not e.sent:
                self._unanswered = False
                raise StartFailed(f"{error}; is base_url right?", adapter=self._vendor.NAME) from e
            return await self._lost(error)
        if not answer.good:
            refusal = service.refusal(answer, WHAT)
            if answer.refused or 300 <= answer.status < 500:
                self._unanswered = False
                raise refusal
            # With words to it the vendor most likely made nothing.
            return await self._lost(refusal, most=SURE if answer.json and answer.status >= 500 else None)
        try:
            told = self._vendor.told(answer.data)
        except RemoteRejected as e:
            return await self._lost(e)
        return await self._take(told)

    async def _take(self, told: Told) -> Told:
        """The session is ours from here on."""
        self._made = told
        self._unanswered = False
        self._vendor.taken(told)
        await self._journal({**self._facts, "id": told.id})
        if self._vendor.state(told) is not State.ACTIVE:
            raise StartFailed(f"{WHAT}: it was over at once, as {told.status!r}", adapter=self._vendor.NAME)
        return told

    async def undo(self, task: asyncio.Task[Told]) -> None:
        """Nobody wants the session any more: release it, whatever `task`, which runs the create, has come to."""
        if not task.done() and self._unanswered:
            # Its answer names the session, which is better than to look for it.
            await asyncio.wait({task}, timeout=self._seconds)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        try:
            left = [self._made] if self._made is not None else await self._find(WHAT) if self._unanswered else []
            for told in left:
                await end(self._vendor, told.id, self._tag)
        except BackendError as e:  # another error is under way
            _log.error("session %s may still run at %s: %s", self._tag, self._vendor.NAME, e)

    # --- a lost answer ------------------------------------------------------------------------------------------

    async def _find(self, why: object, most: float | None = None) -> list[Told]:
        seconds = min(self._vendor.look_seconds, most or self._vendor.look_seconds)
        why = f"{why}; the create is not repeated"
        return await find(self._vendor, self._tag, since=self._since, seconds=seconds, why=why)

    async def _lost(self, cause: BackendError, *, most: float | None = None) -> Told:
        """Take what the create made, or release what it may have made, and say in an error what became of it."""
        try:
            found = await self._find(cause, most)
        except StartFailed as e:
            self._unanswered = False  # it was looked for, to the end
            raise e from cause
        if self._vendor.TAGGED:
            told = await self._take(found[0])
            return told if told.cdp is not None else await self._vendor.look(told.id) or told
        self._made = found[0]
        await end(self._vendor, found[0].id, self._tag)
        self._made, self._unanswered = None, False
        msg = f"{cause}; the create is not repeated: the session that it had made has been released"
        raise StartFailed(msg, adapter=self._vendor.NAME) from cause
