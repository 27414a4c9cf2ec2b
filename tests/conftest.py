"""What every test gets: a state folder of the run's own, a check that nothing is left behind, a site on loopback."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import planted
import pytest
import structlog
from loopback_site import Site

pytest.register_assert_rewrite("lifecycle.testing.contract", "lifecycle.testing.store_suite")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from postgres_rig import Server as Postgres
    from structlog.typing import EventDict

    from lifecycle.testing.ways import Way

# Examples take what a shared machine gives them; in CI they are the same each time, so that a red run can be repeated.
hypothesis.settings.register_profile("default", deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

collect_ignore = ["frameworks", "pretend"]  # the tests of other projects, each run by itself

LASTING_THREADS = ("lifecycle-supervisor", "lifecycle-gateway", "lifecycle-log")
"""Threads of the library that live as long as the process; whatever else a test starts, it ends."""

GRACE = 10.0
"""Seconds in which what a test left may still go away by itself."""

_PROC = Path("/proc/self")


# --- a place of the run's own -------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder for state and temporary files of this run: short, since paths of sockets are bounded."""
    resource_tracker.ensure_running()  # what a process that starts others by spawn has from then on
    state = tmp_path_factory.mktemp("state")  # before TMPDIR changes, so that pytest keeps its own folders
    folder = Path(tempfile.mkdtemp(prefix="lc-"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LIFECYCLE_ADAPTER", "NOTTE_API_KEY", "NOTTE_API_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("LIFECYCLE_STORE", f"sqlite:///{state / 'lifecycle.db'}")
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        # A script that a test starts must import the library under test, not what lies in the current folder.
        patch.setenv("PYTHONSAFEPATH", "1")
        yield folder
    orphans = _settle(lambda: _processes_naming(str(folder)))
    told = planted.in_files(tmp_path_factory.getbasetemp())
    shutil.rmtree(folder, ignore_errors=True)
    assert not orphans, f"processes were left over by this run: {orphans}"
    assert not told, f"secrets were written into {told}"


# --- nothing is left behind ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: dict[int, str]
    fds: dict[int, str]
    files: frozenset[Path]


@pytest.fixture(autouse=True)
def _no_leaks(run_folder: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread, a child process, a descriptor or a temporary folder of the library behind."""
    site: Site | None = request.config.stash.get(SITE, None)
    before = _held(run_folder)
    yield
    site = site or request.config.stash.get(SITE, None)
    left = _settle(lambda: _leaks(before, _held(run_folder), site))
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


def _held(folder: Path) -> Held:
    return Held(
        threads=frozenset(threading.enumerate()),
        children=_children(),
        fds=_fds(),
        # A folder of the process itself may stay (`lifecycle-*`), what is put into it for a session may not.
        files=frozenset(
            path
            for root in folder.glob("lifecycle-*")
            for path in ([p for p in root.iterdir() if p.is_dir()] if root.is_dir() else [root])
        ),
    )


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """With it the library logs in place, not on its worker: the test looks as soon as the work is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifecycle.logs._submit", [])
        yield caplog


def _leaks(before: Held, after: Held, site: Site | None) -> list[str]:
    started = after.threads - before.threads
    lasting = {t for t in started if t.name.startswith(LASTING_THREADS)}
    left = [f"thread {t.name}" for t in started - lasting if t.is_alive() and not t.name.startswith("site")]
    for pid, command in after.children.items():
        if pid not in before.children and "multiprocessing.resource_tracker" not in command:
            left.append(f"process {pid} ({command})")
    if not lasting:  # what those threads opened for good came with them
        known = site.fds() if site else set()
        for fd, target in after.fds.items():
            if before.fds.get(fd) != target and fd not in known and not _is_lasting_socket(fd):
                left.append(f"descriptor {fd} ({target}{_ends(fd)})")
    left += [f"temporary {path}" for path in after.files - before.files]
    return left


def _settle(look: Callable[[], list[str]]) -> list[str]:
    """What `look` still finds after collecting garbage and waiting a little."""
    found = look()
    until = time.monotonic() + GRACE
    pause = 0.01
    while found and time.monotonic() < until:
        gc.collect()  # each time: what a thread held a moment ago may be garbage only now
        time.sleep(pause)
        pause = min(pause * 2, 0.5)
        found = look()
    return found


def _children() -> dict[int, str]:
    if sys.platform != "linux":
        out = subprocess.run(["pgrep", "-lP", str(os.getpid())], capture_output=True, text=True, check=False).stdout
        pairs = [line.split(None, 1) for line in out.splitlines()]
        return {int(pid): name for pid, name in pairs if "pgrep" not in name}
    found = {}
    for task in _PROC.glob("task/*/children"):
        try:
            for pid in task.read_text().split():
                found[int(pid)] = _command(pid)
        except FileNotFoundError:
            continue  # the thread ended meanwhile
    return found


def _command(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200] or "ended"
    except (FileNotFoundError, ProcessLookupError):
        return "ended"


def _fds() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/dev/fd"):
        try:
            found[int(entry)] = os.readlink(_PROC / "fd" / entry) if sys.platform == "linux" else "open"
        except OSError:
            continue  # the descriptor of this listing
    return found


def _ends(fd: int) -> str:
    """What a socket is: its family and the addresses of its two ends; nothing for other descriptors."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return ""
        with socket.socket(fileno=os.dup(fd)) as copy:
            try:
                peer = copy.getpeername()
            except OSError:
                peer = "nobody"
            return f" {copy.family.name} {copy.getsockname()!r} to {peer!r}"
    except OSError:
        return ""  # closed meanwhile


def _is_lasting_socket(fd: int) -> bool:
    """True for the two on which a process listens as long as it lives: for guests, and for clients of the gateway.

    The gateway's is opened with its first browser, which may be long after its thread was started.
    """
    engine = sys.modules.get("lifecycle.engine")  # not imported for this: some tests are about what is imported
    mine = engine._supervisors.get(os.getpid()) if engine is not None else None
    gateway = mine._gateway if mine is not None else None
    if gateway is not None and fd == gateway._listener._socket.fileno():
        return True
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as copy:
            return copy.family == socket.AF_UNIX and "lifecycle-control" in str(copy.getsockname())
    except OSError:
        return False  # closed meanwhile


def _processes_naming(text: str) -> list[str]:
    """Command lines of other processes that hold `text`, such as a browser's profile folder; Linux only."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        command = _command(path.name)
        if text in command and path.name != str(os.getpid()):
            found.append(f"{path.name} {command}")
    return found


# --- no secret is told --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """Fails a test in which a secret came into a record, an error or the log."""
    planted.found.clear()
    yield
    if planted.found:
        pytest.fail("a secret was told: " + "; ".join(planted.found), pytrace=False)


def pytest_collection_finish() -> None:
    """By then the library was imported, by tests that are about something else than what is imported."""
    if "lifecycle.audit.record" in sys.modules:
        planted.watch()


# --- a site -------------------------------------------------------------------------------------------------------

SITE = pytest.StashKey[Site]()


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site of `loopback_site`, for the whole run."""
    server = Site()
    request.config.stash[SITE] = server
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, for the whole run; its database `made` has the tables of a store."""
    from postgres_rig import server

    from lifecycle.stores.postgres import PostgresStore

    with server() as made:
        made.ask("CREATE DATABASE made")
        assert PostgresStore(made.url("made")).make()
        yield made


# --- both clients -------------------------------------------------------------------------------------------------


@pytest.fixture
def captured() -> Iterator[list[EventDict]]:
    """What a host that has configured structlog is told, event by event."""
    with structlog.testing.capture_logs() as events:
        yield events
    structlog.reset_defaults()  # else the tests that follow log as a host would that has configured it


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """The sync and the async client, one after the other; see `both_ways`."""
    from both_ways import WAYS  # here: some tests are about what is imported

    way = WAYS[request.param]()
    yield way
    way.finish()


# --- a part of the tests ------------------------------------------------------------------------------------------


SWEEPS = {
    "test_campaign", "test_campaign_cancelled", "test_campaign_chromium", "test_campaign_cookies",
    "test_campaign_local", "test_campaign_races", "test_contract", "test_example_adapter", "test_fault_proxy",
    "test_interrupts", "test_signals", "test_vendors",
}  # fmt: skip
"""Where many slow tests do the same at one place after the other. A part of them is chosen by itself: `--sweep`."""


LONG = {"test_scale", "test_swap", "test_verify"}
"""Where a test takes a minute by itself: these come first, or all others wait for them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--part 1/2`: every second test, beginning with the first; `--part 2/2`: the others. So `--sweep`, of sweeps."""
    parser.addoption("--part", metavar="N/OF", help="of every OF tests that are chosen, the N-th only")
    parser.addoption("--sweep", metavar="N/OF", help="of every OF slow tests of one that is a sweep, the N-th only")


def _part_of(option: str, text: str) -> slice:
    try:
        number, of = map(int, text.split("/"))
    except ValueError:
        number, of = 0, 0
    if not 1 <= number <= of:
        raise pytest.UsageError(f"{option} {text}: give it as 1/2 for the first half of the tests, 2/2 for the other")
    return slice(number - 1, None, of)


def _is_of_a_sweep(item: pytest.Item) -> bool:
    """True for one of many; what looks at the code or the README as a whole is none."""
    one_of_many = hasattr(item, "callspec") or getattr(item, "cls", None) is not None
    whole = getattr(item, "originalname", "") == "test_the_readme_says_what_happens"
    return item.path.stem in SWEEPS and item.get_closest_marker("slow") is not None and one_of_many and not whole


# --- what was shown -----------------------------------------------------------------------------------------------


SKIPPED = {
    "there is no guest yet, or no session any more": 6,
    "this store keeps nothing": 1,
    "there is no Xvfb to open a window on": 1,
    "the vendors' own documents are not here": 1,
}
"""How many tests may be skipped in CI, by what they say of it: a part that can't exist there."""


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[[str, Iterable[object]], None]:
    """`counted(part, cells)`: this test of the fault campaign has lived these cells; one that it lived twice, twice."""

    def count(part: str, cells: Iterable[object]) -> None:
        request.node.user_properties.append(("campaign", [part, [str(cell) for cell in cells]]))

    return count


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Marks the parts of the campaign, of which no coverage is measured: it would double their time. Then the parts."""
    for item in items:
        if "counted" in getattr(item, "fixturenames", ()):
            item.add_marker("counted")
            item.add_marker("no_cover")
    yield  # -k and -m choose here
    items.sort(key=lambda item: item.path.stem not in LONG)
    for option, among in (("part", lambda _: True), ("sweep", _is_of_a_sweep)):
        if part := config.getoption(option):
            rest = [item for item in items if among(item)]
            del rest[_part_of(f"--{option}", part)]
            left_out = set(rest)
            config.hook.pytest_deselected(items=rest)
            items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the fault campaign has lived, what was skipped, and what each kind of browser can do."""
    lived: dict[str, Counter[str]] = {}
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "campaign" and report.when == "call":
                part, cells = value
                lived.setdefault(part, Counter()).update(cells)
    if lived:
        terminalreporter.section("the fault campaign: distinct cells, and runs of them")
        for part, cells in sorted(lived.items()):
            terminalreporter.write_line(f"{len(cells):7,} {cells.total():7,}  {part}")
        runs = sum(cells.total() for cells in lived.values())
        terminalreporter.write_line(f"{sum(map(len, lived.values())):7,} {runs:7,}  in all")
    for report in terminalreporter.stats.get("passed", ()):
        swapped = [value for name, value in report.user_properties if name == "swapped" and report.when == "call"]
        if swapped:
            terminalreporter.section("the tests of a pretend project, on each kind of browser")
            for line in swapped:
                terminalreporter.write_line(line)
    skipped = _skipped(terminalreporter)
    terminalreporter.write_line(f"skipped: {skipped.total()} of {sum(SKIPPED.values())} that may be")
    if any("test_contract.py" in report.nodeid for report in terminalreporter.stats.get("passed", ())):
        from test_contract import TABLE

        terminalreporter.section("one contract, by what each adapter declares")
        terminalreporter.write_line(TABLE)


def _skipped(reporter: pytest.TerminalReporter) -> Counter[str]:
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a test that is skipped and was not before is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or sys.platform != "linux" or hasattr(session.config, "workerinput") or not reporter:
        return
    more = _skipped(reporter) - Counter(SKIPPED)
    if more:
        reporter.write_line(f"skipped, and not allowed by SKIPPED in tests/conftest.py: {dict(more)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
