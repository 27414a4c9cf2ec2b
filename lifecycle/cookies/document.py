"""A cookie file as a document: what is in it, so that a save changes the cookies and keeps all else as it was.

Rule: decoding loses nothing. A cookie that can't be read stays in the document as it stands and is reported by name;
what surrounds the cookies (``origins`` and unknown keys of a storage_state file, comments) stays too; a cookie that
does not change is written back as it was read.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from lifecycle.cookies.model import Cookie, CookieKey


class CookieFormat(enum.StrEnum):
    """The formats of a cookie file."""

    STORAGE_STATE = "storage_state"
    """Playwright's JSON object with ``cookies`` and ``origins``."""
    NOTTE = "notte"
    """A JSON list with ``expirationDate`` and ``expires``; also a bare list of Playwright cookies."""
    EXTENSION = "extension"
    """The JSON list that EditThisCookie and Cookie-Editor export: the cookies of ``chrome.cookies``."""
    NETSCAPE = "netscape"
    """cookies.txt."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of a JSON list, or one line of a cookies.txt.

    Attributes:
        raw: As it is in the file.
        cookie: What it holds; None for a comment and for what can't be read.
    """

    raw: object = field(repr=False)
    cookie: Cookie | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A cookie file, decoded.

    Attributes:
        format: Its format.
        entries: Its cookies, comments and unreadable items, in order; no two of the same key.
        rejected: (name, reason) of what can't be read.
        head: The keys of a storage_state file, in order, ``cookies`` among them.
        bare: The list holds Playwright cookies, not Notte's.
        compact: JSON without line breaks.
        newline: How the lines of a cookies.txt end.
    """

    format: CookieFormat
    entries: tuple[Entry, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    head: dict[str, object] = field(default_factory=dict, repr=False)
    bare: bool = False
    compact: bool = False
    newline: str = "\n"

    def cookies(self) -> dict[CookieKey, Cookie]:
        """Its cookies by their key, in order."""
        return {e.cookie.key: e.cookie for e in self.entries if e.cookie is not None}


def keep_last(read: Iterable[Entry], rejected: list[tuple[str, str]]) -> tuple[Entry, ...]:
    """The entries without those that a later one of the same key replaces, as it does in a browser.

    One that differed is added to `rejected`. It is not written again: it would come back once the later one is deleted.
    """
    entries: dict[object, Entry] = {}
    for number, entry in enumerate(read):
        key = number if entry.cookie is None else entry.cookie.key
        earlier = entries.pop(key, None)
        if earlier is not None and earlier.cookie is not None and earlier.cookie != entry.cookie:
            rejected.append((earlier.cookie.name, "it is given twice; the last one counts"))
        entries[key] = entry
    return tuple(entries.values())
