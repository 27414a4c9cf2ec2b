"""Faulty copies of the table: each one is named by `verify` or by the golden table.

The copies are made systematically from the table as it is, so a new edge, guard or step brings its own faults along.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pytest
from test_golden_table import compare

from lifecycle.machine import GUARDS, Decider, GuardRule, build_machine, verify
from lifecycle.states import (
    EDGES,
    FALLBACKS,
    INITIAL,
    STEPS,
    TERMINAL,
    Edge,
    Event,
    Fallback,
    Guard,
    Outcome,
    Policy,
    State,
    Step,
    StepRule,
)
from lifecycle.verify import Kind, cells


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """A table with one fault."""

    sort: str
    what: str
    edges: tuple[Edge, ...] = EDGES
    fallbacks: tuple[Fallback, ...] = FALLBACKS
    steps: Mapping[Step, StepRule] = field(default_factory=lambda: STEPS)
    guards: Mapping[Guard, GuardRule] = field(default_factory=lambda: GUARDS)

    def verified(self) -> list[str]:
        return [
            str(problem)
            for problem in verify(self.edges, fallbacks=self.fallbacks, steps=self.steps, guards=self.guards)
        ]

    def compared(self) -> list[str]:
        return compare(self.edges, fallbacks=self.fallbacks, steps=self.steps, guards=self.guards)


def named(edge: Edge) -> str:
    return f"{edge.name} [{', '.join(edge.guards)}]"


def without(n: int, items: tuple) -> tuple:
    return items[:n] + items[n + 1 :]


def changed(n: int, **changes: object) -> tuple[Edge, ...]:
    return (*EDGES[:n], replace(EDGES[n], **changes), *EDGES[n + 1 :])


def faulty_edges() -> Iterator[Faulty]:
    for n, edge in enumerate(EDGES):
        yield Faulty(sort="edge removed", what=named(edge), edges=without(n, EDGES))
        # The machine takes the first edge whose guards hold, so a second one is tried on either side.
        loose = replace(edge, guards=())
        yield Faulty(sort="second unguarded edge", what=f"after {named(edge)}", edges=(*EDGES, loose))
        yield Faulty(sort="second unguarded edge", what=f"before {named(edge)}", edges=(loose, *EDGES))
        for g, guard in enumerate(edge.guards):
            less = changed(n, guards=without(g, edge.guards))
            yield Faulty(sort="guard dropped", what=f"{guard!s} of {named(edge)}", edges=less)
            for other in Guard:
                if other not in edge.guards:
                    swapped = (*edge.guards[:g], other, *edge.guards[g + 1 :])
                    what = f"{guard!s} by {other!s} on {named(edge)}"
                    yield Faulty(sort="guard exchanged", what=what, edges=changed(n, guards=swapped))
        for dest in State:
            if dest is not edge.dest:
                what = f"{named(edge)} to {dest}"
                yield Faulty(sort="dest changed", what=what, edges=changed(n, dest=dest))
        for source in State:
            if source is not edge.source:
                what = f"{named(edge)} from {source}"
                yield Faulty(sort="source changed", what=what, edges=changed(n, source=source))


def faulty_orders() -> Iterator[Faulty]:
    for n, edge in enumerate(EDGES):
        for s, step in enumerate(edge.steps):
            rest = without(s, edge.steps)
            yield Faulty(sort="step dropped", what=f"{step} of {named(edge)}", edges=changed(n, steps=rest))
            twice = (*edge.steps[: s + 1], *edge.steps[s:])
            yield Faulty(sort="step doubled", what=f"{step} of {named(edge)}", edges=changed(n, steps=twice))
        for order in moves(edge.steps):
            what = f"{named(edge)}: {', '.join(order)}"
            yield Faulty(sort="step moved", what=what, edges=changed(n, steps=order))
        for step in Step:
            if step not in edge.steps:
                more = (*edge.steps, step)
                yield Faulty(sort="step added", what=f"{step} to {named(edge)}", edges=changed(n, steps=more))


def moves(steps: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    """Each step moved to each other place, without repeats: neighbours swapped, to the front and to the back too."""
    orders: dict[tuple[Step, ...], None] = {}
    for s, step in enumerate(steps):
        rest = without(s, steps)
        for place in range(len(steps)):
            orders[(*rest[:place], step, *rest[place:])] = None
    return [order for order in orders if order != steps]


def faulty_states() -> Iterator[Faulty]:
    for state in State:
        if state is not INITIAL:
            rest = tuple(e for e in EDGES if e.dest is not state or e.internal)
            yield Faulty(sort="unreachable state", what=f"no edge into {state}", edges=rest)
        if state not in TERMINAL:
            rest = tuple(e for e in EDGES if e.source is not state or e.internal)
            yield Faulty(sort="dead end", what=f"no edge out of {state}", edges=rest)


def faulty_rules() -> Iterator[Faulty]:
    for step, rule in STEPS.items():
        for policy in Policy:
            if policy is not rule.policy:
                what = f"{step}: {policy!s}"
                yield Faulty(sort="policy changed", what=what, steps={**STEPS, step: replace(rule, policy=policy)})
        for name, value in (("budget", 0.0), ("budget", rule.budget * 2), ("attempts", rule.attempts + 1)):
            what = f"{step}: {name} {value}"
            yield Faulty(sort="budget changed", what=what, steps={**STEPS, step: replace(rule, **{name: value})})
        flipped = replace(rule, needs_backend=not rule.needs_backend)
        yield Faulty(sort="needs_backend flipped", what=step, steps={**STEPS, step: flipped})
        yield Faulty(sort="rule missing", what=step, steps={s: r for s, r in STEPS.items() if s is not step})
    for guard, rule in GUARDS.items():
        yield Faulty(sort="rule missing", what=guard, guards={g: r for g, r in GUARDS.items() if g is not guard})
        for how, other in (("always", always), ("never", never), ("the opposite", opposite(rule))):
            yield Faulty(sort="predicate changed", what=f"{guard!s}: {how}", guards={**GUARDS, guard: other})


def always(_: object) -> bool:
    return True


def never(_: object) -> bool:
    return False


def opposite(rule: GuardRule) -> GuardRule:
    return lambda facts: not rule(facts)


def faulty_fallbacks() -> Iterator[Faulty]:
    for n, row in enumerate(FALLBACKS):
        yield Faulty(sort="fallback dropped", what=f"row {n + 1}", fallbacks=without(n, FALLBACKS))
        for outcome in Outcome:
            if outcome is not row.outcome:
                other = (*FALLBACKS[:n], replace(row, outcome=outcome), *FALLBACKS[n + 1 :])
                what = f"row {n + 1} to {outcome}"
                yield Faulty(sort="fallback changed", what=what, fallbacks=other)


def everything() -> Iterator[Faulty]:
    yield from faulty_edges()
    yield from faulty_orders()
    yield from faulty_states()
    yield from faulty_rules()
    yield from faulty_fallbacks()


# What only the golden table can name: no proof depends on the viewer, nor on how generous a budget is.
GOLDEN_ALONE = """
step dropped: open_viewer of start: not_started -> active [idle, no session_id]
step dropped: open_viewer of attach: not_started -> active [idle, session_id given]
step added: open_viewer to detach: active -> closed [no ending in flight, backend can live on]
step moved: start: not_started -> active [idle, no session_id]: read_cookies, open_backend, open_viewer, load_cookies
step moved: attach: not_started -> active [idle, session_id given]: read_cookies, probe_backend, connect_backend, open_viewer, load_cookies
policy changed: open_viewer: divert
budget changed: read_cookies: budget 20.0
budget changed: open_backend: budget 120.0
budget changed: probe_backend: budget 30.0
budget changed: connect_backend: budget 60.0
budget changed: load_cookies: budget 30.0
budget changed: open_viewer: budget 10.0
budget changed: cancel_start: budget 30.0
budget changed: save_cookies: budget 30.0
budget changed: close_connections: budget 10.0
budget changed: release_backend: budget 30.0
budget changed: release_backend: attempts 4
"""  # noqa: E501


def test_the_table_is_sound():
    assert verify() == []


@pytest.mark.slow
@pytest.mark.no_cover  # nothing but arithmetic, five times as long where its lines are counted
@pytest.mark.timeout(300)  # of work, not of waiting: it takes as long as the machine is slow
def test_every_faulty_copy_is_named_by_verify_or_by_the_golden_table(capsys, record_property):
    by_sort: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    not_golden, not_verified = set(), set()
    for faulty in everything():
        fault = f"{faulty.sort}: {faulty.what}"
        try:
            by_golden = bool(faulty.compared())
        except KeyError:
            by_golden = False  # a guard without a rule can't be asked
        by_verify = bool(faulty.verified())
        counts = {"all": True, "verify": by_verify, "golden": by_golden, "both": by_verify and by_golden}
        by_sort[faulty.sort].update(name for name, hit in counts.items() if hit)
        not_golden.update([] if by_golden else [fault])
        not_verified.update([] if by_verify else [fault])
    total = sum(by_sort.values(), collections.Counter())
    line = "verify {0[verify]}, golden {0[golden]}, both {0[both]}, of {0[all]}"
    record_property("faulty_copies", line.format(total))
    with capsys.disabled():
        print("\nfaulty copies of the table, named by:", line.format(total))
        for sort, counter in by_sort.items():
            print(f"  {sort}: {line.format(counter)}")
    assert not_golden & not_verified == set()
    assert not_verified == set(GOLDEN_ALONE.strip().splitlines())
    assert total["all"] == total["verify"] + total["golden"] - total["both"]


# What verify names by itself, and the proof that it names it by.
PROOF = {
    "second unguarded edge": Kind.DETERMINISM,
    "unreachable state": Kind.REACHABILITY,
    "dead end": Kind.REACHABILITY,
    "dest changed": Kind.OUTCOME,
    "rule missing": Kind.VOCABULARY,
    "step doubled": Kind.ORDER,
    "needs_backend flipped": Kind.TEARDOWN,
}


@pytest.mark.parametrize("sort", PROOF)
def test_verify_names_the_fault_by_the_right_proof(sort):
    faults = [faulty for faulty in everything() if faulty.sort == sort]
    assert faults
    for faulty in faults:
        assert any(problem.startswith(f"{PROOF[sort]}: ") for problem in faulty.verified()), faulty.what


def test_a_problem_says_which_edge_state_or_step_is_at_fault():
    stop = next(n for n, edge in enumerate(EDGES) if edge.name == "stop: active -> closed")
    leaking = changed(stop, steps=EDGES[stop].steps[:-1])
    said = [str(problem) for problem in verify(leaking)]
    assert "teardown: stop: active -> closed is committed while a backend is held" in said


def test_teardown_is_proved_on_diversions_and_interruptions_too():
    fail = next(n for n, edge in enumerate(EDGES) if edge.name == "fail: not_started -> error")
    said = {str(problem) for problem in verify(changed(fail, steps=(Step.CLOSE_CONNECTIONS,)))}
    diverted = "teardown: fail: not_started -> error is committed while a backend is held after load_cookies failed on "
    assert diverted + "start: not_started -> active" in said
    assert diverted + "attach: not_started -> active" in said
    expire = next(n for n, edge in enumerate(EDGES) if edge.name == "expire: not_started -> timed_out")
    said = {str(problem) for problem in verify(changed(expire, steps=EDGES[expire].steps[1:]))}
    running = "teardown: expire: not_started -> timed_out is committed while a start or attach still runs while "
    assert running + "start: not_started -> active is in flight" in said
    assert running + "attach: not_started -> active is in flight" in said


def test_a_detach_that_gives_the_backend_up_is_named():
    detach = next(n for n, edge in enumerate(EDGES) if edge.name == "detach: active -> closed")
    said = {str(problem) for problem in verify(changed(detach, steps=(*EDGES[detach].steps, Step.RELEASE_BACKEND)))}
    assert "teardown: detach: active -> closed releases a backend that lives on" in said


def test_a_release_that_fails_for_good_needs_a_fail_edge():
    said = {str(problem) for problem in verify(tuple(e for e in EDGES if e.name != "fail: active -> error"))}
    assert "divert: stop: active -> closed: release_backend may fail, and no fail edge leaves active" in said


def test_what_is_left_after_a_failed_release_is_undone_by_the_fail_edge():
    # Released before anything else, and failing: cookies and connections are then the fail edge's to see to.
    def edges(steps: tuple[Step, ...]) -> tuple[Edge, ...]:
        early = (Step.RELEASE_BACKEND, Step.SAVE_COOKIES, Step.CLOSE_CONNECTIONS)
        new = {"stop: active -> closed": early, "fail: active -> error": steps}
        return tuple(replace(edge, steps=new.get(edge.name, edge.steps)) for edge in EDGES)

    how = "after release_backend failed on stop: active -> closed"
    whole = {str(p) for p in verify(edges((Step.SAVE_COOKIES, Step.CLOSE_CONNECTIONS, Step.RELEASE_BACKEND)))}
    assert not any(said.endswith(how) for said in whole)
    half = {str(p) for p in verify(edges((Step.SAVE_COOKIES, Step.RELEASE_BACKEND)))}
    assert f"teardown: fail: active -> error is committed while connections may be open {how}" in half


def test_a_cell_that_an_edge_always_takes_needs_a_fallback_too():
    last = replace(FALLBACKS[-1], events=FALLBACKS[-1].events - {Event.STOP})
    said = {str(problem) for problem in verify(fallbacks=(*FALLBACKS[:-1], last))}
    assert "totality: stop in active with nothing in flight has no fallback" in said


def test_a_fallback_that_never_decides_is_named():
    said = [str(problem) for problem in verify(fallbacks=(*FALLBACKS, FALLBACKS[0]))]
    assert said == ["totality: fallback row 7 (ignored) never decides"]


def test_a_machine_that_is_not_the_table_is_named(monkeypatch):
    other = build_machine([replace(edge, guards=()) for edge in EDGES])
    monkeypatch.setattr(cells, "Decider", lambda edges, **table: Decider(edges, machine=other, **table))
    said = {str(problem) for problem in verify()}
    where = "determinism: stop in active with ending in flight"
    assert f"{where}: the machine takes another edge than its guards say" in said
