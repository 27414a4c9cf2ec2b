"""What becomes of sessions whose owner died without ending them.

Rule: an owner is known by pid, start time, boot and host together, never by its pid alone. Of owners on other hosts
nothing is said. Reaping is done once for a session, by whoever holds the claim on it; it begins with the release, since
nobody else does that any more, and what could not be released is recorded as such and tried again by the next.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import TYPE_CHECKING, Final

from lifecycle.attachment import SessionStatus
from lifecycle.audit import RecordKind, StepOutcome, StepResult
from lifecycle.errors import BackendError, ReleaseFailed, StartFailed
from lifecycle.identity import same_process
from lifecycle.ports import BackendEnd, Reaper
from lifecycle.states import STEPS, CloseReason, Event, InFlight, State, Step
from lifecycle.steps import StepTimeout, ms_since, within
from lifecycle.stores.common import is_unfinished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifecycle.audit import Record
    from lifecycle.core import ClientCore
    from lifecycle.ports import Claim, SessionRow, Store

__all__ = ["how_it_stands", "left_behind", "owner_ended", "owner_gone", "reap"]

_AT_ONCE: Final = 16
"""Sessions that are released at once; a host may have left thousands at one service."""

_REAPING: Final = "(reaper)"
"""Where a reaper holds its claims, among the names of adapters."""


def owner_gone(held: SessionRow | Claim) -> bool:
    """True when the owner of a session, or of a claim, has certainly ended. Blocks for a moment."""
    return same_process(held.owner_pid, held.owner_started, held.boot_id, held.host) is False


def owner_ended(row: SessionRow) -> str:
    """What is said of a session whose owner has ended."""
    return f"the process that owned it ({row.owner_pid}) has ended"


def how_it_stands(row: SessionRow) -> BackendEnd | None:
    """How a session ended, None when it can be attached to. Blocks for a moment.

    Raises:
        StartFailed: It is not over, but can't be attached to now; says why.
    """
    if row.state.terminal:
        return BackendEnd(state=row.state, reason=row.close_reason or CloseReason.BACKEND, detail=row.error or "")
    if owner_gone(row):
        return BackendEnd(state=State.ERROR, reason=CloseReason.OWNER_DIED, detail=owner_ended(row))
    if row.state is State.NOT_STARTED:
        msg = f"session {row.session_id} is still being started by process {row.owner_pid}; try again when it is active"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    if row.control is None:
        msg = f"session {row.session_id} has no control socket: its owner runs where there are none"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    return None


# --- reaping ------------------------------------------------------------------------------------------------------


def left_behind(store: Store) -> list[SessionRow]:
    """Rows of sessions whose owner has ended, and which are not over or not released. Blocks."""
    gone: dict[tuple[object, ...], bool] = {}
    found = []
    for row in store.unfinished():
        owner = (row.owner_pid, row.owner_started, row.boot_id, row.host)
        if owner not in gone:  # one process may own thousands
            gone[owner] = owner_gone(row)
        if gone[owner]:
            found.append(row)
    return found


async def reap(core: ClientCore, *, dry_run: bool) -> list[SessionStatus]:
    """Release and end the sessions of this client's adapter whose owner has ended.

    Returns:
        How each of them stands now, or would; those that another reaper is at are left out.

    Raises:
        StoreError: What was done could not be recorded for all.
    """
    await core.journal.flushed()
    rows = [row for row in await core.read(left_behind) if row.adapter == core.adapter.name]
    if dry_run:
        return [SessionStatus.of_row(_over(core, row, None), core.clock.utcnow()) for row in rows]
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(row: SessionRow) -> SessionStatus | None:
        async with turns:
            return await _reap(core, row)

    done = await asyncio.gather(*map(in_turn, rows), return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in done if isinstance(outcome, SessionStatus)]


async def _reap(core: ClientCore, row: SessionRow) -> SessionStatus | None:
    claim = core.supervisor.owner.claim(
        _REAPING, row.attachment_id, attachment_id=uuid.uuid4().hex, session_id=row.session_id
    )
    try:
        if not await core.read(lambda s: _hold(s, claim)):
            return None
        found = await core.row(row.session_id)
        if found is None or found.attachment_id != row.attachment_id or not is_unfinished(found):
            return None  # another one was there in between
        return await _end(core, found)
    finally:  # also when it was given up while the store took the claim; one of another is left alone
        await core.read(lambda s: s.unclaim(claim))


def _hold(store: Store, claim: Claim) -> bool:
    """Take the claim, also from a reaper that has ended itself."""
    held = store.claim(claim)
    if held is not None and owner_gone(held):
        held = store.claim(claim, replacing=held.attachment_id)
    return held is None


async def _end(core: ClientCore, row: SessionRow) -> SessionStatus:
    """Release what the session left, and record its end."""
    clock = core.clock
    began = clock.monotonic()
    trouble: BackendError | None = None
    if isinstance(core.adapter, Reaper):
        budget = STEPS[Step.RELEASE_BACKEND].budget
        try:
            await within(clock, budget, core.adapter.reap(row.session_id, row.facts))
        except BackendError as e:
            trouble = e
        except StepTimeout:
            trouble = ReleaseFailed(f"not within {budget:g} seconds", session_id=row.session_id)
    over = _over(core, row, trouble)
    if over.state is row.state and not over.released:
        return SessionStatus.of_row(over, clock.utcnow())  # all of it is in the log already
    told = [record for _, record in await core.read(lambda s: s.records(session_id=row.session_id))]
    step = StepResult(
        step=Step.RELEASE_BACKEND,
        outcome=StepOutcome.FAILED if trouble is not None else StepOutcome.DONE,
        ms=ms_since(clock, began),
        error=type(trouble).__name__ if trouble is not None else None,
    )
    mine = [r for r in told if r.attachment_id == row.attachment_id]
    if not mine:  # it was begun before its service had given it an id
        mine = [r for _, r in await core.read(lambda s: s.records(attachment_id=row.attachment_id))]
    records = [_recovered(core, row, row.attachment_id, mine, source=row.state, dest=over, steps=(step,))]
    if not row.state.terminal:
        records += [
            _recovered(core, row, attachment_id, theirs, source=_reached(theirs), dest=over, steps=())
            for attachment_id, theirs in _guests_of_the_dead(row, told).items()
        ]
    await core.journal.append(*records, row=over)
    for record in records:
        core.publish(record)  # of an attachment that no client holds, so nobody else does
    return SessionStatus.of_row(over, core.clock.utcnow())


def _recovered(
    core: ClientCore,
    row: SessionRow,
    attachment_id: str,
    told: Sequence[Record],
    *,
    source: State,
    dest: SessionRow,
    steps: tuple[StepResult, ...],
) -> Record:
    """The record that ends what an attachment's own records, `told`, leave open."""
    last = told[-1] if told else None
    in_flight = InFlight.NOTHING
    if last is not None and last.kind is RecordKind.INTENT:
        in_flight = InFlight(last.event) if last.event in (Event.START, Event.ATTACH) else InFlight.ENDING
    return core.journal.record(
        kind=RecordKind.RECOVERED,
        attachment_id=attachment_id,
        attachment_seq=last.attachment_seq + 1 if last is not None else 1,
        session_id=row.session_id,
        adapter=row.adapter,
        event=Event.FAIL,
        source=source,
        dest=dest.state,
        in_flight=in_flight,
        cause="reaper",
        close_reason=dest.close_reason,
        error=steps[0].error if steps else None,
        steps=steps,
        thread="supervisor",
        labels=dict(row.labels),
    )


def _reached(told: Sequence[Record]) -> State:
    """The state that the commits of an attachment lead to."""
    return next((r.dest for r in reversed(told) if r.kind is RecordKind.COMMIT), State.NOT_STARTED)


def _guests_of_the_dead(row: SessionRow, told: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of guests that were in the owner's own process and have no end, by attachment.

    A guest in another process ends by itself, as soon as it sees that the owner is gone.
    """
    found: dict[str, list[Record]] = {}
    for r in told:
        if r.attachment_id != row.attachment_id and (r.pid, r.host) == (row.owner_pid, row.host):
            found.setdefault(r.attachment_id, []).append(r)
    return {i: theirs for i, theirs in found.items() if not any(r.terminal for r in theirs)}


def _over(core: ClientCore, row: SessionRow, trouble: BackendError | None) -> SessionRow:
    """The row of a session whose owner has ended, once somebody has looked after it."""
    left = f"; what it left may still be there: {trouble}" if trouble is not None else ""
    first = not row.state.terminal
    return dataclasses.replace(
        row,
        state=State.ERROR,
        released=trouble is None,
        closed_at=core.clock.utcnow() if first else row.closed_at,
        close_reason=CloseReason.OWNER_DIED if first else row.close_reason,
        error=f"{owner_ended(row)}{left}" if first else row.error,
        control=None,
    )
