"""The filters of ``lifecycle audit``, from what was typed to a `Query`.

Rule: what is typed wrongly is told with its way out, by the error of the option it was typed for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from lifecycle.audit import RecordKind
from lifecycle.audit.query import Query
from lifecycle.errors import ConfigError
from lifecycle.states import Event, State

__all__ = ["Filters", "parse_labels", "parse_time", "query_of"]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])(?:\s+ago)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The filters as they were typed; see `lifecycle.audit.query.Query`."""

    state: State | None = None
    event: Event | None = None
    kind: RecordKind | None = None
    cause: str | None = None
    adapter: str | None = None
    error: str | None = None
    labels: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    slower_than: float | None = None


def parse_labels(labels: Sequence[str]) -> Mapping[str, str]:
    """The labels in ``key=value`` texts.

    Raises:
        ConfigError: One has no key or no sign.
    """
    parsed: dict[str, str] = {}
    for text in labels:
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise ConfigError(option="label", value=text, allowed="key=value")
        parsed[key] = value
    return parsed


def parse_time(option: str, text: str, *, now: datetime) -> datetime:
    """A time in ISO 8601, in UTC where it has no zone, or so long before `now`: ``30m``, ``2h``, ``7d ago``.

    Raises:
        ConfigError: It is neither.
    """
    allowed = (
        "a time such as 2024-05-01, 2024-05-01T12:00 (UTC) or 2024-05-01T12:00+02:00, or a span back from now: "
        "90s, 30m, 2h, 7d, 1w"
    )
    try:
        if found := _SPAN.fullmatch(text.strip().lower()):
            return now - timedelta(**{_UNITS[found[2]]: float(found[1])})
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(option=option, value=text, allowed=allowed) from None


def query_of(filters: Filters, *, session: str | None = None) -> Query:
    """The query for what was typed; spans count from now.

    Raises:
        ConfigError: A filter has a value that is not allowed.
    """
    now = datetime.now(UTC)
    since, until = (
        parse_time(option, text, now=now) if text is not None else None
        for option, text in (("since", filters.since), ("until", filters.until))
    )
    return Query(
        session=session,
        labels=parse_labels(filters.labels),
        state=filters.state,
        event=filters.event,
        kind=filters.kind,
        cause=filters.cause,
        adapter=filters.adapter,
        error=filters.error,
        since=since,
        until=until,
        slower_than=filters.slower_than,
    )
