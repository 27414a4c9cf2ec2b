"""The routes that operate on pages: execute, observe, scrape.

Rule: what is asked is checked by `lifecycle.actions`, as for a caller of the library, and under the policy that the
application gave its client. An action that could not be done is an answer with ``success: false``, not an HTTP error.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Request

from lifecycle.server.sessions import PROBLEMS, SessionId, hosting_of

__all__ = ["router"]

router: Final = APIRouter(prefix="/sessions", tags=["pages"], responses=PROBLEMS)

Json = dict[str, Any]


@router.post("/{session_id}/page/execute")
async def execute(
    request: Request,
    session_id: SessionId,
    action: Annotated[Json, Body(description="`type`, such as `goto`, and the fields of the action.")],
    captcha_timeout_seconds: Annotated[float | None, Query(description="Taken and not used: none are solved.")] = None,
) -> Json:
    """Do one action on the session's current tab."""
    del captcha_timeout_seconds
    async with hosting_of(request).attached(session_id) as session:
        return (await session.execute(action, raise_on_failure=False)).to_json()


@router.post("/{session_id}/page/observe")
async def observe(request: Request, session_id: SessionId, options: Annotated[Json | None, Body()] = None) -> Json:
    """Look at the current tab: its address, its elements with ids for `execute`, and a screenshot."""
    async with hosting_of(request).attached(session_id) as session:
        return (await session.observe(**(options or {}))).to_json()


@router.post("/{session_id}/page/scrape")
async def scrape(request: Request, session_id: SessionId, options: Annotated[Json | None, Body()] = None) -> Json:
    """Read the current tab as Markdown."""
    async with hosting_of(request).attached(session_id) as session:
        return (await session.scrape(**(options or {}))).to_json()
