"""What the records of one session tell: its attachments, the course of each edge, and what came to nothing.

Rule: everything here is read from records, in the order of the log. The ledger row adds only what no record has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from lifecycle.audit import Record, RecordKind, StepResult
from lifecycle.machine import edge_of
from lifecycle.ports import SessionRow
from lifecycle.states import EDGES, CloseReason, Event, State

__all__ = ["Course", "Lane", "Mark", "Move", "Story", "tell"]

_MARKS: Final = frozenset(
    {
        RecordKind.REJECTED,
        RecordKind.IGNORED,
        RecordKind.JOINED,
        RecordKind.EXTENDED,
        RecordKind.HELD,
        RecordKind.SPILLED,
        RecordKind.STALE,
    }
)
"""Kinds of records in which no state is left and no step is run."""


@dataclass(slots=True)
class Lane:
    """One attachment on the session.

    Attributes:
        attachment_id: Its id.
        role: ``owner``, ``guest 1``, or ``attachment 1`` where the log does not tell which.
        records: Its records, in their order.
    """

    attachment_id: str
    role: str = ""
    records: list[Record] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The state that it has reached."""
        return next((r.dest for r in reversed(self.records) if _reaches(r)), State.NOT_STARTED)

    @property
    def end(self) -> Record | None:
        """The record that ended it."""
        return next((r for r in self.records if r.terminal), None)


@dataclass(slots=True)
class Course:
    """One edge as it was carried out, from the intent to the commit; or hooks or a recovery, which have no intent.

    Attributes:
        lane: Whose.
        number: The place of its first record in the log.
        intent: The intent, None where there is none.
        end: The commit, or what stands in its place; None while there is none.
        steps: Its steps and hooks, in their order.
    """

    lane: Lane
    number: int
    intent: Record | None
    end: Record | None = None
    steps: Sequence[StepResult] = ()

    @property
    def record(self) -> Record:
        """The record that says most of it."""
        found = self.end or self.intent
        assert found is not None  # noqa: S101 - it is made of one of them
        return found

    @property
    def begin(self) -> datetime:
        """When it began, UTC."""
        return (self.intent or self.record).at

    @property
    def ms(self) -> float:
        """Milliseconds from the intent to what ended it; of hooks and recoveries, those of their steps."""
        if self.intent is None or self.end is None:
            return sum(step.ms for step in self.steps)
        if self.intent.writer == self.end.writer:
            return max(self.end.offset - self.intent.offset, 0.0) * 1000
        return max((self.end.at - self.intent.at).total_seconds(), 0.0) * 1000


@dataclass(slots=True)
class Mark:
    """Records that took no edge; more than one where the same came again and again.

    Attributes:
        lane: Whose.
        number: The place of its first record in the log.
        records: One or more of one kind, event and error.
    """

    lane: Lane
    number: int
    records: list[Record]


@dataclass(frozen=True, slots=True, order=True)
class Move:
    """An edge of the table on a session's way.

    Attributes:
        edge: Its index in `EDGES`.
        taken: False where it was begun and given up.
    """

    edge: int
    taken: bool


@dataclass(slots=True, kw_only=True)
class Story:
    """One session.

    Attributes:
        session_id: None where it never got an id.
        row: Its ledger row, None where this store has none.
        lanes: Its attachments, the owner's first.
        courses: The edges that were taken or begun, in the order of the log.
        marks: What took no edge, likewise.
        begin: Time of the first record, UTC.
        last: Time of the last record, UTC.
    """

    session_id: str | None
    row: SessionRow | None
    lanes: Sequence[Lane]
    courses: Sequence[Course]
    marks: Sequence[Mark]
    begin: datetime
    last: datetime

    @property
    def main(self) -> Lane:
        """The lane that says how the session stands: the owner's, where the log has it."""
        return self.lanes[0]

    @property
    def first(self) -> Record:
        """The first record."""
        return self.main.records[0]

    @property
    def state(self) -> State:
        """The state that it has reached."""
        return self.main.state

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it ended."""
        end = self.main.end
        return end.close_reason if end is not None else None

    @property
    def duration(self) -> float:
        """Seconds from its first record to its end, or to the last record while there is no end."""
        end = self.main.end
        return max(((end.at if end is not None else self.last) - self.begin).total_seconds(), 0.0)

    @property
    def errors(self) -> Sequence[str]:
        """The classes of all errors in it, each once, in the order in which they came."""
        found: dict[str, None] = {}
        for lane in self.lanes:
            for record in lane.records:
                found.update((step.error, None) for step in record.steps if step.error)
                if record.error:
                    found[record.error] = None
        return list(found)

    @property
    def slowest(self) -> StepResult | None:
        """The step or hook that took longest."""
        steps = [step for course in self.courses for step in course.steps]
        return max(steps, key=lambda step: step.ms, default=None)

    @property
    def path(self) -> Sequence[Move]:
        """The edges on its way, each once, in the order in which they were first taken or given up."""
        found: dict[Move, None] = {}
        for course in self.courses:
            edge = edge_of(course.record)
            kind = course.end.kind if course.end is not None else None
            if edge is not None and kind is not RecordKind.HOOKS:
                found[Move(EDGES.index(edge), kind in (RecordKind.COMMIT, RecordKind.RECOVERED))] = None
        return list(found)


def tell(session_id: str | None, row: SessionRow | None, records: Iterable[tuple[int, Record]]) -> Story:
    """The story of a session.

    Args:
        session_id: Its id, or None.
        row: Its ledger row, or None.
        records: One or more records with their place in the log, oldest first; all those of its attachments.
    """
    lanes: dict[str, Lane] = {}
    courses: list[Course] = []
    marks: list[Mark] = []
    running: dict[tuple[str, Event], Course] = {}
    lasts: dict[str, Mark] = {}
    times: list[datetime] = []
    for number, r in records:
        times.append(r.at)
        lane = lanes.setdefault(r.attachment_id, Lane(r.attachment_id))
        lane.records.append(r)
        if r.kind in _MARKS:
            same = lasts.get(r.attachment_id)
            if same is not None and _alike(same.records[0], r):
                same.records.append(r)
            else:
                marks.append(Mark(lane, number, [r]))
                lasts[r.attachment_id] = marks[-1]
            continue
        lasts.pop(r.attachment_id, None)
        if r.kind is RecordKind.INTENT:
            courses.append(Course(lane, number, r))
            running[r.attachment_id, r.event] = courses[-1]
            continue
        course = None if r.kind is RecordKind.HOOKS else running.pop((r.attachment_id, r.event), None)
        if course is None:
            course = Course(lane, number, None)
            courses.append(course)
        course.end, course.steps = r, r.steps
    return Story(
        session_id=session_id,
        row=row,
        lanes=list(_with_roles(lanes.values(), row)),
        courses=courses,
        marks=marks,
        begin=min(times),
        last=max(times),
    )


def _reaches(r: Record) -> bool:
    return r.kind in (RecordKind.COMMIT, RecordKind.RECOVERED)


def _alike(one: Record, other: Record) -> bool:
    def key(r: Record) -> tuple[object, ...]:
        return (r.kind, r.event, r.error, r.source, r.in_flight, r.cause, r.close_reason, r.note, r.thread, r.guards)

    return key(one) == key(other) and one.kind is not RecordKind.EXTENDED and one.kind is not RecordKind.HELD


def _with_roles(lanes: Iterable[Lane], row: SessionRow | None) -> Iterator[Lane]:
    """The lanes with what each is called, the owner's first."""
    found = list(lanes)
    owner = next((lane for lane in found if row is not None and lane.attachment_id == row.attachment_id), None)
    if owner is None:
        owner = next((lane for lane in found if any(r.event is Event.START for r in lane.records)), None)
    if owner is not None:
        found.remove(owner)
        owner.role = "owner"
        yield owner
    for number, lane in enumerate(found, 1):
        guest = owner is not None or any(r.event is Event.ATTACH for r in lane.records)
        lane.role = f"{'guest' if guest else 'attachment'} {number}"
        yield lane
