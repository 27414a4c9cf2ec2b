"""Faults in the save of a cookie file: kills, losses of power, errors of each system call, and many writers at once.

Run as a script it is the warm process that forks the ones that die; it has no threads, so a fork costs milliseconds:
``cookie_faults.py JOBS FOLDER`` with jobs in JSON, prints the cells that it lived, in JSON, and fails with a traceback
that names the cell.

Rule: what is struck is found by counting. A save is repeated, struck at its first call, its second, and so on, until
one comes to its end; a call that the library makes anew is a point the day it is added.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock  # noqa: F401 - what a save imports is imported before it is struck
import platformdirs  # noqa: F401 - as filelock
from cells import in_cell

from lifecycle.cookies import Cookie, CookieFormat, read_cookie_file, save_cookie_file
from lifecycle.errors import CookieSaveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NOW: Final = 1_790_000_000.0
LATER: Final = 4_102_444_800
"""When the cookies of the samples end: after each clock that a test may have."""

FORMATS: Final = tuple(CookieFormat)
PATIENCE: Final = 20.0
"""Seconds that a save may wait for a lock that nobody is left to hold; then it raises."""

COMMENT: Final = "# a comment of the user's"


# --- files --------------------------------------------------------------------------------------------------------


def item(form: CookieFormat, name: str, value: str = "1") -> dict[str, object]:
    """A cookie as an item of a JSON format."""
    out: dict[str, object] = {"name": name, "value": value, "domain": "site.test", "path": "/", "secure": False}
    if form is CookieFormat.STORAGE_STATE:
        return {**out, "expires": LATER, "httpOnly": False, "sameSite": "Lax"}
    lax = "lax" if form is CookieFormat.EXTENSION else "Lax"
    out |= {"expirationDate": LATER, "hostOnly": True, "httpOnly": False, "sameSite": lax, "session": False}
    return out if form is CookieFormat.EXTENSION else {**out, "expires": LATER}


def line(name: str, value: str = "1") -> str:
    """A cookie as a line of a cookies.txt."""
    return f"site.test\tFALSE\t/\tFALSE\t{LATER}\t{name}\t{value}"


def surrounded(form: CookieFormat, items: Sequence[object]) -> object:
    """The JSON of a file that holds these items."""
    if form is not CookieFormat.STORAGE_STATE:
        return list(items)
    return {"cookies": list(items), "origins": [{"origin": "https://site.test", "localStorage": []}], "unknown": 1}


def sample(form: CookieFormat, names: Sequence[str]) -> str:
    """A cookie file with these cookies and what a save must keep beside them."""
    if form is CookieFormat.NETSCAPE:
        return "\n".join(("# Netscape HTTP Cookie File", COMMENT, *map(line, names))) + "\n"
    return json.dumps(surrounded(form, [item(form, name) for name in names]), indent=1) + "\n"


def values_in(form: CookieFormat, data: bytes) -> dict[str, str]:
    """Name and value of each cookie of a file, read without the library: it must be valid in its format."""
    text = data.decode()
    if form is CookieFormat.NETSCAPE:
        assert text.endswith("\n"), text[-80:]
        lines = text.splitlines()
        assert lines[0] == "# Netscape HTTP Cookie File"
        rows = [row.split("\t") for row in lines if row and not row.startswith("#")]
        assert all(len(row) == 7 for row in rows), rows
        pairs = [(row[5], row[6]) for row in rows]
    else:
        value = json.loads(text)
        assert isinstance(value, dict if form is CookieFormat.STORAGE_STATE else list)
        items = value["cookies"] if isinstance(value, dict) else value
        pairs = [(i["name"], i["value"]) for i in items]
        key = {CookieFormat.NOTTE: "storeId", CookieFormat.EXTENSION: "hostOnly"}.get(form)
        assert key is None or all(key in i for i in items if i["name"].startswith("new")), "another dialect"
    assert len(dict(pairs)) == len(pairs), "a cookie is in it twice"
    return dict(pairs)


def surroundings_in(form: CookieFormat, data: bytes) -> object:
    """What a save must keep beside the cookies."""
    if form is CookieFormat.NETSCAPE:
        return [row for row in data.decode().splitlines() if row.startswith("# a")]
    value = json.loads(data)
    return {k: v for k, v in value.items() if k != "cookies"} if isinstance(value, dict) else None


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- system calls -------------------------------------------------------------------------------------------------

CALLS: Final = (
    *((os, name) for name in ("open", "close", "read", "write", "fsync", "replace", "rename", "unlink", "mkdir")),
    *((os, name) for name in ("stat", "fstat", "listdir", "scandir", "chmod", "fchmod", "fchown", "truncate")),
    (fcntl, "flock"),
    (builtins, "open"),
)
"""Each way in which a save reaches the system, but for `os.lstat`: realpath, of Python itself, asks with it."""

MAKES: Final = frozenset({"open to write", "write", "fsync", "replace", "mkdir"})
"""Calls that a full disk, or one that can't be written to, fails."""

AFTERWARDS: Final = frozenset({"write", "fsync", "replace", "close", "unlink", "mkdir"})
"""Calls that may be done and fail all the same."""


@dataclass
class Point:
    """One call that a save makes."""

    number: int
    name: str
    what: str
    do: Callable[[], Any]
    args: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.number:02} {self.name} {self.what}"


@dataclass
class Calls:
    """The calls that a save makes, counted, each handed to `strike`; and what a loss of power would cost."""

    strike: Callable[[Point], Any]
    made: list[Point] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Rules of a durable save that were broken."""
    unwritten: dict[str, int] = field(default_factory=dict)
    """Files whose content is not on the disk yet, by the path that they were opened by; a descriptor of each."""
    _kinds: dict[int, tuple[str, str]] = field(default_factory=dict)
    _moved: bool = False
    _held: bool = False

    @contextlib.contextmanager
    def patched(self) -> Iterator[Calls]:
        """Count while the block runs; calls that the block's own helpers make are counted too."""
        real = {(module, name): getattr(module, name) for module, name in CALLS}
        self.real = {name: f for (_, name), f in reversed(real.items())}
        for (module, name), function in real.items():
            setattr(module, name, self._wrapped(module, name, function))
        try:
            yield self
        finally:
            for (module, name), function in real.items():
                setattr(module, name, function)
            for fd in self.unwritten.values():
                os.close(fd)

    def returned(self) -> None:
        """The save said that it is done."""
        if self._moved:
            self.broken.append("it returned before the folder was on the disk")

    def lose_power(self) -> None:
        """What was not brought to the disk is not there."""
        for fd in self.unwritten.values():
            os.ftruncate(fd, 0)

    def _wrapped(self, module: Any, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            def do() -> Any:
                result = function(*args, **kwargs)
                self._note(named, path, result, args)
                return result

            named, path = self._named(module, name, args)
            point = Point(len(self.made) + 1, named, self._what(path), do, args)
            self.made.append(point)
            return self.strike(point)

        return call

    def _named(self, module: Any, name: str, args: tuple[Any, ...]) -> tuple[str, str]:
        first = args[0] if args else "."
        path = self._kinds.get(first, ("", "?"))[1] if isinstance(first, int) else os.fspath(first)
        if module is builtins:
            return "read", path
        if name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR):
            return "open to write", path
        if name == "flock":
            return ("unlock" if args[1] & fcntl.LOCK_UN else "lock"), path
        return name, path

    def _what(self, path: str) -> str:
        if path.endswith((".lock", ".part")):
            return path[-4:]
        return "folder" if not path.endswith((".json", ".txt")) else "file"

    def _note(self, name: str, path: str, result: Any, args: tuple[Any, ...]) -> None:
        if name.startswith("open"):
            self._kinds[result] = (name, path)
            if path.endswith(".part"):
                self.unwritten[path] = os.dup(result)
            if name == "open" and self._what(path) == "file" and not self._held:
                self.broken.append("it read the file without the lock")
            if name == "open to write" and self._what(path) == "file":
                self.broken.append("it wrote in place")
        elif name == "write" and path not in self.unwritten and path.endswith(".part"):
            self.unwritten[path] = os.dup(args[0])
        elif name == "fsync":
            if path in self.unwritten:
                self.real["close"](self.unwritten.pop(path))
            elif self._what(path) == "folder":
                self._moved = False
        elif name in {"replace", "rename"}:
            self._moved = True
            if os.fspath(args[0]) in self.unwritten:
                self.broken.append("it renamed before the content was on the disk")
            if not self._held and "rescue" not in os.fspath(args[1]):  # that name is nobody else's
                self.broken.append("it renamed without the lock")
        elif name in {"lock", "unlock"}:
            self._held = name == "lock"


# --- one save, struck ---------------------------------------------------------------------------------------------

SITUATIONS: Final = ("file", "vanished", "link", "changed meanwhile", "left by the dead", "readable by all")
NEW_FILES: Final = ("missing", "folder missing", "link to nothing")
"""Situations in which the name decides on the format, so only two of the four can be there."""

OLD: Final = tuple(f"old-{n}" for n in range(4))


def cases() -> list[tuple[CookieFormat, str]]:
    """Each (format, situation)."""
    named = (CookieFormat.STORAGE_STATE, CookieFormat.NETSCAPE)
    return [*itertools.product(FORMATS, SITUATIONS), *itertools.product(named, NEW_FILES)]


class Life:
    """A cookie file in a folder of its own, a session that has loaded it, and what the file may hold afterwards."""

    def __init__(self, folder: Path, form: CookieFormat, situation: str) -> None:
        folder.mkdir()
        self.folder, self.form, self.situation = folder, form, situation
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        tempfile.tempdir = str(folder / "temp")
        suffix = ".txt" if form is CookieFormat.NETSCAPE else ".json"
        home = folder / "home"
        home.mkdir()
        self.file = home / ("deep/cookies" if situation == "folder missing" else "cookies")
        self.file = self.file.with_suffix(suffix)
        self.path = folder / f"link{suffix}" if situation.startswith("link") else self.file
        if self.path != self.file:
            self.path.symlink_to(self.file)
        if situation not in NEW_FILES:
            self.file.write_text(sample(form, OLD))
            self.file.chmod(0o644 if situation == "readable by all" else 0o600)
        self.loaded = read_cookie_file(self.path, now=NOW)
        self.other = read_cookie_file(self.path, now=NOW)
        kept = [c for c in self.loaded.cookies if c.name not in {"old-0", "old-1"}]
        self.ours = [*kept, a_cookie("new", "2"), *([a_cookie("old-1", "2")] if self.loaded.existed else [])]
        self.wanted = {c.name: c.value for c in self.ours}
        if situation == "vanished":
            self.file.unlink()
        elif situation == "changed meanwhile":
            self.file.write_text(sample(form, [*OLD, "theirs"]))
            self.wanted["theirs"] = "1"
        elif situation == "left by the dead":
            for n in range(3):
                self.file.with_name(f".{self.file.name}.0123456{n}.part").write_text("[")
        self.old = self.file.read_bytes() if self.file.exists() else None
        self.old_mode = mode_of(self.file) if self.old is not None else 0
        self.frame = surroundings_in(form, self.old) if self.old is not None else None

    def save(self) -> None:
        saved = save_cookie_file(self.loaded, self.ours, now=NOW, timeout=PATIENCE)
        assert saved.saved == len(self.ours)

    def left(self) -> list[str]:
        """What lies beside the cookie file and its lock."""
        folder = self.file.parent
        names = {self.file.name, f".{self.file.name}.lock"}
        return sorted(set(os.listdir(folder)) - names) if folder.exists() else []

    def check_whole(self) -> bool:
        """The file is the old one or the new one; True for the new one."""
        if self.path != self.file:
            assert self.path.is_symlink(), "the link is no link any more"
        data = self.file.read_bytes() if self.file.exists() else None
        if data == self.old:
            assert data is None or mode_of(self.file) == self.old_mode
            return False
        assert data is not None, "the file is gone"
        assert values_in(self.form, data) == self.wanted
        assert self.frame is None or surroundings_in(self.form, data) == self.frame
        assert mode_of(self.file) == 0o600
        return True

    def check_next(self, *, new: bool) -> None:
        """The next session, and one that began before, save what they have; nothing is in their way or left."""
        before = self.wanted if new else values_in(self.form, self.old) if self.old is not None else {}
        now = read_cookie_file(self.path, now=NOW)
        assert {c.name: c.value for c in now.cookies} == before
        save_cookie_file(now, [*now.cookies, a_cookie("next")], now=NOW, timeout=PATIENCE)
        save_cookie_file(self.other, [*self.other.cookies, a_cookie("last")], now=NOW, timeout=PATIENCE)
        form = self.form
        if form is not CookieFormat.NETSCAPE and self.old is None and not new:
            form = CookieFormat.STORAGE_STATE  # the next session finds no file, and has its name to go by
        found = values_in(form, self.file.read_bytes())
        assert before | {"next": "v", "last": "v"} == {k: v for k, v in found.items() if k in before or "t" in k}
        assert self.left() == [], "what the dead left is still there"
        assert mode_of(self.file) == 0o600


def a_cookie(name: str, value: str = "v") -> Cookie:
    same_site: Any = "Lax" if name.startswith("old") else None
    return Cookie(name=name, value=value, domain="site.test", expires=LATER, same_site=same_site)


def forked(work: Callable[[], None]) -> int:
    """The pid of a process that does `work`; it exits with 0, or with 1 after a traceback."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def killed(folder: Path, form: CookieFormat, situation: str, fault: str) -> Iterator[str]:
    """Saves that are killed at their first call, their second and so on; at the last one, nothing is struck.

    Args:
        folder: For the lives.
        form: The format of the file.
        situation: How it is found.
        fault: ``kill``; ``power`` takes with it what is not on the disk; ``half`` kills in the middle of a write.
    """
    for number in itertools.count(1):
        life = Life(folder / "life", form, situation)
        inlet, outlet = os.pipe()

        def work(life: Life = life, number: int = number, outlet: int = outlet) -> None:
            def strike(point: Point) -> Any:
                if point.number < number:
                    return point.do()
                if fault == "half":
                    if point.name != "write":
                        return point.do()
                    calls.real["write"](point.args[0], bytes(point.args[1])[: len(point.args[1]) // 2])
                calls.real["write"](outlet, str(point).encode())
                if fault == "power":
                    calls.lose_power()
                os.kill(os.getpid(), signal.SIGKILL)
                return None

            calls = Calls(strike)
            with calls.patched():
                life.save()
                calls.returned()
            assert not calls.broken, calls.broken
            assert life.check_whole(), "it said that it had saved"

        pid = forked(work)
        os.close(outlet)
        with os.fdopen(inlet) as told:
            where = told.read()
        status = os.waitpid(pid, 0)[1]
        cell = f"{fault}, {form}, {situation}, at {where or 'no call'}"
        with in_cell(cell):
            clean = os.WIFEXITED(status)
            assert os.WEXITSTATUS(status) == 0 if clean else os.WTERMSIG(status) == signal.SIGKILL, status
            new = life.check_whole()
            if fault == "power" and clean:
                assert new
            dead = [name for name in life.left() if situation != "left by the dead"]
            assert len(dead) <= 1, dead
            assert all(mode_of(life.file.parent / name) == 0o600 for name in dead), "all may read it"
            life.check_next(new=new)
        shutil.rmtree(folder / "life")
        yield cell
        if clean or fault == "half":
            return


ERRORS: Final = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EACCES", "EMFILE", "done, then EIO", "MemoryError")
"""What strikes one call."""
LASTING: Final = ("ENOSPC for good", "EROFS for good", "EIO for good", "half written, then ENOSPC for good", "short")
"""What strikes a disk from one call on: nothing can be made or written any more, not a rescue file either."""


def failing(folder: Path, form: CookieFormat, situation: str, fault: str) -> Iterator[str]:
    """Saves whose first call fails, whose second one fails, and so on, after one in which nothing does."""
    points: list[Point] = []
    for number in itertools.count():
        if number > len(points):
            return
        if number and not _strikes(fault, points[number - 1]):
            continue
        life = Life(folder / "life", form, situation)
        struck: list[Point] = []

        def strike(point: Point, number: int = number, struck: list[Point] = struck) -> Any:
            return _failed(point, number, fault, struck) if number else point.do()

        calls = Calls(strike)
        cell = f"{fault}, {form}, {situation}, at {points[number - 1] if number else 'no call'}"
        with in_cell(cell):
            _check_failed(life, calls, struck, fault)
            assert len(struck) >= bool(number), "it never struck"
        shutil.rmtree(folder / "life")
        points = points or calls.made
        yield cell


def _check_failed(life: Life, calls: Calls, struck: list[Point], fault: str) -> None:
    """Save, and see what became of the file, what the error tells, and what the next ones find."""
    before, left = set(os.listdir("/dev/fd")), set(life.left())
    error: CookieSaveError | None = None
    try:
        with calls.patched():
            life.save()
            calls.returned()
    except CookieSaveError as e:
        error = e.with_traceback(None)
        error.__context__ = error.__cause__ = None  # their frames hold what the save held
    assert not calls.broken, calls.broken
    new = life.check_whole()
    if error is None:
        assert new, "it said that it had saved"
    else:
        assert struck, f"nothing failed: {error}"
        _check_told(error, life, fault)
        moved = [p for p in calls.made if p.name == "replace" and p.what == "part" and p.number < struck[0].number]
        assert moved or "done" in fault or not new, "it failed before the rename"
    swept = error is None and struck and struck[0].name not in {"listdir", "unlink"}
    assert set(life.left()) <= (set() if swept else left), "it left its part"
    assert set(os.listdir("/dev/fd")) == before, "it left a descriptor open"
    life.check_next(new=new)


def _strikes(fault: str, point: Point) -> bool:
    """Whether the fault can strike at this call."""
    if fault == "short" or "half" in fault:
        return point.name == "write"
    if point.name == "unlock":
        return False  # see `test_an_unlock_that_fails_does_not_keep_the_lock`
    return point.name in (MAKES if "for good" in fault else AFTERWARDS if "done" in fault else {point.name})


def _failed(point: Point, number: int, fault: str, struck: list[Point]) -> Any:
    """Make the call, or fail it."""
    code = getattr(errno, fault.split(maxsplit=1)[0], None) or (errno.EIO if "EIO" in fault else errno.ENOSPC)
    error: Exception = MemoryError() if fault == "MemoryError" else OSError(code, os.strerror(code))
    if fault == "short":
        if point.name != "write" or len(point.args[1]) == 1:
            return point.do()
        struck.append(point)
        return _write_some(point, len(point.args[1]) // 2)
    if "for good" in fault:
        if point.number < number or point.name not in MAKES:
            return point.do()
        struck.append(point)
        if "half" in fault and len(struck) == 1:
            return _write_some(point, len(point.args[1]) // 2)
        raise error
    if point.number != number:
        return point.do()
    struck.append(point)
    if "done" in fault or point.name == "close":
        point.do()  # whatever close says, the descriptor is closed
    raise error


def _write_some(point: Point, count: int) -> int:
    return os.writev(point.args[0], [bytes(point.args[1])[:count]])


def _check_told(error: CookieSaveError, life: Life, fault: str) -> None:
    assert error.path == str(life.path)
    assert error.reason
    if "for good" in fault:
        assert error.rescue_path is None
        places = [life.folder / "state", life.folder / "temp"]
        assert [p for place in places for p in place.rglob("*") if p.is_file()] == []
        return
    assert error.rescue_path is not None, error
    rescue = Path(error.rescue_path)
    assert rescue.parent == life.folder / "state" / "lifecycle" / "rescue"
    assert mode_of(rescue) == 0o600
    assert os.listdir(rescue.parent) == [rescue.name]
    kept = values_in(CookieFormat.STORAGE_STATE, rescue.read_bytes())
    assert kept == {c.name: c.value for c in life.ours}


# --- many writers -------------------------------------------------------------------------------------------------

SAVES: Final = 3


def writers(
    folder: Path, form: CookieFormat, processes: int, threads: int, seed: int, *, victim: bool
) -> Iterator[str]:
    """Processes with threads that save at once while the file is read; the first is killed in it, if there is a victim.

    Each adds a cookie with each save and counts its saves in another. Odd ones load anew before each save, even ones
    load once, as a session does.
    """
    cell = f"{form}, {processes} processes of {threads} threads, seed {seed}{', one is killed' if victim else ''}"
    rng = random.Random(cell)
    life = Life(folder / "life", form, rng.choice(("file", "link")))
    inlet, outlet = os.pipe()
    fatal = rng.randrange(3, 20 * SAVES * threads)  # a save makes more calls than 20

    def work(me: int) -> None:
        def strike(point: Point) -> Any:
            if victim and me == 0 and point.number == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return point.do()

        failures: list[BaseException] = []

        def write(thread: int) -> None:
            try:
                name = f"{me}.{thread}"
                loaded, mine = read_cookie_file(life.path, now=NOW), []
                for n in range(1, SAVES + 1):
                    if (me + thread) % 2:
                        loaded, mine = read_cookie_file(life.path, now=NOW), []
                    mine.append(a_cookie(f"{name}-{n}"))
                    others = [c for c in loaded.cookies if c.name != f"{name}-count"]
                    count = a_cookie(f"{name}-count", str(n))
                    save_cookie_file(loaded, [*others, *mine, count], now=NOW, timeout=60)
                    writev(outlet, [f"{name} {n}\n".encode()])
            except BaseException as e:
                failures.append(e)

        writev = os.writev
        calls = Calls(strike)
        with calls.patched() if victim and me == 0 else contextlib.nullcontext():
            started = [threading.Thread(target=write, args=(t,)) for t in range(threads)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()
        if failures:
            raise failures[0]

    pids = [forked(lambda me=me: work(me)) for me in range(processes)]
    os.close(outlet)
    running, ends, seen = list(pids), {}, dict.fromkeys(OLD, "1")
    try:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                running.remove(pid)
                ends[pid] = status
            seen = _read_on(life, seen)
        told = os.read(inlet, 1 << 16).decode().split("\n")[:-1]
        done = {name: int(n) for name, n in (entry.split() for entry in told)}
        for me, pid in enumerate(pids):
            status = ends[pid]
            if victim and me == 0:
                assert os.WIFSIGNALED(status), "it was not killed"
            else:
                assert status == 0, (me, status)
                assert all(done[f"{me}.{t}"] == SAVES for t in range(threads))
        for name, count in done.items():
            assert {f"{name}-{n}" for n in range(1, count + 1)} <= set(seen), "a cookie that was saved is lost"
            assert count <= int(seen[f"{name}-count"]) <= count + 1, "a change that was saved is lost"
        assert mode_of(life.file) == 0o600
        save_cookie_file(life.loaded, life.loaded.cookies, now=NOW, timeout=PATIENCE)
        assert _read_on(life, seen) == seen
        assert life.left() == []
    except BaseException as e:
        e.add_note(f"cell: {cell}")
        raise
    finally:
        os.close(inlet)
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    shutil.rmtree(folder / "life")
    yield cell


def _read_on(life: Life, seen: dict[str, str]) -> dict[str, str]:
    """What is in the file now: valid, and nothing of what was seen before is lost or older than it was."""
    data = life.path.read_bytes()
    found = values_in(life.form, data)
    assert set(seen) <= set(found), "a cookie that was in the file is lost"
    assert all(int(found[name]) >= int(n) for name, n in seen.items() if name.endswith("count")), "it went back"
    assert surroundings_in(life.form, data) == life.frame
    assert {c.name for c in read_cookie_file(life.path, now=NOW).cookies} >= set(found)
    return found


def main() -> None:
    """Live the jobs, and print the cells."""
    jobs, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    cells: list[str] = []
    os.fsync = os.fstat  # type: ignore[assignment] # no disk is waited for: what it would lose is known here
    for kind, form, *rest in jobs:
        if kind == "writers":
            processes, threads, seed, victim = rest
            cells += writers(folder, CookieFormat(form), processes, threads, seed, victim=victim)
        else:
            cells += {"killed": killed, "failing": failing}[kind](folder, CookieFormat(form), *rest)
    print(json.dumps(cells))


if __name__ == "__main__":
    main()
