"""``/metrics``: the numbers of this server for Prometheus, in its text format.

Rule: nothing is computed here. The numbers are those of `lifecycle.numbers`, under the names that OpenTelemetry has
them by, with underscores and with the unit. A scrape never waits long for a store: one that does not answer is told
of, and what it would have told is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.responses import Response

from lifecycle.numbers import ABOUT, HOLDING, InStore, Numbers, look, outcome
from lifecycle.server.guard import METRICS
from lifecycle.states import State

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.audit.verifying import Verification
    from lifecycle.callers import Caller
    from lifecycle.client import AsyncClient
    from lifecycle.core import ClientCore

__all__ = ["Metrics", "router", "write_verification"]

STORE_BUDGET: Final = 3.0
"""Seconds that a scrape waits for the store; Prometheus gives up on a scrape after 10."""

_OWN: Final[Mapping[str, str]] = {
    "lifecycle.sessions": "Sessions of this server that are being started or active, by their state",
    "lifecycle.store.up": "1 when the store has answered this scrape, else 0",
    "lifecycle.lease.age": "Time since the process with open sessions that is silent longest last said that it lives",
    "lifecycle.verification.problems": "Problems that the last check of the log has found",
    "lifecycle.verification.records": "Records that the last check of the log has looked at",
    "lifecycle.verification.timestamp": "When the last check of the log ended, in Unix time",
}
"""Those that are told here alone."""

_TRANSITION: Final = ("transition", "kind", "dest", "adapter", "close_reason")

router: Final = APIRouter(include_in_schema=False)


def _gauge(name: str, samples: Mapping[tuple[str, ...], float], labels: Iterable[str] = (), unit: str = "") -> Metric:
    told = GaugeMetricFamily(name.replace(".", "_"), {**ABOUT, **_OWN}[name], labels=tuple(labels), unit=unit)
    for values, number in samples.items():
        told.add_metric(values, number)
    return told


class _Told:
    """Metrics as the library takes them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics


class Metrics:
    """The numbers of one client, from now on until `end`.

    Args:
        client: Whose.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = weakref.ref(client)  # a client that is dropped must be seen to be gone
        self._leaked: dict[str, tuple[int, str]] = {}
        self._transitions: Counter[tuple[str, ...]] = Counter()
        self._looking: asyncio.Task[InStore] | None = None
        client._watch(self._begin)  # noqa: SLF001 - as telemetry does

    def _begin(self, core: ClientCore) -> None:
        self._core = core
        self._numbers = Numbers(core, self._leaked)
        core.subscribers.append(self._take)

    def end(self) -> None:
        """Count no more. Idempotent."""
        if (client := self._client()) is not None and self._begin in client._watchers:  # noqa: SLF001 - as above
            client._watchers.remove(self._begin)  # noqa: SLF001 - as above
        with contextlib.suppress(ValueError):  # a client that is closed has forgotten it
            self._core.subscribers.remove(self._take)

    def _take(self, record: Record | None) -> None:
        """Count a record, on the supervisor's loop."""
        if record is None:
            return
        self._numbers.note(record)
        if (fields := outcome(record)) is not None:
            self._transitions[tuple(fields[label] or "" for label in _TRANSITION)] += 1

    async def scrape(self) -> bytes:
        """All of them as they are now, in the text format."""
        return generate_latest(_Told(self._metrics(await self._look())))

    async def _look(self) -> InStore | None:
        """What the store tells, None where it does not within the budget; it is never asked twice at a time."""
        if self._looking is None or self._looking.done():
            core = self._core

            async def ask(_: Caller) -> InStore:
                return await core.read(look)

            self._looking = asyncio.ensure_future(core.supervisor.acall(ask))
        await asyncio.wait({self._looking}, timeout=STORE_BUDGET)
        if not self._looking.done() or self._looking.exception() is not None:
            return None
        return self._looking.result()

    def _metrics(self, stored: InStore | None) -> Iterable[Metric]:
        numbers, adapter = self._numbers, self._numbers.adapter
        began = numbers.sessions()
        states: dict[tuple[str, ...], float] = {
            (adapter, state.value): began[state] for state in (State.NOT_STARTED, State.ACTIVE)
        }
        yield _gauge("lifecycle.sessions", states, ("adapter", "state"))
        transitions = CounterMetricFamily("lifecycle_transitions", ABOUT["lifecycle.transitions"], labels=_TRANSITION)
        for values, number in list(self._transitions.items()):
            transitions.add_metric(values, number)
        yield transitions
        holding = numbers.holding()
        held: dict[tuple[str, ...], float] = {(adapter, state.value): holding[state] for state in HOLDING}
        held[adapter, State.ERROR.value] += len(self._leaked)
        for name, number in (stored.unreleased if stored is not None else {}).items():
            # Those that this process could not release are among them, unless the store does not take their rows now.
            held[name, State.ERROR.value] = max(number, held.get((name, State.ERROR.value), 0))
        yield _gauge("lifecycle.backends.unreleased", held, ("adapter", "state"))
        yield _gauge("lifecycle.spool.depth", {(): numbers.journal.refused()})
        for name, seconds in (
            ("lifecycle.checkpoint.age", numbers.journal.checkpoint_age()),
            ("lifecycle.clock.skew", numbers.journal.skew()),
            ("lifecycle.lease.age", stored.lease_age if stored is not None else None),
        ):
            yield _gauge(name, {(): seconds} if seconds is not None else {}, unit="seconds")
        yield _gauge("lifecycle.store.up", {(): float(stored is not None)})


@router.get(METRICS)
async def metrics(request: Request) -> Response:
    """The numbers of this server, for Prometheus."""
    told: Metrics = request.app.state.metrics
    return Response(await told.scrape(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def write_verification(path: Path, found: Verification, *, at: float) -> None:
    """Write what came of a check of the log, as the textfile collector of the node exporter reads it.

    Args:
        path: The file, whose name has to end in ``.prom``. It is replaced as a whole.
        found: What came of it.
        at: When it ended, in Unix time.

    Raises:
        OSError: It can't be written.
    """
    told = (
        _gauge("lifecycle.verification.problems", {(): len(found.problems)}),
        _gauge("lifecycle.verification.records", {(): found.records}),
        _gauge("lifecycle.verification.timestamp", {(): at}, unit="seconds"),
    )
    write_to_textfile(str(path), _Told(told))
