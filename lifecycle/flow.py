"""Carries one edge out: intent, hooks, steps, commit, and the diversion when a step fails.

Rule: every change of state happens here, in the tick in which its record is queued. All of it runs on the
supervisor's loop. An event is decided and its record numbered before the first await, so events are decided in the
order in which they arrive. Starting fails closed, ending fails open.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lifecycle.attachment import Attachment, describe
from lifecycle.audit import RecordKind, StepResult
from lifecycle.errors import (
    AuditError,
    BackendError,
    ConfigError,
    ConnectionLost,
    GuardRejected,
    InvalidTransition,
    LifecycleError,
    ReleaseFailed,
    SessionEnded,
    StartFailed,
    StoreError,
    UnsupportedOperation,
)
from lifecycle.hooks import Transition
from lifecycle.machine import allowed, commit, decide, fail_edge, failed_guard
from lifecycle.states import STEPS, CloseReason, Event, InFlight, Outcome, Policy, State, Step
from lifecycle.steps import FlowCaller, FlowHost, Steps, StepTimeout, ends_now, within

if TYPE_CHECKING:
    from lifecycle.machine import Decision
    from lifecycle.ports import Backend, BackendEnd
    from lifecycle.states import Edge

__all__ = ["Flow"]

T = TypeVar("T")

OPERATION_BUDGET: Final = 60.0
"""Seconds one operation on the backend may take."""


class Flow:
    """Decides events on attachments and carries their edges out."""

    def __init__(self, host: FlowHost) -> None:
        self._host = host
        self._steps = Steps(host)

    # --- events -------------------------------------------------------------------------------------------------

    async def start(self, att: Attachment, caller: FlowCaller | None) -> None:
        """Take the `start` edge, or `attach` when the attachment was given a session id; done when active.

        Raises:
            InvalidTransition, GuardRejected, SessionEnded: It can't be started as it stands.
            LifecycleError: A step failed; what was opened has been released.
        """
        event = Event.ATTACH if att.guest else Event.START
        decision = decide(att.state, event, att.facts())
        if decision.outcome is not Outcome.EDGE or decision.edge is None:
            raise self._refuse(att, event, decision, caller)
        att.ended = att.ended or asyncio.Event()
        att.gone = asyncio.Event()
        att.in_flight = InFlight(event.value)
        att.created_at = self._host.clock.utcnow()
        att.opened_at = att.last_used = self._host.clock.monotonic()
        self._host.deadlines.watch(DeadlineEntry(self, att))
        intent = self._record(att, RecordKind.INTENT, decision, caller=caller, event=event, row=True)
        work = self._open(att, decision.edge, decision, intent, caller)
        att.opening = opening = self._host.spawn(work, f"{event} {att.attachment_id}")
        await asyncio.wait({opening})
        if att.state is State.ACTIVE and att.in_flight is InFlight.NOTHING:
            return
        if att.state is State.NOT_STARTED or att.in_flight is InFlight.ENDING:
            await att.ended.wait()
        if att.error is not None and att.ending_dest is State.ERROR:
            error = att.error
            if att.guest and att.backend_end is not None and not isinstance(error, SessionEnded):
                error = att.met_end(att.backend_end)  # it ended while it was attached to
            self._told(att, error)
            raise error
        raise att.ended_error()

    async def stop(
        self,
        att: Attachment,
        caller: FlowCaller | None,
        *,
        event: Event = Event.STOP,
        cause: str = "caller",
        reason: CloseReason | None = None,
        error: BaseException | None = None,
    ) -> list[Exception]:
        """Take an ending edge (stop, detach, expire or fail), join the one in flight, or do nothing when over.

        Returns:
            What went wrong in the teardown and nobody was told yet. The session is over all the same.

        Raises:
            InvalidTransition, UnsupportedOperation: A detach that is not possible; the session stays as it is.
        """
        decision = decide(att.state, event, att.facts())
        if decision.outcome is Outcome.REJECTED:
            raise self._refuse(att, event, decision, caller)
        if decision.outcome is Outcome.EDGE and decision.edge is not None:
            if event is Event.EXPIRE and cause == "deadline" and (due := att.deadline()) is not None:
                att.due, reason = due, due.reason
            if reason is None:
                reason = {Event.STOP: CloseReason.MANUAL, Event.DETACH: CloseReason.DETACHED}.get(
                    event, CloseReason.BACKEND
                )
            self._begin_ending(att, decision, caller=caller, cause=cause, reason=reason, error=error)
        else:
            kind = RecordKind.JOINED if decision.outcome is Outcome.JOINS else RecordKind.IGNORED
            self._note(att, kind, decision, caller=caller, event=event, cause=cause, reason=reason, error=error)
            if event is Event.EXPIRE and att.state is State.ACTIVE and att.in_flight is InFlight.NOTHING:
                # Used between its timer and this decision: a deadline that was asked is not watched any more.
                self._host.deadlines.watch(DeadlineEntry(self, att))
        if decision.outcome is not Outcome.IGNORED and att.ended is not None:
            await att.ended.wait()
        if event in (Event.STOP, Event.DETACH) and caller is not None:
            troubles, att.troubles = att.troubles, []
            if decision.outcome is Outcome.JOINS:  # the ending's outcome, whoever began it and was told
                return [_copy(trouble) for trouble in att.outcome]
            return troubles
        return []

    async def operate(
        self,
        att: Attachment,
        caller: FlowCaller | None,
        work: Callable[[Backend], Awaitable[T]],
        *,
        budget: float = OPERATION_BUDGET,
    ) -> T:
        """Run one operation on the backend; moves the idle deadline and holds it meanwhile.

        Args:
            att: The attachment.
            caller: Who asked.
            work: The operation.
            budget: Seconds that it may take.

        Raises:
            InvalidTransition: The session was not started.
            SessionEnded: The session is over or ending.
        """
        if self._host.journal.is_over(att.attachment_id):
            await self.lease_over(att)  # its timer has not had its turn yet
        decision = decide(att.state, Event.OPERATE, att.facts())
        if decision.outcome is not Outcome.EDGE or att.backend is None:
            refusal = self._refuse(att, Event.OPERATE, decision, caller)
            if att.state is not State.ACTIVE or att.in_flight is not InFlight.NOTHING:
                raise refusal
            # The deadline passed, but its timer has not had its turn yet.
            await self.stop(att, None, event=Event.EXPIRE, cause="deadline")
            if att.state.terminal:
                raise att.ended_error()
            return await self.operate(att, caller, work, budget=budget)  # used in this very moment, so it goes on
        att.counts["operations"] = att.counts.get("operations", 0) + 1
        att.busy += 1
        try:
            return await within(self._host.clock, budget, work(att.backend))
        except StepTimeout as e:
            msg = f"the {att.adapter.name} backend did not answer within {budget:g} seconds"
            raise ConnectionLost(msg) from e
        except (ConnectionLost, BackendError) as e:
            if isinstance(e, ConnectionLost) and att.in_flight is InFlight.NOTHING:
                await ends_now(att)  # its report may be on its way: it is the end of the session that shall be told
            if att.in_flight is InFlight.ENDING or att.state.terminal or att.backend_end is not None:
                if att.ended is not None and att.backend_end is not None:
                    await att.ended.wait()
                raise att.ended_error() from e
            raise
        finally:
            att.busy -= 1
            att.used()

    async def extended(self, att: Attachment, caller: FlowCaller | None, minutes: float) -> None:
        """Move the maximum duration, durably. The caller has decided `operate` before."""

        def add(more: float) -> None:
            att.max_minutes += more

        await self._move(att, caller, RecordKind.EXTENDED, minutes, do=lambda: add(minutes), undo=lambda: add(-minutes))

    async def held(self, att: Attachment, caller: FlowCaller | None, reason: str, minutes: float) -> None:
        """Keep the session open without use for `minutes`, durably. The caller has decided `operate` before.

        Raises:
            ConfigError: Its maximum duration ends before.
        """
        now = self._host.clock.monotonic()
        left = (att.opened_at + att.max_minutes * 60 - now) / 60
        if minutes > left:
            way_out = f"at most {left:.4g}, what is left of max_duration_minutes; extend(minutes=...) moves that"
            raise ConfigError(option="minutes", value=minutes, allowed=way_out)
        before, until = att.held_until, now + minutes * 60

        def put(value: float | None) -> None:
            att.held_until = value

        await self._move(
            att, caller, RecordKind.HELD, minutes, do=lambda: put(until), undo=lambda: put(before), note=reason
        )

    async def _move(
        self,
        att: Attachment,
        caller: FlowCaller | None,
        kind: RecordKind,
        minutes: float,
        *,
        do: Callable[[], None],
        undo: Callable[[], None],
        note: str | None = None,
    ) -> None:
        """Move a deadline of an active session, and record it."""
        decision = decide(att.state, Event.OPERATE, att.facts())
        if decision.edge is None:
            refusal = self._refuse(att, Event.OPERATE, decision, caller)
            if att.state is State.ACTIVE and att.in_flight is InFlight.NOTHING:
                # The deadline passed since `operate` was decided, and its timer has not had its turn yet.
                await self.stop(att, None, event=Event.EXPIRE, cause="deadline")
                if att.state.terminal:
                    raise att.ended_error()
            raise refusal
        do()  # before the write, whose row holds it
        self._host.deadlines.watch(DeadlineEntry(self, att))  # it may have come nearer
        counts = {"seconds": round(minutes * 60)}
        try:
            await self._record(
                att, kind, decision, event=Event.OPERATE, caller=caller, row=True, counts=counts, note=note
            )
        except StoreError as e:
            undo()
            # A store that takes its writes later on takes this one too, and after it that it does not hold.
            self._note(
                att, RecordKind.REJECTED, decision, event=Event.OPERATE, caller=caller, error=e, dest=att.state,
                row=not att.state.terminal,
            )  # fmt: skip
            self._host.deadlines.watch(DeadlineEntry(self, att))  # it came nearer again
            raise

    def backend_ended(self, att: Attachment, end: BackendEnd) -> None:
        """The backend ended by itself: an event on its own, or the failure of the step in flight."""
        if att.backend_end is not None:
            return
        att.backend_end = end
        if att.gone is not None:
            att.gone.set()
        if self._host.journal.is_over(att.attachment_id):  # which is why it ended
            self._host.fire(self.lease_over(att), f"lease {att.attachment_id}")
            return
        if att.in_flight in (InFlight.START, InFlight.ATTACH):
            return  # the opening sees it at its next step and diverts
        event = {State.ERROR: Event.FAIL, State.TIMED_OUT: Event.EXPIRE}.get(end.state, Event.STOP)
        error = ConnectionLost(end.detail or "the backend ended") if event is Event.FAIL else None
        cause = "owner" if att.guest else "backend"
        self._host.fire(self._quietly(att, event, cause, end.reason, error), f"{event} {att.attachment_id}")

    def expire(self, att: Attachment) -> None:
        """A deadline passed."""
        self._host.fire(self._quietly(att, Event.EXPIRE, "deadline", None, None), f"expire {att.attachment_id}")

    async def lease_over(self, att: Attachment) -> None:
        """The lease that the attachment is held under ends, or is another's: end it, unless it is ending already."""
        if att.state.terminal or att.in_flight is InFlight.ENDING:
            return
        error = ConnectionLost("the lease of its owner could not be renewed at the store")
        # A guest only leaves: the session is its owner's, who has a lease of its own.
        event = Event.DETACH if att.guest and att.state is State.ACTIVE else Event.FAIL
        await self.stop(att, None, event=event, cause="lease", reason=CloseReason.LEASE_LOST, error=error)

    async def _quietly(
        self, att: Attachment, event: Event, cause: str, reason: CloseReason | None, error: BaseException | None
    ) -> None:
        await self.stop(att, None, event=event, cause=cause, reason=reason, error=error)

    # --- records ------------------------------------------------------------------------------------------------

    def _record(
        self,
        att: Attachment,
        kind: RecordKind,
        decision: Decision,
        *,
        event: Event,
        caller: FlowCaller | None = None,
        cause: str = "caller",
        reason: CloseReason | None = None,
        error: BaseException | None = None,
        steps: list[StepResult] | None = None,
        dest: State | None = None,
        source: State | None = None,
        row: bool = False,
        released: bool = False,
        counts: Mapping[str, int] | None = None,
        note: str | None = None,
    ) -> asyncio.Future[None]:
        """Number a record, queue it, and return the future of its durability."""
        kept = self._host.row_of(att, released=released) if row else None  # before a number is taken: it may raise
        att.seq += 1
        takes = decision.edge is not None
        if counts is None:
            counts = att.counts if kind in (RecordKind.COMMIT, RecordKind.DIVERTED) else {}
        record = self._host.journal.record(
            kind=kind,
            attachment_id=att.attachment_id,
            attachment_seq=att.seq,
            session_id=att.session_id,
            adapter=att.adapter.name,
            event=event,
            source=source or att.state,
            dest=dest or (decision.edge.dest if decision.edge is not None and takes else att.state),
            in_flight=att.in_flight,
            cause=cause,
            close_reason=reason,
            error=type(error).__name__ if error is not None else None,
            guards=decision.guards,
            steps=tuple(steps or ()),
            counts=dict(counts),
            note=note,
            thread=caller.name if caller is not None else "supervisor",
            principal=att.options.principal,
            labels=dict(att.options.labels),
        )
        durable = self._host.journal.append(record, row=kept)
        # The attachment lives until the record is durable, and published in its context.
        durable.add_done_callback(lambda _, _held=att: None)  # type: ignore[misc]
        return durable

    def _note(self, att: Attachment, kind: RecordKind, decision: Decision, **fields: Any) -> None:  # noqa: ANN401
        """Queue a record whose durability nobody waits for; the fields are those of `_record`."""
        self._record(att, kind, decision, **fields).add_done_callback(lambda _: None)

    def _note_given_up(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        caller: FlowCaller | None,
        steps: list[StepResult],
        error: BaseException | None = None,
    ) -> None:
        """Queue the record of a start or attach that was given up; the ending that undoes it may be over by then."""
        self._note(
            att, RecordKind.DIVERTED, decision, event=edge.event, caller=caller, steps=steps, error=error,
            source=edge.source,
        )  # fmt: skip

    def _note_after(
        self, att: Attachment, edge: Edge, decision: Decision, caller: FlowCaller | None, after: list[StepResult]
    ) -> None:
        """Queue the record of the hooks that ran after the commit, where there were any."""
        if after:
            self._note(
                att, RecordKind.HOOKS, decision, event=edge.event, caller=caller, steps=after,
                source=edge.source, dest=edge.dest,
            )  # fmt: skip

    def _refuse(self, att: Attachment, event: Event, decision: Decision, caller: FlowCaller | None) -> LifecycleError:
        """Record a rejected event and make the error that tells the caller."""
        error: LifecycleError
        if event in (Event.OPERATE, Event.START, Event.ATTACH) and (
            att.in_flight is InFlight.ENDING or (att.state.terminal and event is Event.OPERATE)
        ):
            error = att.ended_error()
        elif event is Event.DETACH and att.state is State.ACTIVE:
            error = UnsupportedOperation(
                operation="detach by the owner of the session",
                adapter=att.adapter.name,
                way_out="its browser ends with this process: host it with `lifecycle serve` and attach to it there",
            )
        else:
            failed = failed_guard(decision)
            if failed is not None:
                hint = ""
                if event in (Event.START, Event.ATTACH):
                    hint = f"{att.in_flight} is in flight already; one start is enough"
                error = GuardRejected(guard=failed, state=att.state, event=event, hint=hint)
            else:
                hint = "call start() first, or use the session in a with block" if event is Event.OPERATE else ""
                error = InvalidTransition(state=att.state, event=event, allowed=allowed(att.state), hint=hint)
        self._note(att, RecordKind.REJECTED, decision, caller=caller, event=event, error=error, dest=att.state)
        return error

    # --- opening ------------------------------------------------------------------------------------------------

    async def _open(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        intent: asyncio.Future[None],
        caller: FlowCaller | None,
    ) -> None:
        """The task of a start or attach. Cancelled by `cancel_start` only."""
        steps: list[StepResult] = []
        transition = Transition(event=edge.event, source=edge.source, dest=edge.dest, cause="caller")
        try:
            await asyncio.shield(intent)  # no durable intent, no browser
            await self._steps.run_hooks(att, "before", transition, caller, steps, stop_at_error=True)
            for step in edge.steps:
                error = await self._steps.run(att, step, steps)
                if error is not None:
                    raise error
            if att.backend_end is not None:
                raise ConnectionLost(att.backend_end.detail or "the backend ended while it was being opened")
        except asyncio.CancelledError:
            # An ending is in flight and waits for this task; it says how the attempt went on.
            self._note_given_up(att, edge, decision, caller, steps)
            return
        except Exception as e:  # noqa: BLE001 - whatever a step or hook raised is the cause of the diversion
            self._divert(att, edge, decision, steps, _as_start_error(att, e, steps), caller)
            return
        if att.in_flight is InFlight.ENDING:
            self._note_given_up(att, edge, decision, caller, steps)
            return
        self._steps.warn_of_cookies(att)
        commit(att.standing, edge)
        att.in_flight = InFlight.NOTHING
        att.used()
        durable = self._record(
            att, RecordKind.COMMIT, decision, event=edge.event, caller=caller, steps=steps,
            source=edge.source, dest=edge.dest, row=True,
        )  # fmt: skip
        self._host.opened(att)
        self._host.deadlines.watch(DeadlineEntry(self, att))
        after: list[StepResult] = []
        try:
            await asyncio.shield(durable)
            try:
                await self._steps.run_hooks(att, "after", transition, caller, after, stop_at_error=True)
            finally:
                self._note_after(att, edge, decision, caller, after)
        except asyncio.CancelledError:
            raise
        except Exception as e:  # noqa: BLE001 - the start is reported as failed, so nothing may stay open
            att.error = e
            await self.stop(att, None, event=Event.FAIL, cause="step", reason=CloseReason.BACKEND, error=e)

    def _divert(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        steps: list[StepResult],
        error: Exception,
        caller: FlowCaller | None,
    ) -> None:
        """Leave the opening at a failed step and take the `fail` edge, in one tick."""
        self._note_given_up(att, edge, decision, caller, steps, error)
        if att.in_flight is InFlight.ENDING:
            return  # a stop or expiry came first; it tears down
        fail = decide(att.state, Event.FAIL, att.facts())
        reason = att.backend_end.reason if att.backend_end is not None else CloseReason.BACKEND
        self._begin_ending(att, fail, caller=caller, cause="step", reason=reason, error=error)

    # --- ending -------------------------------------------------------------------------------------------------

    def _begin_ending(
        self,
        att: Attachment,
        decision: Decision,
        *,
        caller: FlowCaller | None,
        cause: str,
        reason: CloseReason,
        error: BaseException | None,
    ) -> None:
        """Decide the end of an attachment: from this tick on nothing else can end it."""
        edge = decision.edge
        assert edge is not None  # noqa: S101 - the caller looked at the outcome
        if att.ended is None:
            att.ended = asyncio.Event()
        intent = self._record(
            att, RecordKind.INTENT, decision, event=edge.event, caller=caller, cause=cause, reason=reason, error=error
        )
        att.in_flight = InFlight.ENDING
        att.ending_dest = edge.dest
        att.close_reason = reason
        att.error = error if error is not None else att.error
        transition = Transition(
            event=edge.event, source=edge.source, dest=edge.dest, cause=cause, close_reason=reason, error=error
        )
        att.ending = self._host.spawn(
            self._end(att, edge, decision, intent, transition, caller), f"{edge.event} {att.attachment_id}"
        )

    async def _end(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        intent: asyncio.Future[None],
        transition: Transition,
        caller: FlowCaller | None,
    ) -> None:
        """The task of an ending. Nothing cancels it, and whatever fails in it, the attachment is over at its end."""
        try:
            await self._carry_out_ending(att, edge, decision, intent, transition, caller)
        except Exception as e:  # noqa: BLE001 - a fault of ours; nobody may wait for ever because of it
            att.troubles.append(e)
            if att.in_flight is InFlight.ENDING:  # else the end is on record, and the fault came after it
                await self._break_off(att, edge, decision, transition, caller, e)
        finally:
            if not att.state.terminal:
                commit(att.standing, fail_edge(edge.source))
            att.ending_dest, att.in_flight = att.state, InFlight.NOTHING
            if edge.source is State.NOT_STARTED and att.opening is not None:
                att.opening.cancel()  # where `cancel_start` failed, its caller would wait for ever
            att.closed_at = att.closed_at or self._host.clock.utcnow()
            att.let_go()
            att.outcome = tuple(_copy(trouble) for trouble in att.troubles)
            self._host.over(att)
            if att.ended is not None:
                att.ended.set()

    async def _break_off(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        transition: Transition,
        caller: FlowCaller | None,
        error: Exception,
    ) -> None:
        """End an attachment whose ending met a fault of ours: release it, and put its end on record, as an error."""
        steps: list[StepResult] = []
        released = False
        try:
            if Step.RELEASE_BACKEND in edge.steps:
                released = await self._steps.release_once(att, steps)
            att.error = error
            failed = fail_edge(edge.source)
            if not att.state.terminal:
                commit(att.standing, failed)
            att.ending_dest = att.state
            att.closed_at = self._host.clock.utcnow()
            att.ended_at = self._host.clock.monotonic()
            durable = self._record(
                att, RecordKind.COMMIT, decision, event=failed.event if att.state is failed.dest else edge.event,
                caller=caller, cause=transition.cause, reason=att.close_reason, error=error, steps=steps,
                source=edge.source, dest=att.state, row=att.opening is not None, released=released,
            )  # fmt: skip
            with contextlib.suppress(StoreError):  # the record is in the journal's rescue file
                await asyncio.shield(durable)
            if released:
                att.backend = None
        except Exception as e:  # noqa: BLE001 - the fault strikes here too; the attachment is over all the same
            error.add_note(f"its end could not be put on record: {type(e).__name__}")

    async def _carry_out_ending(
        self,
        att: Attachment,
        edge: Edge,
        decision: Decision,
        intent: asyncio.Future[None],
        transition: Transition,
        caller: FlowCaller | None,
    ) -> None:
        steps: list[StepResult] = []
        released = True
        if not edge.steps and att.opening is None:
            intent = _done(intent)  # nothing to undo: one write for intent and commit
        try:
            await asyncio.shield(intent)
        except StoreError as e:
            att.troubles.append(e)
        await self._steps.run_hooks(att, "before", transition, caller, steps)
        for step in edge.steps:
            error = await self._steps.run(att, step, steps)
            if error is None:
                continue
            if STEPS[step].policy is Policy.RETRY:
                released = False
                error = error if isinstance(error, ReleaseFailed) else _release_failed(att, error)
                att.error = error
            elif step is Step.CLOSE_CONNECTIONS and edge.event is Event.DETACH:  # no release follows that closes them
                self._host.fire(self._steps.close_late(att), f"late close of {att.attachment_id}")
            att.troubles.append(error)
        if edge.event is Event.DETACH:
            released = False  # on purpose: the session lives on with its owner
        dest_edge = edge
        if edge.steps and not released and edge.event is not Event.DETACH:
            self._note(
                att, RecordKind.DIVERTED, decision, event=edge.event, caller=caller, cause=transition.cause,
                reason=att.close_reason, error=att.error, steps=steps,
            )  # fmt: skip
            steps = []
            dest_edge = fail_edge(edge.source)
        commit(att.standing, dest_edge)
        att.ending_dest = dest_edge.dest
        att.closed_at = self._host.clock.utcnow()
        att.ended_at = self._host.clock.monotonic()
        durable = self._record(
            att, RecordKind.COMMIT, decision, event=dest_edge.event, caller=caller, cause=transition.cause,
            reason=att.close_reason, error=att.error, steps=steps, source=edge.source, dest=dest_edge.dest,
            row=att.opening is not None, released=released and not att.acquiring,
        )  # fmt: skip
        att.in_flight = InFlight.NOTHING
        try:
            await asyncio.shield(durable)
        except StoreError as e:
            if not any(isinstance(t, AuditError) for t in att.troubles):
                att.troubles.append(e)
        after: list[StepResult] = []
        await self._steps.run_hooks(att, "after", transition, caller, after)
        self._note_after(att, edge, decision, caller, after)
        if released:
            att.backend = None

    def _told(self, att: Attachment, error: BaseException) -> None:
        """The caller is being told `error`: what else went wrong is added to it as notes."""
        for trouble in att.troubles:
            if trouble is not error:
                error.add_note(f"while it was torn down: {type(trouble).__name__}: {trouble}")
        att.troubles = []


class DeadlineEntry:
    """An attachment as its timer sees it.

    It does not keep the attachment alive: its client does while it is active, and a deadline may be a week away.
    """

    __slots__ = ("_att", "_flow", "_was")

    def __init__(self, flow: Flow, att: Attachment) -> None:
        self._flow = flow
        self._att = weakref.ref(att)
        self._was = att.in_flight

    def due_at(self) -> float | None:
        """When the attachment is due, as long as it is in the phase that this entry was made for."""
        att = self._att()
        if att is None or att.in_flight is not self._was:
            return None
        due = att.deadline()
        return due.at if due is not None else None

    def on_due(self) -> None:
        """Take the `expire` edge."""
        att = self._att()
        if att is not None:
            self._flow.expire(att)


def _done(intent: asyncio.Future[None]) -> asyncio.Future[None]:
    done: asyncio.Future[None] = intent.get_loop().create_future()
    done.set_result(None)
    return done


def _copy(error: Exception) -> Exception:
    """An error for one more caller: tracebacks and notes of one must not grow on another's."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - a foreign error that can't be copied is shared
        return error
    if isinstance(notes := getattr(error, "__notes__", None), list):
        twin.__notes__ = list(notes)
    twin.__cause__ = error.__cause__
    return twin


def _release_failed(att: Attachment, cause: Exception) -> ReleaseFailed:
    error = ReleaseFailed(
        f"the backend of session {att.session_id} could not be released ({describe(cause)}); its ledger row is kept",
        session_id=att.session_id,
    )
    error.__cause__ = cause
    return error


def _as_start_error(att: Attachment, error: Exception, steps: list[StepResult]) -> Exception:
    """The error that a failed start raises: ours as it is, a foreign one wrapped so that it names the step."""
    if isinstance(error, LifecycleError):
        return error
    step = steps[-1].step if steps else "intent"
    wrapped = StartFailed(
        f"{step} failed on the {att.adapter.name!r} adapter: {type(error).__name__}",  # its text may hold secrets
        step=step,
        adapter=att.adapter.name,
    )
    wrapped.__cause__ = error
    return wrapped
