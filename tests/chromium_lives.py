"""Lives of sessions on a Chromium in which a process is struck, a disk is full or descriptors are few.

Rule: a life is lived in a process of its own, a few after another in one, and what must hold after it knows of the
fault only what the table says of it. `test_campaign_chromium` chooses the lives.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import http.server
import itertools
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import children
from campaign import NEW, OLD, by_attachment, names_in, replayed
from playwright.sync_api import Error
from waiting import until

from lifecycle import Client, CookieSaveError, LifecycleError, StoreError, spill
from lifecycle.operator.tabs import Tabs
from lifecycle.stores import open_store
from lifecycle.testing.ways import AsyncWay, Way
from lifecycle_adapters.cdp_scopes import ScopedCookies
from lifecycle_adapters.local import launch, procs
from lifecycle_adapters.local.backend import LocalBackend
from lifecycle_adapters.local.profiles import profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "BEFORE_ITS_END",
    "CELLS",
    "KINDS",
    "MOMENTS",
    "QUICK",
    "SIGNALS",
    "STOPPED",
    "Cell",
    "lived",
    "tmpfs_can_be_mounted",
]

KINDS: Final = {
    "renderer": "--type=renderer",
    "GPU process": "--type=gpu-process",
    "storage process": "--utility-sub-type=storage",
    "zygote": "--type=zygote",
}
"""What the command line of each of Chromium's processes holds; "browser" leads them, "driver" is Playwright's."""

SIGNALS: Final = ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM", "SIGSTOP")
MOMENTS: Final = ("start", "idle", "page call", "execute", "scrape", "save", "stop")
BEFORE_ITS_END: Final = MOMENTS[:5]
ROOM: Final = tuple(map(str, (0, 1, 2, 3, 4, 5, 6, 8, 10, 14)))
"""How many descriptors more than are open may be opened."""

BOUND: Final = 100
"""Seconds after which a life is taken to hang: an ending whose every step takes its budget takes 65."""

DISK: Final = 48_000_000
"""Bytes of the disk that is filled."""


class Own(Exception):
    """The caller's."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to try."""

    what: str
    how: str
    when: str
    api: str

    def __str__(self) -> str:
        return f"{self.what}, {self.how}, {self.when}, {self.api}"

    @property
    def is_process(self) -> bool:
        return self.how in SIGNALS

    @property
    def raises(self) -> bool:
        """True where the caller raises an exception of its own in the end."""
        return zlib.crc32(str(self).encode()) % 3 == 0

    @property
    def possible(self) -> bool:
        """False where there is nothing to strike, or where the call that is struck is not the library's to end."""
        # A page call that waits for a stopped driver is Playwright's own.
        return (self.what, self.how, self.when) != ("driver", "SIGSTOP", "page call")


CELLS: Final = tuple(
    cell
    for cell in itertools.starmap(
        Cell,
        [
            *itertools.product(("browser", *KINDS, "driver"), SIGNALS, MOMENTS, ("sync", "async")),
            *itertools.product(("profile", "cookie file", "log"), ("disk full",), ("start", "stop"), ("sync", "async")),
            *itertools.product(("every file",), ("no room",), ("start", "stop"), ("sync", "async")),
            *itertools.product(("descriptors",), ROOM, ("start", "stop"), ("sync", "async")),
        ],
    )
    if cell.possible
)


def _shuffled(cells: Sequence[Cell]) -> list[Cell]:
    """In some order, first one of each fault of each process, then a second one of each, and so on."""
    before: Counter[tuple[str, str]] = Counter()
    turns = []
    for cell in random.Random(7).sample(cells, len(cells)):
        before[cell.what, cell.how] += 1
        turns.append((before[cell.what, cell.how], cell))
    return [cell for _, cell in sorted(turns, key=lambda turn: turn[0])]


STOPPED: Final = _shuffled([cell for cell in CELLS if cell.how == "SIGSTOP"])
"""Those take budgets of the library to their end: up to half a minute."""

QUICK: Final = _shuffled([cell for cell in CELLS if cell.how != "SIGSTOP"])


# --- what is struck -----------------------------------------------------------------------------------------------


def _processes() -> Iterator[tuple[int, int, int, str]]:
    """Pid, parent, group and command line of all that run."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        fields = procs._stat(int(name))
        if fields is not None and fields[0] not in (b"Z", b"X"):
            yield int(name), int(fields[1]), int(fields[2]), procs.command_line(int(name))


def drivers() -> list[int]:
    return [pid for pid, parent, _, line in _processes() if parent == os.getpid() and "driver" in line]


class Strike:
    """The fault of a life, which strikes once, where it is armed for."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.browser = 0
        self.armed = ""
        self.pids: list[int] = []
        self.happened = threading.Event()
        self.over = threading.Event()
        self.strikers: list[threading.Thread] = []

    def targets(self) -> list[int]:
        if self.cell.what == "browser":
            return [self.browser]
        if self.cell.what == "driver":
            return drivers()
        return [pid for pid, _, group, line in _processes() if group == self.browser and KINDS[self.cell.what] in line]

    def at(self, moment: str) -> None:
        """Strike if it is armed for this moment."""
        if self.armed == moment and not self.happened.is_set():
            self.pids = self.targets()
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.Signals[self.cell.how])
            if self.pids:
                self.happened.set()

    def as_soon_as_it_runs(self) -> None:
        while not self.happened.is_set() and not self.over.wait(0.001):
            self.at("start")

    def launched(self, pid: int) -> None:
        self.browser = pid
        self.at("start")
        if self.armed == "start" and not self.happened.is_set():
            self.strikers.append(threading.Thread(target=self.as_soon_as_it_runs))
            self.strikers[-1].start()


_now: Strike | None = None


def _at(moment: str) -> None:
    if _now is not None:
        _now.at(moment)


def _plant() -> None:
    """Have the library pass by the strike at its moments."""
    real_launch, real_get, real_close, current = launch.launch, ScopedCookies.get, LocalBackend._close, Tabs.current

    def launched(*args: Any) -> Any:
        started = real_launch(*args)
        if _now is not None:
            _now.launched(started.popen.pid)
        return started

    async def get(self: Any) -> Any:
        _at("save")
        return await real_get(self)

    async def close(self: Any, grace: float) -> None:
        _at("stop")
        await real_close(self, grace)

    async def scraped(self: Any) -> Any:
        _at("scrape")
        return await current(self)

    launch.launch, ScopedCookies.get, LocalBackend._close, Tabs.current = launched, get, close, scraped


class _Site(http.server.BaseHTTPRequestHandler):
    """The page that is asked for while a call is struck, and is given after it."""

    def do_GET(self) -> None:
        if self.path.startswith("/strike"):
            _at("page call")
            _at("execute")
        body = b"<!doctype html><link rel=icon href='data:,'><title>t</title><p>text"
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


# --- disks and descriptors ----------------------------------------------------------------------------------------


def tmpfs_can_be_mounted() -> bool:
    """True for a root that may mount a disk of its own, in a namespace of its own."""
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run(_on_a_disk(Path("/mnt"), ["true"]), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _on_a_disk(folder: Path, command: list[str]) -> list[str]:
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    return ["unshare", "-m", "sh", "-c", mount, "sh", str(DISK), str(folder), *command]


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1_000_000, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


@contextlib.contextmanager
def _scarce(cell: Cell, when: str, disk: Path) -> Iterator[None]:
    """What the cell takes away, taken away while the block runs."""
    if cell.is_process or cell.when != when:
        yield
        return
    if cell.how == "disk full":
        _fill(disk)
        yield
        return  # it stays full until the life is over
    kind = resource.RLIMIT_NOFILE if cell.what == "descriptors" else resource.RLIMIT_FSIZE
    before = resource.getrlimit(kind)
    limit = 0
    if cell.what == "descriptors":
        used = {int(fd) for fd in os.listdir("/proc/self/fd")}
        limit = next(itertools.islice((fd for fd in itertools.count() if fd not in used), int(cell.how), None))
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


# --- a life -------------------------------------------------------------------------------------------------------


def _ways(api: str) -> tuple[Way, Callable[..., Any]]:
    """A way, and what runs a coroutine function of Playwright's there."""
    if api == "sync":
        return Way(), lambda func, *args, **kwargs: func(*args, **kwargs)
    way = AsyncWay()
    return way, way.run


class Life:
    """One life of a session, and what is left of it."""

    def __init__(self, cell: Cell, folder: Path, site: str) -> None:
        self.cell = cell
        self.site = site
        self.disk = folder / "disk"
        self.disk.mkdir(exist_ok=True)
        place = {"cookie file": self.disk}.get(cell.what, folder)
        self.cookie_file = place / "cookies.json"
        self.cookie_file.write_text(json.dumps({"cookies": [OLD], "origins": []}))
        self.cookie_file.chmod(0o600)
        self.log = (self.disk if cell.what == "log" else folder) / "log.db"
        self.raised: BaseException | None = None
        self.strike = Strike(cell)
        self.status: Any = None
        self.given: set[str] = set()
        self.attachment_id = ""

    def live(self) -> None:
        global _now  # noqa: PLW0603 - one life at a time
        cell = self.cell
        if cell.what == "profile":
            os.environ["TMPDIR"] = str(self.disk)
            tempfile.tempdir = None
        _now = self.strike
        try:
            self._live()
        except (Exception, KeyboardInterrupt) as e:
            self.raised = e
        finally:
            self.strike.over.set()
            for striker in self.strike.strikers:
                striker.join()
            _now = None

    def _live(self) -> None:
        cell = self.cell
        way, run = _ways(cell.api)
        client = way.client(adapter="local", store=f"sqlite:///{self.log}")
        client.sessions.list()  # the store is open
        session = client.Session(
            cookie_file=self.cookie_file,
            start_timeout_minutes=0.1 if (cell.how, cell.when) == ("SIGSTOP", "start") else 1,
            prefetch_page=(cell.what, cell.when) == ("driver", "start"),
        )
        self.attachment_id = session.attachment_id
        try:
            self.strike.armed = "start" if cell.is_process and cell.when == "start" else ""
            with contextlib.ExitStack() as scarcity:
                scarcity.enter_context(_scarce(cell, "start", self.disk))
                with session:
                    scarcity.close()
                    with contextlib.suppress(LifecycleError, Error):  # of the call that was struck
                        self._body(session, run)
                    if cell.is_process and cell.when in BEFORE_ITS_END:
                        self._after_the_strike(session, run)
                    self.strike.armed = cell.when if cell.is_process and cell.when in ("save", "stop") else ""
                    scarcity.enter_context(_scarce(cell, "stop", self.disk))
                    if cell.raises:
                        raise Own
        finally:
            self.state = session.state
            with contextlib.suppress(LifecycleError):
                self.status = session.status()
            way.finish()

    def _page(self, session: Any, run: Callable[..., Any]) -> Any:
        return session.page if self.cell.api == "sync" else session.page()

    def _body(self, session: Any, run: Callable[..., Any]) -> None:
        """What the session is used for, up to the strike."""
        cell, strike = self.cell, self.strike
        session.set_cookies(cookies=[NEW])
        self.given = {"new"}
        for_driver = cell.what == "driver" and cell.when not in ("execute", "scrape")
        if cell.when == "page call" or for_driver or (cell.is_process and cell.when == "start"):
            page = self._page(session, run)
            run(page.goto, self.site)
        if cell.when in ("execute", "scrape"):
            session.execute(type="goto", url=self.site)
        if cell.is_process and cell.when != "start" and not (cell.what == "driver" and cell.when in ("save", "stop")):
            until(strike.targets)  # some of them come up after the first page is there
        strike.armed = cell.when if cell.when in ("idle", "page call", "execute", "scrape") else ""
        match cell.when:
            case "idle":
                strike.at("idle")
            case "page call":
                run(page.goto, self.site + "strike", timeout=3000)
            case "execute" | "scrape" if cell.how == "SIGSTOP":
                with self._stopped_by_another(session):
                    self._operate(session)
            case "execute" | "scrape":
                self._operate(session)

    def _operate(self, session: Any) -> None:
        if self.cell.when == "execute":
            session.execute(type="goto", url=self.site + "strike")
        else:
            session.scrape()

    @contextlib.contextmanager
    def _stopped_by_another(self, session: Any) -> Iterator[None]:
        """Another client stops the session once it is struck: an operation has no end of its own."""

        def stop() -> None:
            assert self.strike.happened.wait(BOUND)
            with Client(adapter="local", store=f"sqlite:///{self.log}") as other, contextlib.suppress(LifecycleError):
                other.sessions.stop(session.session_id)

        stopper = threading.Thread(target=stop)
        stopper.start()
        try:
            yield
        finally:
            stopper.join()

    def _after_the_strike(self, session: Any, run: Callable[..., Any]) -> None:
        """A session goes on without any process but its browser, and is over within seconds without that."""
        cell, strike = self.cell, self.strike
        assert strike.happened.wait(10), "nothing was struck"
        if cell.how == "SIGSTOP":
            return
        until(lambda: not any(_runs(pid) for pid in strike.pids))
        if cell.what == "browser" or (cell.what == "zygote" and not _runs(strike.browser)):
            session.wait_ended(10)
            return
        session.get_cookies()
        if cell.what == "zygote":  # no new renderer without it
            return
        page = self._page(session, run)
        if cell.what == "driver":  # of a driver that ended, the first call tells
            with contextlib.suppress(Error):
                run(page.title)
            page = self._page(session, run)
        tab = run(page.context.new_page)
        assert run(tab.evaluate, "1 + 1") == 2
        run(tab.close)
        if cell.when in ("execute", "scrape"):
            result = session.execute(type="goto", url=self.site, raise_on_failure=False)
            assert result.success or cell.what != "driver", result.error

    # --- what must hold

    def check(self) -> None:
        cell = self.cell
        assert self.strike.happened.is_set() or not cell.is_process, f"nothing was struck; {self.raised!r}"
        self._check_state()
        self._check_log()
        self._check_cookies()
        assert self.raised is None or isinstance(self.raised, (Own, LifecycleError)), repr(self.raised)
        if cell.raises and self.given:
            assert type(self.raised) is Own, f"the caller's own exception is lost: {self.raised!r}"

    def _check_state(self) -> None:
        cell = self.cell
        reason = self.status.close_reason if self.status is not None else None
        end = (str(self.state), str(reason))
        closed, crashed = ("closed", "manual"), ("error", "crash")
        allowed = {closed}
        if cell.is_process and cell.when == "start" and cell.how == "SIGSTOP" and cell.what != "driver":
            allowed = (
                {("timed_out", "start_timeout")} if cell.what == "browser" else {closed, ("timed_out", "start_timeout")}
            )
        elif cell.what == "browser" and cell.how != "SIGSTOP":
            allowed = {crashed, ("error", "backend")} if cell.when == "start" else {crashed}
            if cell.when in ("save", "stop"):
                allowed = {closed}  # its end came first
        elif cell.what == "zygote":  # without which the browser may end, before it is ready too
            allowed = {closed, crashed, *([("error", "backend")] if cell.when == "start" else [])}
        elif cell.when == "start" and not cell.is_process:
            allowed = {closed, ("error", "backend"), crashed, ("not_started", "None")}
        elif cell.what == "profile":
            allowed = {closed, crashed}
        assert end in allowed, f"ended {end}, not one of {allowed}; {self.raised!r}"

    def _check_log(self) -> None:
        with contextlib.closing(open_store(f"sqlite:///{self.log}")) as store:
            records = [r for _, r in store.records()]
            rows = store.sessions()
        lost = [e for e in _all(self.raised) if isinstance(e, StoreError)]
        for path in {e.rescue_path for e in lost} - {None}:
            more = spill.read(Path(path)).records
            records += [r for r in more if r not in records]
            os.unlink(path)
        nowhere = any(e.rescue_path is None for e in lost) or "no rescue file" in _text(self.raised)
        if nowhere and self.cell.what in ("every file", "descriptors"):
            return  # nothing could be written anywhere, and that is what the error said
        of = by_attachment(records)
        mine = of.get(self.attachment_id, [])
        ends = [r for r in mine if r.terminal]
        assert len(ends) == self.state.terminal, [(r.kind, r.event) for r in mine]
        assert replayed(mine) is self.state
        if not lost:
            assert all((row.state, row.released) == (self.state, True) for row in rows)
        self.saved = any(s.step == "save_cookies" and s.outcome == "done" for r in ends for s in r.steps)

    saved = False

    def _check_cookies(self) -> None:
        names = names_in(self.cookie_file)
        assert names in ({"old"}, {"old", "new"}), f"the cookie file holds {names}"
        assert stat.S_IMODE(self.cookie_file.stat().st_mode) == 0o600
        if self.saved:
            assert names == {"old", *self.given}, f"the log says saved: {names}"
        elif str(self.state) == "closed" and self.given:
            assert "CookieSaveError" in _text(self.raised), (
                f"nobody was told that cookies are not saved: {self.raised!r}"
            )
        for error in _all(self.raised):
            if isinstance(error, CookieSaveError) and error.rescue_path is not None:
                assert names_in(Path(error.rescue_path)) == {"old", *self.given}
                assert stat.S_IMODE(os.stat(error.rescue_path).st_mode) == 0o600
        if self.cell.what == "cookie file" and self.cell.when == "stop":
            kept = [e.rescue_path for e in _all(self.raised) if isinstance(e, CookieSaveError)]
            assert all(kept) and (kept or self.cell.raises), f"no rescue file: {self.raised!r}"


def _runs(pid: int) -> bool:
    fields = procs._stat(pid)
    return fields is not None and fields[0] not in (b"Z", b"X")


def _all(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(error: BaseException | None) -> str:
    """The kinds, words and notes of an error and of those before it."""
    return "\n".join("\n".join([repr(e), *getattr(e, "__notes__", ())]) for e in _all(error))


# --- a process of lives -------------------------------------------------------------------------------------------


def _held(temp: Path) -> dict[str, set[str]]:
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            fds.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    mine = f"lifecycle-[0-9]*/{os.getpid()}-*"
    places = (temp, Path(os.environ["XDG_STATE_HOME"], "lifecycle", "rescue"))
    parts = [path for place in places for path in place.glob("lifecycle-records-*.part")]
    folders = {str(p) for p in [*temp.glob(mine), *temp.glob(f"{mine}/*"), *parts]}
    return {
        "descriptors": {fd for fd in fds if "/proc/" not in fd},
        "threads": {t.name for t in threading.enumerate()},
        "folders": folders,
        "drivers": set(map(str, drivers())),
    }


def _nothing_left(life: Life, before: dict[str, set[str]], temp: Path) -> None:
    def left() -> dict[str, set[str]]:
        gc.collect()
        after = _held(temp)
        return {kind: after[kind] - before[kind] for kind in after if after[kind] - before[kind]}

    seconds = 35 if life.cell.how == "SIGSTOP" else 5
    try:
        until(lambda: not left() and (not life.strike.browser or procs.group_ended(life.strike.browser)), seconds)
    except AssertionError:
        rest = [line for _, _, group, line in _processes() if 0 < group == life.strike.browser]
        raise AssertionError(f"left behind: {left()} {rest}") from None


def main() -> int:
    """Live the cells of these numbers, in a folder; 1 when one failed, with what it was."""
    folder, numbers = Path(sys.argv[1]), map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), name="site", daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}/"
    _plant()
    warm = folder / "warm"
    warm.mkdir()
    temp = Path(tempfile.gettempdir())
    Life(Cell("", "", "", "sync"), warm, site).live()  # what lives as long as the process is there now
    before = _held(temp)
    for number in numbers:
        cell = CELLS[number]
        faulthandler.dump_traceback_later(BOUND, exit=True)
        place = folder / str(number)
        (place / "disk").mkdir(parents=True, exist_ok=True)
        life = Life(cell, place, site)
        try:
            life.live()
            (life.disk / "filler").unlink(missing_ok=True)
            life.check()
            if cell.what == "descriptors":  # a folder that could not even be listed is left to the next sweep
                profiles.sweep()
            if cell.what == "profile":
                os.environ["TMPDIR"] = str(temp)
                tempfile.tempdir = None
                assert list(life.disk.glob("lifecycle-*/*")) == []
            _nothing_left(life, before, temp)
        except BaseException as e:
            print(f"cell {number}, {cell}: {type(e).__name__}: {e}", flush=True)
            if life.raised is not None:
                traceback.print_exception(life.raised)
            traceback.print_exc()
            for path in temp.glob("lifecycle-records-*.part"):
                path.unlink()
            return 1
    return 0


def lived(cells: Sequence[Cell]) -> None:
    """Live cells in one process, and those that fill a disk in one more each, on a disk of its own.

    Raises:
        AssertionError: What does not hold, and in which cell.
    """
    plain = [cell for cell in cells if cell.how != "disk full"]
    for some in filter(None, [plain, *([cell] for cell in cells if cell.how == "disk full")]):
        with tempfile.TemporaryDirectory(prefix="h-") as name:  # short: Chromium's socket lies below it
            place, numbers = Path(name), [CELLS.index(cell) for cell in some]
            command = [sys.executable, __file__, name, *map(str, numbers)]
            if some[0].how == "disk full":
                disk = place / str(numbers[0]) / "disk"
                disk.mkdir(parents=True)
                command = _on_a_disk(disk, command)
            told = place / "told"
            with told.open("wb") as file:
                ran = subprocess.Popen(
                    command,
                    env={**children.environment(struck=True), "XDG_STATE_HOME": name},
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            try:
                code = ran.wait(BOUND * (len(some) + 1))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ran.pid, signal.SIGKILL)  # with a driver that is stopped
                ran.wait()
                profiles.sweep()  # what one that hung has left
            assert code == 0, told.read_text(errors="replace")[-6000:]


if __name__ == "__main__":
    # Not through atexit: what a failure left hanging would be waited for.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
