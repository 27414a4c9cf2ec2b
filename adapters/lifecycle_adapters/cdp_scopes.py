"""Cookies of a session by its scope: the default context's, or those of contexts that clients make as well.

Rule: with ``cookie_scope="all"`` a cookie's change wins over the copies of what every context began with, so that a
login in one context is saved although the others never saw it. Two contexts that changed one cookie in two ways are a
conflict: what the first one has for that site is kept, nothing of the other's, so that no mixture of two logins is
saved. The default context is the first, then they come in the order in which they were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.cookies import Cookie, CookieKey, parse_cookies, to_cdp
from lifecycle_adapters import cdp_cookies

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lifecycle.ports import CdpEndpoint

__all__ = ["ScopedCookies", "merge"]

Jar = dict[CookieKey, Cookie]


class ScopedCookies:
    """The cookies of one browser.

    Args:
        endpoint: The gateway in front of it.
        everywhere: True for ``cookie_scope="all"``; then `begin` comes before any client does.

    Attributes:
        conflicts: How many cookies differed between contexts at the last reading.
        of_contexts: How many there were in each context then, the default one first.
        lost: True when the process that holds the cookies for the browser was another one at a reading than when they
            were set: what was not on its disk went with it.
    """

    def __init__(self, endpoint: CdpEndpoint, *, everywhere: bool) -> None:
        self._endpoint = endpoint
        self._everywhere = everywhere
        self._seeds: Jar = {}
        self._holder: int | None = None
        self.conflicts = 0
        self.of_contexts: tuple[int, ...] = ()
        self.lost = False

    async def begin(self) -> None:
        """Have contexts of clients kept, where the scope says so."""
        if self._everywhere:
            await self._endpoint.seed_contexts(())

    async def get(self) -> list[Cookie]:
        """All cookies of the scope."""
        default = await cdp_cookies.get_cookies(self._endpoint)
        if self._holder is not None:
            self.lost = self.lost or await cdp_cookies.holder(self._endpoint) != self._holder
        if not self._everywhere:
            return default
        found = [(self._seeds, _by_key(default))]
        found += [(_parsed(c.seeds), _parsed(c.cookies)) for c in await self._endpoint.context_cookies()]
        merged, self.conflicts = merge(found)
        self.of_contexts = tuple(len(holds) for _, holds in found)
        return merged

    async def set(self, cookies: Sequence[Cookie]) -> list[tuple[Cookie, str]]:
        """Set cookies in the default context and in those that are made later; returns what did not take, and why."""
        refused = await cdp_cookies.set_cookies(self._endpoint, cookies)
        if self._holder is None:
            self._holder = await cdp_cookies.holder(self._endpoint)
        if self._everywhere:
            out = {cookie.key for cookie, _ in refused}
            self._seeds = {**self._seeds, **{c.key: c for c in cookies if c.key not in out}}
            await self._seed()
        return refused

    async def clear(self) -> None:
        """Remove every cookie of the default context; contexts that are made later begin with none."""
        await cdp_cookies.clear_cookies(self._endpoint)
        if self._everywhere:
            self._seeds = {}
            await self._seed()

    async def _seed(self) -> None:
        await self._endpoint.seed_contexts([to_cdp(cookie) for cookie in self._seeds.values()])


def merge(
    contexts: Sequence[tuple[Mapping[CookieKey, Cookie], Mapping[CookieKey, Cookie]]],
) -> tuple[list[Cookie], int]:
    """The cookies of contexts, given as what each began with and what it holds, and how many are in conflict."""
    out: Jar = {}
    for seeds, _ in contexts:
        out.update({key: cookie for key, cookie in seeds.items() if key not in out})
    changed: dict[CookieKey, Cookie | None] = {}
    conflicts: set[CookieKey] = set()
    for seeds, holds in contexts:
        changes = {key: holds.get(key) for key in (*seeds, *holds) if not _same(seeds.get(key), holds.get(key))}
        clashes = {key for key, now in changes.items() if key in changed and not _same(changed[key], now)}
        conflicts |= clashes
        sites = {key[1].lstrip(".") for key in clashes}
        for key, now in changes.items():
            if key not in changed and not _related(key[1].lstrip("."), sites):
                changed[key] = now
        # A later expiry or another flag with the same value is no change of hands: the newest copy is as good.
        out.update({key: c for key, c in holds.items() if key in out and key not in changed and key not in changes})
    for key, cookie in changed.items():
        if cookie is None:
            out.pop(key, None)
        else:
            out[key] = cookie
    return list(out.values()), len(conflicts)


def _same(one: Cookie | None, other: Cookie | None) -> bool:
    return (one is None) == (other is None) and (one is None or other is None or one.value == other.value)


def _related(domain: str, sites: Iterable[str]) -> bool:
    """True when a page can see cookies of `domain` together with those of one of `sites`."""
    return any(domain == s or domain.endswith(f".{s}") or s.endswith(f".{domain}") for s in sites)


def _by_key(cookies: Iterable[Cookie]) -> Jar:
    return {cookie.key: cookie for cookie in cookies}


def _parsed(cookies: Sequence[Mapping[str, object]]) -> Jar:
    good, _ = parse_cookies([dict(cookie) for cookie in cookies])
    return _by_key(good)
