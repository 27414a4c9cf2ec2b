"""What the records of an attachment say about its states, followed one by one.

Rule: each table of edges that ever wrote records is known here by its version, so a log is judged by the table of its
own time. Nothing here looks at anything but the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lifecycle.audit.record import RecordKind
from lifecycle.states import EDGES, TABLE_VERSION, TERMINAL, Event, State

if TYPE_CHECKING:
    from lifecycle.audit.record import Record

__all__ = ["TABLES", "Life", "Replayed", "replay"]

TABLES: Final[Mapping[int, frozenset[tuple[str, str, str]]]] = MappingProxyType(
    {TABLE_VERSION: frozenset((str(e.event), str(e.source), str(e.dest)) for e in EDGES)}
)
"""The edges of each version of the table: event, source and destination."""

_OPENING: Final = frozenset({str(Event.START), str(Event.ATTACH)})
_ENDED: Final = frozenset(map(str, TERMINAL))
_AFTER_THE_END: Final = frozenset(
    map(str, (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.HOOKS, RecordKind.SPILLED, RecordKind.RECOVERED))
)
_STANDING: Final = frozenset(
    map(str, (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.JOINED, RecordKind.EXTENDED, RecordKind.HELD))
)
_INTENT, _COMMIT, _DIVERTED, _HOOKS, _SPILLED, _RECOVERED, _JOINED = (
    str(kind)
    for kind in (
        RecordKind.INTENT, RecordKind.COMMIT, RecordKind.DIVERTED, RecordKind.HOOKS, RecordKind.SPILLED,
        RecordKind.RECOVERED, RecordKind.JOINED,
    )
)  # fmt: skip


class Life:
    """One attachment, as far as its records were followed.

    Attributes:
        seq: Number of its records so far.
        state: The state that they lead to.
        opening: The event of the start or attach in flight, or None.
        ending: True while an ending is in flight.
    """

    __slots__ = ("ending", "opening", "seq", "state")

    def __init__(self) -> None:
        self.seq = 0
        self.state: str = State.NOT_STARTED.value
        self.opening: str | None = None
        self.ending = False

    @property
    def over(self) -> bool:
        """True when nothing more is expected of it."""
        return self.state in _ENDED

    @property
    def pending(self) -> bool:
        """True while an intent has neither its commit nor a recovery."""
        return self.opening is not None or self.ending

    def follow(self, seq: int, kind: str, event: str, source: str, dest: str, table: int) -> str | None:
        """Take the next record into account.

        Returns:
            What is wrong with it where it stands, or None.
        """
        before, self.seq = self.seq, seq
        wrong = None
        if seq != before + 1:
            wrong = f"it comes after {before} records of its attachment"
        edges = TABLES.get(table)
        if edges is None:
            return wrong or f"it was written by version {table} of the table, which this version does not know"
        if kind in (_INTENT, _COMMIT, _DIVERTED, _HOOKS):
            if (event, source, dest) not in edges:
                return wrong or f"the table has no edge {event}: {source} -> {dest}"
        elif kind == _SPILLED:
            return wrong
        elif kind in _STANDING and source != dest:
            return wrong or f"it leads from {source} to {dest}, which a record of its kind never does"
        if kind == _HOOKS:
            return wrong
        if source != self.state:
            wrong = wrong or f"it leaves the state {source}, and its attachment was {self.state}"
        if self.state in _ENDED and kind not in _AFTER_THE_END:
            return wrong or "its attachment had ended before"
        return wrong or self._carry(kind, event, dest)

    def _carry(self, kind: str, event: str, dest: str) -> str | None:
        if kind == _INTENT:
            if self.ending or (event in _OPENING and self.opening is not None):
                return "another intent of its attachment was not carried out yet"
            if event in _OPENING:
                self.opening = event
            else:
                self.ending = True
        elif kind in (_COMMIT, _RECOVERED):
            wrong = None
            if kind == _COMMIT and not self.ending and self.opening != event:
                wrong = "no intent came before it"
            if kind == _RECOVERED and self.state in _ENDED:
                return None
            self.state, self.opening, self.ending = dest, None, False
            return wrong
        elif kind == _DIVERTED:
            if event in _OPENING:
                opening, self.opening = self.opening, None
                return None if opening == event else "no intent came before it"
            return None if self.ending else "no intent came before it"
        elif kind == _JOINED:
            return None if self.ending else "there was no ending in flight that it could join"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """An attachment as its records leave it.

    Attributes:
        attachment_id: Which one.
        session_id: Its session; None while it has none.
        state: Its state.
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
    lives: dict[str, tuple[Life, list[str]]] = {}
    sessions: dict[str, str | None] = {}
    for r in records:
        life, problems = lives.setdefault(r.attachment_id, (Life(), []))
        wrong = life.follow(r.attachment_seq, r.kind.value, r.event.value, r.source.value, r.dest.value, r.table)
        if wrong is not None:
            problems.append(f"record {r.attachment_seq}: {wrong}")
        sessions[r.attachment_id] = r.session_id or sessions.get(r.attachment_id)
    return {
        attachment_id: Replayed(
            attachment_id=attachment_id,
            session_id=sessions[attachment_id],
            state=State(life.state),
            pending=life.pending,
            records=life.seq,
            problems=tuple(problems),
        )
        for attachment_id, (life, problems) in lives.items()
    }
