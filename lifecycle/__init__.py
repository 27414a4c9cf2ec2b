"""One explicit, declared lifecycle for a browser session, whatever runs the browser.

    not_started -> active -> closed | error | timed_out

Make a `Client` (or an `AsyncClient`), open sessions with it, and read what happened from their history.
"""

from lifecycle.actions import Action, ActionResult, Element, Observation, Scrape
from lifecycle.attachment import SessionStatus
from lifecycle.audit import Record, RecordKind, StepOutcome, StepResult
from lifecycle.client import AsyncClient, Client
from lifecycle.errors import (
    AuditError,
    AuthenticationError,
    BackendError,
    CapacityError,
    ChainBroken,
    ConfigError,
    ConnectionLost,
    CookieError,
    CookieFileError,
    CookieRejected,
    CookieSaveError,
    GuardRejected,
    HookError,
    InvalidTransition,
    LeaseLost,
    LifecycleError,
    OperationFailed,
    ReleaseFailed,
    RemoteRejected,
    SessionClosed,
    SessionEnded,
    SessionFailed,
    SessionTimedOut,
    StartFailed,
    StoreError,
    UnsupportedOperation,
    UsageError,
)
from lifecycle.hooks import Transition
from lifecycle.peers import Peers
from lifecycle.session import AsyncSession, Session
from lifecycle.signals import SignalStops, stop_on_signals
from lifecycle.states import CloseReason, Event, State

__all__ = [
    "Action",
    "ActionResult",
    "AsyncClient",
    "AsyncSession",
    "AuditError",
    "AuthenticationError",
    "BackendError",
    "CapacityError",
    "ChainBroken",
    "Client",
    "CloseReason",
    "ConfigError",
    "ConnectionLost",
    "CookieError",
    "CookieFileError",
    "CookieRejected",
    "CookieSaveError",
    "Element",
    "Event",
    "GuardRejected",
    "HookError",
    "InvalidTransition",
    "LeaseLost",
    "LifecycleError",
    "Observation",
    "OperationFailed",
    "Peers",
    "Record",
    "RecordKind",
    "ReleaseFailed",
    "RemoteRejected",
    "Scrape",
    "Session",
    "SessionClosed",
    "SessionEnded",
    "SessionFailed",
    "SessionStatus",
    "SessionTimedOut",
    "SignalStops",
    "StartFailed",
    "State",
    "StepOutcome",
    "StepResult",
    "StoreError",
    "Transition",
    "UnsupportedOperation",
    "UsageError",
    "stop_on_signals",
]
