"""What becomes of sessions whose owner died without ending them.

Rule: an owner is known by pid, start time, boot and host together, never by its pid alone; of one on another host all
that is known is its lease, by the clock of the store. What it holds is taken over only once the store has fenced it, so
that it can say nothing more. Reaping is done once for a session, by whoever holds the claim on it; it begins with the
release, since nobody else does that any more, and what could not be released is recorded as such and tried again by the
next. A browser of this library's own ends with the lease by itself: nobody has to reach its machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lifecycle.attachment import SessionStatus
from lifecycle.audit import RecordKind, StepOutcome, StepResult
from lifecycle.errors import BackendError, LeaseLost, ReleaseFailed, StartFailed, StoreError
from lifecycle.identity import host_name, same_process
from lifecycle.journal import about
from lifecycle.lease import LEASE_SECONDS
from lifecycle.ports import BackendEnd, Directory, Leases, Reaper
from lifecycle.spill import kept, read
from lifecycle.states import STEPS, CloseReason, Event, InFlight, State, Step
from lifecycle.steps import StepTimeout, ms_since, within
from lifecycle.stores.common import is_unfinished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from lifecycle.audit import Record
    from lifecycle.core import ClientCore
    from lifecycle.ports import Claim, SessionRow, Store, Writer
    from lifecycle.spill import Spilled

__all__ = [
    "LeftBehind",
    "how_it_stands",
    "is_void",
    "left_behind",
    "long_silent",
    "lost_by",
    "owner_ended",
    "owner_gone",
    "reap",
    "silence",
]

_AT_ONCE: Final = 16
"""Sessions that are released at once; a host may have left thousands at one service."""

_NOBODY_ELSES: Final = "memory:"
"""The URL of stores that ended with their process, and of others that never were theirs."""

_REAPING: Final = "(reaper)"
"""Where a reaper holds its claims, among the names of adapters."""


def owner_gone(held: SessionRow | Claim | Writer) -> bool:
    """True when the owner of a session or of a claim, or a writer, has certainly ended. Blocks for a moment."""
    return same_process(held.owner_pid, held.owner_started, held.boot_id, held.host) is False


def _who(held: SessionRow | Writer) -> tuple[object, ...]:
    return (held.owner_pid, held.owner_started, held.boot_id, held.host)


def lost_by(store: Store, held: SessionRow | Claim) -> CloseReason | None:
    """How the owner of a session or of a claim has lost it; None while it has it, as far as can be known. Blocks."""
    if owner_gone(held):
        return CloseReason.OWNER_DIED
    writer = store.lease(held.writer) if held.writer is not None and isinstance(store, Leases) else None
    return CloseReason.LEASE_LOST if writer is not None and writer.lease_over else None


def is_void(store: Store, claim: Claim) -> bool:
    """True when whoever holds the claim has lost it; where its lease has ended that is taken. Blocks."""
    if owner_gone(claim):
        return True
    return claim.writer is not None and isinstance(store, Leases) and store.fence(claim.writer)


def owner_ended(row: SessionRow, reason: CloseReason) -> str:
    """What is said of a session that its owner has lost."""
    if reason is CloseReason.LEASE_LOST:
        return f"the lease of the process that owned it ({row.owner_pid} on host {row.host}) has ended"
    return f"the process that owned it ({row.owner_pid}) has ended"


def how_it_stands(store: Store, row: SessionRow) -> BackendEnd | None:
    """How a session ended, None when it can be attached to. Blocks for a moment.

    Raises:
        StartFailed: It is not over, but can't be attached to now; says why.
    """
    if row.state.terminal:
        return BackendEnd(state=row.state, reason=row.close_reason or CloseReason.BACKEND, detail=row.error or "")
    if (reason := lost_by(store, row)) is not None:
        return BackendEnd(state=State.ERROR, reason=reason, detail=owner_ended(row, reason))
    if row.state is State.NOT_STARTED:
        msg = f"session {row.session_id} is still being started by process {row.owner_pid}; try again when it is active"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    if row.control is None and row.host == host_name():
        msg = f"session {row.session_id} has no control socket: its owner runs where there are none"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    return None


# --- reaping ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """What processes that have ended left in a store.

    Attributes:
        rows: Rows of sessions that are not over, or not released.
        attachments: Other attachments that have no end in the log: guests of sessions, and starts that no service had
            answered yet; each with who began it.
    """

    rows: Sequence[SessionRow]
    attachments: Mapping[str, Writer]


def left_behind(store: Store, *, anywhere: bool = False) -> LeftBehind:
    """What processes left behind that have ended, or whose lease has. Blocks.

    Args:
        store: The store.
        anywhere: Whether a process on another host, of which nothing else can be known, has ended when it took no
            lease and has not said for long that it lives.
    """
    known: dict[tuple[object, ...], bool] = {}

    def gone(held: SessionRow | Writer) -> bool:
        owner = _who(held)
        if owner not in known:  # one process may own thousands
            known[owner] = owner_gone(held)
        return known[owner]

    unfinished, opened = store.unfinished(), store.open_attachments()
    over = {a for a, writer in opened.items() if writer.lease_over or (anywhere and long_silent(writer))}
    theirs = {row.attachment_id for row in unfinished}
    return LeftBehind(
        rows=[row for row in unfinished if gone(row) or row.attachment_id in over],
        attachments={a: w for a, w in opened.items() if a not in theirs and (gone(w) or a in over)},
    )


def long_silent(writer: Writer) -> bool:
    """True when a process on another host, which took no lease, has not said for long that it lives."""
    return writer.lease_seconds is None and writer.host != host_name() and silence(writer) > LEASE_SECONDS


def silence(writer: Writer) -> float:
    """Seconds since a process last said that it lives.

    By the clock of the store, where it has one: those of two hosts may be apart by more than a lease.
    """
    return writer.silent if writer.silent is not None else (datetime.now(UTC) - writer.renewed_at).total_seconds()


async def reap(core: ClientCore, *, dry_run: bool) -> list[SessionStatus]:
    """Release and end the sessions of this client's adapter whose owner has ended.

    Returns:
        How each of them stands now, or would; those that another reaper is at are left out.

    Raises:
        StoreError: What was done could not be recorded for all.
    """
    await core.journal.caught_up()
    busy = set() if dry_run else await _take_in(core)
    # What runs at a service can be ended from any host.
    left = await core.read(lambda s: left_behind(s, anywhere=isinstance(core.adapter, Directory)))
    rows = [row for row in left.rows if row.adapter == core.adapter.name and _who(row) not in busy]
    if dry_run:
        reasons = await core.read(lambda s: [lost_by(s, row) for row in rows])
        overs = [_over(core, row, reason, None) for row, reason in zip(rows, reasons, strict=True)]
        return [SessionStatus.of_row(over, core.clock.utcnow()) for over in overs]
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(row: SessionRow) -> SessionStatus | None:
        async with turns:
            return await _reap(core, row)

    done = await asyncio.gather(*map(in_turn, rows), return_exceptions=True)
    for attachment_id, writer in left.attachments.items():
        if _who(writer) not in busy:
            await _end_attachment(core, attachment_id, writer)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in done if isinstance(outcome, SessionStatus)]


async def _reap(core: ClientCore, row: SessionRow) -> SessionStatus | None:
    async with _claim(core, row.attachment_id, row.session_id) as held:
        found = await core.row(row.session_id) if held else None
        if found is None or found.attachment_id != row.attachment_id or not is_unfinished(found):
            return None  # another one is at it, or was there in between
        reason = await core.read(lambda s: _take_over(s, found))
        return await _end(core, found, reason) if reason is not None else None  # else it has renewed its lease


def _take_over(store: Store, held: SessionRow | Writer) -> CloseReason | None:
    """How the owner lost a session: from now on it can say nothing of it any more. None where it still has it."""
    if owner_gone(held):
        return CloseReason.OWNER_DIED
    if held.writer is not None and isinstance(store, Leases) and (stands := store.lease(held.writer)) is not None:
        if stands.lease_seconds is not None:
            return CloseReason.LEASE_LOST if store.fence(held.writer) else None
        return CloseReason.OWNER_DIED if long_silent(stands) else None
    return CloseReason.OWNER_DIED


@contextlib.asynccontextmanager
async def _claim(core: ClientCore, what: str, session_id: str | None = None) -> AsyncIterator[bool]:
    """Hold the claim on what was left behind; False where another one does."""
    await core.journal.present()
    me, writer, name = core.supervisor.owner, core.journal.writer, uuid.uuid4().hex
    claim = me.claim(_REAPING, what, attachment_id=name, session_id=session_id, writer=writer)
    with core.journal.lease.kept(name):
        try:
            yield await core.read(lambda s: _hold(s, claim))
        finally:  # also when it was given up while the store took the claim; one of another is left alone
            await core.read(lambda s: s.unclaim(claim))


def _hold(store: Store, claim: Claim) -> bool:
    """Take the claim, also from a reaper that has lost it itself."""
    held = store.claim(claim)
    if held is not None and is_void(store, held):
        held = store.claim(claim, replacing=held.attachment_id)
    return held is None


async def _end(core: ClientCore, row: SessionRow, reason: CloseReason) -> SessionStatus:
    """Release what the session left, and record its end.

    A service is asked from anywhere. What is on another machine, or of a process that is only stopped, can't be reached
    from here: it ended with the lease (`lifecycle.ports.Host.follow_lease`), or is nothing but the process.
    """
    clock = core.clock
    began = clock.monotonic()
    trouble: BackendError | None = None
    anywhere = isinstance(core.adapter, Directory)
    if isinstance(core.adapter, Reaper) and (anywhere or await core.run_blocking(owner_gone, row)):
        budget = STEPS[Step.RELEASE_BACKEND].budget
        try:
            await within(clock, budget, core.adapter.reap(row.session_id, row.facts))
        except BackendError as e:
            trouble = e
        except StepTimeout:
            trouble = ReleaseFailed(f"not within {budget:g} seconds", session_id=row.session_id)
    over = _over(core, row, reason, trouble)
    if over.state is row.state and not over.released:
        return SessionStatus.of_row(over, clock.utcnow())  # all of it is in the log already
    mine = await _told(core, row.attachment_id)
    step = StepResult(
        step=Step.RELEASE_BACKEND,
        outcome=StepOutcome.FAILED if trouble is not None else StepOutcome.DONE,
        ms=ms_since(clock, began),
        error=type(trouble).__name__ if trouble is not None else None,
    )
    record = core.journal.record(
        **_open_end(mine),
        attachment_id=row.attachment_id,
        session_id=row.session_id,
        adapter=row.adapter,
        # Of one that began without the store nothing is in the log but what was said late.
        source=row.state if mine or row.state.terminal else State.NOT_STARTED,
        close_reason=over.close_reason,
        error=step.error,
        steps=(step,),
        labels=dict(row.labels),
    )
    await core.journal.append(record, row=over)
    core.publish(record)  # of an attachment that no client holds, so nobody else does
    return SessionStatus.of_row(over, core.clock.utcnow())


async def _end_attachment(core: ClientCore, attachment_id: str, writer: Writer) -> None:
    """Record the end of an attachment that has no session of its own."""
    async with _claim(core, attachment_id) as held:
        told = await _told(core, attachment_id) if held else []
        if not told or any(r.terminal for r in told):
            return  # another one is at it, or was there in between
        if (reason := await core.read(lambda s: _take_over(s, writer))) is None:
            return  # it has renewed its lease
        last = told[-1]
        record = core.journal.record(
            **_open_end(told),
            attachment_id=attachment_id,
            session_id=last.session_id,
            adapter=last.adapter,
            source=_reached(told),
            close_reason=reason,
            labels=dict(last.labels),
        )
        await core.journal.append(record)
        core.publish(record)


async def _told(core: ClientCore, attachment_id: str) -> list[Record]:
    return [record for _, record in await core.read(lambda s: s.records(attachment_id=attachment_id))]


def _open_end(told: Sequence[Record]) -> dict[str, Any]:
    """What the record that ends an attachment has to say of what its own records leave open."""
    last = told[-1] if told else None
    in_flight = InFlight.NOTHING
    if last is not None and last.kind is RecordKind.INTENT:
        in_flight = InFlight(last.event) if last.opens else InFlight.ENDING
    return {
        "kind": RecordKind.RECOVERED,
        "attachment_seq": last.attachment_seq + 1 if last is not None else 1,
        "event": Event.FAIL,
        "dest": State.ERROR,
        "in_flight": in_flight,
        "cause": "reaper",
        "thread": "supervisor",
        "principal": last.principal if last is not None else None,
    }


def _reached(told: Sequence[Record]) -> State:
    """The state that the commits of an attachment lead to."""
    return next((r.dest for r in reversed(told) if r.kind is RecordKind.COMMIT), State.NOT_STARTED)


def _over(core: ClientCore, row: SessionRow, reason: CloseReason | None, trouble: BackendError | None) -> SessionRow:
    """The row of a session that its owner has lost, once somebody has looked after it."""
    reason = reason or CloseReason.OWNER_DIED
    left = f"; what it left may still be there: {trouble}" if trouble is not None else ""
    first = not row.state.terminal
    return dataclasses.replace(
        row,
        state=State.ERROR,
        released=trouble is None,
        closed_at=core.clock.utcnow() if first else row.closed_at,
        close_reason=reason if first else row.close_reason,
        error=f"{owner_ended(row, reason)}{left}" if first else row.error,
        control=None,
    )


# --- what was spilled ---------------------------------------------------------------------------------------------


async def _take_in(core: ClientCore) -> set[tuple[object, ...]]:
    """Write what processes could not write to this store before they ended.

    Returns:
        Those of which another reaper is writing it: what they left looks worse than it is.
    """
    busy = set()
    for path in await core.supervisor.run_blocking(kept):
        try:
            spilled = await core.supervisor.run_blocking(read, path)
            ours = spilled.store == core.journal.store.url and spilled.store != _NOBODY_ELSES
            if ours and owner_gone(spilled.writer) and not await _write_late(core, path, spilled):
                busy.add(_who(spilled.writer))
        except FileNotFoundError:
            continue  # another reaper has taken it in
        except (OSError, ValueError, StoreError) as e:  # it is left where it is, for who can do something about it
            core.supervisor.log_event("lifecycle.rescue_file_left", path=str(path), error=type(e).__name__)
    return busy


async def _write_late(core: ClientCore, path: Path, spilled: Spilled) -> bool:
    """Write it and remove the file; False where another one is at it."""
    async with _claim(core, spilled.writer.writer) as held:
        if not held:
            return False
        if not await core.supervisor.run_blocking(path.exists):
            return True  # another one was there in between
        late = Counter(r.attachment_id for r in spilled.records)
        told = {(r.writer, r.writer_seq) for a in late for r in await _told(core, a)}  # it may have ended before it
        records = [r for r in spilled.records if (r.writer, r.writer_seq) not in told]  # could remove its file
        if records:
            await core.journal.announce(sorted({r.writer for r in records}))
            try:
                await core.read(lambda s: s.write(records, spilled.rows))
            except LeaseLost:
                await _write_stale(core, records, spilled.rows)
                late.clear()
            for attachment_id, number in late.items():
                last = (await _told(core, attachment_id))[-1]
                await core.journal.append(core.journal.late(last, number, attachment_seq=last.attachment_seq + 1))
        if spilled.torn:
            core.supervisor.log_event("lifecycle.rescue_file_left", path=str(path), error="torn")
        else:
            await core.supervisor.run_blocking(path.unlink)
    return True


async def _write_stale(core: ClientCore, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
    """Write what a process could not say while it had its lease: it changes nothing that was decided meanwhile.

    A session that nobody knew of is known from now on, and reaped like any other.
    """
    numbers: Counter[str] = Counter()
    kept: dict[str, SessionRow] = {row.session_id: row for row in rows}
    for row in await core.read(lambda s: [s.session(session_id) for session_id in kept]):
        if row is not None:
            del kept[row.session_id]
    stated = []
    for record in records:
        numbers[about(record)] += 1
        stated.append(core.journal.stale(record, numbers[about(record)]))
    written = [core.journal.append(record) for record in stated]
    written += [core.journal.append(row=row) for row in kept.values()]
    for done in written:
        with contextlib.suppress(LeaseLost):  # which each of them says, once it is written
            await done
