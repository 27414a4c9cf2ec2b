"""Exit codes, and which error leads to which.

Rule: a code means the same in every command. The help texts are made from this table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from lifecycle.errors import (
    AuthenticationError,
    BackendError,
    CapacityError,
    CookieFileError,
    LifecycleError,
    SessionEnded,
    StartFailed,
    UsageError,
)

__all__ = ["MEANINGS", "Exit", "NavigationFailed", "exit_code"]


class Exit(enum.IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_START = 3
    NO_PAGE = 4
    ENDED = 5
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: Final[Mapping[Exit, str]] = MappingProxyType(
    {
        Exit.OK: "all went well",
        Exit.FAILED: "a check failed, or something else went wrong",
        Exit.USAGE: "an argument, an option or a setting is not allowed",
        Exit.NO_START: "the session could not be started",
        Exit.NO_PAGE: "the page could not be opened",
        Exit.ENDED: "the session timed out or failed",
        Exit.INTERRUPTED: "ended by Ctrl-C (143: by SIGTERM), cookies saved",
    }
)
"""What each code says; `TERMINATED` is told with `INTERRUPTED`."""


class NavigationFailed(LifecycleError):  # noqa: N818 - named like the library's own
    """The page could not be opened in a session that is well.

    Attributes:
        url: What was to be opened.
        reason: What the browser said.
    """

    def __init__(self, *, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"could not open {url}: {reason}")


_CODES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], Exit], ...]] = (
    (UsageError, Exit.USAGE),
    ((StartFailed, CapacityError, AuthenticationError, CookieFileError), Exit.NO_START),
    (NavigationFailed, Exit.NO_PAGE),
    ((SessionEnded, BackendError), Exit.ENDED),
)


def exit_code(error: Exception) -> Exit:
    """The code for an error; the first row that fits decides."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.FAILED)
