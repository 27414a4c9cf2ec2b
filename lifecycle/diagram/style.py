"""Text for the SVG: styles, colours for light and dark pages, and lines that are broken to fit.

Rule: a text is measured with the advances of DejaVu Sans, the widest font that readers commonly have, so that it fits
in whatever font they see it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lifecycle.errors import LifecycleError


class DiagramError(LifecycleError):
    """The table has something that the picture has no place for."""


_ADVANCE: Final = MappingProxyType(
    {
        **dict.fromkeys("ijl'|", 0.28),
        **dict.fromkeys(" ,.:;_", 0.34),
        **dict.fromkeys("tfr[]()-", 0.42),
        **dict.fromkeys("csz/", 0.56),
        **dict.fromkeys("w→", 0.84),
        "m": 0.98,
    }
)
"""Advance of a character in em; `_OTHER` for the rest."""
_OTHER: Final = 0.64
_CAPITAL: Final = 0.76
_BOLD: Final = 1.13
_MONOSPACE: Final = 0.605

SIZES: Final = MappingProxyType(
    {"event": 14.0, "guard": 12.5, "steps": 12.0, "quiet": 12.5, "note": 12.5, "state": 14.0}
)
"""Font size of each style, in pixels at the width of a README."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text in one style."""

    style: str
    text: str

    @property
    def width(self) -> float:
        """Pixels that it takes at most."""
        if self.style == "steps":
            em = _MONOSPACE * len(self.text)
        else:
            em = sum(_ADVANCE.get(c, _CAPITAL if c.isupper() else _OTHER) for c in self.text)
        return em * SIZES[self.style] * (_BOLD if self.style in ("event", "state") else 1.0)


Line = tuple[Span, ...]


def fill(chunks: Sequence[Span], width: float) -> list[Line]:
    """Break `chunks` into lines of at most `width` pixels: between chunks, and inside one that is wider than a line.

    Raises:
        DiagramError: One word is too wide.
    """
    lines: list[list[Span]] = [[]]
    for chunk in chunks:
        for part in [chunk] if chunk.width <= width else [Span(chunk.style, word) for word in chunk.text.split()]:
            if part.width > width:
                msg = f"{part.text!r} is wider than the {width:g} pixels of its place"
                raise DiagramError(msg)
            if _width([*lines[-1], part]) > width:
                lines.append([])
            lines[-1].append(part)
    return [_joined(line) for line in lines]


def _width(line: Sequence[Span]) -> float:
    return sum(span.width for span in line) + sum(Span(span.style, " ").width for span in line[1:])


def _joined(line: Sequence[Span]) -> Line:
    """Neighbours of one style as one piece."""
    out: list[Span] = []
    for span in line:
        if out and out[-1].style == span.style:
            out[-1] = Span(span.style, f"{out[-1].text} {span.text}")
        else:
            out.append(span)
    return tuple(out)


_LIGHT: Final = MappingProxyType(
    {
        "card": ("#ffffff", "#d1d9e0"),
        "not_started": ("#f3f5f7", "#6e7781"),
        "active": ("#dafbe1", "#1a7f37"),
        "closed": ("#ddf4ff", "#0969da"),
        "timed_out": ("#fff8c5", "#9a6700"),
        "error": ("#ffebe9", "#cf222e"),
    }
)
_DARK: Final = MappingProxyType(
    {
        "card": ("#0d1117", "#3d444d"),
        "not_started": ("#1c2128", "#9198a1"),
        "active": ("#12301c", "#3fb950"),
        "closed": ("#11233b", "#4493f8"),
        "timed_out": ("#2e2611", "#d29922"),
        "error": ("#341a1c", "#f85149"),
    }
)


def _colours(states: MappingProxyType[str, tuple[str, str]], ink: str, faint: str, line: str) -> str:
    rules = [f".{name} rect{{fill:{body};stroke:{edge}}}" for name, (body, edge) in states.items() if name != "card"]
    card, border = states["card"]
    rules += [
        f".card{{fill:{card};stroke:{border}}}",
        f"text{{fill:{ink}}}",
        f".guard,.quiet,.note{{fill:{faint}}}",
        f".line{{stroke:{line}}}",
        f".tip{{fill:{line}}}",
        f".rule{{stroke:{border}}}",
    ]
    return "\n".join(rules)


_SANS: Final = '-apple-system,BlinkMacSystemFont,"Segoe UI","Noto Sans",Helvetica,Arial,sans-serif'
_MONO: Final = 'ui-monospace,SFMono-Regular,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace'

STYLE: Final = "\n".join(
    [
        "",
        f"text{{font-family:{_SANS}}}",
        *(f".{name}{{font-size:{size:g}px}}" for name, size in SIZES.items()),
        ".event,text.state{font-weight:700}",
        f".steps{{font-family:{_MONO}}}",
        ".line,.rule{fill:none;stroke-width:1.5}",
        ".state rect{stroke-width:1.5}",
        _colours(_LIGHT, "#1f2328", "#59636e", "#818b98"),
        f"@media (prefers-color-scheme:dark){{\n{_colours(_DARK, '#f0f6fc', '#9198a1', '#6e7681')}\n}}",
        "",
    ]
)
"""The style sheet. A page that is dark gets dark colours; the card's own ground keeps it readable on any other."""
