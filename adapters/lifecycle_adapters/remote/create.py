"""One create, and what becomes of it when its answer is lost.

Rule: a create whose request may have reached the service is never sent again. What it may have made is looked for
among the active sessions, for a bounded time, and released: by our idempotency key where the service tells it, else
only when exactly one session can be it.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lifecycle.errors import BackendError, StartFailed
from lifecycle.logs import get_logger
from lifecycle_adapters.remote import calls
from lifecycle_adapters.remote.client import Again, Answer, Lost, Service, attempts
from lifecycle_adapters.remote.wire import WireSession, end_of, parse_session

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Creating", "Known"]

WHAT: Final = "starting a session"

SLACK: Final = timedelta(seconds=2)
"""How far the service's own times may be apart from each other."""

PAGES: Final = 20
"""Pages of active sessions that are looked through."""

_log: Final = get_logger(__name__)


class Known:
    """What an adapter knows of the sessions of its service."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        """Ids of the sessions it has opened or connected to, and not given up."""
        self.creating: set[Creating] = set()
        """Creates whose outcome is open."""
        self.tells_keys = False
        """The service has told the idempotency key of a session."""


class Creating:
    """One create.

    Args:
        service: Where.
        body: The start request.
        known: What the adapter knows.
        seconds: What the create may take, its repetitions included.
        look: Seconds in which a create whose answer is lost is looked for.
    """

    def __init__(self, service: Service, body: Mapping[str, Any], known: Known, *, seconds: float, look: float) -> None:
        self.key = str(uuid.uuid4())
        self._service = service
        self._body = body
        self._known = known
        self._seconds = seconds
        self._look = look
        self._sent: float | None = None
        self._looking = False
        self._judged = False

    async def run(self) -> WireSession:
        """Create the session.

        Raises:
            StartFailed: There is none, or its answer was lost; says what became of what it may have made.
            AuthenticationError, CapacityError, RemoteRejected: The service refused.
        """
        self._known.creating.add(self)
        try:
            return await self._run()
        finally:
            self._known.creating.discard(self)

    async def _run(self) -> WireSession:
        try:
            async for attempt in attempts(seconds=self._seconds / 2, most=6):
                with attempt:
                    return await self._once()
        except Again as e:
            error = e.error
            if not isinstance(e.__cause__, Lost):
                raise error from e
            msg = f"{error}; is it running, and is base_url right?"
            raise StartFailed(msg, adapter="remote") from error
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def _once(self) -> WireSession:
        loop = asyncio.get_running_loop()
        self._sent = loop.time()
        try:
            answer = await self._service.exchange(
                "POST", "/sessions/start", body=self._body, headers={"Idempotency-Key": self.key},
                seconds=min(self._service.seconds, self._seconds / 2),
            )  # fmt: skip
        except Lost as e:
            error = self._service.lost(e, WHAT)
            if not e.sent:
                self._sent = None
                raise Again(error) from e
            raise await self._lost(error) from error
        if answer.good:
            return await self._made(answer)
        if answer.refused:
            self._sent = None
            raise Again(self._service.refusal(answer, WHAT), answer.retry_after)
        if answer.status >= 500 or 200 <= answer.status < 300:
            refusal = self._service.refusal(answer, WHAT)
            # With words to it the service most likely made nothing, so only what surely is ours is released.
            sure = answer.status >= 500 and answer.json
            became = await self._lost(refusal, only_by_key=sure)
            if sure and not self._judged:
                raise refusal
            raise became from refusal
        self._sent = None
        raise self._service.refusal(answer, WHAT)

    async def _made(self, answer: Answer) -> WireSession:
        try:
            session = parse_session(answer.data)
        except BackendError as e:
            raise await self._lost(e) from e
        self._known.sessions.add(session.session_id)
        self._known.tells_keys = self._known.tells_keys or session.key is not None
        end = end_of(session)
        if end is not None:
            await self.release(session.session_id)
            msg = f"{WHAT}: it was over at once: {end.detail}"
            raise StartFailed(msg, adapter="remote")
        return session

    async def undo(self, task: asyncio.Task[WireSession]) -> None:
        """Nobody wants the session any more: release it, whatever `task`, which runs the create, has come to."""
        if not task.done() and self._sent is not None:
            # Its answer names the session, which is better than to look for it.
            await asyncio.wait({task}, timeout=self._service.seconds)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await self.release(task.result().session_id)
        elif task.cancelled() and self._sent is not None:
            became = await self._lost(None)
            if self._judged:
                _log.warning("%s", became)

    async def release(self, session_id: str) -> None:
        """Release what was made and is not wanted; what goes wrong is logged, since another error is under way."""
        try:
            await calls.stop(self._service, session_id, error=True)
        except BackendError as e:
            _log.error("%s", e)
        finally:
            self._known.sessions.discard(session_id)

    # --- a lost answer ------------------------------------------------------------------------------------------

    async def _lost(self, cause: BackendError | None, *, only_by_key: bool = False) -> StartFailed:
        """Look for what a create may have made, release it, and say in an error what became of it."""
        self._judged = False
        self._looking = True
        self._known.creating.add(self)
        try:
            became = await self._find(only_by_key=only_by_key)
        finally:
            self._looking = False
            self._known.creating.discard(self)
        why = f"{cause}; " if cause is not None else f"{WHAT} was broken off; "
        return StartFailed(f"{why}the create is not repeated: {became}", adapter="remote")

    async def _find(self, *, only_by_key: bool) -> str:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._look
        pause = 0.1
        trouble: BackendError | None = None
        candidates: list[str] = []
        while True:
            alone = not self._others_on_their_way()  # before the list, too: one may be answered while that comes
            try:
                active = await self._active()
                trouble = None
            except BackendError as e:
                active, trouble = [], e
            mine = [s.session_id for s in active if s.key == self.key]
            if not mine and not only_by_key and not self._known.tells_keys:
                candidates = [s.session_id for s in active if self._may_be_mine(s)]
                mine = candidates if alone and self._accounts_for(len(candidates)) else []
            if mine:
                self._judged = True
                return await self._give_back(mine)
            if only_by_key or loop.time() + pause > until:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
        if candidates:
            self._judged = True
            return f"one of these active sessions may be what it made, stop the one that nobody uses: {candidates}"
        if trouble is not None:
            self._judged = True
            return f"whether it made a session could not be found out ({trouble})"
        return (
            f"no session of it was active within {self._look:g} seconds; should one come up later, the service ends it "
            f"after its idle timeout of {self._body['idle_timeout_minutes']} minutes"
        )

    async def _give_back(self, session_ids: list[str]) -> str:
        try:
            for session_id in session_ids:
                await calls.stop(self._service, session_id, error=True)
        except BackendError as e:
            return f"it had made one, and {e}"
        return f"the session that it had made, {', '.join(session_ids)}, has been released"

    def _others_on_their_way(self) -> bool:
        """True while the answer to another create may still name a session that is listed."""
        return any(c._sent is not None and not c._looking for c in self._known.creating)  # noqa: SLF001 - of this class

    def _accounts_for(self, count: int) -> bool:
        """True when so many sessions can't be but what the creates made whose answers this adapter has lost."""
        lost = [c for c in self._known.creating if c._sent is not None]  # noqa: SLF001 - of this class
        return not self._others_on_their_way() and count <= sum(c._body == self._body for c in lost)  # noqa: SLF001

    async def _active(self) -> list[WireSession]:
        found: list[WireSession] = []
        for page in range(1, PAGES + 1):
            items, more = await calls.list_page(self._service, only_active=True, page=page)
            found += items
            if not more:
                break
        self._known.tells_keys = self._known.tells_keys or any(s.key is not None for s in found)
        return found

    def _may_be_mine(self, session: WireSession) -> bool:
        """True for a session that nobody here knows, made in the time of this create with its options."""
        assert self._sent is not None  # noqa: S101 - else nothing was made
        ago = timedelta(seconds=asyncio.get_running_loop().time() - self._sent)
        began = datetime.now(UTC) - self._service.ahead() - ago - SLACK
        known = session.session_id in self._known.sessions
        return not known and session.created_at >= began and session.made_from(self._body)
