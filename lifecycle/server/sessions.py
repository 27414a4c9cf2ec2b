"""The routes of the session API.

Rule: a route reads the request, asks `Hosting`, and answers. Routes that operate on pages are a router of their own,
put beside this one by `lifecycle.server.app`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import httpx
from fastapi import APIRouter, Body, Header, Path, Query, Request
from starlette.exceptions import HTTPException

from lifecycle.config import check_labels
from lifecycle.errors import ConfigError, CookieRejected
from lifecycle.server.hosting import Hosting
from lifecycle.server.models import (
    Cookies,
    CookiesAsked,
    CookiesSet,
    DebugAnswer,
    Problem,
    Readiness,
    SessionAnswer,
    SessionPage,
    Sockets,
    StartRequest,
    TabAnswer,
    TabFacts,
    wire_cookie,
)
from lifecycle.server.relay import Relay, public_address
from lifecycle.states import State

__all__ = ["PROBLEMS", "SessionId", "hosting_of", "page_url", "router"]

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Problem, "description": "The request can't be read."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    403: {"model": Problem, "description": "The Host or the Origin is not this server's."},
    404: {"model": Problem, "description": "There is no such session."},
    409: {"model": Problem, "description": "It can't be done with this session or adapter."},
    410: {"model": Problem, "description": "The session is over."},
    413: {"model": Problem, "description": "The body is too long."},
    422: {"model": Problem, "description": "A field is not allowed; `detail` names it."},
    502: {"model": Problem, "description": "The browser failed."},
    503: {"model": Problem, "description": "There is no room now, or nothing can be recorded."},
}

router: Final = APIRouter(prefix="/sessions", tags=["sessions"], responses=PROBLEMS)

SessionId = Annotated[str, Path(max_length=200, description="The session's id.")]


def hosting_of(request: Request) -> Hosting:
    """The sessions of the server that a request came to."""
    found: Hosting = request.app.state.hosting
    return found


def page_url(request: Request, session_id: str) -> str:
    """The page of a session, at the name that the request was sent to, or the one that clients are told."""
    path = request.app.url_path_for("session_page", session_id=session_id)
    relay: Relay | None = request.app.state.relay
    return str(path.make_absolute_url(relay.base(request.url) if relay is not None else request.base_url))


def _answer(request: Request, status: Any, *, created: bool | None = None) -> SessionAnswer:  # noqa: ANN401 - a status
    answer = hosting_of(request).answer(status, created=created)
    if not status.status.terminal:
        view = answer.viewer_url
        answer.cdp_url = public_address(request, answer.cdp_url) if answer.cdp_url is not None else None
        answer.viewer_url = (
            page_url(request, status.session_id or "") if view is None else public_address(request, view)
        )
    return answer


@router.post("/start")
async def start_session(
    request: Request,
    asked: Annotated[StartRequest | None, Body()] = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    name: Annotated[str | None, Header(alias="X-Lifecycle-Name", max_length=200)] = None,
    labels: Annotated[str | None, Header(alias="X-Lifecycle-Labels", max_length=8000)] = None,
) -> SessionAnswer:
    """Start a session. With an `Idempotency-Key`, the one that lives with this key, if there is one.

    `X-Lifecycle-Name` names the session, `X-Lifecycle-Labels` labels it by a JSON object of texts.
    """
    hosted, created = await hosting_of(request).start(
        asked or StartRequest(), key=_utf8(key, "Idempotency-Key"), name=_utf8(name, "X-Lifecycle-Name"),
        labels=_labels(_utf8(labels, "X-Lifecycle-Labels")),
    )  # fmt: skip
    return _answer(request, await hosted.session.status(), created=created)


def _utf8(text: str | None, header: str) -> str | None:
    """The text of a header, which servers read byte by byte."""
    try:
        return text.encode("latin-1").decode() if text is not None else None
    except UnicodeError:
        raise ConfigError(option=header, value="(bytes)", allowed="UTF-8") from None


def _labels(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(option="X-Lifecycle-Labels", value="(not JSON)", allowed="a JSON object of texts") from None
    return dict(check_labels("X-Lifecycle-Labels", given))


@router.get("/")
async def list_sessions(
    request: Request,
    *,
    only_active: Annotated[
        bool, Query(description="Only those that are active, unless status= says otherwise.")
    ] = True,
    status: Annotated[State | None, Query(description="Only those in this state.")] = None,
    label: Annotated[list[str] | None, Query(description="Only those with this key=value; repeat it for more.")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
) -> SessionPage:
    """List sessions, newest first: of this server, and of all that share its store."""
    wanted = status if status is not None else State.ACTIVE if only_active else None
    labels = _label_filter(label or [])
    hosting, offset = hosting_of(request), (page - 1) * page_size
    # Those whose owner has died are stored as active and left out here, so a page may be short and not the last.
    found = await hosting.client.sessions.list(status=wanted, label=labels, limit=page_size, offset=offset)
    rest = await hosting.client.sessions.list(status=wanted, label=labels, limit=100, offset=offset + page_size)
    items = [_answer(request, status) for status in found]
    return SessionPage(items=items, page=page, page_size=page_size, has_next=bool(rest), has_previous=page > 1)


def _label_filter(given: list[str]) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in given]
    if any(not key or not sign for key, sign, _ in pairs):
        raise ConfigError(option="label", value="(given)", allowed="key=value")
    return dict(check_labels("label", {key: value for key, _, value in pairs})) or None


@router.get("/{session_id}")
async def get_session(request: Request, session_id: SessionId) -> SessionAnswer:
    """How a session stands. Does not count as use of it."""
    return _answer(request, await hosting_of(request).status(session_id))


@router.get("/{session_id}/auth")
async def auth_readiness(request: Request, session_id: SessionId) -> Readiness:
    """Whether a session is ready to be used."""
    status = await hosting_of(request).status(session_id)
    words: dict[State, Literal["authenticating", "active", "failed", "closed"]] = {
        State.NOT_STARTED: "authenticating", State.ACTIVE: "active", State.ERROR: "failed",
    }  # fmt: skip
    return Readiness(session_id=session_id, status=words.get(status.status, "closed"), error=status.error)


@router.delete("/{session_id}/stop")
async def stop_session(
    request: Request,
    session_id: SessionId,
    close_reason: Annotated[Literal["manual", "error"], Query(description="Why the client stops it.")] = "manual",
) -> SessionAnswer:
    """Stop a session. Idempotent: one that is over is told as it stands."""
    return _answer(request, await hosting_of(request).stop(session_id, close_reason))


@router.get("/{session_id}/cookies")
async def get_cookies(request: Request, session_id: SessionId) -> Cookies:
    """The cookies of the session's default context."""
    async with hosting_of(request).attached(session_id) as session:
        return Cookies(cookies=[wire_cookie(cookie) for cookie in await session.get_cookies()])


@router.post("/{session_id}/cookies")
async def set_cookies(request: Request, session_id: SessionId, asked: CookiesAsked) -> CookiesSet:
    """Set cookies. One that the browser refuses keeps no other out, and is named in the answer."""
    given = [cookie.model_dump() for cookie in asked.cookies]
    async with hosting_of(request).attached(session_id) as session:
        try:
            await session.set_cookies(cookies=given)
        except CookieRejected as e:
            return CookiesSet(success=False, message=str(e), rejected=list(e.names))
    return CookiesSet(success=True, message=f"{len(given)} cookie(s) set")


@router.get("/{session_id}/debug")
async def debug_info(request: Request, session_id: SessionId) -> DebugAnswer:
    """How to reach the session's browser: its WebSocket for CDP, and its tabs."""
    cdp_url = await _cdp_url(request, session_id)
    page = page_url(request, session_id)
    told = public_address(request, cdp_url)
    return DebugAnswer(debug_url=page, ws=Sockets(cdp=told), tabs=await _tabs(cdp_url, told, page))


@router.get("/{session_id}/debug/tab")
async def debug_tab(
    request: Request, session_id: SessionId, tab_idx: Annotated[int, Query(ge=0, le=10_000)] = 0
) -> TabAnswer:
    """One tab of the session's browser, counted from 0."""
    cdp_url = await _cdp_url(request, session_id)
    told = public_address(request, cdp_url)
    tabs = await _tabs(cdp_url, told, page_url(request, session_id))
    if tab_idx >= len(tabs):
        raise HTTPException(404, f"there is no tab {tab_idx}: the browser has {len(tabs)}")
    return tabs[tab_idx]


@router.get("/{session_id}/replay")
async def replay(request: Request, session_id: SessionId) -> Problem:
    """Nothing is recorded here: always an error, so that no client waits for a recording."""
    await hosting_of(request).status(session_id)
    raise HTTPException(409, "this server records no video; the transition log of the session is on its page")


async def _cdp_url(request: Request, session_id: str) -> str:
    async with hosting_of(request).attached(session_id) as session:
        return await session.cdp_url()


async def _tabs(cdp_url: str, told: str, page: str) -> list[TabAnswer]:
    """The tabs, as the browser's gateway lists them."""
    base, _, secret = cdp_url.replace("ws://", "http://", 1).rpartition("/")
    # In a header, not in the URL, which httpx logs.
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
        answer = await http.get(f"{base}/json/list", headers={"Authorization": f"Bearer {secret}"})
    if answer.status_code != 200:
        return []
    return [
        TabAnswer(
            metadata=TabFacts(tab_id=number, title=tab.get("title", ""), url=tab.get("url", "")),
            debug_url=page,
            ws_url=f"{told}/devtools/page/{tab['id']}",
        )
        for number, tab in enumerate(tab for tab in answer.json() if tab.get("type") == "page")
    ]
