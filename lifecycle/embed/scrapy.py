"""A session for each crawl of scrapy-playwright: the pages that a spider asks for come from the session's browser.

scrapy-playwright (seen in 0.0.48) takes its browsers from the class that ``PLAYWRIGHT_BROWSER_PROVIDER`` names, and
gives that class none of Scrapy's settings. So an add-on of Scrapy's reads them and puts the class in place:

    DOWNLOAD_HANDLERS = {
        "http": "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler",
        "https": "scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler",
    }
    ADDONS = {"lifecycle.embed.scrapy.SessionAddon": 100}
    LIFECYCLE_SESSION_OPTIONS = {"cookie_file": "cookies.json", "max_duration_minutes": 60}

Settings, all optional: ``LIFECYCLE_ADAPTER``, a name, and ``LIFECYCLE_STORE``, a URL, as `lifecycle.AsyncClient` takes
them (Scrapy copies its settings, so objects are not for them); and ``LIFECYCLE_SESSION_OPTIONS``, a mapping (or JSON,
on a command line) of the options of a session, see `lifecycle.config.SessionOptions`. With a ``cookie_file`` the
``cookie_scope`` is ``all`` unless it is given, because scrapy-playwright makes contexts of its own: each starts with
the cookies of the file, and its cookies reach the file.

Rule: a crawl has one session at a time. It starts with the first page, and ends with the crawl, or with the interpreter
where Scrapy is made to leave at once. One that failed or was not used for too long is followed by another at the next
page; one that was stopped or whose maximum duration has passed is not, and each further page fails with the error that
says so.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from playwright.async_api import Error as PlaywrightError
from playwright.async_api import async_playwright
from scrapy.exceptions import NotSupported
from scrapy.utils.misc import load_object

from lifecycle.client import AsyncClient
from lifecycle.config import SessionKwargs, nearest
from lifecycle.errors import ConfigError, ConnectionLost, SessionEnded, UsageError
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Playwright
    from scrapy.crawler import Crawler
    from scrapy.settings import BaseSettings
    from scrapy_playwright.handler import Config

    from lifecycle.session import AsyncSession

__all__ = ["SessionAddon", "SessionProvider"]

PROVIDER: Final = "PLAYWRIGHT_BROWSER_PROVIDER"
OPTIONS: Final = "LIFECYCLE_SESSION_OPTIONS"
SETTINGS: Final = ("LIFECYCLE_ADAPTER", OPTIONS, "LIFECYCLE_STORE")

ENDING: Final = 5.0
"""Seconds that a session gets to end whose browser is gone already: its connections close first."""

_INSTEAD: Final = {
    "PLAYWRIGHT_CDP_URL": "the browser of the session is the one; LIFECYCLE_ADAPTER says what runs it",
    "PLAYWRIGHT_CONNECT_URL": "the browser of the session is the one; LIFECYCLE_ADAPTER says what runs it",
    "PLAYWRIGHT_LAUNCH_OPTIONS": f"the session starts the browser; its options are in {OPTIONS}",
}
"""Settings of scrapy-playwright that name another browser, and what to say then."""


class _Crawl:
    """The sessions of one crawl, one after another, for all download handlers of the crawl."""

    def __init__(self, client: AsyncClient, options: SessionKwargs) -> None:
        self._client = client
        self._options = options
        self._session = client.Session(**options)
        self._lock = asyncio.Lock()
        self._users = 0

    async def url(self) -> str:
        """The CDP URL of the session that is active, started when none is."""
        async with self._lock:
            try:
                return await _live(self._session)
            except SessionEnded:
                status = await self._session.wait_ended()  # its ending may be in flight
                if status.status is not State.ERROR and status.close_reason is not CloseReason.IDLE_TIMEOUT:
                    raise
            self._session = self._client.Session(**self._options)
            return await _live(self._session)

    async def ends(self) -> bool:
        """True when the session is over, or is within the seconds of `ENDING`."""
        try:
            await self._session.wait_ended(ENDING)
        except TimeoutError:
            return False
        return True

    def join(self) -> None:
        """A download handler begins."""
        self._users += 1

    async def leave(self) -> None:
        """A download handler has ended. With the last one the session is stopped."""
        self._users -= 1
        if not self._users:
            await self._client.close()


async def _live(session: AsyncSession) -> str:
    if session.state is State.NOT_STARTED:
        await session.start()
    return await session.cdp_url()


class SessionProvider:
    """Gives scrapy-playwright the browser of the crawl's session. `SessionAddon` makes a class of it for each crawl.

    Args:
        config: What scrapy-playwright has read from its own settings; ``PLAYWRIGHT_CDP_KWARGS`` are heeded.

    Raises:
        UsageError: It was named in the settings without the add-on.
    """

    crawl: ClassVar[Any] = None
    """The crawl's sessions; set by the add-on."""

    def __init__(self, config: Config) -> None:
        if not isinstance(self.crawl, _Crawl):
            raise UsageError(
                f"{PROVIDER} names lifecycle's SessionProvider, which gets no settings from there; leave it out and "
                'set ADDONS = {"lifecycle.embed.scrapy.SessionAddon": 100}'
            )
        self._crawl = self.crawl
        self._config = config
        self._playwright: Playwright | None = None

    async def start(self) -> None:
        """Start Playwright's driver. The session starts with the first page."""
        self._crawl.join()
        self._playwright = await async_playwright().start()

    async def launch_browser(self) -> Browser:
        """Connect to the session's browser. The session is started where none is active.

        Raises:
            SessionEnded: The session was stopped, or its maximum duration has passed.
            StartFailed: No browser came up; the next page tries again.
            ConnectionLost: The browser can't be connected to.
        """
        if self._playwright is None:
            raise UsageError("start() comes before launch_browser()")
        said = ""
        for _ in range(2):  # where the browser has just crashed, the first try may still go to its session
            url = await self._crawl.url()
            try:
                return await self._playwright.chromium.connect_over_cdp(url, **self._config.cdp_kwargs)
            except PlaywrightError as e:
                said = str(e).replace(url, "the session's CDP URL")  # which is a secret
            if not await self._crawl.ends():
                break
        raise ConnectionLost(f"can't connect to the browser of the session: {said}")

    async def launch_persistent_context(self, context_kwargs: dict[str, Any]) -> BrowserContext:
        """Refuse a context with a ``user_data_dir``: it would be a browser that the session does not own.

        Raises:
            NotSupported: Always.
        """
        del context_kwargs
        raise NotSupported(
            f"a context with user_data_dir would be another browser than the session's; {OPTIONS} takes cookie_file "
            "to keep cookies between crawls"
        )

    async def close(self) -> None:
        """Stop the driver, and, as the crawl's last download handler, the session.

        Raises:
            LifecycleError: What went wrong at its end, such as cookies that could not be saved; it is over all the
                same.
        """
        try:
            await self._crawl.leave()
        finally:
            if self._playwright is not None:
                await self._playwright.stop()


class SessionAddon:
    """The add-on for Scrapy's ``ADDONS``: checks the settings when a crawl starts, and puts `SessionProvider` in place.

    Args:
        crawler: The crawl.
    """

    def __init__(self, crawler: Crawler) -> None:
        self._crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """As Scrapy makes its components."""
        return cls(crawler)

    def update_settings(self, settings: BaseSettings) -> None:
        """Called by Scrapy before the crawl.

        Raises:
            ConfigError: A setting is not known or not allowed, or names another browser. Nothing was started.
        """
        _check(settings)
        given = settings.get(PROVIDER)
        base = SessionProvider if given is None else load_object(given)
        if not (isinstance(base, type) and issubclass(base, SessionProvider)):
            raise ConfigError(option=PROVIDER, value=given, allowed="nothing beside this add-on, or a SessionProvider")
        provider = type(base.__name__, (base,), {"crawl": self._open(settings), "__module__": base.__module__})
        settings.set(PROVIDER, provider, priority="addon" if given is None else settings.getpriority(PROVIDER))

    def _open(self, settings: BaseSettings) -> _Crawl:
        try:
            client = AsyncClient(adapter=settings.get("LIFECYCLE_ADAPTER"), store=settings.get("LIFECYCLE_STORE"))
        except ConfigError as e:
            raise ConfigError(option=f"LIFECYCLE_{e.option.upper()}", value=e.value, allowed=e.allowed) from e
        options = _options(settings)
        spider = getattr(self._crawler.spidercls, "name", None)
        if spider:
            options.setdefault("name", spider)
        try:
            return _Crawl(client, options)
        except ConfigError as e:
            raise ConfigError(option=f"{OPTIONS}: {e.option}", value=e.value, allowed=e.allowed) from e


def _check(settings: BaseSettings) -> None:
    for name in settings:
        if str(name).startswith("LIFECYCLE_") and name not in SETTINGS:
            raise ConfigError(option=name, value="...", allowed=nearest(name, SETTINGS))
    for name, instead in _INSTEAD.items():
        if settings.get(name):
            raise ConfigError(option=name, value="...", allowed=f"nothing beside this add-on: {instead}")
    browser = settings.get("PLAYWRIGHT_BROWSER_TYPE")
    if browser not in (None, "chromium"):
        raise ConfigError(option="PLAYWRIGHT_BROWSER_TYPE", value=browser, allowed="chromium, which speaks CDP")


def _options(settings: BaseSettings) -> SessionKwargs:
    try:
        options = settings.getdict(OPTIONS)
    except (TypeError, ValueError):
        raise ConfigError(
            option=OPTIONS, value=type(settings.get(OPTIONS)).__name__, allowed="a mapping of options, or it as JSON"
        ) from None
    if options.get("cookie_file") is not None:
        options.setdefault("cookie_scope", "all")
    return cast("SessionKwargs", options)
