"""What test_signals.py runs in processes of their own; prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import faulthandler
import json
import os
import queue
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from children import BOUND, SlowAdapter

from lifecycle import (
    AsyncClient,
    AsyncSession,
    Client,
    InvalidTransition,
    Record,
    Session,
    SessionEnded,
    State,
    StepOutcome,
)
from lifecycle.client import Adapter
from lifecycle.hooks import inside_hook_of

COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}


def _leave(number, frame):
    raise SystemExit(7)


KINDS = {"KeyboardInterrupt": (KeyboardInterrupt, signal.default_int_handler), "SystemExit": (SystemExit, _leave)}


AIMS = (("before",), ("start",), ("body", "page"), ("stop",))
"""Where strikes are aimed at in turn: a phase, or the first of several. What they hit is up to the machine."""


class Striker:
    """A thread that sends this process a SIGINT a given time after a phase was reached."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[int, float, list[str]] | None] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        never = threading.Event()
        while (order := self._orders.get()) is not None:
            number, delay, phase = order
            while phase[0] not in (*AIMS[number % len(AIMS)], "after"):
                never.wait(0.0002)
            never.wait(delay)
            os.kill(os.getpid(), signal.SIGINT)
            self._sent.put(number)

    def order(self, number: int, delay: float, phase: list[str]) -> None:
        self._orders.put((number, delay, phase))

    def wait(self, number: int) -> None:
        while self._sent.get() != number:
            pass  # one before it, whose signal struck this very wait


def life(session: Session, phase: list[str], *, page: bool = False) -> None:
    phase[0] = "start"
    with session:
        phase[0] = "body"
        session.set_cookies(cookies=[COOKIE])
        phase.append("cookie set")
        for _ in range(3):
            session.status()
            session.get_cookies()
        if page:
            phase[0] = "page"
            for number in range(3):
                session.page.goto(f"data:text/html,<title>{number}</title>")
                assert session.page.title() == str(number)
        phase[0] = "stop"
    phase[0] = "after"


def settle_signal() -> None:
    """A signal that was sent is raised here at the latest; one that was raised already is on its way out."""
    while sys.exc_info()[0] is None:
        time.sleep(0)


def check(session: Session, path: Path, *, cookie_set: bool) -> None:
    if session._att.seq:
        session.wait_ended(20)
    check_records(session, session.history(), path, cookie_set=cookie_set)


def check_records(session: Session | AsyncSession, records: list[Record], path: Path, *, cookie_set: bool) -> None:
    begun = session._att.seq > 0
    ends = [record for record in records if record.terminal]
    assert session.state is (State.CLOSED if begun else State.NOT_STARTED), session.status()
    assert len(ends) == begun, ends
    for end in ends:
        if end.source is State.ACTIVE:
            assert [s.outcome for s in end.steps if s.step == "save_cookies"] == [StepOutcome.DONE], end
    if cookie_set:
        assert [c["name"] for c in json.loads(path.read_text())["cookies"]] == ["mine"]


def batch(
    adapter: str | Adapter, seed: int, count: int, kind: str, folder: Path, *, page: bool = False
) -> dict[str, int]:
    """Strike `count` sessions, each once, at a moment between their making and just after their end."""
    error, handler = KINDS[kind]
    signal.signal(signal.SIGINT, handler)
    rng, striker = random.Random(seed), Striker()
    seen: collections.Counter[str] = collections.Counter()
    with Client(adapter=adapter, store=f"sqlite:///{folder / 'log.db'}") as client:
        for _ in range(3):  # the first one imports
            began = time.monotonic()
            life(client.Session(cookie_file=folder / "calm.json"), [""], page=page)
            took = time.monotonic() - began
        for number in range(count):
            path, phase = folder / f"{number}.json", ["before"]
            session: Session | None = None
            arrived: list[BaseException] = []
            try:
                striker.order(number, rng.uniform(0, 0.5 * took), phase)
                try:
                    session = client.Session(cookie_file=path)
                    life(session, phase, page=page)
                finally:
                    striker.wait(number)
                    settle_signal()
            except error as e:
                arrived.append(e)
            seen[phase[0]] += 1
            assert len(arrived) == 1
            if session is not None:
                check(session, path, cookie_set="cookie set" in phase)
    return dict(seen)


async def alife(session: AsyncSession, phase: list[str]) -> None:
    phase[0] = "start"
    async with session:
        phase[0] = "body"
        await session.set_cookies(cookies=[COOKIE])
        phase.append("cookie set")
        for _ in range(3):
            await session.status()
            await session.get_cookies()
        phase[0] = "stop"
    phase[0] = "after"


def abatch(adapter: str | Adapter, seed: int, count: int, folder: Path) -> dict[str, int]:
    """As `batch`, in a loop of its own for each session: asyncio.run makes a cancellation of the first SIGINT."""
    # What a SIGINT in the first or last lines of asyncio.run leaves behind is not ours.
    warnings.simplefilter("ignore", ResourceWarning)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, striker = random.Random(seed), Striker()
    seen: collections.Counter[str] = collections.Counter()
    client = AsyncClient(adapter=adapter, store=f"sqlite:///{folder / 'log.db'}")
    for _ in range(3):  # the first one imports
        began = time.monotonic()
        asyncio.run(alife(client.Session(cookie_file=folder / "calm.json"), [""]))
        took = time.monotonic() - began
    for number in range(count):
        path, phase = folder / f"{number}.json", ["before"]
        session = client.Session(cookie_file=path)
        arrived: list[BaseException] = []
        try:
            striker.order(number, rng.uniform(0, 0.5 * took), phase)
            try:
                asyncio.run(alife(session, phase))
            finally:
                striker.wait(number)
                settle_signal()
        except KeyboardInterrupt as e:
            arrived.append(e)
        seen[phase[0]] += 1
        assert len(arrived) == 1
        asyncio.run(acheck(session, path, cookie_set="cookie set" in phase))
    asyncio.run(client.close())
    return dict(seen)


async def acheck(session: AsyncSession, path: Path, *, cookie_set: bool) -> None:
    if session._att.seq:
        await session.wait_ended(20)
    check_records(session, await session.history(), path, cookie_set=cookie_set)


def once(adapter: str | Adapter, folder: Path) -> None:
    """One session, until somebody strikes; says when it is where."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    client = Client(adapter=adapter, store=f"sqlite:///{folder / 'log.db'}")
    print("making", flush=True)
    with client.Session(cookie_file=folder / "cookies.json") as session:
        session.set_cookies(cookies=[COOKIE])
        print("body", flush=True)
        while True:
            session.get_cookies()


def stopping_handler(seed: int, count: int, *, hooked: bool) -> dict[str, int]:
    """A handler that stops the session, `count` times, each while its own thread is in a call of that session.

    With `hooked`, the edges have hooks, which want to run in the very thread that the handler keeps waiting.
    """
    rng = random.Random(seed)
    calls: collections.Counter[str] = collections.Counter()
    ran: list[str] = []
    struck = 0
    doing = ""
    session: Session | None = None

    def stop(number, frame):
        nonlocal struck
        if session is not None:
            struck += 1
            if inside_hook_of(session.attachment_id):
                calls["hook"] += 1
                return  # there stop() is an error, at once
            calls[doing] += 1
            session.stop()
            assert session.state is State.CLOSED

    signal.signal(signal.SIGALRM, stop)
    with Client(adapter=SlowAdapter(0.0002), store="memory:") as client:
        if hooked:
            client.hook(before=("start", "stop"), after=("start", "stop"))(lambda _: ran.append(doing))
        while struck < count:
            doing = "making"
            session = client.Session()
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 0.008))
            with contextlib.suppress(SessionEnded, InvalidTransition):
                doing = "start"
                session.start()
                for doing in ("status", "get_cookies", "history", "wait_ended"):
                    with contextlib.suppress(TimeoutError):
                        session.wait_ended(0.0005) if doing == "wait_ended" else getattr(session, doing)()
            doing = "stop"
            session.stop()
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert session.state is State.CLOSED
    assert bool(ran) is hooked
    return {"struck": struck, **calls}


def main() -> None:
    faulthandler.dump_traceback_later(BOUND - 5, exit=True)
    what, arguments = sys.argv[1], json.loads(sys.argv[2])
    if "folder" in arguments:
        arguments["folder"] = Path(arguments["folder"])
    if "adapter" in arguments:
        arguments["adapter"] = SlowAdapter() if arguments["adapter"] == "slow" else arguments["adapter"]
    found = {"batch": batch, "abatch": abatch, "once": once, "stopping_handler": stopping_handler}[what](**arguments)
    print(json.dumps(found))


main()
