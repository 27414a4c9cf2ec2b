"""The records of the transition log.

Rule: write order is a durable `intent`, the side effects, then `commit`; rejected and ignored events are records
too. A record holds names, counts, times and error classes. Values of cookies, keys, tokens and CDP paths, and the
texts of foreign errors, never enter one.

A record is stored as the exact bytes of `Record.to_json`, canonical JSON (RFC 8785). Each holds the hash of the record
before it of its writer, so the records of a writer are a chain: none can be changed, left out or put elsewhere without
a trace in all that follow.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson

from lifecycle.audit.canonical import EXACT, canonical_time, prepared
from lifecycle.audit.merkle import leaf_hash
from lifecycle.states import TABLE_VERSION, CloseReason, Event, InFlight, State

SCHEMA_VERSION: Final = 2
"""The version of the record's own shape. The first had neither `prev` nor `principal`, and was not canonical JSON."""

FIRST: Final = "0" * 64
"""What stands in `prev` of a writer's first record."""


_TEXTS: Final = ("writer", "attachment_id", "adapter", "cause", "thread", "host", "library")
_INTEGERS: Final = ("writer_seq", "attachment_seq", "pid", "table")


def _measured(value: float) -> object:
    """A number of seconds or milliseconds as it is written: one that every language reads as the same.

    Raises:
        ValueError: It is not finite, or 2**53 or more.
    """
    if not -EXACT < value < EXACT:
        msg = f"{value} is no time that is measured; there are numbers below 2**53 in a record"
        raise ValueError(msg)
    return prepared(value)


class RecordKind(enum.StrEnum):
    """What a record says."""

    INTENT = "intent"
    """The edge is about to be carried out. Durable before the first side effect."""
    COMMIT = "commit"
    """The edge was carried out and the state is now `dest`."""
    DIVERTED = "diverted"
    """The edge was given up at a step; the ending that follows says where it led."""
    REJECTED = "rejected"
    """The event was refused and the caller told so."""
    IGNORED = "ignored"
    """The event came too late or does not apply any more."""
    JOINED = "joined"
    """The event shares the outcome of the ending in flight."""
    HOOKS = "hooks"
    """The hooks that come after a commit have run."""
    EXTENDED = "extended"
    """The session's maximum duration was moved, by ``seconds``."""
    HELD = "held"
    """The session stays open without use for ``seconds`` from now, for the reason in `note`."""
    SPILLED = "spilled"
    """``records`` of this attachment, so many, were refused by the store, kept in a rescue file, and written late."""
    RECOVERED = "recovered"
    """Written by a later process about a session whose owner died: its end, or that what it left was released."""
    STALE = "stale"
    """What a process said of an attachment after it had lost its lease: kept, and changes nothing. See `said`."""


class StepOutcome(enum.StrEnum):
    """How a step or hook went."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardResult:
    """One guard, and whether it held."""

    guard: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One step or hook as it went.

    Attributes:
        step: The step's name; for a hook ``before:`` or ``after:`` and its name.
        outcome: How it went.
        ms: Milliseconds it took, all attempts together.
        attempts: How often it was tried.
        error: The class name of what it raised, or None.
        note: A short word of our own on why it was skipped, or None.
    """

    step: str
    outcome: StepOutcome
    ms: float = 0.0
    attempts: int = 1
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the transition log.

    Attributes:
        kind: What the record says.
        writer: The writer's id: one supervisor on one store.
        writer_seq: Contiguous per writer, from 1.
        prev: The hash of the writer's record before this one, in hex: SHA-256 over a zero byte and its bytes, as for a
            leaf in RFC 6962. For its first, and in schema 1, `FIRST`.
        attachment_id: The attachment this is about.
        attachment_seq: Contiguous per attachment, from 1.
        session_id: The session; None when it has no id yet.
        adapter: Name of the adapter.
        at: Time of the record, UTC.
        offset: Seconds of monotonic time since the writer began.
        said: For `stale`, the kind that the record would have had; else None. Its other fields are what it said, also
            `at`; its attachment is the one it was about, followed by ``~`` and its writer, so it is in nobody's way.
        skew: Seconds by which the clock of the store was ahead of the host's when they were compared last, so that the
            store's time of the record is `at` and these; None for a store without a clock of its own.
        event: The event.
        source: The state before.
        dest: The state the edge leads to; the same as `source` where none is taken.
        in_flight: What was in flight when the event arrived.
        cause: Who or what sent the event: caller, deadline, backend, step, signal, exit, abandoned, owner, reaper,
            lease, rescue file; cancelled and worker shutdown, from `lifecycle.embed.temporal`.
        close_reason: For endings.
        error: Class name of the error that caused or answered the event, or None.
        guards: The guards of the edge with their results.
        steps: The steps and hooks, in the order in which they ran.
        counts: Numbers worth keeping: cookies_loaded, cookies_saved, cookies_rejected, operations, seconds, ...; where
            cookies of all contexts are saved, ``cookies_of_context_0`` (the default one) and so on: what each held.
        note: What the caller gave as the reason, or None.
        pid: Process that wrote this.
        thread: Name of the thread or task that caused it.
        host: Host name.
        principal: Whom the session acts for, as the program says that made it, or None.
        labels: The session's labels.
        library: Version of this library.
        table: Version of the table (`lifecycle.states.TABLE_VERSION`).
        schema: Version of this shape.
    """

    kind: RecordKind
    writer: str
    writer_seq: int
    attachment_id: str
    attachment_seq: int
    session_id: str | None
    adapter: str
    at: datetime
    offset: float
    event: Event
    source: State
    dest: State
    in_flight: InFlight = InFlight.NOTHING
    cause: str = "caller"
    close_reason: CloseReason | None = None
    error: str | None = None
    guards: tuple[GuardResult, ...] = ()
    steps: tuple[StepResult, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None
    pid: int = 0
    thread: str = ""
    host: str = ""
    principal: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    library: str = ""
    table: int = TABLE_VERSION
    schema: int = SCHEMA_VERSION
    prev: str = FIRST
    said: RecordKind | None = None
    skew: float | None = None
    _body: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def opens(self) -> bool:
        """True for the intent that an attachment begins with; from it on, its end is waited for."""
        return self.kind is RecordKind.INTENT and self.event in (Event.START, Event.ATTACH)

    @property
    def terminal(self) -> bool:
        """True for the commit that ends an attachment; a store takes only one of these for each."""
        ends = self.kind in (RecordKind.COMMIT, RecordKind.RECOVERED) and self.dest.terminal
        return ends and not self.source.terminal

    @property
    def hash(self) -> bytes:
        """The hash of its bytes, 32 bytes: what the next record's `prev` says in hex."""
        return leaf_hash(self.to_json())

    def to_json(self) -> bytes:
        """The bytes that are stored: canonical JSON, times in UTC to the microsecond; those it was read from, if any.

        Raises:
            ValueError: `at` has no time zone, a number is not finite or 2**53 or more, or it has an older schema.
            TypeError: A text holds half a surrogate pair.
        """
        if self._body is None:
            object.__setattr__(self, "_body", self._encode())  # its fields never change
        assert self._body is not None  # noqa: S101 - for the type checkers
        return self._body

    def _encode(self) -> bytes:
        if self.at.tzinfo is None:
            msg = f"the time of a record needs a time zone: {self.at!r}"
            raise ValueError(msg)
        if self.schema != SCHEMA_VERSION:
            msg = f"this version writes records of schema {SCHEMA_VERSION} and not {self.schema}"
            raise ValueError(msg)
        # The keys are in canonical order here, and all but these three are in canonical form: twice as fast.
        return orjson.dumps(
            {
                "adapter": self.adapter,
                "at": canonical_time(self.at),
                "attachment_id": self.attachment_id,
                "attachment_seq": self.attachment_seq,
                "cause": self.cause,
                "close_reason": self.close_reason,
                "counts": prepared(self.counts),
                "dest": self.dest,
                "error": self.error,
                "event": self.event,
                "guards": [{"guard": g.guard, "held": g.held} for g in self.guards],
                "host": self.host,
                "in_flight": self.in_flight,
                "kind": self.kind,
                "labels": prepared(self.labels),
                "library": self.library,
                "note": self.note,
                "offset": _measured(self.offset),
                "pid": self.pid,
                "prev": self.prev,
                "principal": self.principal,
                **({"said": self.said} if self.said is not None else {}),
                "schema": self.schema,
                "session_id": self.session_id,
                **({"skew": _measured(self.skew)} if self.skew is not None else {}),
                "source": self.source,
                "steps": [
                    {
                        "attempts": s.attempts,
                        "error": s.error,
                        "ms": _measured(s.ms),
                        "note": s.note,
                        "outcome": s.outcome,
                        "step": s.step,
                    }
                    for s in self.steps
                ],
                "table": self.table,
                "thread": self.thread,
                "writer": self.writer,
                "writer_seq": self.writer_seq,
            }
        )

    @classmethod
    def from_json(cls, raw: bytes | str) -> Self:
        """The record in `raw`.

        Raises:
            ValueError: `raw` is no record of a schema that this version reads.
        """
        d: Any = orjson.loads(raw)
        schema = d.get("schema") if isinstance(d, dict) else None
        if type(schema) is not int or schema not in (1, SCHEMA_VERSION):
            msg = f"record schema {schema!r} is unknown to this version, which reads 1 to {SCHEMA_VERSION}"
            raise ValueError(msg)
        try:
            reason = d["close_reason"]
            d.update(
                kind=RecordKind(d["kind"]),
                at=datetime.fromisoformat(d["at"]).astimezone(UTC),
                event=Event(d["event"]),
                source=State(d["source"]),
                dest=State(d["dest"]),
                in_flight=InFlight(d["in_flight"]),
                close_reason=CloseReason(reason) if reason is not None else None,
                guards=tuple(GuardResult(**g) for g in d["guards"]),
                steps=tuple(
                    StepResult(**{**s, "outcome": StepOutcome(s["outcome"]), "ms": float(s["ms"])}) for s in d["steps"]
                ),
                offset=float(d["offset"]),
                said=RecordKind(d["said"]) if d.get("said") is not None else None,
                skew=float(d["skew"]) if d.get("skew") is not None else None,
            )
            record = cls(**d)
            wrong = [name for name in _TEXTS if type(d[name]) is not str]
            wrong += [name for name in _INTEGERS if type(d[name]) is not int]
            if wrong:
                msg = f"{', '.join(wrong)} of another type"
                raise TypeError(msg)
        except (KeyError, TypeError, OverflowError) as e:
            msg = f"this is no record of schema {schema}: {type(e).__name__}: {e}"
            raise ValueError(msg) from e
        object.__setattr__(record, "_body", raw.encode() if isinstance(raw, str) else bytes(raw))
        return record
