"""What becomes of sessions whose owner died without ending them.

Rule: an owner is known by pid, start time, boot and host together, never by its pid alone. Of owners on other hosts
nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifecycle.errors import StartFailed
from lifecycle.identity import same_process
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.ports import SessionRow

__all__ = ["how_it_stands", "owner_gone"]


def owner_gone(row: SessionRow) -> bool:
    """True when the session's owner has certainly ended. Blocks for a moment."""
    return same_process(row.owner_pid, row.owner_started, row.boot_id, row.host) is False


def how_it_stands(row: SessionRow) -> BackendEnd | None:
    """How a session ended, None when it can be attached to. Blocks for a moment.

    Raises:
        StartFailed: It is not over, but can't be attached to now; says why.
    """
    if row.state.terminal:
        return BackendEnd(state=row.state, reason=row.close_reason or CloseReason.BACKEND, detail=row.error or "")
    if owner_gone(row):
        detail = f"the process that owned it ({row.owner_pid}) has ended"
        return BackendEnd(state=State.ERROR, reason=CloseReason.OWNER_DIED, detail=detail)
    if row.state is State.NOT_STARTED:
        msg = f"session {row.session_id} is still being started by process {row.owner_pid}; try again when it is active"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    if row.control is None:
        msg = f"session {row.session_id} has no control socket: its owner runs where there are none"
        raise StartFailed(msg, step="probe_backend", adapter=row.adapter)
    return None
