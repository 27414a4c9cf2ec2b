"""Real signals: SIGINT at moments nobody chose, SystemExit out of a handler, and a handler that stops the session.

What runs under the signals is in signals_child.py, in processes of its own.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import children
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def child(what: str, **arguments: object) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "signals_child", what, json.dumps(arguments, default=str)],
        env=children.environment(struck=True), capture_output=True, text=True, timeout=children.BOUND, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if what != "abatch":
        assert done.stderr == ""
    # An event loop that was struck in its making complains when it is dropped; of ours nobody may.
    assert "lifecycle" not in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "seed"), [("KeyboardInterrupt", n) for n in range(4)] + [("SystemExit", 4)])
def test_a_signal_at_any_moment(kind, seed, tmp_path):
    seen = child("batch", adapter="slow", seed=seed, count=50, kind=kind, folder=tmp_path)
    print(f"seed {seed}: 50 {kind} by a real SIGINT: {seen}")
    assert sum(seen.values()) == 50
    assert seen["start"] and seen["body"] and seen["stop"]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "page"), [(7, False), (8, True)])
def test_a_signal_at_any_moment_with_a_browser(seed, page, tmp_path, run_folder):
    seen = child("batch", adapter="local", seed=seed, count=5, kind="KeyboardInterrupt", folder=tmp_path, page=page)
    print(f"seed {seed}: 5 KeyboardInterrupt by a real SIGINT, {'with' if page else 'without'} a page: {seen}")
    assert sum(seen.values()) == 5
    assert children.left_running(str(run_folder)) == []


@pytest.mark.parametrize("seed", [5, 6])
def test_a_signal_at_any_moment_of_a_task(seed, tmp_path):
    seen = child("abatch", adapter="slow", seed=seed, count=50, folder=tmp_path)
    print(f"seed {seed}: 50 real SIGINTs to asyncio.run: {seen}")
    assert sum(seen.values()) == 50
    assert seen["start"] and seen["body"] and seen["stop"]


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_ends_a_program_as_it_ends_any(seed, tmp_path):
    """Nobody catches it: the process dies of SIGINT, with its session torn down and the cookies saved."""
    arguments = json.dumps({"adapter": "slow", "folder": str(tmp_path)})
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "signals_child", "once", arguments],
        env=children.environment(struck=True), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            until = "making" if seed % 2 else "body"
            for line in process.stdout:
                if line.strip() == until:
                    break
            time.sleep(random.Random(seed).uniform(0, 0.02))  # the moment that is tried, not a wait for anything
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=children.BOUND)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == -signal.SIGINT, err
    assert err.strip().endswith("KeyboardInterrupt"), err
    assert "Exception ignored" not in err
    assert err.count("Traceback") == 1, err
    check_log(tmp_path, active=until == "body" or "body" in out)


def check_log(folder, *, active: bool) -> None:
    with sqlite3.connect(folder / "log.db") as db:
        rows = db.execute("SELECT attachment_id, source, dest, body FROM records WHERE terminal").fetchall()
        begun = db.execute("SELECT DISTINCT attachment_id FROM records").fetchall()
    db.close()
    assert sorted(row[:1] for row in rows) == sorted(begun)
    assert collections.Counter(row[2] for row in rows) == collections.Counter(["closed"] * len(begun))
    if active:
        cookies = json.loads((folder / "cookies.json").read_text())["cookies"]
        assert [c["name"] for c in cookies] == ["mine"]


@pytest.mark.parametrize(("seed", "hooked"), [(0, False), (1, False), (2, True)])
def test_a_handler_that_stops_the_session_never_deadlocks(seed, hooked):
    seen = child("stopping_handler", seed=seed, count=500, hooked=hooked)
    print(f"a handler that calls stop(), by what its thread was doing: {seen}")
    assert seen.pop("struck") == 500
    assert len(seen) >= 4
