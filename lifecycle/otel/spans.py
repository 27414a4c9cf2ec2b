"""One span for each attachment, from its records."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from opentelemetry import context as contexts
from opentelemetry import trace

from lifecycle.audit import RecordKind
from lifecycle.logs import event_fields, session_fields
from lifecycle.states import State

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Mapping

    from lifecycle.audit import Record

__all__ = ["PREFIX", "SPAN", "Spans", "attributes", "begins", "tracer_of"]

SPAN: Final = "lifecycle.session"
PREFIX: Final = "lifecycle."

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tracer_of(provider: trace.TracerProvider | None) -> trace.Tracer:
    """The tracer of this library."""
    return trace.get_tracer("lifecycle", tracer_provider=provider)


def attributes(fields: Mapping[str, str | None]) -> dict[str, str]:
    """Fields of the host's log as attributes."""
    return {f"{PREFIX}{key}": value for key, value in fields.items() if value is not None}


def begins(record: Record) -> bool:
    """True for a record that a span may begin with: something happens from here on, or has come to its end."""
    return record.kind is RecordKind.INTENT or record.terminal


def nanoseconds(record: Record) -> int:
    """The time of a record as OpenTelemetry has it, exact to the microsecond."""
    return (record.at - _EPOCH) // timedelta(microseconds=1) * 1000


class Spans:
    """The spans of one client that have not ended."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._open: dict[str, trace.Span] = {}

    def take(self, record: Record, context: contextvars.Context | None) -> None:
        """Tell of a record; `context` is that of the caller, for one that a span begins with."""
        span = self._open.get(record.attachment_id)
        if span is None:
            if not begins(record):
                return
            parent = context.copy().run(contexts.get_current) if context is not None else contexts.Context()
            span = self._tracer.start_span(
                SPAN, context=parent, attributes=attributes(session_fields(record)), start_time=nanoseconds(record)
            )
            self._open[record.attachment_id] = span
        try:
            span.set_attributes(attributes(session_fields(record)))  # a service gives its id only later on
            span.add_event(f"{PREFIX}{record.kind}", attributes(event_fields(record)), timestamp=nanoseconds(record))
            if record.terminal:
                self._conclude(span, record)
        finally:
            if record.terminal:
                del self._open[record.attachment_id]
                span.end(end_time=nanoseconds(record))

    def _conclude(self, span: trace.Span, record: Record) -> None:
        if record.close_reason is not None:
            span.set_attribute(f"{PREFIX}close_reason", record.close_reason.value)
        if record.dest is State.ERROR:
            span.set_status(trace.StatusCode.ERROR, record.error or record.close_reason)
