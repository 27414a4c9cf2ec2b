"""Proofs that the declared table is sound, by going through every case it can meet.

Rule: a proof works from what the lifecycle promises, never from the table's own rows, so that a wrong row is named
and not repeated. A table is sound when:

- vocabulary: every step, guard and event has its rule and its place;
- totality: each (state, event, in flight) has a fallback, and with every combination of facts exactly one outcome;
- determinism: never two edges are enabled, and the machine takes the one that is;
- reachability: every state can be reached, and a final one from every other; nothing leaves a final state;
- outcome: an ending is never lost, and a final state takes no event any more;
- guard: nothing is taken twice, after its deadline or during an ending, and a given session id is never passed over;
- order: each step finds what it needs, and none runs twice on one path;
- divert: each step that may give its edge up has a `fail` edge to go on along;
- teardown: into a final state nothing is carried over: the backend is released (unless the edge is only taken when
  it can live on), connections are closed, cookies are saved, and no start is left running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lifecycle.machine import GuardRule
from lifecycle.states import Edge, Fallback, Guard, Step, StepRule
from lifecycle.verify.cells import cell_problems
from lifecycle.verify.paths import EFFECTS, Effect, Held, path_problems
from lifecycle.verify.table import Kind, Problem, Table, vocabulary

__all__ = ["EFFECTS", "Effect", "Held", "Kind", "Problem", "prove"]


def prove(
    edges: Sequence[Edge],
    *,
    fallbacks: Sequence[Fallback],
    steps: Mapping[Step, StepRule],
    guards: Mapping[Guard, GuardRule],
) -> list[Problem]:
    """Every problem of a table, without repeats; empty when it is sound. `lifecycle.machine.verify` calls this."""
    table = Table(edges, fallbacks=fallbacks, steps=steps, guards=guards)
    found, complete = vocabulary(table, known=EFFECTS)
    if complete:  # without a rule for everything there is nothing to evaluate
        found += [*cell_problems(table), *path_problems(table)]
    return list(dict.fromkeys(found))
