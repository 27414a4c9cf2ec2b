"""Proofs about single events: totality, determinism, reachability, and the outcomes that the lifecycle promises.

Rule: every cell (state, event, in flight) is decided with every combination of the other facts; none is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Final

from lifecycle.machine import Decider, Facts
from lifecycle.states import INITIAL, TERMINAL, Edge, Event, InFlight, Outcome, State, Step
from lifecycle.verify.table import Kind, Problem, Table

_DEST: Final = MappingProxyType(
    {
        Event.STOP: State.CLOSED,
        Event.DETACH: State.CLOSED,
        Event.EXPIRE: State.TIMED_OUT,
        Event.FAIL: State.ERROR,
    }
)
"""Where each ending leads: the final state tells how a session ended."""


def cell_problems(table: Table) -> Iterator[Problem]:
    """What is wrong with what single events do."""
    yield from _fallbacks(table)
    yield from _cells(table)
    yield from _reachability(table)
    yield from _edges(table)


def _fallbacks(table: Table) -> Iterator[Problem]:
    """Each cell has a fallback; each row is the first that fits somewhere, and none promises an edge."""
    deciding: set[int] = set()
    for state in State:
        for event in Event:
            for flight in InFlight:
                fits = [
                    n
                    for n, row in enumerate(table.fallbacks)
                    if state in row.states and event in row.events and flight in row.in_flight
                ]
                if not fits:
                    yield Problem(Kind.TOTALITY, f"{_cell_name(state, event, flight)} has no fallback")
                deciding.update(fits[:1])
    for n, row in enumerate(table.fallbacks):
        if n not in deciding:
            yield Problem(Kind.TOTALITY, f"fallback row {n + 1} ({row.outcome}) never decides")
        if row.outcome is Outcome.EDGE:
            yield Problem(Kind.TOTALITY, f"fallback row {n + 1} promises an edge that does not exist")


def _cells(table: Table) -> Iterator[Problem]:
    decide = Decider(table.edges, fallbacks=table.fallbacks, guards=table.guards)
    for state in State:
        for event in Event:
            for flight in InFlight:
                for facts in table.facts[flight]:
                    yield from _cell(table, decide, state, event, facts)


def _cell(table: Table, decide: Decider, state: State, event: Event, facts: Facts) -> Iterator[Problem]:
    where = _cell_name(state, event, facts.in_flight)
    enabled = table.enabled(state, event, facts)
    if len(enabled) > 1:
        names = " and by ".join(f"{e.name} [{', '.join(e.guards) or 'no guard'}]" for e in enabled)
        yield Problem(Kind.DETERMINISM, f"{where} is taken by {names}")
    try:
        decision = decide(state, event, facts)
    except LookupError:
        yield Problem(Kind.TOTALITY, f"{where} has no outcome")
        return
    if decision.edge is not (enabled[0] if enabled else None):
        yield Problem(Kind.DETERMINISM, f"{where}: the machine takes another edge than its guards say")
    if decision.outcome is not (promised := _promised(state, event, facts)):
        yield Problem(Kind.OUTCOME, f"{where} is {decision.outcome}, and {promised} is promised")


def _promised(state: State, event: Event, facts: Facts) -> Outcome:
    """The outcome that keeps the promises of the lifecycle."""
    if state in TERMINAL:  # over: a repeated ending is silent, anything else is told so
        return Outcome.IGNORED if event in _DEST else Outcome.REJECTED
    if facts.in_flight is InFlight.ENDING:  # one ending wins: stop shares its outcome, the others come too late
        if event is Event.STOP:
            return Outcome.JOINS
        return Outcome.IGNORED if event in _DEST else Outcome.REJECTED
    if event is Event.STOP:  # stop always ends
        return Outcome.EDGE
    at_rest = state is State.NOT_STARTED and facts.in_flight is InFlight.NOTHING
    if event in (Event.EXPIRE, Event.FAIL):  # the supervisor's own: taken when there is something to end, never refused
        due = event is Event.FAIL or facts.deadline_passed
        return Outcome.EDGE if due and not at_rest else Outcome.IGNORED
    may = {
        Event.START: at_rest and not facts.session_id_given,
        Event.ATTACH: at_rest and facts.session_id_given,
        Event.OPERATE: state is State.ACTIVE and not facts.deadline_passed,
        Event.DETACH: state is State.ACTIVE and facts.can_live_on,
    }
    return Outcome.EDGE if may[event] else Outcome.REJECTED


def _reachability(table: Table) -> Iterator[Problem]:
    """Every state is reached from the first, a final one from every other, and nothing leaves a final one."""
    for edge in table.edges:
        if not table.enabled_under(edge):
            yield Problem(Kind.REACHABILITY, f"{edge.name} is never taken: its guards exclude each other")
        if edge.source in TERMINAL:
            yield Problem(Kind.REACHABILITY, f"{edge.name} leaves a final state")
    arrows = [(e.source, e.dest) for e in table.edges if table.enabled_under(e)]
    reached = _closure({INITIAL}, arrows)
    ends = _closure(set(TERMINAL), [(dest, source) for source, dest in arrows])
    for state in State:
        if state not in reached:
            yield Problem(Kind.REACHABILITY, f"state {state} can't be reached from {INITIAL}")
        if state not in ends:
            yield Problem(Kind.REACHABILITY, f"state {state} is a dead end: no final state can be reached from it")


def _closure(known: set[State], arrows: Sequence[tuple[State, State]]) -> set[State]:
    while new := {dest for source, dest in arrows if source in known} - known:
        known = known | new
    return known


def _edges(table: Table) -> Iterator[Problem]:
    """What each edge may never lead to, nor be taken for, whatever the facts."""
    for edge in table.edges:
        dest = _DEST.get(edge.event)
        if dest is not None and edge.dest is not dest:
            yield Problem(Kind.OUTCOME, f"{edge.name}: {edge.event} leads to {dest}")
        if dest is None and edge.dest is not State.ACTIVE:
            yield Problem(Kind.OUTCOME, f"{edge.name}: {edge.event} leads to {State.ACTIVE}")
        for facts in table.enabled_under(edge):
            for wrong in _misuse(edge, facts):
                yield Problem(Kind.GUARD, f"{edge.name} [{', '.join(edge.guards) or 'no guard'}] is taken {wrong}")


def _misuse(edge: Edge, facts: Facts) -> Iterator[str]:
    opens = edge.source is not State.ACTIVE and edge.dest is State.ACTIVE
    if facts.in_flight is InFlight.ENDING:
        yield "while an ending is in flight"
    elif opens and facts.in_flight is not InFlight.NOTHING:
        yield f"while {facts.in_flight} is in flight"
    if Step.OPEN_BACKEND in edge.steps and facts.session_id_given:
        yield "for a new session although a session id was given"
    if Step.CONNECT_BACKEND in edge.steps and not facts.session_id_given:
        yield "without a session id to attach to"
    if edge.internal and facts.deadline_passed:
        yield "after the deadline"
    if edge.dest is State.TIMED_OUT and not facts.deadline_passed:
        yield "before the deadline"


def _cell_name(state: State, event: Event, flight: InFlight) -> str:
    return f"{event} in {state} with {flight} in flight"
