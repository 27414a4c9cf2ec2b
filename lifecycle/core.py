"""One client as the supervisor sees it: what its handles ask for, and what the flow asks of the engine.

Rule: all of it runs on the supervisor's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import importlib
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from lifecycle.actions import OperationPolicy, budget_of
from lifecycle.attachment import Attachment, SessionStatus
from lifecycle.clocks import SystemClock
from lifecycle.errors import (
    AuditError,
    BackendError,
    ConfigError,
    ConnectionLost,
    CookieError,
    CookieFileError,
    HookError,
    ReleaseFailed,
    StartFailed,
    UnsupportedOperation,
    UsageError,
)
from lifecycle.flow import Flow
from lifecycle.hooks import refuse_in_hook
from lifecycle.identity import host_name
from lifecycle.journal import Journal, about
from lifecycle.lease import LEASE_SECONDS
from lifecycle.logs import event_fields, session_fields
from lifecycle.machine import edge_of
from lifecycle.ports import BackendEnd, CdpPipe, CdpSocket, Directory, Operator
from lifecycle.states import CloseReason, Event, InFlight, State
from lifecycle.steps import HookStruck

if TYPE_CHECKING:
    from lifecycle.actions import Action, ActionResult, Observation, ObserveRequest, Scrape, ScrapeRequest
    from lifecycle.audit import Record
    from lifecycle.audit.notes import Publisher
    from lifecycle.callers import Caller
    from lifecycle.client import BaseClient
    from lifecycle.control import GuestBackend
    from lifecycle.cookies import Cookie
    from lifecycle.engine import OpenStore, Supervisor
    from lifecycle.hooks import Hook, Transition
    from lifecycle.keyed import Holding
    from lifecycle.peers import Peers
    from lifecycle.ports import Adapter, Backend, CdpEndpoint, Clock, Host, SessionRow, Store

__all__ = ["ClientCore", "merge", "unknown_session"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_NEEDED: Final = (
    "filelock",
    "lifecycle.control",
    "lifecycle.cookies",
    "lifecycle.directory",
    "lifecycle.keyed",
    "lifecycle.recovery",
    "platformdirs",
    "unicodedata",
)
"""Modules that `import lifecycle` leaves out, and that the edges of any session may need."""

_REF: Final = ("session_id", "adapter", "store")

_process_clock: Final = SystemClock()

GUESTS_WAIT: Final = 10.0
"""Seconds that a guest waits for an operation on top of what its owner gives it."""

REAP_GRACE: Final = 2.0
"""Seconds of real time that the end of a client leaves to the reaping that its start began."""

ENDING_GRACE: Final = 2.0
"""Seconds of real time in which a process whose control socket is gone is seen to have ended."""


class _Host:
    """The port that an adapter talks to, for one attachment."""

    __slots__ = ("_att", "_core")

    def __init__(self, core: ClientCore, att: Attachment) -> None:
        self._core = core
        self._att = att

    @property
    def clock(self) -> Clock:
        return self._core.clock

    def ended(self, end: BackendEnd) -> None:
        self._core.supervisor.thread.post(self._core.flow.backend_ended, self._att, end)

    def used(self) -> None:
        self._att.used()

    async def journal(self, facts: Mapping[str, str]) -> None:
        self._att.facts_kept.update(facts)
        if self._att.session_id is None:  # a service gave it, and there is a row from now on
            self._att.session_id = facts.get("session_id")
        row = self._core.row_of(self._att, released=False)
        if row is not None:
            await self._core.journal.append(row=row)

    def follow_lease(self, follow: Callable[[float], None]) -> None:
        self._att.on_lease = follow
        until = self._core.journal.lease.held_until
        if until is not None and not self._core.journal.unwritten(self._att.attachment_id):
            follow(until)

    async def run_blocking(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._core.supervisor.run_blocking(func, *args)

    async def serve_cdp(self, connection: CdpPipe | CdpSocket) -> CdpEndpoint:
        def lost(reason: str) -> None:
            self.ended(BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail=reason))

        return await self._core.supervisor.gateway().serve(connection, on_use=self._att.used, on_lost=lost)


class ClientCore:
    """One client as the supervisor sees it: its adapter, store, clock, hooks and attachments."""

    def __init__(
        self,
        sup: Supervisor,
        adapter: Adapter,
        clock: Clock | None,
        *,
        owns_adapter: bool = False,
        peers: Peers | None = None,
    ) -> None:
        self.supervisor = sup
        self.adapter = adapter
        self._owns_adapter = owns_adapter
        self.clock: Clock = clock if clock is not None else _process_clock
        self.client: Callable[[], BaseClient | None] = lambda: None  # weak: a dropped client must be seen to be gone
        self.handles: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self.subscribers: list[Callable[[Record | None], None]] = []
        self.telling: list[Callable[[], Awaitable[None]]] = []
        """What is waited for when everything was told, at the end of the client and of the process."""
        self.active: dict[str, Attachment] = {}
        self._contexts: weakref.WeakValueDictionary[str, Attachment] = weakref.WeakValueDictionary()
        self._opened: OpenStore | None = None
        self._store_url = ""
        self.address: str | None = None
        """Where clients on other hosts reach the server that owns its sessions."""
        self.peers = peers
        self._reached: dict[str, Adapter] = {}
        """The servers on other hosts, by their address."""
        self.policy = OperationPolicy()
        """What operations on pages may do beyond the page."""
        self.closed = False
        self._reaping: asyncio.Task[list[SessionStatus]] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._publisher: Publisher | None = None
        """What the start of the client found left behind, until it was told of."""
        self._life = asyncio.Lock()  # a loop of the supervisor's own, never a caller's
        self.flow = Flow(self)

    # --- life of the client -------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Import what edges will need, before there are any.

        A signal that strikes a caller in the middle of an import can leave the import lock held for good (seen), and
        an edge that imported something then would never end.
        """
        for module in (*_NEEDED, *(("lifecycle.gateway",) if "pages" in self.adapter.capabilities else ())):
            importlib.import_module(module)

    async def open(
        self,
        store: str | Store | None,
        *,
        reap: bool = False,
        publisher: Publisher | None = None,
        spool: bool = False,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Open the store and begin to write; not when `close` came first. Checkpoints of its log go to `publisher`.

        With `reap`, sessions that others left behind are ended meanwhile; nobody waits for it. On a store that has
        leases that is done again and again, since nothing tells of a lease that ends.
        """
        self._load()
        if self.peers is not None:  # loads what attaching there will need, and sees that the token can be sent
            await (await self.supervisor.run_blocking(self.peers.adapter, "https://localhost")).aclose()
        async with self._life:
            if not self.closed:
                await self._open(store, spool=spool, lease_seconds=lease_seconds)
                if publisher is not None:
                    self._publisher = publisher
                    self.journal.publishers.append(publisher)
                if reap:
                    self._reaping = self.supervisor.spawn(self._reap(dry_run=False), "reap")
                    self._reaping.add_done_callback(self._reaped)
                    if self.journal.lease.counts:
                        self._sweeping = self.supervisor.spawn(self._keep_reaping(), "reap again")

    async def _keep_reaping(self) -> None:
        while True:
            await asyncio.sleep(self.journal.lease.seconds / 2)
            begun = self.supervisor.spawn(self._reap(dry_run=False), "reap")
            begun.add_done_callback(self._reaped)
            try:
                await asyncio.wait({begun})
            finally:
                begun.cancel()

    def _reaped(self, task: asyncio.Task[list[SessionStatus]]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.supervisor.log_event("lifecycle.reap_failed", error=type(error).__name__)

    async def _open(self, store: str | Store | None, *, spool: bool, lease_seconds: float) -> None:
        opened = await self.supervisor.open_store(store)
        if "cdp" in self.adapter.capabilities:
            self.supervisor.reserve_gateway()
        self._opened = opened
        self._store_url = opened.store.url
        self.deadlines = self.supervisor.deadlines(self.clock)
        sup, key = self.supervisor, (id(self.clock), spool, lease_seconds)
        journal = opened.journals.get(key)
        if journal is None:
            journal = Journal(
                opened.store,
                self.clock,
                opened.worker,
                as_writer=self.supervisor.owner.writer,
                on_record=self.supervisor_record,
                on_late=self.supervisor_late,
                on_trouble=self.supervisor.log_event,
                on_lease=lambda until: sup.for_all(opened, key, lambda core: core.hold_until(until)),
                on_lease_over=lambda: sup.for_all(opened, key, ClientCore.lease_over),
                lease_seconds=lease_seconds,
                spool=spool,
            )
            opened.journals[key] = journal
        self.journal = journal
        self.supervisor.cores.add(self)

    def hold_until(self, until: float) -> None:
        """The lease lasts until then: tell the backends that end with it."""
        for att in list(self.active.values()):
            if att.on_lease is not None and not self.journal.unwritten(att.attachment_id):
                att.on_lease(until)

    def lease_over(self) -> None:
        """The lease ends, or another has it: end what was held under it. Nothing new."""
        for att in list(self.active.values()):
            if att.in_flight is not InFlight.ENDING and self.journal.is_over(att.attachment_id):
                self.fire(self.flow.lease_over(att), f"lease {att.attachment_id}")

    def supervisor_record(self, record: Record) -> None:
        """A record became durable: tell whichever client it belongs to."""
        for core in list(self.supervisor.cores):
            if about(record) in core._contexts:  # noqa: SLF001 - clients that share a store share its journal
                core.publish(record)

    def supervisor_late(self, last: Record, number: int) -> None:
        """Records of an attachment are in the store that it had refused: note it, whoever's they are."""
        cores = list(self.supervisor.cores)
        found = (core._contexts.get(last.attachment_id) for core in cores)  # noqa: SLF001 - as above
        att = next((att for att in found if att is not None), None)
        if att is None:  # nothing more comes of it
            att_seq = last.attachment_seq + 1
        else:
            att.seq += 1
            att_seq = att.seq
        noted = self.journal.append(self.journal.late(last, number, attachment_seq=att_seq))
        noted.add_done_callback(lambda _: None)

    def publish(self, record: Record) -> None:
        """Tell the host's log and the readers of this client's events of a record that is durable."""
        fields = {"kind": record.kind.value, **session_fields(record), **event_fields(record)}
        self.supervisor.log_event(f"lifecycle.{record.kind}", self.context_of(about(record)), **fields)
        for watch in list(self.supervisor.watchers):
            watch(record)
        for subscriber in list(self.subscribers):
            subscriber(record)

    def context_of(self, attachment_id: str) -> contextvars.Context | None:
        """The context of an attachment's last caller; None for one that this client does not hold."""
        att = self._contexts.get(attachment_id)
        return att.context if att is not None else None

    async def told(self) -> None:
        """Wait until those who are told of records off the edge have told it on, as long as each of them allows."""
        for wait in list(self.telling):
            await wait()

    async def end_all(self, cause: str, reason: CloseReason) -> list[Exception]:
        """End every active attachment at once; what went wrong and nobody was told."""
        return await self.end_some(list(self.active.values()), cause, reason)

    async def end_some(self, atts: Sequence[Attachment], cause: str, reason: CloseReason) -> list[Exception]:
        """End some attachments of this client at once; what went wrong and nobody was told."""
        ends = []
        for att in atts:
            leaves = att.guest and att.options.on_exit == "detach" and att.state is State.ACTIVE
            event, why = (Event.DETACH, CloseReason.DETACHED) if leaves else (Event.STOP, reason)
            ends.append(self.flow.stop(att, None, event=event, cause=cause, reason=why))
        results = await asyncio.gather(*ends, return_exceptions=True)
        troubles = [r for r in results if isinstance(r, Exception)]
        for att in atts:
            if att.ending is not None and not att.ending.done():
                await asyncio.wait({att.ending})  # a detach joins no ending; and hooks may still run after a commit
            troubles += att.troubles
            att.troubles = []
        return troubles

    async def close(
        self, caller: Caller | None = None, *, cause: str = "caller", reason: CloseReason = CloseReason.MANUAL
    ) -> list[Exception]:
        """Stop what is active, close the store and end the event streams. Idempotent."""
        if caller is not None:
            for att in self.active.values():
                self._refuse_in_hook("client.close()", att, caller)
        self.closed = True
        async with self._life:  # an opening whose caller was struck may be under way
            if self._opened is None:
                return []
            return await self._close(self._opened, cause, reason)

    async def close_quietly(self, cause: str, reason: CloseReason) -> None:
        """Close with nobody to tell."""
        await self.close(cause=cause, reason=reason)

    async def _close(self, opened: OpenStore, cause: str, reason: CloseReason) -> list[Exception]:
        troubles = await self.end_all(cause, reason)
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if self._reaping is not None:
            await asyncio.wait({self._reaping}, timeout=REAP_GRACE)
            self._reaping.cancel()  # what is not done then is left to the next client
            await asyncio.wait({self._reaping})
        await self.journal.flushed()
        await self.told()
        await self.supervisor.logs_flushed()  # after it: it may log that it was late
        for subscriber in list(self.subscribers):
            subscriber(None)
        self.subscribers.clear()
        self.supervisor.cores.discard(self)
        self._opened = None
        for att in list(self._contexts.values()):  # who waits for the end of a session that never began
            if att.state is State.NOT_STARTED and att.in_flight is InFlight.NOTHING and att.ended is not None:
                att.ended.set()
        for adapter in (*self._reached.values(), *([self.adapter] if self._owns_adapter else [])):
            try:
                await adapter.aclose()
            except Exception as e:  # noqa: BLE001 - a foreign adapter may raise anything; the store is closed all the same
                troubles.append(e)
        self._reached.clear()
        if self._publisher is not None and opened.users > 1:
            await self.journal.checkpoint()  # others go on with this log, and what this client wrote is told now
        await self.supervisor.close_store(opened)
        if self._publisher is not None:
            self.journal.publishers.remove(self._publisher)
        if (lost := self.journal.lost()) is not None and not any(isinstance(t, AuditError) for t in troubles):
            troubles.append(lost)
        return troubles

    def check_open(self) -> None:
        """Raise UsageError once the client is closed."""
        if self.closed:
            msg = "the client is closed; make a new one"
            raise UsageError(msg)

    # --- calls of handles ---------------------------------------------------------------------------------------

    def _arrives(self, att: Attachment, caller: Caller | None) -> None:
        if caller is not None:
            att.context = caller.context
        self._contexts[att.attachment_id] = att

    async def start(self, att: Attachment, caller: Caller) -> None:
        """Start or attach."""
        self._arrives(att, caller)
        await self.supervisor.ensure_control()
        key: Holding | None = None
        if att.options.idempotency_key is not None:
            from lifecycle.keyed import get_or_create  # noqa: PLC0415 - only sessions with a key need it

            key = await get_or_create(self, att)
        try:
            await self._find_way(att)
            self.check_open()  # after the waits on the way, in which the client may be closed
            if self.supervisor.exiting:
                msg = "the interpreter is ending, so a session that starts now would have no end"
                raise UsageError(msg)
            if att.state is State.NOT_STARTED and att.in_flight is InFlight.NOTHING:  # else it is refused
                self.active[att.attachment_id] = att
                if not att.guest and att.session_id is not None:
                    self.supervisor.registry(att).setdefault(att.session_id, (self, att))
            await self.flow.start(att, caller)
        finally:
            if att.state is State.NOT_STARTED and att.in_flight is InFlight.NOTHING:
                self.active.pop(att.attachment_id, None)
            if key is not None:
                await key.settle()

    async def end(
        self, att: Attachment, caller: Caller | None, event: Event = Event.STOP, cause: str = "caller"
    ) -> None:
        """Stop or detach, and raise what went wrong in the teardown."""
        self._arrives(att, caller)
        if caller is not None and event is not Event.DETACH:
            self._refuse_in_hook("stop()", att, caller)
        reason = CloseReason.ABANDONED if cause == "abandoned" else None
        troubles = await self.flow.stop(att, caller, event=event, cause=cause, reason=reason)
        if troubles:
            raise merge(troubles)

    async def _find_way(self, att: Attachment) -> None:
        """Have a guest go by the server of its owner, where that is on another host.

        Raises:
            StartFailed: There is no way to it; says what is missing.
        """
        if att.guest and att.state is State.NOT_STARTED and "attach" not in att.adapter.capabilities:
            await self.journal.flushed()
            row = await self.row(att.session_id or "")
            if row is not None and row.state is State.ACTIVE and row.host != host_name():
                att.adapter = await self.peer(row)

    async def peer(self, row: SessionRow) -> Adapter:
        """What speaks to the server that owns a session on another host.

        Raises:
            StartFailed: There is none, or it can't be spoken to; says what is missing.
        """
        where = f"session {row.session_id} is owned by process {row.owner_pid} on host {row.host}, which"
        if row.address is None:
            why = f"{where} lets no other host in: serve it there, with `lifecycle serve --allow-remote`"
        elif self.peers is None:
            why = f"{where} is reached at {row.address} with a token: Client(peers=lifecycle.Peers(token=...))"
        else:
            try:
                if row.address not in self._reached:
                    self._reached[row.address] = await self.run_blocking(self.peers.adapter, row.address)
                return self._reached[row.address]
            except ConfigError as e:
                why = f"{where} is reached at {row.address}, which is not allowed ({e.allowed})"
        raise StartFailed(why, step="probe_backend", adapter=row.adapter)

    def left_block(self, att: Attachment, cause: str = "interrupted") -> None:
        """End an attachment with nobody to wait for it: an exception struck inside the library, or as `cause` says."""
        if not att.state.terminal and att.in_flight is not InFlight.ENDING:
            detach = att.guest and att.options.on_exit == "detach" and att.state is State.ACTIVE
            event, reason = (Event.DETACH, CloseReason.DETACHED) if detach else (Event.STOP, CloseReason.MANUAL)
            self.fire(self._end_quietly(att, event, cause, reason), "left block")

    async def _end_quietly(self, att: Attachment, event: Event, cause: str, reason: CloseReason) -> None:
        await self.flow.stop(att, None, event=event, cause=cause, reason=reason)

    async def leave(self, att: Attachment, caller: Caller) -> None:
        """The end of a with block: what `on_exit` says; when it is over already, tell what nobody heard."""
        event = Event.DETACH if att.options.on_exit == "detach" else Event.STOP
        if att.state.terminal:
            troubles, att.troubles = att.troubles, []
            if troubles:
                raise merge(troubles)
            return
        await self.end(att, caller, event)

    async def touch(self, att: Attachment, caller: Caller) -> None:
        """An operation that asks nothing of the backend: use, or the error that the session is over."""

        async def nothing(_: Backend) -> None:
            return

        await self.operate(att, caller, nothing)

    async def read_cookie_file(
        self, path: str | os.PathLike[str]
    ) -> tuple[Sequence[Cookie], Sequence[tuple[str, str]]]:
        """The cookies of a file, and those that can't be read, each with the reason."""
        from lifecycle.cookies import read_cookie_file  # noqa: PLC0415 - only who uses cookies pays for them

        now = self.clock.utcnow().timestamp()
        loaded = await self.run_blocking(lambda: read_cookie_file(os.fspath(path), now=now))
        if not loaded.existed:
            raise CookieFileError(path=os.fspath(path), reason="there is no such file")
        return loaded.cookies, loaded.rejected

    async def operate(self, att: Attachment, caller: Caller, work: Callable[[Backend], Awaitable[T]]) -> T:
        """One operation on the backend."""
        self._arrives(att, caller)
        return await self.flow.operate(att, caller, work)

    # --- operations on pages ------------------------------------------------------------------------------------

    async def execute(self, att: Attachment, caller: Caller | None, action: Action) -> ActionResult:
        """Do one action on the page."""
        return await self._on_page(att, caller, action, lambda operator: operator.execute(action))

    async def observe(self, att: Attachment, caller: Caller | None, request: ObserveRequest) -> Observation:
        """Look at the page."""
        return await self._on_page(att, caller, request, lambda operator: operator.observe(request))

    async def scrape(self, att: Attachment, caller: Caller | None, request: ScrapeRequest) -> Scrape:
        """Read the page."""
        return await self._on_page(att, caller, request, lambda operator: operator.scrape(request))

    async def _on_page(
        self,
        att: Attachment,
        caller: Caller | None,
        request: Action | ObserveRequest | ScrapeRequest,
        ask: Callable[[Operator], Awaitable[T]],
    ) -> T:
        """One operation, by the backend itself or by our own client of its browser. It counts as use."""
        self._arrives(att, caller)

        async def work(backend: Backend) -> T:
            return await ask(await self._operator(att, backend))

        owners = budget_of(request)
        return await self.flow.operate(att, caller, work, budget=owners + GUESTS_WAIT if att.guest else owners)

    async def _operator(self, att: Attachment, backend: Backend) -> Operator:
        if isinstance(backend, Operator):
            return backend
        endpoint: CdpEndpoint | None = getattr(backend, "endpoint", None)  # optional in the port
        if endpoint is None or "pages" not in self.adapter.capabilities:
            raise UnsupportedOperation(
                operation="an operation on a page",
                adapter=self.adapter.name,
                way_out='use Client(adapter="local") for a session with a browser and pages',
            )
        # On a worker: it takes a while, and a struck import elsewhere must not hold up the loop.
        module = await self.supervisor.run_blocking(importlib.import_module, "lifecycle.operator")
        if att.in_flight is InFlight.ENDING or att.state.terminal:
            raise ConnectionLost("the session is ending")  # its connections are being closed, or were
        operator = att.operator
        if operator is None:
            driver = self.supervisor.driver(module.Driver)
            operator = att.operator = module.PageOperator(
                endpoint, driver, self.host_of(att), adapter=self.adapter.name, policy=self.policy
            )
        made: Operator = operator
        return made

    async def status(self, att: Attachment) -> SessionStatus:
        """What is known of the attachment's session now."""
        from lifecycle.control import GuestBackend, OwnerSilent  # noqa: PLC0415 - loaded with the first session

        if isinstance(att.backend, GuestBackend) and att.state is State.ACTIVE:
            try:
                return SessionStatus.from_json(await att.backend.status())
            except OwnerSilent:  # what it wrote last is all there is
                row = await self.row(att.backend.session_id)
                if row is not None:
                    return await self.as_it_stands(row)
            except ConnectionLost:  # it is over, and this attachment follows
                if att.ended is not None:
                    await att.ended.wait()
        elif att.guest and att.state is State.ACTIVE and isinstance(att.adapter, Directory):
            with contextlib.suppress(ConfigError):  # only this attachment knows it
                return await self.get_session(att.session_id or "")
        return att.status()

    async def extend(self, att: Attachment, caller: Caller | None, minutes: float) -> None:
        """Move the maximum duration by `minutes`; durable before it is acknowledged."""
        await self._move(att, caller, "extend", "max_duration_minutes", lambda owner: owner.extend(minutes))
        if not att.guest:
            await self.flow.extended(att, caller, minutes)

    async def hold(self, att: Attachment, caller: Caller | None, reason: str, minutes: float) -> None:
        """Keep the session open without use for `minutes`; durable before it is acknowledged."""
        await self._move(att, caller, "hold", "timeout_minutes", lambda owner: owner.hold(reason, minutes))
        if not att.guest:
            await self.flow.held(att, caller, reason, minutes)

    async def _move(
        self,
        att: Attachment,
        caller: Caller | None,
        operation: str,
        option: str,
        ask: Callable[[GuestBackend], Awaitable[None]],
    ) -> None:
        """See that a deadline can be moved; a guest has its owner do it."""
        from lifecycle.control import GuestBackend  # noqa: PLC0415 - loaded with the first session

        self._arrives(att, caller)
        if "fixed_duration" in att.adapter.capabilities:
            raise UnsupportedOperation(
                operation=operation,
                adapter=att.adapter.name,
                way_out=f"its service takes its time limits at the start: give {option}= there",
            )

        async def check(backend: Backend) -> None:
            if isinstance(backend, GuestBackend):
                await ask(backend)

        await self.flow.operate(att, caller, check)

    def _refuse_in_hook(self, what: str, att: Attachment, caller: Caller) -> None:
        """Raise UsageError in a hook of the attachment, or of the owner of its session, which it would wait for."""
        refuse_in_hook(what, att.attachment_id, caller.context)
        owner = self._here(att.session_id or "")
        if owner is not None:
            refuse_in_hook(what, owner[1].attachment_id, caller.context)

    async def wait_ended(self, att: Attachment, caller: Caller) -> SessionStatus:
        """Wait until the attachment is over."""
        self._refuse_in_hook("wait_ended()", att, caller)
        self._arrives(att, caller)
        if att.state is State.NOT_STARTED and att.in_flight is InFlight.NOTHING:
            self.check_open()  # it will never begin, so it will never end
        # Once the end is committed its hooks run; who waited before that waits for them too.
        if not att.state.terminal or (att.ending is not None and not att.ending.done()):
            att.ended = att.ended or asyncio.Event()
            await att.ended.wait()
            if att.state is State.NOT_STARTED:
                self.check_open()
        await self.journal.flushed()  # nothing is told before it is durable
        return att.status()

    async def history(self, att: Attachment) -> Sequence[Record]:
        """The records of the attachment's session, of every attachment where it has an id."""
        await self.journal.flushed()
        found: dict[int, Record] = {}
        if att.session_id is None or "assigns_ids" in att.adapter.capabilities:
            # Those of before the service gave the session its id do not hold it.
            found.update(await self.read(lambda s: s.records(attachment_id=att.attachment_id)))
        if att.session_id is not None:
            found.update(await self.read(lambda s: s.records(session_id=att.session_id)))
        return [found[number] for number in sorted(found)]

    async def read(self, query: Callable[[Store], T]) -> T:
        """Run a query on the store's own thread."""
        if self._opened is None:
            self.check_open()
        assert self._opened is not None  # noqa: S101 - open as long as the client is
        return await self._opened.worker.run(query, self._opened.store)

    async def row(self, session_id: str) -> SessionRow | None:
        """The ledger row of a session."""
        return await self.read(lambda s: s.session(session_id))

    # --- sessions by id -----------------------------------------------------------------------------------------

    def ref(self, session_id: str) -> dict[str, str]:
        """What another process finds the session by: plain JSON, no secrets."""
        return {"session_id": session_id, "adapter": self.adapter.name, "store": self._store_url}

    def referred(self, ref: Mapping[str, object]) -> str:
        """The id in what `ref` gave, where this client can find that session.

        Raises:
            ConfigError: It is no reference, or one of another adapter or store.
        """
        given = {name: ref.get(name) for name in _REF}
        if set(ref) != set(_REF) or not all(isinstance(value, str) and value for value in given.values()):
            raise ConfigError(
                option="session_id", value=sorted(map(str, ref)), allowed=f"what ref() gave: {', '.join(_REF)}"
            )
        if given["adapter"] != self.adapter.name:
            raise ConfigError(
                option="session_id",
                value=f"a session of the adapter {given['adapter']!r}",
                allowed=f"one of this client's adapter; make it with Client(adapter={given['adapter']!r})",
            )
        if given["store"] != self._store_url and "attach" not in self.adapter.capabilities:
            raise ConfigError(
                option="session_id",
                value=f"a session in the store {given['store']}",
                allowed=f"one in this client's store; make it with Client(store={given['store']!r})",
            )
        return str(given["session_id"])

    def _here(self, session_id: str) -> tuple[ClientCore, Attachment] | None:
        """The attachment that opened a session, where this process holds it.

        A process that uses a service and is that service holds two for one id: that of this adapter's kind counts.
        """
        sup = self.supervisor
        served = "assigns_ids" in self.adapter.capabilities
        mine, others = (sup.served, sup.owned) if served else (sup.owned, sup.served)
        found = mine.get(session_id) or others.get(session_id)
        same_store = found is not None and found[0]._opened is self._opened  # noqa: SLF001 - another of the same kind
        return found if found is None or found is mine.get(session_id) or same_store else None

    def own_status(self, session_id: str) -> SessionStatus | None:
        """The status of a session that this process owns, None of any other."""
        found = self._here(session_id)
        return found[1].status() if found is not None else None

    async def as_it_stands(self, row: SessionRow) -> SessionStatus:
        """A row's status, unless this process owns the session, or its owner has ended without a word."""
        if (own := self.own_status(row.session_id)) is not None:
            return own
        status = SessionStatus.of_row(row, self.clock.utcnow())
        if not row.state.terminal:
            from lifecycle.recovery import lost_by, owner_ended  # noqa: PLC0415 - only sessions of other processes need it

            if (reason := await self.read(lambda s: lost_by(s, row))) is not None:
                return dataclasses.replace(
                    status, status=State.ERROR, close_reason=reason, expires_at=None, error=owner_ended(row, reason)
                )
        return status

    async def list_sessions(
        self, status: State | None, labels: Mapping[str, str] | None, limit: int, offset: int
    ) -> list[SessionStatus]:
        """Statuses, newest first; those owned by this process, or by a service, as they are now."""
        await self.journal.flushed()
        if isinstance(self.adapter, Directory):
            from lifecycle.directory import list_known  # noqa: PLC0415 - only clients of a service need it

            return await list_known(self, self.adapter, status, labels, limit, offset)
        rows = await self.read(lambda s: s.sessions(status=status, labels=labels, limit=limit, offset=offset))
        found = [await self.as_it_stands(row) for row in rows]
        return [s for s in found if status is None or s.status is status]

    async def reap(self, *, dry_run: bool) -> list[SessionStatus]:
        """See `lifecycle.recovery.reap`; tells too, once, of what the start of the client ended."""
        told: dict[str | None, SessionStatus] = {}
        if (begun := self._reaping) is not None:
            await asyncio.wait({begun})
            if not dry_run and begun is self._reaping:
                self._reaping = None
                if not begun.cancelled() and begun.exception() is None:
                    told = {status.session_id: status for status in begun.result()}
        told |= {status.session_id: status for status in await self._reap(dry_run=dry_run)}
        return list(told.values())

    async def _reap(self, *, dry_run: bool) -> list[SessionStatus]:
        from lifecycle.recovery import reap  # noqa: PLC0415 - loaded with the first session

        return await reap(self, dry_run=dry_run)

    async def get_session(self, session_id: str) -> SessionStatus:
        """The status of one session.

        Raises:
            ConfigError: There is none with this id in the store.
        """
        await self.journal.flushed()
        row = await self.row(session_id)
        if (directory := self._directory(row)) is not None:
            from lifecycle.directory import get_known  # noqa: PLC0415 - only clients of a service need it

            status = self.own_status(session_id) or await get_known(self, directory, session_id, row)
            if status is None:
                raise unknown_session(session_id)
            return status
        if row is None:
            raise unknown_session(session_id)
        if row.host != host_name():
            return await self._get_elsewhere(row)
        if self._here(session_id) is None and row.state is State.ACTIVE and row.control is not None:
            from lifecycle.control import ask  # noqa: PLC0415 - only sessions of other processes need it

            # It is over, or its owner is, or is stuck: the row is all there is.
            with contextlib.suppress(ConnectionLost):
                return SessionStatus.from_json(await ask(row.control, "status", session_id))
            row = await self.row(session_id) or row
        return await self.as_it_stands(row)

    async def _get_elsewhere(self, row: SessionRow) -> SessionStatus:
        """The status of a session of another host: what its owner says, where that can be asked."""
        from lifecycle.directory import told  # noqa: PLC0415 - only sessions of other hosts need it

        status = await self.as_it_stands(row)
        if not status.status.terminal and row.address is not None and self.peers is not None:
            with contextlib.suppress(BackendError):  # the row is all there is
                owner = await self.peer(row)
                if isinstance(owner, Directory) and (known := await owner.get(row.session_id)) is not None:
                    return told(known, row, row.adapter, self.clock.utcnow())
        return status

    async def _stop_elsewhere(self, row: SessionRow) -> SessionStatus:
        """Have the owner of a session on another host stop it.

        Raises:
            ReleaseFailed: It could not be asked, or it could not release it.
        """
        try:
            owner = await self.peer(row)
            if isinstance(owner, Directory):
                await owner.stop(row.session_id)
        except (StartFailed, ConnectionLost, ReleaseFailed) as e:
            status = await self.as_it_stands(await self.row(row.session_id) or row)
            if status.status.terminal:
                return status
            if isinstance(e, ReleaseFailed):
                raise
            raise ReleaseFailed(f"{e}; it is still {status.status}", session_id=row.session_id) from e
        return await self._get_elsewhere(await self.row(row.session_id) or row)

    def _directory(self, row: SessionRow | None) -> Directory | None:
        """The adapter, where it can tell of the session: one that it may own."""
        theirs = row is None or row.adapter == self.adapter.name
        return self.adapter if theirs and isinstance(self.adapter, Directory) else None

    async def _stop_at(self, directory: Directory, session_id: str) -> SessionStatus:
        """Have a session stopped by the service that owns it, which tells how it stands then."""
        from lifecycle.directory import get_known  # noqa: PLC0415 - only clients of a service need it

        row = await self.row(session_id)
        status = await get_known(self, directory, session_id, row)
        if status is not None and not status.status.terminal:
            await directory.stop(session_id)
            status = await get_known(self, directory, session_id, row)
        if status is None:
            raise unknown_session(session_id)
        return status

    async def stop_session(self, session_id: str, caller: Caller) -> SessionStatus:
        """Stop a session by id, wherever its owner is. Idempotent.

        Raises:
            ConfigError: There is none with this id in the store.
            ReleaseFailed: It is not over: its owner does not answer, can't be reached, or could not release it.
        """
        found = self._here(session_id)
        if found is not None:
            self._refuse_in_hook("sessions.stop()", found[1], caller)
        if found is not None and found[0]._opened is self._opened:  # noqa: SLF001 - of a client on the same store
            core, att = found
            await core.flow.stop(att, None, cause="sessions.stop", reason=CloseReason.MANUAL)
            for trouble in att.outcome:
                if isinstance(trouble, ReleaseFailed):
                    raise trouble
            return att.status()
        await self.journal.flushed()
        row = await self.row(session_id)
        directory = self._directory(row)
        if directory is not None and (row is None or row.control is None or found is not None):
            return await self._stop_at(directory, session_id)
        if row is None:
            raise unknown_session(session_id)
        status = await self.as_it_stands(row)
        if directory is not None and status.status.terminal:  # as far as its row tells; it may have been left running
            return await self._stop_at(directory, session_id)
        if status.status.terminal:
            return status
        if row.host != host_name() and directory is None:
            return await self._stop_elsewhere(row)
        if row.control is not None:
            from lifecycle.control import OwnerSilent, stop  # noqa: PLC0415 - only sessions of other processes need it

            try:
                await stop(row.control, session_id)
            except OwnerSilent as e:
                if directory is not None:
                    return await self._stop_at(directory, session_id)
                raise ReleaseFailed(str(e), session_id=session_id) from e
            except ConnectionLost:  # its owner ends, and the session with it
                if directory is not None:
                    return await self._stop_at(directory, session_id)
                status = await self._when_owner_is_gone(session_id)
            else:
                status = await self.get_session(session_id)
        if status.status.terminal:
            return status
        msg = (
            f"session {session_id} is still {status.status} and could not be stopped: its owner, process "
            f"{row.owner_pid} on host {row.host}, could not be asked from here; stop it there, or end that process"
        )
        raise ReleaseFailed(msg, session_id=session_id)

    async def _when_owner_is_gone(self, session_id: str) -> SessionStatus:
        """The status after the owner broke off: the system closes its sockets a little before it has ended."""
        until = asyncio.get_running_loop().time() + ENDING_GRACE
        while True:
            row = await self.row(session_id)
            if row is None:
                raise unknown_session(session_id)
            status = await self.as_it_stands(row)
            if status.status.terminal or asyncio.get_running_loop().time() > until:
                return status
            await asyncio.sleep(0.02)

    # --- what the flow asks for ---------------------------------------------------------------------------------

    def host_of(self, att: Attachment) -> Host:
        """The port for the attachment's adapter."""
        return _Host(self, att)

    def row_of(self, att: Attachment, *, released: bool) -> SessionRow | None:
        """The ledger row as things stand."""
        return att.row(self.supervisor.owner, self.supervisor.control_path, self.address, released=released)

    def handle_of(self, att: Attachment) -> object | None:
        """The user's handle."""
        return self.handles.get(att.attachment_id)

    def hooks_of(self, att: Attachment) -> list[Hook]:
        """The client's hooks first, then the session's own."""
        client, handle = self.client(), self.handles.get(att.attachment_id)
        return [hook for half in (client, handle) if half is not None for hook in half._hooks]  # noqa: SLF001 - our other halves

    async def run_hook_on_worker(self, hook: Hook, att: Attachment, session: object, transition: Transition) -> None:
        """Run a hook that has no caller, on a worker; a coroutine hook gets a loop of its own there."""
        if hook.is_async:
            call: Callable[[], object] = lambda: asyncio.run(  # noqa: E731
                hook.call_async(att.attachment_id, session, transition)
            )
        else:
            call = lambda: hook.call(att.attachment_id, session, transition)  # noqa: E731

        def run() -> None:
            try:
                att.context.copy().run(call)
            except StopIteration as e:
                raise HookStruck(e) from e
            except Exception:
                raise
            except BaseException as e:
                raise HookStruck(e) from e

        await self.supervisor.run_hook(run)

    async def run_blocking(self, func: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - as the function takes
        """Run `func` on a worker."""
        return await self.supervisor.run_blocking(func, *args)

    async def probe(self, att: Attachment) -> BackendEnd | None:
        """How the session stands that the attachment was given the id of.

        Raises:
            ConfigError: There is no such session.
        """
        session_id = att.session_id or ""
        if "attach" in att.adapter.capabilities:
            return await att.adapter.probe(session_id, self.host_of(att))
        await self.journal.flushed()
        row = await self.row(session_id)
        if row is None:
            raise unknown_session(session_id)
        from lifecycle.recovery import how_it_stands  # noqa: PLC0415 - only attachments need it

        return await self.read(lambda s: how_it_stands(s, row))

    async def connect(self, att: Attachment) -> Backend:
        """Connect to the session as a guest of its owner, or through the service."""
        session_id = att.session_id or ""
        if "attach" in att.adapter.capabilities:
            return await att.adapter.connect(session_id, att.options, self.host_of(att))
        from lifecycle.control import GuestBackend  # noqa: PLC0415 - only guests need it

        row = await self.row(session_id)
        if row is None or row.control is None:
            raise unknown_session(session_id)
        return await GuestBackend.connect(row.control, session_id, row.adapter, self.host_of(att))

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that is kept until it is done."""
        return self.supervisor.spawn(coro, name)

    def fire(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task that nobody waits for."""
        self.supervisor.fire(coro, name)

    def warn(self, att: Attachment, event: str, **fields: object) -> None:
        """Log an event on the attachment, in its caller's context; one with an `error` is a warning."""
        self.supervisor.log_event(event, att.context, **fields)

    def viewer(self, att: Attachment) -> str | None:
        """The URL of the attachment's live view, None where there is none."""
        endpoint: CdpEndpoint | None = getattr(att.backend, "endpoint", None)
        if att.viewer_url is None:
            att.viewer_url = getattr(att.backend, "viewer_url", None)
        if att.viewer_url is None and endpoint is not None:

            async def snapshot(seen: int) -> Mapping[str, Any]:
                return await self.supervisor.thread.run(self._snapshot(att, seen))

            att.viewer_url = endpoint.show(snapshot, interactive=att.options.viewer_input)
        return att.viewer_url

    async def _snapshot(self, att: Attachment, seen: int) -> Mapping[str, Any]:
        """How a session stands, for its live view: its status, and its records after number `seen`."""
        over, status = att.state.terminal or self._opened is None, att.status().to_json()
        if over:
            await self.journal.flushed()  # the view closes with what it is told now: the end is in it
        found = [] if self._opened is None else await self.read(
            lambda s: s.records(session_id=att.session_id, after=seen)
        )  # fmt: skip
        return {
            "status": status,
            "now": self.clock.utcnow().isoformat(),
            "records": [_shown(record) for _, record in found],
            "last": found[-1][0] if found else seen,
            "over": over,
        }

    def opened(self, att: Attachment) -> None:
        """The attachment became active."""
        self.viewer(att)
        if not att.guest and att.session_id is not None:
            self.supervisor.registry(att)[att.session_id] = (self, att)

    def over(self, att: Attachment) -> None:
        """The attachment reached a terminal state."""
        self.active.pop(att.attachment_id, None)
        if att.operator is not None:  # closed already, unless the step that does it was skipped
            self.fire(att.operator.aclose(), "operator close")
            att.operator = None
        self.deadlines.ended()
        # Not left to the handle's own end, in the caller's thread: a Ctrl-C in a weakref callback is swallowed.
        self.handles.pop(att.attachment_id, None)
        if (client := self.client()) is not None:
            client._forget(att.attachment_id)  # noqa: SLF001 - our other half
        if not att.guest:
            self.supervisor.tell_guests(att)


def _shown(record: Record) -> dict[str, Any]:
    """A record as the live view shows it."""
    edge = edge_of(record)
    return {
        "time": record.at.isoformat(),
        "kind": record.kind.value,
        "event": record.event.value,
        "dest": record.dest.value,
        "cause": record.cause,
        "error": record.error,
        "edge": edge.full_name if edge is not None else None,
        "steps": [{"step": s.step, "outcome": s.outcome.value, "ms": s.ms} for s in record.steps],
    }


def unknown_session(session_id: str) -> ConfigError:
    """The error for an id that the store does not know."""
    return ConfigError(
        option="session_id",
        value=session_id,
        allowed="the id of a session in this client's store; client.sessions.list() shows them",
    )


_WEIGHT: Final = (ReleaseFailed, CookieError, HookError, AuditError)


def merge(troubles: Sequence[Exception]) -> Exception:
    """The weightiest of several teardown errors, with the others as notes."""

    def weight(error: Exception) -> int:
        return next((n for n, kind in enumerate(_WEIGHT) if isinstance(error, kind)), len(_WEIGHT))

    first, *others = sorted(troubles, key=weight)
    for other in others:
        first.add_note(f"also: {type(other).__name__}: {other}")
    return first
