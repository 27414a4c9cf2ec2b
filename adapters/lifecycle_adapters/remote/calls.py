"""The calls of the session API, each with what its answer means.

Rule: a stop is right by status, never by the words of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

from lifecycle.errors import BackendError, ReleaseFailed, RemoteRejected
from lifecycle_adapters.remote.wire import WireSession, end_of, parse_session

if TYPE_CHECKING:
    from lifecycle_adapters.remote.client import Service

__all__ = ["get", "list_page", "path_of", "stop"]

_LOOK: Final = frozenset({*range(200, 300), 404, 409})
"""Statuses of a stop after which the session itself says how it stands."""

MOST_ON_A_PAGE: Final = 100
"""Largest `page_size` of the wire."""


def path_of(session_id: str, rest: str = "") -> str:
    """The path of a session; an id is one segment of it, whatever it holds."""
    return f"/sessions/{quote(session_id, safe='')}{rest}"


async def get(service: Service, session_id: str, *, once: bool = False) -> WireSession | None:
    """``GET /sessions/{id}``: the session, None when the service does not know it.

    Raises:
        BackendError: It can't be told.
    """
    if not session_id.strip("."):  # a path that means another place
        return None
    try:
        data = await service.ask("GET", path_of(session_id), what="asking for the session", once=once)
    except RemoteRejected as e:
        if e.status == 404:
            return None
        raise
    return parse_session(data)


async def list_page(
    service: Service, *, only_active: bool, page: int = 1, page_size: int = MOST_ON_A_PAGE
) -> tuple[list[WireSession], bool]:
    """``GET /sessions/``: one page, and whether there is another.

    Raises:
        BackendError: It can't be told.
    """
    params = {"only_active": str(only_active), "page": str(page), "page_size": str(page_size)}
    data = await service.ask("GET", "/sessions/", what="listing sessions", params=params)
    told = cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else {}
    items = told.get("items")
    if not isinstance(items, list):
        raise RemoteRejected("listing sessions: the answer holds no list of items; is base_url that of a session API?")
    return [parse_session(item) for item in items], told.get("has_next") is True


async def stop(service: Service, session_id: str, *, error: bool = False) -> None:
    """``DELETE /sessions/{id}/stop``. Done when the service says so, or that the session is over or unknown.

    Raises:
        ReleaseFailed: It may still run.
    """
    what, reason = "stopping the session", "error" if error else "manual"
    try:
        await service.ask("DELETE", path_of(session_id, "/stop"), what=what, params={"close_reason": reason})
    except BackendError as e:
        # A 2xx comes here when its body is not the service's: somebody else may have answered.
        if isinstance(e, RemoteRejected) and e.status in _LOOK and await _over(service, session_id):
            return
        msg = f"session {session_id} could not be stopped, it may still run: {e}"
        raise ReleaseFailed(msg, session_id=session_id) from e


async def _over(service: Service, session_id: str) -> bool:
    try:
        found = await get(service, session_id)
    except BackendError:
        return False  # nothing is known, so nothing is claimed
    return found is None or end_of(found) is not None
