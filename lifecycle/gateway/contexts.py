"""Browser contexts that clients make, and the cookies in them.

Rule: a context is read before it goes, be that by its maker's command or with its maker, and what is read is counted,
never lost silently. With seeds (`lifecycle.config.SessionOptions.cookie_scope` is ``all``) each new one begins with
them, and what is read is kept. Everything here runs on the gateway's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lifecycle.errors import BackendError
from lifecycle.logs import get_logger
from lifecycle.ports import ContextCookies

__all__ = ["Contexts"]

COUNT_BUDGET: Final = 0.25
"""Seconds that counting the cookies of contexts may hold up what comes after it."""

KEEP_BUDGET: Final = 2.0
"""Seconds likewise, where the cookies are kept."""

SEED_BUDGET: Final = 2.0
"""Seconds that a new context may wait for its cookies."""

_log: Final = get_logger(__name__)

Call = Callable[[str, Mapping[str, object]], Awaitable[dict[str, object]]]


@dataclass(slots=True, eq=False)
class _Context:
    """A context: its maker, whether Chromium disposes of it when the maker leaves, what it began with and holds."""

    maker: object
    dispose_on_detach: bool
    seeds: Sequence[Mapping[str, object]] = ()
    found: Sequence[Mapping[str, object]] | None = None


class Contexts:
    """The contexts that clients of one browser made and nobody has disposed of yet.

    Args:
        call: Sends a command as the library itself.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._live: dict[str, _Context] = {}
        self._counted: dict[str, int] = {}
        self._seeds: tuple[Mapping[str, object], ...] | None = None
        self._kept: list[ContextCookies] = []

    def __contains__(self, context: object) -> bool:
        return context in self._live

    def ids(self) -> list[str]:
        """Those that nobody has disposed of, in the order in which they were made."""
        return list(self._live)

    @property
    def foreign_cookies(self) -> int:
        """How many cookies were counted; none where they are kept."""
        return sum(self._counted.values()) if self._seeds is None else 0

    def seed_with(self, cookies: Sequence[Mapping[str, object]]) -> None:
        """What contexts that are made from now on begin with; also, that the cookies of all are kept."""
        self._seeds = tuple(cookies)

    async def add(self, context: str, maker: object, *, dispose_on_detach: bool) -> None:
        """One was made; returns once it has its cookies."""
        made = self._live[context] = _Context(maker, dispose_on_detach)
        seeds = self._seeds
        if not seeds:
            return
        try:
            async with asyncio.timeout(SEED_BUDGET):
                await self._call("Storage.setCookies", {"cookies": list(seeds), "browserContextId": context})
        except (BackendError, TimeoutError) as e:
            _log.warning("a client's context starts without the session's cookies: %s", type(e).__name__)
        else:
            made.seeds = seeds

    async def leave_with(self, maker: object) -> None:
        """`maker` leaves: read the contexts that Chromium disposes of with it, and forget them."""
        going = [key for key, made in self._live.items() if made.maker is maker and made.dispose_on_detach]
        await self.read(going)
        for context in going:
            self.drop(context)

    def drop(self, context: str) -> None:
        """It is disposed of. What was read in it is kept where that is asked for."""
        made = self._live.pop(context, None)
        if made is not None and self._seeds is not None and made.found is not None and made.found != list(made.seeds):
            self._kept.append(ContextCookies(seeds=made.seeds, cookies=made.found))

    async def read(self, contexts: Sequence[str]) -> None:
        """Count the cookies of `contexts`, and keep them where that is asked for; gives up after its budget."""

        async def one(context: str) -> None:
            result = await self._call("Storage.getCookies", {"browserContextId": context})
            cookies = result.get("cookies")
            found = [c for c in cookies if isinstance(c, dict)] if isinstance(cookies, list) else []
            self._counted[context] = len(found)
            if self._seeds is not None and context in self._live:
                self._live[context].found = found

        if not contexts:
            return
        reading = [asyncio.ensure_future(one(context)) for context in contexts]
        _, late = await asyncio.wait(reading, timeout=COUNT_BUDGET if self._seeds is None else KEEP_BUDGET)
        for task in late:
            task.cancel()
        for task in reading:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                _log.debug("the cookies of a context could not be read: %s", error)
        if late and self._seeds is not None:
            _log.warning("the cookies of %d contexts of clients could not be read in time", len(late))

    async def cookies(self) -> list[ContextCookies]:
        """What each context held when it was read last, in the order in which they went and, after those, were made."""
        await self.read(self.ids())
        live = [ContextCookies(seeds=c.seeds, cookies=c.found) for c in self._live.values() if c.found is not None]
        return [*self._kept, *live]
