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

from lifecycle.numbers import ABOUT, HOLDING, outcome
from lifecycle.otel.spans import PREFIX, attributes
from lifecycle.states import State

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.journal import Journal
    from lifecycle.numbers import Numbers
    from lifecycle.otel.watch import Watch

__all__ = ["Meters", "meters_of"]

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
        self._transitions = meter.create_counter(**_told("lifecycle.transitions", "{transition}"))
        self._steps = _histogram(meter)
        meter.create_observable_up_down_counter(
            callbacks=[self._active], **_told("lifecycle.sessions.active", "{session}")
        )
        for callback, name, unit in (
            (self._unreleased, "lifecycle.backends.unreleased", "{backend}"),
            (self._age, "lifecycle.checkpoint.age", "s"),
            (self._depth, "lifecycle.spool.depth", "{record}"),
            (self._skew, "lifecycle.clock.skew", "s"),
        ):
            meter.create_observable_gauge(callbacks=[callback], **_told(name, unit))
        meter.create_observable_counter(
            callbacks=[lambda _: [Observation(self.dropped)]], **_told("lifecycle.telemetry.dropped", "{record}")
        )

    def watch(self, watch: Watch) -> None:
        """Ask this client too, from now on."""
        self._adapters[watch.numbers.adapter] = None
        self._watches.append(watch)

    def forget(self, watch: Watch) -> None:
        """A client ends: ask it no more, but for what it leaves."""
        self._watches.remove(watch)
        if watch.numbers.journal.refused():
            self._left.append((watch.numbers.pid, watch.numbers.journal))

    def take(self, record: Record) -> None:
        """Count a record."""
        if (fields := outcome(record)) is not None:
            self._transitions.add(1, attributes(fields))
        for step in record.steps:
            self._steps.record(step.ms / 1000, attributes({"step": step.step, "outcome": step.outcome.value}))

    def _here(self) -> Sequence[Numbers]:
        """Those of this process: a fork inherits its parent's."""
        pid = os.getpid()
        return [watch.numbers for watch in list(self._watches) if watch.numbers.pid == pid]

    def _active(self, _: CallbackOptions) -> Iterable[Observation]:
        found = dict.fromkeys(list(self._adapters), 0)
        for numbers in self._here():
            found[numbers.adapter] += numbers.sessions()[State.ACTIVE]
        return [Observation(number, {f"{PREFIX}adapter": adapter}) for adapter, number in found.items()]

    def _unreleased(self, _: CallbackOptions) -> Iterable[Observation]:
        found = Counter({(adapter, state.value): 0 for adapter in list(self._adapters) for state in HOLDING})
        for pid, adapter in list(self.leaked.values()):
            found[adapter, State.ERROR.value] += pid == os.getpid()
        for numbers in self._here():
            for state, number in numbers.holding().items():
                found[numbers.adapter, state.value] += number
        return [
            Observation(number, attributes({"adapter": adapter, "state": state}))
            for (adapter, state), number in found.items()
        ]

    def _age(self, _: CallbackOptions) -> Iterable[Observation]:
        ages = [age for numbers in self._here() if (age := numbers.journal.checkpoint_age()) is not None]
        return [Observation(max(ages))] if ages else []

    def _skew(self, _: CallbackOptions) -> Iterable[Observation]:
        skews = [skew for numbers in self._here() if (skew := numbers.journal.skew()) is not None]
        return [Observation(max(skews, key=abs))] if skews else []

    def _depth(self, _: CallbackOptions) -> Iterable[Observation]:
        left = [journal for pid, journal in list(self._left) if pid == os.getpid()]
        journals = {id(journal): journal for journal in [*left, *(numbers.journal for numbers in self._here())]}
        return [Observation(sum(journal.refused() for journal in journals.values()))]  # clients may share one


def _told(name: str, unit: str) -> dict[str, Any]:
    """What an instrument is made with."""
    return {"name": name, "unit": unit, "description": ABOUT[name]}


def _histogram(meter: metrics.Meter) -> metrics.Histogram:
    make: Callable[..., Any] = meter.create_histogram
    told = _told("lifecycle.step.duration", "s")
    try:
        made = make(**told, explicit_bucket_boundaries_advisory=SECONDS)
    except TypeError:  # of an older API; its default boundaries are made for milliseconds
        made = make(**told)
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
