"""``lifecycle diagram``: prints, writes or checks what `lifecycle.diagram` draws."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from lifecycle import diagram
from lifecycle.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_diagrams", "print_diagram", "write_diagrams"]


def print_diagram(form: str) -> None:
    """Print the diagram in one format."""
    text = diagram.render(cast("diagram.Format", form))
    print(text, end="" if text.endswith("\n") else "\n")


def write_diagrams(folder: Path) -> None:
    """Write the diagrams of all formats into a folder."""
    changed = diagram.write(folder)
    print(f"{folder}: {', '.join(changed)} written" if changed else f"{folder} was up to date")


def check_diagrams(folder: Path) -> int:
    """Say which files of a folder are not what the table gives; the exit code.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder} to check; name it with --folder, or make it with --write {folder}"
        raise UsageError(msg)
    stale = diagram.check(folder)
    for name in stale:
        print(f"not up to date: {name}", file=sys.stderr)
    if stale:
        print(f"`lifecycle diagram --write {folder}` draws them anew", file=sys.stderr)
        return 1
    print(f"{folder} is up to date")
    return 0
