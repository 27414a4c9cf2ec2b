"""What sessions went through, as lines of text that a test can compare, and what a failed comparison says.

Rule: everything is read from records, so what a test asserts is what an auditor would be shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from lifecycle.audit import Record, RecordKind, StepOutcome
from lifecycle.config import nearest
from lifecycle.engine import supervisor
from lifecycle.errors import UsageError
from lifecycle.session import AsyncSession, Session
from lifecycle.states import EDGES, Event

if TYPE_CHECKING:
    from lifecycle.callers import Caller

__all__ = ["assert_transitions", "told", "transitions"]

_MOVES: Final = (RecordKind.COMMIT, RecordKind.RECOVERED)
_NAMES: Final = frozenset(edge.name for edge in EDGES)


def transitions(session: Session | AsyncSession | Iterable[Record]) -> list[str]:
    """The edges that a session took, in order, such as ``["start: not_started -> active", "stop: active -> closed"]``.

    Args:
        session: A session, or records of one attachment, oldest first.
    """
    return [_name(r) for r in _records(session) if r.kind in _MOVES]


def assert_transitions(session: Session | AsyncSession | Iterable[Record], *expected: str) -> None:
    """Assert that a session took exactly these edges, in this order.

    Args:
        session: A session, or records of one attachment, oldest first.
        *expected: Each the name of an event, such as ``stop``, or of an edge, such as ``stop: active -> closed``.

    Raises:
        AssertionError: It took others; the message holds both, line by line, with what each record says of its edge.
        UsageError: There is no such event or edge.
    """
    __tracebackhide__ = True  # pytest shows the test's own line
    for name in expected:
        if name not in _NAMES and name not in list(Event):
            known = nearest(name, [*map(str, Event), *_NAMES])
            raise UsageError(f"assert_transitions: {name!r} is no event and no edge; {known}")
    records = _records(session)
    moves = [r for r in records if r.kind in _MOVES]
    names = [_name(r) for r in moves]
    wanted = [
        taken if taken is not None and name in (taken, taken.partition(":")[0]) else name
        for name, taken in zip(expected, [*names, *[None] * len(expected)], strict=False)
    ]
    if wanted == names:
        return
    by_name = {f"  {n}": r for n, r in zip(names, moves, strict=True)} | {
        f"+ {n}": r for n, r in zip(names, moves, strict=True)
    }
    lines = [line for line in difflib.ndiff(wanted, names) if not line.startswith("?")]
    width = max(map(len, lines), default=0)
    shown = [f"{line:{width}}   {_course(by_name[line])}" if line in by_name else line for line in lines]
    others = [told(r) for r in records if r.kind not in (*_MOVES, RecordKind.INTENT)]
    text = ["the session took other transitions (-: expected, +: taken):", *(f"    {line.rstrip()}" for line in shown)]
    if others:
        text += ["and its records say besides:", *(f"    {line}" for line in others)]
    raise AssertionError("\n".join(text))


def told(record: Record) -> str:
    """A record in one line: what it is, where it led, why, and how long its steps took."""
    steps = [f"{s.step} {s.ms:.1f} ms" for s in record.steps if s.outcome is StepOutcome.DONE]
    return f"{record.kind:8}  {_name(record):36}  {', '.join([_course(record), *steps])}"


def _records(session: Session | AsyncSession | Iterable[Record]) -> Sequence[Record]:
    if isinstance(session, Session):
        return session.history()
    if isinstance(session, AsyncSession):  # the supervisor is another thread, so the loop is not waited for

        async def read(_: Caller) -> Sequence[Record]:
            return await session._do_history(_)  # noqa: SLF001 - as its own `history` does

        return supervisor().call(read)
    return list(session)


def _name(record: Record) -> str:
    return f"{record.event}: {record.source} -> {record.dest}"


def _course(record: Record) -> str:
    """What made an edge go as it did: cause, reason, error, and the steps that did not go well."""
    parts = [f"by {record.cause}", *dict.fromkeys(filter(None, (record.close_reason, record.error)))]
    refused = [g.guard for g in record.guards if not g.held]
    if refused:
        parts.append(f"not: {', '.join(refused)}")
    parts += [
        f"{s.step} {s.outcome}{f' ({s.error or s.note})' if s.error or s.note else ''}"
        for s in record.steps
        if s.outcome not in (StepOutcome.DONE, StepOutcome.SKIPPED)
    ]
    return ", ".join(parts)
