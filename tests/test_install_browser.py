"""The way to a browser: what is there first, each further way within its limits, and an error that helps."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from lifecycle.cli import install_browser as ib
from lifecycle.errors import StartFailed

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = ib.Result(code=0)


@dataclass(frozen=True)
class Browser:
    path: str
    source: str = "a fake"


@dataclass
class Machine:
    """A machine without a browser; `gives` names the commands after which one is there."""

    gives: str = "never"
    works: bool = True
    failing: tuple[str, ...] = ()
    there: bool = False
    ran: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def find(self) -> Browser:
        if not self.there:
            raise StartFailed("none")
        return Browser("/browser")

    def run(self, command: Sequence[str], way: ib.Way) -> ib.Result:
        assert way.seconds > 0
        text = " ".join(command)
        self.ran.append(text)
        if text == "/browser --version":
            return OK if self.works else ib.Result(code=127, lines=("libnss3.so: cannot open shared object file",))
        if any(word in text for word in self.failing):
            return ib.Result(code=100, lines=("E: no such package",))
        self.there = self.there or self.gives in text
        return OK

    def install(self, *names: str, quiet: bool = False) -> ib.Found:
        ways = ib.ways_here(which=lambda name: name if name in names else None)
        return ib.install_browser(echo=self.said.append, quiet=quiet, find=self.find, run=self.run, ways=ways)


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMIUM_PATH", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_browser_that_is_there_is_taken_and_nothing_is_installed() -> None:
    machine = Machine(there=True)
    assert machine.install("apt-get").path == "/browser"
    assert machine.ran == ["/browser --version"]
    assert machine.said == ["browser: /browser (a fake)"]


def test_quiet_says_nothing_when_a_browser_is_there() -> None:
    machine = Machine(there=True)
    machine.install(quiet=True)
    assert machine.said == []


def test_playwrights_download_comes_first() -> None:
    machine = Machine(gives="playwright install")
    machine.install("apt-get")
    assert not any("apt-get" in command for command in machine.ran)


def test_the_packages_come_when_the_download_fails_even_with_stale_lists() -> None:
    machine = Machine(gives="install -y --no-install-recommends chromium", failing=("playwright", "update"))
    machine.install("apt-get")
    kinds = [next(w for w in ("playwright", "update", "install -y", "--version") if w in c) for c in machine.ran]
    assert kinds == ["playwright", "update", "install -y", "--version"]


def test_a_browser_that_lacks_its_libraries_does_not_count() -> None:
    machine = Machine(gives="playwright install", works=False)
    with pytest.raises(StartFailed) as caught:
        machine.install()
    assert "libnss3.so" in str(caught.value)


def test_the_error_names_each_thing_tried_and_what_to_do() -> None:
    machine = Machine(failing=("playwright", "apt-get"))
    with pytest.raises(StartFailed) as caught:
        machine.install("apt-get", "dnf")
    text = str(caught.value)
    assert caught.value.step == "install_browser"
    for part in ("Playwright's download did not work", "E: no such package", "by dnf was installed"):
        assert part in text
    assert "as root: apt-get" in text
    assert "CHROMIUM_PATH" in text
    assert "trying Playwright's download" in machine.said[0]


def test_a_chosen_browser_that_does_not_run_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM_PATH", "/chosen")
    machine = Machine(gives="playwright install")
    with pytest.raises(StartFailed, match="CHROMIUM_PATH is /chosen"):
        machine.install("apt-get")
    assert machine.ran == []


def test_without_root_sudo_never_asks_where_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(ib.shutil, "which", lambda _name: "sudo")
    monkeypatch.setattr(ib.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("CI", "true")
    assert ib.as_root(("apt-get", "update"), {"A": "b"}) == ("sudo", "-n", "env", "A=b", "apt-get", "update")
    monkeypatch.delenv("CI")
    assert ib.as_root(("apk", "add"), {}) == ("sudo", "apk", "add")
    monkeypatch.setattr(ib.sys.stdin, "isatty", lambda: False, raising=False)
    assert ib.as_root(("apk", "add"), {}) == ("sudo", "-n", "apk", "add")


def test_without_root_and_sudo_the_command_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(ib.shutil, "which", lambda _name: None)
    machine = Machine(failing=("playwright",))
    with pytest.raises(StartFailed, match="it needs root, and there is no sudo"):
        machine.install("apt-get")
    assert not any("apt-get" in command for command in machine.ran)


def test_a_silent_command_is_ended_with_what_it_started() -> None:
    way = ib.Way(name="hangs", commands=(), seconds=60, silent=0.3)
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    began = time.monotonic()
    result = ib.run_command((sys.executable, "-c", script), way)
    assert time.monotonic() - began < 20
    assert result.code is None
    assert "printed nothing for 0.3 s" in result.reason
    with pytest.raises(ProcessLookupError):
        _wait_gone(int(result.lines[0]))


def test_a_chatty_command_is_ended_at_its_limit() -> None:
    way = ib.Way(name="chatters", commands=(), seconds=0.7, silent=5)
    script = "import time\nwhile True: print('still here', flush=True); time.sleep(0.05)"
    result = ib.run_command((sys.executable, "-c", script), way)
    assert result.reason == "ended after 0.7 s"
    assert result.lines


def test_what_a_command_leaves_running_does_not_hold_the_installer() -> None:
    way = ib.Way(name="leaves a child", commands=(), seconds=60)
    script = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)"
    began = time.monotonic()
    result = ib.run_command((sys.executable, "-c", script), way)
    took = time.monotonic() - began
    os.kill(int(result.lines[0]), 9)
    for thread in threading.enumerate():
        if thread.name == "lifecycle-install-output":
            thread.join(10)
    assert took < 20
    assert result.ok


def test_a_command_has_no_input_and_its_failure_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()  # somebody who never answers
    own = os.dup(0)
    os.dup2(read, 0)
    try:
        result = ib.run_command((sys.executable, "-c", "input()"), ib.Way(name="asks", commands=(), seconds=5))
    finally:
        os.dup2(own, 0)
        for fd in (read, write, own):
            os.close(fd)
    assert result.code == 1
    assert "EOFError" in str(result)
    assert ib.run_command(("no-such-command",), ib.Way(name="is not there", commands=())).reason
    assert capfd.readouterr().out == ""


def test_main_says_why_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none() -> Browser:
        raise StartFailed("none")

    monkeypatch.setattr(ib, "_find_browser", none)
    monkeypatch.setattr(ib, "ways_here", lambda: (ib.Way(name="the download", commands=(("no-such-command",),)),))
    assert ib.main(["--quiet"]) == 1
    assert "the download did not work" in capsys.readouterr().err


def _wait_gone(pid: int) -> None:
    """Signal 0 to `pid` until there is no such process (init may need a moment to bury it)."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        os.kill(pid, 0)
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    raise ProcessLookupError
        except FileNotFoundError as e:
            if sys.platform == "linux":
                raise ProcessLookupError from e
        time.sleep(0.01)
