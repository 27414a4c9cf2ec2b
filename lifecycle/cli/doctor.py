"""``lifecycle doctor``: what this machine has for the local adapter, what it lacks, and how to get that.

Rule: what can be tried is tried, not guessed: a browser counts when it was started and stopped through a client. A
finding that keeps the local adapter from working is a failure, any other is told and no more.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from rich.table import Table
from rich.text import Text

from lifecycle.cli.machine import display
from lifecycle.cli.terminal import marks, out, print_block, print_json, span
from lifecycle.client import Client
from lifecycle.errors import LifecycleError
from lifecycle.journal import library_version
from lifecycle.stores import ENVIRONMENT, default_path, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Finding", "examine"]

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        verdict: ``ok``; ``note``: the local adapter works without it; ``missing``: it does not.
        found: What was found, or what came of trying.
        way_out: What to do about it, where there is something to do.
    """

    name: str
    verdict: Verdict
    found: str
    way_out: str | None = None


def examine(*, as_json: bool) -> int:
    """Look at everything, print it, and return the exit code."""
    findings = [look() for look in _LOOKS]
    works = all(finding.verdict != "missing" for finding in findings)
    if as_json:
        print_json({"ok": works, "findings": [asdict(finding) for finding in findings]}, indent=True)
    else:
        _print(findings, works=works)
    return 0 if works else 1


def _print(findings: Sequence[Finding], *, works: bool) -> None:
    console = out()
    signs = marks(console)
    looks = {"ok": (signs.ok, "green"), "note": (signs.dot, "yellow"), "missing": (signs.failed, "bold red")}
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = looks[finding.verdict]
        text = Text(finding.found)
        if finding.way_out is not None:
            text.append(f"\n{signs.arrow} {finding.way_out}", style=style)
        table.add_row(Text(mark, style=style), finding.name, text)
    print_block(console, table)
    console.print()
    if works:
        console.print("The local browser works here. Next: lifecycle demo", style="bold green")
    else:
        console.print("The local browser does not work here yet.", style="bold red")


# --- what is looked at ------------------------------------------------------------------------------------------


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Finding(name="python", verdict="ok", found=found)


def _system() -> Finding:
    if sys.platform == "win32":
        found, way_out = (
            "the local browser needs Linux or macOS",
            "use another adapter here, as adapter='memory' in tests",
        )
        return Finding(name="system", verdict="missing", found=found, way_out=way_out)
    return Finding(name="lifecycle", verdict="ok", found=library_version())


def _playwright() -> Finding:
    try:
        return Finding(name="playwright", verdict="ok", found=metadata.version("playwright"))
    except metadata.PackageNotFoundError:
        way_out = "pip install playwright"
        return Finding(name="playwright", verdict="missing", found="not installed: no session.page", way_out=way_out)


def _browser() -> Finding:
    from lifecycle_adapters.local.find import candidates, find_browser  # noqa: PLC0415 - the adapter's own eyes

    try:
        found = find_browser(None)
    except LifecycleError as e:
        way_out = "mend or unset CHROMIUM_PATH" if os.environ.get("CHROMIUM_PATH") else "lifecycle install-browser"
        return Finding(name="browser", verdict="missing", found=str(e), way_out=way_out)
    others = [f"{other.path} ({other.source})" for other in candidates() if other.path != found.path]
    text = "\n".join([f"{found.path} ({found.source})", *(f"also here: {other}" for other in others)])
    return Finding(name="browser", verdict="ok", found=text)


def _start() -> Finding:
    """Start the browser through a client and stop it."""
    if _browser().verdict == "missing":
        return Finding(name="start", verdict="missing", found="not tried: there is no browser")
    began = time.monotonic()
    try:
        with Client(adapter="local", store="memory:") as client, client.Session() as session:
            started = time.monotonic() - began
            session.cdp_url()
            stopping = time.monotonic()
    except LifecycleError as e:
        return Finding(name="start", verdict="missing", found=f"{type(e).__name__}: {e}", way_out=_START_HELP)
    found = f"started in {span(started)}, stopped in {span(time.monotonic() - stopping)}"
    return Finding(name="start", verdict="ok", found=found)


_START_HELP: Final = "lifecycle install-browser, or set CHROMIUM_PATH to a browser that runs"


def _sandbox() -> Finding:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Finding(
            name="sandbox",
            verdict="note",
            found="off: this is root, and Chromium has no sandbox for root",
            way_out="run as another user before you open pages that you do not trust",
        )
    return Finding(name="sandbox", verdict="ok", found="on: this is not root")


def _display() -> Finding:
    found = display()
    if found is None:
        return Finding(name="display", verdict="note", found="none: headless=False opens no window here")
    return Finding(name="display", verdict="ok", found=found)


def _store() -> Finding:
    chosen = os.environ.get(ENVIRONMENT)
    place = f"sqlite:///{default_path()}"
    try:
        if chosen:
            opened = open_store(chosen)
            opened.close()
            place = f"{opened.url} (from {ENVIRONMENT})"  # which has no password in it
        elif not _can_write(default_path()):
            way_out = f"mend its rights, or set {ENVIRONMENT}=sqlite:///FILE"
            return Finding(name="store", verdict="note", found=f"{place} can't be written to", way_out=way_out)
    except LifecycleError as e:
        return Finding(name="store", verdict="missing", found=str(e), way_out=f"mend or unset {ENVIRONMENT}")
    return Finding(name="store", verdict="ok", found=place)


def _can_write(path: Path) -> bool:
    """True when the file, or the nearest folder above it that exists, can be written to."""
    there = next(p for p in (path, *path.parents) if p.exists())
    return os.access(there, os.W_OK)


def _adapter() -> Finding:
    known = ", ".join(sorted({p.name for p in metadata.entry_points(group="lifecycle.adapters")} | {"local", "memory"}))
    chosen = os.environ.get("LIFECYCLE_ADAPTER")
    if chosen and chosen != "local":
        found = f"LIFECYCLE_ADAPTER={chosen}, so Client() does not use the local browser (there are: {known})"
        return Finding(name="adapter", verdict="note", found=found)
    return Finding(name="adapter", verdict="ok", found=f"local (there are: {known})")


_LOOKS: Final[tuple[Callable[[], Finding], ...]] = (
    _system,
    _python,
    _adapter,
    _playwright,
    _browser,
    _start,
    _sandbox,
    _display,
    _store,
)
