"""The table "What happens when" of the README: what a few cells of the fault campaign came to.

    python tests/what_happens.py

prints it. Nothing in it is written by hand but the words for a fault.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Final

from campaign import CELLS, KILLED, Cell, Kill, World, killed, live, names_in, rescued

from lifecycle.states import Event, State, Step
from lifecycle.stores import open_store

_START: Final = (Event.START, "life")
_STOP: Final = (Event.STOP, "life")
_IDLE: Final = (Event.EXPIRE, "idle life")
_BAD_HOOK: Final = (Event.FAIL, "life with a bad hook")

ROWS: Final = (
    ("No browser comes up", _START, "raise ours", "before", Step.OPEN_BACKEND),
    ("The browser does not come up in time", _START, "hang", "before", Step.OPEN_BACKEND),
    ("The browser crashes as it gets its cookies", _START, "crash", "before", Step.LOAD_COOKIES),
    ("Ctrl-C while the browser comes up", _START, "KeyboardInterrupt", "after", Step.OPEN_BACKEND),
    ("The disk of the log is full as a session starts", _START, "disk full", "before", "the intent"),
    ("A hook after the start raises", _BAD_HOOK, "disk full for a while", "after", Step.RELEASE_BACKEND),
    ("Its connections hang after its idle timeout", _IDLE, "hang", "before", Step.CLOSE_CONNECTIONS),
    ("The browser crashes as the session is stopped", _STOP, "crash", "before", Step.SAVE_COOKIES),
    ("Ctrl-C while the session is stopped", _STOP, "KeyboardInterrupt", "before", Step.SAVE_COOKIES),
    ("`sys.exit` in a signal handler while it is stopped", _STOP, "SystemExit", "after", Step.SAVE_COOKIES),
    ("The disk of the cookie file is full", _STOP, "cookie disk full", "before", Step.SAVE_COOKIES),
    ("The disk of the cookie file hangs", _STOP, "cookie disk hangs", "before", Step.SAVE_COOKIES),
    ("The connections can't be closed", _STOP, "raise ours", "before", Step.CLOSE_CONNECTIONS),
    ("The release fails the first time", _STOP, "raise ours", "before", Step.RELEASE_BACKEND),
    ("The disk of the log is full as it is stopped", _STOP, "disk full", "before", "the intent"),
    ("The database of the log vanishes as it is stopped", _STOP, "store vanished", "before", "the commit"),
    ("The process is killed as the browser comes up", _START, "SIGKILL", "after", Step.OPEN_BACKEND),
    ("The process is killed before the cookies are saved", _STOP, "SIGKILL", "before", Step.SAVE_COOKIES),
    ("The process is killed once they are saved", _STOP, "SIGKILL", "after", Step.SAVE_COOKIES),
)  # fmt: skip
"""What a row says, the edge and its story, and the fault, side and step of its cell."""

HEAD: Final = "| What happens | State | Cookie file | Browser | Your code gets |\n|---|---|---|---|---|\n"


def cell_of(row: tuple[str, tuple[Event, str], str, str, Step | str], api: str) -> Cell:
    """The cell of a row."""
    _, (event, story), fault, side, step = row
    key = (event, story, fault, side, step, api)
    (cell,) = (c for c in (*CELLS, *KILLED) if (c.edge.event, c.story, c.fault, c.side, c.step, c.api) == key)
    return cell


def _lived(world: World) -> tuple[str, str, str, str]:
    (session,) = world.attachments.values()
    status = session._att.status()
    if names_in(world.cookie_file) == {"old", "new"}:
        cookies = "saved"
    elif rescued(world):
        cookies = "as it was; the session's are in a rescue file, which the error names"
    else:
        cookies = "as it was"
    browser = "released" if world.adapter.opened else "never opened"
    error = world.raised
    return f"`{status.status}`, {status.close_reason}", cookies, browser, f"`{type(error).__name__}`" if error else "-"


def _killed(folder: Path) -> tuple[str, str, str, str]:
    with contextlib.closing(open_store(f"sqlite:///{folder / 'log.db'}")) as store:
        (row,) = (row for row in store.sessions() if row.state is State.ERROR)
    cookies = "saved" if names_in(folder / "cookies.json") == {"old", "new"} else "as it was"
    return f"`{row.state}`, {row.close_reason}", cookies, "released, by the next client", "-"


def outcome(row: tuple[str, tuple[Event, str], str, str, Step | str], api: str) -> tuple[str, str, str, str]:
    """State, cookies, browser and what the caller gets, after the cell of a row."""
    cell = cell_of(row, api)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if cell.fault == "SIGKILL":
            killed(Kill(cell, "memory"), folder)
            return _killed(folder)
        world = live(cell, folder)
        told = _lived(world)
        world.check(folder)
        return told


def table(api: str) -> str:
    """The table, as Markdown."""
    return HEAD + "".join(f"| {row[0]} | {' | '.join(outcome(row, api))} |\n" for row in ROWS)


if __name__ == "__main__":
    print(table("sync"))
