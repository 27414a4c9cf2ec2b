"""`observe` and `scrape`: what a page shows, as elements and as text.

Rule: reading changes nothing on the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from importlib import resources
from typing import Any, Final, Protocol

from playwright.async_api import Error, Page

from lifecycle.actions import Element, Observation, ObserveRequest, Scrape, ScrapeRequest, Tab, Viewport
from lifecycle.errors import UnsupportedOperation
from lifecycle.operator.tabs import Tabs

__all__ = ["observe", "scrape"]

CLEAN_SCRIPT: Final = (
    resources.files("lifecycle.operator").joinpath("clean.js").read_text(encoding="utf-8").partition("\n")[2]
)


class RunBlocking(Protocol):
    """`lifecycle.ports.Host.run_blocking`, for a function without arguments."""

    def __call__(self, func: Callable[[], str], /) -> Awaitable[str]:
        """Run `func` on a worker."""
        ...


async def observe(tabs: Tabs, request: ObserveRequest, now: Callable[[], datetime]) -> Observation:
    """The current tab's elements, and a picture of it."""
    began = now()
    page = await tabs.current()
    most = max(request.max_nb_actions, request.min_nb_actions or 0)
    seen: Mapping[str, Any] = await tabs.look(page, "observe", most)
    elements = tuple(_element(e) for e in seen["elements"])
    lines = [e.describe() for e in elements]
    if seen["more"]:
        lines.append(f"... and {seen['more']} more; ask with a larger max_nb_actions")
    state = json.dumps([seen["url"], [[e.id, e.name, e.value, e.checked] for e in elements]], ensure_ascii=False)
    return Observation(
        url=seen["url"],
        title=seen["title"],
        description=f"{seen['title'] or seen['url']}\n" + "\n".join(lines),
        elements=elements,
        tabs=await _tabs(await tabs.pages()),
        viewport=Viewport(**{key: round(value) for key, value in seen["viewport"].items()}),
        screenshot=await _picture(tabs, page),
        fingerprint=hashlib.sha256(state.encode(errors="replace")).hexdigest(),
        started_at=began,
        ended_at=now(),
    )


def _element(told: Mapping[str, Any]) -> Element:
    x, y, width, height = told["box"]
    return Element(
        id=told["id"], role=told["role"], name=told["name"], action=told["action"], selector=told["selector"],
        value=told.get("value"), checked=told.get("checked"), disabled=told["disabled"],
        options=tuple(told.get("options", ())), box=(x, y, width, height),
    )  # fmt: skip


async def _tabs(pages: list[Page]) -> tuple[Tab, ...]:
    found = []
    for number, page in enumerate(pages):
        try:
            title = await page.title()
        except Error:  # it is closed, or navigates, just now
            title = ""
        found.append(Tab(tab_id=number, title=title, url=page.url))
    return tuple(found)


async def _picture(tabs: Tabs, page: Page) -> bytes:
    """The visible part as PNG. Not by `Page.screenshot`, which puts a style into the page meanwhile."""
    cdp = await tabs.cdp(page)
    answer = await cdp.send("Page.captureScreenshot", {"format": "png", "optimizeForSpeed": True})
    return base64.b64decode(answer["data"])


async def scrape(tabs: Tabs, request: ScrapeRequest, adapter: str, run_blocking: RunBlocking) -> Scrape:
    """The current tab's content as Markdown.

    Raises:
        UnsupportedOperation: The extra that turns HTML into Markdown is not installed.
    """
    page = await tabs.current()
    options = {
        "main": request.only_main_content,
        "whole": request.selector is None,
        "ignored": [tag.lower() for tag in request.ignored_tags],
    }
    html: str = await page.locator(request.selector or "html").first.evaluate(CLEAN_SCRIPT, options, timeout=15_000)
    markdown = await run_blocking(lambda: _markdown(html, request, adapter))
    return Scrape(markdown=markdown)


def _markdown(html: str, request: ScrapeRequest, adapter: str) -> str:
    try:
        from markdownify import markdownify  # noqa: PLC0415 - an extra, loaded on a worker
    except ImportError as e:
        raise UnsupportedOperation(
            operation="scrape", adapter=adapter, way_out='pip install "session-lifecycle[scrape]"'
        ) from e
    left_out = ([] if request.scrape_links else ["a"]) + ([] if request.scrape_images else ["img"])
    text: str = markdownify(
        html, heading_style="ATX", bullets="-", autolinks=False, escape_misc=False, strip=left_out,
        code_language_callback=_language, wrap=False,
    )  # fmt: skip
    return tidy(text)


def _language(element: Any) -> str | None:  # noqa: ANN401 - an element of the library's own
    code = element.find("code")
    for name in (code or element).get("class") or ():
        if name.startswith("language-"):
            return str(name.removeprefix("language-"))
    return None


def tidy(text: str) -> str:
    """`text` without blanks at the ends of lines, and with one empty line where there were more."""
    lines: list[str] = []
    for line in text.splitlines():
        line = line.rstrip()  # noqa: PLW2901 - the line as it is kept
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip("\n") + ("\n" if lines else "")
