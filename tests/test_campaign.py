"""The fault campaign on fakes: see `campaign`."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

import pytest
from campaign import CELLS, FAULTS, KILLS, TOKEN, WRITES, each_in_a_folder, killed, live, pairs, slice_of
from mutants import MUTANTS, ROOT, caught_by
from server_rig import running
from what_happens import table

from lifecycle.states import EDGES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="POSIX signals")]

PARTS = 16

GUESTS_VIEWER = ("attach: not_started -> active", "open_viewer")
"""A guest has no live view opened, so the step has nothing to do there."""


def test_the_cells_are_made_from_the_table():
    """A new edge, step or fault is in it; the floor keeps what is there from being lost unseen."""
    steps = {(edge.name, step) for edge in EDGES for step in [*edge.steps, *(WRITES if edge.steps else ())]}
    assert {(cell.edge.name, cell.step) for cell in CELLS} == steps - {GUESTS_VIEWER}
    by_fault = Counter(cell.fault for cell in CELLS)
    for fault in FAULTS:
        print(f"{by_fault[fault]:5}  {fault}")
    print(f"{len(CELLS):5}  cells: (edge, story, step, side, fault, API) on fakes")
    assert set(by_fault) == set(FAULTS)
    assert len(set(CELLS)) == len(CELLS) >= 1_900


def lived(part, cells, folder, counted):
    each_in_a_folder(cells, folder, lambda cell, life: live(cell, life).check(life))
    counted(part, cells)


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.campaign] if part % 2 else []) for part in range(PARTS)]
)
def test_every_edge_meets_every_fault_at_every_step(part, tmp_path, counted):
    lived("B: each fault at each step, on fakes", slice_of(CELLS, part, PARTS), tmp_path, counted)


TWO = "D: two faults in one edge"


@pytest.mark.parametrize("seed", range(2))
def test_a_second_fault_follows_the_first(seed, tmp_path, counted):
    lived(TWO, pairs(150, seed), tmp_path, counted)


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(10))
def test_a_second_fault_follows_the_first_many_times(part, tmp_path, counted):
    lived(TWO, pairs(5_000, 2)[part::10], tmp_path, counted)


# --- an owner that is killed --------------------------------------------------------------------------------------

IN_EACH_RUN = {"memory": 18, "service": 10, "local": 4}
AT_LEAST = {"memory": 750, "service": 750, "local": 250}
KILL_PARTS = 10


def kills_of(backend):
    return slice_of([kill for kill in KILLS if kill.backend == backend], 0, 1)


def test_the_kills_are_made_from_the_table():
    for backend, floor in AT_LEAST.items():
        kills = kills_of(backend)
        print(f"{len(kills):5}  kills of an owner on {backend}")
        assert len(set(kills)) == len(kills) >= floor


def recovered(kills, folder, counted):
    """What the service knows is over too, at the end."""
    backend, lived = kills[0].backend, []
    served = running(token=TOKEN, adapter="memory", store="memory:")
    with served if backend == "service" else contextlib.nullcontext() as up:
        service = up.url if up is not None else ""
        each_in_a_folder(kills, folder, lambda kill, life: killed(kill, life, service) and lived.append(kill))
        if up is not None:
            assert up.http.get("/sessions/", params={"only_active": True}).json()["items"] == []
    assert len(lived) >= 0.8 * len(kills), "nearly all of them left something to recover"
    counted(f"F: SIGKILL of the owner at each step and write, {backend}", lived)


@pytest.mark.parametrize(("backend", "count"), IN_EACH_RUN.items())
def test_what_an_owner_leaves_that_is_killed_at_some_steps(backend, count, tmp_path, counted):
    recovered(kills_of(backend)[:count], tmp_path, counted)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(KILL_PARTS))
@pytest.mark.parametrize(("backend", "count"), IN_EACH_RUN.items())
def test_what_an_owner_leaves_that_is_killed_at_each_step(backend, count, part, tmp_path, counted):
    recovered(kills_of(backend)[count:][part::KILL_PARTS], tmp_path, counted)


@pytest.mark.parametrize("api", ["sync", "async"])
def test_the_readme_says_what_happens(api):
    assert table(api) in (ROOT / "README.md").read_text(), "tests/what_happens.py prints it"


@pytest.mark.parametrize("path", ["lifecycle/journal.py", "lifecycle/cookies/atomic.py"])
def test_a_planted_bug_is_caught(path):
    """Some of them; `make mutants` tries all."""
    mutant = next(m for m in MUTANTS if m.path == path)
    assert caught_by(mutant) is not None
