"""What was opened through us in a browser that is not ours.

Rule: a session in a foreign browser is its own pages and contexts. Its clients are not attached to the others, and its
end closes what was opened through it and leaves the rest. Pages that ours open (`openerId`) are ours too. Everything
here runs on the gateway's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from lifecycle.errors import BackendError, ConnectionLost, ReleaseFailed
from lifecycle.logs import get_logger

__all__ = ["Opened"]

CLOSE_BUDGET: Final = 3.0
"""Seconds that the browser gets to close what is closed at the end."""

_PAGES: Final[Mapping[str, object]] = {"discover": True, "filter": [{"type": "page"}]}

_log: Final = get_logger(__name__)

Call = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object]]]


class Opened:
    """The pages of one session in a foreign browser.

    Args:
        call: Sends a command as the library itself.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._pages: set[str] = set()
        self._opening = 0
        self._told = False
        self._closed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    async def watch(self) -> None:
        """Ask to be told of pages."""
        try:
            await self._call("Target.setDiscoverTargets", _PAGES)
            self._told = True
        except ConnectionLost:
            raise
        except BackendError as e:
            _log.debug("the browser does not tell of its pages: %s", e)

    async def note(self, asking: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Await the answer to a `Target.createTarget`; what is attached meanwhile is taken for its page."""
        self._opening += 1
        self._settled.clear()
        try:
            reply = await asking
            target = reply.get("result", {}).get("targetId")
            if isinstance(target, str):
                self._pages.add(target)
            return reply
        finally:
            self._opening -= 1
            if self._opening == 0:
                self._settled.set()

    def event(self, method: str, params: Mapping[str, Any]) -> None:
        """An event for the library itself."""
        if method == "Target.targetDestroyed":
            self._pages.discard(params.get("targetId", ""))
            self._closed.set()
        elif method == "Target.targetCreated":
            info = params.get("targetInfo", {})
            if info.get("openerId") in self._pages:
                self._pages.add(info["targetId"])

    def lost(self) -> None:
        """The browser is gone, and its pages with it."""
        self._pages.clear()
        self._closed.set()

    def shows(self, info: Mapping[str, Any], *, ours: bool) -> bool:
        """True when clients may be attached to a target by itself; `ours` says that its context was made through us."""
        if info.get("type") != "page" or ours or self._opening > 0:
            return True
        return info.get("targetId") in self._pages or info.get("openerId") in self._pages

    async def close(self, contexts: Sequence[str]) -> None:
        """Close the pages, and dispose of `contexts`.

        Raises:
            ReleaseFailed: Some may still be open.
        """
        try:
            async with asyncio.timeout(CLOSE_BUDGET):
                await self._settled.wait()
                await asyncio.gather(
                    *(self._quietly("Target.disposeBrowserContext", {"browserContextId": c}) for c in contexts)
                )
                await self._leave_a_page(set(self._pages))
                asked: set[str] = set()
                while self._pages:  # those that a page opens while it is being closed are ours too
                    self._closed.clear()
                    late, asked = self._pages - asked, asked | self._pages
                    await asyncio.gather(*(self._quietly("Target.closeTarget", {"targetId": p}) for p in late))
                    if not self._told:
                        self._pages.clear()
                    elif self._pages <= asked:  # the answers come before the pages are gone
                        await self._closed.wait()
        except TimeoutError as e:
            raise ReleaseFailed("the browser did not close the session's pages in time") from e

    async def _leave_a_page(self, pages: set[str]) -> None:
        """Where there are none but ours, leave a blank one: a browser with a head ends with its last page."""
        with contextlib.suppress(BackendError):
            infos = (await self._call("Target.getTargets", {})).get("targetInfos")
            found = [i for i in (infos if isinstance(infos, list) else []) if i.get("type") == "page"]
            if found and pages.issuperset(str(info["targetId"]) for info in found):
                blank = await self._call("Target.createTarget", {"url": "about:blank"})
                self._pages.discard(str(blank.get("targetId")))

    async def _quietly(self, method: str, params: Mapping[str, object]) -> None:
        """Send what may have happened already."""
        try:
            await self._call(method, params)
        except ConnectionLost:
            _log.debug("%s: the browser is gone, and with it what would be closed", method)
        except BackendError as e:
            _log.debug("%s", e)
            self._pages.discard(str(params.get("targetId")))  # it is not there
