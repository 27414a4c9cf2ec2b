"""Ctrl-C and SystemExit at every point of the library's code that runs in a caller's thread."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import children
import pytest
from striking import Strike, Swallowed

from lifecycle import Client, Session, State, StepOutcome
from lifecycle.engine import supervisor
from lifecycle.loops import LoopThread
from lifecycle_adapters.memory import MemoryAdapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOUND = 20.0
"""Seconds within which a session that was struck is over."""

COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}


@dataclass
class Run:
    """One attempt: what strikes, what was made, and how far its body came."""

    strike: Strike
    cookie_file: Path
    sessions: list[Session] = field(default_factory=list)
    cookie_set: bool = False
    hooked: bool = False
    hooks_ran: list[str] = field(default_factory=list)

    def session(self, client: Client) -> Session:
        session = client.Session(cookie_file=self.cookie_file)
        self.sessions.append(session)
        return session

    def guest(self, client: Client, owner: Session, **options: Any) -> Session:
        session = client.Session(owner.session_id, **options)
        self.sessions.append(session)
        return session

    def set_cookie(self, session: Session) -> None:
        session.set_cookies(cookies=[COOKIE])
        self.cookie_set = True


# --- what is struck -----------------------------------------------------------------------------------------------


def block(run: Run, client: Client) -> None:
    with run.strike, run.session(client) as session:
        run.set_cookie(session)


def block_that_raises(run: Run, client: Client) -> None:
    try:
        with run.strike, run.session(client) as session:
            run.set_cookie(session)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def block_with_hooks(run: Run, client: Client) -> None:
    session = run.session(client)
    run.hooked = True
    for when, event in (("before", "start"), ("after", "start"), ("before", "stop"), ("after", "stop")):
        session.hook(**{when: event})(partial(hook, f"{when} {event}", run.hooks_ran))
    with run.strike, session:
        run.set_cookie(session)


def hook(name: str, ran: list[str], _: Session) -> None:
    ran.append(name)


def operations(run: Run, client: Client) -> None:
    with run.session(client) as session:
        run.set_cookie(session)
        with run.strike:
            session.get_cookies()
            session.status()
            session.history()
            session.extend(minutes=1)
            client.sessions.list(status="active")
            client.sessions.get(session.session_id)


def guest_that_detaches(run: Run, client: Client) -> None:
    with run.session(client) as owner:
        run.set_cookie(owner)
        with run.strike, run.guest(client, owner, on_exit="detach"):
            pass


def guest_that_stops(run: Run, client: Client) -> None:
    with run.session(client) as owner:
        run.set_cookie(owner)
        with run.guest(client, owner) as guest, run.strike:
            guest.stop()


def start_and_stop(run: Run, client: Client) -> None:
    with run.strike:
        session = run.session(client)
        session.start()
        run.set_cookie(session)
        session.stop()


def start_and_stop_within_a_time(run: Run, client: Client) -> None:
    with run.strike:
        session = run.session(client).start()
        run.set_cookie(session)
        session.stop(timeout=BOUND)


# --- how it must go -----------------------------------------------------------------------------------------------


def sweep(
    do: Callable[[Run, Client], None], error: type[BaseException], folder: Path, *, close: bool, opcodes: bool = False
) -> int:
    """Strike `do` at its first point, its second, ... until it gets through; how many there were.

    With `close`, each attempt has a client of its own, which is closed before anything is looked at.
    """
    adapter = MemoryAdapter()
    client = Client(adapter=adapter, store="memory:")
    try:
        for nth in itertools.count(1):
            strike = Strike(nth, error(f"at point {nth}"), opcodes=opcodes)
            run = Run(strike, folder / f"cookies-{nth}.json")
            with Swallowed(client._core.supervisor.thread.loop) as swallowed:
                arrived = attempt(do, run, client)
                where = f"struck at {strike.where}, point {nth}: "
                if close:
                    client.close()
                settle(run, where)
                if close:
                    client = Client(adapter=adapter, store="memory:")
            assert not swallowed.errors, where + "; ".join(swallowed.errors)
            if strike.where is None:
                assert run.cookie_set
                return nth - 1
            assert arrived is strike.error, f"{where}what arrived is {arrived!r}"
            assert sorted(adapter.opened) == sorted(adapter.released), where + "a session was left open"
            check(run, where)
    finally:
        client.close()
    raise AssertionError


def attempt(do: Callable[[Run, Client], None], run: Run, client: Client) -> BaseException | None:
    try:
        do(run, client)
    except BaseException as e:
        # Frames of the traceback hold what a block held; a program that goes on has let go of them.
        return e.with_traceback(None)
    return None


def settle(run: Run, where: str) -> None:
    """Wait until every session that was begun is over."""
    supervisor().call(nothing)  # what was posted before has been taken up
    for session in run.sessions:
        if session._att.seq:
            try:
                session.wait_ended(BOUND)
            except TimeoutError:
                pytest.fail(f"{where}not over after {BOUND:g} seconds: {session.status()}")


async def nothing(_: object) -> None:
    return


def check(run: Run, where: str) -> None:
    for session in run.sessions:
        if not session._att.seq:
            assert session.state is State.NOT_STARTED
            continue
        # A start whose hook was struck has failed, unless the stop that follows came first.
        expected = {State.CLOSED, State.ERROR} if run.hooked else {State.CLOSED}
        assert session.state in expected, where + f"it ended {session.state}: {session.status()}"
        records = session._core.journal.store.records(attachment_id=session.attachment_id)
        ends = [record for _, record in records if record.terminal]
        assert len(ends) == 1, where + f"{len(ends)} terminal records"
        if ends[0].source is State.ACTIVE and session._att.options.cookie_file:
            saved = [s.outcome for s in ends[0].steps if s.step == "save_cookies"]
            assert saved == [StepOutcome.DONE], where + f"save_cookies: {saved}"
    assert len(set(run.hooks_ran)) == len(run.hooks_ran), where + f"hooks ran twice: {run.hooks_ran}"
    if run.cookie_set:
        kept = json.loads(run.cookie_file.read_text())["cookies"]
        assert [c["name"] for c in kept] == ["mine"], where + f"the file holds {kept}"


# --- the sweeps ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """What is written here need not outlive the machine, and what lives already need not be looked at for garbage."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    "do", [block, block_that_raises, block_with_hooks, operations, guest_that_detaches, guest_that_stops]
)
def test_ctrl_c_at_each_point_of_a_block(do, tmp_path):
    count = sweep(do, KeyboardInterrupt, tmp_path, close=False)
    print(f"KeyboardInterrupt at each of {count} points of {do.__name__}")
    assert count > 50


@pytest.mark.parametrize("do", [start_and_stop, start_and_stop_within_a_time])
def test_ctrl_c_at_each_point_of_start_and_stop(do, tmp_path):
    count = sweep(do, KeyboardInterrupt, tmp_path, close=True)
    print(f"KeyboardInterrupt at each of {count} points of {do.__name__}")
    assert count > 100


def test_a_stop_that_is_struck_before_it_is_posted_is_posted_all_the_same(monkeypatch):
    """Nothing else would end a session that is in no block."""
    post, strikes = LoopThread.post, [KeyboardInterrupt()]

    def struck_once(self: LoopThread, *args: Any) -> None:
        if strikes and not self.inside():
            raise strikes.pop()
        post(self, *args)

    with Client(adapter="memory", store="memory:") as client:
        session = client.Session().start()
        monkeypatch.setattr(LoopThread, "post", struck_once)
        with pytest.raises(KeyboardInterrupt):
            session.stop()
        assert session.state is State.CLOSED


def test_system_exit_at_each_point_of_a_block(tmp_path):
    count = sweep(block, SystemExit, tmp_path, close=False)
    print(f"SystemExit at each of {count} points of a block")
    assert count > 100


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="Python 3.12 traces no instructions for a new frame")
def test_ctrl_c_at_each_instruction_of_a_block(tmp_path):
    count = sweep(block, KeyboardInterrupt, tmp_path, close=False, opcodes=True)
    print(f"KeyboardInterrupt at each of {count} instructions of a block")
    assert count > 1000


def test_ctrl_c_at_each_point_of_a_client():
    """From `Client()` to its end, where a supervisor runs already: no store and no thread of its own is left."""
    adapter = MemoryAdapter()
    sup = supervisor()
    for nth in itertools.count(1):
        strike = Strike(nth, KeyboardInterrupt(f"at point {nth}"))
        with Swallowed(sup.thread.loop) as swallowed:
            arrived = attempt_client(strike, adapter)
            gc.collect()  # a client and its sessions know each other
            sup.call(all_done)
        where = f"struck at {strike.where}, point {nth}: "
        assert not swallowed.errors, where + "; ".join(swallowed.errors)
        if strike.where is None:
            break
        assert arrived is strike.error, f"{where}what arrived is {arrived!r}"
        assert sorted(adapter.opened) == sorted(adapter.released), where + "a session was left open"
        assert not sup.cores, where + "a client was left"
        assert not sup._stores, where + "a store was left open"
    print(f"KeyboardInterrupt at each of {nth - 1} points of a client")
    assert nth > 200


def attempt_client(strike: Strike, adapter: MemoryAdapter) -> BaseException | None:
    try:
        with strike, Client(adapter=adapter, store="memory:") as client, client.Session():
            pass
    except BaseException as e:
        return e.with_traceback(None)
    return None


async def all_done(_: object) -> None:
    """On the supervisor: wait until what is under way is done."""
    sup = supervisor()
    while others := [task for task in sup._tasks if task is not asyncio.current_task()]:
        await asyncio.wait(others)


FIRST = """
import os, signal, traceback
from striking import Strike
from lifecycle.engine import supervisor
import lifecycle.control, lifecycle.recovery, lifecycle.stores.memory  # what a first client imports

def attempt(nth):
    strike = Strike(nth, KeyboardInterrupt(nth))
    arrived = None
    try:
        with strike:
            supervisor()
    except KeyboardInterrupt as e:
        arrived = e.with_traceback(None)
    assert arrived is (strike.error if strike.where else None), f"{arrived!r} {strike.where}"
    adapter = MemoryAdapter()
    client = Client(adapter=adapter, store="memory:")
    session = client.Session().start()
    assert session.status().status == "active"
    names = [t.name for t in threading.enumerate() if t.is_alive()]
    assert names.count("lifecycle-supervisor") <= 2, names  # one that was struck may be on its way out
    supervisor()._at_exit()
    assert len(adapter.released) == 1, strike.where
    return strike.where is not None

nth = 1
while True:
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        code = 2
        try:
            code = 0 if attempt(nth) else 10
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 10:
        break
    assert code == 0, f"point {nth}: exit code {code}"
    nth += 1
print(nth - 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each attempt is a fork of a process that has no supervisor yet")
def test_ctrl_c_at_each_point_of_the_start_of_the_supervisor():
    """Once in the life of a process: whatever was struck, the next client works and is ended at exit."""
    done = children.run(FIRST, forks=True)
    assert done.returncode == 0, done.stderr  # an event loop that was struck in its making complains of that there
    print(f"KeyboardInterrupt at each of {done.stdout.strip()} points of the start of the supervisor")
    assert int(done.stdout) > 100
