"""``lifecycle run URL``: one session, one page, and what came of it.

Rule: whatever happens, the session is over and its cookies are saved when the command ends, and what is printed says
so. What went wrong is raised after that, so that its exit code tells the three apart: no start, no page, no session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from lifecycle.audit import RecordKind
from lifecycle.cli.exits import NavigationFailed
from lifecycle.cli.tables import state_style
from lifecycle.cli.terminal import out, print_block, print_json, span
from lifecycle.client import Client
from lifecycle.config import SessionKwargs
from lifecycle.errors import ConfigError, LifecycleError

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from lifecycle.attachment import SessionStatus
    from lifecycle.session import Session

__all__ = ["full_url", "run"]

PICTURES: Final = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
"""What Playwright can write, by the end of the file's name."""

_NO_AUTHORITY: Final = ("about:", "data:", "file:", "blob:", "view-source:", "chrome:")
_LOOPBACK: Final = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(?=[:/?#]|$)")

ENDS_WITHIN: Final = 2.0
"""Seconds in which the end of a browser that closed its page has to be known."""


@dataclass(slots=True)
class Visit:
    """What is known so far; the fields are the keys of ``--json``."""

    url: str
    final_url: str | None = None
    title: str | None = None
    http_status: int | None = None
    session_id: str | None = None
    adapter: str | None = None
    status: str | None = None
    close_reason: str | None = None
    duration: float | None = None
    screenshot: str | None = None
    cookie_file: str | None = None
    cookies_loaded: int | None = None
    cookies_saved: int | None = None
    error: dict[str, str] | None = None


def full_url(url: str) -> str:
    """The URL as an address bar would take it: ``https://`` where there is no scheme, ``http://`` on loopback."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url) or url.lower().startswith(_NO_AUTHORITY):
        return url
    return f"http://{url}" if _LOOPBACK.match(url) else f"https://{url}"


def run(
    url: str,
    *,
    cookie_file: Path | None,
    screenshot: Path | None,
    timeout_minutes: float,
    adapter: str | None,
    headed: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Open a session, go to `url`, and print what was found.

    Raises:
        LifecycleError: What went wrong, after everything has been ended and printed.
    """
    # A signal that strikes in an import can leave its lock behind, for which another thread would wait for ever: so all
    # of Playwright is imported while nothing is open.
    import playwright.sync_api  # noqa: F401, PLC0415 - needed by this command alone

    options = SessionKwargs(headless=not headed, timeout_minutes=timeout_minutes, prefetch_page=True)
    if cookie_file is not None:
        options["cookie_file"] = cookie_file
    visit = Visit(url=full_url(url), cookie_file=str(cookie_file) if cookie_file is not None else None)
    try:
        _check_picture(screenshot)
        with Client(adapter=adapter, store=store) as client:
            session = client.Session(**options)
            try:
                with session, _in_words(session, visit.url):
                    _open(session.page, visit, screenshot)
            finally:
                _take_down(session, visit)
    except LifecycleError as e:
        visit.error = {"type": type(e).__name__, "message": str(e)}
        raise
    except SystemExit as e:
        visit.error = {"type": "Interrupted", "message": f"ended by a signal, exit code {e.code}"}
        raise
    finally:
        if as_json:
            print_json({f.name: getattr(visit, f.name) for f in fields(visit)}, indent=True)
        else:
            _print(visit)


def _check_picture(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(option="screenshot", value=str(path), allowed=f"a name that ends with {', '.join(PICTURES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(option="screenshot", value=str(path), allowed="a file in a folder that exists")


def _open(page: Page, visit: Visit, screenshot: Path | None) -> None:
    response = page.goto(visit.url)
    visit.http_status = response.status if response is not None else None
    visit.final_url = page.url
    visit.title = page.title()
    if screenshot is not None:
        kind: Any = PICTURES[screenshot.suffix.lower()]
        screenshot.write_bytes(page.screenshot(type=kind))
        visit.screenshot = str(screenshot)


@contextmanager
def _in_words(session: Session, url: str) -> Iterator[None]:
    """Playwright's errors as the end of the session, when that is what broke the page, or as NavigationFailed."""
    try:
        yield
    except LifecycleError:
        raise
    except Exception as e:
        from playwright.sync_api import Error  # noqa: PLC0415 - imported already

        if not isinstance(e, Error):
            raise
        if session.state.terminal or "closed" in e.message or "crashed" in e.message:
            _raise_the_end(session, e)
        reason = e.message.partition("\n")[0].removeprefix("Page.goto: ").removesuffix(f" at {url}")
        raise NavigationFailed(url=url, reason=reason) from e


def _raise_the_end(session: Session, cause: Exception) -> None:
    """Raise SessionEnded when the session is over or about to be told so; return when only the page is."""
    try:
        session.wait_ended(ENDS_WITHIN)
    except TimeoutError:
        return
    try:
        session.cdp_url()
    except LifecycleError as ended:
        raise ended from cause


def _take_down(session: Session, visit: Visit) -> None:
    """Note how the session ended. Reads what is known here, so that it works after any interruption."""
    status: SessionStatus = session.status()
    visit.session_id = status.session_id
    visit.adapter = status.adapter
    visit.status = str(status.status)
    visit.close_reason = str(status.close_reason) if status.close_reason is not None else None
    visit.duration = round(status.duration.total_seconds(), 3)
    for record in session.history():
        if record.kind in (RecordKind.COMMIT, RecordKind.DIVERTED):
            visit.cookies_loaded = record.counts.get("cookies_loaded", visit.cookies_loaded)
            visit.cookies_saved = record.counts.get("cookies_saved", visit.cookies_saved)


def _print(visit: Visit) -> None:
    if visit.status is None:
        return  # there was no session; the error says why
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    if visit.final_url is not None:
        table.add_row("page", Text(visit.final_url))
        table.add_row("title", Text(visit.title or "(none)", style="bold" if visit.title else "dim"))
        if visit.http_status is not None:
            table.add_row("HTTP status", Text(str(visit.http_status), style="" if visit.http_status < 400 else "red"))
    if visit.screenshot is not None:
        table.add_row("screenshot", Text(visit.screenshot))
    if visit.cookies_loaded is not None or visit.cookies_saved is not None:
        counts = f"{visit.cookies_loaded or 0} loaded, {visit.cookies_saved or 0} saved"
        table.add_row("cookies", Text(f"{counts}, {visit.cookie_file}"))
    ended = Text(visit.status, style=state_style(_state(visit.status)))
    if visit.close_reason is not None:
        ended.append(f", {visit.close_reason}", style="default")
    ended.append(f", after {span(visit.duration or 0.0)}", style="default")
    table.add_row("session", Text(f"{visit.session_id or '-'} on {visit.adapter}"))
    table.add_row("ended", ended)
    print_block(out(), table)


def _state(name: str) -> Any:  # noqa: ANN401 - a State
    from lifecycle.states import State  # noqa: PLC0415

    return State(name)
