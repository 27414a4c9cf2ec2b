"""Crawlee for Python: each browser of its pool is a session. Needs ``crawlee[playwright]``.

Rule: one controller, one session. What the pool opens is a session that starts, and what it closes is a session that
stops; a launch that fails or is cancelled leaves none. A controller whose session is over has no room for pages, so the
pool opens another browser, and no session outlives the plugin.

Crawlee drives the browser with a Playwright of its own, over the session's gateway. It opens pages in the session's
own context, or each in a context of its own with ``use_incognito_pages=True``::

    pool = BrowserPool(plugins=[SessionBrowserPlugin(client, cookie_file="cookies.json")])
    crawler = PlaywrightCrawler(browser_pool=pool)

Limits. The pool closes a browser that it retires once the pages are closed, at an interval of its own
(``close_inactive_browsers_interval``, 30 seconds): until then that session is active, its idle timeout runs, and its
cookies are not in the file, so the next browser begins without them. Crawlee closes the page and leaves its context of
``use_incognito_pages=True`` open until the browser ends. A crawl that is cancelled again while it ends may leave its
pool open; then its sessions end with the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack
from weakref import WeakSet

from crawlee.browsers import (  # pyright: ignore[reportMissingImports] - only who uses it has it
    PlaywrightBrowserController,
    PlaywrightBrowserPlugin,
)
from playwright.async_api import async_playwright

from lifecycle.client import AsyncClient
from lifecycle.config import SessionKwargs
from lifecycle.core import merge
from lifecycle.errors import ConfigError, UsageError
from lifecycle.states import State

if TYPE_CHECKING:
    from crawlee.fingerprint_suite import FingerprintGenerator  # pyright: ignore[reportMissingImports]
    from crawlee.proxy_configuration import ProxyInfo  # pyright: ignore[reportMissingImports]
    from playwright.async_api import Browser, Page, Playwright

    from lifecycle.session import AsyncSession

__all__ = ["SessionBrowserController", "SessionBrowserPlugin"]


class SessionBrowserController(PlaywrightBrowserController):  # type: ignore[misc]  # not installed for mypy
    """One browser of the pool, and the session that owns it. Made by `SessionBrowserPlugin.new_browser`."""

    def __init__(
        self,
        browser: Browser,
        session: AsyncSession,
        troubles: list[Exception],
        *,
        use_incognito_pages: bool,
        **options: Any,  # noqa: ANN401 - those of crawlee's own controller
    ) -> None:
        super().__init__(browser, use_incognito_pages=use_incognito_pages, **options)
        self._connection = browser
        self._session = session
        self._troubles = troubles
        self._incognito = use_incognito_pages

    @property
    def session(self) -> AsyncSession:
        """The session that owns the browser, for hooks of the pool."""
        return self._session

    @property
    def has_free_capacity(self) -> bool:
        """True while another page may be opened: never once the session is over or its browser gone."""
        return self._session.state is State.ACTIVE and self.is_browser_connected and bool(super().has_free_capacity)

    async def new_page(
        self, browser_new_context_options: Mapping[str, Any] | None = None, proxy_info: ProxyInfo | None = None
    ) -> Page:
        """Open a page; see crawlee's ``BrowserController.new_page``.

        Raises:
            UsageError: Options or a proxy for a context, where pages share that of the session, which has its own.
        """
        if not self._incognito and (proxy_info is not None or browser_new_context_options):
            what = "a proxy" if proxy_info is not None else f"options ({', '.join(browser_new_context_options or ())})"
            raise UsageError(
                f"crawlee gives {what} for the context of a page, and pages share the session's context, which can't "
                "take them; make the plugin with use_incognito_pages=True, or with proxy= or another option of a "
                "session, which holds for all its pages"
            )
        page: Page = await super().new_page(browser_new_context_options, proxy_info)
        return page

    async def close(self, *, force: bool = False) -> None:
        """Stop the session, which saves its cookies and ends its browser. Idempotent.

        What went wrong in it is raised when the plugin is left: here it would keep the pool from its other browsers.

        Args:
            force: Also with pages open.

        Raises:
            ValueError: There are pages open.
        """
        if self.pages_count > 0 and not force:
            raise ValueError("The browser has open pages; close them first, or close it with force=True")
        try:
            await self._session.stop()
        except Exception as trouble:  # noqa: BLE001 - a foreign adapter may raise anything
            self._troubles.append(trouble)
        await self._connection.close()  # the session's end has cut it: waits until Playwright knows its pages closed


class SessionBrowserPlugin(PlaywrightBrowserPlugin):  # type: ignore[misc]  # not installed for mypy
    """Gives crawlee's ``BrowserPool`` browsers that sessions own, one session each.

    Pages of several such plugins in one pool stay apart: each go to the browsers of their own.

    Args:
        client: Makes the sessions. Close it after the crawler has run.
        browser_new_context_options: As crawlee has it; for `use_incognito_pages` only.
        max_open_pages_per_browser: As crawlee has it.
        use_incognito_pages: Give each page a context of its own. The cookies of `cookie_file` are in it, and what is
            logged in there is saved, with ``cookie_scope="all"``.
        fingerprint_generator: As crawlee has it; for `use_incognito_pages` only.
        **session_options: Those of each session; see `lifecycle.config.SessionOptions`. Without `profile` and
            `idempotency_key`, which would be one browser for all.

    Raises:
        ConfigError: An option is not allowed; names it.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        browser_new_context_options: Mapping[str, Any] | None = None,
        max_open_pages_per_browser: int = 20,
        use_incognito_pages: bool = False,
        fingerprint_generator: FingerprintGenerator | None = None,
        **session_options: Unpack[SessionKwargs],
    ) -> None:
        if not isinstance(client, AsyncClient):
            raise ConfigError(option="client", value=client, allowed="an AsyncClient: crawlee runs in tasks")
        for option in ("profile", "idempotency_key"):
            if session_options.get(option) is not None:
                raise ConfigError(
                    option=option,
                    value=session_options.get(option),
                    allowed="nothing here: the pool runs several sessions at once. Keep logins with cookie_file=",
                )
        if not use_incognito_pages:
            for option, value in (
                ("browser_new_context_options", browser_new_context_options),
                ("fingerprint_generator", fingerprint_generator),
            ):
                if value:
                    raise ConfigError(
                        option=option,
                        value=type(value).__name__,
                        allowed="nothing unless use_incognito_pages=True: pages share the session's context, which "
                        "is there already",
                    )
        elif session_options.get("cookie_file") is not None and session_options.get("cookie_scope") != "all":
            raise ConfigError(
                option="cookie_scope",
                value=session_options.get("cookie_scope", "default"),
                allowed='"all" for a cookie_file with use_incognito_pages=True: no page would see its cookies',
            )
        client.Session(**session_options)  # never started: says now what is wrong with an option
        super().__init__(
            browser_new_context_options=dict(browser_new_context_options or {}),
            max_open_pages_per_browser=max_open_pages_per_browser,
            use_incognito_pages=use_incognito_pages,
        )
        # The pool puts a page into any browser of the same library, whichever plugin it asked for.
        self.AUTOMATION_LIBRARY = f"lifecycle {id(self):x}"
        self._client = client
        self._session_options = session_options
        self._controller_options: dict[str, Any] = {
            "max_open_pages_per_browser": max_open_pages_per_browser,
            "use_incognito_pages": use_incognito_pages,
            "fingerprint_generator": fingerprint_generator,
        }
        self._sessions: WeakSet[AsyncSession] = WeakSet()  # the client keeps those that are not over
        self._troubles: list[Exception] = []
        self._stack: AsyncExitStack | None = None
        self._driver: Playwright | None = None

    @property
    def active(self) -> bool:
        """True between the start of the pool and its end."""
        return self._stack is not None

    async def __aenter__(self) -> Self:
        if self.active:
            raise UsageError("this SessionBrowserPlugin is in use already; make one for each pool")
        async with AsyncExitStack() as stack:
            self._driver = await stack.enter_async_context(async_playwright())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what sessions there still are, such as those of launches in flight.

        Raises:
            LifecycleError: What went wrong in the teardowns, the weightiest first; everything is over all the same.
        """
        stack, self._stack, self._driver = self._stack, None, None  # from now on a launch is refused
        if stack is None:
            return  # the pool leaves a plugin, too, whose start took too long for it
        async with stack:
            stops = [session.stop() for session in self._sessions if not session.state.terminal]
            ended = await asyncio.gather(*stops, return_exceptions=True)
        troubles = [*self._troubles, *(e for e in ended if isinstance(e, Exception))]
        self._troubles.clear()  # the controllers hold it
        if troubles:
            trouble = merge(troubles)
            if error is None:
                raise trouble
            error.add_note(f"while sessions were torn down: {type(trouble).__name__}: {trouble}")

    async def new_browser(self) -> SessionBrowserController:
        """Start a session, and connect to its browser. Cancelled or failed, it leaves no session.

        Raises:
            UsageError: The plugin is not in use.
            LifecycleError: The session did not start; see `AsyncSession.start`.
        """
        driver = self._driver
        if driver is None:
            raise UsageError("this SessionBrowserPlugin is not in use; enter it first, or the pool that has it")
        async with AsyncExitStack() as stack:
            session = self._client.Session(**self._session_options)
            self._sessions.add(session)
            await stack.enter_async_context(session)
            browser = await driver.chromium.connect_over_cdp(await session.cdp_url())
            controller = SessionBrowserController(browser, session, self._troubles, **self._controller_options)
            controller.AUTOMATION_LIBRARY = self.AUTOMATION_LIBRARY
            stack.pop_all()  # from here on it ends with the controller
        return controller
