"""The errors of the library.

    LifecycleError
     ├ UsageError
     │  ├ InvalidTransition     the event is not allowed in this state
     │  ├ GuardRejected         the edge exists, but its guard says no
     │  ├ UnsupportedOperation  this adapter can't do it; `way_out` names what can
     │  └ ConfigError           an option has a value that is not allowed
     ├ SessionEnded             an operation on a session that is over
     │  ├ SessionClosed
     │  ├ SessionTimedOut
     │  └ SessionFailed
     ├ BackendError
     │  ├ StartFailed
     │  ├ ReleaseFailed
     │  ├ CapacityError
     │  ├ AuthenticationError
     │  ├ RemoteRejected
     │  ├ ConnectionLost
     │  └ OperationFailed       an action on the page could not be done; the session goes on
     ├ CookieError
     │  ├ CookieFileError       the cookie file can't be read; names the line
     │  ├ CookieSaveError       the cookies could not be saved; names the rescue file
     │  └ CookieRejected        the browser or the format refused some cookies, by name
     ├ HookError
     └ AuditError
        ├ ChainBroken
        └ StoreError
           └ LeaseLost

Rule: attributes come first, the message is built from them and says what to do next. No message holds the value
of a cookie, a key, a token or a CDP path.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lifecycle.states import CloseReason, Event, Guard, State

__all__ = [
    "AuditError",
    "AuthenticationError",
    "BackendError",
    "CapacityError",
    "ChainBroken",
    "ConfigError",
    "ConnectionLost",
    "CookieError",
    "CookieFileError",
    "CookieRejected",
    "CookieSaveError",
    "GuardRejected",
    "HookError",
    "InvalidTransition",
    "LeaseLost",
    "LifecycleError",
    "OperationFailed",
    "ReleaseFailed",
    "RemoteRejected",
    "SessionClosed",
    "SessionEnded",
    "SessionFailed",
    "SessionTimedOut",
    "StartFailed",
    "StoreError",
    "UnsupportedOperation",
    "UsageError",
]


class LifecycleError(Exception):
    """Base of every error that this library raises on purpose. Can be copied and pickled, with its attributes."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args), dict(self.__dict__)


def _rebuild(kind: type[LifecycleError], args: tuple[object, ...]) -> LifecycleError:
    """An error without its `__init__`, which takes the attributes and not the message that was built from them."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class UsageError(LifecycleError):
    """The library was used in a way that can't work; the message names the way that can."""


class InvalidTransition(UsageError):  # noqa: N818 - a public name of the field
    """An event arrived in a state that has no edge for it.

    Attributes:
        state: The state the session is in.
        event: The event that was asked for.
        allowed: The events that this state does take.
    """

    def __init__(self, *, state: State, event: Event, allowed: Iterable[Event], hint: str = "") -> None:
        self.state = state
        self.event = event
        self.allowed = tuple(allowed)
        can = ", ".join(self.allowed) or "nothing: the state is final, make a new session"
        super().__init__(f"{event} is not allowed in state {state}; allowed: {can}" + (f". {hint}" if hint else ""))


class GuardRejected(UsageError):  # noqa: N818 - a public name of the field
    """The edge exists in this state, but one of its guards does not hold.

    Attributes:
        guard: The guard that said no.
        state: The state the session is in.
        event: The event that was asked for.
    """

    def __init__(self, *, guard: Guard, state: State, event: Event, hint: str = "") -> None:
        self.guard = guard
        self.state = state
        self.event = event
        super().__init__(
            f"{event} in state {state} was refused: its guard {str(guard)!r} does not hold"
            + (f". {hint}" if hint else "")
        )


class UnsupportedOperation(UsageError):  # noqa: N818 - a public name of the field
    """The adapter can't do this.

    Attributes:
        operation: What was asked for.
        adapter: The adapter that can't do it.
        way_out: What to do instead.
    """

    def __init__(self, *, operation: str, adapter: str, way_out: str) -> None:
        self.operation = operation
        self.adapter = adapter
        self.way_out = way_out
        super().__init__(f"{operation} is not supported by the {adapter!r} adapter; {way_out}")


class ConfigError(UsageError):
    """An option has a value that is not allowed. Raised when the client or session is made.

    Attributes:
        option: The name of the option.
        value: What was given; never a secret.
        allowed: What would be accepted.
    """

    def __init__(self, *, option: str, value: object, allowed: str) -> None:
        self.option = option
        self.value = value
        self.allowed = allowed
        super().__init__(f"{option}={value!r} is not allowed; allowed: {allowed}")


class SessionEnded(LifecycleError):  # noqa: N818 - a public name of the field
    """An operation on a session that is over or ending.

    Attributes:
        session_id: The session; None when it never got an id.
        close_reason: Why it ended.
        closed_at: When (UTC), None while its ending is still in flight.
        detail: What more is known, such as the deadline that passed or the error that broke it.
    """

    def __init__(
        self,
        *,
        session_id: str | None,
        close_reason: CloseReason | None,
        closed_at: datetime | None = None,
        detail: str = "",
    ) -> None:
        self.session_id = session_id
        self.close_reason = close_reason
        self.closed_at = closed_at
        self.detail = detail
        when = f" at {closed_at.isoformat(timespec='seconds')}" if closed_at else ""
        why = f" ({close_reason})" if close_reason else ""
        more = f": {detail}" if detail else ""
        super().__init__(f"session {session_id} {self._verb}{when}{why}{more}; make a new session to go on")

    _verb = "is over"


class SessionClosed(SessionEnded):
    """The session was stopped or detached, or is being stopped."""

    _verb = "was closed"


class SessionTimedOut(SessionEnded):
    """A deadline of the session passed.

    Attributes:
        deadline: Which deadline: ``idle_timeout``, ``max_duration`` or ``start_timeout``; the same as `close_reason`.
        minutes: How long that deadline was, in minutes; None when the backend ended it.
    """

    _verb = "timed out"

    def __init__(
        self,
        *,
        session_id: str | None,
        close_reason: CloseReason | None,
        closed_at: datetime | None = None,
        detail: str = "",
        minutes: float | None = None,
    ) -> None:
        self.deadline = close_reason
        self.minutes = minutes
        super().__init__(session_id=session_id, close_reason=close_reason, closed_at=closed_at, detail=detail)


class SessionFailed(SessionEnded):
    """The session ended in `error`: its browser crashed, its start failed, or its backend could not be released."""

    _verb = "failed"


class BackendError(LifecycleError):
    """The browser or the service behind a session did something wrong."""


class StartFailed(BackendError):  # noqa: N818 - a public name of the field
    """The backend could not be opened or connected; what was opened has been released.

    Attributes:
        step: The step that failed.
        adapter: The adapter that was asked.
    """

    def __init__(self, message: str, *, step: str = "open_backend", adapter: str = "") -> None:
        self.step = step
        self.adapter = adapter
        super().__init__(message)


class ReleaseFailed(BackendError):  # noqa: N818 - a public name of the field
    """The backend could not be released; its ledger row is kept.

    Attributes:
        session_id: The session whose backend may still run.
    """

    def __init__(self, message: str, *, session_id: str | None = None) -> None:
        self.session_id = session_id
        super().__init__(message)


class CapacityError(BackendError):
    """The backend has no room for another session."""


class AuthenticationError(BackendError):
    """The service refused the credentials."""


class RemoteRejected(BackendError):  # noqa: N818 - a public name of the field
    """The service refused a request.

    Attributes:
        status: The HTTP status, or None when the answer was not HTTP.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class ConnectionLost(BackendError):  # noqa: N818 - a public name of the field
    """A connection to the backend or to the owner of the session broke."""


class OperationFailed(BackendError):  # noqa: N818 - a public name of the field
    """An action on the page could not be done. The session goes on.

    Attributes:
        action: The type of the action, such as ``click``.
        reason: Why it could not be done.
    """

    def __init__(self, *, action: str, reason: str) -> None:
        self.action = action
        self.reason = reason
        super().__init__(f"{action} failed: {reason}")


class CookieError(LifecycleError):
    """Something about cookies went wrong."""


class CookieFileError(CookieError):
    """The cookie file can't be read. Raised before a browser exists.

    Attributes:
        path: The file.
        line: The line of the fault, counted from 1; None when it is not in a line.
        reason: What is wrong there.
    """

    def __init__(self, *, path: str, reason: str, line: int | None = None) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        at = f", line {line}" if line is not None else ""
        super().__init__(f"cookie file {path}{at}: {reason}; mend or move the file, then start again")


class CookieSaveError(CookieError):
    """The cookies could not be saved where they belong; they are in the rescue file.

    Attributes:
        path: The cookie file that could not be written.
        rescue_path: The file that holds the cookies now (mode 0600); None when that failed too.
        reason: Why the save failed.
    """

    def __init__(self, *, path: str, rescue_path: str | None, reason: str) -> None:
        self.path = path
        self.rescue_path = rescue_path
        self.reason = reason
        where = f"they are kept in {rescue_path}" if rescue_path else "no rescue file could be written either"
        super().__init__(f"cookies could not be saved to {path}: {reason}; {where}")


class CookieRejected(CookieError):  # noqa: N818 - a public name of the field
    """Some cookies were refused; the others were set.

    Attributes:
        names: The names of the refused cookies.
        reasons: Why, one for each name.
    """

    def __init__(self, *, names: Iterable[str], reasons: Iterable[str]) -> None:
        self.names = tuple(names)
        self.reasons = tuple(reasons)
        listed = "; ".join(f"{n}: {r}" for n, r in zip(self.names, self.reasons, strict=True))
        super().__init__(f"{len(self.names)} cookie(s) refused, all others were set: {listed}")


class HookError(LifecycleError):
    """A hook raised or outlasted its budget; the edge was carried out all the same.

    Attributes:
        edge: The edge, such as ``stop: active -> closed``.
        hook: The name of the hook.
    """

    def __init__(self, *, edge: str, hook: str, reason: str) -> None:
        self.edge = edge
        self.hook = hook
        self.reason = reason
        super().__init__(f"hook {hook} on {edge}: {reason}")


class AuditError(LifecycleError):
    """The audit log could not be written or is not sound."""


class ChainBroken(AuditError):  # noqa: N818 - a public name of the field
    """A record of the log does not fit the one before it.

    Attributes:
        seq: The number of the first record that is wrong.
    """

    def __init__(self, message: str, *, seq: int) -> None:
        self.seq = seq
        super().__init__(message)


class StoreError(AuditError):
    """The store can't be read or written.

    Attributes:
        store: The store's URL or path.
        rescue_path: The file that took the records instead, where there is one.
    """

    def __init__(self, message: str, *, store: str = "", rescue_path: str | None = None) -> None:
        self.store = store
        self.rescue_path = rescue_path
        super().__init__(message)


class LeaseLost(StoreError):  # noqa: N818 - a public name of the field
    """What a process had to say came after its lease had ended and another had taken over what was its own.

    It is in the log, as records of kind ``stale``, which change nothing that was decided meanwhile. The process goes on
    with a new lease, under which it may start other sessions.
    """
