"""``lifecycle demo``: the complete example on a real browser, each claim checked as it is shown.

Rule: nothing is claimed that was not looked at just before. A check that fails is printed like the others, the demo
goes on, and its exit code is 1.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from lifecycle.audit import Record, RecordKind
from lifecycle.cli.machine import display
from lifecycle.cli.site import COOKIE, TITLE, serve
from lifecycle.cli.tables import records_table
from lifecycle.cli.terminal import marks, out, print_block, short_id, span
from lifecycle.client import Client
from lifecycle.errors import ConfigError, LifecycleError, SessionClosed, SessionTimedOut, StartFailed
from lifecycle.states import CloseReason, State
from lifecycle.stores import open_store

if TYPE_CHECKING:
    from rich.console import Console

    from lifecycle.session import Session

__all__ = ["run_demo"]

USER: Final = "Ada"
WIDTH: Final = 1280
HEIGHT: Final = 720

TIMEOUT_MINUTES: Final = 0.02
"""The idle timeout of the session that is left to time out: 1.2 seconds."""

HEADED_PAUSE: Final = 2000.0
"""Milliseconds in which the window can be looked at."""

LONGEST_WAIT: Final = 60.0
"""Seconds after which an end that did not come counts as a failed check."""


class Story:
    """Prints what is shown and counts what was checked."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.checked = 0
        self.failed = 0
        self._marks = marks(console)

    def act(self, number: int, title: str, code: str) -> None:
        """Begin an act: its title, and the code it is about."""
        self.console.print()
        self.console.print(Text.assemble((f"{number}  {title}", "bold")))
        self._line("", Text(code, style="cyan"))

    def check(self, holds: bool, claim: str, found: object = None) -> None:
        """Print a claim with a mark for whether it holds; with what was found where it does not."""
        self.checked += 1
        if holds:
            self._line(self._marks.ok, Text(claim), style="green")
        else:
            self.failed += 1
            told = claim if found is None else f"{claim}, but found: {found}"
            self._line(self._marks.failed, Text(told), style="bold red")

    def note(self, text: str) -> None:
        """Print something that is neither shown nor checked."""
        self._line("", Text(text, style="dim"))

    def _line(self, mark: str, text: Text, *, style: str = "") -> None:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=1)
        line.add_column(width=max(len(self._marks.ok), len(mark)))
        line.add_column(overflow="fold")
        line.add_row("", Text(mark, style=style), text)
        print_block(self.console, line)


@dataclass(frozen=True, slots=True)
class Stage:
    """What every act works with.

    Attributes:
        story: Prints and checks.
        client: Makes the sessions.
        site: URL of the site, without a slash.
        folder: Where the files of the demo go.
        store: The store of the client.
    """

    story: Story
    client: Client
    site: str
    folder: Path
    store: str

    @property
    def cookie_file(self) -> Path:
        """The cookies of the first two sessions."""
        return self.folder / "cookies.json"


def run_demo(keep: Path | None) -> int:
    """Run all acts, print the log, and return the exit code.

    Raises:
        ConfigError: The folder to keep things in is not empty.
        StartFailed: There is no browser to show anything on.
    """
    # As in `run`: a signal that strikes in an import must find nothing open.
    import playwright.sync_api  # noqa: F401, PLC0415 - needed by this command alone

    console = out()
    story = Story(console)
    began = time.monotonic()
    with _folder(keep) as folder, serve() as site:
        store = f"sqlite:///{folder / 'lifecycle.db'}"
        console.print(f"Five sessions on a real browser, against a small site on {site}", style="bold")
        with Client(adapter="local", store=store) as client:
            stage = Stage(story, client, site, folder, store)
            for number, (title, code, act) in enumerate(_ACTS, 1):
                story.act(number, title, code.format(headless=display() is None))
                _play(stage, act, first=number == 1)
        _tell_log(story, store)
    held = f"All {story.checked}" if not story.failed else f"{story.checked - story.failed} of {story.checked}"
    style = "bold red" if story.failed else "bold green"
    console.print()
    console.print(f"{held} checks held, in {span(time.monotonic() - began)}", style=style)
    if keep is not None:
        hint = f"kept in {keep}; the log again: lifecycle audit log --store {store}"
        console.print(hint, style="dim", soft_wrap=True)
    return 1 if story.failed else 0


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="lifecycle-demo-") as made:
            yield Path(made)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(option="keep", value=str(keep), allowed="an empty folder, or one that is not there yet")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.absolute()


def _play(stage: Stage, act: Callable[[Stage], None], *, first: bool) -> None:
    try:
        act(stage)
    except Exception as e:
        if first and isinstance(e, StartFailed):
            raise  # no browser: there is nothing to show, and the error says how to get one
        lines = str(e).strip().splitlines() or ["no message"]
        stage.story.check(False, f"the act ends without an error, not with {type(e).__name__}: {lines[0]}")


# --- the acts ---------------------------------------------------------------------------------------------------


def _create_use_stop(stage: Stage) -> None:
    screen = display()
    if screen is None:
        stage.story.note("there is no display here, so the browser runs headless")
    else:
        stage.story.note(f"the browser opens a window on {screen}")
    try:
        _use(stage, headless=screen is None)
    except StartFailed as e:
        if screen is None:
            raise
        stage.story.note(f"no window could be opened on {screen}, so the browser runs headless: {e}")
        _use(stage, headless=True)
    _check_cookie_file(stage)


def _use(stage: Stage, *, headless: bool) -> None:
    story, client = stage.story, stage.client
    began = time.monotonic()
    with client.Session(
        headless=headless,
        timeout_minutes=10,
        viewport_width=WIDTH,
        viewport_height=HEIGHT,
        cookie_file=stage.cookie_file,
    ) as session:
        took = span(time.monotonic() - began)
        status = session.status()
        story.check(status.status == "active", f"session {short_id(session.session_id)} is active after {took}")
        listed = [s.session_id for s in client.sessions.list(status="active")]
        story.check(listed == [session.session_id], 'client.sessions.list(status="active") finds it', listed)

        page = session.page
        page.goto(f"{stage.site}/")
        title = page.title()
        story.check(title == TITLE, f'page.goto and page.title: "{title}"')

        page.goto(f"{stage.site}/login")
        page.fill("input[name=user]", USER)
        page.click("button")
        who = page.inner_text("#who")
        story.check(who == f"logged in as {USER}", f'the login form sets a cookie, and the site says "{who}"')

        picture = page.screenshot(path=stage.folder / "screenshot.png")
        width, height = struct.unpack(">II", picture[16:24]) if picture.startswith(b"\x89PNG") else (0, 0)
        claim = f"screenshot.png: {width} by {height} pixels, {len(picture) / 1024:.0f} kB"
        story.check((width, height) == (WIDTH, HEIGHT), claim)
        if not headless:
            page.wait_for_timeout(HEADED_PAUSE)
    _check_end(story, session, State.CLOSED, CloseReason.MANUAL, "stopped at the end of the with block")


def _logged_in_by_cookie_file(stage: Stage) -> None:
    story = stage.story
    with stage.client.Session(cookie_file=stage.cookie_file) as session:
        commit = [r for r in session.history() if r.kind is RecordKind.COMMIT][-1]
        loaded = commit.counts.get("cookies_loaded", 0)
        story.check(loaded >= 1, f"a new browser, and {loaded} cookie loaded from the file", dict(commit.counts))
        who = _ask_who(stage, session)
        story.check(who == f"logged in as {USER}", f'nobody logged in, and the site says "{who}"')
    _check_end(story, session, State.CLOSED, CloseReason.MANUAL, "stopped")


def _times_out(stage: Stage) -> None:
    story = stage.story
    with stage.client.Session(timeout_minutes=TIMEOUT_MINUTES) as session:
        session.wait_ended(LONGEST_WAIT)  # as idle as time.sleep, but it sees the end
        _check_end(story, session, State.TIMED_OUT, CloseReason.IDLE_TIMEOUT, "nobody stopped it, it ended by itself")
        try:
            session.page.title()
        except SessionTimedOut as e:
            told = e.minutes == TIMEOUT_MINUTES
            story.check(told, f"the next use of it raises SessionTimedOut: {e.detail}", e)
        else:
            story.check(False, "the next use of it raises SessionTimedOut", "nothing was raised")


def _body_raises(stage: Stage) -> None:
    story = stage.story
    error = ValueError("Something went wrong!")
    session = stage.client.Session()
    try:
        with session:
            who = _ask_who(stage, session)
            story.check(who == "not logged in", f'no cookie file, so the site says "{who}"')
            raise error
    except ValueError as caught:
        same = caught is error and not getattr(caught, "__notes__", [])
        story.check(same, f"the caller gets its own exception, unchanged: {caught!r}")
    _check_end(story, session, State.CLOSED, CloseReason.MANUAL, "cleaned up all the same")


def _attached_by_id(stage: Stage) -> None:
    story = stage.story
    with stage.client.Session() as owner:
        owner.page.goto(f"{stage.site}/account")
        with Client(adapter="local", store=stage.store) as second:
            guest = second.Session(owner.session_id).start()
            attached = guest.state is State.ACTIVE
            story.check(attached, f"the guest is attached to {short_id(guest.session_id)}", guest.state)
            found = guest.page.url
            story.check(found == owner.page.url, "it sees the page that the owner opened", found)
            guest.stop()
        owner.wait_ended(LONGEST_WAIT)
        claim = "the guest's stop is everyone's, the owner's session ended"
        _check_end(story, owner, State.CLOSED, CloseReason.MANUAL, claim)
        try:
            owner.page.title()
        except SessionClosed:
            story.check(True, "the owner's next use of it raises SessionClosed")
        else:
            story.check(False, "the owner's next use of it raises SessionClosed", "nothing was raised")


_ACTS: Final[Sequence[tuple[str, str, Callable[[Stage], None]]]] = (
    (
        "A session is created, used and stopped",
        (
            "with client.Session(headless={headless}, timeout_minutes=10,\n"
            f"                    viewport_width={WIDTH}, viewport_height={HEIGHT},\n"
            '                    cookie_file="cookies.json") as session:'
        ),
        _create_use_stop,
    ),
    (
        "Another finds itself logged in through the cookie file",
        'with client.Session(cookie_file="cookies.json") as session:',
        _logged_in_by_cookie_file,
    ),
    (
        "One times out while its caller does nothing",
        f"with client.Session(timeout_minutes={TIMEOUT_MINUTES:g}) as session:",
        _times_out,
    ),
    (
        "One whose body raises is closed",
        'with client.Session() as session:\n    raise ValueError("Something went wrong!")',
        _body_raises,
    ),
    (
        "One is attached to by its id",
        "with second_client.Session(session.session_id) as guest:",
        _attached_by_id,
    ),
)


# --- what the acts share ----------------------------------------------------------------------------------------


def _ask_who(stage: Stage, session: Session) -> str:
    session.page.goto(f"{stage.site}/account")
    return session.page.inner_text("#who")


def _check_end(story: Story, session: Session, state: State, reason: CloseReason, claim: str) -> None:
    status = session.status()
    told = f"{status.status}, {status.close_reason}"
    holds = status.status is state and status.close_reason is reason and status.closed_at is not None
    story.check(holds, f"{claim}: {told}, after {span(status.duration)}")


def _check_cookie_file(stage: Stage) -> None:
    from lifecycle.cookies import read_cookie_file  # noqa: PLC0415 - loaded by the session already

    try:
        names = [c.name for c in read_cookie_file(str(stage.cookie_file), now=time.time()).cookies]
        mode = stat.S_IMODE(stage.cookie_file.stat().st_mode)
    except (LifecycleError, OSError) as e:
        stage.story.check(False, "cookies.json was saved", e)
        return
    holds = COOKIE in names and (os.name != "posix" or mode == 0o600)
    stage.story.check(holds, "cookies.json holds the login, for your eyes only", f"{names}, mode {mode:o}")


def _tell_log(story: Story, store: str) -> None:
    opened = open_store(store)
    try:
        records = [record for _, record in opened.records()]
    finally:
        opened.close()
    console = out(table=True)
    story.console.print()
    story.console.print("The transition log of all of them", style="bold")
    print_block(console, records_table(records, console))
    story.console.print()
    ends = sorted(r.attachment_id for r in records if r.terminal)
    everyone = sorted({r.attachment_id for r in records})
    story.check(ends == everyone, f"each of {len(everyone)} attachments ended exactly once in the log")
    story.check(not _open_intents(records), "every intent in it has its outcome")


def _open_intents(records: Sequence[Record]) -> list[Record]:
    """Intents that no commit or diversion of the same attachment and event answers."""
    answers = (RecordKind.COMMIT, RecordKind.DIVERTED)
    answered = {(r.attachment_id, r.event) for r in records if r.kind in answers}
    return [r for r in records if r.kind is RecordKind.INTENT and (r.attachment_id, r.event) not in answered]
