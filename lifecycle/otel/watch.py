"""The way from a client's records to OpenTelemetry.

Rule: `put` runs on the supervisor's loop; it queues and counts, and calls nothing of OpenTelemetry. `_take` runs on a
thread of the watch's own, and calls nothing of the client.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVarTuple

from lifecycle import otel
from lifecycle.loops import SerialWorker
from lifecycle.numbers import Numbers
from lifecycle.otel.spans import begins

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from lifecycle.audit import Record
    from lifecycle.core import ClientCore
    from lifecycle.otel.meters import Meters
    from lifecycle.otel.spans import Spans

__all__ = ["Watch"]

Ts = TypeVarTuple("Ts")


class Watch:
    """One client, as this process watches it."""

    def __init__(self, core: ClientCore, spans: Spans, meters: Meters, told: otel.Instrumentation) -> None:
        self.numbers = Numbers(core, meters.leaked)
        self._core = core
        self._spans = spans
        self._meters = meters
        self._told = told
        self._begun: set[str] = set()
        """Attachments whose span was queued and whose end was not: for that there is room at any time."""
        self._queued = 0
        self._taken = 0
        self._worker = SerialWorker("lifecycle-otel")

    def begin(self) -> None:
        """Take what comes from now on."""
        self._core.subscribers.append(self.put)
        self._core.telling.append(self._flushed)
        self._meters.watch(self)
        self._core.supervisor.end_first()

    # --- on the supervisor's loop -------------------------------------------------------------------------------

    def put(self, record: Record | None) -> None:
        """Queue a record, or drop it where too many wait; None is the end of the client."""
        if record is None:
            self._meters.forget(self)
            self._worker.stop()
            return
        self.numbers.note(record)
        attachment_id = record.attachment_id
        opens = begins(record) and attachment_id not in self._begun
        if record.terminal and not opens:
            self._begun.discard(attachment_id)
        elif self._queued - self._taken >= otel.QUEUE:
            self._told.dropped += 1
            self._meters.dropped += 1
            return
        elif opens and not record.terminal:
            self._begun.add(attachment_id)
        self._queued += 1
        self._worker.submit(self._take, record, self._core.context_of(attachment_id) if opens else None)

    async def _flushed(self) -> None:
        try:
            async with asyncio.timeout(otel.PATIENCE):
                await self._worker.run(lambda: None)
        except TimeoutError:
            self._core.supervisor.log_event("lifecycle.telemetry_late", records=self._queued - self._taken)

    # --- on its own thread --------------------------------------------------------------------------------------

    def _take(self, record: Record, context: contextvars.Context | None) -> None:
        self._tell(self._meters.take, record)
        self._tell(self._spans.take, record, context)
        self._taken += 1

    def _tell(self, tell: Callable[[*Ts], None], *args: *Ts) -> None:
        try:
            tell(*args)
        except BaseException as e:  # noqa: BLE001 - whatever a provider raises must not end the thread
            if not self._told.errors:
                self._core.supervisor.log_event("lifecycle.telemetry_failed", error=type(e).__name__)
            self._told.errors += 1
