"""Which records of the transition log are wanted.

Rule: what a filter means is said here once, by `Query.matches`. A store may find the records in any way, and finds
those for which it is true.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from lifecycle.audit.record import RecordKind
from lifecycle.config import check_labels, check_line, nearest
from lifecycle.errors import ConfigError
from lifecycle.states import Event, State

if TYPE_CHECKING:
    from lifecycle.audit.record import Record

__all__ = ["Query", "errors_of", "slowest_of", "state_after"]

E = TypeVar("E", bound=StrEnum)

MOVES: Final = (RecordKind.COMMIT, RecordKind.RECOVERED)
"""The kinds of records with which a state changes."""


def state_after(record: Record) -> State:
    """The state in which a record leaves its attachment: where a commit led, and for any other where it was."""
    return record.dest if record.kind in MOVES else record.source


def errors_of(record: Record) -> set[str]:
    """Class names of the errors in a record: its own, and those of its steps and hooks."""
    return {error for error in (record.error, *(step.error for step in record.steps)) if error is not None}


def slowest_of(record: Record) -> float:
    """Milliseconds of the slowest step or hook in a record, 0 where there is none."""
    return max((step.ms for step in record.steps), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Filters over the transition log. A record is wanted when all that are given hold; without any, each is.

    Enums may be given by their values.

    Attributes:
        session: The session's whole id.
        attachment: The attachment's whole id.
        labels: Labels that the record carries, all of them, each whole and exact.
        state: The state in which the record leaves its attachment: where a commit or a recovery led, and for any other
            record the state that the attachment was in. With ``kind="commit"``, the records that led to it.
        event: The event.
        kind: What the record says.
        cause: Who or what sent the event, such as ``caller``, ``deadline`` or ``signal``.
        adapter: Name of the adapter.
        error: Class name of an error: the record's own, or that of one of its steps or hooks.
        since: Records from this time on (aware; kept in UTC).
        until: Records before this time (aware; kept in UTC).
        slower_than: Milliseconds; records of which one step or hook took longer. Steps are told of by commits and by
            edges that were given up.

    Raises:
        ConfigError: A filter has a value that no record could have; it names the filter and what is allowed.
    """

    session: str | None = None
    attachment: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: State | None = None
    event: Event | None = None
    kind: RecordKind | None = None
    cause: str | None = None
    adapter: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    slower_than: float | None = None

    def __post_init__(self) -> None:
        checked = {
            "labels": check_labels("labels", self.labels),
            "state": _one_of("state", State, self.state),
            "event": _one_of("event", Event, self.event),
            "kind": _one_of("kind", RecordKind, self.kind),
            "since": _time("since", self.since),
            "until": _time("until", self.until),
            "slower_than": _milliseconds("slower_than", self.slower_than),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        for name in ("session", "attachment", "cause", "adapter", "error"):
            value = getattr(self, name)
            if value is not None:
                check_line(name, value)
        if self.since is not None and self.until is not None and self.since >= self.until:
            allowed = f"a time after since={self.since.isoformat()}; swap the two, or leave one out"
            raise ConfigError(option="until", value=self.until.isoformat(), allowed=allowed)

    @property
    def given(self) -> Mapping[str, object]:
        """The filters that are given, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, {})}

    def matches(self, record: Record) -> bool:
        """True for a record that is wanted."""
        return (
            self.session in (None, record.session_id)
            and self.attachment in (None, record.attachment_id)
            and self.event in (None, record.event)
            and self.kind in (None, record.kind)
            and self.cause in (None, record.cause)
            and self.adapter in (None, record.adapter)
            and (self.state is None or self.state is state_after(record))
            and (self.since is None or record.at >= self.since)
            and (self.until is None or record.at < self.until)
            and (self.error is None or self.error in errors_of(record))
            and (self.slower_than is None or slowest_of(record) > self.slower_than)
            and self.labels.items() <= record.labels.items()
        )


def _one_of(option: str, kind: type[E], value: object) -> E | None:
    if value is None:
        return None
    try:
        return kind(value)  # type: ignore[arg-type]  # what is no name of one is a ValueError
    except ValueError:
        raise ConfigError(option=option, value=value, allowed=nearest(str(value), kind)) from None


def _time(option: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ConfigError(option=option, value=value, allowed="a datetime with a time zone")
    if value.tzinfo is None:
        allowed = "a time with its zone, such as datetime.now(UTC) or value.astimezone()"
        raise ConfigError(option=option, value=value.isoformat(), allowed=allowed)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ConfigError(option=option, value=value.isoformat(), allowed="a time from year 1 to 9999 in UTC") from None


def _milliseconds(option: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ConfigError(option=option, value=value, allowed="milliseconds, a number of 0 or more")
    return float(value)
