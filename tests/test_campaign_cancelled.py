"""The fault campaign, part C: a task is cancelled at each point at which it, or what it waits for, is suspended.

Rule: each scene is lived for N = 1, 2, 3 ... until nothing is struck any more, so a new await is in it the day it is
added. A cell is (scene, how it is struck, N, suspensions in each call of the adapter). The invariants know nothing of
the cell.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from both_ways import PATIENCE, eventually
from campaign import by_attachment, replayed
from cells import in_cell
from striking import Swallowed
from test_cancellation import Waits

from lifecycle import AsyncClient, AsyncSession, LifecycleError, RecordKind, State
from lifecycle.actions import ActionResult
from lifecycle.engine import supervisor
from lifecycle.states import Event
from lifecycle.stores.memory import MemoryStore
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from lifecycle.audit import Record

pytestmark = [pytest.mark.slow]

PART = "C: cancellation at the Nth suspension point"
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}
MOST: Final = 200
"""A life that is struck at so many points never ends."""


class Suspending(MemoryAdapter):
    """Memory sessions, each call of which is suspended some times.

    Args:
        times: How often.
        at: Awaited before each suspension, on the supervisor, with the step.
    """

    def __init__(self, times: int, at: Callable[[str], Awaitable[None]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.times = times
        self._at = at

    async def _reach(self, step: Any, browser: Any, host: Any) -> None:
        for _ in range(self.times):
            if self._at is not None:
                await self._at(step)
            await asyncio.sleep(0)
        await super()._reach(step, browser, host)


class Loop(asyncio.SelectorEventLoop):
    """A caller's loop, whose time a test moves and whose answers a test sees arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0
        self.on_answer: Callable[[Callable[[], object]], bool] = lambda _: False
        """Called in the thread that answers; True when it has seen to what is to be called."""

    def time(self) -> float:
        return super().time() + self.ahead

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        def call() -> None:
            self.call_soon(callback, *args, context=context)

        if self.on_answer(call):
            return None
        return super().call_soon_threadsafe(callback, *args, context=context)


# --- how a task is struck -------------------------------------------------------------------------------------------

AT_ONCE: Final = "cancelled at wait"
TWICE: Final = ("cancelled twice, again a tick after wait", "cancelled twice, again at the first wait after wait")
TIMED: Final = ("asyncio.timeout at wait", "wait_for at wait", "asyncio.timeout and a cancellation at wait")
OF_WAITS: Final = (
    AT_ONCE,
    "cancelled in the tick of the end of wait",
    "cancelled a tick after the end of wait",
    "cancelled and caught at wait",
    "given up by its TaskGroup at wait",
    *TWICE,
    *TIMED,
)
OF_ANSWERS: Final = ("cancelled right before answer", "cancelled right after answer")
OF_BACKEND: Final = ("cancelled in the backend's suspension", "cancelled before the end of the backend's suspension")
ITSELF: Final = "the backend cancels itself at its suspension"
HOWS: Final = (*OF_WAITS, *OF_ANSWERS, *OF_BACKEND, ITSELF)

OF_CALLS: Final = {AT_ONCE: (0, 1, 3), **dict.fromkeys((*OF_BACKEND, ITSELF), (1, 3))}
"""How often a call of the adapter is suspended, where it is not once."""


@dataclass(frozen=True)
class Cell:
    """One thing to try."""

    scene: str
    how: str
    nth: int
    times: int

    def __str__(self) -> str:
        return f"{self.scene}, {self.how} {self.nth}, {self.times} suspensions in a call of the adapter"


class Points(Waits):
    """Awaits a coroutine and tells of each point at which it waits."""

    def __init__(self, told: Callable[[int, Any], None]) -> None:
        super().__init__(0, lambda _: None)
        self._told = told

    def at(self, future: Any) -> None:
        self.passed += 1
        self._told(self.passed, future)


class Life:
    """One life of a scene.

    Attributes:
        struck: How often it was struck.
        honoured: What was struck ended with its cancellation.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell = cell
        self.scene = SCENES[cell.scene]
        self.adapter = Suspending(cell.times, self._at_backend, results=scripted, can_live_on="service" in cell.scene)
        self.store = MemoryStore()
        self.cookie_file = folder / "cookies.json" if "file" in cell.scene else None
        self.sessions: list[AsyncSession] = []
        self.clients: list[AsyncClient] = []
        self.loop = Loop()
        self.armed = False
        self.struck = 0
        self.honoured = False
        self.posted = self.reached = 0
        self.task: asyncio.Task[Any] | None = None
        self.falls: asyncio.Future[bool] | None = None
        """Whether the TaskGroup falls, once that is known."""

    # --- the strike ---------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """On the caller's loop: once more, something ends what the task does."""
        task = self.task
        assert task is not None
        if not self.struck and self.cell.how in TIMED:
            self.loop.ahead += 2 * PATIENCE
        elif self.falls is not None:
            self.falls.set_result(True)
        else:
            task.cancel("struck")
        self.struck += 1

    def _at_wait(self, passed: int, future: Any) -> None:
        cell = self.cell
        if cell.how in (TWICE[1], TIMED[2]) and passed == cell.nth + 1:
            self.strike()
        if cell.how not in OF_WAITS or passed != cell.nth:
            return
        match cell.how:
            case "cancelled in the tick of the end of wait":
                future.add_done_callback(lambda _: self.strike())  # its task's own wakeup comes after this
            case "cancelled a tick after the end of wait":
                future.add_done_callback(lambda _: self.loop.call_soon(self.strike))
            case "cancelled twice, again a tick after wait":
                self.strike()
                self.loop.call_soon(self.strike)
            case _:
                self.strike()

    def _at_answer(self, call: Callable[[], object]) -> bool:
        if not self.armed or self.cell.how not in OF_ANSWERS:
            return False
        self.posted += 1
        if self.posted != self.cell.nth:
            return False

        def both() -> None:  # in the same tick, one right after the other
            if self.cell.how == OF_ANSWERS[0]:
                self.loop.call_soon(self.strike)
            call()
            if self.cell.how == OF_ANSWERS[1]:
                self.loop.call_soon(self.strike)

        asyncio.SelectorEventLoop.call_soon_threadsafe(self.loop, both)
        return True

    async def _at_backend(self, step: str) -> None:
        how = self.cell.how
        if not self.armed or (how not in OF_BACKEND and how != ITSELF):
            return
        self.reached += 1
        if self.reached != self.cell.nth:
            return
        if how == ITSELF:
            self.struck += 1
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return
        here = asyncio.get_running_loop()
        goes_on = here.create_future()

        def go_on() -> None:
            if not goes_on.done():
                goes_on.set_result(None)

        def strike() -> None:
            self.strike()
            if how == OF_BACKEND[0]:
                here.call_soon_threadsafe(go_on)
            else:  # when the task has had its turn, and asked for what undoes it
                self.loop.call_soon(self.loop.call_soon, here.call_soon_threadsafe, go_on)

        self.loop.call_soon_threadsafe(strike)
        await goes_on

    # --- the life -----------------------------------------------------------------------------------------------

    def client(self) -> AsyncClient:
        client = AsyncClient(adapter=self.adapter, store=self.store)
        self.clients.append(client)
        return client

    def session(self, client: AsyncClient, session_id: str | None = None, **options: Any) -> AsyncSession:
        if session_id is None and self.cookie_file is not None:
            options["cookie_file"] = self.cookie_file
        session = client.Session(session_id, **options)
        self.sessions.append(session)
        return session

    async def _struck(self, act: Coroutine[Any, Any, Any]) -> None:
        """Run what is struck, the way that the cell asks for."""
        points = Points(self._at_wait)

        async def mine() -> None:
            self.task = asyncio.current_task()
            self.armed = True
            try:
                await points(act)
            except asyncio.CancelledError:
                self.honoured = True
                raise
            finally:
                self.armed = False

        match self.cell.how:
            case "asyncio.timeout at wait" | "asyncio.timeout and a cancellation at wait":
                async with asyncio.timeout(PATIENCE) as timeout:
                    await mine()
                assert not timeout.expired(), "the timeout was swallowed"
            case "wait_for at wait":
                await asyncio.wait_for(mine(), PATIENCE)
                assert not self.struck, "the timeout was swallowed"
            case "given up by its TaskGroup at wait":
                self.falls = self.loop.create_future()
                try:
                    async with asyncio.TaskGroup() as group:
                        task = group.create_task(mine())
                        task.add_done_callback(lambda _: self.falls.done() or self.falls.set_result(False))
                        if await self.falls:
                            raise Falls
                except* Falls:
                    assert task.cancelled() or not task.cancelling(), "the group's cancellation was swallowed"
            case "cancelled and caught at wait":
                try:
                    await mine()
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    assert (task.cancelling(), task.uncancel()) == (1, 0)
                    await self._goes_on()  # in this very task
                else:
                    assert not self.struck, "the cancellation was swallowed"
            case _:
                await mine()

    async def _goes_on(self) -> None:
        """What must still work, whatever was struck."""
        for session, over in zip(self.sessions, self.scene.over, strict=False):
            if over is False:
                assert session.state is State.ACTIVE, "what was struck only asked something of it"
                await session.get_cookies()
        client = self.client() if self.scene.closes else self.clients[0]
        async with self.session(client) as again:
            await again.set_cookies(cookies=[COOKIE])
            assert [cookie["name"] for cookie in await again.get_cookies()] == ["mine"]

    async def main(self) -> None:
        self.client()
        act = await self.scene.begin(self)
        task = asyncio.create_task(self._struck(act))
        await asyncio.wait({task})
        self._check_task(task)
        if self.honoured and self.struck == 1:  # a second one ends the wait for the teardown
            self._check_over()
        await self._goes_on()
        for client in self.clients:
            await client.close()
        for session in self.sessions:
            if session._att.seq:
                await session.wait_ended(PATIENCE)

    def _check_task(self, task: asyncio.Task[None]) -> None:
        how = self.cell.how
        timed = how in TIMED[:2] or (how == TIMED[2] and self.struck == 1)
        if task.cancelled():
            assert self.struck and how != ITSELF, "cancelled by nobody"
            assert not timed, "the timeout came out as a cancellation"
            return
        error = task.exception()
        if isinstance(error, AssertionError):
            raise error
        assert not task.cancelling(), f"the cancellation was swallowed: {error!r}"
        if timed and self.struck:
            assert self.honoured
            assert type(error) is TimeoutError, repr(error)
        elif how == ITSELF:
            assert error is None or isinstance(error, LifecycleError), repr(error)
        else:
            assert error is None, repr(error)

    def _check_over(self) -> None:
        """The caller is told of a first cancellation when what it began is undone, and not before."""
        for session, over in zip(self.sessions, self.scene.over, strict=False):
            if over:
                assert session.state.terminal or not session._att.seq, "what was struck is still open"

    def live(self) -> Life:
        """Live it to its end, and hold the invariants."""
        before = len(supervisor()._tasks)
        self.loop.on_answer = self._at_answer
        with Swallowed(supervisor().thread.loop) as swallowed:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                self.loop.set_exception_handler(swallowed._of_loop)
                runner.run(self.main())
            gc.collect(0)
            eventually(lambda: len(supervisor()._tasks) <= before, "a task of the supervisor is left")
        assert not swallowed.errors, "; ".join(swallowed.errors)
        self._check()
        return self

    def _check(self) -> None:
        adapter = self.adapter
        assert adapter.live == [], "a browser was left open"
        assert sorted(adapter.released) == sorted(set(adapter.opened)), "each is released, and once"
        assert all(client._core.active == {} for client in self.clients), "a client keeps what is over"
        of = by_attachment([record for _, record in self.store.records()])
        for session in self.sessions:
            mine = of.get(session.attachment_id, [])
            begun = any(r.kind is RecordKind.INTENT for r in mine)
            assert session.state.terminal == begun
            assert replayed(mine) is session.state, "the log replays to another state"
            assert sum(r.terminal for r in mine) == begun, story_of(mine)
            endings = [r for r in mine if r.kind is RecordKind.INTENT and r.event not in (Event.START, Event.ATTACH)]
            assert len(endings) == begun, f"more than one teardown: {story_of(mine)}"
            if any(r.event is Event.START and r.kind is RecordKind.INTENT for r in mine):  # else it was stopped before
                row = self.store.session(session.session_id)
                assert row is not None
                assert (row.state, row.released) == (session.state, True)
        if self.cookie_file is not None and self.cookie_file.exists():
            names = {cookie["name"] for cookie in json.loads(self.cookie_file.read_text())["cookies"]}
            assert names <= {"mine"}


def story_of(records: list[Record]) -> list[str]:
    return [f"{r.kind} {r.event}: {r.source} -> {r.dest} by {r.cause}" for r in records]


class Falls(Exception):
    """A task of a group falls, and the others with it."""


def scripted(request: Any) -> ActionResult:
    now = datetime.now(UTC)
    return ActionResult(action=request, success=True, message="done", started_at=now, ended_at=now)


# --- what is struck -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Something that a task does.

    Attributes:
        begin: What comes before it; gives the coroutine that is struck.
        over: Of each session, in the order in which they are made: True where it is over once that was cancelled,
            False where it goes on, None where another call decides.
        closes: It closes the client, so what follows needs another one.
    """

    begin: Callable[[Life], Awaitable[Coroutine[Any, Any, Any]]]
    over: tuple[bool | None, ...] = (True,)
    closes: bool = False


SCENES: Final[dict[str, Scene]] = {}

OWNER: Final = False
"""Whether the owner ends too when the attach of a guest that would detach is cancelled: see `Scene.over`."""


def scene(name: str, **how: Any) -> Callable[[Any], Any]:
    def register(begin: Any) -> Any:
        SCENES[name] = Scene(begin, **how)
        return begin

    return register


@scene("start")
@scene("start with a file")
async def start(life: Life) -> Any:
    return life.session(life.clients[0]).start()


def operation(name: str, ask: Callable[[AsyncSession], Coroutine[Any, Any, Any]]) -> None:
    @scene(name, over=(False,))
    async def begin(life: Life) -> Any:
        return ask(await life.session(life.clients[0]).start())


operation("get_cookies", lambda s: s.get_cookies())
operation("set_cookies", lambda s: s.set_cookies(cookies=[COOKIE]))
operation("execute", lambda s: s.execute(type="wait", time_ms=1))
operation("extend", lambda s: s.extend(minutes=1))
operation("history", lambda s: s.history())


@scene("stop")
@scene("stop with a file")
async def stop(life: Life) -> Any:
    session = await life.session(life.clients[0]).start()
    await session.set_cookies(cookies=[COOKIE])
    return session.stop()


@scene("sessions.stop", over=(None,))
async def stop_by_id(life: Life) -> Any:
    session = await life.session(life.clients[0]).start()
    return life.clients[0].sessions.stop(session.session_id)


async def guest_of(life: Life, **options: Any) -> AsyncSession:
    owner = await life.session(life.clients[0]).start()
    return life.session(life.client(), owner.session_id, **options)


@scene("attach", over=(OWNER, True))
@scene("attach through a service", over=(OWNER, True))
async def attach(life: Life) -> Any:
    return (await guest_of(life, on_exit="detach")).start()


@scene("detach", over=(False, True))
@scene("detach through a service", over=(False, True))
async def detach(life: Life) -> Any:
    guest = await guest_of(life, on_exit="detach")
    return (await guest.start()).detach()


@scene("stop of a guest", over=(True, True))
@scene("stop of a guest through a service", over=(None, True))
async def stop_of_a_guest(life: Life) -> Any:
    return (await (await guest_of(life)).start()).stop()


@scene("operation of a guest", over=(False, False))
async def operation_of_a_guest(life: Life) -> Any:
    return (await (await guest_of(life, on_exit="detach")).start()).get_cookies()


@scene("async with")
@scene("async with and a file")
async def block(life: Life) -> Any:
    session = life.session(life.clients[0])

    async def act() -> None:
        async with session:
            await session.set_cookies(cookies=[COOKIE])
            await session.execute(type="wait", time_ms=1)
            await session.get_cookies()

    return act()


@scene("async with of a guest", over=(OWNER, True))
async def block_of_a_guest(life: Life) -> Any:
    guest = await guest_of(life, on_exit="detach")

    async def act() -> None:
        async with guest:
            await guest.set_cookies(cookies=[COOKIE])
            await guest.get_cookies()

    return act()


@scene("client.close", closes=True)
async def close(life: Life) -> Any:
    await life.session(life.clients[0]).start()
    return life.clients[0].close()


@scene("client.close with a guest", over=(False, True))
async def close_with_a_guest(life: Life) -> Any:
    guest = await guest_of(life, on_exit="detach")
    await guest.start()
    return life.clients[1].close()


@scene("async with a client", over=(True, True))
async def block_of_a_client(life: Life) -> Any:
    client = life.client()

    async def act() -> None:
        async with client:
            first, second = life.session(client), life.session(client)
            await first.start()
            await second.start()
            await first.get_cookies()

    return act()


# --- all of it ------------------------------------------------------------------------------------------------------


def sweep(scene: str, how: str, times: int, folder: Path) -> list[Cell]:
    """Live a scene for N = 1, 2, 3 ... until nothing is struck any more; the cells in which something was."""
    cells = []
    for nth in range(1, MOST):
        cell = Cell(scene, how, nth, times)
        (folder / str(nth)).mkdir()
        with in_cell(cell):
            life = Life(cell, folder / str(nth)).live()
        if not life.struck:
            return cells
        if life.struck == 2 or how not in (*TWICE, TIMED[2]):
            cells.append(cell)
    raise AssertionError(f"{scene}, {how}: struck at each of {MOST} points")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.mark.parametrize("scene", SCENES)
def test_a_task_is_cancelled_at_each_suspension(scene, tmp_path, counted):
    cells = []
    for how in HOWS:
        for times in OF_CALLS.get(how, (1,)):
            folder = tmp_path / f"{how} {times}"
            folder.mkdir()
            cells += sweep(scene, how, times, folder)
    assert len(set(cells)) == len(cells)
    by_how = Counter(cell.how for cell in cells)
    print(f"{len(cells)} cells of {scene}: {dict(by_how)}")
    assert all(by_how[how] for how in (AT_ONCE, *TIMED[:2], *OF_ANSWERS)), by_how
    counted(PART, cells)
