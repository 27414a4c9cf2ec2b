"""What is kept of a test that failed: its transition log, the way of its sessions on the diagram, and screenshots.

Rule: it is added to the report of a failure and never becomes one: what can't be had is said in its place.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from lifecycle.errors import LifecycleError
from lifecycle.testing.failures import draw_way, log_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from lifecycle import Record
    from lifecycle.testing import ActiveSession

__all__ = ["keep"]

SHOWN: Final = 60
"""Lines of a transition log in the report of a test: the newest; in the file are all."""

_NAME: Final = 80
"""Characters of a test's id in the name of its folder."""


def keep(
    item: pytest.Item,
    report: pytest.TestReport,
    records: Sequence[Record],
    pages: Sequence[ActiveSession],
    folder: Path,
) -> None:
    """Write the files, name them in the report, and add the transition log to it.

    Args:
        item: The test.
        report: Its report.
        records: One or more.
        pages: Sessions to take a screenshot of.
        folder: Where the files of all tests go.
    """
    log = log_lines(records)
    files = {"transitions.txt": "\n".join([*log, ""]).encode(), "diagram.svg": draw_way(records).encode()}
    shown = log if len(log) <= SHOWN else [*log[:1], f"  ... {len(log) - SHOWN} lines", *log[1 - SHOWN :]]
    missing = []
    for session in pages:
        try:
            files[f"screenshot-{session.session_id}.png"] = session.screenshot()
        except LifecycleError as e:
            missing.append(f"no screenshot of {session}: {type(e).__name__}: {e}")
    place = folder / _folder_name(item.nodeid)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        told = [f"kept: {place / name}" for name in files]
    except OSError as e:
        told = [f"nothing was kept in {place}: {e.strerror or e}; choose another folder with --lifecycle-output"]
    else:
        # What writes JUnit XML takes the properties of the last of a test's reports, which are those of the test.
        for properties in (item.user_properties, *([report.user_properties] if report.when == "teardown" else [])):
            if ("lifecycle_kept", str(place)) not in properties:
                properties.append(("lifecycle_kept", str(place)))
    report.sections.append(("lifecycle: transitions", "\n".join([*shown, *told, *missing])))
    _add_to_html(item, report, files)


def _folder_name(nodeid: str) -> str:
    """A name for a folder that every file system takes, and that no other test has."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", nodeid).strip("-.")[-_NAME:]
    return f"{plain}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"


def _add_to_html(item: pytest.Item, report: pytest.TestReport, files: dict[str, bytes]) -> None:
    """Add the pictures to the page that pytest-html makes, where it does."""
    if not item.config.pluginmanager.hasplugin("html"):
        return
    import base64  # noqa: PLC0415 - only for that page

    from pytest_html import extras  # noqa: PLC0415

    made = [
        extras.image(base64.b64encode(content).decode(), mime_type="image/png", extension="png", name=name)
        if name.endswith(".png")
        else extras.svg(base64.b64encode(content).decode(), name=name)
        for name, content in files.items()
        if not name.endswith(".txt")
    ]
    report.extras = [*getattr(report, "extras", []), *made]  # type: ignore[attr-defined]  # pytest-html looks there
