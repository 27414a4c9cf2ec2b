"""The wire of the session API: what is sent, and what the answers say.

Rule: no I/O. Fields that are not known are let pass; one that is needed and can't be read is a RemoteRejected that
names it. What the service says in words is shown short, on one line and without addresses, since those may hold
secrets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from lifecycle.cookies import Cookie, parse_cookies, sendable
from lifecycle.errors import ConfigError, RemoteRejected, UnsupportedOperation
from lifecycle.logs import get_logger
from lifecycle.ports import BackendEnd, KnownSession
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from lifecycle.config import SessionOptions

__all__ = ["WireSession", "check_options", "cookies_of", "end_of", "known", "parse_session", "plain", "start_body"]

MAX_IDLE: Final = 30
"""Longest idle timeout on the wire, in minutes (`idle_timeout_minutes` of the start request)."""

MAX_DURATION: Final = 1440
"""Longest duration on the wire, in minutes (`max_duration_minutes` of the start request)."""

LEAST_VIEWPORT: Final = 500
"""Smallest side of a viewport on the wire, in CSS pixels."""

_TEXT_CHARS: Final = 200
_ADDRESS: Final = re.compile(r"\b([a-z][a-z0-9+.-]*://)\S+", re.IGNORECASE)

_STATES: Final[Mapping[str, State]] = {
    "active": State.ACTIVE,
    "authenticating": State.ACTIVE,
    "closed": State.CLOSED,
    "error": State.ERROR,
    "timed_out": State.TIMED_OUT,
}

_DEADLINES: Final[Mapping[str | None, CloseReason]] = {
    "idle_timeout": CloseReason.IDLE_TIMEOUT,
    "max_duration": CloseReason.MAX_DURATION,
}

_log: Final = get_logger(__name__)


def plain(text: object) -> str:
    """Words of the service as a message may hold them."""
    line = " ".join(str(text).split())
    line = _ADDRESS.sub(r"\1...", line)
    return line if len(line) <= _TEXT_CHARS else line[:_TEXT_CHARS] + "..."


# --- what is sent -----------------------------------------------------------------------------------------------


def check_options(options: SessionOptions, adapter: str) -> None:
    """Refuse what the start request has no field for.

    Raises:
        ConfigError: A number is outside what the wire takes.
        UnsupportedOperation: The option has no place on the wire.
    """
    if options.session_id is None:
        for option, minutes, most in (
            ("timeout_minutes", options.timeout_minutes, MAX_IDLE),
            ("max_duration_minutes", options.max_duration_minutes, MAX_DURATION),
        ):
            if not 1 <= math.ceil(minutes) <= most:
                allowed = f"at most {most} minutes on the {adapter!r} adapter: its service takes no more"
                raise ConfigError(option=option, value=minutes, allowed=allowed)
        for option, pixels in (
            ("viewport_width", options.viewport_width),
            ("viewport_height", options.viewport_height),
        ):
            if pixels is not None and pixels < LEAST_VIEWPORT:
                allowed = f"at least {LEAST_VIEWPORT} CSS pixels on the {adapter!r} adapter: its service takes no less"
                raise ConfigError(option=option, value=pixels, allowed=allowed)
    if options.executable_path is not None:
        raise UnsupportedOperation(
            operation="executable_path",
            adapter=adapter,
            way_out='the service chooses the browser: leave it out, or use Client(adapter="local")',
        )
    if options.profile is not None:
        raise UnsupportedOperation(
            operation="profile",
            adapter=adapter,
            way_out='it is a folder on this machine: keep logins in cookie_file=, or use Client(adapter="local")',
        )
    if options.downloads_folder is not None:
        raise UnsupportedOperation(
            operation="downloads_folder",
            adapter=adapter,
            way_out="the browser downloads where the service runs: take them in a client, such as Playwright's "
            "page.expect_download()",
        )
    if options.cookie_scope == "all":
        raise UnsupportedOperation(
            operation='cookie_scope="all"',
            adapter=adapter,
            way_out='use cookie_scope="default": the service gives the cookies of the default context only',
        )


def start_body(options: SessionOptions) -> dict[str, Any]:
    """The body of ``POST /sessions/start``.

    Minutes are whole on the wire and rounded up; the finer ones are enforced here. `headless` has no field: every
    session of a service can be watched in its viewer.
    """
    body: dict[str, Any] = {
        "idle_timeout_minutes": math.ceil(options.timeout_minutes),
        "max_duration_minutes": math.ceil(options.max_duration_minutes),
        "proxies": False,  # the wire's own default is the service's proxies
    }
    if (proxy := options.proxy) is not None:
        told = {
            "type": "external",
            "server": proxy.server,
            "username": proxy.username,
            "password": proxy.password,
            "bypass": proxy.bypass,
        }
        body["proxies"] = [{key: value for key, value in told.items() if value is not None}]
    if options.user_agent is not None:
        body["user_agent"] = options.user_agent
    if options.chrome_args:
        body["chrome_args"] = list(options.chrome_args)
    if options.viewport_width is not None:
        body["viewport_width"] = options.viewport_width
        body["viewport_height"] = options.viewport_height
    return body


def to_wire(cookie: Cookie) -> dict[str, Any]:
    """A cookie as the bodies of ``/sessions/{id}/cookies`` hold it: the dialect of browser extensions."""
    out: dict[str, Any] = {
        "name": cookie.name,
        "value": cookie.value,
        "domain": cookie.domain,
        "path": cookie.path,
        "httpOnly": cookie.http_only,
        "secure": cookie.secure,
        "hostOnly": not cookie.domain.startswith("."),
        "session": cookie.session,
    }
    if not cookie.session:
        out["expirationDate"] = cookie.expires
    if cookie.same_site is not None:
        out["sameSite"] = cookie.same_site
    if cookie.partition_key is not None:
        out["partitionKey"] = cookie.partition_key
    return out


# --- what is answered -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WireSession:
    """A session as the service tells of it.

    Attributes:
        session_id: Its id.
        status: The word on the wire.
        created_at: UTC.
        last_accessed_at: UTC; moves with every use that the service sees.
        closed_at: UTC, None while it lives.
        idle_minutes: Its idle timeout.
        max_minutes: Its longest duration.
        close_reason: The word on the wire, or None.
        error: The service's words for what went wrong, cut to what may be shown.
        cdp_url: A secret, or None.
        viewer_url: A secret, or None.
        told: The whole answer.
    """

    session_id: str
    status: str
    created_at: datetime
    last_accessed_at: datetime
    closed_at: datetime | None
    idle_minutes: float
    max_minutes: float
    close_reason: str | None
    error: str | None
    cdp_url: str | None = field(repr=False)
    viewer_url: str | None = field(repr=False)
    told: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> str | None:
        """The Idempotency-Key it was created with, where the service tells it."""
        given = self.told.get("idempotency_key")
        return given if isinstance(given, str) else None

    def made_from(self, body: Mapping[str, Any]) -> bool:
        """True when what it tells of its options is what `body` asked for."""
        return all(
            self.told[name] == (bool(asked) if name == "proxies" else asked)
            for name, asked in body.items()
            if self.told.get(name) is not None
        )


def parse_session(data: object) -> WireSession:
    """Read a session out of an answer.

    Raises:
        RemoteRejected: A field that is needed is missing or is not what it should be; names it.
    """
    if not isinstance(data, Mapping):
        raise _unreadable("the session", "an object")
    told = cast("Mapping[str, Any]", data)
    session_id, status = told.get("session_id"), told.get("status")
    if not isinstance(session_id, str) or not session_id:
        raise _unreadable("session_id", "a non-empty text")
    if not isinstance(status, str):
        raise _unreadable("status", "a text")
    created = _time(told, "created_at")
    if created is None:
        raise _unreadable("created_at", "a time")
    reason, error = told.get("close_reason"), told.get("error")
    return WireSession(
        session_id=session_id,
        status=status,
        created_at=created,
        last_accessed_at=_time(told, "last_accessed_at") or created,
        closed_at=_time(told, "closed_at"),
        idle_minutes=_minutes(told, "idle_timeout_minutes", "timeout_minutes"),
        max_minutes=_minutes(told, "max_duration_minutes"),
        close_reason=reason if isinstance(reason, str) else None,
        error=plain(error) if isinstance(error, str) and error else None,
        cdp_url=_text(told, "cdp_url"),
        viewer_url=_text(told, "viewer_url"),
        told=told,
    )


def end_of(session: WireSession) -> BackendEnd | None:
    """How a session ended, None while it is active."""
    state, reason = _STATES.get(session.status), session.close_reason
    if state is State.ACTIVE:
        return None
    if state is None:
        word = plain(session.status)
        detail = f"the service gives the session the status {word!r}, which this version does not know"
        return BackendEnd(state=State.ERROR, reason=CloseReason.BACKEND, detail=detail)
    said = f"the service says {session.status}" + (f", {plain(reason)}" if reason else "")
    detail = said + (f": {session.error}" if session.error else "")
    if state is State.ERROR:
        return BackendEnd(state=state, reason=CloseReason.BACKEND, detail=detail)
    if state is State.TIMED_OUT or reason in _DEADLINES:
        return BackendEnd(state=State.TIMED_OUT, reason=_DEADLINES.get(reason) or _which(session), detail=detail)
    why = CloseReason.MANUAL if reason in {None, "manual"} else CloseReason.BACKEND
    return BackendEnd(state=state, reason=why, detail=detail)


def known(session: WireSession) -> KnownSession:
    """What the answer tells, in the words of this library."""
    end = end_of(session)
    return KnownSession(
        session_id=session.session_id,
        state=end.state if end is not None else State.ACTIVE,
        created_at=session.created_at,
        closed_at=session.closed_at,
        last_accessed_at=session.last_accessed_at,
        timeout_minutes=session.idle_minutes,
        max_duration_minutes=session.max_minutes,
        close_reason=end.reason if end is not None else None,
        error=end.detail if end is not None and end.state is State.ERROR else None,
    )


def cookies_of(data: object) -> list[Cookie]:
    """The cookies in an answer; those that can't be read are logged by name and left out.

    Raises:
        RemoteRejected: There is no list of cookies in it.
    """
    items = cast("Mapping[str, Any]", data).get("cookies") if isinstance(data, Mapping) else None
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise _unreadable("cookies", "a list")
    good, bad = parse_cookies(items)
    for name, reason in bad:
        _log.warning("cookie %s of the service can't be kept: %s", name, reason)
    return [cookie for cookie in good if sendable(cookie)]


def _unreadable(name: str, wanted: str) -> RemoteRejected:
    return RemoteRejected(
        f"the answer of the service can't be read: {name} is not {wanted}; is base_url that of a session API?"
    )


def _text(told: Mapping[str, Any], name: str) -> str | None:
    given = told.get(name)
    return given if isinstance(given, str) and given else None


def _time(told: Mapping[str, Any], name: str) -> datetime | None:
    given = told.get(name)
    if given is None:
        return None
    try:
        when = datetime.fromisoformat(given)
    except (TypeError, ValueError) as e:
        raise _unreadable(name, "a time in ISO 8601") from e
    return when.astimezone(UTC) if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _minutes(told: Mapping[str, Any], *names: str) -> float:
    for name in names:
        given = told.get(name)
        if isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given) and given > 0:
            return float(given)
    raise _unreadable(names[0], "a number of minutes")


def _which(session: WireSession) -> CloseReason:
    """The deadline that passed, where the service does not say: the one that was due at the end."""
    ended = session.closed_at or datetime.now(UTC)
    longest = session.created_at + timedelta(minutes=session.max_minutes)
    return CloseReason.MAX_DURATION if ended >= longest else CloseReason.IDLE_TIMEOUT
