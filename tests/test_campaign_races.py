"""The fault campaign, part E: all that can end or use a session happens to it at once.

Rule: a race is drawn from its seed: the actors, their number and their order, the client, the kind of session. They
are let go by a barrier. A cell is (multiset of actors, their number, API, seed). The invariants know nothing of who
came first.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import children
import pytest
from both_ways import PATIENCE, eventually, in_threads
from campaign import by_attachment, replayed
from cells import in_cell
from striking import Swallowed
from test_campaign_cancelled import Suspending, scripted, story_of

from lifecycle import (
    AsyncClient,
    Client,
    ConfigError,
    ConnectionLost,
    GuardRejected,
    InvalidTransition,
    RecordKind,
    SessionEnded,
    UnsupportedOperation,
)
from lifecycle.attachment import SessionStatus
from lifecycle.engine import supervisor
from lifecycle.states import CloseReason, Event
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow]

PART: Final = "E: races of all that can end or use a session"
COOKIE = {"name": "mine", "value": "1", "domain": "site.test", "path": "/"}

MINUTES: Final = 10
SHORT: Final = 0.1
"""Seconds that are left to the deadline when a race begins."""

STEP: Final = 0.2
"""Seconds by which an actor moves the clock: all of them together do not use a step's budget up."""

ENDS: Final = ("stop", "sessions.stop", "sessions.stop by another client", "expire", "fail", "stop of a guest")
USES: Final = ("operate", "operate of a guest", "execute", "extend", "status", "attach", "detach of a guest", "detach")
ACTORS: Final = (*ENDS, *USES, "start")

GONE: Final = (SessionEnded,)
ANSWERS: Final[dict[str, tuple[Any, ...]]] = {
    "start": (None, *GONE, InvalidTransition, GuardRejected, ConnectionLost),  # the last where its browser crashes
    "stop": (None,),
    "sessions.stop": (SessionStatus, ConfigError),
    "sessions.stop by another client": (SessionStatus, ConfigError),
    "expire": (None,),
    "fail": (None, ConfigError),
    "stop of a guest": (None,),
    "operate": (list, *GONE, InvalidTransition),
    "operate of a guest": (list, *GONE),
    "execute": (object, *GONE, InvalidTransition),
    "extend": (SessionStatus, *GONE, InvalidTransition),
    "status": (SessionStatus,),
    "attach": (None, *GONE),
    "detach of a guest": (None,),
    "detach": (None, UnsupportedOperation, InvalidTransition),
}
"""What an actor may get: what it returns, or the errors that the table has for it."""


@dataclass(frozen=True)
class Race:
    """One race."""

    actors: tuple[str, ...]
    api: str
    seed: int
    started: bool
    service: bool
    longest: bool
    times: int

    @property
    def multiset(self) -> tuple[str, ...]:
        return tuple(sorted(self.actors))

    def __str__(self) -> str:
        of = ", ".join(f"{count} {actor}" for actor, count in sorted(Counter(self.actors).items()))
        kind = "of a service" if self.service else "of its owner"
        return f"{len(self.actors)} ({of}) on a session {kind}, {self.api}, seed {self.seed}"


def drawn(seed: int) -> Race:
    """The race of a seed."""
    rng = random.Random(seed)
    count = rng.choice((2, 2, 3, 3, 4, 4, 5, 6, 8, 12, 16))
    started = rng.random() < 0.8
    of = [a for a in ACTORS if (a != "start" if started else a not in OF_GUESTS)]
    actors = [rng.choice(of) for _ in range(count)]
    actors[0] = rng.choice(ENDS[:5]) if started else "start"
    rng.shuffle(actors)
    return Race(
        tuple(actors), rng.choice(("sync", "async")), seed, started, rng.random() < 0.3, rng.random() < 0.5,
        rng.choice((0, 0, 1, 3, 10)),
    )  # fmt: skip


OF_GUESTS: Final = ("stop of a guest", "operate of a guest", "detach of a guest", "attach")


class Field:
    """Where one race is run."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.adapter = Suspending(race.times, results=scripted, can_live_on=race.service)
        self.sessions: list[Any] = []
        self.guests: list[Any] = []

    def client(self) -> Any:
        kind = Client if self.race.api == "sync" else AsyncClient
        return kind(adapter=self.adapter, store=self.store, clock=self.clock)

    def owner(self, client: Any) -> Any:
        if self.race.longest:
            session = client.Session(max_duration_minutes=MINUTES, timeout_minutes=MINUTES)
        else:
            session = client.Session(timeout_minutes=MINUTES)
        self.sessions.append(session)
        return session

    def guest(self, client: Any, session_id: str) -> Any:
        guest = client.Session(session_id, on_exit="detach")
        self.guests.append(guest)
        return guest

    # --- what the actors do -------------------------------------------------------------------------------------

    def calls(self, owners: Any, others: Any, owner: Any, guests: list[Any]) -> list[Callable[[], Any]]:
        """A call for each actor; it returns a coroutine where the client is the async one."""
        rng = random.Random(self.race.seed)

        def attach() -> Any:
            guest = self.guest(others, owner.session_id)  # may be refused already
            return guest.start()

        does: dict[str, Callable[[], Any]] = {
            "start": owner.start,
            "stop": owner.stop,
            "sessions.stop": lambda: owners.sessions.stop(owner.session_id),
            "sessions.stop by another client": lambda: others.sessions.stop(owner.session_id),
            "expire": lambda: self.clock.advance(STEP),
            "fail": lambda: self.adapter.crash(owner.session_id),
            "operate": owner.get_cookies,
            "execute": lambda: owner.execute(type="wait", time_ms=1),
            "extend": lambda: owner.extend(minutes=1),
            "status": owner.status,
            "attach": attach,
            "detach": owner.detach,
        }
        calls = []
        for actor in self.race.actors:
            guest = rng.choice(guests) if guests else None
            mine: dict[str, Callable[[], Any]] = {
                "stop of a guest": lambda guest=guest: guest.stop(),
                "operate of a guest": lambda guest=guest: guest.get_cookies(),
                "detach of a guest": lambda guest=guest: guest.detach(),
            }
            calls.append(mine.get(actor) or does[actor])
        return calls

    # --- how it must have gone ----------------------------------------------------------------------------------

    def check_answers(self, answers: list[object]) -> None:
        for actor, answer in zip(self.race.actors, answers, strict=True):
            allowed = ANSWERS[actor]
            errors = tuple(kind for kind in allowed if kind is not None and issubclass(kind, Exception))
            if isinstance(answer, BaseException):
                if not isinstance(answer, errors):
                    raise AssertionError(f"{actor} got {answer!r}") from answer
            elif actor not in ("start", "attach"):  # which return the session
                kinds = tuple(kind for kind in allowed if kind is not None and kind not in errors)
                assert isinstance(answer, kinds) or (answer is None and None in allowed), f"{actor} got {answer!r}"
            if actor.startswith("sessions.stop") and isinstance(answer, SessionStatus):
                assert answer.status.terminal, f"{actor} came back before the end: {answer}"

    def check(self) -> None:
        (owner,) = self.sessions
        assert self.adapter.live == [], "a browser was left open"
        crashed_alone = "fail" in self.race.actors and owner._att.close_reason is CloseReason.DETACHED
        if not (crashed_alone and self.adapter.released == []):  # left running by all, it crashed
            assert self.adapter.released == self.adapter.opened, "each is released, and once"
        assert len(self.adapter.opened) <= 1
        of = by_attachment([record for _, record in self.store.records()])
        ends = {}
        for session in (owner, *self.guests):
            mine = of.get(session.attachment_id, [])
            begun = any(r.kind is RecordKind.INTENT for r in mine)
            assert session.state.terminal == begun, story_of(mine)
            assert replayed(mine) is session.state, "the log replays to another state"
            assert sum(r.terminal for r in mine) == begun, story_of(mine)
            endings = [r for r in mine if r.kind is RecordKind.INTENT and r.event not in (Event.START, Event.ATTACH)]
            assert len(endings) == begun, f"more than one teardown: {story_of(mine)}"
            if begun:
                (ends[session.attachment_id],) = (r for r in mine if r.terminal)
        if owner.attachment_id not in ends:
            return
        end = ends[owner.attachment_id]
        row = self.store.session(owner.session_id)
        if row is not None:
            assert (row.state, row.close_reason) == (end.dest, end.close_reason)
            assert row.released is (end.close_reason is not CloseReason.DETACHED)
        if self.race.service:
            return  # its guests hear from the service how it ended, which knows no deadline of the owner's
        for guest in self.guests:
            told = ends.get(guest.attachment_id)
            if told is not None and told.cause == "owner":
                assert (told.dest, told.close_reason) == (end.dest, end.close_reason), "they disagree on the end"


def run_sync(field: Field) -> None:
    race = field.race
    with field.client() as others, field.client() as owners:
        owner = field.owner(owners)
        guests = []
        if race.started:
            owner.start()
            if set(race.actors) & set(OF_GUESTS):
                guests = [field.guest(others, owner.session_id).start() for _ in range(2)]
            field.clock.advance(MINUTES * 60 - SHORT)
        field.check_answers(in_threads(field.calls(owners, others, owner, guests)))
        owner.stop()
        if field.adapter.live:  # it was left running, on purpose
            assert owner.status().close_reason is CloseReason.DETACHED
            others.sessions.stop(owner.session_id)
            if field.adapter.live:
                field.guest(others, owner.session_id).start().stop()
        for guest in field.guests:
            if guest._att.seq:
                guest.wait_ended(PATIENCE)
        told = {client.sessions.get(owner.session_id).status for client in (owners, others)} if race.started else set()
        assert len(told) <= 1, "two clients tell two ends"


def run_async(field: Field) -> None:
    race = field.race

    async def main() -> None:
        async with field.client() as others, field.client() as owners:
            owner = field.owner(owners)
            guests = []
            if race.started:
                await owner.start()
                if set(race.actors) & set(OF_GUESTS):
                    guests = [await field.guest(others, owner.session_id).start() for _ in range(2)]
                field.clock.advance(MINUTES * 60 - SHORT)
            gate = asyncio.Barrier(len(race.actors))

            async def act(call: Callable[[], Any]) -> object:
                await gate.wait()
                result = call()
                return await result if asyncio.iscoroutine(result) else result

            acts = [act(call) for call in field.calls(owners, others, owner, guests)]
            answers = await asyncio.wait_for(asyncio.gather(*acts, return_exceptions=True), PATIENCE)
            field.check_answers(answers)
            await owner.stop()
            if field.adapter.live:  # it was left running, on purpose
                assert (await owner.status()).close_reason is CloseReason.DETACHED
                await others.sessions.stop(owner.session_id)
                if field.adapter.live:
                    await (await field.guest(others, owner.session_id).start()).stop()
            for guest in field.guests:
                if guest._att.seq:
                    await guest.wait_ended(PATIENCE)
            if race.started:
                told = {(await client.sessions.get(owner.session_id)).status for client in (owners, others)}
                assert len(told) == 1, "two clients tell two ends"

    asyncio.run(main())


def raced(seeds: range, counted: Callable[..., None]) -> None:
    races = [drawn(seed) for seed in seeds]
    for race in races:
        field = Field(race)
        before = len(supervisor()._tasks)
        with in_cell(race):
            with Swallowed(supervisor().thread.loop) as swallowed:
                (run_sync if race.api == "sync" else run_async)(field)
                eventually(lambda before=before: len(supervisor()._tasks) <= before, "a task of the supervisor is left")
            assert not swallowed.errors, "; ".join(swallowed.errors)
            field.check()
    counted(PART, races)


@pytest.mark.parametrize("part", range(8))
def test_all_at_once(part, counted):
    raced(range(part * 50, part * 50 + 50), counted)


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(8, 88))
def test_all_at_once_many_times(part, counted):
    raced(range(part * 50, part * 50 + 50), counted)


def test_the_races_have_all_actors_in_them():
    races = [drawn(seed) for seed in range(400)]
    by_actor = Counter(actor for race in races for actor in race.actors)
    assert set(by_actor) == set(ANSWERS) == set(ACTORS)
    assert min(by_actor.values()) >= 20, by_actor
    assert {len(race.actors) for race in races} == {2, 3, 4, 5, 6, 8, 12, 16}
    assert len({str(drawn(seed)) for seed in range(4_400)}) == 4_400


# --- and a fork -----------------------------------------------------------------------------------------------------

FORKS: Final = """
import asyncio, json, random, signal, warnings
from lifecycle.testing import ManualClock
warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)

def born(session):
    # What the child of a race has: nothing of the session, and a client of its own that works.
    signal.alarm(20)
    code = 1
    try:
        for call in (session.get_cookies, session.stop):
            try:
                call()
            except UsageError as e:
                assert "fork" in str(e), e
            else:
                raise AssertionError("a child used its parent's session")
        with Client(adapter="memory", store="memory:") as own, own.Session() as mine:
            mine.set_cookies(cookies=[COOKIE])
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)

def race(seed):
    rng = random.Random(seed)
    adapter, answers = MemoryAdapter(), []
    with Client(adapter=adapter, store="memory:", clock=ManualClock()) as client:
        session = client.Session().start()
        does = {
            "stop": session.stop,
            "sessions.stop": lambda: client.sessions.stop(session.session_id),
            "fail": lambda: adapter.crash(session.session_id),
            "operate": session.get_cookies,
            "extend": lambda: session.extend(minutes=1),
        }
        actors = ["fork", *rng.choices(sorted(does), k=rng.choice((1, 2, 3, 5, 7)))]
        rng.shuffle(actors)
        gate = threading.Barrier(len(actors))
        pids = []

        def act(actor):
            gate.wait(20)
            try:
                if actor == "fork":
                    pid = os.fork()
                    if pid == 0:
                        born(session)
                    pids.append(pid)
                else:
                    does[actor]()
            except (SessionEnded, ConfigError):
                pass
            except BaseException as e:
                answers.append(f"{actor}: {e!r}")

        threads = [threading.Thread(target=act, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a call has not come back"
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0]
        session.stop()
        ends = [r for r in session.history() if r.terminal]
        assert len(ends) == 1 and ends[0].dest is session.state, ends
    assert answers == [], answers
    assert adapter.opened == adapter.released and len(adapter.opened) == 1
    return sorted(actors)

print(json.dumps([[seed, race(seed)] for seed in range(int(sys.argv[1]), int(sys.argv[2]))]))
"""


def forked(first: int, last: int, counted: Callable[..., None]) -> None:
    done = children.run(FORKS, first, last, forks=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    cells = [f"{len(actors)} ({', '.join(actors)}), sync, seed {seed}" for seed, actors in json.loads(done.stdout)]
    assert len(cells) == last - first
    counted(PART, cells)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@needs_fork
def test_a_fork_among_them(counted):
    forked(0, 10, counted)


@needs_fork
@pytest.mark.campaign
@pytest.mark.parametrize("part", range(1, 11))
def test_a_fork_among_them_many_times(part, counted):
    forked(part * 10, part * 10 + 10, counted)
