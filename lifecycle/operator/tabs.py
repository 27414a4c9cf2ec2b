"""The own client of one session: its connection, its tabs, and the world in which it looks at pages.

Rule: dialogs are told to the gateway as answered and left to whoever else hears of them. Nothing that fails here names
the URL it connects to.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import weakref
from collections.abc import Coroutine
from importlib import resources
from typing import Any, Final

from playwright.async_api import Browser, BrowserContext, CDPSession, Dialog, Error, Page

from lifecycle.errors import ConnectionLost
from lifecycle.operator.driver import Driver
from lifecycle.ports import CdpEndpoint

__all__ = ["Tabs"]

CLOSE_BUDGET: Final = 2.0
"""Seconds that closing the connection may take."""

WORLD: Final = "lifecycle"
"""Name of the JavaScript world that pages are looked at from: it sees their documents, and they do not see it."""

PAGE_SCRIPT: Final = resources.files("lifecycle.operator").joinpath("page.js").read_text(encoding="utf-8")

Json = Any


class Tabs:
    """The tabs of the default context, and which of them operations act on.

    Args:
        endpoint: The gateway in front of the browser.
        driver: What to connect with.
    """

    def __init__(self, endpoint: CdpEndpoint, driver: Driver) -> None:
        self.endpoint = endpoint
        self._driver = driver
        self._connecting: asyncio.Task[Browser] | None = None
        self._current: Page | None = None
        self._sessions: weakref.WeakKeyDictionary[Page, CDPSession] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False

    # --- the connection

    async def context(self) -> BrowserContext:
        """The default context, connected when it is first asked for.

        Raises:
            ConnectionLost: The browser or its session is gone.
        """
        if self._connecting is not None and self._connecting.done() and not self.connected:
            self._connecting = None
        if self.closed:
            raise ConnectionLost("the session has ended")
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="operator connect")
        browser = await asyncio.shield(self._connecting)
        return browser.contexts[0]

    async def _connect(self) -> Browser:
        playwright = await self._driver.use(self)
        connect = playwright.chromium.connect_over_cdp
        # The gateway keeps back what this option keeps Playwright from sending; older versions do not know it.
        options: dict[str, Any] = (
            {"no_defaults": True} if "no_defaults" in inspect.signature(connect).parameters else {}
        )
        try:
            browser = await connect(self.endpoint.own_url, **options)
        except Error as e:
            msg = "the browser could not be reached for an operation on its pages"
            raise ConnectionLost(msg) from _without_text(e)
        if self.closed:
            await _close(browser)
            raise ConnectionLost("the session has ended")
        browser.contexts[0].on("dialog", self._on_dialog)
        return browser

    @property
    def connected(self) -> bool:
        """True while the connection to the browser is there."""
        return self._connecting is not None and _connected(self._connecting) and not self._driver.ended

    def _on_dialog(self, dialog: Dialog) -> None:
        """With a listener Playwright answers nothing by itself; the gateway lets an answer pass if nobody else can."""
        answer = dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss()
        self._spawn(_quietly(answer))

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Close the connection and give the driver up. Idempotent; never raises."""
        self.closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            if connecting.done():
                if not connecting.cancelled() and connecting.exception() is None:
                    await _close(connecting.result())
            else:
                connecting.cancel()
                await asyncio.wait({connecting}, timeout=CLOSE_BUDGET)
        self._driver.drop(self)

    # --- tabs

    async def pages(self) -> list[Page]:
        """The open tabs, oldest first; one is opened where there is none."""
        context = await self.context()
        return list(context.pages) or [await context.new_page()]

    async def current(self) -> Page:
        """The tab that operations act on: the one switched to or opened last, else the first."""
        pages = await self.pages()
        if self._current is None or self._current not in pages:
            self._current = pages[0]
        return self._current

    def choose(self, page: Page | None) -> None:
        """Act on `page` from now on; None for the first."""
        self._current = page

    # --- looking

    async def cdp(self, page: Page) -> CDPSession:
        """A CDP session on a tab."""
        found = self._sessions.get(page)
        if found is None:
            found = self._sessions[page] = await page.context.new_cdp_session(page)
        return found

    async def look(self, page: Page, call: str, *args: object) -> Json:
        """Call a function of ``page.js`` in the world of our own, and give its result."""
        cdp = await self.cdp(page)
        expression = f"{PAGE_SCRIPT}\nlifecycleOperator.{call}({', '.join(json.dumps(a) for a in args)})"
        for last in (False, True):
            tree = await cdp.send("Page.getFrameTree")
            world = await cdp.send(
                "Page.createIsolatedWorld",
                {"frameId": tree["frameTree"]["frame"]["id"], "worldName": WORLD, "grantUniveralAccess": True},
            )
            try:
                answer = await cdp.send(
                    "Runtime.evaluate",
                    {"expression": expression, "contextId": world["executionContextId"], "returnByValue": True},
                )
            except Error:
                if last or page.is_closed():
                    raise
                continue  # the document was replaced between the two
            if "exceptionDetails" in answer:
                raise Error(_thrown(answer["exceptionDetails"]))
            return answer["result"].get("value")
        raise AssertionError  # not reached

    async def evaluate(self, page: Page, code: str) -> Json:
        """The JSON value of an expression in the page's own world; of a function, the value of its call.

        Raises:
            Error: The code threw; says what.
        """
        cdp = await self.cdp(page)
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = await cdp.send("Runtime.evaluate", {"expression": code, **options})
        if answer["result"].get("type") == "function":
            answer = await cdp.send("Runtime.evaluate", {"expression": f"({code}\n)()", **options})
        if "exceptionDetails" in answer:
            raise Error(_thrown(answer["exceptionDetails"]))
        result = answer["result"]
        if "unserializableValue" in result:  # NaN, an infinity, -0 or a bigint, none of which JSON has
            value = str(result["unserializableValue"])
            return 0 if value == "-0" else value.removesuffix("n") if value.endswith("n") else None
        return result.get("value")


def _connected(connecting: asyncio.Task[Browser]) -> bool:
    if not connecting.done():
        return True
    if connecting.cancelled() or connecting.exception() is not None:
        return False
    return connecting.result().is_connected()


def _thrown(details: dict[str, Any]) -> str:
    thrown = details.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or details.get("text", "it threw")).splitlines()[0]


def _without_text(error: Error) -> Exception:
    """The cause of an error without its words, which may hold the URL."""
    return RuntimeError(type(error).__name__)


async def _close(browser: Browser) -> None:
    with contextlib.suppress(Error, TimeoutError):  # the session is over, so the connection is closed already
        async with asyncio.timeout(CLOSE_BUDGET):
            await browser.close()


async def _quietly(answer: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(Error):  # somebody else was first, or the page is gone
        await answer
