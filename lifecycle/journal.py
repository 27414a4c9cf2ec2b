"""The way into the audit log: numbers records, writes them in groups, keeps what the store refuses.

Rule: a record gets its number in the tick in which the event is decided, so the order of the log is the order of the
decisions, and names the hash of the record before it. Nothing is acknowledged before it is durable. What can't be
written stays first in line, is kept in a rescue file meanwhile, and goes in with the next write that succeeds, so no
number is ever missing. To a log that is found damaged nothing is added.

A writer has a lease (`lifecycle.lease`). One that has lost it goes on as another writer: what was begun under it is
somebody else's, so what there still is to say of that goes in as `stale` records, and the rest under its new numbers.
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
from lifecycle.errors import ChainBroken, LeaseLost, StoreError
from lifecycle.identity import host_name
from lifecycle.lease import LEASE_SECONDS, Lease
from lifecycle.loops import SerialWorker
from lifecycle.spill import Spilled, add, keep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lifecycle.audit.notes import Publisher
    from lifecycle.audit.register import Tip
    from lifecycle.ports import Clock, SessionRow, Store, Writer

__all__ = ["CHECKPOINT_RECORDS", "CHECKPOINT_SECONDS", "Journal", "library_version"]

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
    stale: bool = False
    """It came after the lease was lost, as who waits for it is told."""


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
        on_lease: Called after each renewal of the lease, with the boot seconds by which nothing under it may be left.
        on_lease_over: Called when attachments have to end because the lease does, those that `is_over` tells.
        lease_seconds: For how long the lease lasts, on a store that has leases.
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
        on_lease: Callable[[float], None] = lambda _until: None,
        on_lease_over: Callable[[], None] = lambda: None,
        lease_seconds: float = LEASE_SECONDS,
        spool: bool = False,
    ) -> None:
        self.store = store
        self.writer = uuid.uuid4().hex
        self._as_writer = as_writer
        self._known = False
        self.lease = Lease(
            store,
            worker,
            seconds=lease_seconds,
            as_writer=self._me,
            on_renewed=on_lease,
            on_over=on_lease_over,
            on_lost=self._lease_taken,
        )
        """Kept while there are attachments that have begun and not ended."""
        self._on_lease_over = on_lease_over
        self._unwritten: set[str] = set()
        """Attachments whose beginning the store does not have."""
        self._taken_over = False
        """True once the lease is known to be another's, until this goes on as another writer."""
        self._stale: dict[str, int] = {}
        """Attachments that were begun under a lease that is lost, with the records of each that went in since."""
        self._clock = clock
        self._began = clock.monotonic()
        self._worker = worker
        self._on_record = on_record
        self._on_late = on_late
        self._on_trouble = on_trouble
        self._seq = 0
        self._last = FIRST
        """The hash of the record with that number, in hex."""
        self._written = (self.writer, 0, FIRST)
        """The writer, and the same of the last record of it that the store has taken."""
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
        self._old_rescues: list[Path] = []
        """Files that hold under old numbers what is written under new ones now."""
        self._closed = False

    def record(self, **fields: Any) -> Record:  # noqa: ANN401 - the fields of Record that the caller knows
        """A record with the writer's next number. It must be passed to `append` in the same tick."""
        fields["thread"] = _writable(fields.get("thread", ""))
        fields["steps"] = tuple(_writable_step(step) for step in fields.get("steps", ()))
        # What it says as a reaper, of one that it has lost itself and nobody has ended, is said under its new lease.
        if fields["attachment_id"] in self._stale and fields["kind"] is not RecordKind.RECOVERED:
            fields |= self._stale_fields(fields["attachment_id"], fields["kind"])
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
        if record.kind is RecordKind.STALE:
            self._stale[about(record)] += 1
        return record

    def _stale_fields(self, attachment_id: str, kind: RecordKind) -> dict[str, Any]:
        return {
            "kind": RecordKind.STALE,
            "said": kind,
            "attachment_id": f"{attachment_id}~{self.writer}",
            "attachment_seq": self._stale[attachment_id] + 1,
        }

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
                self._unwritten.add(r.attachment_id)
                self.lease.need(r.attachment_id)
            elif r.terminal:
                self.lease.spare(r.attachment_id)
        recovered = any(r.kind is RecordKind.RECOVERED for r in records)
        if row is not None and row.attachment_id in self._stale and not recovered:
            row = None
        if row is not None:
            row = replace(_writable_row(row), writer=self.writer)
        stale = any(r.kind is RecordKind.STALE for r in records)
        self._queue.append(_Pending(records, row, done, stale))
        self._flush_soon()
        return done

    async def close(self) -> None:
        """Write what is queued, try once more what the store refused, and write nothing from now on."""
        if self._stuck:
            await self._try_again()
        self._closed = True
        await self.flushed()
        await self.lease.close()
        for task in (self._keeper, self._retrying):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self.checkpoint(closing=True)

    async def flushed(self) -> None:
        """Wait until everything queued so far was written or refused."""
        while self._flusher is not None and not self._flusher.done():
            await asyncio.wait({self._flusher})

    async def caught_up(self) -> None:
        """Wait until the store has taken all there is so far.

        Raises:
            StoreError: It has not.
        """
        await self.flushed()
        if self._stuck:
            await self._try_again()
        if self._stuck and self._refused is not None:
            raise _again(self._refused)

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

    # --- the lease ------------------------------------------------------------------------------------------------

    async def present(self) -> None:
        """Hold a lease that lasts for a while, or a new one, on a store that has leases.

        Raises:
            StoreError: The store failed.
        """
        if not self.lease.counts:
            return
        try:
            await self._worker.run(self._renew)
        except LeaseLost:
            self._lease_taken()
            await self.flushed()
            await self._worker.run(self._renew)
        self.lease.tell()

    def _renew(self) -> None:
        self.lease.renew(always=False)

    def is_over(self, attachment_id: str) -> bool:
        """True when an attachment has to end, or has ended, because the lease does that it is held under."""
        return attachment_id in self._stale or (self.lease.over and not self.unwritten(attachment_id))

    def unwritten(self, attachment_id: str) -> bool:
        """True while the store does not have its beginning: it is under no lease, and nobody else knows it."""
        return attachment_id in self._unwritten

    def _lease_taken(self) -> None:
        self._taken_over = True
        self._flush_soon()

    def _go_on(self, group: Sequence[_Pending]) -> None:
        """Another has taken the lease, and what was begun under it: go on as another writer.

        Args:
            group: What is to be written before all that is queued.
        """
        pending = [*group, *self._queue]
        for p in pending:
            p.records = tuple(r for r in p.records if r.writer_seq > self._written[1])
        records = [r for p in pending for r in p.records]
        begun = {r.attachment_id for r in records if r.opens}
        taken = (self.lease.needed | {r.attachment_id for r in records if r.kind is not RecordKind.STALE}) - begun
        self._stale = dict.fromkeys([*self._stale, *sorted(taken)], 0)
        self._unwritten &= begun
        for attachment_id in taken:
            self.lease.spare(attachment_id)
        self.writer = uuid.uuid4().hex
        self._seq, self._last, self._written = 0, FIRST, (self.writer, 0, FIRST)
        self._known = self._again = False
        self._covered = 0
        self.lease.forget()
        for p in pending:
            p.records = tuple(map(self._restated, p.records))
            p.stale = any(r.kind is RecordKind.STALE for r in p.records)
            if p.row is not None:
                p.row = replace(p.row, writer=self.writer) if p.row.attachment_id not in self._stale else None
        self._stuck, self._queue, self._refused = [], pending, None
        if self._rescue is not None:
            self._old_rescues.append(self._rescue)
            self._rescue = None
        self._on_trouble("lifecycle.lease_lost", store=self.store.url, attachments=len(taken), error="LeaseLost")
        self._on_lease_over()

    def _restated(self, record: Record) -> Record:
        """A record of the last writer as one of this."""
        attachment_id, changed = about(record), {}
        if attachment_id in self._stale:
            changed = self._stale_fields(attachment_id, record.said or record.kind)
            self._stale[attachment_id] += 1
        return self._numbered(record, **changed)

    def _numbered(self, record: Record, **changed: Any) -> Record:  # noqa: ANN401 - the fields of Record
        restated = replace(record, writer=self.writer, writer_seq=self._seq + 1, prev=self._last, **changed)
        self._last = restated.hash.hex()
        self._seq += 1
        return restated

    def stale(self, record: Record, number: int) -> Record:
        """A record of a writer whose lease was taken, as one of this writer, which says it late.

        Args:
            record: The record.
            number: The number of the record among those of its attachment that this writer says.
        """
        return self._numbered(
            record, kind=RecordKind.STALE, said=record.said or record.kind,
            attachment_id=f"{about(record)}~{self.writer}", attachment_seq=number,
        )  # fmt: skip

    # --- writing --------------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

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
        writer, seq, last = self._written
        tip, more = advance(self.store, self._maker(writer), self._clock.utcnow(), closing=closing, own=(seq, last))
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

    def _maker(self, writer: str) -> Maker:
        return Maker(writer, host_name(), os.getpid(), self._version)

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
            announce(self.store, writers, self._maker(self.writer), self._clock.utcnow())
        except ChainBroken as e:
            self._damage = e
            raise self._refusal(e) from e

    def _refusal(self, damage: ChainBroken) -> StoreError:
        message = f"the log in {self.store.url} is damaged, so nothing is added to it: {damage}"
        return StoreError(message, store=self.store.url)

    def _me(self) -> Writer:
        seconds = self.lease.seconds if self.lease.counts else None
        return replace(self._as_writer(self.writer, datetime.now(UTC)), lease_seconds=seconds)

    def _write(self, records: Sequence[Record], rows: Sequence[SessionRow]) -> None:
        if self._damage is not None:
            raise self._refusal(self._damage) from self._damage
        writer, _, _ = self._written
        self.lease.renew(always=not self._known)
        if not self._known:
            self._announce([writer])
            self._known = True
        self._find_written(records)
        records = [r for r in records if r.writer_seq > self._written[1]]
        self._again = True
        self.store.write(records, rows)
        self._again = False
        if records:
            self._written = (writer, records[-1].writer_seq, records[-1].hash.hex())

    def _find_written(self, records: Sequence[Record]) -> None:
        """What seemed to fail may have been written: the disk said so, and the file was looked for in vain after it."""
        writer, last, _ = self._written
        if records and self._again:
            there = self.store.stored(writer=writer, after=last, limit=len(records))
            for stored, record in zip(there, records, strict=False):
                if stored.hash == record.hash:
                    self._written = (writer, record.writer_seq, record.hash.hex())

    async def _flush(self) -> None:
        while self._queue or self._taken_over:
            batch, self._queue = self._queue, []
            taken_over, self._taken_over = self._taken_over, False
            trying, self._trying = self._trying or taken_over, False
            group = [*self._stuck, *batch]
            records, rows = _together(group)
            error: StoreError | None = None
            if self._spool and self._refused is not None and not trying:
                error = self._refused
            else:
                try:
                    try:
                        if taken_over:
                            raise LeaseLost(_LATE, store=self.store.url)
                        await self._worker.run(self._write, records, rows)
                    except LeaseLost:
                        await self._worker.run(self._find_written, records)
                        self._go_on(group)
                        continue
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
                    if error is None and p.stale:
                        p.done.set_exception(LeaseLost(_LATE, store=self.store.url))
                    elif error is None or spooled:
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
        if self._written[1] - self._covered >= CHECKPOINT_RECORDS:
            self._due.set()
        self._unwritten.difference_update(r.attachment_id for r in records if r.opens)
        late, self._stuck, self._refused = [r for p in self._stuck for r in p.records], [], None
        self.lease.tell(again=bool(late))  # some may have come under it by this
        await self._remove_rescues()
        self._tell_of(late, [*records, *(r for p in self._queue for r in p.records)])
        self._tell_of_skew()

    async def _remove_rescues(self) -> None:
        for path in (*self._old_rescues, self._rescue):
            try:
                if path is not None:
                    await self._worker.run(_remove, path)
            except OSError as e:  # who finds it later sees that all of it is in the store
                self._on_trouble("lifecycle.rescue_file_left", path=str(path), error=type(e).__name__)
        self._old_rescues, self._rescue = [], None

    async def _not_taken(self, error: StoreError, batch: Sequence[_Pending], group: list[_Pending]) -> None:
        """The store has refused it: keep it in a rescue file, and try again."""
        self.lease.tell()
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
            for attachment_id, number in Counter(r.attachment_id for r in late if r.said is None).items():
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


def about(record: Record) -> str:
    """The id of the attachment that a record is about, also where that is not its own any more."""
    return record.attachment_id.partition("~")[0]


_LATE: Final = (
    "the lease of this process had ended, and another process has taken over the session meanwhile; what was to be "
    "recorded is in the log as stale, and what was decided there counts"
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
