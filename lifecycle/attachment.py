"""One attachment: one machine on a session, with everything that is known about it.

Rule: it is owned by the supervisor's thread, which alone changes it. Other threads read single attributes (`state`,
`session_id`), which never blocks.
"""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lifecycle.errors import HookError, LifecycleError, SessionClosed, SessionEnded, SessionFailed, SessionTimedOut
from lifecycle.machine import Facts, Standing
from lifecycle.ports import Claim, SessionRow, Writer
from lifecycle.states import CloseReason, InFlight, State

if TYPE_CHECKING:
    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie, LoadedCookies
    from lifecycle.operator import PageOperator
    from lifecycle.ports import Adapter, Backend, BackendEnd, Clock

__all__ = ["Attachment", "Deadline", "Owner", "SessionStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """What is known about a session at one moment. All times are aware and UTC.

    Attributes:
        session_id: The session; None while a service has not given it one.
        status: State of the session; equal to its name, such as ``"active"``.
        created_at: When it was started; before that, when the object was made.
        closed_at: When it ended, None while it has not.
        last_accessed_at: The last use that is known.
        timeout_minutes: Idle timeout in minutes.
        max_duration_minutes: Absolute limit in minutes.
        duration: From `created_at` to the end, or to now.
        expires_at: The nearer of its deadlines as things stand, None unless active.
        adapter: Name of the adapter.
        close_reason: Why it ended.
        error: What went wrong, for state `error`.
        name: The name that it was given.
        labels: The labels that it was given.
    """

    session_id: str | None
    status: State
    created_at: datetime
    closed_at: datetime | None
    last_accessed_at: datetime
    timeout_minutes: float
    max_duration_minutes: float
    duration: timedelta
    expires_at: datetime | None
    adapter: str
    close_reason: CloseReason | None
    error: str | None
    name: str | None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_row(cls, row: SessionRow, now: datetime) -> SessionStatus:
        """The status that a ledger row tells."""
        active = row.state is State.ACTIVE
        idle = row.last_accessed_at + timedelta(minutes=row.timeout_minutes)
        if row.held_until is not None:
            idle = max(idle, row.held_until)
        longest = row.created_at + timedelta(minutes=row.max_duration_minutes)
        return cls(
            session_id=row.session_id,
            status=row.state,
            created_at=row.created_at,
            closed_at=row.closed_at,
            last_accessed_at=row.last_accessed_at,
            timeout_minutes=row.timeout_minutes,
            max_duration_minutes=row.max_duration_minutes,
            duration=max((row.closed_at or now) - row.created_at, timedelta()),
            expires_at=min(idle, longest) if active else None,
            adapter=row.adapter,
            close_reason=row.close_reason,
            error=row.error,
            name=row.name,
            labels=dict(row.labels),
        )

    def to_json(self) -> dict[str, Any]:
        """The status as plain JSON values: times in ISO 8601, the duration in seconds."""
        told: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for key in _TIMES:
            told[key] = told[key].isoformat() if told[key] is not None else None
        told["duration"] = self.duration.total_seconds()
        told["labels"] = dict(self.labels)
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> SessionStatus:
        """The status that `to_json` made."""
        values = dict(told)
        for key in _TIMES:
            values[key] = datetime.fromisoformat(told[key]) if told[key] is not None else None
        values["status"] = State(told["status"])
        values["duration"] = timedelta(seconds=told["duration"])
        values["close_reason"] = CloseReason(told["close_reason"]) if told["close_reason"] is not None else None
        return cls(**values)


_TIMES: Final = ("created_at", "closed_at", "last_accessed_at", "expires_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that owns a session, as its ledger row names it."""

    pid: int
    started: str
    boot: str
    host: str

    def writer(self, writer: str, renewed_at: datetime) -> Writer:
        """This process as a writer to a store, alive at that time."""
        return Writer(
            writer=writer,
            owner_pid=self.pid,
            owner_started=self.started,
            boot_id=self.boot,
            host=self.host,
            renewed_at=renewed_at,
        )

    def claim(self, adapter: str, key: str, *, attachment_id: str, session_id: str | None, writer: str | None) -> Claim:
        """A claim of this process on a key."""
        return Claim(
            key=key,
            adapter=adapter,
            attachment_id=attachment_id,
            session_id=session_id,
            owner_pid=self.pid,
            owner_started=self.started,
            boot_id=self.boot,
            host=self.host,
            writer=writer,
        )


@dataclass(frozen=True, slots=True)
class Deadline:
    """A deadline: when (monotonic seconds), which, and how many minutes it was set to."""

    at: float
    reason: CloseReason
    minutes: float


_ENDED: Final[Mapping[State, type[SessionEnded]]] = {
    State.CLOSED: SessionClosed,
    State.TIMED_OUT: SessionTimedOut,
    State.ERROR: SessionFailed,
}


def describe(error: BaseException) -> str:
    """An error for records and rows: our own texts hold no secrets, a foreign one may, so only its class is named."""
    name = type(error).__name__
    if isinstance(error, HookError):
        return f"{name}: hook {error.hook} on {error.edge} raised {type(error.__cause__).__name__}"
    return f"{name}: {error}" if isinstance(error, LifecycleError) else name


class Attachment:
    """The machine of one handle, and what its flow needs. See the module's rule on threads."""

    __slots__ = (
        "__weakref__",
        "acquiring",
        "adapter",
        "attachment_id",
        "backend",
        "backend_end",
        "busy",
        "clock",
        "close_reason",
        "closed_at",
        "context",
        "counts",
        "created_at",
        "due",
        "ended",
        "ended_at",
        "ending",
        "ending_dest",
        "error",
        "facts_kept",
        "gone",
        "held_until",
        "in_flight",
        "last_used",
        "loaded",
        "made",
        "max_minutes",
        "on_lease",
        "opened_at",
        "opening",
        "operator",
        "options",
        "outcome",
        "refused",
        "seq",
        "session_id",
        "standing",
        "troubles",
        "unsaved",
        "viewer_url",
    )

    def __init__(self, options: SessionOptions, adapter: Adapter, clock: Clock) -> None:
        self.attachment_id = uuid.uuid4().hex
        self.options = options
        self.adapter = adapter
        self.clock = clock
        self.session_id = options.session_id or (None if "assigns_ids" in adapter.capabilities else str(uuid.uuid4()))
        self.standing = Standing(State.NOT_STARTED, Facts())
        self.in_flight = InFlight.NOTHING
        self.context = contextvars.copy_context()
        self.created_at = clock.utcnow()
        self.closed_at: datetime | None = None
        self.opened_at = self.last_used = clock.monotonic()
        self.ended_at: float | None = None
        self.max_minutes = options.max_duration_minutes
        self.held_until: float | None = None
        """Monotonic seconds until which it needs no use to stay open."""
        self.close_reason: CloseReason | None = None
        self.error: BaseException | None = None
        self.backend: Backend | None = None
        self.viewer_url: str | None = None
        """The page of the live view, while there is one."""
        self.operator: PageOperator | None = None
        """Who operates on the pages of the backend, once somebody has asked for that."""
        self.made: bool | None = None if options.session_id is None else False
        """It opened its session; False where it found it, None while that is not settled."""
        self.acquiring = False
        """The adapter was asked for a backend and has not answered; it may outlast the step and the attachment."""
        self.on_lease: Callable[[float], None] | None = None
        """How the backend is told until when the lease lasts."""
        self.backend_end: BackendEnd | None = None
        self.gone: asyncio.Event | None = None
        self.facts_kept: dict[str, str] = {}
        self.loaded: LoadedCookies | None = None
        self.refused: tuple[Cookie, ...] = ()
        self.unsaved: Sequence[Cookie] | None = None
        """What was read from the browser at the end, until it is in a file."""
        self.counts: dict[str, int] = {}
        self.busy = 0
        self.seq = 0
        self.due: Deadline | None = None
        self.opening: asyncio.Task[None] | None = None
        self.ending: asyncio.Task[None] | None = None
        self.ending_dest: State | None = None
        self.ended: asyncio.Event | None = None
        self.troubles: list[Exception] = []
        self.outcome: tuple[Exception, ...] = ()

    @property
    def state(self) -> State:
        """The committed state."""
        return self.standing.state

    @property
    def guest(self) -> bool:
        """True for an attachment that did not open its session."""
        return self.options.session_id is not None

    def deadline(self) -> Deadline | None:
        """The nearest deadline as things stand now, None when none applies."""
        if self.in_flight is InFlight.ENDING or self.state.terminal:
            return None
        if self.in_flight in (InFlight.START, InFlight.ATTACH):
            minutes = self.options.start_timeout_minutes
            return Deadline(self.opened_at + minutes * 60, CloseReason.START_TIMEOUT, minutes)
        if self.state is not State.ACTIVE or self.guest:
            return None  # a guest follows its owner's deadlines
        used = self.clock.monotonic() if self.busy else self.last_used
        unused = used + self.options.timeout_minutes * 60
        if self.held_until is not None:
            unused = max(unused, self.held_until)
        idle = Deadline(unused, CloseReason.IDLE_TIMEOUT, self.options.timeout_minutes)
        longest = Deadline(self.opened_at + self.max_minutes * 60, CloseReason.MAX_DURATION, self.max_minutes)
        return min(idle, longest, key=lambda d: d.at)

    def facts(self) -> Facts:
        """What the guards look at."""
        due = self.deadline()
        late = due is not None and due.at <= self.clock.monotonic() + 1e-4
        told = self.backend_end is not None and self.backend_end.state is State.TIMED_OUT
        return Facts(
            in_flight=self.in_flight,
            session_id_given=self.guest,
            deadline_passed=late or told,
            can_live_on=self.backend is not None and self.backend.can_live_on,
        )

    def used(self) -> None:
        """Note use of the session. Any thread."""
        self.last_used = self.clock.monotonic()

    def let_go(self) -> None:
        """The attachment is over: drop what only its course needed. A handle may be kept for ever."""
        self.loaded = self.unsaved = self.viewer_url = self.on_lease = None
        self.refused = ()

    def ended_error(self) -> SessionEnded:
        """The error for an operation on this attachment now that it is over or ending."""
        return self._ended_error(self.ending_dest or self.state, self.close_reason)

    def met_end(self, end: BackendEnd) -> SessionEnded:
        """The error for an attach to a session that has ended, before the attach or meanwhile."""
        self.backend_end = end
        return self._ended_error(end.state, end.reason)

    def _ended_error(self, state: State, reason: CloseReason | None) -> SessionEnded:
        kind = _ENDED.get(state, SessionClosed)
        detail = ""
        if self.backend_end is not None and self.backend_end.detail:
            detail = self.backend_end.detail
        elif self.error is not None:
            detail = describe(self.error)
        if kind is SessionTimedOut:
            minutes = self.due.minutes if self.due is not None else None
            if minutes is not None:
                detail = f"its {reason} deadline of {minutes:g} minutes passed"
            return SessionTimedOut(
                session_id=self.session_id,
                close_reason=reason,
                closed_at=self.closed_at,
                detail=detail,
                minutes=minutes,
            )
        return kind(session_id=self.session_id, close_reason=reason, closed_at=self.closed_at, detail=detail)

    def _held_until(self) -> datetime | None:
        """The end of the last hold as a wall-clock time."""
        if self.held_until is None or self.state.terminal:
            return None
        return self.clock.utcnow() + timedelta(seconds=self.held_until - self.clock.monotonic())

    def last_accessed_at(self) -> datetime:
        """The last use as a wall-clock time."""
        now = self.clock.monotonic() if self.ended_at is None else self.ended_at
        wall = self.clock.utcnow() if self.closed_at is None else self.closed_at
        return max(wall - timedelta(seconds=max(now - self.last_used, 0.0)), self.created_at)

    def status(self) -> SessionStatus:
        """What is known now."""
        now = self.clock.utcnow()
        due = self.deadline() if self.state is State.ACTIVE else None
        return SessionStatus(
            session_id=self.session_id,
            status=self.state,
            created_at=self.created_at,
            closed_at=self.closed_at,
            last_accessed_at=self.last_accessed_at(),
            timeout_minutes=self.options.timeout_minutes,
            max_duration_minutes=self.max_minutes,
            duration=max((self.closed_at or now) - self.created_at, timedelta()),
            expires_at=now + timedelta(seconds=max(due.at - self.clock.monotonic(), 0.0)) if due else None,
            adapter=self.adapter.name,
            close_reason=self.close_reason,
            error=self.error_text(),
            name=self.options.name,
            labels=dict(self.options.labels),
        )

    def error_text(self) -> str | None:
        """One sentence on what went wrong, for state `error`."""
        if self.state is not State.ERROR:
            return None
        if self.backend_end is not None and self.backend_end.detail:
            return self.backend_end.detail
        return describe(self.error) if self.error is not None else None

    def row(self, owner: Owner, control: str | None, address: str | None, *, released: bool) -> SessionRow | None:
        """The ledger row as things stand, or None for a guest or while there is no session id."""
        if self.guest or self.session_id is None:
            return None
        return SessionRow(
            session_id=self.session_id,
            attachment_id=self.attachment_id,
            adapter=self.adapter.name,
            state=self.state,
            released=released,
            name=self.options.name,
            labels=dict(self.options.labels),
            created_at=self.created_at,
            closed_at=self.closed_at,
            last_accessed_at=self.last_accessed_at(),
            held_until=self._held_until(),
            timeout_minutes=self.options.timeout_minutes,
            max_duration_minutes=self.max_minutes,
            close_reason=self.close_reason,
            error=self.error_text(),
            owner_pid=owner.pid,
            owner_started=owner.started,
            boot_id=owner.boot,
            host=owner.host,
            control=control if not self.state.terminal else None,
            address=address if not self.state.terminal else None,
            facts=dict(self.facts_kept),
        )
