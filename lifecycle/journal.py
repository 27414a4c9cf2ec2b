"""The way into the audit log: numbers records, writes them in groups, keeps what the store refuses.

Rule: a record gets its number in the tick in which the event is decided, so the order of the log is the order of the
decisions, and names the hash of the record before it. Nothing is acknowledged before it is durable. What can't be
written stays first in line, is kept in a rescue file meanwhile, and goes in with the next write that succeeds, so no
number is ever missing. To a log that is found damaged nothing is added.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lifecycle.audit import FIRST, Record, RecordKind, StepResult
from lifecycle.audit.register import Maker, advance, announce, check_end
from lifecycle.errors import ChainBroken, StoreError
from lifecycle.identity import host_name
from lifecycle.loops import SerialWorker
from lifecycle.spill import Spilled, add, keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lifecycle.audit.notes import Publisher
    from lifecycle.audit.register import Tip
    from lifecycle.ports import Clock, SessionRow, Store, Writer

__all__ = ["CHECKPOINT_RECORDS", "CHECKPOINT_SECONDS", "LEASE_SECONDS", "Journal", "library_version"]

LEASE_SECONDS: Final = 60.0
"""For how long a process is taken to live after it last said so; it says so three times as often."""

CHECKPOINT_SECONDS: Final = 60.0
"""After so long at most what has been written is in the register, and a checkpoint of it handed out."""

CHECKPOINT_RECORDS: Final = 1000
"""... and after so many records."""

SKEW_SECONDS: Final = 1.0
"""Clocks of the store and of this host that are further apart are told of."""

RETRY_SECONDS: Final = (1.0, 30.0)
"""After so long what the store refused is tried again, at first and at most; each time it is twice as long."""

PUBLISH_SECONDS: Final = 10.0
"""How long a checkpoint may take to be handed out before nobody waits for it any more."""


def library_version() -> str:
    """The version of this library, or ``0+unknown`` when it runs from files that were never installed."""
    from importlib import metadata  # noqa: PLC0415 - costs 10 ms of import time, needed once

    try:
        return metadata.version("session-lifecycle")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@dataclass(slots=True)
class _Pending:
    records: tuple[Record, ...]
    row: SessionRow | None
    done: asyncio.Future[None]


class Journal:
    """One writer on one store. Lives on the supervisor's loop.

    Args:
        store: An opened store.
        clock: Stamps the records.
        as_writer: This process as the writer of that id, alive at that time.
        worker: The thread that the store is used from.
        on_record: Called for each record as soon as it is durable or rescued.
        on_late: Called for each attachment of which records were spilled and are in the store now: with the last record
            of it so far, and how many were spilled.
        on_trouble: Called with the name of an event and its fields, where something went wrong that nobody is told.
        spool: Acknowledge what the store refuses once it is in the rescue file.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        worker: SerialWorker,
        *,
        as_writer: Callable[[str, datetime], Writer],
        on_record: Callable[[Record], None] | None = None,
        on_late: Callable[[Record, int], None] | None = None,
        on_trouble: Callable[..., None] = lambda _event, **_fields: None,
        spool: bool = False,
    ) -> None:
        self.store = store
        self.writer = uuid.uuid4().hex
        self._as_writer = as_writer
        self._known = False
        self._open: set[str] = set()
        """Attachments that have begun and not ended: while there are any, the lease is renewed."""
        self._renewal: asyncio.Task[None] | None = None
        self._clock = clock
        self._began = clock.monotonic()
        self._worker = worker
        self._on_record = on_record
        self._on_late = on_late
        self._on_trouble = on_trouble
        self._seq = 0
        self._last = FIRST
        """The hash of the record with that number, in hex."""
        self._written = (0, FIRST)
        """The same of the last record that the store has taken."""
        self._again = False
        """True after a write that failed, so that it is not known what the store has of it."""
        self.publishers: list[Publisher] = []
        """Who hands out the checkpoints of this log."""
        self._damage: ChainBroken | None = None
        self._checkpointed: float | None = None
        """When the last checkpoint was handed out, or what it must cover was written first; monotonic seconds."""
        self._skewed = False
        """True while the clocks of the store and of this host are apart, which has been told of."""
        self._covered = 0
        """The last number that the register covers."""
        self._due = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._queue: list[_Pending] = []
        self._stuck: list[_Pending] = []
        self._spool = spool
        self._refused: StoreError | None = None
        """What the store said last, while there is something that it has not taken."""
        self._retrying: asyncio.Task[None] | None = None
        self._trying = False
        """True while that is tried again: else, with `spool`, nothing waits for a store that does not answer."""
        self._flusher: asyncio.Task[None] | None = None
        self._version = library_version()
        self._rescue: Path | None = None
        self._closed = False

    def record(self, **fields: Any) -> Record:  # noqa: ANN401 - the fields of Record that the caller knows
        """A record with the writer's next number. It must be passed to `append` in the same tick."""
        fields["thread"] = _writable(fields.get("thread", ""))
        fields["steps"] = tuple(_writable_step(step) for step in fields.get("steps", ()))
        record = Record(
            writer=self.writer,
            writer_seq=self._seq + 1,
            prev=self._last,
            at=self._clock.utcnow(),
            offset=round(self._clock.monotonic() - self._began, 6),
            skew=self.skew(),
            pid=os.getpid(),
            host=host_name(),
            library=self._version,
            **fields,
        )
        self._last = record.hash.hex()  # first: where it has no JSON form it takes no number either
        self._seq += 1
        return record

    def append(self, *records: Record, row: SessionRow | None = None) -> asyncio.Future[None]:
        """Queue records, and the ledger row as it is now, for the next group write.

        Returns:
            A future that is done when they are durable, or raises StoreError when they are not. It may be dropped.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:  # a late event on a session of a closed client, which changes nothing that lives
            done.set_result(None)
            return done
        done.add_done_callback(_seen)
        for r in records:
            if r.opens:
                self._open.add(r.attachment_id)
            elif r.terminal:
                self._open.discard(r.attachment_id)
        if self._open and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.get_running_loop().create_task(self._keep_lease())
        self._queue.append(_Pending(records, _writable_row(row) if row is not None else None, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        return done

    async def close(self) -> None:
        """Write what is queued, try once more what the store refused, and write nothing from now on."""
        if self._stuck:
            await self._try_again()
        self._closed = True
        await self.flushed()
        for task in (self._renewal, self._keeper, self._retrying):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self.checkpoint(closing=True)

    async def flushed(self) -> None:
        """Wait until everything queued so far was written or refused."""
        while self._flusher is not None and not self._flusher.done():
            await asyncio.wait({self._flusher})

    def refused(self) -> int:
        """How many records the store has refused so far and not taken yet; they are in a rescue file. Any thread."""
        return sum(len(p.records) for p in self._stuck)

    def skew(self) -> float | None:
        """Seconds by which the store's clock is ahead of this host's; None where it has none. Any thread."""
        return getattr(self.store, "skew", None)

    def checkpoint_age(self) -> float | None:
        """Seconds since the last checkpoint was handed out, or the first write; None before that. Any thread."""
        since = self._checkpointed
        return max(self._clock.monotonic() - since, 0.0) if since is not None else None

    def lost(self) -> StoreError | None:
        """An error that says where the records are that the store never took; None when it took all."""
        count = self.refused()
        if not count:
            return None
        where = f"they are kept in {self._rescue}" if self._rescue else "no rescue file could be written either"
        rescue = str(self._rescue) if self._rescue else None
        return StoreError(f"{count} record(s) could not be written; {where}", store=self.store.url, rescue_path=rescue)

    async def _keep_lease(self) -> None:
        """Say every now and then that this process lives, for as long as something is open."""
        while self._open:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(StoreError):  # the next write tells of a store that fails, and the next turn tries
                await self._worker.run(self._renew)

    async def _keep_trying(self) -> None:
        """Offer the store what it refused, again and again, until it takes it."""
        wait, most = RETRY_SECONDS
        while self._stuck and self._damage is None:
            await asyncio.sleep(wait)
            wait = min(2 * wait, most)
            await self._try_again()

    async def _try_again(self) -> None:
        await self.flushed()
        self._trying = True
        self.append().add_done_callback(_seen)
        await self.flushed()

    async def _keep_checkpoints(self) -> None:
        """Enter in the register what has been written: after so many records, and after so long."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECKPOINT_SECONDS):
                    await self._due.wait()
            self._due.clear()
            await self.checkpoint()

    async def checkpoint(self, *, closing: bool = False) -> None:
        """Enter what all writers have written in the register, and hand out the checkpoint.

        With `closing`, enter too that this one writes no more, unless something of it was refused.
        What goes wrong is told to `on_trouble`: the records are safe, and the next turn tries again.
        """
        if not self._known or self._damage is not None:
            return  # this process has written nothing, so others look after it; or nothing is added any more
        closing = closing and not self._stuck
        try:
            tip, more = await self._worker.run(self._advance, closing)
            while more:  # one turn at a time: who starts a session meanwhile waits for one, and not for a long log
                tip, more = await self._worker.run(self._advance, closing)
        except ChainBroken as e:
            self._damage = e
            self._on_trouble("lifecycle.log_damaged", store=self.store.url, seq=e.seq, why=str(e))
            return
        except Exception as e:  # noqa: BLE001 - a foreign store may raise anything; it must not end the keeper
            why = str(e) if isinstance(e, StoreError) else type(e).__name__
            self._on_trouble("lifecycle.checkpoint_failed", store=self.store.url, why=why)
            return
        if all(await asyncio.gather(*(self._publish(publisher, tip) for publisher in self.publishers))):
            self._checkpointed = self._clock.monotonic()

    def _advance(self, closing: bool) -> tuple[Tip, bool]:
        seq, last = self._written
        tip, more = advance(self.store, self._maker(), self._clock.utcnow(), closing=closing, own=(seq, last))
        if not more:
            self._covered = seq
        return tip, more

    async def _publish(self, publisher: Publisher, tip: Tip) -> bool:
        """Hand out a checkpoint. Not on the store's thread: a function of the user's may hang."""
        try:
            loop, before = asyncio.get_running_loop(), publisher.running
            if before is not None and before.get_loop() is loop and not before.done():
                # Begun by a turn which the end of the client has cancelled: this one follows it.
                await asyncio.wait({before}, timeout=PUBLISH_SECONDS)
                if not before.done():
                    raise TimeoutError
            publisher.running = loop.run_in_executor(None, publisher.publish, tip)
            publisher.running.add_done_callback(_seen)
            await asyncio.wait_for(asyncio.shield(publisher.running), PUBLISH_SECONDS)
        except Exception as e:  # noqa: BLE001 - a function of the user's may raise anything
            self._on_trouble("lifecycle.checkpoint_not_published", error=type(e).__name__, size=tip.size)
            return False
        return True

    def _maker(self) -> Maker:
        return Maker(self.writer, host_name(), os.getpid(), self._version)

    async def announce(self, writers: Sequence[str]) -> None:
        """Enter writers in the register, whose records are about to be written for them.

        Raises:
            StoreError: The store failed, or the log is damaged.
        """
        await self._worker.run(self._announce, writers)

    def _announce(self, writers: Sequence[str]) -> None:
        try:
            if not self._known:
                check_end(self.store)
            announce(self.store, writers, self._maker(), self._clock.utcnow())
        except ChainBroken as e:
            self._damage = e
            raise self._refusal(e) from e

    def _refusal(self, damage: ChainBroken) -> StoreError:
        message = f"the log in {self.store.url} is damaged, so nothing is added to it: {damage}"
        return StoreError(message, store=self.store.url)

    def _me(self) -> Writer:
        return self._as_writer(self.writer, datetime.now(UTC))

    def _renew(self) -> None:
        self.store.renew(self._me())

    def _write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        if self._damage is not None:
            raise self._refusal(self._damage) from self._damage
        if not self._known:
            self._renew()
            self._announce([self.writer])
            self._known = True
        if records and self._again:
            # What seemed to fail may have been written: the disk said so, and the file was looked for in vain after it.
            there = self.store.stored(writer=self.writer, after=self._written[0], limit=len(records))
            for stored, record in zip(there, records, strict=False):
                if stored.hash == record.hash:
                    self._written = (record.writer_seq, record.hash.hex())
            records = [r for r in records if r.writer_seq > self._written[0]]
        self._again = True
        self.store.write(records, rows)
        self._again = False
        if records:
            self._written = (records[-1].writer_seq, records[-1].hash.hex())

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue, []
            trying, self._trying = self._trying, False
            group = [*self._stuck, *batch]
            records, rows = _together(group)
            error: StoreError | None = None
            if self._spool and self._refused is not None and not trying:
                error = self._refused
            else:
                try:
                    await self._worker.run(self._write, records, rows)
                except StoreError as e:
                    error = e
                except Exception as e:  # noqa: BLE001 - a foreign store may raise anything; it must not end this task
                    error = StoreError(f"the store raised {type(e).__name__}", store=self.store.url)
                    error.__cause__ = e
            if error is None:
                await self._taken(records)
            else:
                await self._not_taken(error, batch, group)
            spooled = self._spool and self._rescue is not None and self._damage is None
            for p in batch:
                if not p.done.done():
                    if error is None or spooled:
                        p.done.set_result(None)
                    else:
                        p.done.set_exception(_again(error))
            if self._on_record is not None:
                for r in (r for p in batch for r in p.records):
                    self._on_record(r)

    async def _taken(self, records: Sequence[Record]) -> None:
        """The store has taken all there was."""
        if self._checkpointed is None:
            self._checkpointed = self._clock.monotonic()
        if self._keeper is None and not self._closed:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_checkpoints())
        if self._written[0] - self._covered >= CHECKPOINT_RECORDS:
            self._due.set()
        late, self._stuck, self._refused = [r for p in self._stuck for r in p.records], [], None
        if self._rescue is not None:
            try:
                await self._worker.run(_remove, self._rescue)
            except OSError as e:  # who finds it later sees that all of it is in the store
                self._on_trouble("lifecycle.rescue_file_left", path=str(self._rescue), error=type(e).__name__)
            self._rescue = None
        self._tell_of(late, [*records, *(r for p in self._queue for r in p.records)])
        self._tell_of_skew()

    async def _not_taken(self, error: StoreError, batch: Sequence[_Pending], group: list[_Pending]) -> None:
        """The store has refused it: keep it in a rescue file, and try again."""
        if self._refused is None:
            self._on_trouble("lifecycle.store_refused", store=self.store.url, why=str(error))
        self._stuck, self._refused = group, error
        added = False
        if self._rescue is not None:
            new = _together(batch)
            added = not any(new) or await self._worker.run(add, self._rescue, *new)
        if not added:
            self._rescue = await self._worker.run(keep, Spilled(self.store.url, self._me(), *_together(group)))
        error.rescue_path = str(self._rescue) if self._rescue else None
        if not self._closed and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.get_running_loop().create_task(self._keep_trying())

    def _tell_of(self, late: Sequence[Record], told: Sequence[Record]) -> None:
        if late and self._on_late is not None:
            last = {r.attachment_id: r for r in told}
            for attachment_id, number in Counter(r.attachment_id for r in late).items():
                self._on_late(last[attachment_id], number)

    def _tell_of_skew(self) -> None:
        skew = self.skew()
        skewed = skew is not None and abs(skew) > SKEW_SECONDS
        if skewed and not self._skewed:
            self._on_trouble("lifecycle.clock_skew", store=self.store.url, seconds=skew)
        self._skewed = skewed

    def late(self, last: Record, number: int, *, attachment_seq: int) -> Record:
        """A record that says of an attachment that `number` of its records were written late, out of a rescue file."""
        reached = last.dest if last.kind in (RecordKind.COMMIT, RecordKind.RECOVERED) else last.source
        return self.record(
            kind=RecordKind.SPILLED,
            attachment_id=last.attachment_id,
            attachment_seq=attachment_seq,
            session_id=last.session_id,
            adapter=last.adapter,
            event=last.event,
            source=reached,
            dest=reached,
            cause="rescue file",
            counts={"records": number},
            thread="supervisor",
            principal=last.principal,
            labels=dict(last.labels),
        )


def _together(group: Sequence[_Pending]) -> tuple[list[Record], list[SessionRow]]:
    """All records of it, and the last row of each session."""
    rows: Mapping[str, SessionRow] = {p.row.session_id: p.row for p in group if p.row is not None}
    return [r for p in group for r in p.records], list(rows.values())


def _writable(text: str) -> str:
    """`text` as it can be written down. One that can't (a path with odd bytes) would keep out all that follow."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _writable_step(result: StepResult) -> StepResult:
    note = _writable(result.note) if result.note is not None else None
    step = _writable(result.step)
    return result if (step, note) == (result.step, result.note) else replace(result, step=step, note=note)


def _writable_row(row: SessionRow) -> SessionRow:
    error = _writable(row.error) if row.error is not None else None
    facts = {_writable(str(key)): _writable(str(value)) for key, value in row.facts.items()}
    return row if (error, facts) == (row.error, row.facts) else replace(row, error=error, facts=facts)


def _seen(future: asyncio.Future[None]) -> None:
    """Look at the result, so that a future which nobody awaits is not reported as never retrieved."""
    if not future.cancelled():
        future.exception()


def _again(error: StoreError) -> StoreError:
    """A copy for each waiter: tracebacks and notes of one must not grow on another's."""
    copy = StoreError(str(error), store=error.store, rescue_path=error.rescue_path)
    copy.__cause__ = error.__cause__
    return copy


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
