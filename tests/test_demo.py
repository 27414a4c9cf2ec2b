"""The demo: on a real browser it shows all five sessions and every claim holds; a claim that does not fails it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lifecycle import StartFailed
from lifecycle.audit import RecordKind
from lifecycle.cli import demo, main, site
from lifecycle.cli.machine import display
from lifecycle.states import State
from lifecycle.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifecycle.cli.demo import Stage


def run_demo(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    without = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "lifecycle.cli", "demo", *args],
        env={**without, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac always has a display, so there the demo opens a window")
def test_every_claim_holds_on_a_real_browser(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run = run_demo("--keep", str(kept), env={"COLUMNS": "80"})
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    lines = run.stdout.splitlines()
    table = lines.index("The transition log of all of them")
    assert max(map(len, lines[: table + 40])) <= 80
    assert [line[:2] for line in lines if re.match(r"\d  [A-Z]", line)] == ["1 ", "2 ", "3 ", "4 ", "5 "]
    claims = [line for line in lines if line.startswith("  ✓ ")]
    assert f"All {len(claims)} checks held" in run.stdout
    assert len(claims) >= 20
    assert "✗" not in run.stdout
    assert "there is no display here" in run.stdout

    store = open_store(f"sqlite:///{kept / 'lifecycle.db'}")
    rows, records = list(store.sessions())[::-1], [record for _, record in store.records()]
    store.close()
    ends = [(row.state, row.close_reason, row.released) for row in rows]
    manual = (State.CLOSED, "manual", True)
    assert ends == [manual, manual, (State.TIMED_OUT, "idle_timeout", True), manual, manual]
    assert sum(record.terminal for record in records) == 6
    rows_shown = [line for line in lines[table:] if re.match(r"\d\d:\d\d:\d\d\.\d{3} [0-9a-f]{8} ", line)]
    assert len(rows_shown) == len(records)

    assert (kept / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    cookies = json.loads((kept / "cookies.json").read_text())["cookies"]
    assert [(c["name"], c["value"]) for c in cookies] == [(site.COOKIE, demo.USER)]

    again = run_demo("--keep", str(kept))
    assert again.returncode == 2
    assert "an empty folder" in again.stderr
    assert again.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there a display can be named that does not exist")
def test_a_display_that_opens_no_window_is_told_and_the_demo_goes_on_headless() -> None:
    run = run_demo(env={"DISPLAY": ":99"})
    assert run.returncode == 0, run.stdout
    assert "no window could be opened on DISPLAY=:99, so the browser runs headless" in run.stdout.replace("\n    ", " ")
    assert "Session(headless=False," in run.stdout
    assert "each of 7 attachments ended exactly once" in run.stdout


def test_without_a_browser_it_says_how_to_get_one(tmp_path: Path) -> None:
    run = run_demo(env={"CHROMIUM_PATH": str(tmp_path / "none")})
    assert run.returncode == 3
    assert run.stderr.startswith("lifecycle: ")
    assert "Traceback" not in run.stderr
    assert "2  Another" not in run.stdout, "there is nothing to show"


@pytest.mark.slow
def test_a_site_that_sets_no_cookie_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forget(self: site._Handler) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(303)
        self.send_header("Location", "/account")
        self.end_headers()

    monkeypatch.setattr(site._Handler, "do_POST", forget)
    monkeypatch.setattr(demo, "display", lambda: None)
    assert main(["demo"]) == 1
    printed = capsys.readouterr().out
    failed = [line for line in printed.splitlines() if line.startswith("  ✗ ")]
    assert len(failed) == 4, "the greeting and the cookie file, the loaded cookie and the greeting after it"
    assert sum('"not logged in"' in line for line in failed) == 2
    assert "5  One is attached to" in printed
    assert re.search(r"(\d+) of \d+ checks held", printed)
    assert not list(Path(tempfile.gettempdir()).glob("lifecycle-demo-*")), "nothing is kept unasked"


# --- with acts of our own, which need no browser ----------------------------------------------------------------


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*acts: Callable[[Stage], None]) -> tuple[int, str, str]:
        monkeypatch.setattr(demo, "_ACTS", [(f"Act {n}", "code()", act) for n, act in enumerate(acts, 1)])
        code = main(["demo"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def holds(stage: Stage) -> None:
    stage.story.check(True, "it holds")


def test_a_claim_that_does_not_hold_tells_what_was_found(play: Callable[..., tuple[int, str, str]]) -> None:
    code, printed, _ = play(lambda stage: stage.story.check(False, "two is three", 2), holds)
    assert code == 1
    assert "✗ two is three, but found: 2" in printed
    assert "✓ it holds" in printed


def test_an_act_that_raises_fails_the_demo_and_the_next_is_played(play: Callable[..., tuple[int, str, str]]) -> None:
    def breaks(stage: Stage) -> None:
        raise RuntimeError("the page\nis gone")

    code, printed, err = play(holds, breaks, holds)
    assert (code, err) == (1, "")
    assert "not with RuntimeError: the page" in printed
    assert printed.count("✓ it holds") == 2


def test_only_the_first_start_that_fails_ends_the_demo(play: Callable[..., tuple[int, str, str]]) -> None:
    def fails(stage: Stage) -> None:
        raise StartFailed("no browser; run this")

    code, printed, err = play(fails, holds)
    assert (code, err) == (3, "lifecycle: no browser; run this\n")
    assert "it holds" not in printed
    code, printed, err = play(holds, fails)
    assert (code, err) == (1, "")


def test_the_log_itself_is_checked(play: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFECYCLE_ADAPTER", "memory")

    def use(stage: Stage) -> None:
        from lifecycle import Client

        with Client(adapter="memory", store=stage.store) as client, client.Session():
            holds(stage)

    assert play(use)[0] == 0
    real = open_store

    class Forgetful:
        """A store that has lost every end."""

        def __init__(self, spec: str) -> None:
            self.store = real(spec)
            self.close = self.store.close

        def records(self) -> list[tuple[int, object]]:
            return [(n, r) for n, r in self.store.records() if not r.terminal]

    monkeypatch.setattr(demo, "open_store", Forgetful)
    code, printed, _ = play(use)
    assert code == 1
    assert "✗ each of 1 attachments ended exactly once in the log" in printed
    assert "✗ every intent in it has its outcome" in printed
    assert RecordKind.INTENT in printed


def test_a_display_is_what_the_local_adapter_takes_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from lifecycle_adapters.local.launch import display_exists

    for x11, wayland in (("", ""), (":0", ""), ("", "wayland-0"), (":0", "wayland-0")):
        for platform in ("linux", "darwin"):
            monkeypatch.setattr(sys, "platform", platform)
            monkeypatch.setenv("DISPLAY", x11)
            monkeypatch.setenv("WAYLAND_DISPLAY", wayland)
            assert (display() is not None) == display_exists()
