"""Finds a browser, or gets one: what is there already, then Playwright's download, then the system's packages.

Rule: nothing waits without a limit and nothing asks for a password where nobody can answer. Each way that was tried
is told in a line of its own, and a failure ends with what the user can do. A browser counts only once it has run.

`make demo` and `make test` call this as a module; ``lifecycle install-browser`` calls `install_browser`.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

from lifecycle.errors import StartFailed

__all__ = ["Found", "Result", "Way", "as_root", "install_browser", "main", "run_command", "ways_here"]

_TAIL: Final = 4
"""How many of a failed command's last lines are shown."""

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")

_GRACE: Final = 10.0
"""Seconds between asking a command to end and ending it."""


class Found(Protocol):
    """A browser that was found, such as `lifecycle_adapters.local.find.FoundBrowser`."""

    @property
    def path(self) -> str:
        """The executable."""
        ...

    @property
    def source(self) -> str:
        """Where it was found, in words."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to get a browser.

    Attributes:
        name: What it is, for people.
        commands: Run in this order, without sudo. The last one decides: lists of packages may be half out of reach.
        root: They need the rights of the system's administrator.
        seconds: Longest time for each command.
        silent: Longest time in seconds in which a command may print nothing; None for no such limit.
        env: Set in their environment.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    root: bool = False
    seconds: float = 900.0
    silent: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended.

    Attributes:
        code: Its exit code; None when it could not be started or was ended at a limit.
        lines: The end of what it printed, both streams.
        reason: Why there is no exit code, else empty.
    """

    code: int | None
    lines: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    def __str__(self) -> str:
        said = [line for line in self.lines if not line.startswith(("at ", "{", "}"))]  # no traces of Node.js
        return "\n      ".join([self.reason or f"exit code {self.code}", *said[-_TAIL:]])


Run = Callable[[Sequence[str], Way], Result]

_ASK_VERSION: Final = Way(name="asking for the version", commands=(), seconds=30.0)

_PLAYWRIGHT: Final = Way(
    name="Playwright's download",
    commands=((sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"),),
    silent=60.0,  # it tells each tenth of about 170 MB
    env={"PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "10000"},  # milliseconds for each of its hosts
)

_APT: Final = (
    "apt-get",
    "-o",
    "Acquire::Retries=1",
    "-o",
    "Acquire::http::Timeout=30",
    "-o",
    "DPkg::Lock::Timeout=120",
)

_PACKAGES: Final[Mapping[str, Way]] = {
    "apt-get": Way(
        name="the package chromium, by apt-get",
        commands=((*_APT, "update"), (*_APT, "install", "-y", "--no-install-recommends", "chromium")),
        root=True,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    ),
    "dnf": Way(name="the package chromium, by dnf", commands=(("dnf", "install", "-y", "chromium"),), root=True),
    "zypper": Way(
        name="the package chromium, by zypper",
        commands=(("zypper", "--non-interactive", "install", "chromium"),),
        root=True,
    ),
    "pacman": Way(
        name="the package chromium, by pacman",
        commands=(("pacman", "-Sy", "--noconfirm", "--needed", "chromium"),),
        root=True,
    ),
    "apk": Way(name="the package chromium, by apk", commands=(("apk", "add", "--no-cache", "chromium"),), root=True),
    # Homebrew refuses to run as root, and its Chromium is not signed, so macOS would not open it.
    "brew": Way(name="Google Chrome, by Homebrew", commands=(("brew", "install", "--cask", "google-chrome"),)),
}


def ways_here(*, which: Callable[[str], str | None] = shutil.which) -> tuple[Way, ...]:
    """What is tried on this machine: Playwright's download, which needs no rights, then its package managers."""
    return (_PLAYWRIGHT, *(way for manager, way in _PACKAGES.items() if which(manager)))


def install_browser(
    *,
    echo: Callable[[str], None],
    quiet: bool = False,
    find: Callable[[], Found] | None = None,
    run: Run | None = None,
    ways: Sequence[Way] | None = None,
) -> Found:
    """Find a browser that runs, or install one.

    Args:
        echo: Takes each line of progress.
        quiet: Say nothing when a browser is there already.
        find: Looks for a browser and raises StartFailed when there is none; by default as the local adapter does.
        run: Runs a command within the limits of its way; `run_command` by default.
        ways: What is tried in turn; `ways_here` by default.

    Returns:
        The browser, with its `path` and its `source`.

    Raises:
        StartFailed: There is none and none could be installed; names each thing tried and what to do.
    """
    find, run = find or _find_browser, run or run_command
    tried: list[str] = []

    def note(text: str) -> None:
        tried.append(text)
        echo(f"  {text.splitlines()[0]}")

    def look() -> Found | None:
        try:
            found = find()
        except StartFailed:
            return None
        answer = run((found.path, "--version"), _ASK_VERSION)
        if answer.ok:
            return found
        note(f"{found.path} ({found.source}) does not run: {answer}")
        return None

    if (found := look()) is not None:
        if not quiet:
            echo(f"browser: {found.path} ({found.source})")
        return found
    if sys.platform == "win32":
        msg = "the local browser runs on Linux and macOS; use another adapter here, such as adapter='remote'"
        raise StartFailed(msg, step="install_browser", adapter="local")
    if chosen := os.environ.get("CHROMIUM_PATH"):
        # What the user chose is never passed over behind their back.
        msg = f"CHROMIUM_PATH is {chosen}, which is no browser that runs; mend it, or unset it to have one installed"
        raise StartFailed("\n".join([msg, *tried]), step="install_browser", adapter="local")

    ways = ways_here() if ways is None else ways
    for way in ways:
        echo(f"no browser yet, trying {way.name} ...")
        began = time.monotonic()
        result = _carry_out(way, run)
        seconds = f"{time.monotonic() - began:.0f} s"
        if not result.ok:
            note(f"{way.name} did not work ({seconds}): {result}")
        elif (found := look()) is not None:
            echo(f"  done in {seconds}: {found.path} ({found.source})")
            return found
        else:
            note(f"{way.name} was installed ({seconds}), but no browser that runs was found then")
    raise StartFailed(_explain(tried, ways), step="install_browser", adapter="local")


def as_root(command: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...] | None:
    """`command` with the rights of the administrator, or None when there is no way to them.

    Asks for a password only where a person sits at a terminal.
    """
    if sys.platform == "win32":
        return None
    if os.geteuid() == 0:
        return tuple(command)
    if shutil.which("sudo") is None:
        return None
    # sudo drops the environment, so what the command needs of it is set behind it.
    sets = ("env", *(f"{key}={value}" for key, value in env.items())) if env else ()
    return ("sudo", *(() if _can_ask() else ("-n",)), *sets, *command)


def run_command(command: Sequence[str], way: Way) -> Result:
    """Run one command within the limits of `way`, without input. At a limit it ends with all that it started."""
    asks = command[0] == "sudo" and "-n" not in command
    try:
        process = subprocess.Popen(
            command,
            stdin=None if asks else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **way.env},
            text=True,
            errors="replace",
            start_new_session=not asks,  # a group to end as one; but sudo asks on the terminal of its session
        )
    except OSError as e:
        return Result(code=None, reason=f"could not be started: {e.strerror}")
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None  # noqa: S101 - it was asked for
    reader = threading.Thread(target=_read, args=(process.stdout, lines), name="lifecycle-install-output", daemon=True)
    reader.start()
    printed: list[str] = []
    reason = ""
    heard = time.monotonic()
    deadline = heard + way.seconds
    try:
        while not reason:
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                if process.poll() is not None:
                    break  # it is gone; what it left running may hold its output for ever
            else:
                if line is None:
                    break
                heard = time.monotonic()
                plain = _COLOURS.sub("", line).strip()
                printed += [plain] if plain else []
            now = time.monotonic()
            if now > deadline:
                reason = f"ended after {way.seconds:g} s"
            elif way.silent is not None and now > heard + way.silent:
                reason = f"ended: it printed nothing for {way.silent:g} s"
        if not reason:
            process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        reason = "ended: it closed its output and went on"
    finally:
        _end(process, group=not asks)
        reader.join(1.0)  # longer when something that the command left running holds the other end
    return Result(code=None if reason else process.returncode, lines=tuple(printed[-50:]), reason=reason)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m lifecycle.cli.install_browser [--quiet]``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="install_browser", description="Find a browser, or install one.")
    parser.add_argument("--quiet", action="store_true", help="say nothing when a browser is there already")
    quiet: bool = parser.parse_args(argv).quiet
    try:
        install_browser(echo=lambda line: print(line, flush=True), quiet=quiet)
    except StartFailed as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _find_browser() -> Found:
    from lifecycle_adapters.local.find import find_browser  # noqa: PLC0415 - only where a browser is asked for

    return find_browser(None)


def _carry_out(way: Way, run: Run) -> Result:
    failed: list[str] = []
    result = Result(code=0)
    for command in way.commands:
        full = as_root(command, way.env) if way.root else command
        if full is None:
            return Result(code=None, reason="it needs root, and there is no sudo")
        result = run(full, way)
        if not result.ok:
            failed.append(f"{shlex.join(full)}: {result}")
    if result.ok:
        return result
    return Result(code=result.code, reason="\n      ".join(failed))


def _explain(tried: Sequence[str], ways: Sequence[Way]) -> str:
    by_hand = [" && ".join(shlex.join(c) for c in way.commands) for way in ways if way.root]
    return "\n".join(
        [
            "no browser was found and none could be installed. Tried:",
            *(f"  - {text}" for text in tried),
            "What you can do:",
            *(f"  - as root: {command}" for command in by_hand),
            "  - install Chromium or Google Chrome in any other way; set CHROMIUM_PATH if it lies in an unusual place",
        ]
    )


def _can_ask() -> bool:
    return "CI" not in os.environ and sys.stdin is not None and sys.stdin.isatty()


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    try:
        with stream:
            for line in stream:
                lines.put(line)
    finally:
        lines.put(None)


def _end(process: subprocess.Popen[str], *, group: bool) -> None:
    """End a command and its group; silent when it has ended."""
    if sys.platform == "win32" or process.poll() is not None:
        return
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig) if group else process.send_signal(sig)
            process.wait(_GRACE)
        except ProcessLookupError:
            return
        except PermissionError:  # sudo runs as root: it ends when its command does
            return
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    sys.exit(main())
