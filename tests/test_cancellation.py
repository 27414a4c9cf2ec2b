"""Tasks that are cancelled, timed out or given up at each point at which they wait for the library."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from children import SlowAdapter
from striking import Swallowed

from lifecycle import AsyncClient, AsyncSession, State, StepOutcome
from lifecycle.engine import supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from pathlib import Path

BOUND = 20.0
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}


class Waits:
    """Awaits a coroutine and does something to its task at the `nth` point at which it waits.

    Attributes:
        passed: Points at which it waited.
    """

    def __init__(self, nth: int, do: Callable[[Any], None]) -> None:
        self.nth = nth
        self.passed = 0
        self._do = do

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> _Waiting:
        return _Waiting(self, coroutine)

    def at(self, future: Any) -> None:
        self.passed += 1
        if self.passed == self.nth:
            self._do(future)


class GivenUp(Exception):
    """What was awaited was closed, and will not be run again."""


def give_up(_: Any) -> None:
    raise GivenUp


class _Waiting:
    def __init__(self, waits: Waits, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._waits = waits
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                future = step()
            except StopIteration as e:
                return e.value
            try:
                self._waits.at(future)
            except GivenUp:
                self._coroutine.close()
                raise
            try:
                sent = yield future
            except BaseException as e:
                step = partial(steps.throw, e)
            else:
                step = partial(steps.send, sent)


# --- what is done to a task that waits ------------------------------------------------------------------------------


def at_once(future: Any) -> None:
    current().cancel()


def as_the_answer_arrives(future: Any) -> None:
    """In the very tick in which what it waits for comes: the answer is there, and so is the cancellation."""
    task = current()
    if future is None:
        task.cancel()
    else:
        future.add_done_callback(lambda _: task.cancel())


def a_tick_after_the_answer(future: Any) -> None:
    task, loop = current(), asyncio.get_running_loop()
    if future is None:
        task.cancel()
    else:
        future.add_done_callback(lambda _: loop.call_soon(task.cancel))


def twice(future: Any) -> None:
    """And again in each of the next ticks, while it still waits for the teardown."""
    task, loop = current(), asyncio.get_running_loop()
    task.cancel()

    def again(left: int) -> None:
        if left and not task.done():
            task.cancel()
            loop.call_soon(again, left - 1)

    loop.call_soon(again, 3)


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# --- what is cancelled ----------------------------------------------------------------------------------------------


@dataclass
class Run:
    client: AsyncClient
    adapter: SlowAdapter
    cookie_file: Path
    sessions: list[AsyncSession] = field(default_factory=list)
    cookie_set: bool = False
    hooked: bool = False
    hooks_ran: list[str] = field(default_factory=list)

    def session(self) -> AsyncSession:
        session = self.client.Session(cookie_file=self.cookie_file)
        self.sessions.append(session)
        return session

    async def use(self, session: AsyncSession) -> None:
        await session.set_cookies(cookies=[COOKIE])
        self.cookie_set = True
        await session.get_cookies()
        await session.status()


async def block(run: Run, waits: Waits) -> None:
    await waits(_block(run))


async def _block(run: Run) -> None:
    async with run.session() as session:
        await run.use(session)


async def block_with_hooks(run: Run, waits: Waits) -> None:
    await waits(_block_with_hooks(run))


async def _block_with_hooks(run: Run) -> None:
    session = run.session()
    run.hooked = True
    for when, event in (("before", "start"), ("after", "start"), ("before", "stop"), ("after", "stop")):
        session.hook(**{when: event})(partial(hook, f"{when} {event}", run.hooks_ran))
    async with session:
        await run.use(session)


async def hook(name: str, ran: list[str], _: AsyncSession) -> None:
    ran.append(name)
    await asyncio.sleep(0.001)


async def start_and_stop(run: Run, waits: Waits) -> None:
    await waits(_start_and_stop(run))


async def _start_and_stop(run: Run) -> None:
    session = run.session()
    await session.start()
    try:
        await run.use(session)
    finally:
        await session.stop()


async def block_of_a_client(run: Run, waits: Waits) -> None:
    await waits(_block_of_a_client(run))


async def _block_of_a_client(run: Run) -> None:
    async with AsyncClient(adapter=run.adapter, store="memory:") as client:
        session = client.Session(cookie_file=run.cookie_file)
        run.sessions.append(session)
        await session.start()
        await run.use(session)


SCENES = [block, block_with_hooks, start_and_stop, block_of_a_client]


# --- how it must go -------------------------------------------------------------------------------------------------


def check(run: Run, where: str) -> None:
    for session in run.sessions:
        att = session._att
        if not att.seq:
            assert session.state is State.NOT_STARTED
            continue
        # A start whose hook was cancelled has failed, unless the stop that follows came first.
        expected = {State.CLOSED, State.ERROR} if run.hooked else {State.CLOSED}
        assert session.state in expected, where + str(session.state)
        records = session._core.journal.store.records(attachment_id=session.attachment_id)
        ends = [record for _, record in records if record.terminal]
        assert len(ends) == 1, where + f"{len(ends)} terminal records"
        if ends[0].source is State.ACTIVE:
            saved = [s.outcome for s in ends[0].steps if s.step == "save_cookies"]
            assert saved == [StepOutcome.DONE], where + f"save_cookies: {saved}"
    assert len(set(run.hooks_ran)) == len(run.hooks_ran), where + f"hooks ran twice: {run.hooks_ran}"
    if run.cookie_set:
        assert [c["name"] for c in json.loads(run.cookie_file.read_text())["cookies"]] == ["mine"], where


async def sweep(attempt: Callable[[Run, int], Coroutine[Any, Any, bool]], folder: Path) -> int:
    """Attempt it for 1, 2, ... until nothing happened to the attempt any more; how often something did."""
    adapter = SlowAdapter(0.0005)
    client = AsyncClient(adapter=adapter, store="memory:")
    try:
        for nth in itertools.count(1):
            run = Run(client, adapter, folder / f"cookies-{nth}.json")
            where = f"at {nth}: "
            with Swallowed(client._core.supervisor.thread.loop) as swallowed:
                happened = await attempt(run, nth)
                await settle(run, where)
                gc.collect(0)
            assert not swallowed.errors, where + "; ".join(swallowed.errors)
            assert sorted(adapter.opened) == sorted(adapter.released), where + "a session was left open"
            check(run, where)
            if not happened:
                assert run.cookie_set
                return nth - 1
    finally:
        await client.close()
    raise AssertionError


async def settle(run: Run, where: str) -> None:
    async def nothing(_: object) -> None:
        return

    await supervisor().acall(nothing)
    for session in run.sessions:
        if session._att.seq:
            try:
                await session.wait_ended(BOUND)
            except TimeoutError:
                pytest.fail(f"{where}not over after {BOUND:g} seconds")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("do", [at_once, as_the_answer_arrives, a_tick_after_the_answer, twice])
def test_cancelled_at_each_wait(scene, do, tmp_path):
    async def attempt(run: Run, nth: int) -> bool:
        waits = Waits(nth, do)
        task = asyncio.create_task(scene(run, waits))
        await asyncio.wait({task})
        through = do is a_tick_after_the_answer and waits.passed == nth and not task.cancelled()  # it had just ended
        if waits.passed < nth or through:
            task.result()
        else:
            assert task.cancelled(), f"at wait {nth} the task ended with {task.exception()!r}"
        if do is not twice:  # a second cancellation ends the wait for the teardown, a first one does not
            assert all(s.state.terminal for s in run.sessions if s._att.seq), f"not over yet at wait {nth}"
        return waits.passed >= nth

    count = asyncio.run(sweep(attempt, tmp_path))
    print(f"cancelled {do.__name__} at each of {count} points at which {scene.__name__} waits")
    assert count >= 5


@pytest.mark.parametrize("scene", SCENES)
def test_cancelled_at_each_step_of_the_backend(scene, tmp_path):
    """While the supervisor is inside open, inside release, and between."""

    async def attempt(run: Run, nth: int) -> bool:
        loop, steps = asyncio.get_running_loop(), itertools.count(1)
        task = asyncio.create_task(scene(run, Waits(0, at_once)))
        run.adapter.on_step = lambda: loop.call_soon_threadsafe(task.cancel) if next(steps) == nth else None
        await asyncio.wait({task})
        happened = next(steps) > nth
        if not task.cancelled():  # the last step's cancellation may come when all is done
            task.result()
        return happened

    count = asyncio.run(sweep(attempt, tmp_path))
    print(f"cancelled in each of {count} steps of the backend in {scene.__name__}")
    assert count >= 7


@pytest.mark.parametrize("scene", SCENES)
def test_a_timeout_at_each_wait(scene, tmp_path):
    async def attempt(run: Run, nth: int) -> bool:
        loop = asyncio.get_running_loop()
        timeout = asyncio.timeout(None)
        waits = Waits(nth, lambda _: timeout.reschedule(loop.time()))
        try:
            async with timeout:
                await scene(run, waits)
        except TimeoutError:
            assert timeout.expired()
        else:
            assert waits.passed < nth, f"the timeout at wait {nth} was swallowed"
        assert current().cancelling() == 0
        return waits.passed >= nth

    count = asyncio.run(sweep(attempt, tmp_path))
    print(f"asyncio.timeout at each of {count} points at which {scene.__name__} waits")
    assert count >= 5


@pytest.mark.parametrize("scene", [block, block_with_hooks, block_of_a_client])
def test_given_up_at_each_wait(scene, tmp_path):
    """The coroutine is closed, as it is when its loop ends without it: nothing can be awaited in it any more."""

    async def attempt(run: Run, nth: int) -> bool:
        waits = Waits(nth, give_up)
        try:
            await waits(scene(run, Waits(0, at_once)))
        except GivenUp:
            gc.collect()
            return True
        return False

    count = asyncio.run(sweep(attempt, tmp_path))
    print(f"given up at each of {count} points at which {scene.__name__} waits")
    assert count >= 5
