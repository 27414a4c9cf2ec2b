"""Browserless: https://docs.browserless.io/baas/start.

Rule: there is no create and no release. To connect is to create, and the session ends with the connection, so with this
process at the latest.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    ConfigError,
    ConnectionLost,
    RemoteRejected,
    StartFailed,
)
from lifecycle.ports import CdpSocket
from lifecycle_adapters._owned import OwnedSessions, to_the_end
from lifecycle_adapters.cdp_backend import CdpBackend
from lifecycle_adapters.remote.place import check_address, check_key
from lifecycle_adapters.vendors.told import REFUSED, refuse, units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.config import SessionOptions
    from lifecycle.ports import Host

__all__ = ["BrowserlessAdapter"]

URL: Final = "https://production-sfo.browserless.io"


class BrowserlessBackend(CdpBackend):
    """A session that lasts as long as its connection."""

    async def release(self) -> None:
        """Hang up. Idempotent."""
        await self.endpoint.aclose()


class BrowserlessAdapter(OwnedSessions):
    """Sessions at Browserless, in its cloud or on a server of one's own. Their time is limited in milliseconds.

    Args:
        api_key: The token; by default ``BROWSERLESS_TOKEN`` of the environment. A server of one's own may need none.
        base_url: Where it is, with the path of a browser if need be; by default ``BROWSERLESS_URL`` of the environment,
            else its cloud.
        settings: Further fields of the query, such as ``stealth`` or ``launch``, as the vendor documents them.
        allow_http: Send the token to a host that is not this machine without encryption.

    Raises:
        ConfigError: There is no token, or an argument is not allowed.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        settings: Mapping[str, str] | None = None,
        allow_http: bool = False,
    ) -> None:
        given = base_url or os.environ.get("BROWSERLESS_URL") or URL
        web = f"http{given[2:]}" if given.startswith("ws") else given
        self._url, self._host, _ = check_address(web, allow_http=allow_http, example=URL)
        key = api_key if api_key is not None else os.environ.get("BROWSERLESS_TOKEN")
        if key or self._url == URL:
            key = check_key(key, allowed="the token, as BrowserlessAdapter(api_key=...) or in BROWSERLESS_TOKEN")
        self._query = {"token": key} if key else {}
        self._settings = dict(settings or {})
        for name in sorted(self._settings.keys() & {"token", "timeout"}):
            allowed = "fields that the adapter does not set itself, from api_key= and max_duration_minutes="
            raise ConfigError(option="settings", value=name, allowed=allowed)

    def __repr__(self) -> str:
        return f"<BrowserlessAdapter {self._url}>"

    @property
    def name(self) -> str:
        """``browserless``."""
        return "browserless"

    @property
    def capabilities(self) -> frozenset[str]:
        """``pages``, ``cdp``, ``cookies``, ``viewport`` and ``fixed_duration``."""
        return frozenset({"pages", "cdp", "cookies", "viewport", "fixed_duration"})

    def check(self, options: SessionOptions) -> None:
        """Refuse what it can't take. Raises UnsupportedOperation, which names the option and the way out."""
        refuse(options, self.name, REFUSED)

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> CdpBackend:
        """Connect, and open a page of the session's own.

        Raises:
            StartFailed: There is no browser; says why.
            CapacityError: It has no room.
            AuthenticationError: It refused the token.
        """
        self.check(options)
        longest = units(options.max_duration_minutes, 0.001, option="max_duration_minutes")
        parts = urlsplit(f"ws{self._url[4:]}")
        query = urlencode({**self._settings, "timeout": longest, **self._query})
        await host.journal({"service": self._url})
        try:
            endpoint = await host.serve_cdp(CdpSocket(url=parts._replace(path=parts.path or "/", query=query).geturl()))
        except (RemoteRejected, ConnectionLost) as e:
            raise self._refusal(e) from None
        backend = BrowserlessBackend(session_id, endpoint, options, end_browser=False)
        try:
            await backend.start(options)
        except BaseException as e:
            if await to_the_end(endpoint.aclose()) and not isinstance(e, asyncio.CancelledError):
                raise asyncio.CancelledError from e
            if isinstance(e, ConnectionLost):
                raise StartFailed(f"Browserless at {self._host} hung up: {e}", adapter=self.name) from None
            raise
        return backend

    def _refusal(self, error: BackendError) -> BackendError:
        status = error.status if isinstance(error, RemoteRejected) else None
        msg = f"Browserless at {self._host} gives no browser: {error}"
        if status in {401, 403}:
            return AuthenticationError(f"{msg}; check api_key= or BROWSERLESS_TOKEN")
        if status == 429:
            return CapacityError(f"{msg}; it has no room now, stop a session there or try again later")
        return StartFailed(f"{msg}; check base_url=, and settings= and max_duration_minutes= for what your plan allows",
                           adapter=self.name)  # fmt: skip

    async def reap(self, session_id: str, facts: Mapping[str, str]) -> None:
        """Nothing is left: the session ended with the connection of its owner."""

    async def aclose(self) -> None:
        """Nothing is held between sessions. Idempotent."""
