"""One session of a service, and the poller that watches it.

Rule: what the service says of the session is passed on, its end and its use; what goes wrong on the way says nothing
about the session. Pages are driven over the service's own CDP URL, so nothing here sees that traffic: the service's
`last_accessed_at` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from lifecycle.actions import Action, ActionResult, Observation, ObserveRequest, Scrape, ScrapeRequest, budget_of
from lifecycle.errors import BackendError, ConnectionLost, RemoteRejected, UnsupportedOperation
from lifecycle.logs import get_logger
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State
from lifecycle_adapters.remote import calls
from lifecycle_adapters.remote.wire import WireSession, cookies_of, end_of, to_wire

if TYPE_CHECKING:
    from lifecycle.cookies import Cookie, CookieKey
    from lifecycle.ports import Clock, Host
    from lifecycle_adapters.remote.client import Service
    from lifecycle_adapters.remote.create import Known

__all__ = ["RemoteBackend"]

UNWIND: Final = 2.0
"""Seconds of real time that a cancelled poll gets to end."""

_LONG_AGO: Final = 1.0
"""An expiry that removes a cookie, in seconds since the epoch; 0 would make it a session cookie."""

_FORGOTTEN: Final = BackendEnd(
    state=State.ERROR, reason=CloseReason.BACKEND, detail="the service does not know the session any more"
)

_ERRORS: Final = frozenset({CloseReason.BACKEND, CloseReason.CRASH, CloseReason.OWNER_DIED})
"""Reasons that the service is told ``close_reason=error`` for."""

_log: Final = get_logger(__name__)


class RemoteBackend:
    """A session of the service, opened or connected to.

    Args:
        service: The way to it.
        session: What it said of the session first.
        host: Whom to tell.
        known: What the adapter knows; the session is in it until it is given up here.
        every: Seconds between two looks at the session.
    """

    def __init__(self, service: Service, session: WireSession, host: Host, known: Known, *, every: float) -> None:
        self._service = service
        self._id = session.session_id
        self._cdp_url = session.cdp_url
        self._viewer_url = session.viewer_url
        self._accessed = session.last_accessed_at
        self._host = host
        self._known = known
        self._every = every
        self._over = False
        self._failed = False
        self._released = False
        known.sessions.add(self._id)
        self._poller: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(self._poll())

    def __repr__(self) -> str:
        return f"<RemoteBackend {self._id}>"

    @property
    def session_id(self) -> str:
        """The id that the service gave it."""
        return self._id

    @property
    def can_live_on(self) -> bool:
        """Always: the session is the service's, whoever opened it."""
        return True

    @property
    def viewer_url(self) -> str | None:
        """The service's own live view of the session: a secret, or None."""
        return self._viewer_url

    # --- operations ---------------------------------------------------------------------------------------------

    async def get_cookies(self) -> Sequence[Cookie]:
        """All cookies of the default context, as the service gives them."""
        return cookies_of(await self._ask("GET", "/cookies", "reading the cookies"))

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies, read them back, and return those that did not take, each with the reason."""
        if not cookies:
            return []
        last = {cookie.key: cookie for cookie in cookies}
        refused = await self._send(list(last.values()))
        there = {cookie.key: cookie for cookie in await self.get_cookies()}
        now = self._host.clock.utcnow().timestamp()
        out: list[tuple[Cookie, str]] = []
        for key, cookie in last.items():
            kept = there.get(key)
            if cookie.expired(now):
                out.append((cookie, "it has expired"))
            elif key in refused:
                out.append((cookie, refused[key]))
            elif kept is None:
                out.append((cookie, "the browser of the service did not keep it"))
            elif kept.value != cookie.value:
                out.append((cookie, "the browser of the service keeps another value"))
        return out

    async def clear_cookies(self) -> None:
        """Remove every cookie, by setting each to a time that is over: the wire has no other way.

        Raises:
            UnsupportedOperation: The service keeps them all the same.
        """
        there = await self.get_cookies()
        if not there:
            return
        gone = [{**to_wire(cookie), "expirationDate": _LONG_AGO, "session": False} for cookie in there]
        await self._ask("POST", "/cookies", "clearing the cookies", {"cookies": gone})
        if await self.get_cookies():
            raise UnsupportedOperation(
                operation="clearing cookies",
                adapter="remote",
                way_out="its service keeps cookies that have expired: send Storage.clearCookies to cdp_url()",
            )

    async def cdp_url(self) -> str:
        """The service's own CDP URL of the session: a secret.

        Raises:
            UnsupportedOperation: The service gives none.
        """
        if self._cdp_url is not None:
            return self._cdp_url
        data = await self._ask("GET", "/debug", "asking for the CDP URL")
        sockets = cast("Mapping[str, Any]", data).get("ws") if isinstance(data, Mapping) else None
        found = cast("Mapping[str, Any]", sockets).get("cdp") if isinstance(sockets, Mapping) else None
        if not isinstance(found, str) or not found:
            raise UnsupportedOperation(
                operation="cdp_url", adapter="remote", way_out="its service gives no CDP URL for this session"
            )
        return found

    async def execute(self, action: Action) -> ActionResult:
        """Do one action on the page, at the service. Never repeated: it may have been done."""
        return ActionResult.from_json(await self._operate("execute", "an action", action, once=True))

    async def observe(self, request: ObserveRequest) -> Observation:
        """Look at the page, by the eyes of the service."""
        return Observation.from_json(await self._operate("observe", "observing the page", request))

    async def scrape(self, request: ScrapeRequest) -> Scrape:
        """Read the page, as the service reads it."""
        return Scrape.from_json(await self._operate("scrape", "scraping the page", request))

    async def _operate(
        self, name: str, what: str, request: Action | ObserveRequest | ScrapeRequest, *, once: bool = False
    ) -> Mapping[str, Any]:
        answer = await self._ask(
            "POST", f"/page/{name}", what, request.to_json(), once=once, seconds=budget_of(request)
        )
        if not isinstance(answer, Mapping):
            raise BackendError(f"{what}: the service answered with something that is no object")
        return cast("Mapping[str, Any]", answer)

    async def _send(self, cookies: list[Cookie]) -> Mapping[CookieKey, str]:
        """Set what can be set; the keys of what was refused. A refused batch is halved until each stands alone."""
        try:
            await self._ask("POST", "/cookies", "setting cookies", {"cookies": [to_wire(c) for c in cookies]})
        except RemoteRejected as e:
            if e.status not in {400, 422}:
                raise
            if len(cookies) == 1:
                return {cookies[0].key: f"the service refused it: {str(e).rpartition(' answered ')[2]}"}
            middle = len(cookies) // 2
            return {**await self._send(cookies[:middle]), **await self._send(cookies[middle:])}
        return {}

    async def _ask(
        self, method: str, rest: str, what: str, body: object = None, *,
        once: bool = False, seconds: float | None = None,
    ) -> object:  # fmt: skip
        """One request about the session. Where the service says that it is not there, its end is looked for."""
        try:
            return await self._service.ask(
                method, calls.path_of(self._id, rest), what=what, body=body, secret=body is not None, once=once,
                seconds=seconds,
            )  # fmt: skip
        except RemoteRejected as e:
            if e.status in {404, 409} and (end := await self._look()) is not None:
                raise ConnectionLost(f"{what}: {end.detail}") from e
            raise

    # --- what the service says ----------------------------------------------------------------------------------

    async def _look(self) -> BackendEnd | None:
        """Ask how the session stands and pass on what is new; how it ended, None while that is not known."""
        try:
            session = await calls.get(self._service, self._id, once=True)
        except BackendError as e:
            if not self._failed:
                _log.warning("session %s can't be watched now: %s", self._id, e)
            self._failed = True
            return None
        self._failed = False
        end = end_of(session) if session is not None else _FORGOTTEN
        if end is not None:
            # Of one that ended in an error the service may still hold something.
            self._over = session is None or end.state is not State.ERROR
            self._host.ended(end)
            return end
        if session is not None and session.last_accessed_at > self._accessed:
            self._accessed = session.last_accessed_at
            self._host.used()
        return None

    async def _poll(self) -> None:
        while True:
            await _pause(self._host.clock, self._every)
            try:
                if await self._look() is not None:
                    return
            except Exception:  # noqa: BLE001 - a fault of ours must not leave the session unwatched
                _log.exception("session %s could not be looked at", self._id)

    # --- its end ------------------------------------------------------------------------------------------------

    async def close_connections(self, reason: str) -> None:
        """Watch the session no more. Clients of its CDP URL are connected to the service, which closes them."""
        self._failed = reason in _ERRORS
        poller, self._poller = self._poller, None
        if poller is not None and poller is not asyncio.current_task():
            poller.cancel()
            await asyncio.wait({poller}, timeout=UNWIND)
        self._known.sessions.discard(self._id)

    async def release(self) -> None:
        """Stop the session at the service, unless it said itself that it is over. Idempotent.

        Raises:
            ReleaseFailed: It may still run.
        """
        if self._poller is not None:
            await self.close_connections("released")
        if self._released or self._over:
            return
        await calls.stop(self._service, self._id, error=self._failed)
        self._released = True


async def _pause(clock: Clock, seconds: float) -> None:
    """Wait until `seconds` of `clock` have passed."""
    passed = asyncio.Event()
    timer = clock.call_at(clock.monotonic() + seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()
