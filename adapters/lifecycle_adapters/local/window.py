"""The browser's first page, and the exact size of what it shows.

Rule: a viewport is the window's own content size, not an emulation that one client holds: so every client sees it,
new tabs and windows come up with it, and a popup that asks for another size gets that (with ``--window-size`` it
would not). The profile says where the window was last, so it has its size from the first frame on, and nobody has to
wait for a page to be resized.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from lifecycle.errors import BackendError
from lifecycle.logs import get_logger

if TYPE_CHECKING:
    from lifecycle.ports import CdpEndpoint
    from lifecycle_adapters.local.profiles import Profile

__all__ = ["place_window", "set_viewport", "wait_for_page"]

_POLL: Final = 0.005
"""Seconds between two looks for the first page; most often it is there at the first."""

_SETTLE: Final = 2.0
"""Seconds that a window gets to take its size."""

_CORNER: Final = 10
"""Where Chromium itself puts the top left corner of a headless window."""

_frame_height: Final[dict[bool, int]] = {False: 87, True: 143}
"""What a window is higher than its page, without and with a head: seen on Chromium 156, then what was seen last."""

_SIZE_TAKEN: Final = """new Promise(done => {
  const size = () => [innerWidth, innerHeight];
  const taken = () => innerWidth === %(width)d && innerHeight === %(height)d;
  if (taken()) return done(size());
  addEventListener("resize", () => taken() && done(size()));
  setTimeout(() => done(size()), %(settle)d);
})"""

_log: Final = get_logger(__name__)


async def wait_for_page(endpoint: CdpEndpoint) -> str:
    """The target id of the page that the browser starts with."""
    while True:
        result = await endpoint.call("Target.getTargets", {"filter": [{"type": "page"}]})
        infos = result["targetInfos"]
        for info in infos if isinstance(infos, list) else []:
            return str(info["targetId"])
        await asyncio.sleep(_POLL)


def place_window(profile: Profile, width: int, height: int, *, headed: bool) -> None:
    """Note in a new profile that its window was last open with this viewport, which is where Chromium reopens it.

    One that was used before is left as it is: `set_viewport` gives its window the size.
    """
    if (profile.user_data / "Default" / "Preferences").exists():
        return
    right, bottom = _CORNER + width, _CORNER + height + _frame_height[headed]
    placement = {
        "left": _CORNER,
        "top": _CORNER,
        "right": right,
        "bottom": bottom,
        "maximized": False,
        "work_area_left": 0,
        "work_area_top": 0,
        "work_area_right": right + _CORNER,
        "work_area_bottom": bottom + _CORNER,
    }
    folder = profile.user_data / "Default"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "Preferences").write_text(json.dumps({"browser": {"window_placement": placement}}))


async def set_viewport(endpoint: CdpEndpoint, page: str, width: int, height: int, *, headed: bool) -> None:
    """Give the window of `page` a viewport of exactly this size, in CSS pixels.

    A window that `place_window` got right stays as it is. Otherwise, and where a window manager may know better, the
    page is asked, and a warning says so when it got another size.
    """
    before = await endpoint.call("Browser.getWindowForTarget", {"targetId": page})
    size = {"windowId": before["windowId"], "width": width, "height": height}
    try:
        await endpoint.call("Browser.setContentsSize", size)
    except BackendError:  # a Chromium without that command
        resized = False
    else:
        resized = True
        after = await endpoint.call("Browser.getWindowForTarget", {"targetId": page})
        if after["bounds"] == before["bounds"] and not headed:
            return
        bounds = after["bounds"]
        if isinstance(bounds, dict):
            _frame_height[headed] = int(bounds["height"]) - height
    session = str((await endpoint.call("Target.attachToTarget", {"targetId": page, "flatten": True}))["sessionId"])
    try:
        if not resized:
            await _resize_window(endpoint, session, before["windowId"], width, height)
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
