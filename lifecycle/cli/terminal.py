"""What is printed, and how: consoles, marks, JSON, one-line errors and warnings, and numbers for people.

Rule: what was asked for goes to stdout, all else to stderr. Colours, boxes and wrapped lines are for terminals only:
in a pipe or a file each thing has its line, and letters that its encoding lacks are replaced by ones it has.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson
from rich.console import Console
from rich.text import Text

from lifecycle.cli.exits import exit_code
from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "Marks",
    "err",
    "long_time",
    "marks",
    "out",
    "plain_warnings",
    "print_block",
    "print_json",
    "short_id",
    "span",
    "tell_error",
]

PIPED_WIDTH: Final = 100
"""Columns of text outside of terminals, where COLUMNS does not say."""

WITHOUT_LIMIT: Final = 10_000
"""Columns of a table outside of terminals: no row is ever wrapped."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The signs that are not ASCII, or what stands for them."""

    ok: str
    failed: str
    arrow: str
    dot: str
    times: str


_SIGNS: Final = Marks("✓", "✗", "→", "·", "×")  # noqa: RUF001 - the sign is meant
_ASCII: Final = Marks("ok", "FAILED", "->", "|", "x")


def out(*, table: bool = False) -> Console:
    """The console of stdout; with `table`, one whose rows are not wrapped outside of terminals."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, emoji=False, width=WITHOUT_LIMIT if table else PIPED_WIDTH)
    return console


def err() -> Console:
    """The console of stderr."""
    return Console(stderr=True, highlight=False, emoji=False)


def marks(console: Console) -> Marks:
    """The signs that the console's encoding has."""
    return _SIGNS if console.encoding.lower().replace("-", "").startswith("utf") else _ASCII


def print_block(console: Console, block: RenderableType) -> None:
    """Print a table; outside of terminals without the blanks that fill up its last column."""
    if console.is_terminal:
        console.print(block)
        return
    with console.capture() as captured:
        console.print(block)
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_json(*values: object, indent: bool = False) -> None:
    """Print each value as JSON: on one line, or indented for people who read it."""
    for value in values:
        print(orjson.dumps(value, default=dict, option=orjson.OPT_INDENT_2 if indent else 0).decode())


def tell_error(error: Exception) -> int:
    """Print an error and its notes on stderr, a line each, and return the exit code."""
    console = err()
    if isinstance(error, LifecycleError):
        message = str(error)
    else:
        first = (str(error).strip() or "no message").splitlines()[0]
        message = f"{type(error).__name__}: {first} (LIFECYCLE_DEBUG=1 shows where)"
    _tell(console, "lifecycle:", "bold red", message)
    for note in getattr(error, "__notes__", ()):
        _tell(console, "  note:", "yellow", str(note))
    return exit_code(error)


def _tell(console: Console, lead: str, style: str, message: str) -> None:
    console.print(Text.assemble((lead, style), " ", message), soft_wrap=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """In the block, a warning is one line on stderr, without the place in the code.

    The logs of asyncio and Playwright stay silent: they tell at length what a signal broke off, such as the answer to
    a call that nobody waits for any more. What concerns the command is raised to it as well.
    """
    if not os.environ.get("LIFECYCLE_DEBUG"):
        for name in ("asyncio", "playwright"):
            logging.getLogger(name).addHandler(logging.NullHandler())

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        del category
        _tell(err(), "lifecycle: warning:", "yellow", str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def short_id(session_id: str | None) -> str:
    """Enough of an id to tell it from others; commands take it in place of the whole."""
    return session_id[:8] if session_id else "-"


def span(time: timedelta | float) -> str:
    """A length of time (seconds when a number), such as ``1.24 s``, ``3 min 05 s`` or ``2 h 14 min``."""
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def long_time(time: datetime | None) -> str:
    """A time to the second, in UTC as all times of the log."""
    return time.strftime("%Y-%m-%d %H:%M:%S") if time is not None else "-"
