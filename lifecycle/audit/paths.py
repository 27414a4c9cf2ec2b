"""What the records of an attachment say about its states, followed one by one.

Rule: each table of edges that ever wrote records is known here by its version, so a log is judged by the table of its
own time. Nothing here looks at anything but the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from lifecycle.audit.record import RecordKind
from lifecycle.states import EDGES, TABLE_VERSION, TERMINAL, Event, State

if TYPE_CHECKING:
    from lifecycle.audit.record import Record

__all__ = ["BEGINNING", "ENDED", "KNOWN", "TABLES", "Replayed", "Standing", "follow", "replay"]

TABLES: Final[Mapping[int, frozenset[tuple[str, str, str]]]] = MappingProxyType(
    {TABLE_VERSION: frozenset((str(e.event), str(e.source), str(e.dest)) for e in EDGES)}
)
"""The edges of each version of the table: event, source and destination."""

_KINDS: Final = frozenset(map(str, RecordKind))
_EVENTS: Final = frozenset(map(str, Event))
_STATES: Final = frozenset(map(str, State))
_OPENING: Final = frozenset({str(Event.START), str(Event.ATTACH)})
_ENDED: Final = frozenset(map(str, TERMINAL))
_AFTER_THE_END: Final = frozenset(
    map(str, (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.HOOKS, RecordKind.SPILLED, RecordKind.RECOVERED))
)
_STANDING: Final = frozenset(
    map(str, (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.JOINED, RecordKind.EXTENDED, RecordKind.HELD))
)
_INTENT, _COMMIT, _DIVERTED, _HOOKS, _SPILLED, _RECOVERED, _JOINED, _STALE = (
    str(kind)
    for kind in (
        RecordKind.INTENT, RecordKind.COMMIT, RecordKind.DIVERTED, RecordKind.HOOKS, RecordKind.SPILLED,
        RecordKind.RECOVERED, RecordKind.JOINED, RecordKind.STALE,
    )
)  # fmt: skip


class Standing(NamedTuple):
    """Where an attachment stands.

    Attributes:
        state: Its state.
        opening: The event of the start or attach in flight, or None; an ending may come to its commit first.
        ending: True while an ending is in flight.
    """

    state: str = State.NOT_STARTED.value
    opening: str | None = None
    ending: bool = False

    @property
    def over(self) -> bool:
        """True when nothing more is expected of it."""
        return self.state in _ENDED

    @property
    def pending(self) -> bool:
        """True while an intent has neither its commit nor a recovery."""
        return not self.over and (self.opening is not None or self.ending)


BEGINNING: Final = Standing()
"""Before the first record."""

ENDED: Final = State.CLOSED.value
"""A final state."""

Step = tuple[Standing, str, str, str, str, int]
"""What decides: where it stands, and the kind, event, source, destination and table of the next record."""

KNOWN: Final[dict[Step, Standing]] = {}
"""Where the steps lead that were found right so far: some hundred, since none is right that the tables do not know."""


def follow(step: Step) -> tuple[Standing, str | None]:
    """Take the next record of an attachment into account.

    Returns:
        Where it stands then, and what is wrong with the record where it stands, or None.
    """
    known = KNOWN.get(step)
    if known is not None:
        return known, None
    before, kind, event, source, dest, table = step
    after, wrong = _carried(before, kind, event, dest)
    wrong = _unfit(before, kind, event, source, dest, TABLES.get(table), table) or wrong
    if wrong is None:
        KNOWN[step] = after
    return after, wrong


def _unfit(
    before: Standing,
    kind: str,
    event: str,
    source: str,
    dest: str,
    edges: frozenset[tuple[str, str, str]] | None,
    table: int,
) -> str | None:
    """Why such a record can't stand there, whatever was in flight."""
    if kind not in _KINDS or event not in _EVENTS or source not in _STATES or dest not in _STATES:
        return f"{kind} of {event}, {source} -> {dest}, is no record of this version"
    if kind == _STALE:
        return None  # it is among its like, and leads nowhere
    if edges is None:
        return f"it was written by version {table} of the table, which this version does not know"
    if kind in (_INTENT, _COMMIT, _DIVERTED, _HOOKS) and (event, source, dest) not in edges:
        return f"the table has no edge {event}: {source} -> {dest}"
    if (kind in _STANDING or kind == _SPILLED) and source != dest:
        return f"it leads from {source} to {dest}, which a record of its kind never does"
    if kind in (_HOOKS, _SPILLED) or (kind == _DIVERTED and event in _OPENING):
        return None  # it may be told when others have gone on already
    if source != before.state:
        return f"it leaves the state {source}, and its attachment was {before.state}"
    if before.over and kind not in _AFTER_THE_END:
        return "its attachment had ended before"
    return None


def _carried(before: Standing, kind: str, event: str, dest: str) -> tuple[Standing, str | None]:
    """Where a record leads, and what is wrong with it by what was in flight."""
    opening, ending = before.opening, before.ending
    if kind == _INTENT:
        wrong = ending or (event in _OPENING and opening is not None)
        after = before._replace(opening=event) if event in _OPENING else before._replace(ending=True)
        return after, "another intent of its attachment was not carried out yet" if wrong else None
    if kind == _COMMIT:
        after = Standing(dest, None if event in _OPENING else opening)
        return after, None if ending or opening == event else "no intent came before it"
    if kind == _STALE:
        return Standing(ENDED), None  # nothing more is expected
    if kind == _RECOVERED:
        return before if before.over else Standing(dest, opening), None
    if kind == _DIVERTED and event in _OPENING:
        return before._replace(opening=None), None if opening == event else "no intent came before it"
    if kind == _DIVERTED:
        return before, None if ending else "no intent came before it"
    if kind == _JOINED:
        return before, None if ending else "there was no ending in flight that it could join"
    return before, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """An attachment as its records leave it.

    Attributes:
        attachment_id: Which one.
        session_id: Its session; None while it has none.
        state: Its state; of what was said after a lease was lost, `closed`.
        pending: True while an intent has neither its commit nor a recovery.
        records: Number of its records.
        problems: What is wrong with them, in their order.
    """

    attachment_id: str
    session_id: str | None
    state: State
    pending: bool
    records: int
    problems: tuple[str, ...] = ()


def replay(records: Iterable[Record]) -> dict[str, Replayed]:
    """The states of attachments, from nothing but their records.

    Args:
        records: All of theirs, each attachment's in their order.

    Returns:
        Each attachment by its id, in the order of their first records.
    """
    lives: dict[str, _Life] = {}
    for r in records:
        life = lives.setdefault(r.attachment_id, _Life())
        life.records += 1
        if r.attachment_seq != life.records:
            life.problems.append(
                f"record {r.attachment_seq}: it comes after {life.records - 1} records of its attachment"
            )
            life.records = r.attachment_seq
        life.standing, wrong = follow(
            (life.standing, r.kind.value, r.event.value, r.source.value, r.dest.value, r.table)
        )
        if wrong is not None:
            life.problems.append(f"record {r.attachment_seq}: {wrong}")
        life.session_id = r.session_id or life.session_id
    return {
        attachment_id: Replayed(
            attachment_id=attachment_id,
            session_id=life.session_id,
            state=State(life.standing.state),
            pending=life.standing.pending,
            records=life.records,
            problems=tuple(life.problems),
        )
        for attachment_id, life in lives.items()
    }


@dataclass(slots=True)
class _Life:
    """One attachment as it is replayed."""

    standing: Standing = BEGINNING
    records: int = 0
    session_id: str | None = None
    problems: list[str] = field(default_factory=list)
