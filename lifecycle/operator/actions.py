"""What each action does on the current tab.

Rule: one operation at a time. An action that can't be done is a failed result, in words that hold no value that was
typed; only a browser that is gone is an error.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from playwright.async_api import Error, Locator, Page, Response
from playwright.async_api import TimeoutError as TimeoutError_

from lifecycle.actions import (
    DEFAULT_TIMEOUT_MS,
    INTERACTIONS,
    Action,
    ActionResult,
    Observation,
    ObserveRequest,
    OperationPolicy,
    Scrape,
    ScrapeRequest,
    check_url,
    parse_scrape,
    refuse_service_only,
)
from lifecycle.errors import ConfigError, ConnectionLost, OperationFailed
from lifecycle.logs import get_logger
from lifecycle.operator.driver import Driver
from lifecycle.operator.reading import observe, scrape
from lifecycle.operator.tabs import Tabs

if TYPE_CHECKING:
    from lifecycle.ports import CdpEndpoint, Download, Host

__all__ = ["PageOperator"]

T = TypeVar("T")

NAVIGATION_MS: Final = 30_000
SETTLE_MS: Final = 3_000
"""Milliseconds that a page gets to be parsed after an action that led to another."""

_FILE_INPUT: Final = """e => {
  if (e.matches('input[type=file]')) return e;
  if (e.control && e.control.matches('input[type=file]')) return e.control;
  const label = e.closest('label');
  if (label && label.control && label.control.matches('input[type=file]')) return label.control;
  return e.querySelector('input[type=file]');
}"""

_OPTIONS: Final = """e => e.localName === 'select' ?
  [...e.options].map(o => [o.label.replace(/\\s+/g, ' ').trim(), o.value, o.id]) : null"""

_SCROLL: Final = """(e, [amount, up]) => {
  const by = amount === null ? e.clientHeight : amount;
  e.scrollBy({ top: up ? -by : by, behavior: 'instant' });
}"""

_log: Final = get_logger(__name__)


class PageOperator:
    """Carries out operations on one session's pages. Implements `lifecycle.ports.Operator`.

    Args:
        endpoint: The gateway in front of the browser.
        driver: The process's driver.
        host: The session's host.
        adapter: Name of the adapter, for messages.
        policy: What operations may do beyond the page.
    """

    def __init__(
        self, endpoint: CdpEndpoint, driver: Driver, host: Host, *, adapter: str, policy: OperationPolicy
    ) -> None:
        self._tabs = Tabs(endpoint, driver)
        self._host = host
        self._adapter = adapter
        self._policy = policy
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()
        self._downloads: Path | None = None
        self._doing: Mapping[str, Callable[[Action], Awaitable[tuple[str, object]]]] = {
            "goto": self._goto,
            "goto_new_tab": self._goto_new_tab,
            "close_tab": self._close_tab,
            "switch_tab": self._switch_tab,
            "go_back": lambda a: self._history(a, "back"),
            "go_forward": lambda a: self._history(a, "forward"),
            "reload": self._reload,
            "wait": self._wait,
            "press_key": self._press_key,
            "scroll_up": lambda a: self._scroll(a, up=True),
            "scroll_down": lambda a: self._scroll(a, up=False),
            "click": self._click,
            "fill": self._fill,
            "multi_factor_fill": self._fill,
            "fallback_fill": self._fill,
            "check": self._check,
            "select_dropdown_option": self._select,
            "upload_file": self._upload,
            "download_file": self._download,
            "evaluate_js": self._evaluate,
            "form_fill": self._form_fill,
            "scrape": self._scrape,
        }

    # --- the port

    async def execute(self, action: Action) -> ActionResult:
        """Do one action; see `lifecycle.ports.Operator`."""
        refuse_service_only(action, self._adapter)
        began = self._now()

        def result(*, success: bool, message: str, error: str | None = None, data: object = None) -> ActionResult:
            return ActionResult(
                action=action, success=success, message=message, error=error, data=data, started_at=began,
                ended_at=max(self._now(), began),
            )  # fmt: skip

        try:
            message, data = await self._in_turn(self._do(action))
        except (_Refused, OperationFailed) as e:
            reason = e.reason
        except Error as e:
            if not self._tabs.connected or self._over.is_set():
                raise ConnectionLost("the connection to the browser is gone") from None
            reason = _waited(action) if isinstance(e, TimeoutError_) else _reason(e)
        else:
            return result(success=True, message=message, data=data)
        return result(success=False, message=f"{action.type} failed: {reason}", error=reason)

    async def observe(self, request: ObserveRequest) -> Observation:
        """Look at the current tab."""
        refuse_service_only(request, self._adapter)
        return await self._read("observe", observe(self._tabs, request, self._now))

    async def scrape(self, request: ScrapeRequest) -> Scrape:
        """Read the current tab."""
        refuse_service_only(request, self._adapter)
        return await self._read("scrape", scrape(self._tabs, request, self._adapter, self._host.run_blocking))

    async def aclose(self) -> None:
        """End what is in flight, close the connection, drop the downloads. Idempotent; never raises."""
        self._over.set()
        await self._tabs.aclose()
        folder, self._downloads = self._downloads, None
        if folder is not None:
            await self._host.run_blocking(_remove, folder)

    # --- one at a time, and not past the end

    def _now(self) -> datetime:
        return self._host.clock.utcnow()

    async def _read(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._in_turn(work)
        except Error as e:
            if not self._tabs.connected or self._over.is_set():
                raise ConnectionLost("the connection to the browser is gone") from None
            raise OperationFailed(action=what, reason=_reason(e)) from None

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` when its turn comes, but not past the end of the session."""
        doing = asyncio.ensure_future(self._when_free(work))
        over = asyncio.ensure_future(self._over.wait())
        either: set[asyncio.Future[Any]] = {doing, over}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._over.is_set() and not doing.done():
                raise ConnectionLost("the session has ended")
            return doing.result()
        finally:
            over.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing}, timeout=1.0)
            if doing.done() and not doing.cancelled():
                doing.exception()  # seen, where nobody is told of it any more

    async def _when_free(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            await self._turn.acquire()
        except BaseException:
            work.close()
            raise
        try:
            return await work
        finally:
            self._turn.release()

    async def _do(self, action: Action) -> tuple[str, object]:
        message, data = await self._doing[action.type](action)
        await self._check_place()
        return message, data

    async def _check_place(self) -> None:
        """Leave a page that the policy does not allow, however the tab got there."""
        if not self._tabs.connected:
            return
        page = await self._tabs.current()
        why = self._policy.refuse_url(page.url) if page.url.startswith(("http://", "https://")) else None
        if why is not None:
            await page.goto("about:blank")
            raise _Refused(why)

    # --- navigation

    async def _goto(self, action: Action) -> tuple[str, object]:
        url = _field(action, "url")
        page = await self._tabs.current()
        await self._open(page, url, str(action.fields.get("wait_until", "load")))
        return f"Navigated to {url!r} in current tab", None

    async def _open(self, page: Page, url: str, wait_until: str = "load") -> None:
        self._check_hop(url)
        response: Response | None = await page.goto(url, wait_until=wait_until, timeout=NAVIGATION_MS)  # type: ignore[arg-type]
        request = response.request if response is not None else None
        try:
            while request is not None:
                self._check_hop(request.url)
                request = request.redirected_from
            if not page.url.startswith("chrome-error:"):
                self._check_hop(page.url)
        except _Refused:
            await page.goto("about:blank")
            raise

    def _check_hop(self, url: str) -> None:
        try:
            check_url("url", url)
        except ConfigError as e:
            raise _Refused(f"it leads to {e.value}, which is not allowed; allowed: {e.allowed}") from None
        why = self._policy.refuse_url(url)
        if why is not None:
            raise _Refused(why)

    async def _goto_new_tab(self, action: Action) -> tuple[str, object]:
        url = _field(action, "url")
        self._check_hop(url)
        context = await self._tabs.context()
        page = await context.new_page()
        try:
            await self._open(page, url)
        except BaseException:
            await page.close()
            raise
        self._tabs.choose(page)
        return f"Navigated to {url!r} in new tab", None

    async def _close_tab(self, _: Action) -> tuple[str, object]:
        page = await self._tabs.current()
        pages = await self._tabs.pages()
        if len(pages) == 1:  # a browser with a window ends with its last tab
            await page.context.new_page()
            pages = await self._tabs.pages()
        at = pages.index(page)
        await page.close()
        left = [p for p in pages if p is not page]
        self._tabs.choose(left[max(at - 1, 0)])
        return "Closed the current tab", None

    async def _switch_tab(self, action: Action) -> tuple[str, object]:
        number = int(_field(action, "tab_index"))
        pages = await self._tabs.pages()
        if not -len(pages) <= number < len(pages):
            raise _Refused(f"there is no tab {number}; the tabs are 0 to {len(pages) - 1}")
        self._tabs.choose(pages[number])
        await pages[number].bring_to_front()
        return f"Switched to tab {number}", None

    async def _history(self, _: Action, way: str) -> tuple[str, object]:
        page = await self._tabs.current()
        cdp = await self._tabs.cdp(page)
        history = await cdp.send("Page.getNavigationHistory")
        if not 0 <= history["currentIndex"] + (-1 if way == "back" else 1) < len(history["entries"]):
            raise _Refused(f"there is no page to go {way} to")
        await (page.go_back if way == "back" else page.go_forward)(timeout=NAVIGATION_MS)
        return f"Navigated {way} to the {'previous' if way == 'back' else 'next'} page", None

    async def _reload(self, _: Action) -> tuple[str, object]:
        await (await self._tabs.current()).reload(timeout=NAVIGATION_MS)
        return "Reloaded the current page", None

    async def _wait(self, action: Action) -> tuple[str, object]:
        milliseconds = int(_field(action, "time_ms"))
        await asyncio.sleep(milliseconds / 1000)
        return f"Waited for {milliseconds} milliseconds", None

    async def _press_key(self, action: Action) -> tuple[str, object]:
        page = await self._tabs.current()
        await page.keyboard.press(_field(action, "key"))
        await _settle(page)
        return f"Pressed the keyboard key: {_field(action, 'key')}", None

    async def _scroll(self, action: Action, *, up: bool) -> tuple[str, object]:
        page = await self._tabs.current()
        amount = action.fields.get("amount")
        selector = action.fields.get("selector")
        if selector is None:
            await self._tabs.look(page, "scroll", amount, up)
        else:
            await page.locator(str(selector)).evaluate(_SCROLL, [amount, up], timeout=DEFAULT_TIMEOUT_MS)
        how_far = f"{amount} pixels" if amount is not None else "one page"
        return f"Scrolled {'up' if up else 'down'} by {how_far}", None

    # --- interaction

    async def _element(self, page: Page, action: Action) -> Locator:
        selector = action.fields.get("selector")
        if selector is None:
            element_id = _field(action, "id")
            selector = await self._tabs.look(page, "find", element_id)
            if selector is None:
                raise _Refused(f"there is no element {element_id} on this page; observe() tells which there are")
        return page.locator(str(selector))

    async def _interact(
        self, action: Action, message: str, act: Callable[[Page, Locator, int], Awaitable[object]]
    ) -> tuple[str, object]:
        page = await self._tabs.current()
        timeout = _timeout(action)
        locator = await self._element(page, action)
        data = await act(page, locator, timeout)
        if action.fields.get("press_enter"):
            await locator.press("Enter", timeout=timeout)
        await _settle(page)
        return message, data

    async def _click(self, action: Action) -> tuple[str, object]:
        return await self._interact(action, "Clicked on the element", lambda _, e, ms: e.click(timeout=ms))

    async def _fill(self, action: Action) -> tuple[str, object]:
        value = _field(action, "value")

        async def act(page: Page, locator: Locator, ms: int) -> None:
            if action.fields.get("clear_before_fill", True):
                await locator.fill(value, timeout=ms)
            else:
                await locator.press("End", timeout=ms)
                await page.keyboard.insert_text(value)

        return await self._interact(action, "Filled the field", act)

    async def _check(self, action: Action) -> tuple[str, object]:
        wanted = action.fields["value"] is True

        async def act(_: Page, locator: Locator, ms: int) -> None:
            await locator.set_checked(wanted, timeout=ms)

        return await self._interact(action, f"{'Checked' if wanted else 'Unchecked'} the box", act)

    async def _select(self, action: Action) -> tuple[str, object]:
        value = _field(action, "value")
        option_id = action.fields.get("option_id")

        async def act(page: Page, locator: Locator, ms: int) -> None:
            options: list[list[str]] | None = await locator.evaluate(_OPTIONS, timeout=ms)
            if options is None:  # not the browser's own: it opens, and what it offers has a role
                await locator.click(timeout=ms)
                await page.get_by_role("option", name=value, exact=True).click(timeout=ms)
                return
            wanted = value.strip()
            for place in (0, 1, 2):
                found = [
                    n for n, o in enumerate(options) if o[place] == (option_id or wanted if place == 2 else wanted)
                ]
                if found and (wanted or place < 2):
                    await locator.select_option(index=found[0], timeout=ms)
                    return
            offered = ", ".join(repr(o[0]) for o in options[:30])
            raise _Refused(f"there is no option {wanted!r}; there are: {offered}")

        return await self._interact(action, f"Selected the option {value!r}", act)

    async def _form_fill(self, action: Action) -> tuple[str, object]:
        page = await self._tabs.current()
        form = action.fields["value"]
        assert isinstance(form, Mapping)  # noqa: S101 - checked when it was parsed
        missing: list[str] = []
        for name, value in form.items():
            found = await self._tabs.look(page, "formField", name)
            if found is None:
                missing.append(str(name))
                continue
            locator = page.locator(found["selector"])
            if found["tag"] == "select":
                options = await locator.evaluate(_OPTIONS, timeout=DEFAULT_TIMEOUT_MS)
                at = next((n for n, o in enumerate(options) if str(value) in o[:2]), None)
                if at is None:
                    missing.append(str(name))
                    continue
                await locator.select_option(index=at, timeout=DEFAULT_TIMEOUT_MS)
            else:
                await locator.fill(str(value), timeout=DEFAULT_TIMEOUT_MS)
        if missing:
            done = len(form) - len(missing)
            raise _Refused(f"no field was found for {', '.join(missing)}; the other {done} were filled")
        return f"Filled the form: {', '.join(map(str, form))}", None

    # --- files

    async def _upload(self, action: Action) -> tuple[str, object]:
        path = Path(os.path.expanduser(self._policy.upload_path(_field(action, "file_path"))))  # noqa: ASYNC240, PTH111
        if not await self._host.run_blocking(path.is_file):
            raise _Refused(f"there is no file {path.name!r} where file_path says")

        async def act(page: Page, locator: Locator, ms: int) -> None:
            handle = await locator.evaluate_handle(_FILE_INPUT, timeout=ms)
            element = handle.as_element()
            if element is not None:
                await element.set_input_files(path, timeout=ms)
                return
            async with page.expect_file_chooser(timeout=ms) as choosing:
                await locator.click(timeout=ms)
            await (await choosing.value).set_files(path, timeout=ms)

        return await self._interact(action, f"Uploaded the file {path.name!r} to the current page", act)

    async def _download(self, action: Action) -> tuple[str, object]:
        folder = await self._folder()

        async def act(_: Page, locator: Locator, ms: int) -> object:
            capture = await self._tabs.endpoint.capture_downloads(str(folder))
            try:
                await locator.click(timeout=ms)
                try:
                    async with asyncio.timeout(ms / 1000):
                        download = await capture.next()
                except TimeoutError:
                    raise _Refused(f"no download was finished within {ms / 1000:g} seconds of the click") from None
                kept = await self._host.run_blocking(_take, download, folder)
            finally:
                await capture.aclose()
            size = await self._host.run_blocking(lambda: kept.stat().st_size)
            return {"path": str(kept), "filename": kept.name, "url": download.url[:2000], "size": size}

        message, data = await self._interact(action, "", act)
        assert isinstance(data, dict)  # noqa: S101 - made just above
        return message or f"Downloaded {data['filename']!r}", data

    async def _folder(self) -> Path:
        if self._downloads is None:
            made = await self._host.run_blocking(lambda: tempfile.mkdtemp(prefix="lifecycle-downloads-"))
            self._downloads = Path(made)
        return self._downloads

    # --- reading

    async def _evaluate(self, action: Action) -> tuple[str, object]:
        code = _field(action, "code")
        value = await self._tabs.evaluate(await self._tabs.current(), code)
        return f"Evaluated JavaScript code: {code[:50]}{'...' if len(code) > 50 else ''}", value

    async def _scrape(self, action: Action) -> tuple[str, object]:
        found = await scrape(self._tabs, parse_scrape(action.fields), self._adapter, self._host.run_blocking)
        return "Scraped the current page", found.markdown


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """An action can't be done, and says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def _field(action: Action, name: str) -> str:
    return str(action.fields[name])


def _timeout(action: Action) -> int:
    timeout = action.fields.get("timeout", DEFAULT_TIMEOUT_MS)
    return timeout if isinstance(timeout, int) else DEFAULT_TIMEOUT_MS


async def _settle(page: Page) -> None:
    """Wait until the page is parsed that an action may have led to."""
    try:
        await page.wait_for_load_state("domcontentloaded", timeout=SETTLE_MS)
    except Error as e:
        _log.debug("a page has not settled: %s", type(e).__name__)  # it is closed, or slow; the action itself is done


def _waited(action: Action) -> str:
    """What an action has waited for in vain."""
    if action.type not in INTERACTIONS:
        return f"the page was not there within {NAVIGATION_MS / 1000:g} seconds"
    element = action.fields.get("selector") or action.fields.get("id")
    return f"the element {element!r} was not there, or not ready for it, within {_timeout(action):,} milliseconds"


def _reason(error: Error) -> str:
    """What Playwright says, without its log, which repeats what was typed, and the parts of URLs that hold secrets."""
    text = error.message.split("Call log:")[0].split("\n=")[0].strip()
    text = _URL.sub(_without_secrets, " ".join(text.split()))
    return text.removeprefix("Error: ")[:500] or type(error).__name__


_URL: Final = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)
        (?P<user>[^/\s?#]*@)?
        (?P<place>[^\s?#]*)
        (?P<rest>[?#]\S*)?""",
    re.IGNORECASE | re.VERBOSE,
)


def _without_secrets(url: re.Match[str]) -> str:
    """A URL without user, password, query and fragment."""
    user, rest = "...@" if url["user"] else "", "?..." if url["rest"] else ""
    return f"{url['scheme']}{user}{url['place']}{rest}"


def _take(download: Download, folder: Path) -> Path:
    """Put a finished download into `folder` under a name of its own; what belongs to a client stays there as well."""
    kept = download.keep(folder)
    if Path(download.path).parent == folder:
        Path(download.path).unlink()
    return kept


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
