"""The machine decides and commits; it keeps nothing and changes nothing else."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle.machine import (
    GUARDS,
    MACHINE,
    Decider,
    Facts,
    Standing,
    all_facts,
    allowed,
    build_machine,
    commit,
    decide,
    edges_for,
    fail_edge,
    failed_guard,
)
from lifecycle.states import EDGES, TERMINAL, Event, Guard, InFlight, Outcome, State, Step

EVERY_FACT = [facts for flight in InFlight for facts in all_facts(flight)]


def test_a_decision_names_the_edge_and_the_guards_that_held():
    decision = decide(State.NOT_STARTED, Event.STOP, Facts(in_flight=InFlight.ATTACH))
    assert decision.outcome is Outcome.EDGE
    assert decision.edge in EDGES
    assert decision.edge.steps == (Step.CANCEL_START, Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND)
    assert [(g.guard, g.held) for g in decision.guards] == [("start or attach in flight", True)]
    assert failed_guard(decision) is None


def test_a_refusal_shows_the_guards_of_the_edge_that_came_closest():
    decision = decide(State.ACTIVE, Event.OPERATE, Facts(deadline_passed=True))
    assert (decision.outcome, decision.edge) == (Outcome.REJECTED, None)
    assert [(g.guard, g.held) for g in decision.guards] == [
        ("no ending in flight", True),
        ("before the deadline", False),
    ]
    assert failed_guard(decision) is Guard.BEFORE_DEADLINE
    # Among several edges the one with the fewest guards that say no, not the one that happens to be first.
    strict = replace(EDGES[0], guards=(Guard.IDLE, Guard.NO_SESSION_ID, Guard.CAN_LIVE_ON))
    loose = replace(EDGES[0], guards=(Guard.CAN_LIVE_ON,))
    decider = Decider([strict, loose])
    facts = Facts(in_flight=InFlight.START, session_id_given=True)
    assert [g.guard for g in decider(State.NOT_STARTED, Event.START, facts).guards] == ["backend can live on"]


def test_no_edge_and_a_guard_that_says_no_are_told_apart():
    no_edge = decide(State.NOT_STARTED, Event.OPERATE, Facts())
    assert (no_edge.outcome, no_edge.guards, failed_guard(no_edge)) == (Outcome.REJECTED, (), None)
    guarded = decide(State.ACTIVE, Event.DETACH, Facts(can_live_on=False))
    assert (guarded.outcome, failed_guard(guarded)) == (Outcome.REJECTED, Guard.CAN_LIVE_ON)


def test_deciding_changes_nothing():
    standing = Standing(State.ACTIVE, Facts(in_flight=InFlight.START))
    before = [*MACHINE.models], {name: state.name for name, state in MACHINE.states.items()}, [*MACHINE.events]
    for event in Event:
        for facts in EVERY_FACT:
            decide(standing.state, event, facts)
    assert standing.state is State.ACTIVE
    assert standing.facts == Facts(in_flight=InFlight.START)
    assert ([*MACHINE.models], {n: s.name for n, s in MACHINE.states.items()}, [*MACHINE.events]) == before
    assert MACHINE.models == []


def test_deciding_leaves_no_line_in_the_log_that_reads_like_a_change(caplog):
    with caplog.at_level(logging.INFO, logger="transitions"):
        decide(State.ACTIVE, Event.STOP, Facts())
    assert caplog.records == []


def test_a_model_is_two_slots():
    standing = Standing()
    assert (standing.state, standing.facts) == (State.NOT_STARTED, Facts())
    assert not hasattr(standing, "__dict__")
    with pytest.raises(AttributeError):
        standing.trigger = None  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        standing.facts.in_flight = InFlight.ENDING  # type: ignore[misc]


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_commit_moves_a_model_along_an_edge(edge):
    standing = Standing(edge.source)
    commit(standing, edge)
    assert standing.state is edge.dest


@pytest.mark.parametrize("state", State)
def test_commit_refuses_what_the_table_does_not_have(state):
    for edge in EDGES:
        standing = Standing(state)
        foreign = replace(edge, source=state, dest=State.NOT_STARTED)
        with pytest.raises(ValueError, match=f"can't be committed in state {state}"):
            commit(standing, foreign)
        if edge.source is not state:
            with pytest.raises(ValueError, match=f"can't be committed in state {state}"):
                commit(standing, edge)
        assert standing.state is state


def test_allowed_are_the_events_that_have_an_edge():
    assert allowed(State.NOT_STARTED) == (Event.START, Event.ATTACH, Event.STOP, Event.EXPIRE, Event.FAIL)
    assert allowed(State.ACTIVE) == (Event.OPERATE, Event.STOP, Event.DETACH, Event.EXPIRE, Event.FAIL)
    assert [allowed(state) for state in TERMINAL] == [(), (), ()]


def test_a_diverted_edge_goes_on_along_the_fail_edge_of_its_state():
    assert fail_edge(State.ACTIVE) == edges_for(State.ACTIVE, Event.FAIL)[0]
    assert fail_edge(State.NOT_STARTED).dest is State.ERROR
    with pytest.raises(LookupError, match="closed is final"):
        fail_edge(State.CLOSED)


def test_a_changed_table_decides_differently_and_leaves_the_machine_alone():
    lame = Decider(EDGES[1:])
    assert lame(State.NOT_STARTED, Event.START, Facts()).outcome is Outcome.REJECTED
    assert decide(State.NOT_STARTED, Event.START, Facts()).outcome is Outcome.EDGE
    mute = Decider(EDGES, fallbacks=())
    with pytest.raises(LookupError, match="start in closed with nothing in flight"):
        mute(State.CLOSED, Event.START, Facts())


def test_a_guard_that_raises_is_heard_and_the_machine_still_decides():
    def broken(_: Facts) -> bool:
        raise ZeroDivisionError

    decider = Decider(EDGES, guards={**GUARDS, Guard.CAN_LIVE_ON: broken})
    with pytest.raises(ZeroDivisionError):
        decider(State.ACTIVE, Event.DETACH, Facts())
    assert decider(State.ACTIVE, Event.STOP, Facts()).edge.dest is State.CLOSED


def test_an_internal_edge_has_no_destination_in_the_machine():
    (operate,) = build_machine().get_transitions(Event.OPERATE)
    assert operate.dest is None


def test_threads_decide_at_once_and_get_their_own_answers():
    asked = [(state, event, facts) for state in State for event in Event for facts in EVERY_FACT]
    alone = [decide(*question) for question in asked]
    answers: dict[int, list[object]] = {}
    barrier = threading.Barrier(6)

    def ask(n: int) -> None:
        barrier.wait()
        shift = n * 150  # each thread is in another cell at the same moment
        turned = [decide(*question) for question in (*asked[shift:], *asked[:shift])]
        answers[n] = [*turned[len(asked) - shift :], *turned[: len(asked) - shift]]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert [n for n in range(6) if answers[n] != alone] == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Event), st.sampled_from(EVERY_FACT)), max_size=30))
def test_any_walk_ends_at_most_once_and_stays_ended(walk):
    standing, endings = Standing(), 0
    for event, facts in walk:
        decision = decide(standing.state, event, facts)
        if decision.edge is not None:
            assert standing.state not in TERMINAL
            commit(standing, decision.edge)
            endings += standing.state in TERMINAL
    assert endings == (standing.state in TERMINAL)


def test_the_proofs_are_not_loaded_by_a_program_that_only_runs_sessions():
    code = "import sys, lifecycle.machine; print('lifecycle.verify' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"
