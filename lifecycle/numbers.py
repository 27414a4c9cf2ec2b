"""What a client does and holds, in numbers: OpenTelemetry and the server's ``/metrics`` tell the same ones.

Rule: each number has its home here, in the journal or in the store, and whoever tells it on computes nothing. `note`
runs on the supervisor's loop, `look` where the store is used; the rest is asked from any thread and waits for nobody.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from lifecycle.audit import RecordKind, StepOutcome
from lifecycle.recovery import silence
from lifecycle.states import State, Step

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.core import ClientCore
    from lifecycle.ports import Store

__all__ = ["ABOUT", "HOLDING", "InStore", "Numbers", "look", "outcome"]

ABOUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lifecycle.transitions": "Events of sessions, by what came of them",
        "lifecycle.step.duration": "Time of steps and hooks, all attempts together",
        "lifecycle.sessions.active": "Sessions in the state active",
        "lifecycle.backends.unreleased": "Backends that are not released, by the state of their session",
        "lifecycle.checkpoint.age": "Time since the last checkpoint of the log",
        "lifecycle.spool.depth": "Records that the store refused, kept in a rescue file",
        "lifecycle.clock.skew": "Time by which the clock of the log's store is ahead of this host's",
        "lifecycle.telemetry.dropped": "Records that telemetry has dropped",
    }
)
"""The metrics that are told of a client, by their name in OpenTelemetry."""

HOLDING: Final = (State.NOT_STARTED, State.ACTIVE, State.ERROR)
"""States of sessions that may hold a backend: while they begin, while they live, and when it could not be released."""

_OUTCOMES: Final = frozenset(
    {
        RecordKind.COMMIT,
        RecordKind.DIVERTED,
        RecordKind.REJECTED,
        RecordKind.IGNORED,
        RecordKind.JOINED,
        RecordKind.RECOVERED,
    }
)
"""Kinds of records that say what came of an event."""

_FAILED: Final = (StepOutcome.FAILED, StepOutcome.TIMED_OUT)


def outcome(record: Record) -> dict[str, str | None] | None:
    """What came of an event, as a transition is counted; None for a record that does not say it."""
    if record.kind not in _OUTCOMES:
        return None
    return {
        "transition": record.event.value,
        "kind": record.kind.value,
        "dest": record.dest.value,
        "adapter": record.adapter,
        "close_reason": record.close_reason.value if record.close_reason is not None else None,
    }


class Numbers:
    """The numbers of one client in this process.

    Args:
        core: The client.
        leaked: Where to note attachments that are over and whose backend was not released, each with the process and
            the adapter. It may be of several clients, and outlive them.

    Attributes:
        adapter: Name of its adapter.
        journal: Its way into the log, which tells what is not written or handed out.
        pid: The process that it is a client of.
    """

    def __init__(self, core: ClientCore, leaked: dict[str, tuple[int, str]]) -> None:
        self.pid = os.getpid()
        self.adapter = core.adapter.name
        self.journal = core.journal
        self._core = core
        self._leaked = leaked

    def note(self, record: Record) -> None:
        """Take note of a release that failed, or was made good. A guest's does not count: its owner may release."""
        att = self._core.active.get(record.attachment_id)
        if att is not None and att.guest:
            return
        for step in record.steps:
            if step.step == Step.RELEASE_BACKEND and step.outcome in _FAILED:
                self._leaked[record.attachment_id] = (self.pid, record.adapter)
            elif step.step == Step.RELEASE_BACKEND and step.outcome is StepOutcome.DONE:
                self._leaked.pop(record.attachment_id, None)

    def sessions(self) -> Counter[State]:
        """Attachments that have begun and are not over, by their state."""
        return Counter(att.state for att in list(self._core.active.values()) if not att.state.terminal)

    def holding(self) -> Counter[State]:
        """Backends that the sessions of this client hold, by the state of the session."""
        atts = list(self._core.active.values())
        return Counter(att.state for att in atts if not att.guest and (att.backend is not None or att.acquiring))


@dataclass(frozen=True, slots=True, kw_only=True)
class InStore:
    """What a store tells of all processes that write to it.

    Attributes:
        lease_age: Seconds since that process last said that it lives, of those with something open, that has been
            silent longest; 0 where none has anything open. It says so every 20 seconds.
        unreleased: Sessions that are over and whose backend was not released, by adapter.
    """

    lease_age: float
    unreleased: Mapping[str, int]


def look(store: Store) -> InStore:
    """Look into a store. Blocks.

    Raises:
        StoreError: It can't be read.
    """
    writers = {writer.writer: writer for writer in store.open_attachments().values()}
    left = Counter(row.adapter for row in store.unfinished() if row.state.terminal)
    return InStore(lease_age=max((silence(writer) for writer in writers.values()), default=0.0), unreleased=left)
