"""No edge waits for an import: a signal that strikes a caller in the middle of one may leave the lock held for good."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import _imp, faulthandler, os, sys
from lifecycle import Client

adapter, when, folder = sys.argv[1:]
faulthandler.dump_traceback_later(30, exit=True)
client = Client(adapter=adapter, store=f"sqlite:///{folder}/log.db")
session = client.Session(cookie_file=f"{folder}/cookies.json")
if when == "start":
    _imp.acquire_lock()
session.start()
session.set_cookies(cookies=[{"name": "sid", "value": "1", "domain": "example.com", "path": "/", "expires": 4e9}])
if when == "stop":
    _imp.acquire_lock()
if when == "by id":
    _imp.acquire_lock()
    client.sessions.stop(session.session_id)
session.stop()
session.history()
print(session.state, os.path.getsize(f"{folder}/cookies.json") > 50)
os._exit(0)
"""


@pytest.mark.parametrize("when", ["start", "stop", "by id"])
@pytest.mark.parametrize("adapter", ["memory", "local"])
def test_a_held_import_lock_holds_no_edge(adapter: str, when: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, adapter, when, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "closed True\n", "")
