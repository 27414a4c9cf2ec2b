"""What the tests in frameworks share: a state folder of the run's own, a site on loopback, and a look for leftovers."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]  # readme, and loopback_site

GRACE = 10.0
"""Seconds in which what a test has ended may still go away."""


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory):
    """Folder for state and temporary files of this run: short, since paths of sockets are bounded."""
    folder = Path(tempfile.mkdtemp(prefix="lf-"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LIFECYCLE_ADAPTER", "NOTTE_API_KEY", "NOTTE_API_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("LIFECYCLE_STORE", f"sqlite:///{folder / 'lifecycle.db'}")
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield folder


def browsers(folder: Path) -> list[str]:
    """Command lines of the browsers whose profile lies in `folder`: those that a session of this run has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder) in command and "--type=" not in command and path.name != str(os.getpid()) and "chrom" in command:
            found.append(f"{path.name} {command[:120]}")
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(run_folder):
    """Fails a test that leaves a browser of ours running."""
    yield
    until = time.monotonic() + GRACE
    while (left := browsers(run_folder)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def site():
    """The site of `loopback_site`, for the whole run."""
    from loopback_site import Site

    server = Site()
    yield server
    server.stop()


@pytest.fixture
def running(run_folder):
    """A function that tells how many browsers of ours run now."""
    return lambda: len(browsers(run_folder))
