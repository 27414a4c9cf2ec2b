"""The machine as Markdown tables: what each event does in each state, the edges, and the steps.

Rule: the first table is filled by asking the decider with every combination of facts, never by reading the rows of
the table, so it shows what really happens.
"""

from __future__ import annotations

from collections.abc import Sequence

from lifecycle.machine import GUARDS, Decider, Facts, all_facts
from lifecycle.states import EDGES, INITIAL, STEPS, TERMINAL, Edge, Event, InFlight, Policy, State

_COLUMNS = {
    "nothing in flight": (InFlight.NOTHING,),
    "start or attach in flight": (InFlight.START, InFlight.ATTACH),
    "an ending in flight": (InFlight.ENDING,),
}

_INTRO = """\
<!-- Drawn from the table in lifecycle/states.py by `python -m lifecycle.diagram`; do not edit. -->

# What happens

An arrow is an edge that is taken, to the state it leads to. Other events are *rejected* (the caller gets an error),
*ignored* (recorded, and nothing else) or *join* the ending in flight and share its outcome. What stands in brackets
can't be met, and is decided all the same.
"""


def draw_markdown(edges: Sequence[Edge] = EDGES) -> str:
    """The three tables."""
    decide = Decider(edges)
    cases = [
        [f"`{state}`", f"`{event}`", *(_cell(decide, state, event, flights) for flights in _COLUMNS.values())]
        for state in State
        for event in Event
    ]
    arrows = [
        [f"`{e.event}`", f"`{e.source}`", f"`{e.dest}`", ", ".join(e.guards), ", ".join(f"`{s}`" for s in e.steps)]
        for e in edges
    ]
    rules = [[f"`{step}`", _after(rule.policy, rule.attempts), f"{rule.budget:g} s"] for step, rule in STEPS.items()]
    return "\n".join(
        [
            _INTRO,
            *_table(["state", "event", *_COLUMNS], cases),
            "\n## Edges\n\nAll guards of an edge hold, or it is not taken. Its steps run in this order.\n",
            *_table(["event", "from", "to", "guards", "steps"], arrows),
            "\n## Steps\n\nThe budget bounds one attempt.\n",
            *_table(["step", "when it fails", "budget"], rules),
            "",
        ]
    )


def _after(policy: Policy, attempts: int) -> str:
    return {
        Policy.DIVERT: "the `fail` edge is taken, from the first step not yet undone",
        Policy.CARRY_ON: "it is recorded, the edge is finished, then the caller is told",
        Policy.RETRY: f"it is tried {attempts} times, then the edge ends in `error`",
    }[policy]


def _cell(decide: Decider, state: State, event: Event, flights: Sequence[InFlight]) -> str:
    texts = {_outcomes(decide, state, event, flight) for flight in flights}
    text = "; or ".join(sorted(texts))
    return text if all(_can_be_met(state, flight) for flight in flights) else f"({text})"


def _can_be_met(state: State, flight: InFlight) -> bool:
    """A final state has nothing in flight, and only the first state has a start."""
    return flight is InFlight.NOTHING or state is INITIAL or (flight is InFlight.ENDING and state not in TERMINAL)


def _outcomes(decide: Decider, state: State, event: Event, flight: InFlight) -> str:
    """What happens with each combination of the other facts, with the guards that tell them apart."""
    found: dict[str, list[Facts]] = {}
    edges: dict[str, Edge] = {}
    for facts in all_facts(flight):
        decision = decide(state, event, facts)
        text = f"→ **{decision.edge.dest}**" if decision.edge is not None else str(decision.outcome)
        found.setdefault(text, []).append(facts)
        if decision.edge is not None:
            edges[text] = decision.edge
    if len(found) == 1:
        return next(iter(found))
    parts = []
    for text, edge in edges.items():
        deciding = [g for g in edge.guards if any(not GUARDS[g](facts) for facts in all_facts(flight))]
        parts.append(f"{text} if {' and '.join(deciding)}")
    return ", else ".join([*parts, *(text for text in found if text not in edges)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
