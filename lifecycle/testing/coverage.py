"""Transition coverage: which parts of the declared table the sessions of a test run have taken.

Rule: what there is to take is derived from the table and its guards, and what was taken is read from records. So
nothing is asked for that no session can do, and nothing counts that an auditor would not see. The internal edge of
``operate`` leaves no record and is not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from lifecycle.audit import Record, RecordKind, StepOutcome
from lifecycle.errors import ConfigError
from lifecycle.machine import all_facts, decide, edge_of
from lifecycle.states import EDGES, STEPS, Edge, Event, InFlight, Outcome, Policy, State, Step

__all__ = ["ITEMS", "TransitionCoverage"]

_TAKEN: Final = (RecordKind.COMMIT, RecordKind.RECOVERED, RecordKind.DIVERTED, RecordKind.HOOKS)
_REFUSED: Final = (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.JOINED)
_FAILED: Final = (StepOutcome.FAILED, StepOutcome.TIMED_OUT)

_SEEN_IN: Final[Mapping[InFlight, frozenset[State]]] = MappingProxyType(
    {
        InFlight.NOTHING: frozenset(State),
        InFlight.START: frozenset({State.NOT_STARTED}),
        InFlight.ATTACH: frozenset({State.NOT_STARTED}),
        InFlight.ENDING: frozenset({State.NOT_STARTED, State.ACTIVE}),
    }
)
"""The states in which an event can meet what is in flight: the state changes only at the commit."""


def _step(edge: Edge, step: str) -> str:
    return f"{step} on {edge.name}"  # of two edges of one name, one has no steps


def _guards() -> Iterable[str]:
    """Each guard that can be seen to hold, and each that can be seen to say no."""
    for edge in EDGES:
        if not edge.internal:
            yield from (f"{guard}: yes" for guard in edge.guards)
    for flight, event in itertools.product(InFlight, Event):
        for state, facts in itertools.product(_SEEN_IN[flight], all_facts(flight)):
            if event is Event.ATTACH and not facts.session_id_given:
                continue  # one call starts and attaches: the id decides which event it sends
            if event is Event.START and facts.session_id_given:
                continue
            decision = decide(state, event, facts)
            if decision.outcome is not Outcome.EDGE:
                yield from (f"{result.guard}: no" for result in decision.guards if not result.held)


_EDGES: Final = tuple(edge for edge in EDGES if not edge.internal)

_IDLE: Final = (Event.ATTACH, Step.OPEN_VIEWER)
"""A step that has nothing to do on an edge: the live view is its owner's to open."""

ITEMS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "edges": tuple(edge.full_name for edge in _EDGES),
        "guards": tuple(sorted(set(_guards()))),
        "steps": tuple(_step(edge, step) for edge in _EDGES for step in edge.steps if (edge.event, step) != _IDLE),
        "diversions": tuple(
            _step(edge, step) for edge in _EDGES for step in edge.steps if STEPS[step].policy is not Policy.CARRY_ON
        ),
    }
)
"""All that there is to take, by kind. A diversion is a step that fails and so gives its edge up."""


class TransitionCoverage:
    """What was taken, and how often."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, int]] = {kind: dict.fromkeys(items, 0) for kind, items in ITEMS.items()}

    def take(self, record: Record) -> None:
        """Take a record into account. Any thread, one at a time."""
        edge = edge_of(record)
        if record.kind in _REFUSED:
            self._count("guards", *(f"{result.guard}: no" for result in record.guards if not result.held))
        if edge is None or record.kind not in _TAKEN:
            return
        if record.kind in (RecordKind.COMMIT, RecordKind.RECOVERED):
            self._count("edges", edge.full_name)
            self._count("guards", *(f"{guard}: yes" for guard in edge.guards))
        for result in record.steps:
            name = _step(edge, result.step)
            if result.outcome is StepOutcome.DONE:
                self._count("steps", name)
            elif result.outcome in _FAILED:  # of a step that carries on, the table has no diversion
                self._count("diversions", name)

    def _count(self, kind: str, *names: str) -> None:
        for name in names:
            if name in self._taken[kind]:
                self._taken[kind][name] += 1

    @property
    def percent(self) -> float:
        """The share of all that there is, from 0 to 100."""
        return 100 * sum(map(bool, self._counts())) / len(self._counts())

    def _counts(self) -> list[int]:
        return [count for items in self._taken.values() for count in items.values()]

    def missing(self) -> dict[str, list[str]]:
        """What was not taken, by kind."""
        return {kind: [name for name, count in items.items() if not count] for kind, items in self._taken.items()}

    def lines(self) -> list[str]:
        """A table of the kinds, then what was not taken."""
        out = [f"{'':12}{'taken':>7}{'of':>5}"]
        for kind, items in self._taken.items():
            out.append(f"{kind:12}{sum(map(bool, items.values())):7}{len(items):5}")
        counts = self._counts()
        out.append(f"{'all':12}{sum(map(bool, counts)):7}{len(counts):5}{self.percent:7.1f} %")
        for kind, names in self.missing().items():
            out += [f"no {kind.removesuffix('s')}: {name}" for name in names]
        return out

    def to_json(self) -> dict[str, dict[str, int]]:
        """How often each was taken, by kind; what was never taken is left out."""
        return {kind: {name: n for name, n in items.items() if n} for kind, items in self._taken.items()}

    def add(self, told: Mapping[str, Mapping[str, int]]) -> None:
        """Add what `to_json` gave of another run, or of another process of this one.

        Raises:
            ConfigError: It names something that the table of this version does not have.
        """
        for kind, items in told.items():
            for name, count in items.items():
                if name not in self._taken.get(kind, ()):
                    raise ConfigError(option=f"coverage of {kind}", value=name, allowed="what `to_json` gave")
                self._taken[kind][name] += count
