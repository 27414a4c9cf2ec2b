"""The browser's first page, and the exact size of what it shows.

Rule: a viewport is the window's own content size, not an emulation that one client holds: so every client sees it,
new tabs and windows come up with it, and a popup that asks for another size gets that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from lifecycle.errors import BackendError

if TYPE_CHECKING:
    from lifecycle.ports import CdpEndpoint

__all__ = ["set_viewport", "wait_for_page"]

_POLL: Final = 0.005
"""Seconds between two looks for the first page; most often it is there at the first."""

_SETTLE: Final = 2.0
"""Seconds that a window gets to take its size."""

_SIZE_TAKEN: Final = """new Promise(done => {
  const size = () => [innerWidth, innerHeight];
  const taken = () => innerWidth === %(width)d && innerHeight === %(height)d;
  if (taken()) return done(size());
  addEventListener("resize", () => taken() && done(size()));
  setTimeout(() => done(size()), %(settle)d);
})"""

_log: Final = logging.getLogger(__name__)


async def wait_for_page(endpoint: CdpEndpoint) -> str:
    """The target id of the page that the browser starts with."""
    while True:
        result = await endpoint.call("Target.getTargets", {"filter": [{"type": "page"}]})
        infos = result["targetInfos"]
        for info in infos if isinstance(infos, list) else []:
            return str(info["targetId"])
        await asyncio.sleep(_POLL)


async def set_viewport(endpoint: CdpEndpoint, page: str, width: int, height: int) -> None:
    """Give the window of `page` a viewport of exactly this size, in CSS pixels, and wait until the page has it.

    A window manager may know better; then a warning says what the page got.
    """
    window = await endpoint.call("Browser.getWindowForTarget", {"targetId": page})
    window_id = window["windowId"]
    session = str((await endpoint.call("Target.attachToTarget", {"targetId": page, "flatten": True}))["sessionId"])
    try:
        try:
            size = {"windowId": window_id, "width": width, "height": height}
            await endpoint.call("Browser.setContentsSize", size)
        except BackendError:  # a Chromium without that command
            await _resize_window(endpoint, session, window_id, width, height)
        settle = int(_SETTLE * 1000)
        got = await _evaluate(endpoint, session, _SIZE_TAKEN % {"width": width, "height": height, "settle": settle})
    finally:
        await endpoint.call("Target.detachFromTarget", {"sessionId": session})
    if got != [width, height]:
        _log.warning("the page's viewport is %s: the window did not take %d x %d", got, width, height)


async def _resize_window(endpoint: CdpEndpoint, session: str, window_id: object, width: int, height: int) -> None:
    """Resize the window by what its viewport lacks."""
    measured = await _evaluate(endpoint, session, "[outerWidth - innerWidth, outerHeight - innerHeight]")
    if not (isinstance(measured, list) and len(measured) == 2):
        raise BackendError(f"the size of the window's frame is unknown: {measured!r}")
    bounds = {"width": width + int(measured[0]), "height": height + int(measured[1])}
    await endpoint.call("Browser.setWindowBounds", {"windowId": window_id, "bounds": bounds})


async def _evaluate(endpoint: CdpEndpoint, session: str, expression: str) -> object:
    """The value of `expression` on the page."""
    params = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    result = await endpoint.call("Runtime.evaluate", params, session_id=session)
    inner = result.get("result")
    return inner.get("value") if isinstance(inner, dict) else None
