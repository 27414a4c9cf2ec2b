"""The fault campaign on a real Chromium: see `chromium_lives`."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from chromium_lives import (
    CELLS,
    KINDS,
    MOMENTS,
    QUICK,
    SIGNALS,
    STOPPED,
    lived,
    tmpfs_can_be_mounted,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for the browser's processes in /proc, which is Linux's"),
]

PART = "H: a real Chromium"

EACH_RUN = [*QUICK[:54], *STOPPED[:6]]
REST = [*QUICK[54:], *STOPPED[6:]]
PARTS, MANY = 6, 20


def live(cells, counted):
    """Those whose disk is filled are left out where no disk can be mounted."""
    may = [cell for cell in cells if cell.how != "disk full" or tmpfs_can_be_mounted()]
    lived(may)
    counted(PART, may)


def test_each_run_has_some_of_everything():
    assert {cell.what for cell in EACH_RUN} >= {"browser", *KINDS, "driver", "descriptors"}
    assert {cell.how for cell in EACH_RUN} >= {*SIGNALS, "disk full"}
    assert {cell.when for cell in EACH_RUN} == {*MOMENTS}
    assert {cell.api for cell in EACH_RUN} == {"sync", "async"}
    for kind, count in sorted(Counter(cell.what for cell in CELLS).items()):
        print(f"{count:5}  {kind}")
    assert len(set(CELLS)) == len(CELLS) >= 440


@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(PARTS))
def test_some_processes_are_struck_at_some_moments(part, counted):
    live(EACH_RUN[part::PARTS], counted)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(MANY))
def test_each_process_is_struck_at_each_moment(part, counted):
    live(REST[part::MANY], counted)


def test_no_cell_is_lost():
    assert {*EACH_RUN, *REST} == set(CELLS)
