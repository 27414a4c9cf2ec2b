"""The numbers: those that are counted as records come, and those that are looked up when a reader asks."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from lifecycle.audit import RecordKind
from lifecycle.otel.spans import PREFIX, attributes
from lifecycle.states import State

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.journal import Journal
    from lifecycle.otel.watch import Watch

__all__ = ["Meters", "meters_of"]

OUTCOMES: Final = frozenset(
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

HOLDING: Final = (State.NOT_STARTED, State.ACTIVE, State.ERROR)
"""States of sessions that may hold a backend: while they begin, while they live, and when it could not be released."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Boundaries for the seconds of steps: from a step of the memory backend to a budget that ran out."""


class Meters:
    """The instruments at one provider, for all clients of this process that tell it their numbers."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._watches: list[Watch] = []
        self._adapters: dict[str, None] = {}
        """Those that had numbers once: they go on to have some when their clients are closed."""
        self._left: list[tuple[int, Journal]] = []
        """Logs of closed clients that had not taken all, each with its process."""
        self.leaked: dict[str, tuple[int, str]] = {}
        """Attachments that are over and whose backend was not released: process and adapter.

        This and what follows is written by the supervisor's thread alone.
        """
        self.dropped = 0
        self._transitions = meter.create_counter(
            "lifecycle.transitions", unit="{transition}", description="Events of sessions, by what came of them"
        )
        self._steps = _histogram(meter, "lifecycle.step.duration", "Time of steps and hooks, all attempts together")
        meter.create_observable_up_down_counter(
            "lifecycle.sessions.active", [self._active], unit="{session}", description="Sessions in the state active"
        )
        meter.create_observable_gauge(
            "lifecycle.backends.unreleased",
            [self._unreleased],
            unit="{backend}",
            description="Backends that are not released, by the state of their session",
        )
        meter.create_observable_gauge(
            "lifecycle.checkpoint.age", [self._age], unit="s", description="Time since the last checkpoint of the log"
        )
        meter.create_observable_gauge(
            "lifecycle.spool.depth",
            [self._depth],
            unit="{record}",
            description="Records that the store refused, kept in a rescue file",
        )
        meter.create_observable_gauge(
            "lifecycle.clock.skew",
            [self._skew],
            unit="s",
            description="Time by which the clock of the log's store is ahead of this host's",
        )
        meter.create_observable_counter(
            "lifecycle.telemetry.dropped",
            [lambda _: [Observation(self.dropped)]],
            unit="{record}",
            description="Records that telemetry has dropped",
        )

    def watch(self, watch: Watch) -> None:
        """Ask this client too, from now on."""
        self._adapters[watch.adapter] = None
        self._watches.append(watch)

    def forget(self, watch: Watch) -> None:
        """A client ends: ask it no more, but for what it leaves."""
        self._watches.remove(watch)
        if watch.journal.refused():
            self._left.append((watch.pid, watch.journal))

    def take(self, record: Record) -> None:
        """Count a record."""
        if record.kind in OUTCOMES:
            fields = {
                "transition": record.event.value,
                "kind": record.kind.value,
                "dest": record.dest.value,
                "adapter": record.adapter,
                "close_reason": record.close_reason.value if record.close_reason is not None else None,
            }
            self._transitions.add(1, attributes(fields))
        for step in record.steps:
            self._steps.record(step.ms / 1000, attributes({"step": step.step, "outcome": step.outcome.value}))

    def _here(self) -> Sequence[Watch]:
        """Those of this process: a fork inherits its parent's."""
        pid = os.getpid()
        return [watch for watch in list(self._watches) if watch.pid == pid]

    def _active(self, _: CallbackOptions) -> Iterable[Observation]:
        found = dict.fromkeys(list(self._adapters), 0)
        for watch in self._here():
            found[watch.adapter] += watch.active()
        return [Observation(number, {f"{PREFIX}adapter": adapter}) for adapter, number in found.items()]

    def _unreleased(self, _: CallbackOptions) -> Iterable[Observation]:
        found = Counter({(adapter, state.value): 0 for adapter in list(self._adapters) for state in HOLDING})
        for pid, adapter in list(self.leaked.values()):
            found[adapter, State.ERROR.value] += pid == os.getpid()
        for watch in self._here():
            for state, number in watch.unreleased().items():
                found[watch.adapter, state] += number
        return [
            Observation(number, attributes({"adapter": adapter, "state": state}))
            for (adapter, state), number in found.items()
        ]

    def _age(self, _: CallbackOptions) -> Iterable[Observation]:
        ages = [age for watch in self._here() if (age := watch.journal.checkpoint_age()) is not None]
        return [Observation(max(ages))] if ages else []

    def _skew(self, _: CallbackOptions) -> Iterable[Observation]:
        skews = [skew for watch in self._here() if (skew := watch.journal.skew()) is not None]
        return [Observation(max(skews, key=abs))] if skews else []

    def _depth(self, _: CallbackOptions) -> Iterable[Observation]:
        left = [journal for pid, journal in list(self._left) if pid == os.getpid()]
        journals = {id(journal): journal for journal in [*left, *(watch.journal for watch in self._here())]}
        return [Observation(sum(journal.refused() for journal in journals.values()))]  # clients may share one


def _histogram(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    make: Callable[..., Any] = meter.create_histogram
    try:
        made = make(name, unit="s", description=description, explicit_bucket_boundaries_advisory=SECONDS)
    except TypeError:  # of an older API; its default boundaries are made for milliseconds
        made = make(name, unit="s", description=description)
    assert isinstance(made, metrics.Histogram)  # noqa: S101 - for the type checkers
    return made


_known: Final[weakref.WeakKeyDictionary[metrics.MeterProvider, Meters]] = weakref.WeakKeyDictionary()
_global: Final[list[Meters]] = []
_making: Final = threading.Lock()


def meters_of(provider: metrics.MeterProvider | None) -> Meters:
    """The instruments at a provider: made once, since two of one name would be two streams of one name."""
    with _making:
        if provider is None:  # what is made before there is a global one goes to that later on
            if not _global:
                _global.append(Meters(metrics.get_meter("lifecycle")))
            return _global[0]
        found = _known.get(provider)
        if found is None:
            found = _known[provider] = Meters(metrics.get_meter("lifecycle", meter_provider=provider))
        return found
