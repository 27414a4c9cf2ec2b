"""One session in a browser that somebody else runs.

Rule: it opens a page of its own, in a window of its own where the browser has windows, and closes at its end what was
opened through it; the browser goes on unless told otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from lifecycle.errors import BackendError, ConnectionLost, StartFailed
from lifecycle.logs import get_logger
from lifecycle_adapters.cdp_scopes import ScopedCookies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie
    from lifecycle.ports import CdpEndpoint

__all__ = ["CdpBackend"]

_ANSWER: Final = 10.0
"""Seconds that the browser gets for each answer while a session starts."""

_END: Final = 3.0
"""Seconds that a browser gets to end, with `end_browser`."""

_SETTLE: Final = 2.0
"""Seconds that a window gets to take its size."""

_SIZE: Final = """new Promise(done => {
  const size = () => [innerWidth, innerHeight], taken = () => innerWidth === %(w)d && innerHeight === %(h)d;
  if (taken()) return done(size());
  addEventListener("resize", () => taken() && done(size()));
  setTimeout(() => done(size()), %(ms)d);
})"""

_log: Final = get_logger(__name__)


class CdpBackend:
    """A session behind the gateway, in a foreign browser. Made by `CdpAdapter.open`."""

    def __init__(self, session_id: str, endpoint: CdpEndpoint, options: SessionOptions, *, end_browser: bool) -> None:
        self._session_id = session_id
        self._endpoint = endpoint
        self._end_browser = end_browser
        self._cookies = ScopedCookies(endpoint, everywhere=options.cookie_scope == "all")

    @property
    def session_id(self) -> str:
        """The id that the engine gave it."""
        return self._session_id

    @property
    def can_live_on(self) -> bool:
        """False: the browser does, but its gateway ends with this process."""
        return False

    @property
    def endpoint(self) -> CdpEndpoint:
        """The gateway in front of the browser."""
        return self._endpoint

    @property
    def foreign_cookies(self) -> int:
        """Cookies seen in contexts that clients made, which no cookie file holds."""
        return self._endpoint.foreign_cookies

    @property
    def cookie_conflicts(self) -> int:
        """With ``cookie_scope="all"``: cookies that differed between contexts at the last reading."""
        return self._cookies.conflicts

    @property
    def cookies_of_contexts(self) -> Sequence[int]:
        """With ``cookie_scope="all"``: cookies that each context held at the last reading, the default first."""
        return self._cookies.of_contexts

    @property
    def cookies_lost(self) -> bool:
        """The process that held the cookies for the browser has ended meanwhile, and took the newest with it."""
        return self._cookies.lost

    # --- opening

    async def start(self, options: SessionOptions) -> str:
        """Open the session's page; returns its target id.

        Raises:
            StartFailed: The browser does not do as a CDP browser does.
        """
        try:
            async with asyncio.timeout(_ANSWER):
                await self._endpoint.call("Browser.getVersion")
                await self._cookies.begin()
                page = await self._open_page()
        except TimeoutError:
            raise StartFailed(
                f"the browser did not answer within {_ANSWER:g} s; check that the URL is a CDP endpoint", adapter="cdp"
            ) from None
        except ConnectionLost:
            raise
        except BackendError as e:
            raise StartFailed(
                f"the browser opens no page in its default context ({e}); give the URL of a browser that does",
                adapter="cdp",
            ) from e
        if options.viewport_width is not None and options.viewport_height is not None:
            await self._set_viewport(page, options.viewport_width, options.viewport_height)
        return page

    async def _open_page(self) -> str:
        try:
            made = await self._endpoint.call("Target.createTarget", {"url": "about:blank", "newWindow": True})
        except ConnectionLost:
            raise
        except BackendError:  # a browser without windows
            made = await self._endpoint.call("Target.createTarget", {"url": "about:blank"})
        return str(made["targetId"])

    async def _set_viewport(self, page: str, width: int, height: int) -> None:
        """Give the page's window this size, read it back, and say so when it is another."""
        attached = await self._endpoint.call("Target.attachToTarget", {"targetId": page, "flatten": True})
        session = str(attached["sessionId"])
        got: object = None
        try:
            async with asyncio.timeout(_ANSWER):
                window = await self._endpoint.call("Browser.getWindowForTarget", {"targetId": page})
                size = {"windowId": window["windowId"], "width": width, "height": height}
                try:
                    await self._endpoint.call("Browser.setContentsSize", size)
                except ConnectionLost:
                    raise
                except BackendError:  # a Chromium without that command
                    await self._resize(session, window["windowId"], width, height)
                settle = {"w": width, "h": height, "ms": int(_SETTLE * 1000)}
                got = await self._evaluate(session, _SIZE % settle)
        except ConnectionLost:
            raise
        except (BackendError, TimeoutError) as e:
            _log.debug("the window can't be resized: %s", e)
        if got == [width, height]:
            await self._endpoint.call("Target.detachFromTarget", {"sessionId": session})
            return
        # An emulation lasts as long as its session, so that one stays attached.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 0, "mobile": False}
        with contextlib.suppress(BackendError):
            await self._endpoint.call("Emulation.setDeviceMetricsOverride", metrics, session_id=session)
            got = await self._evaluate(session, "[innerWidth, innerHeight]")
        if got != [width, height]:
            _log.warning("the page's viewport is %s: the browser did not take %d x %d", got, width, height)

    async def _resize(self, session: str, window_id: object, width: int, height: int) -> None:
        frame = await self._evaluate(session, "[outerWidth - innerWidth, outerHeight - innerHeight]")
        if isinstance(frame, list) and len(frame) == 2:
            bounds = {"width": width + int(frame[0]), "height": height + int(frame[1])}
            await self._endpoint.call("Browser.setWindowBounds", {"windowId": window_id, "bounds": bounds})

    async def _evaluate(self, session: str, expression: str) -> object:
        params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        result = (await self._endpoint.call("Runtime.evaluate", params, session_id=session)).get("result")
        return result.get("value") if isinstance(result, dict) else None

    # --- while it is active

    async def get_cookies(self) -> Sequence[Cookie]:
        """All cookies of the scope."""
        return await self._cookies.get()

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies, read them back, and return those that did not take, each with the reason."""
        return await self._cookies.set(cookies)

    async def clear_cookies(self) -> None:
        """Remove every cookie of the default context, the browser's own user's too."""
        await self._cookies.clear()

    async def cdp_url(self) -> str:
        """The gateway's URL: a secret."""
        return self._endpoint.url

    # --- ending

    async def close_connections(self, reason: str) -> None:
        """Close what clients have open. Idempotent."""
        await self._endpoint.close_clients(reason)

    async def release(self) -> None:
        """Close what was opened through us, and the connection. Idempotent.

        Raises:
            ReleaseFailed: Pages of ours may still be open; the connection is kept, so that it can be tried again.
        """
        if self._end_browser:
            with contextlib.suppress(TimeoutError, BackendError):  # it is gone, or goes with the connection
                async with asyncio.timeout(_END):
                    await self._endpoint.call("Browser.close")
                    while True:  # Chromium answers first and ends then
                        await self._endpoint.call("Browser.getVersion")
                        await asyncio.sleep(0.02)
        else:
            await self._endpoint.close_opened()
        await self._endpoint.aclose()
