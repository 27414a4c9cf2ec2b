"""The pages for people: the sessions, one session with its transition log, and the form that asks for the token.

Rule: everything that is shown is escaped, whoever gave it. No scripts: what a button does is a form of this origin, and
the guard has looked at where it came from.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response

from lifecycle.audit import RecordKind, StepOutcome
from lifecycle.errors import ConfigError, LifecycleError
from lifecycle.server.guard import COOKIE
from lifecycle.server.relay import public_address
from lifecycle.server.sessions import hosting_of
from lifecycle.states import State

if TYPE_CHECKING:
    from lifecycle.attachment import SessionStatus
    from lifecycle.audit import Record
    from lifecycle.server.guard import Keys

__all__ = ["router"]

PAGE: Final = 50
"""Sessions on one page."""

RECORDS: Final = 500
"""Records of a session that its page shows, the newest."""

REFRESH: Final = 5
"""Seconds after which a page that may have changed by itself is asked for again."""

router: Final = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
async def index(
    request: Request,
    status: Annotated[str | None, Query(max_length=20)] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """The sessions, newest first, or the form for the token."""
    if not request.state.signed_in:
        return _page("Sign in", _login_form(wrong=False), status=401)
    wanted = State(status) if status in list(State) else None
    found = await hosting_of(request).client.sessions.list(status=wanted, limit=PAGE + 1, offset=(page - 1) * PAGE)
    shown = found[:PAGE]
    rows = "".join(_row(s) for s in shown)
    tabs = "".join(_filter(name, wanted) for name in (None, State.ACTIVE, State.CLOSED, State.TIMED_OUT, State.ERROR))
    empty = "<p class=empty>No sessions here. Start one: <code>POST /sessions/start</code></p>"
    table = (
        "<table class=list><thead><tr><th>session<th>state<th>age<th>ends in<th>what<th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    kept = f"status={wanted}&amp;" if wanted is not None else ""
    turns = f'<a href="/?{kept}page={page - 1}">newer</a>' if page > 1 else ""
    turns += f'<a href="/?{kept}page={page + 1}">older</a>' if len(found) > PAGE else ""
    body = f"<nav class=tabs aria-label=States>{tabs}</nav><section>{table if shown else empty}</section>"
    body += f"<nav class=turns aria-label=Pages>{turns}</nav>" if turns else ""
    return _page("Sessions", body, refresh=page == 1, keys=_keys(request))


@router.post("/ui/login")
async def login(request: Request) -> Response:
    """Takes the token, and gives the browser a cookie that is not the token."""
    fields = parse_qs((await request.body()).decode("latin-1"), max_num_fields=10)
    keys = _keys(request)
    if not keys.fits(fields.get("token", [""])[0].strip().encode()):
        return _page("Sign in", _login_form(wrong=True), status=401)
    answer = RedirectResponse("/", 303)
    answer.set_cookie(COOKIE, keys.cookie, httponly=True, samesite="strict", path="/")
    return answer


@router.post("/ui/logout")
async def logout() -> Response:
    """Takes the cookie back."""
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/ui/sessions/{session_id}")
async def session_page(request: Request, session_id: Annotated[str, Path(max_length=200)]) -> Response:
    """One session: how it stands, and its transition log."""
    hosting = hosting_of(request)
    try:
        status = await hosting.status(session_id)
    except ConfigError:
        return _page("No such session", "<section><p class=empty>There is no session with this id.</p></section>", 404)
    hosted = hosting.find(session_id)
    view = hosted.session.viewer_url if hosted is not None and not status.status.terminal else None
    records = await _records(request, session_id)
    shown = public_address(request, view) if view is not None else None
    body = f"<section>{_facts(status, shown)}</section><section><h2>Transition log</h2>{_log(records)}</section>"
    title = status.name or "Session"
    return _page(title, body, refresh=not status.status.terminal, keys=_keys(request), chip=status.status)


@router.post("/ui/sessions/{session_id}/stop")
async def stop(request: Request, session_id: Annotated[str, Path(max_length=200)]) -> Response:
    """The stop button."""
    try:
        await hosting_of(request).stop(session_id, "manual")
    except LifecycleError as e:
        return _page("Not stopped", f"<section><p class=empty>{escape(str(e))}</p></section>", 502)
    return RedirectResponse(f"/ui/sessions/{quote(session_id, safe='')}", 303)


def _keys(request: Request) -> Keys:
    found: Keys = request.app.state.keys
    return found


async def _records(request: Request, session_id: str) -> Sequence[Record]:
    core = hosting_of(request).client._core  # noqa: SLF001 - the log of any session, which no handle has to be made for
    work = core.read(lambda store: store.records(session_id=session_id, limit=RECORDS, newest=True))
    return [record for _, record in await core.supervisor.acall(lambda _: work)]


# --- pieces -------------------------------------------------------------------------------------------------------


def _filter(state: State | None, wanted: State | None) -> str:
    href = f"/?status={state}" if state is not None else "/"
    current = " aria-current=page" if state is wanted else ""
    return f'<a href="{href}"{current}>{_word(state) if state is not None else "all"}</a>'


def _word(state: State) -> str:
    return state.replace("_", " ")


def _chip(state: State) -> str:
    return f'<span class="chip {state}">{_word(state)}</span>'


def _row(status: SessionStatus) -> str:
    link = f"/ui/sessions/{quote(status.session_id or '', safe='')}"
    labels = "".join(f"<span class=label>{escape(k)}={escape(v)}</span>" for k, v in sorted(status.labels.items()))
    what = f"<b>{escape(status.name)}</b> " if status.name else ""
    told = status.error or (status.close_reason.replace("_", " ") if status.close_reason else status.adapter)
    button = "" if status.status.terminal else f'<form method=post action="{link}/stop"><button>Stop</button></form>'
    return (
        f'<tr><td data-is=session><a class=mono href="{link}">{escape((status.session_id or "-")[:8])}</a>'
        f"<td data-is=state>{_chip(status.status)}<td data-is=age>{_span(_age(status))}"
        f'<td data-is="ends in">{_left(status)}<td class=wide data-is=what>{what}{labels}'
        f"<span class=quiet>{escape(told)}</span><td class=end>{button}"
    )


def _age(status: SessionStatus) -> timedelta:
    return datetime.now(UTC) - status.created_at


def _left(status: SessionStatus) -> str:
    if status.expires_at is None:
        return "<span class=quiet>-</span>"
    return _span(max(status.expires_at - datetime.now(UTC), timedelta()))


def _span(span: timedelta) -> str:
    seconds = max(int(span.total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} days"


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else ""


def _facts(status: SessionStatus, view: str | None) -> str:
    told: dict[str, str | None] = {
        "session": status.session_id,
        "adapter": status.adapter,
        "labels": ", ".join(f"{k}={v}" for k, v in sorted(status.labels.items())),
        "created": _time(status.created_at),
        "last used": _time(status.last_accessed_at),
        "closed": _time(status.closed_at),
        "reason": status.close_reason.replace("_", " ") if status.close_reason else None,
        "error": status.error,
        "duration": _span(status.duration),
        "limits": f"{status.timeout_minutes:g} min without use, {status.max_duration_minutes:g} min in all",
    }
    lines = "".join(f"<dt>{name}<dd>{escape(text)}" for name, text in told.items() if text)
    if status.expires_at is not None:
        lines += f"<dt>ends in<dd>{_left(status)}"
    buttons = ""
    if view is not None:
        buttons += f'<a class=button href="{escape(view)}">Watch it live</a>'
    if not status.status.terminal:
        link = f"/ui/sessions/{quote(status.session_id or '', safe='')}"
        buttons += f'<form method=post action="{link}/stop"><button>Stop the session</button></form>'
    return f"<dl>{lines}</dl>" + (f"<div class=buttons>{buttons}</div>" if buttons else "")


def _log(records: Sequence[Record]) -> str:
    if not records:
        return "<p class=empty>There are no records of it.</p>"
    head = "<thead><tr><th>time<th>record<th>event<th>transition<th>steps</tr></thead>"
    return f"<table class=log>{head}<tbody>{''.join(map(_record, records))}</tbody></table>"


def _record(record: Record) -> str:
    bad = " class=bad" if record.kind in (RecordKind.DIVERTED, RecordKind.REJECTED) or record.error else ""
    moved = record.source != record.dest
    path = f"{_word(record.source)} → {_word(record.dest)}" if moved else _word(record.source)
    why = f" <span class=quiet>{escape(record.close_reason.replace('_', ' '))}</span>" if record.close_reason else ""
    ran = [s for s in record.steps if s.outcome is not StepOutcome.SKIPPED]
    steps = ", ".join(_step(s.step, s.outcome, s.ms) for s in ran) or escape(record.error or "")
    return (
        f"<tr{bad}><td class=mono data-is=time>{record.at.strftime('%H:%M:%S.%f')[:-3]}<td data-is=record>{record.kind}"
        f"<td data-is=event>{record.event}<td data-is=transition>{path}{why}<td class=wide data-is=steps>{steps}"
    )


def _step(name: str, outcome: StepOutcome, ms: float) -> str:
    word = "" if outcome is StepOutcome.DONE else f" {outcome.replace('_', ' ')}"
    return f"<span class=step>{escape(name)}{word} <span class=quiet>{ms:.1f} ms</span></span>"


def _login_form(*, wrong: bool) -> str:
    told = "<p class=bad role=alert>That is not the token.</p>" if wrong else ""
    return (
        f"<section class=login><h2>Sign in</h2>{told}<form method=post action=/ui/login>"
        "<label for=token>Token, as <code>lifecycle serve</code> printed it</label>"
        "<input id=token name=token type=password autocomplete=current-password required autofocus>"
        "<button>Sign in</button></form></section>"
    )


def _page(
    title: str,
    body: str,
    status: int = 200,
    *,
    refresh: bool = False,
    keys: Keys | None = None,
    chip: State | None = None,
) -> HTMLResponse:
    """A whole page. `title` is escaped here, `body` is not."""
    nonce = secrets.token_urlsafe(16)
    style = resources.files("lifecycle.server").joinpath("pages.css").read_text(encoding="utf-8")
    again = f"<meta http-equiv=refresh content={REFRESH}>" if refresh else ""
    out = "<form method=post action=/ui/logout><button class=plain>Sign out</button></form>"
    chips = _chip(chip) if chip is not None else ""
    parts: Iterable[str] = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        again,
        f"<title>{escape(title)} - lifecycle</title><style nonce={nonce}>{style}</style></head><body>",
        f"<header><a class=home href=/>lifecycle</a><h1>{escape(title)}</h1>{chips}<span class=grow></span>",
        out if keys is not None and not keys.open else "",
        f"</header><main>{body}</main></body></html>",
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse("".join(parts), status, headers={"Content-Security-Policy": policy})
