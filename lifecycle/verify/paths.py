"""Proofs about paths: the order of steps, diversions, and teardown on every way into a final state.

Rule: nothing here knows how a step is carried out. Each step has an `Effect` (what it needs, gives and clears), and
the proof follows what is held along every edge, past every step that may fail, and into every ending that may arrive
while a start or an attach is in flight.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from lifecycle.states import INITIAL, TERMINAL, Edge, Event, InFlight, Policy, State, Step, StepRule
from lifecycle.verify.table import Kind, Problem, Table


class Held(enum.StrEnum):
    """What may be the case at a point of a path."""

    COOKIES_READ = "the cookie file is read"
    PROBED = "the backend is probed"
    BACKEND = "a backend is held"
    CONNECTIONS = "connections may be open"
    COOKIES_LOADED = "the cookies are loaded"
    UNSAVED = "cookies are not saved"
    OPENING = "a start or attach still runs"


_NOTHING: Final[frozenset[Held]] = frozenset()
_CARRIED: Final = (Held.OPENING, Held.UNSAVED, Held.CONNECTIONS, Held.BACKEND)
"""What must not be carried into a final state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one step does to what is held.

    Attributes:
        needs: All of it is the case before the step.
        bars: None of it is the case before the step.
        gives: The case after the step, when it succeeds; a step that fails gives nothing.
        clears: No longer the case once the step was tried: what a failed ending leaves behind is the reaper's.
    """

    needs: frozenset[Held] = _NOTHING
    bars: frozenset[Held] = _NOTHING
    gives: frozenset[Held] = _NOTHING
    clears: frozenset[Held] = _NOTHING


_OPENED: Final = frozenset({Held.BACKEND, Held.CONNECTIONS})

EFFECTS: Final[Mapping[Step, Effect]] = MappingProxyType(
    {
        # A cookie file that can't be read fails the start before there is a browser.
        Step.READ_COOKIES: Effect(bars=frozenset({Held.BACKEND}), gives=frozenset({Held.COOKIES_READ})),
        Step.PROBE_BACKEND: Effect(
            needs=frozenset({Held.COOKIES_READ}), bars=frozenset({Held.BACKEND}), gives=frozenset({Held.PROBED})
        ),
        # From the moment there is a backend, clients may connect to it.
        Step.OPEN_BACKEND: Effect(needs=frozenset({Held.COOKIES_READ}), bars=frozenset({Held.BACKEND}), gives=_OPENED),
        Step.CONNECT_BACKEND: Effect(
            needs=frozenset({Held.COOKIES_READ, Held.PROBED}), bars=frozenset({Held.BACKEND}), gives=_OPENED
        ),
        Step.LOAD_COOKIES: Effect(
            needs=frozenset({Held.BACKEND, Held.COOKIES_READ}), gives=frozenset({Held.COOKIES_LOADED})
        ),
        Step.OPEN_VIEWER: Effect(needs=frozenset({Held.BACKEND})),
        Step.CANCEL_START: Effect(needs=frozenset({Held.OPENING}), clears=frozenset({Held.OPENING})),
        Step.SAVE_COOKIES: Effect(
            needs=frozenset({Held.BACKEND, Held.CONNECTIONS, Held.UNSAVED}), clears=frozenset({Held.UNSAVED})
        ),
        Step.CLOSE_CONNECTIONS: Effect(
            bars=frozenset({Held.OPENING, Held.UNSAVED}), clears=frozenset({Held.CONNECTIONS})
        ),
        Step.RELEASE_BACKEND: Effect(
            bars=frozenset({Held.OPENING, Held.UNSAVED, Held.CONNECTIONS}), clears=frozenset({Held.BACKEND})
        ),
    }
)
"""The effect of every step: the specification that the steps of all edges are held against."""


def path_problems(table: Table) -> Iterator[Problem]:
    """What is wrong along the edges and where they divert or are interrupted."""
    for edge in table.edges:
        for n, step in enumerate(edge.steps):
            if step in edge.steps[:n]:
                yield Problem(Kind.ORDER, f"{edge.name}: {step} runs twice")
            if edge.internal:
                yield Problem(Kind.ORDER, f"{edge.name}: {step} is on an edge that is counted and not carried out")
    for step, rule in table.steps.items():
        yield from _rule(step, rule)
    yield from _Paths(table).follow()


def _rule(step: Step, rule: StepRule) -> Iterator[Problem]:
    effect = EFFECTS[step]
    if rule.budget <= 0 or rule.attempts < 1:
        yield Problem(Kind.DIVERT, f"step {step} has no time or no attempt")
    if (rule.policy is Policy.RETRY) != (rule.attempts > 1):
        yield Problem(Kind.DIVERT, f"step {step} is tried {rule.attempts} time(s) under the policy {rule.policy!s}")
    if rule.policy is Policy.RETRY and effect.gives:
        yield Problem(Kind.DIVERT, f"step {step} gives something, so it is never repeated blindly")
    if Held.BACKEND in effect.clears and rule.policy is not Policy.RETRY:
        yield Problem(Kind.TEARDOWN, f"step {step} is passed over when it fails, and the backend may still run")
    # What can do nothing without the backend is skipped once it is gone; what cleans up after it never is.
    needs = Held.BACKEND in effect.needs
    if rule.needs_backend != needs:
        yield Problem(Kind.TEARDOWN, f"step {step} is {'not ' if needs else ''}skipped once the backend is gone")


class _Paths:
    """All paths through one table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.of_use: set[tuple[Edge, Step]] = set()

    def follow(self) -> Iterator[Problem]:
        """Every opening with its diversions and interruptions, then every ending of what was opened."""
        opened: dict[State, set[frozenset[Held]]] = {INITIAL: {_NOTHING}}
        for edge in self.table.edges:
            if not edge.internal and edge.dest not in TERMINAL:
                yield from self._open(edge, opened)
        for edge in self.table.edges:
            if edge.dest in TERMINAL and self._taken_during(edge, InFlight.NOTHING):
                for held in opened.get(edge.source, ()):
                    yield from self._end(edge, held, "")
        for edge in self.table.edges:
            for step in edge.steps:
                if EFFECTS[step].clears and (edge, step) not in self.of_use:
                    yield Problem(Kind.ORDER, f"{edge.name}: {step} never has anything to do")

    def _open(self, edge: Edge, opened: dict[State, set[frozenset[Held]]]) -> Iterator[Problem]:
        flight = InFlight.ATTACH if edge.event is Event.ATTACH else InFlight.START
        problems: list[Problem] = []
        for done, held in self._points(edge, _NOTHING, problems):
            if done < len(edge.steps):
                yield from self._fails(edge, edge.steps[done], flight, held)
            else:
                for needed in sorted({Held.BACKEND, Held.COOKIES_LOADED} - held):
                    yield Problem(Kind.ORDER, f"{edge.name} is committed where it is not certain that {needed}")
                opened.setdefault(edge.dest, set()).add(held | {Held.UNSAVED})
            yield from self._interrupted(edge, flight, held)
        yield from problems

    def _points(
        self, edge: Edge, held: frozenset[Held], problems: list[Problem]
    ) -> Iterator[tuple[int, frozenset[Held]]]:
        """The points of `edge`: how many steps are over, and what is held then.

        A step that is carried on over goes both ways, done and failed. Steps out of order are added to `problems`.
        """
        fronts = {held}
        for n, step in enumerate(edge.steps):
            effect, after = EFFECTS[step], set[frozenset[Held]]()
            for front in sorted(fronts, key=sorted):
                yield n, front
                wrong = [f"where it is not certain that {need}" for need in sorted(effect.needs - front)]
                wrong += [f"while {bar}" for bar in sorted(effect.bars & front)]
                problems += [Problem(Kind.ORDER, f"{edge.name}: {step} runs {why}") for why in wrong]
                if effect.clears & front:
                    self.of_use.add((edge, step))
                after.add((front | effect.gives) - effect.clears)
                if self.table.steps[step].policy is Policy.CARRY_ON:
                    after.add(front - effect.clears)
            fronts = after
        for front in sorted(fronts, key=sorted):
            yield len(edge.steps), front

    def _fails(self, edge: Edge, step: Step, flight: InFlight, held: frozenset[Held]) -> Iterator[Problem]:
        """A step of an opening fails: the opening takes the `fail` edge itself, so there is none to cancel."""
        if self.table.steps[step].policy is Policy.CARRY_ON:
            return
        for facts in self.table.facts[flight]:
            fails = self.table.enabled(edge.source, Event.FAIL, facts)
            if not fails:
                yield Problem(Kind.DIVERT, f"{edge.name}: {step} may fail, and no fail edge leaves {edge.source} then")
            for fail in fails:
                yield from self._end(fail, held, f" after {step} failed on {edge.name}")

    def _interrupted(self, opening: Edge, flight: InFlight, held: frozenset[Held]) -> Iterator[Problem]:
        """An ending arrives at this point of an opening. A crash does too, but as the failure of its step."""
        for edge in self.table.edges:
            ends = edge.source is opening.source and edge.dest in TERMINAL and edge.event is not Event.FAIL
            if ends and self._taken_during(edge, flight):
                yield from self._end(edge, held | {Held.OPENING}, f" while {opening.name} is in flight")

    def _taken_during(self, edge: Edge, flight: InFlight) -> bool:
        return any(facts.in_flight is flight for facts in self.table.enabled_under(edge))

    def _end(self, edge: Edge, held: frozenset[Held], how: str) -> Iterator[Problem]:
        """Follow an ending to its commit, and to the `fail` edge where its release fails for good."""
        problems: list[Problem] = []
        for done, now in self._points(edge, held, problems):
            if done == len(edge.steps):
                yield from self._ended(edge, now, how)
                continue
            step = edge.steps[done]
            policy = self.table.steps[step].policy
            if policy is Policy.DIVERT:
                yield Problem(Kind.DIVERT, f"{edge.name}: {step} diverts, but an ending always goes on")
            elif policy is Policy.RETRY:
                tried = edge.steps[: done + 1]
                yield from self._not_released(edge, tried, now - EFFECTS[step].clears, how)
        yield from problems

    def _not_released(self, edge: Edge, tried: tuple[Step, ...], held: frozenset[Held], how: str) -> Iterator[Problem]:
        fails = [e for e in self.table.edges if e.source is edge.source and e.event is Event.FAIL]
        if not fails:
            yield Problem(Kind.DIVERT, f"{edge.name}: {tried[-1]} may fail, and no fail edge leaves {edge.source}")
        for fail in fails:
            rest = replace(fail, steps=tuple(step for step in fail.steps if step not in tried))
            for done, now in self._points(rest, held, []):
                if done == len(rest.steps):
                    yield from self._ended(rest, now, f" after {tried[-1]} failed on {edge.name}{how}")

    def _ended(self, edge: Edge, held: frozenset[Held], how: str) -> Iterator[Problem]:
        facts = self.table.enabled_under(edge)
        lives_on = bool(facts) and all(f.can_live_on for f in facts)
        if lives_on and Held.BACKEND not in held:
            yield Problem(Kind.TEARDOWN, f"{edge.name} releases a backend that lives on{how}")
        for left in _CARRIED:
            if left in held and not (lives_on and left is Held.BACKEND):
                yield Problem(Kind.TEARDOWN, f"{edge.name} is committed while {left}{how}")
