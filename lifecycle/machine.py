"""The machine: the declared table on a `transitions.Machine`, and the pure decision what an event does.

Rule: this is the only importer of `transitions`. It declares and decides and does no I/O: `decide` triggers the event
on a scratch model, so nothing changes, and `commit` is the one place where a model's state is written. One Machine
serves every session; models are detached (never `add_model`-ed), so they cost two slots and hold no callbacks, and
the Machine holds nothing of a call, so any thread may decide.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, cast

with warnings.catch_warnings():  # it adds a filter of its own as it loads, and how a program warns is the program's
    import transitions
    from transitions import EventData, Machine

from lifecycle.audit import GuardResult
from lifecycle.states import (
    EDGES,
    FALLBACKS,
    INITIAL,
    STEPS,
    Edge,
    Event,
    Fallback,
    Guard,
    InFlight,
    Outcome,
    State,
    Step,
    StepRule,
)

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.verify import Problem

__all__ = [
    "GUARDS",
    "MACHINE",
    "Decider",
    "Decision",
    "Facts",
    "GuardRule",
    "Model",
    "Standing",
    "all_facts",
    "allowed",
    "build_machine",
    "commit",
    "decide",
    "edge_of",
    "edges_for",
    "fail_edge",
    "failed_guard",
    "verify",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the guards look at. Gathered before the decision, because a guard does no I/O.

    Attributes:
        in_flight: The edge that is being carried out for this attachment.
        session_id_given: The session was made with an id, so it attaches.
        deadline_passed: A deadline of the session is over, or the backend says that its time is.
        can_live_on: The backend goes on without this process.
    """

    in_flight: InFlight = InFlight.NOTHING
    session_id_given: bool = False
    deadline_passed: bool = False
    can_live_on: bool = False


GuardRule = Callable[[Facts], bool]

GUARDS: Final[Mapping[Guard, GuardRule]] = MappingProxyType(
    {
        Guard.IDLE: lambda facts: facts.in_flight is InFlight.NOTHING,
        Guard.NO_SESSION_ID: lambda facts: not facts.session_id_given,
        Guard.SESSION_ID_GIVEN: lambda facts: facts.session_id_given,
        Guard.OPENING: lambda facts: facts.in_flight is InFlight.START or facts.in_flight is InFlight.ATTACH,
        Guard.NOT_ENDING: lambda facts: facts.in_flight is not InFlight.ENDING,
        Guard.BEFORE_DEADLINE: lambda facts: not facts.deadline_passed,
        Guard.DEADLINE_PASSED: lambda facts: facts.deadline_passed,
        Guard.CAN_LIVE_ON: lambda facts: facts.can_live_on,
    }
)
"""The predicate of every guard: pure, so a decision can be made again from the record of its facts."""


class Model(Protocol):
    """Anything that has a state; `Standing` is the smallest."""

    state: State


class Standing:
    """Where one attachment stands: the detached model that the machine is asked about."""

    __slots__ = ("facts", "state")

    def __init__(self, state: State = INITIAL, facts: Facts | None = None) -> None:
        self.state = state
        self.facts = facts if facts is not None else Facts()


class _Scratch(Standing):
    """A copy to decide on; notes which edge the machine took."""

    __slots__ = ("taken",)

    taken: Edge | None

    def __init__(self, state: State, facts: Facts) -> None:
        super().__init__(state, facts)
        self.taken = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What an event does in a state.

    Attributes:
        outcome: The written outcome; `EDGE` when an edge is taken.
        edge: The edge that is taken, or None.
        guards: The guards that decided, with their results. Of the edge that is taken; else of the edge that came
            closest: the one with the fewest guards that say no, the first in the table among equals. Empty when the
            state has no edge for the event.
    """

    outcome: Outcome
    edge: Edge | None
    guards: tuple[GuardResult, ...] = ()


def build_machine(edges: Sequence[Edge] = EDGES, *, guards: Mapping[Guard, GuardRule] = GUARDS) -> Machine:
    """A machine of `edges`, without models. The library has one, `MACHINE`; build others to try a changed table."""
    machine = Machine(
        model=None,
        states=[_Quiet(state) for state in State],
        initial=None,
        auto_transitions=False,
        send_event=True,
        name="lifecycle",
    )
    for edge in edges:
        machine.add_transition(
            edge.event,
            edge.source,
            None if edge.internal else edge.dest,
            conditions=[*(_condition(guards[guard]) for guard in edge.guards), _note(edge)],
        )
    return machine


class _Quiet(transitions.State):
    """A state without callbacks that logs nothing: a trial on a scratch model would read like a real change."""

    def enter(self, event_data: EventData) -> None:
        """Do nothing."""

    def exit(self, event_data: EventData) -> None:
        """Do nothing."""


def _condition(rule: GuardRule) -> Callable[[EventData], bool]:
    return lambda data: rule(cast("_Scratch", data.model).facts)


def _note(edge: Edge) -> Callable[[EventData], bool]:
    """The last condition of `edge`, met only when its guards hold; a `before` callback would be logged each time."""

    def note(data: EventData) -> bool:
        cast("_Scratch", data.model).taken = edge
        return True

    return note


class Decider:
    """Decides events by one table. The library's own is behind `decide`; others serve to try a changed table.

    Args:
        edges: The edges.
        fallbacks: What is done when no edge takes an event; the first row that fits decides.
        guards: The predicate of each guard.
        machine: The machine of `edges`, where there is one already.
    """

    __slots__ = ("_cells", "_guards", "_machine", "_otherwise")

    def __init__(
        self,
        edges: Sequence[Edge] = EDGES,
        *,
        fallbacks: Sequence[Fallback] = FALLBACKS,
        guards: Mapping[Guard, GuardRule] = GUARDS,
        machine: Machine | None = None,
    ) -> None:
        self._machine = machine if machine is not None else build_machine(edges, guards=guards)
        self._guards = guards
        self._cells = {
            (state, event): tuple(e for e in edges if e.source is state and e.event is event)
            for state in State
            for event in Event
        }
        self._otherwise = {
            (state, event, in_flight): row.outcome
            for row in reversed(fallbacks)
            for state in row.states
            for event in row.events
            for in_flight in row.in_flight
        }

    def __call__(self, state: State, event: Event, facts: Facts) -> Decision:
        """What `event` does in `state` under `facts`. Changes nothing.

        Raises:
            LookupError: No edge takes the event and no fallback is written for it; `verify` rules that out.
        """
        edges = self._cells[state, event]
        if edges:
            scratch = _Scratch(state, facts)
            self._machine.events[event].trigger(scratch)
            if (taken := scratch.taken) is not None:
                return Decision(Outcome.EDGE, taken, tuple(GuardResult(guard=g, held=True) for g in taken.guards))
        outcome = self._otherwise.get((state, event, facts.in_flight))
        if outcome is None:
            msg = f"no outcome is written for {event} in {state} with {facts.in_flight} in flight"
            raise LookupError(msg)
        return Decision(outcome, None, self._closest(edges, facts))

    def _closest(self, edges: Sequence[Edge], facts: Facts) -> tuple[GuardResult, ...]:
        results = [tuple(GuardResult(guard=g, held=self._guards[g](facts)) for g in e.guards) for e in edges]
        return min(results, key=lambda guards: sum(not g.held for g in guards), default=())


MACHINE: Final = build_machine()
"""The one machine."""

_decider: Final = Decider(machine=MACHINE)


def decide(state: State, event: Event, facts: Facts) -> Decision:
    """What `event` does in `state` under `facts`. Pure and thread-safe: it changes nothing."""
    return _decider(state, event, facts)


def commit(model: Model, edge: Edge) -> None:
    """Move `model` along `edge`: the only writer of a model's state.

    A diverted edge is committed as the `fail` edge that it diverted to, so every change is one row of the table.

    Raises:
        ValueError: The table has no such edge, or the model is not in the edge's source state.
    """
    if edge not in EDGES or model.state is not edge.source:
        msg = f"{edge.name} can't be committed in state {model.state}"
        raise ValueError(msg)
    MACHINE.set_state(edge.dest, model)


def edges_for(state: State, event: Event) -> tuple[Edge, ...]:
    """The edges that take `event` out of `state`, whatever their guards say."""
    return tuple(e for e in EDGES if e.source is state and e.event is event)


def edge_of(record: Record) -> Edge | None:
    """The edge that a record is about: the one that was taken, begun or given up, or that would have been.

    Of edges between the same states, the one whose guards held. None for an event that the state has no edge for.
    """
    fitting = [e for e in EDGES if (e.event, e.source, e.dest) == (record.event, record.source, record.dest)]
    held = {result.guard for result in record.guards if result.held}
    return next((e for e in fitting if held.issuperset(e.guards)), fitting[0] if fitting else None)


def fail_edge(state: State) -> Edge:
    """The `fail` edge that a diverted edge out of `state` goes on along.

    Raises:
        LookupError: `state` is final.
    """
    for edge in edges_for(state, Event.FAIL):
        return edge
    msg = f"{state} is final: nothing can divert there"
    raise LookupError(msg)


def allowed(state: State) -> tuple[Event, ...]:
    """The events that have an edge leaving `state`, in the order of `Event`; for messages."""
    return tuple(event for event in Event if edges_for(state, event))


def failed_guard(decision: Decision) -> Guard | None:
    """The first guard that said no.

    None when an edge is taken or when the state has no edge for the event: the first is no error, the second is an
    `InvalidTransition` rather than a `GuardRejected`.
    """
    return next((Guard(result.guard) for result in decision.guards if not result.held), None)


def all_facts(in_flight: InFlight) -> Iterator[Facts]:
    """Every combination of the other facts while `in_flight` is in flight."""
    for given, passed, live in itertools.product((False, True), repeat=3):
        yield Facts(in_flight=in_flight, session_id_given=given, deadline_passed=passed, can_live_on=live)


def verify(
    edges: Sequence[Edge] = EDGES,
    *,
    fallbacks: Sequence[Fallback] = FALLBACKS,
    steps: Mapping[Step, StepRule] = STEPS,
    guards: Mapping[Guard, GuardRule] = GUARDS,
) -> list[Problem]:
    """Prove the table sound; see `lifecycle.verify` for what is proved.

    Returns:
        What is wrong, each naming the edge, state or step; empty when the table is sound.
    """
    # Loaded on demand: a program that only runs sessions never pays for the proofs.
    from lifecycle.verify import prove  # noqa: PLC0415

    return prove(edges, fallbacks=fallbacks, steps=steps, guards=guards)
