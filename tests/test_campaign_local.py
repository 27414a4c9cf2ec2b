"""The fault campaign on Chromium: cells of `campaign`, lived on the local adapter with a clock that stands still."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from campaign import CELLS, Cell, World, _cookie_disk, _live, each_in_a_folder, slice_of
from waiting import until

from lifecycle.engine import supervisor
from lifecycle.states import EDGES, STEPS, Step
from lifecycle_adapters.local import LocalAdapter, procs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from lifecycle.config import SessionOptions
    from lifecycle.ports import Backend, Host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="counts the browser's processes in /proc, which is Linux's"),
]

LOCAL = slice_of(CELLS, 0, 1)
"""All of them can strike here; in an order in which any stretch has some of everything."""

IN_EACH_RUN = 40
PARTS = 40


class Watched(LocalAdapter):
    """A local adapter that counts what it opened and what was released, as the memory adapter does."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.released: list[str] = []
        self._browsers: dict[str, int] = {}

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> Backend:
        backend: Any = await super().open(session_id, options, host)
        self.opened.append(session_id)
        self._browsers[session_id] = backend.pid
        release = backend.release

        async def told(**how: float) -> None:
            await release(**how)
            if session_id not in self.released:  # to release again is allowed
                self.released.append(session_id)

        backend.release = told
        return backend

    @property
    def live(self) -> list[str]:
        """The sessions any process of whose browser runs, released or not."""
        return [session_id for session_id, pid in self._browsers.items() if not procs.group_ended(pid)]

    def crash(self, session_id: str) -> None:
        os.kill(self._browsers[session_id], signal.SIGKILL)


class LocalWorld(World):
    """A world with a Chromium."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        super().__init__(cell, folder)
        self.adapter: Any = Watched()

    def _pass_time(self) -> None:
        """The budget of the step that hangs, once: the browser needs real time for those that follow."""
        self.clock.advance(STEPS[Step(self.cell.step)].budget + 0.1)


def live(cell: Cell, folder: Path) -> None:
    tasks = len(supervisor()._tasks)
    world = LocalWorld(cell, folder)
    with _cookie_disk(world):
        _live(world)
    until(lambda: len(supervisor()._tasks) <= tasks)
    world.check(folder)


def lived(cells: Sequence[Cell], folder: Path, counted: Callable[[str, Iterable[object]], None]) -> None:
    each_in_a_folder(cells, folder, live)
    counted("B: each fault at each step, on Chromium", cells)


@pytest.fixture(autouse=True)
def _no_display(monkeypatch):
    """A window would leave the step that shows the live view with nothing to do."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_each_run_has_some_of_everything():
    cells = LOCAL[:IN_EACH_RUN]
    assert {(c.edge.event, c.edge.source) for c in cells} == {(e.event, e.source) for e in EDGES if e.steps}
    assert len(Counter(c.fault for c in cells)) >= 12
    assert {c.api for c in cells} == {"sync", "async"}


@pytest.mark.parametrize("part", range(4))
def test_some_edges_meet_some_faults_on_chromium(part, tmp_path, counted):
    lived(LOCAL[:IN_EACH_RUN][part::4], tmp_path, counted)


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_edge_meets_every_fault_on_chromium(part, tmp_path, counted):
    lived(LOCAL[IN_EACH_RUN:][part::PARTS], tmp_path, counted)
