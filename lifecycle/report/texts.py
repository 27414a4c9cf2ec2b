"""Texts for the page: what was given is escaped, times are UTC, and lengths of time are for people.

Rule: a text that is not ours goes through `given` into the page and through `attribute` into an attribute, whoever
gave it. Characters that can't be seen, or turn the direction of others, are shown by their number.
"""

from __future__ import annotations

import re
from datetime import datetime
from html import escape
from typing import Final

__all__ = ["attribute", "clock", "given", "ms", "plural", "span", "stamp", "words"]

# Controls, separators of lines, marks and overrides of direction, blanks of no width. Not the joiners, which letters of
# some scripts and some emoji need.
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_NAMES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def given(text: str) -> str:
    """Somebody's text as HTML. It keeps its own direction to itself."""
    shown = _UNSEEN.sub(lambda found: f"<i class=u>{_name(found[0])}</i>", escape(text))
    return shown if text.isascii() else f"<bdi>{shown}</bdi>"


def attribute(text: str) -> str:
    """Somebody's text as the value of an attribute, with its quotes."""
    return f'"{_UNSEEN.sub(lambda found: _name(found[0]), escape(text))}"'


def _name(character: str) -> str:
    return _NAMES.get(character, f"\\u{ord(character):04x}")


def words(name: str) -> str:
    """A name of ours, such as ``timed_out``, as words."""
    return name.replace("_", " ")


def stamp(at: datetime) -> str:
    """Day and time to the second, UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S")


def clock(at: datetime) -> str:
    """The time to the millisecond, UTC."""
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def ms(value: float) -> str:
    """Milliseconds, such as ``0.4 ms``, ``12 ms`` or ``3,140 ms``."""
    return f"{value:.1f}\u00a0ms" if value < 9.95 else f"{value:,.0f}\u00a0ms"


def span(seconds: float) -> str:
    """A length of time, such as ``840 ms``, ``1.24 s``, ``3 min 05 s`` or ``2 h 14 min``."""
    if seconds < 0.9995:
        return ms(seconds * 1000)
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.3g} days"


def plural(number: int, word: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
