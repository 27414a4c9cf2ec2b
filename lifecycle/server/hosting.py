"""The sessions that this server has started: by id, and by the key that a client gave.

Rule: nothing is decided about a session here. It is kept alive by the client of the engine; what is kept beside it is
what the wire tells and the engine does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from lifecycle.attachment import SessionStatus
from lifecycle.callers import Caller
from lifecycle.client import AsyncClient
from lifecycle.config import SessionKwargs
from lifecycle.core import merge
from lifecycle.errors import CapacityError, ConfigError, LifecycleError, SessionEnded, UnsupportedOperation
from lifecycle.server.models import ExternalProxy, SessionAnswer, StartRequest, WireCloseReason, session_fields
from lifecycle.session import AsyncSession
from lifecycle.states import CloseReason

__all__ = ["Hosted", "Hosting"]

REMEMBERED: Final = 10_000
"""Sessions that are over and still told with their options; of older ones the store alone tells."""

_REFUSED: Final[Mapping[str, str]] = {
    "auth_ids": "no logins are kept here; log in on the page, or set cookies",
    "vault_id": "there are no vaults here; fill what is needed on the page",
    "profile": "there are no profiles here; set cookies",
    "cdp_url": "the server runs its own browsers; to use another one, choose another --adapter",
    "extra_http_headers": "set them on the page, over CDP",
}
"""Fields that somebody must have asked for, and what to do instead."""

_NOT_DONE: Final = (
    "solve_captchas", "block_ads", "advanced_stealth", "web_bot_auth", "demonstrate", "aspect_ratio",
)  # fmt: skip
"""Fields that are accepted and not carried out."""


@dataclass(slots=True)
class Hosted:
    """One session of this server.

    Attributes:
        session: Its handle.
        request: What it was asked to be.
        key: The idempotency key, or None.
        cdp_url: Where its browser is reached, None where the adapter has none.
        told_reason: The close reason that a client gave with its stop.
    """

    session: AsyncSession
    request: StartRequest
    key: str | None = None
    cdp_url: str | None = None
    told_reason: WireCloseReason | None = None
    not_done: list[str] = field(default_factory=list)


class Hosting:
    """Starts, finds and ends sessions on behalf of the wire.

    Args:
        client: Whose sessions they are.
        allow_chrome_args: True to take switches for Chromium from the wire.

    Attributes:
        closing: True once the server ends: no session begins any more.
    """

    def __init__(self, client: AsyncClient, *, allow_chrome_args: bool = False) -> None:
        self.client = client
        self.closing = False
        self._allow_chrome_args = allow_chrome_args
        self._hosted: dict[str, Hosted] = {}
        self._keys: dict[str, asyncio.Task[Hosted]] = {}
        self._trouble: Exception | None = None
        """What went wrong as sessions were ended before `close`."""

    def check_open(self) -> None:
        """Raise CapacityError once the server ends."""
        if self.closing:
            raise CapacityError("the server is ending and starts no session any more; ask another one")

    async def start(
        self, request: StartRequest, *, key: str | None, name: str | None, labels: Mapping[str, str]
    ) -> tuple[Hosted, bool]:
        """Start a session, or find the one with this key that lives; True when it was started by this call.

        Two that come with one key at once get one session, and the same error when it does not start.
        """
        self.check_open()
        options = self._options(request, name, labels)
        if key is None:
            return await self._open(request, options, None), True
        while (task := self._keys.get(key)) is not None and not _over(task):
            hosted = await asyncio.shield(task)
            if not hosted.session.state.terminal:
                return hosted, False
        if len(self._keys) > REMEMBERED:
            self._keys = {k: t for k, t in self._keys.items() if not _over(t)}
        task = self._keys[key] = asyncio.ensure_future(self._open(request, options, key))
        return await asyncio.shield(task), True

    async def _open(self, request: StartRequest, options: SessionKwargs, key: str | None) -> Hosted:
        session = self.client.Session(**options)
        try:
            await session.start()
        except SessionEnded:
            self.check_open()  # it was being started when the end was asked for
            raise
        hosted = Hosted(session, request, key)
        with contextlib.suppress(UnsupportedOperation):
            hosted.cdp_url = await session.cdp_url()
        hosted.not_done = [name for name in _NOT_DONE if getattr(request, name)]
        hosted.not_done += [] if request.headless else ["headless"]
        hosted.not_done += ["proxies"] if request.proxies is True else []
        hosted.not_done += ["browser_type"] if request.browser_type != "chromium" else []
        self._hosted[session.session_id] = hosted
        if len(self._hosted) > REMEMBERED:
            self._forget()
        return hosted

    def _forget(self) -> None:
        """Drop the oldest of those that are over, a tenth at once."""
        over = [i for i, hosted in self._hosted.items() if hosted.session.state.terminal]
        for session_id in over[: REMEMBERED // 10]:
            del self._hosted[session_id]

    def _options(self, request: StartRequest, name: str | None, labels: Mapping[str, str]) -> SessionKwargs:
        """The options of a session, out of a request.

        Raises:
            ConfigError: The request wants what can't be done here; names the field.
        """
        for option, way_out in _REFUSED.items():
            if getattr(request, option):
                raise ConfigError(option=option, value="(given)", allowed=f"nothing: {way_out}")
        options = SessionKwargs(headless=True, labels=labels)
        for option in (
            "idle_timeout_minutes", "timeout_minutes", "max_duration_minutes", "viewport_width", "viewport_height",
            "user_agent",
        ):  # fmt: skip
            if (value := getattr(request, option)) is not None:
                options[option] = value  # type: ignore[literal-required]  # the names are those of SessionKwargs
        if name is not None:
            options["name"] = name
        if request.chrome_args:
            if not self._allow_chrome_args:
                raise ConfigError(
                    option="chrome_args", value="(given)", allowed="nothing, unless the server allows them"
                )
            options["chrome_args"] = request.chrome_args
        if isinstance(request.proxies, list) and request.proxies:
            options["proxy"] = _proxy(request)
        return options

    def find(self, session_id: str) -> Hosted | None:
        """A session of this server, None for one of another process or of before."""
        return self._hosted.get(session_id)

    async def status(self, session_id: str) -> SessionStatus:
        """How a session stands.

        Raises:
            ConfigError: There is none with this id.
        """
        hosted = self._hosted.get(session_id)
        return await hosted.session.status() if hosted is not None else await self.client.sessions.get(session_id)

    async def stop(self, session_id: str, reason: WireCloseReason) -> SessionStatus:
        """Stop a session, wherever its owner runs. Idempotent."""
        hosted = self._hosted.get(session_id)
        if hosted is not None and not hosted.session.state.terminal:
            hosted.told_reason = hosted.told_reason or reason
        return await self.client.sessions.stop(session_id)

    @contextlib.asynccontextmanager
    async def attached(self, session_id: str) -> AsyncIterator[AsyncSession]:
        """A handle of a session; for one of another process, an attachment as long as the block."""
        hosted = self._hosted.get(session_id)
        if hosted is not None:
            yield hosted.session
            return
        await self.client.sessions.get(session_id)  # unknown ids fail here, and leave no record
        async with self.client.Session(session_id, on_exit="detach") as session:
            yield session

    def answer(self, status: SessionStatus, *, created: bool | None = None) -> SessionAnswer:
        """A session in the words of the wire."""
        fields = session_fields(status)
        hosted = self._hosted.get(status.session_id or "")
        if hosted is not None:
            asked = hosted.request
            fields |= {
                "proxies": isinstance(asked.proxies, list) and bool(asked.proxies),
                "user_agent": asked.user_agent,
                "viewport_width": asked.viewport_width,
                "viewport_height": asked.viewport_height,
                "idempotency_key": hosted.key,
                "not_done": hosted.not_done,
            }
            if not status.status.terminal:
                fields |= {"cdp_url": hosted.cdp_url, "viewer_url": hosted.session.viewer_url}
            elif fields["close_reason"] == "manual" and hosted.told_reason is not None:
                fields["close_reason"] = hosted.told_reason
        return SessionAnswer(**fields, created=created)

    async def drain(self) -> None:
        """End all sessions of the client, those too that are being started; what went wrong is told by `close`."""
        self.closing = True
        core = self.client._core  # noqa: SLF001 - the client is this server's own, and goes on being asked

        async def end(_: Caller) -> list[Exception]:
            await core.supervisor.ensure_control()  # the one wait on the way of a start to where it is seen
            return await core.end_all("signal", CloseReason.MANUAL)

        if troubles := await core.supervisor.acall(end):
            self._trouble = merge(troubles)

    async def close(self, *, client_too: bool) -> Exception | None:
        """Stop what this server started, or close the client with all that is active; tells what went wrong."""
        self.closing = True
        if client_too:
            try:
                await self.client.close()
            except LifecycleError as trouble:
                return self._trouble or trouble
            return self._trouble
        active = [h.session for h in self._hosted.values() if not h.session.state.terminal]
        results = await asyncio.gather(*(session.stop() for session in active), return_exceptions=True)
        return next((r for r in results if isinstance(r, LifecycleError)), None)


def _over(task: asyncio.Task[Hosted]) -> bool:
    """True when a key is free again: its session did not start, or is over."""
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().session.state.terminal


def _proxy(request: StartRequest) -> dict[str, str]:
    proxies = request.proxies if isinstance(request.proxies, list) else []
    proxy = proxies[0]
    if len(proxies) > 1 or not isinstance(proxy, ExternalProxy):
        raise ConfigError(option="proxies", value="(given)", allowed="true, false, or one proxy of type external")
    return {k: v for k, v in proxy.model_dump(exclude={"type"}).items() if v is not None}
