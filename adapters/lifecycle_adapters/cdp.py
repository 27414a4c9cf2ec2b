"""The cdp adapter: a browser that somebody else runs and gives a CDP URL of, behind the gateway like any other.

Rule: the browser is not ours. A session is a page of its own in the browser's default context, and what its clients
open; it closes that and nothing else. The URL is a secret.

    cdp_place.py    the URL and its discovery
    cdp_backend.py  one session
    cdp_cookies.py  cookies of the default context
    cdp_scopes.py   cookies by cookie_scope
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Final

from lifecycle.errors import ConnectionLost, RemoteRejected, UnsupportedOperation
from lifecycle.logs import get_logger
from lifecycle.ports import CdpSocket
from lifecycle_adapters._owned import OwnedSessions
from lifecycle_adapters.cdp_place import Place, discover, failed, parse_place, rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.config import SessionOptions
    from lifecycle.ports import Backend, Host
    from lifecycle_adapters.cdp_backend import CdpBackend

__all__ = ["CdpAdapter"]

_LAUNCH_ONLY: Final[Mapping[str, str]] = {
    "headless": "start the browser with a window, or use session.viewer()",
    "proxy": "start the browser with --proxy-server",
    "chrome_args": "start the browser with them",
    "profile": "start the browser with --user-data-dir",
    "downloads_folder": "take them in a client, such as Playwright's page.expect_download()",
    "executable_path": "start that browser, and give its CDP URL",
    "user_agent": "start the browser with --user-agent, or set it in a client with Emulation.setUserAgentOverride",
}
"""Options that only a launch can take, each with the way out."""

_log: Final = get_logger(__name__)


class CdpAdapter(OwnedSessions):
    """Runs sessions in a browser that gives a CDP URL. Works on every system.

    Args:
        url: ``ws://``, ``wss://``, or ``http://host:port`` with discovery by ``/json/version``; None for the
            environment variable LIFECYCLE_CDP_URL. The `cdp_url` of another session is one too.
        headers: What the requests to it carry, such as an ``Authorization``.
        end_browser: True to end the browser (`Browser.close`) with each session; else it goes on.
    """

    def __init__(
        self, *, url: str | None = None, headers: Mapping[str, str] | None = None, end_browser: bool = False
    ) -> None:
        self._url = url
        self._headers = dict(headers or {})
        self._end_browser = end_browser
        importlib.import_module("lifecycle_adapters.cdp_backend")  # nothing is imported in the middle of a start

    @property
    def name(self) -> str:
        """``cdp``."""
        return "cdp"

    @property
    def capabilities(self) -> frozenset[str]:
        """``pages``, ``cdp``, ``cookies`` and ``viewport``."""
        return frozenset({"pages", "cdp", "cookies", "viewport"})

    def check(self, options: SessionOptions) -> None:
        """Refuse what a browser that runs already can't take.

        Raises:
            ConfigError: There is no URL, or it is none that leads to a browser.
            UnsupportedOperation: Names the option and the way out.
        """
        self._place()
        given = {
            "headless": not options.headless,
            "proxy": options.proxy is not None,
            "chrome_args": bool(options.chrome_args),
            "executable_path": options.executable_path is not None,
            "profile": options.profile is not None,
            "downloads_folder": options.downloads_folder is not None,
            "user_agent": options.user_agent is not None,
        }
        for option, is_given in given.items():
            if is_given:
                raise UnsupportedOperation(
                    operation=f"{option}= for a browser that runs already",
                    adapter=self.name,
                    way_out=_LAUNCH_ONLY[option],
                )

    def _place(self) -> Place:
        return parse_place(self._url or os.environ.get("LIFECYCLE_CDP_URL"), self._headers)

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        """Connect to the browser and open a page of the session's own in its default context.

        Atomic: when it raises or is cancelled, its page and the connection are closed.

        Raises:
            StartFailed: The browser can't be reached or used; says why and what to do.
        """
        from lifecycle_adapters import cdp_backend  # noqa: PLC0415 - loaded by __init__

        self.check(options)
        place = there = self._place()
        if place.discovers:
            there = await host.run_blocking(discover, place)
        await host.journal({"browser": place.shown})
        try:
            endpoint = await host.serve_cdp(CdpSocket(url=there.url, headers=there.headers))
        except RemoteRejected as e:
            raise rejected(place, e) from None
        except ConnectionLost as e:
            raise failed(place, str(e)) from None
        backend = cdp_backend.CdpBackend(session_id, endpoint, options, end_browser=self._end_browser)
        try:
            page = await backend.start(options)
            await host.journal({"browser": place.shown, "page": page})
        except BaseException as e:
            await self._undo(backend, e)
            if isinstance(e, ConnectionLost):
                raise failed(place, f"it hung up: {e}") from None
            raise
        return backend

    async def _undo(self, backend: CdpBackend, error: BaseException) -> None:
        """Give up what was opened, to the end even when this task is cancelled meanwhile."""
        task = asyncio.ensure_future(CdpAdapter._give_up(backend))
        cancelled = False
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                cancelled = True
        if cancelled and not isinstance(error, asyncio.CancelledError):
            raise asyncio.CancelledError from error

    @staticmethod
    async def _give_up(backend: CdpBackend) -> None:
        endpoint = backend.endpoint
        try:
            await endpoint.close_opened()
        except Exception as e:  # noqa: BLE001 - another error is under way
            _log.warning("what was opened in the browser could not be closed: %s", type(e).__name__)
        with contextlib.suppress(ConnectionLost):
            await endpoint.aclose()

    async def aclose(self) -> None:
        """Nothing is held between sessions. Idempotent."""
