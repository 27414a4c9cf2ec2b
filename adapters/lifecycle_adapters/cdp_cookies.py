"""Cookies of the default context over CDP, for adapters that hold a `CdpEndpoint`.

Rule: what was asked for is read back. `Storage.setCookies` refuses all when one is malformed, without saying which,
so a refused batch is halved until each bad cookie stands alone; what the browser takes and then drops in silence is
found by the reading. One bad cookie never keeps the others out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from lifecycle.cookies import Cookie, CookieKey, parse_cookies, to_cdp
from lifecycle.errors import BackendError, ConnectionLost
from lifecycle.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lifecycle.ports import CdpEndpoint

__all__ = ["clear_cookies", "get_cookies", "holder", "set_cookies"]

_MAX_BYTES: Final = 4096
"""Longest name and value together (RFC 6265bis, section 5.7)."""

_ABOUT_NOW: Final = 1.0
"""Seconds within which a cookie may have expired between being set and being read back."""

_HOLDER: Final = "network.mojom.NetworkService"
"""What Chromium calls the process that holds the cookies."""

_log: Final = get_logger(__name__)


async def get_cookies(endpoint: CdpEndpoint) -> list[Cookie]:
    """All cookies of the default context. Those of opaque partitions, which nobody could set again, are left out."""
    result = await endpoint.call("Storage.getCookies")
    raw = result["cookies"]
    good, bad = parse_cookies(raw if isinstance(raw, list) else [])
    for name, reason in bad:
        _log.warning("cookie %s can't be kept: %s", name, reason)
    return good


async def set_cookies(endpoint: CdpEndpoint, cookies: Sequence[Cookie]) -> list[tuple[Cookie, str]]:
    """Set cookies, and return those that did not take, each with the reason."""
    if not cookies:
        return []
    refused = await _set(endpoint, list({cookie.key: cookie for cookie in cookies}.values()))
    there = {cookie.key: cookie for cookie in await get_cookies(endpoint)}
    now = time.time()
    out: list[tuple[Cookie, str]] = []
    last = {cookie.key: cookie for cookie in cookies}
    for cookie in cookies:
        if last[cookie.key] is not cookie:
            continue  # a later one with the same key replaced it, as it would have in the browser
        reason = refused.get(cookie.key)
        kept = there.get(cookie.key)
        if reason is not None:
            out.append((cookie, _explain(cookie, now) or f"the browser refused it: {reason}"))
        elif kept is None:
            alone = (cookie.name, cookie.domain.removeprefix("."), *cookie.key[2:])
            public = (
                "its domain is a public suffix: the browser keeps it for that host alone" if alone in there else None
            )
            out.append((cookie, public or _explain(cookie, now) or "the browser did not keep it"))
        elif kept.value != cookie.value:
            out.append((cookie, "the browser keeps another value"))
    return out


async def clear_cookies(endpoint: CdpEndpoint) -> None:
    """Remove every cookie of the default context."""
    await endpoint.call("Storage.clearCookies")


async def holder(endpoint: CdpEndpoint) -> int | None:
    """The process that holds the cookies for the browser; None where the browser does so itself, or does not tell.

    A browser starts another when this one ends, with the cookies that were on disk by then.
    """
    try:
        result = await endpoint.call("SystemInfo.getProcessInfo")
    except ConnectionLost:
        raise
    except BackendError:
        return None  # a method that is still experimental
    found = result.get("processInfo")
    processes = found if isinstance(found, list) else []
    return next((p["id"] for p in processes if p.get("type") == _HOLDER), None)


async def _set(endpoint: CdpEndpoint, cookies: list[Cookie]) -> Mapping[CookieKey, str]:
    """Set what can be set; the keys of what was refused, each with the browser's words."""
    try:
        await endpoint.call("Storage.setCookies", {"cookies": [to_cdp(cookie) for cookie in cookies]})
    except ConnectionLost:
        raise
    except BackendError as e:
        if len(cookies) == 1:
            return {cookies[0].key: str(e).partition(": ")[2]}
        middle = len(cookies) // 2
        return {**await _set(endpoint, cookies[:middle]), **await _set(endpoint, cookies[middle:])}
    return {}


def _explain(cookie: Cookie, now: float) -> str | None:
    """Why a browser would not have this cookie, as far as the cookie itself tells (RFC 6265bis; CHIPS)."""
    if cookie.expired(now + _ABOUT_NOW):
        return "it has expired"
    prefix = cookie.name.lower()
    if prefix.startswith("__secure-") and not cookie.secure:
        return "a name that starts with __Secure- needs Secure"
    if prefix.startswith("__host-") and not (
        cookie.secure and cookie.path == "/" and not cookie.domain.startswith(".")
    ):
        return "a name that starts with __Host- needs Secure, path / and a domain without a dot in front"
    if cookie.same_site == "None" and not cookie.secure:
        return "SameSite=None needs Secure"
    if cookie.partition_key is not None and not cookie.secure:
        return "a partitioned cookie needs Secure"
    if len(cookie.name.encode()) + len(cookie.value.encode()) > _MAX_BYTES:
        return f"name and value are longer than {_MAX_BYTES} bytes"
    if not cookie.name and not cookie.value:
        return "it has neither name nor value"
    if not cookie.path.startswith("/"):
        return "its path does not start with /"
    if not cookie.domain.strip("."):
        return "its domain is empty"
    if any(ord(c) < 32 or ord(c) == 127 for c in cookie.name + cookie.value):
        return "its name or value holds a control character"
    if ";" in cookie.name + cookie.value or "=" in cookie.name:
        return "its name or value holds a character that ends it"
    if cookie.name != cookie.name.strip() or cookie.value != cookie.value.strip():
        return "its name or value has spaces around it"
    return None
