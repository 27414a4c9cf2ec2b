"""The fault campaign: every edge of the table, before and after each of its steps, meets every fault; what must hold.

Rule: what is tried is made from EDGES, so a new edge or step is in it the day it is added; an edge that nobody has
written a story for is an error. A cell is (edge, step, side, fault, API, backend). The invariants know nothing of the
cell: they hold for each life, whatever struck it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import children
from both_ways import FailingStore, eventually
from cells import in_cell
from planted import COOKIE, TOKEN

from lifecycle import AsyncClient, Client, LifecycleError, RecordKind
from lifecycle.audit import FIRST, Record, replay
from lifecycle.cookies import jar
from lifecycle.engine import supervisor
from lifecycle.errors import BackendError, CookieSaveError, StoreError
from lifecycle.spill import read
from lifecycle.states import EDGES, STEPS, Edge, Event, InFlight, State, Step
from lifecycle.stores import open_store
from lifecycle.stores.sqlite import SQLiteStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lifecycle.ports import SessionRow

__all__ = [
    "CELLS",
    "KILLED",
    "KILLS",
    "TOKEN",
    "Cell",
    "Kill",
    "World",
    "each_in_a_folder",
    "killed",
    "live",
    "names_in",
    "pairs",
    "rescued",
    "slice_of",
]

T = TypeVar("T")

OLD: Final = {"name": "old", "value": COOKIE, "domain": "site.test", "path": "/", "expires": 4102444800}
NEW: Final = {"name": "new", "value": f"{COOKIE}-2", "domain": "site.test", "path": "/", "expires": 4102444800}

IDLE: Final = 600
"""Minutes of the idle timeout: far beyond all budgets together."""

TOO_LONG: Final = 0.1
"""Minutes of the start timeout: less than the budget of a step."""

STRUCK: Final = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else None

BOUND: Final = 30
"""Seconds after which a life that has not ended is taken to hang."""

OF_THE_CALLER: Final = ("cancelled", "KeyboardInterrupt", "SystemExit")
OF_THE_STORE: Final = ("disk full", "disk full for a while", "store locked", "store vanished")
WRITES: Final = ("the intent", "the commit")
"""What an edge writes to the store before and after its steps; only faults of the store strike there."""

OF_COOKIES: Final = ("cookie disk full", "cookie disk hangs")
"""Nothing can be written where the cookie file lies; only its save is struck by it."""

FAULTS: Final = ("raise", "raise ours", "raise OSError", "hang", "crash", *OF_THE_STORE, *OF_THE_CALLER, *OF_COOKIES)
SIDES: Final = ("before", "after")
APIS: Final = ("sync", "async")

STORIES: Final = {
    (Event.START, State.NOT_STARTED): ("life",),
    (Event.ATTACH, State.NOT_STARTED): ("visit",),
    (Event.STOP, State.NOT_STARTED): ("stop of a start", "stop of an attach"),
    (Event.STOP, State.ACTIVE): ("life", "visit that stops"),
    (Event.DETACH, State.ACTIVE): ("visit",),
    (Event.EXPIRE, State.NOT_STARTED): ("start that takes too long", "attach that takes too long"),
    (Event.EXPIRE, State.ACTIVE): ("idle life",),
    (Event.FAIL, State.NOT_STARTED): ("start that fails", "attach that fails"),
    (Event.FAIL, State.ACTIVE): ("life with a bad hook",),
}
"""How an edge is come to. `operate` has no steps."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to try."""

    edge: Edge
    story: str
    step: Step | str
    side: str
    fault: str
    api: str
    then: tuple[Step, str, str] | None = None
    """The step, side and fault of a second one, which strikes once the first has."""

    def __str__(self) -> str:
        then = f", then {self.then[2]} {self.then[1]} {self.then[0]}" if self.then is not None else ""
        return f"{self.edge.name} ({self.story}), {self.fault} {self.side} {self.step}{then}, {self.api}"

    @property
    def possible(self) -> bool:
        """False where there is nothing that the fault could strike."""
        if self.fault == "cancelled" and self.api == "sync":
            return False  # a thread can't be cancelled
        if self.edge.event is Event.ATTACH and self.step is Step.OPEN_VIEWER:
            return False  # a guest asks for none
        if self.fault in OF_COOKIES:
            return self.step is Step.SAVE_COOKIES and self.side == "before"
        if self.fault == "crash":
            opens = Step.CONNECT_BACKEND if Step.CONNECT_BACKEND in self.edge.steps else Step.OPEN_BACKEND
            order = [*self.edge.steps]
            if opens in order:  # not before there is a backend
                return order.index(self.step) > order.index(opens) or (self.step is opens and self.side == "after")
            return not (self.step is Step.RELEASE_BACKEND and self.side == "after")  # nor once it is released
        return True


CELLS: Final = tuple(
    cell
    for edge in EDGES
    if edge.steps
    for story in STORIES[edge.event, edge.source]
    for api in APIS
    for step, side, fault in [
        *itertools.product(edge.steps, SIDES, FAULTS),
        *itertools.product(WRITES, ("before",), OF_THE_STORE),
    ]
    if (cell := Cell(edge, story, step, side, fault, api)).possible
)


def pairs(count: int, seed: int = 0) -> list[Cell]:
    """`count` different cells in which a second fault follows the first."""
    rng = random.Random(seed)
    found: dict[Cell, None] = {}
    while len(found) < count:
        cell = rng.choice(CELLS)
        later = [step for step in Step if step not in (Step.READ_COOKIES, Step.PROBE_BACKEND, Step.OPEN_BACKEND)]
        then = (rng.choice(later), rng.choice(SIDES), rng.choice([f for f in FAULTS if f not in OF_COOKIES]))
        # A second strike in a loop makes asyncio.run give up what it closes: all of it ends with its client then.
        twice = cell.api == "async" and {cell.fault, then[2]} <= {*OF_THE_CALLER}
        if not twice and (then[2] != "cancelled" or cell.api == "async"):
            found[dataclasses.replace(cell, then=then)] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class Kill:
    """An owner that is killed, and perhaps the process after it, while that recovers what was left."""

    cell: Cell
    backend: str
    again: str = ""
    """On which side of its first write the process that recovers is killed too."""

    def __str__(self) -> str:
        again = f", then the one that recovers, {self.again} its first write" if self.again else ""
        return f"{self.cell}, {self.backend}{again}"

    def adapter(self, service: str) -> Any:
        """An adapter for its backend."""
        if self.backend == "memory":
            return MemoryAdapter()
        from lifecycle_adapters.local import LocalAdapter
        from lifecycle_adapters.remote import RemoteAdapter

        if self.backend == "local":
            return LocalAdapter()
        return RemoteAdapter(api_key=TOKEN, base_url=service, poll_seconds=0.2)

    def perform(self, role: str, folder: Path, service: str) -> int:
        """Live as the owner, or recover what it left; both are to be killed in it."""
        if role == "owner":
            print("not killed:", repr(live(self.cell, folder, self.adapter(service)).raised))
            return 1
        store = _tell_of_writes(SQLiteStore(folder / "log.db"), self._writing)
        with Client(adapter=self.adapter(service), store=store, clock=ManualClock()) as client:
            client.sessions.reap()
        return 0

    def _writing(self, records: Sequence[Record], side: str) -> None:
        if records and side == self.again:
            os.kill(os.getpid(), signal.SIGKILL)


KILLED: Final = tuple(
    cell
    for edge in EDGES
    if edge.steps
    for story in STORIES[edge.event, edge.source]
    for step in [*edge.steps, *WRITES]
    for side in SIDES
    for api in APIS
    if (cell := Cell(edge, story, step, side, "SIGKILL", api)).possible
)

KILLS: Final = tuple(
    Kill(cell, backend, again)
    for backend, agains in {"memory": ("", *SIDES), "service": ("", *SIDES), "local": ("",)}.items()
    for again in agains
    for cell in KILLED
)
"""In processes of their own, on a store in a file."""


def slice_of(cells: Sequence[T], part: int, parts: int) -> list[T]:
    """The cells of one part, dealt out so that each part has some of everything."""
    shuffled = list(cells)
    random.Random(20240101).shuffle(shuffled)
    return shuffled[part::parts]


def each_in_a_folder(cells: Sequence[T], folder: Path, live: Callable[[T, Path], object]) -> None:
    """Live the cells, each in a folder of its own; what fails says in which."""
    for cell in cells:
        life = folder / "life"
        life.mkdir()
        with in_cell(cell):
            live(cell, life)
        shutil.rmtree(life)


def _tell_of_writes(store: Any, writing: Callable[[Sequence[Record], str], None]) -> Any:
    """`store`, which tells before and after each write what is written."""
    write = store.write

    def told(records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        writing(records, "before")
        write(records, rows)
        writing(records, "after")

    store.write = told
    return store


class World:
    """All that one life touches.

    Attributes:
        struck: True once the fault has struck.
        raised: What the story raised.
    """

    def __init__(self, cell: Cell, folder: Path, adapter: Any = None) -> None:
        self.cell = cell
        self.clock = ManualClock()
        store = SQLiteStore(folder / "log.db") if cell.fault == "SIGKILL" else FailingStore()
        self.store = _tell_of_writes(store, self._writing)
        self.adapter = adapter or MemoryAdapter()
        self.cookie_file = folder / "cookies.json"
        self.cookie_file.write_text(json.dumps({"cookies": [OLD], "origins": []}))
        self.idle = 30 if self.adapter.name == "remote" else IDLE
        self.start_timeout = TOO_LONG if "too long" in cell.story else 2
        self.cookies_refused = False
        self.gone_on = threading.Event()
        self.struck = self.struck_again = False
        self.given: set[str] = set()
        self.raised: BaseException | None = None
        self.attachments: dict[str, Any] = {}
        self.guests: set[str] = set()
        self.cores: list[Any] = []
        self.weather: list[threading.Thread] = []
        """Who moves the clock."""
        self.over = threading.Event()
        self.strike_caller: Callable[[], None] = lambda: None
        self.cancel_caller: Callable[[], None] = lambda: None
        self.strikes: deque[str] = deque()
        self.held = threading.Event()
        """A start or attach is where its story wants it."""

    # --- the fault ----------------------------------------------------------------------------------------------

    def watch(self, core: Any) -> None:
        """Have the steps of a client go through `_around`."""
        self.cores.append(core)
        runner = core.flow._steps
        runner._steps = {step: self._around(step, work) for step, work in runner._steps.items()}

    def _around(self, step: Step, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def run(att: Any) -> str | None:
            here = step is self.cell.step and self._on_the_edge(att)
            if here and self.cell.side == "before":
                await self._strike(att)
            await self._strike_again(att, step, "before")
            if step is Step.LOAD_COOKIES and att.in_flight in (InFlight.START, InFlight.ATTACH):
                await self._hold(att)
            note = await work(att)
            if here and self.cell.side == "after":
                await self._strike(att)
            await self._strike_again(att, step, "after")
            return note

        return run

    def _writing(self, records: Sequence[Record], side: str) -> None:
        edge, kind = self.cell.edge, {"the intent": RecordKind.INTENT, "the commit": RecordKind.COMMIT}
        for r in records:
            here = (r.kind, r.event, r.source) == (kind.get(str(self.cell.step)), edge.event, edge.source)
            if (
                here
                and side == self.cell.side
                and not self.struck
                and (r.attachment_id in self.guests) is self._of_a_guest
            ):
                self.struck = True
                if self.cell.fault == "SIGKILL":
                    os.kill(os.getpid(), signal.SIGKILL)
                self._strike_store(self.cell.fault)

    def _strike_store(self, fault: str) -> None:
        if fault == "store locked":
            self.store.error = StoreError("the database is locked", store=self.store.url)
        elif fault == "store vanished":
            self.store.error = sqlite3.OperationalError("unable to open database file")
        self.store.broken = True

    @property
    def _of_a_guest(self) -> bool:
        return "visit" in self.cell.story or "attach" in self.cell.story

    def _on_the_edge(self, att: Any) -> bool:
        edge = self.cell.edge
        if att.guest is not self._of_a_guest:
            return False
        if edge.event in (Event.START, Event.ATTACH):
            return att.in_flight in (InFlight.START, InFlight.ATTACH)
        return att.in_flight is InFlight.ENDING and (att.state, att.ending_dest) == (edge.source, edge.dest)

    async def _hold(self, att: Any) -> None:
        """Keep a start or an attach in flight, or make it fail, where the story says so."""
        if att.guest is not ("attach" in self.cell.story):
            return
        if "stop of" in self.cell.story:
            self.held.set()
            await asyncio.Event().wait()
        elif "too long" in self.cell.story:
            self.held.set()
            threading.Thread(target=self.clock.advance, args=(TOO_LONG * 60 + 0.1,)).start()
            await asyncio.Event().wait()
        elif "that fails" in self.cell.story:
            raise BackendError("this start fails")

    async def _strike(self, att: Any) -> None:
        if not self.struck:
            self.struck = True
            await self._do(att, self.cell.fault)

    async def _strike_again(self, att: Any, step: Step, side: str) -> None:
        then = self.cell.then
        ready = self.struck and not self.struck_again and att.guest is self._of_a_guest
        if ready and then is not None and then[:2] == (step, side):
            self.struck_again = True
            await self._do(att, then[2])

    @property
    def possible_faults(self) -> set[str]:
        """The faults that may strike."""
        return {self.cell.fault, *([self.cell.then[2]] if self.cell.then is not None else [])}

    @property
    def faults(self) -> set[str]:
        """The faults that have struck."""
        return {self.cell.fault, *([self.cell.then[2]] if self.cell.then is not None and self.struck_again else [])}

    async def _do(self, att: Any, fault: str) -> None:
        match fault:
            case "raise":
                raise RuntimeError("struck")
            case "raise ours":
                raise BackendError("struck")
            case "raise OSError":
                raise OSError(28, "No space left on device")
            case "hang":
                self._weather(self._pass_time)
                await asyncio.Event().wait()
            case "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            case "cookie disk full":
                self.cookies_refused = True
            case "cookie disk hangs":
                self.cookies_refused = True
            case "crash":
                if att.session_id in self.adapter.live:
                    self.adapter.crash(att.session_id)
            case fault if fault in OF_THE_STORE:
                self._strike_store(fault)
            case "cancelled":
                self.cancel_caller()
            case _:
                self.strikes.append(fault)
                self.strike_caller()

    def _weather(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self.weather.append(thread)
        thread.start()

    def _pass_time(self) -> None:
        while not self.over.wait(0.0005):
            self.clock.advance(2.0)

    # --- the stories --------------------------------------------------------------------------------------------

    def made(self, session: Any) -> Any:
        self.attachments[session.attachment_id] = session
        return session

    def session(self, client: Any, owner: Any) -> Any:
        """The session that the story is about: a guest of `owner` where there is one."""
        options: dict[str, Any] = {"cookie_file": self.cookie_file, "start_timeout_minutes": self.start_timeout}
        if owner is None:
            return self.made(client.Session(headless=False, timeout_minutes=self.idle, **options))
        on_exit = "detach" if self.cell.edge.event in (Event.DETACH, Event.ATTACH) else "stop"
        guest = self.made(client.Session(owner.session_id, on_exit=on_exit, **options))
        self.guests.add(guest.attachment_id)
        return guest

    def check(self, folder: Path) -> None:
        """The invariants."""
        cell = self.cell
        assert self.struck, f"the fault never struck, the story raised {self.raised!r}"
        self._check_backends()
        self._check_log()
        self._check_cookies(folder)
        self._check_caller()
        assert all(core.active == {} for core in self.cores), "a client keeps what is over"
        assert all(s.state.terminal or s.state is State.NOT_STARTED for s in self.attachments.values()), cell

    def _check_backends(self) -> None:
        eventually(lambda: self.adapter.live == [], f"opened {self.adapter.opened}, released {self.adapter.released}")
        if self.cell.edge.event is Event.START and self.cell.step == "the intent":
            assert self.adapter.opened == [], "a browser without a durable intent"
        assert sorted(self.adapter.released) == sorted(set(self.adapter.opened)), "each is released, and once"

    def _check_log(self) -> None:
        records = [record for _, record in self.store.records()]
        spilled = self._spilled()
        if self.faults & {*OF_THE_STORE} and "disk full for a while" not in self.faults:
            assert spilled is not None or not self.store.broken
        told = [*records, *(r for r in spilled or [] if r not in records)]
        of = by_attachment(told)
        for attachment_id, session in self.attachments.items():
            mine = of.get(attachment_id, [])
            begun = [r for r in mine if r.kind is RecordKind.INTENT]
            ends = [r for r in mine if r.terminal]
            assert len(ends) == bool(begun or session.state.terminal), [(r.kind, r.event) for r in mine]
            assert replayed(mine) is session.state, "the log replays to another state"
            if spilled is None and begun and attachment_id not in self.guests:
                row = self.store.session(session.session_id)
                assert row is not None
                assert (row.state, row.released) == (session.state, True)

    def _spilled(self) -> list[Record] | None:
        """The records in the journal's rescue file, None where there is none."""
        found: list[Record] = []
        paths = {core.journal._rescue for core in self.cores if core.journal._rescue is not None}
        for path in paths:
            found += read(path).records
            path.unlink()
        return found if paths else None

    def _check_cookies(self, folder: Path) -> None:
        names = names_in(self.cookie_file)
        assert names in ({"old"}, {"old", "new"}), names
        ends = [r for _, r in self.store.records() if r.terminal]
        saved = any(s.step == Step.SAVE_COOKIES and s.outcome == "done" for r in ends for s in r.steps)
        if saved:
            assert names == {"old", *self.given}, f"the log says saved: {names}"
            assert stat.S_IMODE(self.cookie_file.stat().st_mode) == 0o600
        told = [e for e in _all(self.raised) if isinstance(e, CookieSaveError)]
        if self.cell.fault in OF_COOKIES:
            assert names == {"old"}
            if (
                "bad hook" not in self.cell.story and self.cell.then is None
            ):  # whose error comes first, with this one as a note on it
                assert [e.rescue_path is not None for e in told] == [True], repr(self.raised)
        for error in told:
            if error.rescue_path is not None:
                assert names_in(Path(error.rescue_path)) == {"old", *self.given}
                assert stat.S_IMODE(os.stat(error.rescue_path).st_mode) == 0o600
        left = {p.name for p in folder.iterdir()} - {"cookies.json"}
        assert all("rescue" in name or name.endswith(".lock") for name in left), left

    def _check_caller(self) -> None:
        expected = {
            "cancelled": asyncio.CancelledError,
            "KeyboardInterrupt": KeyboardInterrupt,
            "SystemExit": SystemExit,
        }
        if kinds := tuple(expected[fault] for fault in self.faults & expected.keys()):
            assert type(self.raised) in kinds, f"the caller got {self.raised!r}"
        else:
            foreign = {"raise": RuntimeError, "raise OSError": OSError}
            allowed = (LifecycleError, *(foreign[fault] for fault in self.faults & foreign.keys()))
            assert self.raised is None or isinstance(self.raised, allowed), repr(self.raised)


def by_attachment(told: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each attachment: a path through the table, without a gap, and chained by each writer."""
    of: dict[str, list[Record]] = {}
    seqs: dict[str, list[int]] = {}
    last: dict[str, str] = {}
    for r in told:
        assert r.prev == last.get(r.writer, FIRST), "the chain of a writer is broken"
        last[r.writer] = r.hash.hex()
        of.setdefault(r.attachment_id, []).append(r)
        seqs.setdefault(f"attachment {r.attachment_id}", []).append(r.attachment_seq)
        seqs.setdefault(f"writer {r.writer}", []).append(r.writer_seq)
    for whose, found in seqs.items():
        assert found == list(range(1, len(found) + 1)), f"the numbers of {whose} have a gap"
    for life in replay(told).values():
        assert life.problems == (), f"the records of an attachment are no path: {life.problems}"
    return of


def replayed(told: Sequence[Record]) -> State:
    """The state that the records of an attachment lead to, one from the other."""
    state = State.NOT_STARTED
    for r in told:
        if r.kind in (RecordKind.COMMIT, RecordKind.RECOVERED):
            assert r.source is state, "a commit leaves a state that the log has not reached"
            state = r.dest
    return state


def names_in(path: Path) -> set[str]:
    """The names of the cookies in a file."""
    return {cookie["name"] for cookie in json.loads(path.read_text())["cookies"]}


def rescued(world: World) -> bool:
    """True where an error names a rescue file."""
    return any(isinstance(e, CookieSaveError) and e.rescue_path is not None for e in _all(world.raised))


def _all(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# --- a life, by each of the two clients ---------------------------------------------------------------------------


def live(cell: Cell, folder: Path, adapter: Any = None) -> World:
    """Live one cell; the world as it is after it."""
    world = World(cell, folder, adapter)
    before = len(supervisor()._tasks)
    with _cookie_disk(world):
        _live(world)
    eventually(lambda: len(supervisor()._tasks) <= before, "a task of the supervisor is left")
    return world


@contextlib.contextmanager
def _cookie_disk(world: World) -> Iterator[None]:
    original = jar.replace_file

    def replace_file(path: Path, data: bytes) -> None:
        if world.cookies_refused and path.name == world.cookie_file.name:
            if world.cell.fault == "cookie disk hangs":
                seconds = STEPS[Step.SAVE_COOKIES].budget + 0.1
                world._weather(lambda: world.clock.advance(seconds))  # while this thread waits
                world.gone_on.wait()
            raise OSError(28, "No space left on device")
        original(path, data)

    jar.replace_file = replace_file
    try:
        yield
    finally:
        jar.replace_file = original


def _live(world: World) -> None:
    cell = world.cell
    try:
        if cell.api == "sync":
            _sync(world)
        else:
            _async(world)
    finally:
        world.over.set()
        world.gone_on.set()
        for weather in world.weather:
            weather.join()


@contextlib.contextmanager
def _signals(world: World, known: Mapping[str, type[BaseException]]) -> Iterator[None]:
    def raising(signum: int, frame: object) -> None:
        raise known[world.strikes.popleft()]

    assert STRUCK is not None
    before = signal.signal(STRUCK, raising)
    try:
        yield
    finally:
        signal.signal(STRUCK, before)


def _signal_main() -> None:
    assert STRUCK is not None
    signal.pthread_kill(threading.main_thread().ident or 0, STRUCK)


@contextlib.contextmanager
def _striking(world: World) -> Iterator[None]:
    known = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}
    if not known.keys() & world.possible_faults:
        yield
        return
    world.strike_caller = _signal_main
    with _signals(world, known):
        yield


def _sync(world: World) -> None:
    cell = world.cell
    helpers: list[threading.Thread] = []

    def bad(session: object) -> None:
        raise ValueError("a bad hook")

    def story(client: Client, owners: Client) -> None:
        owner = None
        if world._of_a_guest:
            owner = world.made(owners.Session(timeout_minutes=world.idle))
            owner.start()
        session = world.session(client, owner)
        if "bad hook" in cell.story:
            session.hook(after="start")(bad)
        if "stop of" in cell.story:

            def begin() -> None:
                with contextlib.suppress(LifecycleError):
                    session.start()

            helper = threading.Thread(target=begin)
            helpers.append(helper)
            helper.start()
            assert world.held.wait(20)
            session.stop()
            return
        with session:
            session.set_cookies(cookies=[NEW])
            world.given = {"new"}
            if "idle" in cell.story:
                world.clock.advance(world.idle * 60 + 1)
                session.wait_ended()

    with _striking(world):
        try:
            with (
                Client(adapter=world.adapter, store=world.store, clock=world.clock) as owners,
                Client(adapter=world.adapter, store=world.store, clock=world.clock) as client,
            ):
                world.watch(client._core)
                try:
                    story(client, owners)
                finally:
                    if "disk full for a while" in world.faults:
                        world.store.broken = False
        except BaseException as e:
            world.raised = e
    for helper in helpers:
        helper.join(20)
        assert not helper.is_alive(), "a call has not come back"


def _async(world: World) -> None:
    cell = world.cell

    async def bad(session: object) -> None:
        raise ValueError("a bad hook")

    async def story(client: AsyncClient, owners: AsyncClient) -> None:
        owner = None
        if world._of_a_guest:
            owner = world.made(owners.Session(timeout_minutes=world.idle))
            await owner.start()
        session = world.session(client, owner)
        if "bad hook" in cell.story:
            session.hook(after="start")(bad)
        if "stop of" in cell.story:

            async def begin() -> None:
                with contextlib.suppress(LifecycleError):
                    await session.start()

            helper = asyncio.create_task(begin())
            while not world.held.is_set():
                await asyncio.sleep(0.001)
            try:
                await session.stop()
            finally:
                assert (await asyncio.wait({helper}, timeout=20))[0], "a call has not come back"
            return
        async with session:
            await session.set_cookies(cookies=[NEW])
            world.given = {"new"}
            if "idle" in cell.story:
                world.clock.advance(world.idle * 60 + 1)
                await session.wait_ended()

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        world.cancel_caller = lambda: loop.call_soon_threadsafe(task.cancel)
        async with (
            AsyncClient(adapter=world.adapter, store=world.store, clock=world.clock) as owners,
            AsyncClient(adapter=world.adapter, store=world.store, clock=world.clock) as client,
        ):
            world.watch(client._core)
            try:
                await story(client, owners)
            finally:
                if "disk full for a while" in world.faults:
                    world.store.broken = False

    with _striking(world):
        try:
            asyncio.run(main())
        except BaseException as e:
            world.raised = e


def killed(kill: Kill, folder: Path, service: str = "") -> bool:
    """Kill the owner of a session, and see what the next process makes of what is left.

    Returns:
        False where there was nothing to recover, so that the process that would have been killed in it was not.
    """
    cookie_file, url = folder / "cookies.json", f"sqlite:///{folder / 'log.db'}"
    struck, pids = True, []
    for role in ["owner", *(["recovers"] if kill.again else [])]:
        command = [sys.executable, __file__, str(KILLS.index(kill)), str(folder), service, role]
        with (
            (folder / "told").open("w+") as told,
            subprocess.Popen(command, env=children.environment(struck=True), stdout=told, stderr=told) as process,
        ):
            pids.append(process.pid)
            struck = process.wait(2 * BOUND) == -signal.SIGKILL
            told.seek(0)
            assert struck or (role == "recovers" and process.returncode == 0), (process.returncode, told.read())
    assert names_in(cookie_file) in ({"old"}, {"old", "new"})
    adapter = kill.adapter(service)
    with Client(adapter=adapter, store=url, clock=ManualClock()) as client:
        client.sessions.reap()
        with client.Session(cookie_file=cookie_file) as session:  # nothing that the dead one held is in its way
            assert {"old"} <= {cookie["name"] for cookie in session.get_cookies()}
    supervisor().call(lambda _: adapter.aclose())
    with contextlib.closing(open_store(url)) as store:
        assert store.unfinished() == []
        records = [record for _, record in store.records()]
        rows = store.sessions()
    for row in rows:
        assert (row.state.terminal, row.released) == (True, True)
    for mine in by_attachment(records).values():
        ends = [r for r in mine if r.terminal]
        assert len(ends) == 1, [(r.kind, r.event, r.source, r.dest) for r in mine]
        assert replayed(mine) is ends[0].dest
    if kill.backend == "local":
        of_theirs = f"lifecycle-{os.getuid()}/{pids[0]}-"
        assert children.left_running(of_theirs) == []
        assert list(Path(tempfile.gettempdir()).glob(f"{of_theirs}*/*")) == []
    return struck


def main() -> int:
    """Live the cells until one fails; 1 when one did, with what it was. A life that does not end is a failure too.

    Given the number of a kill of KILLS, a folder and the URL of a service, it is the owner in it, or who recovers.
    """
    faulthandler.dump_traceback_later(BOUND, exit=True)
    if len(sys.argv) > 1:
        number, folder, service, role = sys.argv[1:]
        return KILLS[int(number)].perform(role, Path(folder), service)
    cells = slice_of(CELLS, 0, 1)
    for number, cell in enumerate(cells, 1):
        faulthandler.dump_traceback_later(BOUND, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                live(cell, Path(folder)).check(Path(folder))
            except BaseException as e:
                print(f"cell {number}, {cell}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}")
                return 1
    print(f"{len(cells)} cells passed")
    return 0


if __name__ == "__main__":
    # Not through atexit: what a failure left hanging would be waited for.
    code = main()
    sys.stdout.flush()
    os._exit(code)
