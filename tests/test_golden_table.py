"""The golden table: what the lifecycle promises, written out by hand.

Nothing in this text is derived from `lifecycle.states`. `compare` reads it and holds a table of edges, fallbacks,
steps and guards against it, with every combination of facts; other tests hold faulty copies against it too.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import pytest

from lifecycle.machine import GUARDS, Decider, Decision, Facts, GuardRule, decide, failed_guard
from lifecycle.states import (
    EDGES,
    FALLBACKS,
    STEPS,
    Edge,
    Event,
    Fallback,
    Guard,
    InFlight,
    State,
    Step,
    StepRule,
)

# One line for each (state, event, in flight): 5 x 7 x 4 = 140.
#
#   favoured    the outcome with the facts that the guards like; `-> state` is an edge
#   refused by  the guard that is named for it, where the state has an edge for the event that is not taken
#   unless      `fact: outcome (guard)` for each fact that decides, when it is the other way; all other facts are idle
#
# The facts: `id` a session id is given, `late` a deadline passed, `can live` the backend can live on. A start likes
# `no id`, attach `id`, operate `in time`, expire `late`, detach `can live`.
CASES = """
state       | event   | in flight | favoured     | refused by               | unless
not_started | start   | nothing   | -> active    |                          | id: rejected (no session_id)
not_started | start   | start     | rejected     | idle                     |
not_started | start   | attach    | rejected     | idle                     |
not_started | start   | ending    | rejected     | idle                     |
not_started | attach  | nothing   | -> active    |                          | no id: rejected (session_id given)
not_started | attach  | start     | rejected     | idle                     |
not_started | attach  | attach    | rejected     | idle                     |
not_started | attach  | ending    | rejected     | idle                     |
not_started | operate | nothing   | rejected     |                          |
not_started | operate | start     | rejected     |                          |
not_started | operate | attach    | rejected     |                          |
not_started | operate | ending    | rejected     |                          |
not_started | stop    | nothing   | -> closed    |                          |
not_started | stop    | start     | -> closed    |                          |
not_started | stop    | attach    | -> closed    |                          |
not_started | stop    | ending    | joins        | idle                     |
not_started | detach  | nothing   | rejected     |                          |
not_started | detach  | start     | rejected     |                          |
not_started | detach  | attach    | rejected     |                          |
not_started | detach  | ending    | ignored      |                          |
not_started | expire  | nothing   | ignored      | start or attach in flight|
not_started | expire  | start     | -> timed_out |                          | in time: ignored (a deadline passed or the backend says so)
not_started | expire  | attach    | -> timed_out |                          | in time: ignored (a deadline passed or the backend says so)
not_started | expire  | ending    | ignored      | start or attach in flight|
not_started | fail    | nothing   | ignored      | start or attach in flight|
not_started | fail    | start     | -> error     |                          |
not_started | fail    | attach    | -> error     |                          |
not_started | fail    | ending    | ignored      | start or attach in flight|
active      | start   | nothing   | rejected     |                          |
active      | start   | start     | rejected     |                          |
active      | start   | attach    | rejected     |                          |
active      | start   | ending    | rejected     |                          |
active      | attach  | nothing   | rejected     |                          |
active      | attach  | start     | rejected     |                          |
active      | attach  | attach    | rejected     |                          |
active      | attach  | ending    | rejected     |                          |
active      | operate | nothing   | -> active    |                          | late: rejected (before the deadline)
active      | operate | start     | -> active    |                          | late: rejected (before the deadline)
active      | operate | attach    | -> active    |                          | late: rejected (before the deadline)
active      | operate | ending    | rejected     | no ending in flight      |
active      | stop    | nothing   | -> closed    |                          |
active      | stop    | start     | -> closed    |                          |
active      | stop    | attach    | -> closed    |                          |
active      | stop    | ending    | joins        | no ending in flight      |
active      | detach  | nothing   | -> closed    |                          | can't live: rejected (backend can live on)
active      | detach  | start     | -> closed    |                          | can't live: rejected (backend can live on)
active      | detach  | attach    | -> closed    |                          | can't live: rejected (backend can live on)
active      | detach  | ending    | ignored      | no ending in flight      |
active      | expire  | nothing   | -> timed_out |                          | in time: ignored (a deadline passed or the backend says so)
active      | expire  | start     | -> timed_out |                          | in time: ignored (a deadline passed or the backend says so)
active      | expire  | attach    | -> timed_out |                          | in time: ignored (a deadline passed or the backend says so)
active      | expire  | ending    | ignored      | no ending in flight      |
active      | fail    | nothing   | -> error     |                          |
active      | fail    | start     | -> error     |                          |
active      | fail    | attach    | -> error     |                          |
active      | fail    | ending    | ignored      | no ending in flight      |
closed      | start   | nothing   | rejected     |                          |
closed      | start   | start     | rejected     |                          |
closed      | start   | attach    | rejected     |                          |
closed      | start   | ending    | rejected     |                          |
closed      | attach  | nothing   | rejected     |                          |
closed      | attach  | start     | rejected     |                          |
closed      | attach  | attach    | rejected     |                          |
closed      | attach  | ending    | rejected     |                          |
closed      | operate | nothing   | rejected     |                          |
closed      | operate | start     | rejected     |                          |
closed      | operate | attach    | rejected     |                          |
closed      | operate | ending    | rejected     |                          |
closed      | stop    | nothing   | ignored      |                          |
closed      | stop    | start     | ignored      |                          |
closed      | stop    | attach    | ignored      |                          |
closed      | stop    | ending    | ignored      |                          |
closed      | detach  | nothing   | ignored      |                          |
closed      | detach  | start     | ignored      |                          |
closed      | detach  | attach    | ignored      |                          |
closed      | detach  | ending    | ignored      |                          |
closed      | expire  | nothing   | ignored      |                          |
closed      | expire  | start     | ignored      |                          |
closed      | expire  | attach    | ignored      |                          |
closed      | expire  | ending    | ignored      |                          |
closed      | fail    | nothing   | ignored      |                          |
closed      | fail    | start     | ignored      |                          |
closed      | fail    | attach    | ignored      |                          |
closed      | fail    | ending    | ignored      |                          |
error       | start   | nothing   | rejected     |                          |
error       | start   | start     | rejected     |                          |
error       | start   | attach    | rejected     |                          |
error       | start   | ending    | rejected     |                          |
error       | attach  | nothing   | rejected     |                          |
error       | attach  | start     | rejected     |                          |
error       | attach  | attach    | rejected     |                          |
error       | attach  | ending    | rejected     |                          |
error       | operate | nothing   | rejected     |                          |
error       | operate | start     | rejected     |                          |
error       | operate | attach    | rejected     |                          |
error       | operate | ending    | rejected     |                          |
error       | stop    | nothing   | ignored      |                          |
error       | stop    | start     | ignored      |                          |
error       | stop    | attach    | ignored      |                          |
error       | stop    | ending    | ignored      |                          |
error       | detach  | nothing   | ignored      |                          |
error       | detach  | start     | ignored      |                          |
error       | detach  | attach    | ignored      |                          |
error       | detach  | ending    | ignored      |                          |
error       | expire  | nothing   | ignored      |                          |
error       | expire  | start     | ignored      |                          |
error       | expire  | attach    | ignored      |                          |
error       | expire  | ending    | ignored      |                          |
error       | fail    | nothing   | ignored      |                          |
error       | fail    | start     | ignored      |                          |
error       | fail    | attach    | ignored      |                          |
error       | fail    | ending    | ignored      |                          |
timed_out   | start   | nothing   | rejected     |                          |
timed_out   | start   | start     | rejected     |                          |
timed_out   | start   | attach    | rejected     |                          |
timed_out   | start   | ending    | rejected     |                          |
timed_out   | attach  | nothing   | rejected     |                          |
timed_out   | attach  | start     | rejected     |                          |
timed_out   | attach  | attach    | rejected     |                          |
timed_out   | attach  | ending    | rejected     |                          |
timed_out   | operate | nothing   | rejected     |                          |
timed_out   | operate | start     | rejected     |                          |
timed_out   | operate | attach    | rejected     |                          |
timed_out   | operate | ending    | rejected     |                          |
timed_out   | stop    | nothing   | ignored      |                          |
timed_out   | stop    | start     | ignored      |                          |
timed_out   | stop    | attach    | ignored      |                          |
timed_out   | stop    | ending    | ignored      |                          |
timed_out   | detach  | nothing   | ignored      |                          |
timed_out   | detach  | start     | ignored      |                          |
timed_out   | detach  | attach    | ignored      |                          |
timed_out   | detach  | ending    | ignored      |                          |
timed_out   | expire  | nothing   | ignored      |                          |
timed_out   | expire  | start     | ignored      |                          |
timed_out   | expire  | attach    | ignored      |                          |
timed_out   | expire  | ending    | ignored      |                          |
timed_out   | fail    | nothing   | ignored      |                          |
timed_out   | fail    | start     | ignored      |                          |
timed_out   | fail    | attach    | ignored      |                          |
timed_out   | fail    | ending    | ignored      |                          |
"""  # noqa: E501

# The edges, with their guards and their steps in order.
ARROWS = """
event   | from        | to        | guards                                                               | steps
start   | not_started | active    | idle, no session_id                                                  | read_cookies, open_backend, load_cookies, open_viewer
attach  | not_started | active    | idle, session_id given                                               | read_cookies, probe_backend, connect_backend, load_cookies, open_viewer
operate | active      | active    | no ending in flight, before the deadline                             |
stop    | not_started | closed    | idle                                                                 |
stop    | not_started | closed    | start or attach in flight                                            | cancel_start, close_connections, release_backend
stop    | active      | closed    | no ending in flight                                                  | save_cookies, close_connections, release_backend
detach  | active      | closed    | no ending in flight, backend can live on                             | save_cookies, close_connections
expire  | not_started | timed_out | start or attach in flight, a deadline passed or the backend says so  | cancel_start, close_connections, release_backend
expire  | active      | timed_out | no ending in flight, a deadline passed or the backend says so        | save_cookies, close_connections, release_backend
fail    | not_started | error     | start or attach in flight                                            | close_connections, release_backend
fail    | active      | error     | no ending in flight                                                  | save_cookies, close_connections, release_backend
"""  # noqa: E501

# What follows when a step fails, seconds for one attempt, attempts, and whether it needs a backend that still lives.
RULES = """
step              | policy             | seconds | attempts | needs the backend
read_cookies      | divert             | 10      | 1        | no
open_backend      | divert             | 60      | 1        | no
probe_backend     | divert             | 15      | 1        | no
connect_backend   | divert             | 30      | 1        | no
load_cookies      | divert             | 15      | 1        | yes
open_viewer       | carry on           | 5       | 1        | yes
cancel_start      | carry on           | 15      | 1        | no
save_cookies      | carry on           | 15      | 1        | yes
close_connections | carry on           | 5       | 1        | no
release_backend   | retry, then divert | 15      | 3        | no
"""

# When each guard holds, over all that is in flight and all facts.
GUARD_RULES = """
guard                                   | holds
idle                                    | nothing
start or attach in flight               | start, attach
no ending in flight                     | nothing, start, attach
session_id given                        | id
no session_id                           | no id
a deadline passed or the backend says so| late
before the deadline                     | in time
backend can live on                     | can live
"""

Row = dict[str, str]


@functools.cache
def rows(text: str) -> list[Row]:
    head, *lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def words(facts: Facts) -> set[str]:
    """What the golden text calls the facts."""
    return {
        facts.in_flight.value,
        "id" if facts.session_id_given else "no id",
        "late" if facts.deadline_passed else "in time",
        "can live" if facts.can_live_on else "can't live",
    }


def every_fact(flight: str) -> Iterator[Facts]:
    for given, late, live in itertools.product((False, True), repeat=3):
        yield Facts(in_flight=InFlight(flight), session_id_given=given, deadline_passed=late, can_live_on=live)


def expected(case: Row, facts: Facts) -> str:
    """The outcome and the guard that is named, such as ``rejected (idle)``."""
    if case["unless"]:
        fact, other = case["unless"].split(": ", 1)
        if fact in words(facts):
            return other
    return case["favoured"] + (f" ({case['refused by']})" if case["refused by"] else "")


def told(decision: Decision) -> str:
    """A decision in the words of the golden text."""
    if decision.edge is not None:
        return f"-> {decision.edge.dest}"
    guard = failed_guard(decision)
    return decision.outcome.value + (f" ({guard.value})" if guard is not None else "")


def arrow(edge: Edge) -> tuple[str, ...]:
    return (
        edge.event.value,
        edge.source.value,
        edge.dest.value,
        ", ".join(guard.value for guard in edge.guards),
        ", ".join(step.value for step in edge.steps),
    )


def rule(step: Step, rule: StepRule) -> tuple[str, ...]:
    needs = "yes" if rule.needs_backend else "no"
    return (step.value, rule.policy.value, f"{rule.budget:g}", f"{rule.attempts}", needs)


def compare(
    edges: Sequence[Edge] = EDGES,
    *,
    fallbacks: Sequence[Fallback] = FALLBACKS,
    steps: Mapping[Step, StepRule] = STEPS,
    guards: Mapping[Guard, GuardRule] = GUARDS,
) -> list[str]:
    """Where a table differs from the golden one."""
    golden = [tuple(row.values()) for row in rows(ARROWS)]
    has = [arrow(edge) for edge in edges]
    wrong = [f"edge {edge} is missing" for edge in golden if edge not in has]
    wrong += [f"edge {edge} is not in the golden table" for edge in has if edge not in golden]
    if len(edges) != len(golden):
        wrong.append(f"{len(edges)} edges instead of {len(golden)}")
    ruled = {tuple(row.values()) for row in rows(RULES)}
    wrong += [f"the rule of step {name}" for name, *_ in ruled ^ {rule(*item) for item in steps.items()}]
    decider = Decider(edges, fallbacks=fallbacks, guards=guards)
    for state, event, facts, want in written():
        try:
            got = told(decider(state, event, facts))
        except LookupError:
            got = "no outcome"
        if got != want:
            wrong.append(f"{event} in {state} with {facts}: {got}, not {want}")
    return wrong


@functools.cache
def written() -> list[tuple[State, Event, Facts, str]]:
    return [
        (State(case["state"]), Event(case["event"]), facts, expected(case, facts))
        for case in rows(CASES)
        for facts in every_fact(case["in flight"])
    ]


def test_the_golden_text_has_each_case_once():
    cases = [(case["state"], case["event"], case["in flight"]) for case in rows(CASES)]
    assert len(cases) == 140
    assert set(cases) == {(s.value, e.value, f.value) for s in State for e in Event for f in InFlight}


@pytest.mark.parametrize("case", rows(CASES), ids=lambda case: f"{case['state']}-{case['event']}-{case['in flight']}")
def test_each_case_is_decided_as_written(case):
    state, event = State(case["state"]), Event(case["event"])
    for facts in every_fact(case["in flight"]):
        assert told(decide(state, event, facts)) == expected(case, facts), facts


def test_each_fact_that_decides_is_met_both_ways():
    # A slip in the text ("id" where the case is only met without one) would make a line that tests nothing.
    for case in rows(CASES):
        if case["unless"]:
            outcomes = {expected(case, facts) for facts in every_fact(case["in flight"])}
            assert len(outcomes) == 2, case


def test_the_edges_are_the_golden_ones():
    assert [arrow(edge) for edge in EDGES] == [tuple(row.values()) for row in rows(ARROWS)]


def test_the_step_rules_are_the_golden_ones():
    assert [rule(*item) for item in STEPS.items()] == [tuple(row.values()) for row in rows(RULES)]


def test_each_guard_holds_exactly_when_written():
    golden = {row["guard"]: set(row["holds"].split(", ")) for row in rows(GUARD_RULES)}
    assert set(golden) == {guard.value for guard in Guard}
    for guard in Guard:
        for flight in InFlight:
            for facts in every_fact(flight.value):
                assert GUARDS[guard](facts) is bool(golden[guard.value] & words(facts)), (guard, facts)


def test_the_table_differs_nowhere():
    assert compare() == []
