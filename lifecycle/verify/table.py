"""A table under proof, and what is said of it.

Rule: a problem is a sentence that names the edge, state or step at fault.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lifecycle.machine import Facts, GuardRule, all_facts
from lifecycle.states import Edge, Event, Fallback, Guard, InFlight, State, Step, StepRule


class Kind(enum.StrEnum):
    """Which proof fails; see `lifecycle.verify`."""

    VOCABULARY = "vocabulary"
    TOTALITY = "totality"
    DETERMINISM = "determinism"
    REACHABILITY = "reachability"
    OUTCOME = "outcome"
    GUARD = "guard"
    ORDER = "order"
    DIVERT = "divert"
    TEARDOWN = "teardown"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a table.

    Attributes:
        kind: The proof that fails.
        message: A sentence that names the edge, state or step.
    """

    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class Table:
    """Edges, fallbacks, steps and guards that belong together.

    Attributes:
        facts: Every combination of facts, by what is in flight.
    """

    def __init__(
        self,
        edges: Sequence[Edge],
        *,
        fallbacks: Sequence[Fallback],
        steps: Mapping[Step, StepRule],
        guards: Mapping[Guard, GuardRule],
    ) -> None:
        self.edges = tuple(edges)
        self.fallbacks = tuple(fallbacks)
        self.steps = steps
        self.guards = guards
        self.facts = {in_flight: tuple(all_facts(in_flight)) for in_flight in InFlight}
        self._by_cell = {
            (state, event): tuple(e for e in self.edges if e.source is state and e.event is event)
            for state in State
            for event in Event
        }
        self._under: dict[tuple[Guard, ...], list[Facts]] = {}

    def enabled(self, state: State, event: Event, facts: Facts) -> list[Edge]:
        """The edges that would take `event` in `state` under `facts`; at most one in a sound table."""
        return [edge for edge in self._by_cell[state, event] if self._holds(edge, facts)]

    def enabled_under(self, edge: Edge) -> list[Facts]:
        """All facts under which `edge` may be taken."""
        if edge.guards not in self._under:
            everything = [facts for in_flight in InFlight for facts in self.facts[in_flight]]
            self._under[edge.guards] = [facts for facts in everything if self._holds(edge, facts)]
        return self._under[edge.guards]

    def _holds(self, edge: Edge, facts: Facts) -> bool:
        return all(self.guards[guard](facts) for guard in edge.guards)


def vocabulary(table: Table, *, known: Collection[Step]) -> tuple[list[Problem], bool]:
    """Names without a rule or without a place in `table`.

    Args:
        table: The table.
        known: The steps whose effect is known.

    Returns:
        The problems, and whether every step and guard has a rule, so that the table can be evaluated.
    """
    used_steps = {step for edge in table.edges for step in edge.steps}
    used_guards = {guard for edge in table.edges for guard in edge.guards}
    used_events = {edge.event for edge in table.edges}
    lacking = [f"step {step} has no rule" for step in Step if step not in table.steps or step not in known]
    lacking += [f"guard {guard!s} has no rule" for guard in Guard if guard not in table.guards]
    unused = [f"step {step} is on no edge" for step in Step if step not in used_steps]
    unused += [f"guard {guard!s} is on no edge" for guard in Guard if guard not in used_guards]
    unused += [f"event {event} is on no edge" for event in Event if event not in used_events]
    return [Problem(Kind.VOCABULARY, message) for message in (*lacking, *unused)], not lacking
