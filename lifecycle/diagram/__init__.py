"""The machine as pictures and as a table, drawn from the declared edges.

Rule: nothing is drawn by hand. Every edge, guard and step of the table is in every format, or the format raises
`DiagramError`; the files in ``diagrams/`` are what `write` makes of the table, and `check` names those that are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from lifecycle.diagram.markdown import draw_markdown
from lifecycle.diagram.style import DiagramError
from lifecycle.diagram.svg import draw_svg
from lifecycle.diagram.text import draw_dot, draw_mermaid, draw_plantuml
from lifecycle.states import EDGES, Edge

__all__ = ["FILES", "DiagramError", "Format", "check", "render", "write"]

Format = Literal["mermaid", "dot", "svg", "plantuml", "markdown"]

FILES: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "lifecycle.mmd": "mermaid",
        "lifecycle.dot": "dot",
        "lifecycle.svg": "svg",
        "lifecycle.puml": "plantuml",
        "table.md": "markdown",
    }
)
"""The generated files by name, with the format of each."""

_DRAW: Final[Mapping[Format, Callable[[Sequence[Edge]], str]]] = MappingProxyType(
    {
        "mermaid": draw_mermaid,
        "dot": draw_dot,
        "svg": draw_svg,
        "plantuml": draw_plantuml,
        "markdown": draw_markdown,
    }
)


def render(fmt: Format, *, edges: Sequence[Edge] = EDGES) -> str:
    """The machine in one format, as text that ends with a newline. The same table gives the same text.

    Raises:
        DiagramError: The hand-laid SVG has no place for an edge or a state, or its text is too long for its place.
    """
    return _DRAW[fmt](edges)


def write(folder: Path) -> list[str]:
    """Write every generated file into `folder`, which is made when it is missing.

    Returns:
        The names of the files that changed.
    """
    stale = check(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (folder / name).write_text(render(FILES[name]), encoding="utf-8", newline="\n")
    return stale


def check(folder: Path) -> list[str]:
    """The names of the generated files that are missing in `folder` or differ from the table."""
    return [name for name, fmt in FILES.items() if _read(folder / name) != render(fmt).encode()]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
