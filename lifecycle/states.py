"""The declared lifecycle: states, events, guards, steps and edges, as data.

Rule: this is the only place an edge exists. `lifecycle.machine` builds the machine from it, the diagrams are
drawn from it, the flow carries it out step by step, and the tests hold all of them against a golden table
that is written by hand. Nothing here does anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

TABLE_VERSION: Final = 1
"""Raised whenever an edge, guard, step or outcome changes, and written into every audit record."""


class State(enum.StrEnum):
    """Where an attachment stands in its life. `closed`, `error` and `timed_out` are final."""

    NOT_STARTED = "not_started"
    ACTIVE = "active"
    CLOSED = "closed"
    ERROR = "error"
    TIMED_OUT = "timed_out"

    @property
    def terminal(self) -> bool:
        """True for the three final states."""
        return self in TERMINAL


class Event(enum.StrEnum):
    """What can happen to an attachment. Callers cause the first five, the supervisor the last two."""

    START = "start"
    ATTACH = "attach"
    OPERATE = "operate"
    STOP = "stop"
    DETACH = "detach"
    EXPIRE = "expire"
    FAIL = "fail"


class InFlight(enum.StrEnum):
    """The edge that is being carried out while an event arrives; the state changes only at its commit."""

    NOTHING = "nothing"
    START = "start"
    ATTACH = "attach"
    ENDING = "ending"


class Outcome(enum.StrEnum):
    """What is done with an event: take an edge, say no, let it pass, or share the ending in flight."""

    EDGE = "edge"
    REJECTED = "rejected"
    IGNORED = "ignored"
    JOINS = "joins"


class Guard(enum.StrEnum):
    """A condition on an edge, as a pure predicate over `Facts` (see `lifecycle.machine.GUARDS`)."""

    IDLE = "idle"
    NO_SESSION_ID = "no session_id"
    SESSION_ID_GIVEN = "session_id given"
    OPENING = "start or attach in flight"
    NOT_ENDING = "no ending in flight"
    BEFORE_DEADLINE = "before the deadline"
    DEADLINE_PASSED = "a deadline passed or the backend says so"
    CAN_LIVE_ON = "backend can live on"


class Step(enum.StrEnum):
    """One action on an edge. Steps run in the order in which the edge lists them."""

    READ_COOKIES = "read_cookies"
    OPEN_BACKEND = "open_backend"
    PROBE_BACKEND = "probe_backend"
    CONNECT_BACKEND = "connect_backend"
    LOAD_COOKIES = "load_cookies"
    OPEN_VIEWER = "open_viewer"
    CANCEL_START = "cancel_start"
    SAVE_COOKIES = "save_cookies"
    CLOSE_CONNECTIONS = "close_connections"
    RELEASE_BACKEND = "release_backend"


class Policy(enum.StrEnum):
    """What follows when a step fails or outlasts its budget."""

    DIVERT = "divert"
    """Take the `fail` edge from the first step not yet undone, keep the cause, raise it to the caller."""
    CARRY_ON = "carry on"
    """Record it, finish the edge, then tell the caller."""
    RETRY = "retry, then divert"
    """Try again within the budget; when that fails too, the edge ends in `error` and the ledger keeps the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """How one step is run.

    Attributes:
        policy: What follows when it fails.
        budget: Seconds that one attempt may take.
        attempts: How often it is tried at most.
        needs_backend: The step talks to the backend, so it is skipped once the backend is known to be gone.
    """

    policy: Policy
    budget: float
    attempts: int = 1
    needs_backend: bool = False


STEPS: Final[Mapping[Step, StepRule]] = MappingProxyType(
    {
        Step.READ_COOKIES: StepRule(policy=Policy.DIVERT, budget=10.0),
        Step.OPEN_BACKEND: StepRule(policy=Policy.DIVERT, budget=60.0),
        Step.PROBE_BACKEND: StepRule(policy=Policy.DIVERT, budget=15.0),
        Step.CONNECT_BACKEND: StepRule(policy=Policy.DIVERT, budget=30.0),
        Step.LOAD_COOKIES: StepRule(policy=Policy.DIVERT, budget=15.0, needs_backend=True),
        Step.OPEN_VIEWER: StepRule(policy=Policy.CARRY_ON, budget=5.0, needs_backend=True),
        Step.CANCEL_START: StepRule(policy=Policy.CARRY_ON, budget=15.0),
        Step.SAVE_COOKIES: StepRule(policy=Policy.CARRY_ON, budget=15.0, needs_backend=True),
        Step.CLOSE_CONNECTIONS: StepRule(policy=Policy.CARRY_ON, budget=5.0),
        Step.RELEASE_BACKEND: StepRule(policy=Policy.RETRY, budget=15.0, attempts=3),
    }
)
"""The rule of every step. A budget bounds one attempt, so an ending takes at most the sum over its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One row of the table.

    Attributes:
        event: The event that takes this edge.
        source: The state it leaves.
        dest: The state it reaches; the same as `source` for an internal edge.
        guards: All of these hold, or the edge is not taken.
        steps: Carried out in this order, between the intent and the commit.
    """

    event: Event
    source: State
    dest: State
    guards: tuple[Guard, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def internal(self) -> bool:
        """True when the edge changes no state (`operate`)."""
        return self.source is self.dest

    @property
    def name(self) -> str:
        """A short name for messages, such as ``stop: active -> closed``."""
        return f"{self.event}: {self.source} -> {self.dest}"

    @property
    def full_name(self) -> str:
        """The name that no other edge has, such as ``stop: active -> closed [no ending in flight]``."""
        return f"{self.name} [{', '.join(self.guards)}]"


_TEARDOWN: Final = (Step.SAVE_COOKIES, Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND)
_UNDO_START: Final = (Step.CANCEL_START, Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND)

EDGES: Final[tuple[Edge, ...]] = (
    Edge(
        event=Event.START,
        source=State.NOT_STARTED,
        dest=State.ACTIVE,
        guards=(Guard.IDLE, Guard.NO_SESSION_ID),
        steps=(Step.READ_COOKIES, Step.OPEN_BACKEND, Step.LOAD_COOKIES, Step.OPEN_VIEWER),
    ),
    Edge(
        event=Event.ATTACH,
        source=State.NOT_STARTED,
        dest=State.ACTIVE,
        guards=(Guard.IDLE, Guard.SESSION_ID_GIVEN),
        steps=(
            Step.READ_COOKIES,
            Step.PROBE_BACKEND,
            Step.CONNECT_BACKEND,
            Step.LOAD_COOKIES,
            Step.OPEN_VIEWER,
        ),
    ),
    Edge(
        event=Event.OPERATE,
        source=State.ACTIVE,
        dest=State.ACTIVE,
        guards=(Guard.NOT_ENDING, Guard.BEFORE_DEADLINE),
    ),
    Edge(event=Event.STOP, source=State.NOT_STARTED, dest=State.CLOSED, guards=(Guard.IDLE,)),
    Edge(event=Event.STOP, source=State.NOT_STARTED, dest=State.CLOSED, guards=(Guard.OPENING,), steps=_UNDO_START),
    Edge(event=Event.STOP, source=State.ACTIVE, dest=State.CLOSED, guards=(Guard.NOT_ENDING,), steps=_TEARDOWN),
    Edge(
        event=Event.DETACH,
        source=State.ACTIVE,
        dest=State.CLOSED,
        guards=(Guard.NOT_ENDING, Guard.CAN_LIVE_ON),
        steps=(Step.SAVE_COOKIES, Step.CLOSE_CONNECTIONS),
    ),
    Edge(
        event=Event.EXPIRE,
        source=State.NOT_STARTED,
        dest=State.TIMED_OUT,
        guards=(Guard.OPENING, Guard.DEADLINE_PASSED),
        steps=_UNDO_START,
    ),
    Edge(
        event=Event.EXPIRE,
        source=State.ACTIVE,
        dest=State.TIMED_OUT,
        guards=(Guard.NOT_ENDING, Guard.DEADLINE_PASSED),
        steps=_TEARDOWN,
    ),
    Edge(
        event=Event.FAIL,
        source=State.NOT_STARTED,
        dest=State.ERROR,
        guards=(Guard.OPENING,),
        steps=(Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND),
    ),
    Edge(event=Event.FAIL, source=State.ACTIVE, dest=State.ERROR, guards=(Guard.NOT_ENDING,), steps=_TEARDOWN),
)
"""Every edge there is."""

TERMINAL: Final[frozenset[State]] = frozenset({State.CLOSED, State.ERROR, State.TIMED_OUT})
"""The final states: no edge leaves them."""

INITIAL: Final = State.NOT_STARTED

ENDING_BUDGET: Final = max(
    sum(STEPS[step].budget * STEPS[step].attempts for step in edge.steps) for edge in EDGES if edge.dest in TERMINAL
)
"""Seconds that the steps of an ending may take at most; hooks come on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What is done with an event when no edge takes it. The first row that fits decides.

    Attributes:
        states: The row fits in these states.
        in_flight: ... while one of these is in flight.
        events: ... for these events.
        outcome: What is done.
    """

    states: frozenset[State]
    in_flight: frozenset[InFlight]
    events: frozenset[Event]
    outcome: Outcome


_ANY_FLIGHT: Final = frozenset(InFlight)
_ANY_EVENT: Final = frozenset(Event)
_LIVE: Final = frozenset({State.NOT_STARTED, State.ACTIVE})

FALLBACKS: Final[tuple[Fallback, ...]] = (
    # A session that is over: repeated endings are silent, everything else is told so.
    Fallback(
        states=TERMINAL,
        in_flight=_ANY_FLIGHT,
        events=frozenset({Event.STOP, Event.DETACH, Event.EXPIRE, Event.FAIL}),
        outcome=Outcome.IGNORED,
    ),
    Fallback(states=TERMINAL, in_flight=_ANY_FLIGHT, events=_ANY_EVENT, outcome=Outcome.REJECTED),
    # An ending in flight: stop gets that ending's outcome, other endings come too late.
    Fallback(
        states=_LIVE,
        in_flight=frozenset({InFlight.ENDING}),
        events=frozenset({Event.STOP}),
        outcome=Outcome.JOINS,
    ),
    Fallback(
        states=_LIVE,
        in_flight=frozenset({InFlight.ENDING}),
        events=frozenset({Event.DETACH, Event.EXPIRE, Event.FAIL}),
        outcome=Outcome.IGNORED,
    ),
    # A timer or a crash report that no longer applies is noted; a caller that asks amiss is told.
    Fallback(
        states=_LIVE,
        in_flight=_ANY_FLIGHT,
        events=frozenset({Event.EXPIRE, Event.FAIL}),
        outcome=Outcome.IGNORED,
    ),
    Fallback(states=_LIVE, in_flight=_ANY_FLIGHT, events=_ANY_EVENT, outcome=Outcome.REJECTED),
)
"""The written outcome of every (state, event, in flight) that no edge takes."""


class CloseReason(enum.StrEnum):
    """Why a session ended; goes with its terminal state."""

    MANUAL = "manual"
    DETACHED = "detached"
    IDLE_TIMEOUT = "idle_timeout"
    MAX_DURATION = "max_duration"
    START_TIMEOUT = "start_timeout"
    BACKEND = "backend"
    CRASH = "crash"
    ABANDONED = "abandoned"
    OWNER_DIED = "owner_died"
    LEASE_LOST = "lease_lost"
