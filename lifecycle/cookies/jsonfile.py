"""Cookie files in JSON: Playwright's storage_state, Notte's list, the lists that browser extensions export.

Rule: the dialect of the file is kept, down to the keys that nobody here knows.

Sources: the types ``SetNetworkCookie`` and ``NetworkCookie`` of Playwright 1.65 (it writes partitions as
``partitionKey`` and ``_crHasCrossSiteAncestor``), the cookie schema of Notte's API 1.10, and ``chrome.cookies.Cookie``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NoReturn, cast

import orjson

from lifecycle.cookies.document import CookieFormat, Document, Entry, keep_last
from lifecycle.cookies.model import (
    EXPIRY_KEYS,
    Cookie,
    SameSite,
    derived_cross_site,
    label_of,
    parse_item,
    to_playwright,
)
from lifecycle.errors import CookieFileError

_EXTENSION_SAME_SITE: Final[Mapping[SameSite | None, str]] = {
    "Strict": "strict",
    "Lax": "lax",
    "None": "no_restriction",
    None: "unspecified",
}

_OWNED: Final = frozenset({*EXPIRY_KEYS, "sameSite", "partitionKey", "_crHasCrossSiteAncestor", "url"})
"""Keys of an item that a changed cookie may no longer have, or has in another form."""


def decode_json(text: str, *, path: str) -> Document:
    """Read a cookie file in JSON.

    Raises:
        CookieFileError: It is cut short, no JSON, or holds no list of cookies.
    """
    value = _load(text, path)
    compact = "\n" not in text.strip()
    rejected: list[tuple[str, str]] = []
    if isinstance(value, dict):
        head = cast("dict[str, object]", value)
        items = head.get("cookies")
        if items is None and isinstance(head.get("origins"), list):
            items = []
        if not isinstance(items, list):
            raise CookieFileError(path=path, line=1, reason="it is JSON, but has no list of cookies")
        entries = keep_last(_read(cast("list[object]", items), rejected), rejected)
        return Document(
            format=CookieFormat.STORAGE_STATE, entries=entries, rejected=tuple(rejected), head=head, compact=compact
        )
    items = cast("list[object]", value)
    return Document(
        format=_list_format(items),
        entries=keep_last(_read(items, rejected), rejected),
        rejected=tuple(rejected),
        bare=_bare(items),
        compact=compact,
    )


def encode_json(document: Document) -> bytes:
    """Write a cookie file in JSON."""
    items = [e.raw for e in document.entries]
    if document.format is not CookieFormat.STORAGE_STATE:
        return to_json(items, compact=document.compact)
    head: dict[str, object] = document.head or {"cookies": items, "origins": []}
    return to_json({**head, "cookies": items}, compact=document.compact)


def to_json(value: object, *, compact: bool = False) -> bytes:
    """JSON that ends with a line break."""
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (0 if compact else orjson.OPT_INDENT_2))
    except TypeError:  # lone surrogates, which localStorage may hold, or integers beyond 64 bits
        if compact:
            return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")
        return (json.dumps(value, indent=2) + "\n").encode("ascii")


def item_of(document: Document, cookie: Cookie, old: object = None) -> dict[str, object]:
    """The item of a new or changed cookie, in the dialect of the document.

    Args:
        document: The file.
        cookie: The cookie.
        old: The item that it replaces; what it holds beyond the cookie is kept.
    """
    if document.format is CookieFormat.EXTENSION:
        item = _extension_item(cookie)
    elif document.format is CookieFormat.NOTTE and not document.bare:
        item = _notte_item(cookie)
    else:
        item = cast("dict[str, object]", to_playwright(cookie))
    if isinstance(old, dict):
        before = cast("dict[str, object]", old)
        item = {k: v for k, v in before.items() if k not in _OWNED} | item
        if "hostOnly" in before:
            item["hostOnly"] = not cookie.domain.startswith(".")
        if "session" in before:
            item["session"] = cookie.session
        if before.get("storeId") is not None:
            item["storeId"] = before["storeId"]
    elif "storeId" in item:
        item["storeId"] = _store_id(document)
    return item


def _load(text: str, path: str) -> object:
    line, reason = None, ""
    try:
        # Not orjson: it refuses the lone surrogates that a storage_state file may hold, and rounds large integers.
        return cast("object", json.loads(text, parse_constant=_no_constant, parse_float=_finite))
    except json.JSONDecodeError as e:
        written = text.rstrip()
        cut = e.pos >= len(written) or e.msg.startswith("Unterminated string")
        line = written.count("\n") + 1 if cut else e.lineno
        reason = "the JSON ends too early, the file was cut short" if cut else f"not JSON: {e.msg.partition(':')[0]}"
    except RecursionError:
        reason = "not a cookie file: JSON that is nested too deeply"
    except ValueError:
        reason = "not JSON: it holds a number that JSON does not have, or one beyond 1.8e308"
    # Raised out here: the error of the decoder, as its context, would carry the content of the file.
    raise CookieFileError(path=path, line=line, reason=reason)


def _no_constant(_: str) -> NoReturn:
    raise ValueError  # NaN and the infinities


def _finite(number: str) -> float:
    """A number, not one beyond all that a float holds: it would be written back as null."""
    value = float(number)
    if math.isinf(value):
        raise ValueError
    return value


def _read(items: Sequence[object], rejected: list[tuple[str, str]]) -> Iterable[Entry]:
    for number, item in enumerate(items, 1):
        cookie = None
        try:
            cookie = parse_item(item)
        except ValueError as e:
            rejected.append((label_of(item, number), str(e)))
        yield Entry(item, cookie)


def _list_format(items: Sequence[object]) -> CookieFormat:
    """Extensions write sameSite in lower case, partition keys as objects and no `expires`; Notte does the opposite."""
    found = [cast("dict[str, object]", i) for i in items if isinstance(i, dict)]
    if any("expires" in i for i in found):
        return CookieFormat.NOTTE
    for item in found:
        same_site = item.get("sameSite")
        if isinstance(item.get("partitionKey"), dict) or (isinstance(same_site, str) and same_site.islower()):
            return CookieFormat.EXTENSION
    return CookieFormat.NOTTE


def _bare(items: Sequence[object]) -> bool:
    found = [cast("dict[str, object]", i) for i in items if isinstance(i, dict)]
    return any("expires" in i for i in found) and not any("expirationDate" in i or "hostOnly" in i for i in found)


def _extension_item(cookie: Cookie) -> dict[str, object]:
    item: dict[str, object] = {
        "domain": cookie.domain,
        "hostOnly": not cookie.domain.startswith("."),
        "httpOnly": cookie.http_only,
        "name": cookie.name,
        "path": cookie.path,
        "sameSite": _EXTENSION_SAME_SITE[cookie.same_site],
        "secure": cookie.secure,
        "session": cookie.session,
        "storeId": None,
        "value": cookie.value,
    }
    if not cookie.session:
        item["expirationDate"] = cookie.expires
    if cookie.partition_key is not None:
        item["partitionKey"] = {
            "topLevelSite": cookie.partition_key,
            "hasCrossSiteAncestor": cookie.partition_cross_site,
        }
    return item


def _notte_item(cookie: Cookie) -> dict[str, object]:
    item: dict[str, object] = {
        "name": cookie.name,
        "value": cookie.value,
        "domain": cookie.domain,
        "path": cookie.path,
        "httpOnly": cookie.http_only,
        "expirationDate": cookie.expires,
        "hostOnly": not cookie.domain.startswith("."),
        "sameSite": cookie.same_site,
        "secure": cookie.secure,
        "session": cookie.session,
        "storeId": None,
        "expires": cookie.expires,
        "partitionKey": cookie.partition_key,
    }
    site = cookie.partition_key
    if site is not None and cookie.partition_cross_site is not derived_cross_site(cookie.domain, site):
        item["_crHasCrossSiteAncestor"] = cookie.partition_cross_site  # the schema has no place for it
    return item


def _store_id(document: Document) -> object:
    """The store that the file's other cookies belong to."""
    for entry in document.entries:
        if isinstance(entry.raw, dict) and (store := cast("dict[str, object]", entry.raw).get("storeId")) is not None:
            return store
    return None
