"""Which format a cookie file has, and the way to the module that reads and writes it.

Rule: what is in the file decides, its name only where there is nothing in it. A file that is not what it seems, or is
cut short, is refused as a whole with its line, and no error carries what is in the file.
"""

from __future__ import annotations

import re
from typing import Final

from lifecycle.cookies.document import CookieFormat, Document, Entry
from lifecycle.cookies.jsonfile import decode_json, encode_json, item_of
from lifecycle.cookies.model import Cookie
from lifecycle.cookies.netscape import HEADER, decode_netscape, encode_netscape, lines_of
from lifecycle.errors import CookieFileError

_IPV6_LINE: Final = re.compile(r"\[[0-9a-fA-F:.]+\]\t")
"""A cookies.txt whose first cookie belongs to an IPv6 address begins like JSON."""


def new_document(path: str) -> Document:
    """The document of a file that does not exist yet: cookies.txt by its suffix, else storage_state."""
    if _is_txt(path):
        return Document(format=CookieFormat.NETSCAPE, entries=(Entry(HEADER),))
    return Document(format=CookieFormat.STORAGE_STATE)


def decode(data: bytes, *, path: str) -> Document:
    """Read a cookie file.

    Raises:
        CookieFileError: It is cut short, no text, or no cookie file.
    """
    text = _as_text(data, path)
    start = text.lstrip()
    if not start and not _is_txt(path):
        raise CookieFileError(path=path, line=1, reason="the file is empty, as a write that was cut short leaves it")
    if start[:1] in {"{", "["} and not _IPV6_LINE.match(start):
        return decode_json(text, path=path)
    return decode_netscape(text, path=path)


def encode(document: Document) -> bytes:
    """Write a cookie file."""
    return encode_netscape(document) if document.format is CookieFormat.NETSCAPE else encode_json(document)


def entry_of(document: Document, cookie: Cookie, old: Entry | None = None) -> Entry:
    """The entry of a new or changed cookie in the dialect of the document; `old` is the one that it replaces."""
    if document.format is CookieFormat.NETSCAPE:
        return Entry(lines_of(cookie), cookie)
    return Entry(item_of(document, cookie, None if old is None else old.raw), cookie)


def _is_txt(path: str) -> bool:
    return path.lower().endswith(".txt")


def _as_text(data: bytes, path: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CookieFileError(path=path, line=1, reason="it is written in UTF-16; save it as UTF-8")
    at, reason = data.find(0), "binary data, not a text file"
    if at < 0:
        try:
            return data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as e:
            at, reason = e.start, "it is not UTF-8 text"
    # Raised out here: the error of the decoder, as its context, would carry the content of the file.
    raise CookieFileError(path=path, line=data.count(b"\n", 0, at) + 1, reason=reason)
