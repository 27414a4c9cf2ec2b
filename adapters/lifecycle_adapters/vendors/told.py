"""What vendors tell of sessions, and the body that creates one.

Rule: no I/O. Fields that are not known are let pass; one that is needed and is not there is a RemoteRejected that names
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from lifecycle.errors import ConfigError, RemoteRejected, UnsupportedOperation

if TYPE_CHECKING:
    from datetime import datetime

    from lifecycle.config import SessionOptions

__all__ = ["GRACE", "REFUSED", "Told", "dig", "items", "merged", "refuse", "text", "units"]

GRACE: Final = 60.0
"""Seconds that a vendor's own time limit is set beyond ours, in which an ending saves its cookies."""

REFUSED: Final[Mapping[str, str]] = {
    "headless": "watch it in session.viewer() or in the vendor's own live view",
    "proxy": "give the vendor's own fields for it in settings= of the adapter",
    "chrome_args": "give the vendor's own fields for it in settings= of the adapter",
    "user_agent": "set it in a client with Emulation.setUserAgentOverride",
    "profile": "keep logins in cookie_file=, or give the vendor's own profiles in settings= of the adapter",
    "downloads_folder": "take them in a client, such as Playwright's page.expect_download()",
    "executable_path": 'the vendor chooses the browser: leave it out, or use Client(adapter="local")',
}
"""Options that no vendor has a like for, each with the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A session as its vendor tells of it.

    Attributes:
        id: The vendor's id.
        status: The vendor's word for how it stands.
        tag: What it was created with to be found by, where the vendor tells.
        cdp: Its CDP URL, a secret; None where this answer has none.
        made_at: When the vendor made it (UTC), where an answer is searched by that.
    """

    id: str
    status: str
    tag: str | None = None
    cdp: str | None = field(default=None, repr=False)
    made_at: datetime | None = None


def dig(data: object, *path: str) -> object:
    """What lies at `path` in an answer; None where there is nothing."""
    for name in path:
        data = cast("Mapping[str, Any]", data).get(name) if isinstance(data, Mapping) else None
    return data


def text(data: object, *path: str) -> str:
    """The text that lies at `path` in an answer.

    Raises:
        RemoteRejected: There is none; names the path.
    """
    found = dig(data, *path)
    if not isinstance(found, str) or not found:
        msg = f"the answer of the vendor can't be read: {'.'.join(path)} is not a non-empty text; is base_url right?"
        raise RemoteRejected(msg)
    return found


def items(data: object, *path: str) -> list[object]:
    """The list that lies at `path` in an answer.

    Raises:
        RemoteRejected: There is none; names the path.
    """
    found = dig(data, *path)
    if not isinstance(found, list):
        msg = f"the answer of the vendor can't be read: {'.'.join(path) or 'it'} is not a list; is base_url right?"
        raise RemoteRejected(msg)
    return found


def merged(body: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a create with the user's own fields; lists are put together.

    Raises:
        ConfigError: Both set a field.
    """
    out = dict(body)
    for name, value in settings.items():
        mine = out.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            out[name] = merged(mine, value)
        elif isinstance(mine, list) and isinstance(value, list):
            out[name] = [*mine, *value]
        elif name in out:
            allowed = "fields that the adapter does not set itself, from the options of the session"
            raise ConfigError(option="settings", value=name, allowed=allowed)
        else:
            out[name] = value
    return out


def units(minutes: float, unit: float, *, option: str, least: int = 1, most: int | None = None) -> int:
    """One of our deadlines as a time limit of the vendor's: never shorter, and a little longer where it may be.

    Args:
        minutes: Our deadline.
        unit: How many seconds the vendor's unit has.
        option: The option that it is, for the error.
        least: The vendor's shortest limit, in its unit.
        most: Its longest.

    Raises:
        ConfigError: The vendor takes no limit as long as that.
    """
    needed = math.ceil(round(minutes * 60 / unit, 6))
    if most is not None and needed > most:
        raise ConfigError(option=option, value=minutes, allowed=f"at most {most * unit / 60:g} minutes at this vendor")
    wanted = max(math.ceil(round((minutes * 60 + GRACE) / unit, 6)), least)
    return wanted if most is None else min(wanted, most)


def refuse(options: SessionOptions, adapter: str, refused: Mapping[str, str] = REFUSED) -> None:
    """Refuse options that a vendor can't take.

    Raises:
        UnsupportedOperation: Names the option and the way out.
    """
    for option, way_out in refused.items():
        given = getattr(options, option)
        if (not given) if option == "headless" else given:
            raise UnsupportedOperation(operation=f"{option}=", adapter=adapter, way_out=way_out)
