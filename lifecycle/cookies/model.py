"""One cookie, and the JSON dialects that browsers, extensions and services write it in.

Rule: whatever a cookie came from, it is a `Cookie` here, with a key that the browser will know it by. What this
module can't read is a ValueError whose text never holds the value. Whether a cookie may be set (``__Host-``,
``SameSite=None`` without Secure, sizes) is for the browser to say.

How the dialects are read:

- Time: ``expirationDate``, ``expires`` or ``expiry`` in seconds since the epoch. 0, -1, none at all, or
  ``session: true`` make a session cookie. Exports that hold milliseconds or microseconds are common, and no other
  reading of such numbers makes sense (as seconds, 1e12 is the year 33658), so 1e12 to 1e15 is read as milliseconds
  and 1e15 to 1e16 as microseconds. Anything larger, and any other negative number, is refused.
- sameSite in any case; ``no_restriction`` is None, ``unspecified`` and null are no attribute at all.
- ``hostOnly`` decides whether the domain has a leading dot; without it, the dot that is there decides.
- ``partitionKey`` is a string (Playwright, Notte) or an object (extensions, CDP). Where the cross-site bit is not
  given it is worked out as ``chrome.cookies.set`` does: false when the cookie belongs to the top-level site itself.
- Playwright's ``url`` instead of a domain.

Names are brought to the form that Chromium gives back (measured on 156), or a cookie would look deleted and added
anew: host names in lower case and punycode, no leading dot on an address or a single label, paths with the
characters percent-encoded that Chromium encodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NotRequired, TypedDict, cast
from urllib.parse import quote, urlsplit

SameSite = Literal["Strict", "Lax", "None"]
CookieKey = tuple[str, str, str, str | None, bool]

SESSION: Final = -1.0
"""`Cookie.expires` of a session cookie."""

EXPIRY_KEYS: Final = ("expirationDate", "expires", "expiry")

_MILLISECONDS: Final = 1e12
_MICROSECONDS: Final = 1e15
_NO_TIME: Final = 1e16

_SAME_SITE: Final[Mapping[str, SameSite | None]] = {
    "strict": "Strict",
    "lax": "Lax",
    "none": "None",
    "no_restriction": "None",
    "unspecified": None,
    "": None,
}

_UNSAFE_PATH: Final = re.compile(r"[^!$-;=@-\[\]_a-z~]")
_PATH_SAFE: Final = "!$%&'()*+,-./:;=@[]_~"
LABEL_CHARS: Final = 100
"""How much of a name is told of a cookie that can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie:
    """One cookie. Its repr leaves the value out.

    Attributes:
        name: The name; empty for a cookie that has only a value.
        value: The value, as the browser holds it. A secret.
        domain: The host; with a leading dot when subdomains get the cookie too.
        path: The path it is sent for.
        expires: When it ends, in seconds since the epoch (UTC); -1 for a session cookie.
        http_only: Scripts can't read it.
        secure: Sent over secure connections only.
        same_site: The SameSite attribute; None when the cookie has none, which is not the same as Lax.
        partition_key: The top-level site of a partitioned cookie (CHIPS), such as ``https://example.com``.
        partition_cross_site: The partition is for frames that have a cross-site ancestor.
    """

    name: str
    value: str = field(repr=False)
    domain: str
    path: str = "/"
    expires: float = SESSION
    http_only: bool = False
    secure: bool = False
    same_site: SameSite | None = None
    partition_key: str | None = None
    partition_cross_site: bool = False

    @property
    def key(self) -> CookieKey:
        """What identifies it: a cookie with the same key replaces it."""
        return (self.name, self.domain, self.path, self.partition_key, self.partition_cross_site)

    @property
    def session(self) -> bool:
        """True when it ends with the browser session."""
        return self.expires < 0

    def expired(self, now: float) -> bool:
        """True when its time is over at `now` (seconds since the epoch)."""
        return 0 <= self.expires <= now


class CookieDict(TypedDict):
    """A cookie as Playwright's ``BrowserContext.add_cookies`` takes it and ``storage_state`` holds it.

    `sameSite` is left out for a cookie without the attribute. `partitionKey` and Playwright's own
    `_crHasCrossSiteAncestor` are there for a partitioned one.
    """

    name: str
    value: str
    domain: str
    path: str
    expires: float
    httpOnly: bool
    secure: bool
    sameSite: NotRequired[SameSite]
    partitionKey: NotRequired[str]
    _crHasCrossSiteAncestor: NotRequired[bool]


# --- reading ----------------------------------------------------------------------------------------------------


def parse_cookie(data: Mapping[str, object]) -> Cookie:
    """Read one cookie in any of the JSON dialects: Playwright, Notte, browser extensions, CDP.

    Raises:
        ValueError: It can't be read. The text says why and never holds the value.
    """
    name, value = data.get("name"), data.get("value")
    if not isinstance(name, str):
        raise ValueError("name is missing" if name is None else "name is not text")
    if not isinstance(value, str):
        raise ValueError("value is missing" if value is None else "value is not text")
    domain, path, secure = _text(data, "domain"), _text(data, "path"), _flag(data, "secure")
    if not domain and (url := _text(data, "url")):
        domain, url_path, https = _from_url(url)
        path, secure = path or url_path, https if secure is None else secure
    if not domain or domain == ".":
        raise ValueError("domain is missing")
    domain = host_name(domain, host_only=_flag(data, "hostOnly"))
    site, cross_site = _partition(data, domain)
    return Cookie(
        name=name,
        value=value,
        domain=domain,
        path=cookie_path(path),
        expires=_expires(data),
        http_only=bool(_flag(data, "httpOnly")),
        secure=bool(secure),
        same_site=_same_site(data.get("sameSite")),
        partition_key=site,
        partition_cross_site=cross_site,
    )


def parse_cookies(items: Iterable[Mapping[str, object] | Cookie]) -> tuple[list[Cookie], list[tuple[str, str]]]:
    """Read many cookies; one bad cookie never keeps the others out.

    Returns:
        The good ones, and (name, reason) of each bad one; a bad one without a name goes by ``item N``.
    """
    good: list[Cookie] = []
    bad: list[tuple[str, str]] = []
    for number, item in enumerate(items, 1):
        if isinstance(item, Cookie):
            good.append(item)
            continue
        try:
            good.append(parse_item(item))
        except ValueError as e:
            bad.append((label_of(item, number), str(e)))
    return good, bad


def parse_item(item: object) -> Cookie:
    """`parse_cookie` for what may not even be a mapping.

    Raises:
        ValueError: As `parse_cookie`.
    """
    if not isinstance(item, Mapping):
        raise ValueError("it is not an object")
    return parse_cookie(cast("Mapping[str, object]", item))


def label_of(item: object, number: int) -> str:
    """The name to report an unreadable cookie by, at most 100 characters of it."""
    name = cast("Mapping[str, object]", item).get("name") if isinstance(item, Mapping) else None
    return name[:LABEL_CHARS] if isinstance(name, str) and name else f"item {number}"


def from_cdp(data: Mapping[str, object]) -> Cookie:
    """Read a ``Network.Cookie`` of CDP, as ``Storage.getCookies`` returns it.

    Raises:
        ValueError: It belongs to an opaque partition, which can't be set again; `parse_cookies` reports such ones.
    """
    return parse_cookie(data)


# --- writing ----------------------------------------------------------------------------------------------------


def to_playwright(cookie: Cookie) -> CookieDict:
    """The cookie as Playwright writes it."""
    out: CookieDict = {
        "name": cookie.name,
        "value": cookie.value,
        "domain": cookie.domain,
        "path": cookie.path,
        "expires": cookie.expires,
        "httpOnly": cookie.http_only,
        "secure": cookie.secure,
    }
    if cookie.same_site is not None:
        out["sameSite"] = cookie.same_site
    if cookie.partition_key is not None:
        out["partitionKey"] = cookie.partition_key
        out["_crHasCrossSiteAncestor"] = cookie.partition_cross_site
    return out


def sendable(cookie: Cookie) -> bool:
    """False for a cookie with half a surrogate pair in it, which a file may hold and no message to a browser can."""
    try:
        "".join((cookie.name, cookie.value, cookie.domain, cookie.path, cookie.partition_key or "")).encode()
    except UnicodeEncodeError:
        return False
    return True


def to_cdp(cookie: Cookie) -> dict[str, object]:
    """The cookie as a ``Network.CookieParam`` of CDP, for ``Storage.setCookies``."""
    out: dict[str, object] = {
        "name": cookie.name,
        "value": cookie.value,
        "domain": cookie.domain,
        "path": cookie.path,
        "secure": cookie.secure,
        "httpOnly": cookie.http_only,
    }
    if not cookie.session:
        out["expires"] = cookie.expires
    if cookie.same_site is not None:
        out["sameSite"] = cookie.same_site
    if cookie.partition_key is not None:
        out["partitionKey"] = {
            "topLevelSite": cookie.partition_key,
            "hasCrossSiteAncestor": cookie.partition_cross_site,
        }
    return out


# --- fields -----------------------------------------------------------------------------------------------------


def host_name(domain: str, *, host_only: bool | None = None) -> str:
    """The domain as the browser names it, with a leading dot when subdomains are included.

    Args:
        domain: As it was written.
        host_only: Whether subdomains are excluded; None when only the dot tells.
    """
    bare = domain.removeprefix(".")
    dotted = domain.startswith(".") if host_only is None else not host_only
    if bare.isascii():
        bare = bare.lower()
    else:
        import unicodedata  # noqa: PLC0415 - only a name in another script needs it

        # The codec "idna" follows IDNA 2003, where faß.de becomes another host, fass.de.
        labels = unicodedata.normalize("NFKC", bare).lower().split(".")
        bare = ".".join(n if n.isascii() else "xn--" + n.encode("punycode").decode() for n in labels)
    label = bare.rpartition(".")[2]
    if label == bare or label.isdigit():  # a single label or an address has no subdomains
        dotted = False
    return "." + bare if dotted else bare


def cookie_path(path: str | None) -> str:
    """The path as the browser names it."""
    if not path or path == "/":
        return "/"
    if not _UNSAFE_PATH.search(path):
        return path
    return quote(path.replace("\\", "/"), safe=_PATH_SAFE, errors="replace")


def derived_cross_site(domain: str, site: str) -> bool:
    """The cross-site bit of a partition where nobody wrote it down: is the cookie of another site than `site`?"""
    host, top = domain.removeprefix("."), site.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    return not (host == top or host.endswith("." + top))


def seconds(number: float) -> float:
    """A time in seconds since the epoch out of seconds, milliseconds or microseconds, by magnitude.

    Raises:
        ValueError: It is none of them.
    """
    if number in {0, SESSION}:
        return SESSION
    if number < 0 or number >= _NO_TIME or not math.isfinite(number):  # in this order: an int may be beyond float
        raise ValueError("the expiry is no time in seconds since 1970 (nor -1 for a session cookie)")
    if number >= _MICROSECONDS:
        return number / 1e6
    return number / 1e3 if number >= _MILLISECONDS else float(number)


def _expires(data: Mapping[str, object]) -> float:
    if _flag(data, "session"):
        return SESSION
    for key in EXPIRY_KEYS:
        number = data.get(key)
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{key} is not a number of seconds")
        if (at := seconds(number)) != SESSION:
            return at
    return SESSION


def _same_site(given: object) -> SameSite | None:
    if given is None:
        return None
    if not isinstance(given, str) or (word := given.lower()) not in _SAME_SITE:
        raise ValueError("sameSite is none of Strict, Lax, None, no_restriction, unspecified")
    return _SAME_SITE[word]


def _partition(data: Mapping[str, object], domain: str) -> tuple[str | None, bool]:
    if data.get("partitionKeyOpaque"):
        raise ValueError("its partition is opaque and can't be set again")
    given = data.get("partitionKey")
    if not given:
        return None, False
    if isinstance(given, Mapping):
        parts = cast("Mapping[str, object]", given)
        site, cross_site = _text(parts, "topLevelSite"), _flag(parts, "hasCrossSiteAncestor")
    elif isinstance(given, str):
        site, cross_site = given, _flag(data, "_crHasCrossSiteAncestor")
    else:
        raise ValueError("partitionKey is neither text nor an object")
    if not site:
        return None, False
    if site.count("/") == 3:
        site = site.removesuffix("/")
    return site, derived_cross_site(domain, site) if cross_site is None else cross_site


def _from_url(url: str) -> tuple[str, str, bool]:
    host = ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        pass  # reported below, without the text of the URL
    else:
        if host and parts.scheme in {"http", "https"}:
            host = f"[{host}]" if ":" in host else host
            return host, parts.path[: parts.path.rfind("/") + 1], parts.scheme == "https"
    raise ValueError("url is no http or https address")


def _text(data: Mapping[str, object], key: str) -> str | None:
    given = data.get(key)
    if given is None or isinstance(given, str):
        return given
    raise ValueError(f"{key} is not text")


def _flag(data: Mapping[str, object], key: str) -> bool | None:
    given = data.get(key)
    if given is None or isinstance(given, bool):
        return given
    raise ValueError(f"{key} is neither true nor false")
