"""The tests of a pretend project, on one kind of browser after the other: nothing but the option differs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from planted import TOKEN
from server_rig import running

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent / "pretend"
TESTS = 40
PAGES = 8


def swapped(adapter: str, **env: str) -> tuple[dict[str, int], float, str]:
    """The tests of the project on an adapter: how many passed, ..., in how many seconds, and all that was printed."""
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "--lifecycle-adapter", adapter]
    for plugin in ("schemathesis", "hypothesispytest", "playwright"):
        command += ["-p", f"no:{plugin}"]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) ([a-z]+)", last)}
    return counts, float(re.findall(r"in ([\d.]+)s", last)[0]), done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_all_pass_on_each_and_only_pages_are_left_out_on_memory(record_property):
    with running(adapter="local", store="memory:") as server:
        env = {"NOTTE_API_URL": server.url, "NOTTE_API_KEY": TOKEN}
        ran = {"memory": swapped("memory"), "local": swapped("local"), "remote": swapped("remote", **env)}
    for name, (counts, seconds, _) in ran.items():
        faster = ran["local"][1] / seconds
        record_property("swapped", f"{name:7} {seconds:6.2f} s, {faster:5.1f} times as fast as local  {counts}")
    assert ran["memory"][0] == {"passed": TESTS - PAGES, "skipped": PAGES}, ran["memory"][2]
    assert ran["local"][0] == {"passed": TESTS}, ran["local"][2]
    assert ran["remote"][0] == {"passed": TESTS}, ran["remote"][2]
    assert "needs pages, which the memory adapter does not have" in ran["memory"][2]
