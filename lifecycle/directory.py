"""Sessions by id where a service owns them: what it says now, with the name and labels that the ledger knows.

Rule: of its own sessions the service's word counts, and the ledger's only where the service knows nothing any more.
What this process owns is told by its own machine. All of it runs on the supervisor's loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from lifecycle.attachment import SessionStatus
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.core import ClientCore
    from lifecycle.ports import Directory, KnownSession, SessionRow

__all__ = ["get_known", "list_known", "told"]

BATCH: Final = 20
"""Rows that are looked at together, each with a question to the service."""


def told(known: KnownSession, row: SessionRow | None, adapter: str, now: datetime) -> SessionStatus:
    """What the service says, as a status."""
    idle = known.last_accessed_at + timedelta(minutes=known.timeout_minutes)
    longest = known.created_at + timedelta(minutes=known.max_duration_minutes)
    return SessionStatus(
        session_id=known.session_id,
        status=known.state,
        created_at=known.created_at,
        closed_at=known.closed_at,
        last_accessed_at=known.last_accessed_at,
        timeout_minutes=known.timeout_minutes,
        max_duration_minutes=known.max_duration_minutes,
        duration=max((known.closed_at or now) - known.created_at, timedelta()),
        expires_at=min(idle, longest) if known.state is State.ACTIVE else None,
        adapter=adapter,
        close_reason=known.close_reason,
        error=known.error,
        name=row.name if row is not None else None,
        labels=dict(row.labels) if row is not None else {},
    )


def _forgotten(row: SessionRow, now: datetime) -> SessionStatus:
    """The status of a row that says active, and of which the service knows nothing."""
    return dataclasses.replace(
        SessionStatus.of_row(row, now), status=State.ERROR, close_reason=CloseReason.BACKEND, expires_at=None,
        error="the service does not know the session any more",
    )  # fmt: skip


async def get_known(
    core: ClientCore, directory: Directory, session_id: str, row: SessionRow | None
) -> SessionStatus | None:
    """The status of a session that no machine of this process owns; None when nobody knows it.

    Raises:
        BackendError: The service can't tell.
    """
    known = await directory.get(session_id)
    if known is not None:
        return told(known, row, core.adapter.name, core.clock.utcnow())
    if row is None or row.state.terminal:
        return SessionStatus.of_row(row, core.clock.utcnow()) if row is not None else None
    return _forgotten(row, core.clock.utcnow())


async def list_known(
    core: ClientCore,
    directory: Directory,
    status: State | None,
    labels: Mapping[str, str] | None,
    limit: int,
    offset: int,
) -> list[SessionStatus]:
    """Statuses, newest first: the service's sessions, and those of the ledger that are not the service's.

    Raises:
        BackendError: The service can't tell.
    """
    if labels:
        return await _with_labels(core, directory, status, labels, limit, offset)
    wanted, now = offset + limit, core.clock.utcnow()
    seen: set[str] = set()
    found: list[KnownSession] = []
    whole = True
    async for known in directory.list(active=status is State.ACTIVE):
        if known.session_id not in seen and status in {None, known.state}:
            found.append(known)
        seen.add(known.session_id)
        if len(found) >= wanted:
            whole = False
            break
    rows = await core.read(lambda s: {k.session_id: s.session(k.session_id) for k in found})
    statuses = [
        core.own_status(k.session_id) or told(k, rows[k.session_id], core.adapter.name, now)
        for k in found
    ]  # fmt: skip
    at = 0
    added = 0
    while added < wanted:
        batch = await _rows(core, None, max(BATCH, wanted), at)
        for row in batch:
            if row.session_id in seen:
                continue
            stands = await core.as_it_stands(row)
            theirs = row.adapter == core.adapter.name and core.own_status(row.session_id) is None
            if theirs and stands.status is State.ACTIVE and whole:
                stands = _forgotten(row, now)
            if status in {None, stands.status}:
                statuses.append(stands)
                added += 1
        at += len(batch)
        if len(batch) < max(BATCH, wanted):
            break
    statuses = [s for s in statuses if status in {None, s.status}]
    return sorted(statuses, key=lambda s: s.created_at, reverse=True)[offset:wanted]


async def _with_labels(
    core: ClientCore,
    directory: Directory,
    status: State | None,
    labels: Mapping[str, str],
    limit: int,
    offset: int,
) -> list[SessionStatus]:
    """Only the ledger knows labels, so it is gone through, and the service asked for each that may be active."""

    async def stands(row: SessionRow) -> SessionStatus:
        theirs = row.adapter == core.adapter.name and core.own_status(row.session_id) is None
        if theirs and (not row.state.terminal or row.close_reason is CloseReason.DETACHED):
            told = await get_known(core, directory, row.session_id, row)
            assert told is not None  # noqa: S101 - there is a row
            return told
        return await core.as_it_stands(row)

    found: list[SessionStatus] = []
    at = 0
    while len(found) < offset + limit:
        batch = await _rows(core, labels, BATCH, at)
        found += [s for s in await asyncio.gather(*map(stands, batch)) if status in {None, s.status}]
        at += len(batch)
        if len(batch) < BATCH:
            break
    return found[offset : offset + limit]


async def _rows(core: ClientCore, labels: Mapping[str, str] | None, limit: int, offset: int) -> Sequence[SessionRow]:
    return await core.read(lambda s: s.sessions(labels=labels, limit=limit, offset=offset))
