"""What is kept of a test that failed: the transition log, the way on the state diagram, and a picture of each page.

Rule: the transition log comes from records, so it holds no secret. A screenshot shows what the page showed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lifecycle.report.paths import lit_picture
from lifecycle.report.story import Story, tell
from lifecycle.testing.transitions import told

if TYPE_CHECKING:
    from lifecycle.audit import Record

__all__ = ["draw_way", "log_lines"]


def log_lines(records: Iterable[Record]) -> list[str]:
    """The transition log, a record a line: attachment by attachment, with seconds since the first of all."""
    kept = list(records)
    lines: list[str] = []
    for attachment_id in dict.fromkeys(r.attachment_id for r in kept):
        of_one = [r for r in kept if r.attachment_id == attachment_id]
        session = next((r.session_id for r in of_one if r.session_id), "without an id")
        lines.append(f"session {session} on {of_one[0].adapter}, attachment {attachment_id}")
        lines += [f"  {(r.at - kept[0].at).total_seconds():8.3f} s  {told(r)}" for r in of_one]
    return lines


def draw_way(records: Sequence[Record]) -> str:
    """The state diagram as SVG, with the edges lit that one or more sessions took or gave up.

    Args:
        records: One or more, oldest first.
    """
    story: Story = tell(None, None, list(enumerate(records, 1)))
    return lit_picture(story.path)
