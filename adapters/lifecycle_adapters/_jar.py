"""A cookie jar that refuses, replaces and forgets cookies as Chromium's does.

Rule: the rules are those that Chromium 156 was seen to apply to ``Storage.setCookies``, one cookie at a time. Public
suffixes are not known here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lifecycle.cookies import sendable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lifecycle.cookies import Cookie

__all__ = ["Jar"]

MAX_AGE: Final = 400 * 86_400.0
"""Seconds after which every cookie ends, whatever it says (RFC 6265bis, section 5.5)."""

MAX_BYTES: Final = 4096
"""Largest name and value together."""

_BAD_IN_NAME: Final = re.compile(r"[\x00-\x1f\x7f;=]")
_BAD_IN_VALUE: Final = re.compile(r"[\x00-\x1f\x7f;]")


class Jar:
    """The cookies of one browser context."""

    __slots__ = ("_cookies",)

    def __init__(self) -> None:
        self._cookies: dict[object, Cookie] = {}

    def put(self, cookies: Iterable[Cookie], now: float) -> list[tuple[Cookie, str]]:
        """Set cookies at `now` (seconds since the epoch); those that did not take, each with the reason."""
        refused = []
        for cookie in cookies:
            if (reason := _refusal(cookie)) is not None:
                refused.append((cookie, reason))
                continue
            self._cookies.pop(cookie.key, None)
            if cookie.expired(now):
                refused.append((cookie, "it has expired"))  # as in a browser, it took the one before it along
            else:
                kept = cookie if cookie.session else replace(cookie, expires=min(cookie.expires, now + MAX_AGE))
                self._cookies[cookie.key] = kept
        return refused

    def cookies(self, now: float) -> list[Cookie]:
        """The cookies that have not expired at `now`, in the order in which they were set."""
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if not cookie.expired(now)}
        return list(self._cookies.values())


def _refusal(cookie: Cookie) -> str | None:
    name, value = cookie.name, cookie.value
    if not sendable(cookie):
        return "it holds half a surrogate pair"
    if not cookie.domain.strip("."):
        return "its domain is empty"
    if not cookie.path.startswith("/"):
        return "its path does not start with /"
    if not name and not value:
        return "it has neither name nor value"
    if _BAD_IN_NAME.search(name):
        return "its name holds a control character, ; or ="
    if _BAD_IN_VALUE.search(value):
        return "its value holds a control character or ;"
    if name != name.strip() or value != value.strip():
        return "its name or value has spaces around it"
    if len(name.encode()) + len(value.encode()) > MAX_BYTES:
        return f"name and value are longer than {MAX_BYTES} bytes"
    if cookie.same_site == "None" and not cookie.secure:
        return "SameSite=None needs Secure"
    if cookie.partition_key is not None and not cookie.secure:
        return "a partitioned cookie needs Secure"
    prefix = name[:9].lower()
    if prefix == "__secure-" and not cookie.secure:
        return "the prefix __Secure- needs Secure"
    if prefix[:7] == "__host-" and not (cookie.secure and cookie.path == "/" and not cookie.domain.startswith(".")):
        return "the prefix __Host- needs Secure, the path / and no leading dot in the domain"
    return None
