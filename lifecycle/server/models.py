"""The shapes of the wire, as requests are checked and answers are described.

Rule: the fields are those of the session API that ``notte-sdk`` 1.10.0 speaks; what is ours beside them is said to be
so. Minutes are whole on the wire: asked for as any number, told rounded up. Durations are ISO 8601. No answer but an
error has a key ``detail``, which is how clients tell the two apart.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from lifecycle.attachment import SessionStatus
from lifecycle.config import MAX_MINUTES
from lifecycle.cookies import Cookie, CookieDict, parse_cookie
from lifecycle.states import CloseReason, State

__all__ = [
    "Cookies",
    "CookiesAsked",
    "CookiesSet",
    "DebugAnswer",
    "Health",
    "Problem",
    "Readiness",
    "Ready",
    "SessionAnswer",
    "SessionPage",
    "Sockets",
    "StartRequest",
    "TabAnswer",
    "TabFacts",
    "WireCloseReason",
    "session_fields",
    "wire_cookie",
]

WireStatus = Literal["active", "authenticating", "closed", "error", "timed_out"]
WireCloseReason = Literal["manual", "idle_timeout", "max_duration", "error", "unknown"]
Minutes = Annotated[float, Field(gt=0, le=MAX_MINUTES)]


class ExternalProxy(BaseModel):
    """A proxy of the caller's own."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    type: Literal["external"] = "external"
    server: str = Field(description="scheme://host:port")
    username: str | None = None
    password: str | None = None
    bypass: str | None = None


class HostedProxy(BaseModel):
    """A proxy that a hosted service would provide; refused here."""

    model_config = ConfigDict(extra="allow")

    type: Literal["notte", "tailnet"]


class StartRequest(BaseModel):
    """What a new session should be like; ``{}`` for the defaults.

    What clients send by themselves and this server can't do (captchas, hosted proxies, ad blocking) is accepted, and
    the answer tells in `not_done`; what somebody must have asked for and would miss is refused by name.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    idle_timeout_minutes: Minutes | None = Field(
        default=None, description="End it after so many minutes without use; 3."
    )
    timeout_minutes: Minutes | None = Field(default=None, description="Another name for idle_timeout_minutes.")
    max_duration_minutes: Minutes | None = Field(
        default=None, description="End it after so many minutes in any case; 15."
    )
    viewport_width: int | None = Field(default=None, ge=1, le=10_000, description="CSS pixels, given with the height.")
    viewport_height: int | None = Field(default=None, ge=1, le=10_000, description="CSS pixels, given with the width.")
    user_agent: str | None = None
    proxies: bool | Annotated[list[ExternalProxy | HostedProxy], Field(max_length=10)] = Field(
        default=True, description="At most one proxy of type external; true is answered with proxies: false."
    )
    chrome_args: Annotated[list[str], Field(max_length=100)] | None = Field(
        default=None, description="Switches for Chromium, where the server allows them."
    )
    browser_type: Literal["chromium", "chrome", "chrome-nightly", "chrome-turbo"] = "chromium"
    headless: bool = Field(default=True, description="Browsers have no window here; watch one at its viewer_url.")
    solve_captchas: bool = True
    block_ads: bool = True
    advanced_stealth: bool = False
    web_bot_auth: bool = False
    demonstrate: bool = False
    aspect_ratio: Literal["5:4", "16:9"] | None = None
    screenshot_type: Literal["raw", "full", "last_action"] = "last_action"
    wait_for_authentication: bool = True
    auth_retry: int = Field(default=0, ge=0, le=2)
    auth_ids: Annotated[list[str], Field(max_length=10)] | None = Field(default=None, description="Refused.")
    vault_id: str | None = Field(default=None, description="Refused.")
    profile: dict[str, Any] | None = Field(default=None, description="Refused.")
    cdp_url: str | None = Field(default=None, description="Refused.")
    extra_http_headers: dict[str, str] | None = Field(default=None, description="Refused.")


class SessionAnswer(BaseModel):
    """A session as it stands."""

    session_id: str
    status: WireStatus
    idle_timeout_minutes: int
    timeout_minutes: int
    max_duration_minutes: int
    created_at: datetime
    last_accessed_at: datetime
    closed_at: datetime | None
    duration: str
    close_reason: WireCloseReason | None
    error: str | None
    steps: list[dict[str, Any]] = []
    proxies: bool = False
    browser_type: Literal["chromium"] = "chromium"
    network_request_bytes: int = 0
    network_response_bytes: int = 0
    user_agent: str | None = None
    viewport_width: int | None = None
    viewport_height: int | None = None
    solve_captchas: bool = False
    cdp_url: str | None = Field(default=None, description="A secret: a WebSocket that drives the browser.")
    viewer_url: str | None = None
    web_bot_auth: bool = False
    auth_ids: list[str] = []
    system_hidden: bool = False
    # Ours, beside the fields of the API.
    reason: str | None = Field(default=None, description="The close reason in this project's own words.")
    expires_at: datetime | None = None
    adapter: str
    name: str | None = None
    labels: dict[str, str] = {}
    idempotency_key: str | None = None
    created: bool | None = Field(default=None, description="On a start: false when the session was there already.")
    not_done: list[str] = Field(default=[], description="What was asked for and is not done.")


class SessionPage(BaseModel):
    """One page of a list, newest first."""

    items: list[SessionAnswer]
    page: int
    page_size: int
    has_next: bool
    has_previous: bool


class Readiness(BaseModel):
    """Whether a session is ready; there is no login to wait for here."""

    session_id: str
    status: Literal["authenticating", "active", "failed", "closed"]
    operations: list[dict[str, Any]] = []
    error: str | None = None


class AskedCookie(BaseModel):
    """A cookie to set; further fields of Playwright's and of browser extensions are read too."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    name: str
    value: str
    domain: str
    path: str = "/"


class CookiesAsked(BaseModel):
    """Cookies to set."""

    model_config = ConfigDict(hide_input_in_errors=True)

    cookies: list[AskedCookie]


class CookiesSet(BaseModel):
    """What became of them. Those that are not in `rejected` were set."""

    success: bool
    message: str
    rejected: list[str] = Field(default=[], description="Names of cookies that the browser did not take.")


class Cookies(BaseModel):
    """The cookies of the session's default context."""

    cookies: list[dict[str, Any]]


class Sockets(BaseModel):
    """WebSockets of a session; one that there is none of is an empty text."""

    cdp: str
    recording: str = ""
    logs: str = ""


class TabFacts(BaseModel):
    """One tab."""

    tab_id: int
    title: str
    url: str


class TabAnswer(BaseModel):
    """One tab, and how to reach it."""

    metadata: TabFacts
    debug_url: str
    ws_url: str


class DebugAnswer(BaseModel):
    """How to reach a session's browser."""

    debug_url: str
    ws: Sockets
    tabs: list[TabAnswer]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The server starts sessions."""

    status: Literal["ready"] = "ready"


class Problem(BaseModel):
    """Any error. `detail` is a text, or a list of faults that each name a field in `loc`."""

    detail: str | list[dict[str, Any]]
    status: int
    message: str
    error: str
    close_reason: str | None = None


# --- from our words to the wire's ---------------------------------------------------------------------------------

_STATUSES: Final[dict[State, WireStatus]] = {
    State.NOT_STARTED: "authenticating",  # the wire's only word for a session that is not ready yet
    State.ACTIVE: "active",
    State.CLOSED: "closed",
    State.ERROR: "error",
    State.TIMED_OUT: "timed_out",
}

_REASONS: Final[dict[CloseReason, WireCloseReason]] = {
    CloseReason.MANUAL: "manual",
    CloseReason.DETACHED: "manual",
    CloseReason.ABANDONED: "manual",
    CloseReason.IDLE_TIMEOUT: "idle_timeout",
    CloseReason.MAX_DURATION: "max_duration",
    CloseReason.START_TIMEOUT: "error",
    CloseReason.BACKEND: "error",
    CloseReason.CRASH: "error",
    CloseReason.OWNER_DIED: "error",
}


def _status_of(state: State) -> WireStatus:
    """The wire's word for a state."""
    return _STATUSES[state]


def _close_reason_of(reason: CloseReason | None, *, over: bool) -> WireCloseReason | None:
    """The wire's word for a close reason; None while the session is not over."""
    if not over:
        return None
    return _REASONS.get(reason, "unknown") if reason is not None else "unknown"


def _iso_duration(span: timedelta) -> str:
    """A length of time in ISO 8601, such as ``PT83.25S``."""
    return f"PT{span.total_seconds():.6f}".rstrip("0").rstrip(".") + "S"


def session_fields(status: SessionStatus) -> dict[str, Any]:
    """What a status tells, by the wire's names."""
    return {
        "session_id": status.session_id or "",
        "status": _status_of(status.status),
        "idle_timeout_minutes": math.ceil(status.timeout_minutes),
        "timeout_minutes": math.ceil(status.timeout_minutes),
        "max_duration_minutes": math.ceil(status.max_duration_minutes),
        "created_at": status.created_at,
        "last_accessed_at": status.last_accessed_at,
        "closed_at": status.closed_at,
        "duration": _iso_duration(status.duration),
        "close_reason": _close_reason_of(status.close_reason, over=status.status.terminal),
        "error": status.error,
        "reason": str(status.close_reason) if status.close_reason is not None else None,
        "expires_at": status.expires_at,
        "adapter": status.adapter,
        "name": status.name,
        "labels": dict(status.labels),
    }


def wire_cookie(given: CookieDict) -> dict[str, Any]:
    """A cookie as the wire writes it, from Playwright's form."""
    cookie: Cookie = parse_cookie(given)
    return {
        "name": cookie.name,
        "value": cookie.value,
        "domain": cookie.domain,
        "path": cookie.path,
        "httpOnly": cookie.http_only,
        "expirationDate": None if cookie.session else cookie.expires,
        "hostOnly": not cookie.domain.startswith("."),
        "sameSite": cookie.same_site,
        "secure": cookie.secure,
        "session": cookie.session,
        "storeId": None,
        "expires": cookie.expires,
        "partitionKey": cookie.partition_key,
    }
