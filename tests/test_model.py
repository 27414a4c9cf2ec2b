"""Lives drawn by Hypothesis, step by step, against a model of states, deadlines and cookies and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lifecycle import Client, RecordKind, State
from lifecycle.errors import ConfigError, InvalidTransition, SessionEnded
from lifecycle.stores.memory import MemoryStore
from lifecycle.testing import ManualClock
from lifecycle_adapters.memory import MemoryAdapter

pytestmark = pytest.mark.slow

NAMES = st.sampled_from(["a", "b", "c"])
MINUTES = st.integers(1, 40)


@dataclass
class Model:
    """What a session should be. Times are in seconds of the clock."""

    idle: float
    longest: float
    state: State = State.NOT_STARTED
    reason: str | None = None
    began: float = 0.0
    used: float = 0.0
    held: float = 0.0
    ended: float = 0.0
    cookies: set[str] = field(default_factory=set)

    def due(self) -> tuple[float, str]:
        """Its nearest deadline."""
        idle = (max(self.used + self.idle, self.held), "idle_timeout")
        return min(idle, (self.began + self.longest, "max_duration"), key=lambda due: due[0])

    def end(self, state: State, reason: str, at: float) -> None:
        """It is over, unless it was before."""
        if not self.state.terminal:
            self.state, self.reason, self.ended = state, reason, at

    def pass_time(self, now: float) -> None:
        """The clock says `now`."""
        at, reason = self.due()
        if self.state is State.ACTIVE and at <= now:
            self.end(State.TIMED_OUT, reason, now)


class Lives(RuleBasedStateMachine):
    """One client with some sessions, and a model of each."""

    sessions = Bundle("sessions")
    steps = 0

    def __init__(self):
        super().__init__()
        self.clock, self.store, self.adapter = ManualClock(), MemoryStore(), MemoryAdapter()
        self.client = Client(adapter=self.adapter, store=self.store, clock=self.clock)
        self.told = []
        self.client.hook(after=["start", "stop", "expire", "fail"], on_error="log")(self.hook)
        self.models = {}
        self.now = 0.0

    def hook(self, session, transition):
        self.told.append((session, transition.dest))

    @rule(target=sessions, idle=MINUTES, more=st.integers(0, 40), at_once=st.booleans())
    def new(self, idle, more, at_once):
        session = self.client.Session(timeout_minutes=idle, max_duration_minutes=idle + more)
        self.models[session] = Model(idle=idle * 60.0, longest=(idle + more) * 60.0)
        if at_once:
            self.start(session)
        return session

    @rule(session=sessions)
    def start(self, session):
        model = self.models[session]
        if model.state is State.NOT_STARTED:
            session.start()
            model.state, model.began, model.used = State.ACTIVE, self.now, self.now
        else:
            with pytest.raises(InvalidTransition):
                session.start()

    @rule(session=sessions)
    def stop(self, session):
        session.stop()
        self.models[session].end(State.CLOSED, "manual", self.now)

    def using(self, session, work):
        """An operation: on what is active it counts as use, on anything else it is refused."""
        model = self.models[session]
        if model.state is State.ACTIVE:
            result = work()
            model.used = self.now
            return result
        with pytest.raises(InvalidTransition if model.state is State.NOT_STARTED else SessionEnded):
            work()
        return None

    @rule(session=sessions, name=NAMES)
    def give_a_cookie(self, session, name):
        cookie = {"name": name, "value": "1", "domain": "site.test", "path": "/"}
        self.using(session, lambda: session.set_cookies(cookies=[cookie]))
        if self.models[session].state is State.ACTIVE:
            self.models[session].cookies.add(name)

    @rule(session=sessions)
    def read_its_cookies(self, session):
        found = self.using(session, session.get_cookies)
        if found is not None:
            assert {cookie["name"] for cookie in found} == self.models[session].cookies

    @rule(session=sessions, minutes=MINUTES)
    def extend(self, session, minutes):
        self.using(session, lambda: session.extend(minutes=minutes))
        if self.models[session].state is State.ACTIVE:
            self.models[session].longest += minutes * 60

    @rule(session=sessions, minutes=MINUTES)
    def hold(self, session, minutes):
        model = self.models[session]
        if model.state is State.ACTIVE and self.now + minutes * 60 > model.began + model.longest:
            with pytest.raises(ConfigError):
                session.hold("a look", minutes)
            model.used = self.now
            return
        self.using(session, lambda: session.hold("a look", minutes))
        if model.state is State.ACTIVE:
            model.held = self.now + minutes * 60

    @rule(session=sessions)
    def crash(self, session):
        model = self.models[session]
        if model.state is State.ACTIVE:
            self.adapter.crash(session.session_id)
            session.wait_ended(timeout=20)
            model.end(State.ERROR, "crash", self.now)

    @rule(session=sessions, leaves=st.booleans())
    def visit(self, session, leaves):
        model = self.models[session]
        if model.state is not State.ACTIVE:
            return
        with self.client.Session(session.session_id, on_exit="detach" if leaves else "stop") as guest:
            assert {cookie["name"] for cookie in guest.get_cookies()} == model.cookies
        model.used = self.now
        assert guest.state is State.CLOSED
        if not leaves:
            model.end(State.CLOSED, "manual", self.now)

    @rule(seconds=st.integers(1, 1500))
    def wait(self, seconds):
        self.clock.advance(seconds)
        self.now += seconds
        for session, model in self.models.items():
            model.pass_time(self.now)
            if model.state.terminal:
                session.wait_ended(timeout=20)

    @invariant()
    def all_is_as_the_model_says(self):
        type(self).steps += 1
        for session, model in self.models.items():
            assert session.state is model.state
            status = session.status()
            assert (status.close_reason, status.status) == (model.reason, model.state)
            if model.state is State.ACTIVE:
                assert status.expires_at == self.clock.utcnow() + timedelta(seconds=model.due()[0] - self.now)
        live = {s.session_id for s, m in self.models.items() if m.state is State.ACTIVE}
        assert {s.session_id for s in self.client.sessions.list(status="active", limit=1000)} == live
        assert set(self.adapter.live) == live

    def teardown(self):
        self.client.close()
        for session, model in self.models.items():
            if model.state is State.ACTIVE:
                model.end(State.CLOSED, "manual", self.now)
            assert session.state is model.state
            records = [r for _, r in self.store.records(attachment_id=session.attachment_id)]
            assert sum(r.terminal for r in records) == model.state.terminal
            commits = [r.dest for r in records if r.kind is RecordKind.COMMIT]
            heard = [dest for told, dest in self.told if told is session]
            assert heard == commits, "a hook after each edge"
        assert self.adapter.live == []


def lived(counted, *, examples, steps):
    Lives.steps = 0
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    counted("J: steps of lives against a model", ["a step"] * Lives.steps)


def test_lives(counted):
    lived(counted, examples=100, steps=40)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_many_lives(counted):
    lived(counted, examples=2_500, steps=50)
    assert Lives.steps >= 100_000
