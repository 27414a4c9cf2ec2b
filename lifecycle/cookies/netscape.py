"""Cookie files in the Netscape format: cookies.txt of curl, wget, yt-dlp and browser extensions.

Rule: any program that reads cookies.txt reads the cookies in the file, and nothing that the format can't say is lost.

A line has seven fields with TABs between them: domain, whether subdomains are included, path, whether it is secure,
expiry in seconds (0: session cookie), name, value. ``#HttpOnly_`` before the domain marks an HttpOnly cookie, as curl
writes it; other lines that begin with ``#`` are comments. Where the flag and the dot of a domain differ, the flag
counts, as in curl. A line without its last field has an empty value.

The format has no place for SameSite, for partitions (CHIPS) and for TABs and other controls, so those are kept in
comments of our own, which other programs skip:

- ``#lifecycle SameSite``, its value, domain, path and name, with TABs between them, above the line of that cookie;
- ``#lifecycle Cookie`` and Playwright's JSON for a partitioned cookie, or one whose text no line can hold. Other
  programs must not see a partitioned cookie: they would send it everywhere.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Final, cast

from lifecycle.cookies.document import CookieFormat, Document, Entry, keep_last
from lifecycle.cookies.model import (
    LABEL_CHARS,
    Cookie,
    SameSite,
    cookie_path,
    host_name,
    parse_item,
    seconds,
    to_playwright,
)
from lifecycle.errors import CookieFileError

HEADER: Final = "# Netscape HTTP Cookie File"
"""The first line; Python's own `http.cookiejar` asks for it."""

_HTTP_ONLY: Final = "#HttpOnly_"
_SAME_SITE: Final = "#lifecycle SameSite\t"
_WHOLE: Final = "#lifecycle Cookie\t"
_FIELDS: Final = 7
_FLAGS: Final = {"TRUE": True, "FALSE": False}
_NUMBER: Final = re.compile(r"-?\d{1,30}(\.\d+)?", re.ASCII)
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def decode_netscape(text: str, *, path: str) -> Document:
    """Read a cookies.txt.

    Raises:
        CookieFileError: Its last line is cut short, or no line of it is a cookie.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").split("\n")
    if whole := not lines[-1]:
        lines.pop()
    reader = _Reader()
    read = [entry for number, line in enumerate(lines, 1) if (entry := reader.entry(line, number)) is not None]
    if reader.odd is not None and not any(e.cookie for e in read):
        number, count = reader.odd
        reason = f"neither JSON nor a line of cookies.txt: {count} field(s) between TABs, not {_FIELDS}"
        raise CookieFileError(path=path, line=number, reason=reason)
    if not whole and reader.short == len(lines):
        raise CookieFileError(path=path, line=len(lines), reason="the line ends too early, the file was cut short")
    entries = keep_last(read, reader.rejected)
    return Document(format=CookieFormat.NETSCAPE, entries=entries, rejected=tuple(reader.rejected), newline=newline)


def encode_netscape(document: Document) -> bytes:
    """Write a cookies.txt."""
    lines = [cast("str", e.raw) for e in document.entries]
    text = "".join(line + "\n" for line in lines)
    return (text if document.newline == "\n" else text.replace("\n", document.newline)).encode()


def lines_of(cookie: Cookie) -> str:
    """The line of a cookie, or its lines."""
    texts = (cookie.domain, cookie.path, cookie.name, cookie.value)
    if cookie.partition_key is not None or cookie.domain.startswith("#") or any(map(_UNFIT.search, texts)):
        return _WHOLE + json.dumps(to_playwright(cookie))
    line = "\t".join(
        (
            (_HTTP_ONLY if cookie.http_only else "") + cookie.domain,
            "TRUE" if cookie.domain.startswith(".") else "FALSE",
            cookie.path,
            "TRUE" if cookie.secure else "FALSE",
            "0" if cookie.session else str(max(1, int(cookie.expires))),
            cookie.name,
            cookie.value,
        )
    )
    if cookie.same_site is None:
        return line
    about = (cookie.same_site, cookie.domain, cookie.path, cookie.name)
    return _SAME_SITE + "\t".join(about) + "\n" + line


class _Reader:
    """Reads line after line.

    Attributes:
        rejected: (name, reason) of each line that can't be read.
        odd: Number and count of fields of the first line that does not have a cookie's fields.
        short: Number of the last line that looks cut short.
    """

    def __init__(self) -> None:
        self.rejected: list[tuple[str, str]] = []
        self.odd: tuple[int, int] | None = None
        self.short = 0
        self._same_sites: dict[tuple[str, str, str], tuple[SameSite, str]] = {}

    def entry(self, line: str, number: int) -> Entry | None:
        """The entry of one line; None for a comment that goes with a line further down."""
        if line.startswith(_SAME_SITE) and self._note(line):
            return None
        if line.startswith(_WHOLE):
            return self._whole(line, number)
        if not line.strip() or (line.startswith("#") and not line.startswith(_HTTP_ONLY)):
            return Entry(line)
        fields = line.split("\t")
        if len(fields) < _FIELDS:
            self.short = number
        if len(fields) == _FIELDS - 1:
            fields.append("")  # an editor that strips the ends of lines takes the TAB before an empty value too
        if len(fields) != _FIELDS:
            self.odd = self.odd or (number, len(fields))
            self.rejected.append((f"line {number}", f"it has {len(fields)} field(s) between TABs, not {_FIELDS}"))
            return Entry(line)
        try:
            cookie = _cookie_of(fields)
        except ValueError as e:
            self.rejected.append((fields[5][:LABEL_CHARS] or f"line {number}", str(e)))
            return Entry(line)
        same_site, note = self._same_sites.pop((cookie.domain, cookie.path, cookie.name), (None, ""))
        if same_site is None:
            return Entry(line, cookie)
        return Entry(f"{note}\n{line}", dataclasses.replace(cookie, same_site=same_site))

    def _note(self, line: str) -> bool:
        fields = line.split("\t")
        if len(fields) != 5 or fields[1] not in {"Strict", "Lax", "None"}:
            return False
        self._same_sites[fields[2], fields[3], fields[4]] = (cast("SameSite", fields[1]), line)
        return True

    def _whole(self, line: str, number: int) -> Entry:
        try:
            return Entry(line, parse_item(json.loads(line[len(_WHOLE) :])))
        except (ValueError, RecursionError):  # the latter where it is nested too deeply
            self.short = number
            self.rejected.append((f"line {number}", "its JSON can't be read"))
            return Entry(line)


def _cookie_of(fields: list[str]) -> Cookie:
    domain, flag, path, secure, expiry, name, value = fields
    http_only = domain.startswith(_HTTP_ONLY)
    domain = domain.removeprefix(_HTTP_ONLY)
    if not domain:
        raise ValueError("domain is missing")
    if expiry and not _NUMBER.fullmatch(expiry):
        raise ValueError("the expiry is not a number of seconds")
    return Cookie(
        name=name,
        value=value,
        domain=host_name(domain, host_only=not _flag(flag, "subdomains")),
        path=cookie_path(path),
        expires=seconds(float(expiry or 0)),
        http_only=http_only,
        secure=_flag(secure, "secure"),
    )


def _flag(word: str, what: str) -> bool:
    try:
        return _FLAGS[word.upper()]
    except KeyError:
        raise ValueError(f"the field for {what} is neither TRUE nor FALSE") from None
