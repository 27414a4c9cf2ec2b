"""The cookie file of a session: read at its start, merged and saved at its end.

Rule: nothing is lost silently. A save merges three ways under a lock, so that sessions which share a file don't undo
each other's work; what can't be saved where it belongs goes to a rescue file that the error names; what the session
does not own, or could not use, stays in the file.

Everything here blocks: on the supervisor it runs on a worker thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lifecycle.cookies.atomic import locked, read_file, replace_file, sync_folder
from lifecycle.cookies.document import CookieFormat, Document, Entry
from lifecycle.cookies.formats import decode, encode, entry_of, new_document
from lifecycle.cookies.jsonfile import to_json
from lifecycle.cookies.model import Cookie, CookieKey, to_playwright
from lifecycle.errors import CookieFileError, CookieSaveError

BROWSER_MAX_AGE: Final = 400 * 86400.0
"""Seconds that a browser keeps a cookie at most, counted from when it was set (RFC 6265bis; Chromium since 104)."""

_CLOCK_SLACK: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCookies:
    """What was read from a cookie file.

    Attributes:
        path: The file, absolute.
        format: Its format; that of its name when there is no file yet.
        cookies: The cookies that are still good, each key once.
        rejected: (name, reason) of those that can't be read. They stay in the file.
        expired: How many are over; the next save drops them.
        existed: False when there is no file yet.
        read_at: When it was read, in seconds since the epoch.
        data: The content of the file; None when there is no file yet.
        document: What is in it; what a save merges against.
    """

    path: str
    format: CookieFormat
    cookies: tuple[Cookie, ...]
    rejected: tuple[tuple[str, str], ...]
    expired: int
    existed: bool
    read_at: float
    data: bytes | None = field(repr=False)
    document: Document = field(repr=False)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose storage the file holds beside the cookies: it is kept in the file, and not loaded."""
        found = self.document.head.get("origins")
        items = found if isinstance(found, list) else []
        return tuple(str(item["origin"]) for item in items if isinstance(item, dict) and item.get("origin"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCookies:
    """What a save did.

    Attributes:
        saved: Cookies of the session that the file holds now.
        kept_from_others: Cookies in the file that others added or changed meanwhile.
        removed: Cookies that the session deleted and that are gone from the file.
        conflicts: Names of cookies that the session and others changed differently; the session's are in the file.
    """

    saved: int
    kept_from_others: int
    removed: int
    conflicts: tuple[str, ...] = ()


def read_cookie_file(path: str | os.PathLike[str], *, now: float) -> LoadedCookies:
    """Read a cookie file in any of the formats. A file that does not exist holds no cookies.

    Args:
        path: The file.
        now: The time, in seconds since the epoch; expired cookies are left out.

    Raises:
        CookieFileError: It can't be read, is cut short, or is no cookie file; names the line.
    """
    full = os.path.abspath(path)  # noqa: PTH100 - the file may be a link; errors name it as the user does
    data = _read(Path(full))
    document = new_document(full) if data is None else decode(data, path=full)
    cookies = document.cookies().values()
    good = tuple(c for c in cookies if not c.expired(now))
    return LoadedCookies(
        path=full,
        format=document.format,
        cookies=good,
        rejected=document.rejected,
        expired=len(cookies) - len(good),
        existed=data is not None,
        read_at=now,
        data=data,
        document=document,
    )


def save_cookie_file(
    loaded: LoadedCookies,
    current: Sequence[Cookie],
    *,
    now: float,
    refused: Sequence[Cookie] = (),
    timeout: float = 10.0,
) -> SavedCookies:
    """Save the cookies of a session to the file that they were loaded from.

    Under the lock the file is read again and merged: what the session added or changed is written, what it deleted is
    removed unless others changed it, what others added, changed or deleted stands. Where both changed a cookie
    differently the session's counts and the name is reported. Session cookies are saved too, expired ones dropped.

    Args:
        loaded: What `read_cookie_file` returned at the session's start.
        current: All cookies of the browser now.
        now: The time, in seconds since the epoch.
        refused: Loaded cookies that the browser did not take. Their absence from `current` deletes nothing.
        timeout: Seconds to wait for other processes that save to the same file.

    Raises:
        CookieSaveError: They are in its rescue file, and the cookie file is whole: as it was, or new if only its
            durability is in doubt.
    """
    target = Path(os.path.realpath(loaded.path))  # a link stays a link
    ours = {c.key: c for c in current if not c.expired(now)}
    kept = {c.key for c in refused}
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(target, timeout=timeout):
            data = _read(target)
            # From a file that is gone no cookie was deleted: all go where they were.
            theirs = loaded.document if data is None or data == loaded.data else decode(data, path=loaded.path)
            merged, saved = _merge(loaded, theirs, ours, kept, now)
            replace_file(target, encode(merged))
        sync_folder(target.parent)  # without the lock, which others wait for
    except CookieFileError as e:
        line = f" (line {e.line})" if e.line is not None else ""
        reason = f"the file was changed meanwhile and can't be read any more: {e.reason}{line}"
    except OSError as e:
        reason = e.strerror or type(e).__name__
    except Exception as e:  # a fault of ours must not cost the user the cookies
        rescue = _rescue(loaded, ours, kept)
        raise CookieSaveError(path=loaded.path, rescue_path=rescue, reason=type(e).__name__) from e
    else:
        return saved
    raise CookieSaveError(path=loaded.path, rescue_path=_rescue(loaded, ours, kept), reason=reason)


def rescue_cookies(
    loaded: LoadedCookies, current: Sequence[Cookie], *, now: float, refused: Sequence[Cookie] = ()
) -> str | None:
    """Write the cookies of a session to a rescue file, when a save does not come back; the arguments are its own.

    Returns:
        The path of the rescue file (mode 0600), None when no place takes one.
    """
    return _rescue(loaded, {c.key: c for c in current if not c.expired(now)}, {c.key for c in refused})


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError as e:
        raise CookieFileError(path=str(path), reason=e.strerror or type(e).__name__) from None


# --- merging ----------------------------------------------------------------------------------------------------


def _merge(
    loaded: LoadedCookies,
    theirs: Document,
    ours: Mapping[CookieKey, Cookie],
    refused: Collection[CookieKey],
    now: float,
) -> tuple[Document, SavedCookies]:
    """Merge the session's cookies into the file as it is now, against the file as it was loaded."""
    base, disk = loaded.document.cookies(), theirs.cookies()
    put: dict[CookieKey, Cookie] = {}
    drop: set[CookieKey] = set()
    conflicts: list[str] = []
    for key in {**base, **ours}:
        was, there, here = base.get(key), disk.get(key), ours.get(key)
        if here is None and was is not None and (key in refused or was.expired(now)):
            continue  # nobody deleted it: it was never in the browser, or its time was over
        if was is not None and here is not None and _same(was, here, loaded.read_at, now):
            continue
        if here is None:
            if there == was:
                drop.add(key)
        elif there is None or not _same(there, here, loaded.read_at, now):
            put[key] = here
            if there != was:
                conflicts.append(here.name)
    entries: list[Entry] = []
    for entry in theirs.entries:
        cookie = entry.cookie
        if cookie is None:
            entries.append(entry)
        elif (new := put.pop(cookie.key, None)) is not None:
            entries.append(entry_of(theirs, new, entry))
        elif cookie.key not in drop and not cookie.expired(now):
            entries.append(entry)
    entries += [entry_of(theirs, new) for new in put.values()]
    merged = dataclasses.replace(theirs, entries=tuple(entries))
    held = merged.cookies()
    mine = {k for k, c in ours.items() if k in held and _same(held[k], c, loaded.read_at, now)}
    others = sum(1 for k, c in held.items() if k not in mine and c != base.get(k))
    return merged, SavedCookies(saved=len(mine), kept_from_others=others, removed=len(drop), conflicts=tuple(conflicts))


def _same(filed: Cookie, browsers: Cookie, since: float, now: float) -> bool:
    """True when the browser's cookie, of the same key, is the one in the file as far as the browser can tell.

    A browser rounds the expiry and cuts it to 400 days; a cookies.txt holds whole seconds.
    """
    if filed == browsers:
        return True
    if (filed.value, filed.http_only, filed.secure, filed.same_site) != (
        browsers.value,
        browsers.http_only,
        browsers.secure,
        browsers.same_site,
    ):
        return False
    if filed.session or browsers.session:
        return False
    if abs(filed.expires - browsers.expires) <= 1:
        return True
    cut = since + BROWSER_MAX_AGE - _CLOCK_SLACK <= browsers.expires <= now + BROWSER_MAX_AGE + _CLOCK_SLACK
    return cut and filed.expires > browsers.expires


# --- rescue -----------------------------------------------------------------------------------------------------


def _rescue(loaded: LoadedCookies, ours: Mapping[CookieKey, Cookie], refused: Collection[CookieKey]) -> str | None:
    """Write the session's cookies, and what else the file held, where they survive; None when no place takes them."""
    kept = [c for k, c in loaded.document.cookies().items() if k in refused and k not in ours]
    items: list[object] = [to_playwright(c) for c in (*ours.values(), *kept)]
    items += [e.raw for e in loaded.document.entries if e.cookie is None and isinstance(e.raw, dict)]
    data = to_json({"origins": [], **loaded.document.head, "cookies": items})
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"{Path(loaded.path).stem}-{stamp}-{secrets.token_hex(4)}.json"
    for place in (_state_folder, tempfile.gettempdir):
        with contextlib.suppress(OSError):  # the next place; None tells the caller that there was none
            path = Path(place()) / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data)
            sync_folder(path.parent)
            return str(path)
    return None


def _state_folder() -> Path:
    import platformdirs  # noqa: PLC0415 - only needed when a save failed

    return Path(platformdirs.user_state_dir("lifecycle")) / "rescue"
