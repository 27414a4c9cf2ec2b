"""OpenTelemetry: a span for each session, and numbers of a client. Needs the extra ``otel``.

Rule: nothing here is loaded or done unless `instrument` is called, and a session never waits for it. Records are taken
from the client as they become durable and told on by a thread of the client's own, so what a provider or an exporter
raises, or how long it takes, is felt by no edge. A thread that falls behind drops records, and counts them. All that
is told is in the records.

The span ``lifecycle.session`` lasts from the first intent of an attachment to its terminal commit, by the times in the
records; each record in between is an event on it. Its parent is the span that is current where the session is started.
Its attributes are ``lifecycle.`` and the names that the host's log has: ``session_id``, ``attachment_id``, ``adapter``,
``principal``, ``label.KEY``, and ``close_reason`` at the end. The state ``error`` is its status. A session whose owner
died has a span without length, where a later process ended it.

======================================  =========================  =================================================
metric                                  kind, unit                 attributes, each after ``lifecycle.``
======================================  =========================  =================================================
``lifecycle.sessions.active``           up-down counter            adapter
``lifecycle.transitions``               counter                    transition, kind, dest, adapter, close_reason
``lifecycle.step.duration``             histogram, seconds         step, outcome
``lifecycle.backends.unreleased``       gauge                      adapter, state: that of the session; in ``error``
                                                                   they are those that could not be released
``lifecycle.checkpoint.age``            gauge, seconds             -; of several logs the oldest
``lifecycle.spool.depth``               gauge                      -; records that the store refused and that are kept
                                                                   in a rescue file
``lifecycle.clock.skew``                gauge, seconds             -; by which the clock of the log's store is ahead of
                                                                   this host's, if it has one; the largest of several
``lifecycle.telemetry.dropped``         counter                    -; records that were dropped
======================================  =========================  =================================================

Limits. At the end of a client and of the process, and before a signal that `stop_on_signals` handles ends it, what is
queued is waited for, but no longer than `PATIENCE` seconds. A provider is not flushed: it does that itself at the end
of an interpreter, and a process that ends without one (a child of multiprocessing, a signal) must call its
`force_flush`.
After a fork a client is instrumented in the child too, once it is used there; the sessions of the parent are the
parent's, and end no span in the child. Records after the terminal commit, such as those of hooks after it and of a
second stop, are counted and are on no span. Sessions that are active when `instrument` is called have a span from their
next edge on; what the start of the client reaps in the background may be over by then, so where that is to be told,
make the client with ``reap_on_start=False`` and call `reap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lifecycle.client import AsyncClient, BaseClient, Client
from lifecycle.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from lifecycle.core import ClientCore

__all__ = ["PATIENCE", "QUEUE", "Instrumentation", "instrument"]

QUEUE: Final = 10_000
"""Records that wait to be told on; beyond that they are dropped and counted."""

PATIENCE: Final = 2.0
"""Seconds that the end of a client, or of the process, waits for what is queued."""


@dataclass(frozen=True, slots=True)
class _Watching:
    """A watcher of a client that `instrument` has put there; it does not keep the client alive."""

    begin: Callable[[ClientCore], None]

    def __call__(self, core: ClientCore) -> None:
        self.begin(core)


class Instrumentation:
    """What came of telling on the records of one client.

    Attributes:
        dropped: Records that were dropped because the provider could not keep up.
        errors: How often the provider raised.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.errors = 0


def instrument(
    client: Client | AsyncClient,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Instrumentation:
    """Tell OpenTelemetry of the sessions of a client, until it is closed; see `lifecycle.otel` for what and how.

    Args:
        client: Either client, before its first session.
        tracer_provider: Takes the spans; by default the global one.
        meter_provider: Takes the numbers; by default the global one.

    Raises:
        UsageError: The extra ``otel`` is not installed, this is no client, it is closed, or it is instrumented already.
        ConfigError: A provider is none.
    """
    try:
        from opentelemetry import metrics, trace  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = "telemetry needs the package opentelemetry-api; pip install 'session-lifecycle[otel]'"
        raise UsageError(msg) from e
    from lifecycle.otel.meters import meters_of  # noqa: PLC0415 - needs the extra
    from lifecycle.otel.spans import Spans, tracer_of  # noqa: PLC0415 - needs the extra
    from lifecycle.otel.watch import Watch  # noqa: PLC0415 - needs the extra

    if not isinstance(client, BaseClient):
        msg = f"instrument() takes a Client or an AsyncClient, and not {type(client).__name__}"
        raise UsageError(msg)
    for option, given, kind in (
        ("tracer_provider", tracer_provider, trace.TracerProvider),
        ("meter_provider", meter_provider, metrics.MeterProvider),
    ):
        if given is not None and not isinstance(given, kind):
            raise ConfigError(option=option, value=type(given).__name__, allowed=f"an OpenTelemetry {kind.__name__}")
    if any(isinstance(watch, _Watching) for watch in client._watchers):  # noqa: SLF001 - a part of the client
        msg = "this client is instrumented already; once is enough"
        raise UsageError(msg)
    tracer, meters, told = tracer_of(tracer_provider), meters_of(meter_provider), Instrumentation()

    def begin(core: ClientCore) -> None:
        Watch(core, Spans(tracer), meters, told).begin()

    client._watch(_Watching(begin))  # noqa: SLF001 - a part of the client
    return told
