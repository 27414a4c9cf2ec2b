"""What the parts of the fault campaign say of the cell in which one fails."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["in_cell"]


@contextlib.contextmanager
def in_cell(cell: object) -> Iterator[None]:
    """Whatever fails inside says in which cell it did."""
    try:
        yield
    except BaseException as e:
        e.add_note(f"cell: {cell}")
        raise
