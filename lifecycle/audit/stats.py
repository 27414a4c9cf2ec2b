"""What the transition log says in numbers: times in states, times of steps, endings and failures.

Rule: one pass, and a memory that does not grow with the log. Counts and maxima are exact. A percentile is the nearest
rank in a histogram whose buckets are 2 % wide, so it is within 1 % of the exact one.

Of attachments that have not ended, only the `LIVE` latest are remembered: the time in a state of one that was
forgotten is not counted, and `Stats.forgotten` says of how many that is so. Names that users make up, such as those of
hooks and errors, are counted apart for the first `NAMES` of them, and together as ``(others)`` beyond.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from lifecycle.audit.query import MOVES
from lifecycle.audit.record import RecordKind, StepOutcome
from lifecycle.states import CloseReason, Event, State, Step

__all__ = ["Ending", "Failure", "Spread", "StateStats", "Stats", "StepStats", "summarize"]

LIVE: Final = 100_000
"""Attachments without an end that are remembered at a time."""

NAMES: Final = 500
"""Names of steps, and of errors, that are counted apart."""

OTHERS: Final = "(others)"

_WIDTH: Final = 1.02
_LOG: Final = math.log(_WIDTH)
_LEAST: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How long something took, each time.

    Attributes:
        count: How often; exact.
        p50: The median, within 1 %.
        p95: What 95 of 100 stay below or reach, within 1 %.
        max: The longest; exact.
    """

    count: int
    p50: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStats:
    """What became of attachments in one state.

    Attributes:
        state: The state.
        entered: How many came to it. To ``not_started`` an attachment comes with the intent of its start.
        seconds: How long those stayed that left it again, in seconds; None where none did, as in a final state.
    """

    state: State
    entered: int
    seconds: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """How one step or hook went.

    Attributes:
        step: Its name.
        ms: How long it took when it ran, in milliseconds, all attempts together; None where it never ran.
        skipped: How often it was skipped.
        failures: How often it did not succeed, by the class name of its error, or by its outcome where it has none.
    """

    step: str
    ms: Spread | None
    skipped: int
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Attachments that ended alike.

    Attributes:
        state: The final state.
        close_reason: Why.
        count: How many.
    """

    state: State
    close_reason: CloseReason | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Attachments that ended in ``error`` for the same cause.

    Attributes:
        cause: Who or what sent the event.
        error: Class name of the error, or None.
        count: How many.
    """

    cause: str
    error: str | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Numbers of a log, or of the records that a query wants.

    Attributes:
        records: How many records were read.
        first: Time of the earliest (UTC); None where there is none.
        last: Time of the latest (UTC).
        states: Each state, in the order of the declaration.
        steps: Each step and hook that a record tells of: the declared ones in their order, then the others by name.
        endings: Ways in which attachments ended, the most frequent first.
        failures: Causes of endings in ``error``, the most frequent first.
        forgotten: Attachments that were forgotten before they ended; 0 means that every time in a state is counted.
    """

    records: int
    first: datetime | None
    last: datetime | None
    states: tuple[StateStats, ...]
    steps: tuple[StepStats, ...]
    endings: tuple[Ending, ...]
    failures: tuple[Failure, ...]
    forgotten: int


class _Histogram:
    """Values above 0 in buckets of the same relative width."""

    __slots__ = ("_buckets", "_count", "_max")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._count = 0
        self._max = 0.0

    def add(self, value: float) -> None:
        bucket = math.floor(math.log(max(value, _LEAST)) / _LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self._count += 1
        self._max = max(self._max, value)

    def spread(self) -> Spread | None:
        if not self._count:
            return None
        return Spread(count=self._count, p50=self._at(0.5), p95=self._at(0.95), max=self._max)

    def _at(self, part: float) -> float:
        rank, seen = math.ceil(part * self._count), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                middle = _WIDTH ** (bucket + 0.5)
                return min(middle, self._max) if middle > 2 * _LEAST else 0.0
        return self._max


@dataclass(slots=True)
class _StepCount:
    ms: _Histogram = field(default_factory=_Histogram)
    skipped: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Since:
    """Since when an attachment is in a state."""

    state: str
    writer: str
    offset: float
    at: datetime


_MOVES: Final = frozenset(map(str, MOVES))
_OPENS: Final = (str(Event.START), str(Event.ATTACH))
_TERMINAL: Final = frozenset(str(state) for state in State if state.terminal)
_OK: Final = str(StepOutcome.DONE)
_SKIPPED: Final = str(StepOutcome.SKIPPED)


class _Pass:
    """One pass over the log."""

    def __init__(self) -> None:
        self.records = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.forgotten = 0
        self.live: dict[str, _Since] = {}
        self.entered: Counter[str] = Counter()
        self.times = {str(state): _Histogram() for state in State}
        self.steps: dict[str, _StepCount] = {}
        self.endings: Counter[tuple[str, str | None]] = Counter()
        self.failures: Counter[tuple[str, str | None]] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        at = datetime.fromisoformat(record["at"])
        self.records += 1
        self.first = at if self.first is None or at < self.first else self.first
        self.last = at if self.last is None or at > self.last else self.last
        kind = record["kind"]
        if kind == RecordKind.INTENT and record["event"] in _OPENS:
            self._enter(record, record["source"], at)
        elif kind in _MOVES and record["source"] != record["dest"]:
            self._enter(record, record["dest"], at)
            if record["dest"] in _TERMINAL and record["source"] not in _TERMINAL:
                self.endings[record["dest"], record["close_reason"]] += 1
                if record["dest"] == State.ERROR:
                    _count(self.failures, (record["cause"], record["error"]), (OTHERS, None))
        for step in record["steps"]:
            self._step(step)

    def _enter(self, record: Mapping[str, Any], state: str, at: datetime) -> None:
        attachment = record["attachment_id"]
        since = self.live.pop(attachment, None)
        if since is not None:
            # One writer has a clock that never goes back; two have only the time of day.
            same = since.writer == record["writer"]
            seconds = record["offset"] - since.offset if same else (at - since.at).total_seconds()
            self.times[since.state].add(max(seconds, 0.0))
        self.entered[state] += 1
        if state not in _TERMINAL:
            self.live[attachment] = _Since(state, record["writer"], record["offset"], at)
            if len(self.live) > LIVE:
                del self.live[next(iter(self.live))]
                self.forgotten += 1

    def _step(self, step: Mapping[str, Any]) -> None:
        name = step["step"]
        if name not in self.steps and len(self.steps) >= NAMES:
            name = OTHERS
        count = self.steps.setdefault(name, _StepCount())
        if step["outcome"] == _SKIPPED:
            count.skipped += 1
            return
        count.ms.add(step["ms"])
        if step["outcome"] != _OK:
            _count(count.failures, step["error"] or step["outcome"], OTHERS)

    def stats(self) -> Stats:
        order = [*map(str, Step)]
        steps = sorted(self.steps.items(), key=lambda s: (order.index(s[0]) if s[0] in order else len(order), s[0]))
        return Stats(
            records=self.records,
            first=self.first and self.first.astimezone(UTC),
            last=self.last and self.last.astimezone(UTC),
            states=tuple(
                StateStats(state=state, entered=self.entered[state], seconds=self.times[state].spread())
                for state in State
            ),
            steps=tuple(
                StepStats(
                    step=name, ms=count.ms.spread(), skipped=count.skipped, failures=dict(count.failures.most_common())
                )
                for name, count in steps
            ),
            endings=tuple(
                Ending(state=State(state), close_reason=CloseReason(reason) if reason else None, count=n)
                for (state, reason), n in self.endings.most_common()
            ),
            failures=tuple(
                Failure(cause=cause, error=error, count=n) for (cause, error), n in self.failures.most_common()
            ),
            forgotten=self.forgotten,
        )


def _count(counter: Counter[Any], name: object, others: object) -> None:
    counter[name if name in counter or len(counter) < NAMES else others] += 1


def summarize(bodies: Iterable[bytes]) -> Stats:
    """Numbers of records, given as they are stored, in their order.

    A time in a state is told by two records, so filters that leave out commits leave it out; filter by session,
    labels, adapter or time.

    Raises:
        ValueError: One of them is no record of this schema.
    """
    counted = _Pass()
    for body in bodies:
        try:
            counted.add(orjson.loads(body))
        except (KeyError, TypeError) as e:
            msg = f"this is no record that this version reads: {type(e).__name__}: {e}"
            raise ValueError(msg) from e
    return counted.stats()
