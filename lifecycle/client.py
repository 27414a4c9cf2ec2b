"""The clients: `Client` for threads, `AsyncClient` for tasks.

Rule: no logic. A client names an adapter, a store and a clock, makes sessions with checked options, and keeps the
active ones alive. One that is dropped with sessions active stops them, and says so with a ResourceWarning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Self, TypeVar, Unpack

from lifecycle.adapters import find_adapter
from lifecycle.attachment import Attachment, SessionStatus
from lifecycle.audit.notes import Checkpoints, make_publisher
from lifecycle.config import (
    SessionKwargs,
    SessionOptions,
    check_flag,
    check_labels,
    check_seconds,
    check_session_id,
    nearest,
    parse_options,
)
from lifecycle.core import ClientCore, merge
from lifecycle.engine import supervisor
from lifecycle.errors import ConfigError
from lifecycle.hooks import Hook, HookFunction, make_hooks
from lifecycle.lease import LEASE_SECONDS, LEAST_SECONDS
from lifecycle.page import hold_driver, release_driver, tidy_driver
from lifecycle.peers import Peers, peers_of
from lifecycle.ports import Adapter, Clock, Store
from lifecycle.session import AsyncSession, Exit, Finalizers, Session, left
from lifecycle.states import CloseReason, State

if TYPE_CHECKING:
    from types import TracebackType

    from lifecycle.audit import Record
    from lifecycle.callers import Caller

__all__ = ["AsyncClient", "AsyncEventStream", "AsyncSessions", "Client", "EventStream", "Sessions"]

F = TypeVar("F", bound=HookFunction)

MOST_ROWS: Final = 2**31 - 1
"""Largest limit and offset of a list, which every store can count to."""

EVENTS_KEPT: Final = 10_000
"""Records that an event stream holds for a reader that falls behind; beyond that the oldest are dropped and counted."""


def _abandon(core: ClientCore) -> None:
    """A client was dropped: end what it left active, and say so."""
    if core.closed or not core.supervisor.thread.alive:
        return

    def close() -> None:
        core.fire(core.close_quietly("abandoned", CloseReason.ABANDONED), "abandoned")

    count = len(core.active)
    core.supervisor.thread.post(close)
    if count:
        warnings.warn(
            f"a client was dropped with {count} session(s) active; they are being stopped. "
            "Use `with`, or call stop() or close()",
            ResourceWarning,
            stacklevel=2,
        )


class BaseClient:
    """What both clients share."""

    def __init__(
        self,
        *,
        adapter: str | Adapter | None = None,
        store: str | Store | None = None,
        clock: Clock | None = None,
        reap_on_start: bool = True,
        spool: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        peers: Peers | None = None,
        checkpoints: Checkpoints | str | os.PathLike[str] | Callable[[str], object] | None = None,
    ) -> None:
        if clock is not None and (isinstance(clock, type) or not isinstance(clock, Clock)):
            raise ConfigError(option="clock", value=clock, allowed="an object with monotonic, utcnow and call_at")
        self._adapter = find_adapter(adapter)
        self._owns_adapter = adapter is None or isinstance(adapter, str)
        self._store = store
        self._clock = clock
        self._reap_on_start = check_flag("reap_on_start", reap_on_start)
        self._spool = check_flag("spool", spool)
        self._lease_seconds = check_seconds("lease_seconds", lease_seconds, least=LEAST_SECONDS)
        self._peers = peers_of(peers)
        self._address: str | None = None
        self._publisher = make_publisher(checkpoints)
        self._kept: dict[str, Session | AsyncSession] = {}
        self._hooks: list[Hook] = []
        self._watchers: list[Callable[[ClientCore], None]] = []
        self._core_now = self._new_core()

    def _new_core(self) -> ClientCore:
        core = ClientCore(supervisor(), self._adapter, self._clock, owns_adapter=self._owns_adapter, peers=self._peers)
        core.address = self._address
        core.client = weakref.ref(self)
        store, reap, publisher = self._store, self._reap_on_start, self._publisher
        spool, lease_seconds = self._spool, self._lease_seconds

        async def opening(_: Caller) -> None:
            await core.open(store, reap=reap, publisher=publisher, spool=spool, lease_seconds=lease_seconds)

        self._abandon = weakref.finalize(self, _abandon, core)  # before the store is opened: it closes that too
        self._abandon.atexit = False  # at exit the supervisor ends what is active
        core.supervisor.call(opening)
        for watch in self._watchers:
            watch(core)
        return core

    def _advertise(self, address: str) -> None:
        """Tell clients on other hosts, in the ledger, that they reach sessions that begin from now on there."""
        self._address = self._core.address = address

    def _watch(self, watch: Callable[[ClientCore], None]) -> None:
        """Have `watch` called with the client's side on the supervisor: this one, and a fresh one after a fork."""
        core = self._core
        core.check_open()
        watch(core)
        self._watchers.append(watch)

    @property
    def _core(self) -> ClientCore:
        """The client's side on the supervisor of this process: after a fork, a fresh one."""
        if self._core_now.supervisor.pid != os.getpid():
            self._kept = {}
            self._core_now = self._new_core()
        return self._core_now

    def hook(
        self,
        *,
        before: str | Iterable[str] | None = None,
        after: str | Iterable[str] | None = None,
        on_error: str = "raise",
        needs_page: bool = False,
        budget: float = 10.0,
    ) -> Callable[[F], F]:
        """Register a hook on edges of every session of this client, as a decorator.

        The function takes ``(session)`` or ``(session, transition)``. On an edge that a caller takes it runs in that
        caller's thread or loop, so it may use the page; with no caller, on a worker.

        Args:
            before: The event or events before whose steps it runs: start, attach, stop, detach, expire, fail.
            after: ... after whose commit it runs.
            on_error: ``raise``: what it raises reaches the caller, after the edge; ``log``: it is only recorded.
            needs_page: Skip it, with a record, where there is no caller whose page it could use.
            budget: Seconds it may take before the edge goes on without it.

        Raises:
            UsageError: The function can't be called as a hook.
            ConfigError: An event or option is unknown.
        """

        def register(func: F) -> F:
            self._hooks += make_hooks(
                func, before=before, after=after, on_error=on_error, needs_page=needs_page, budget=budget,
                allow_async=isinstance(self, AsyncClient),
            )  # fmt: skip
            return func

        return register

    def _keep(self, session: Session | AsyncSession) -> None:
        if not session.state.terminal:
            self._kept[session.attachment_id] = session
            if session.state.terminal:  # it ended between the two lines
                self._kept.pop(session.attachment_id, None)

    def _forget(self, attachment_id: str) -> None:
        """Called by the supervisor when an attachment is over: it need not be kept alive any more."""
        self._kept.pop(attachment_id, None)

    def _attachment(
        self, session_id: str | Mapping[str, object] | None, kwargs: SessionKwargs
    ) -> tuple[ClientCore, Attachment]:
        core = self._core
        if isinstance(session_id, Mapping):
            session_id = core.referred(session_id)
        options: SessionOptions = parse_options(session_id, kwargs)
        core.check_open()
        if options.on_exit == "detach" and session_id is None:
            raise ConfigError(
                option="on_exit",
                value="detach",
                allowed='"stop": only a session that is attached to by id can be left running',
            )
        self._adapter.check(options)
        return core, Attachment(options, self._adapter, core.clock)


def _rescue(client: BaseClient) -> Callable[[], None]:
    core = client._core  # noqa: SLF001 - a part of the client

    def close() -> None:
        core.fire(core.close_quietly("interrupted", CloseReason.MANUAL), "left block")

    def post() -> None:
        if core.supervisor.thread.alive:
            core.supervisor.thread.post(close)

    return post


def _leave(
    client: Client,
    finalizers: Finalizers,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    del kind, trace
    try:
        client.close()
    except Exception as trouble:
        left(finalizers)
        if error is None:
            raise
        error.add_note(f"while the client was closed: {type(trouble).__name__}: {trouble}")
    else:
        left(finalizers)
    finally:
        release_driver(client)


class Client(BaseClient):
    """Makes sessions for threads.

    Args:
        adapter: ``local``, ``remote``, ``cdp``, ``memory``, the name of an installed adapter, or an adapter object; by
            default ``LIFECYCLE_ADAPTER`` of the environment, else ``local``.
        store: ``sqlite:///path.db``, ``memory:``, or a store object; by default ``LIFECYCLE_STORE`` of the
            environment, else a SQLite file in the user's state folder.
        clock: Time, for tests; see `lifecycle.testing.ManualClock`.
        reap_on_start: Look, in the background, for sessions of this adapter in the store whose owner has ended, and
            release and end them, as `Sessions.reap` does.
        spool: While the store fails, begin sessions all the same: what it refuses is kept durably in a rescue file of
            this machine, counts as written, and goes into the store when that takes it. By default no session begins
            then. Endings never wait for a store either way.
        lease_seconds: On a store that hosts share, what this client owns is its own for so long after the store has
            last seen it, by the clock of the store; it is seen every 20 seconds, or six times in a shorter lease. Where
            the store does not answer, sessions are ended 90 seconds before the end of the lease (or half of one that is
            shorter), with the close reason ``lease_lost``, and no browser is left at its end, even where this process
            is stopped; then others may take over what was its own. At least 2. Other stores have no leases.
        peers: How servers on other hosts are reached that own sessions in the same store, so that those can be attached
            to and stopped from here. By default with the token in ``LIFECYCLE_PEERS_TOKEN`` of the environment, and by
            ``http://`` only where ``LIFECYCLE_PEERS_HTTP`` is 1; without one no server is asked.
        checkpoints: A file that checkpoints of the log are appended to, every minute, every 1,000 records and at the
            end; a function that is called with each, as text, on a worker thread; or `lifecycle.audit.Checkpoints`, to
            have them signed. By default the file that ``LIFECYCLE_CHECKPOINTS`` of the environment names, signed with
            the key in ``LIFECYCLE_CHECKPOINT_KEY`` where there is one, else none.

    Raises:
        ConfigError: The adapter is unknown, the store can't be opened, or checkpoints can't go where they should.
    """

    @property
    def sessions(self) -> Sessions:
        """The sessions in this client's store, by id."""
        return Sessions(self)

    def Session(  # noqa: N802
        self, session_id: str | Mapping[str, object] | None = None, **options: Unpack[SessionKwargs]
    ) -> Session:
        """Make a session; it starts with `start` or at the ``with``.

        Args:
            session_id: A session to attach to, by its id or by what its `ref` gave; None for a new one.
            **options: See `lifecycle.config.SessionOptions`.

        Raises:
            ConfigError: An option is not allowed, or there is no session with this id.
        """
        core, att = self._attachment(session_id, options)
        known = att.options.session_id
        if known is not None and "attach" not in self._adapter.capabilities:

            async def check(_: Caller) -> None:
                await core.get_session(known)

            core.supervisor.call(check)
        session = Session(self, core, att)
        core.handles[att.attachment_id] = session
        return session

    def events(self) -> EventStream:
        """The records of this client's sessions from now on, as they become durable, until the client is closed."""
        self._core.check_open()
        return EventStream(self._core)

    def close(self) -> None:
        """Stop the sessions that are active, then give up the store. Idempotent.

        Raises:
            LifecycleError: What went wrong in the teardowns, the weightiest first; everything is over all the same.
        """
        core = self._core_now

        async def work(caller: Caller) -> list[Exception]:
            return await core.close(caller)

        troubles: list[Exception] = core.supervisor.begin(work).wait_through()
        self._abandon.detach()
        tidy_driver()
        if troubles:
            raise merge(troubles)

    def __enter__(self) -> Self:
        hold_driver(self._core.supervisor.thread, self)
        return self

    if TYPE_CHECKING:

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
            /,
        ) -> None:
            """Close the client; an exception of the body arrives unchanged."""

    else:
        __exit__ = Exit(_leave, _rescue)


class Sessions:
    """The sessions in a client's store, by id. Made by `Client.sessions`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(
        self,
        *,
        status: str | None = None,
        label: str | Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[SessionStatus]:
        """Sessions, newest first.

        Args:
            status: Only those in this state.
            label: Only those with this label, as ``key=value`` or a mapping.
            limit: At most so many.
            offset: Skip so many.
        """
        core = self._client._core  # noqa: SLF001 - a part of the client
        query = _query(status, label, limit, offset)

        async def work(_: Caller) -> list[SessionStatus]:
            return await core.list_sessions(*query)

        return core.supervisor.call(work)

    def get(self, session_id: str) -> SessionStatus:
        """The status of one session.

        Raises:
            ConfigError: There is none with this id.
        """
        check_session_id(session_id)
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(_: Caller) -> SessionStatus:
            return await core.get_session(session_id)

        return core.supervisor.call(work)

    def stop(self, session_id: str) -> SessionStatus:
        """Stop a session, wherever its owner runs on this machine. Idempotent.

        Raises:
            ConfigError: There is none with this id.
        """
        check_session_id(session_id)
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(caller: Caller) -> SessionStatus:
            return await core.stop_session(session_id, caller)

        return core.supervisor.call(work)

    def reap(self, *, dry_run: bool = False) -> Sequence[SessionStatus]:
        """Release and end the sessions of this client's adapter whose owner died without ending them.

        An owner is told from a later process with its pid by its start time, the boot and the host. Two that reap at
        once do it once. Sessions of owners on other hosts are left alone.

        Args:
            dry_run: Change nothing; tell how they would stand.

        Returns:
            Each as it stands now: ``error`` with the close reason ``owner_died``. Where something could not be
            released its `error` says so, and the next reaping tries again.

        Raises:
            StoreError: What was done could not be recorded.
        """
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(_: Caller) -> Sequence[SessionStatus]:
            return await core.reap(dry_run=dry_run)

        return core.supervisor.call(work)


class EventStream:
    """Records of a client's sessions as they become durable; iterate over it. Ends when the client is closed.

    Attributes:
        dropped: Records that were dropped because the reader fell behind.
    """

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self.dropped = 0
        core.subscribers.append(self._put)

    def _put(self, record: Record | None) -> None:
        if record is not None and self._queue.qsize() >= EVENTS_KEPT:
            self._queue.get()
            self.dropped += 1
        self._queue.put(record)

    def get(self, timeout: float | None = None) -> Record | None:
        """The next record, None when the stream ended.

        Raises:
            TimeoutError: None came within `timeout` seconds.
        """
        try:
            record = self._queue.get(timeout=timeout)
        except queue.Empty:
            msg = f"no event within {timeout:g} seconds"
            raise TimeoutError(msg) from None
        if record is None:
            self._queue.put(None)  # for the next reader
        return record

    def close(self) -> None:
        """End the stream. Idempotent."""
        if self._put in self._core.subscribers:
            self._core.subscribers.remove(self._put)
        self._queue.put(None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record:
        record = self.get()
        if record is None:
            raise StopIteration
        return record


async def _aleave(
    client: AsyncClient,
    finalizers: Finalizers,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    del trace
    if kind is GeneratorExit:
        return  # nobody will run this coroutine again: the finalizer does it
    try:
        await client.close()
    except Exception as trouble:
        left(finalizers)
        if error is None:
            raise
        error.add_note(f"while the client was closed: {type(trouble).__name__}: {trouble}")
    else:
        left(finalizers)


class AsyncClient(BaseClient):
    """Makes sessions for tasks; the arguments are those of `Client`.

    Making one opens its store, which blocks for some milliseconds.
    """

    @property
    def sessions(self) -> AsyncSessions:
        """The sessions in this client's store, by id."""
        return AsyncSessions(self)

    def Session(  # noqa: N802
        self, session_id: str | Mapping[str, object] | None = None, **options: Unpack[SessionKwargs]
    ) -> AsyncSession:
        """Make a session; see `Client.Session`. That `session_id` exists is checked when it attaches."""
        core, att = self._attachment(session_id, options)
        session = AsyncSession(self, core, att)
        core.handles[att.attachment_id] = session
        return session

    def events(self) -> AsyncEventStream:
        """The records of this client's sessions from now on; see `Client.events`."""
        self._core.check_open()
        return AsyncEventStream(self._core)

    async def close(self) -> None:
        """Stop the sessions that are active, then give up the store; see `Client.close`."""
        core = self._core_now

        async def work(caller: Caller) -> list[Exception]:
            return await core.close(caller)

        troubles: list[Exception] = await core.supervisor.abegin(work).wait_through()
        self._abandon.detach()
        for session in list(self._kept.values()):
            if isinstance(session, AsyncSession):
                await session._close_slot()  # noqa: SLF001 - the driver of this loop is given up with its sessions
        if troubles:
            raise merge(troubles)

    async def __aenter__(self) -> Self:
        return self

    if TYPE_CHECKING:

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
            /,
        ) -> None:
            """Close the client; an exception of the body arrives unchanged."""

    else:
        __aexit__ = Exit(_aleave, _rescue)


class AsyncSessions:
    """The sessions in a client's store, by id. Made by `AsyncClient.sessions`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(
        self,
        *,
        status: str | None = None,
        label: str | Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[SessionStatus]:
        """Sessions, newest first; see `Sessions.list`."""
        core = self._client._core  # noqa: SLF001 - a part of the client
        query = _query(status, label, limit, offset)

        async def work(_: Caller) -> list[SessionStatus]:
            return await core.list_sessions(*query)

        return await core.supervisor.acall(work)

    async def get(self, session_id: str) -> SessionStatus:
        """The status of one session; see `Sessions.get`."""
        check_session_id(session_id)
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(_: Caller) -> SessionStatus:
            return await core.get_session(session_id)

        return await core.supervisor.acall(work)

    async def stop(self, session_id: str) -> SessionStatus:
        """Stop a session; see `Sessions.stop`."""
        check_session_id(session_id)
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(caller: Caller) -> SessionStatus:
            return await core.stop_session(session_id, caller)

        return await core.supervisor.acall(work)

    async def reap(self, *, dry_run: bool = False) -> Sequence[SessionStatus]:
        """Release and end the sessions whose owner died without ending them; see `Sessions.reap`."""
        core = self._client._core  # noqa: SLF001 - a part of the client

        async def work(_: Caller) -> Sequence[SessionStatus]:
            return await core.reap(dry_run=dry_run)

        return await core.supervisor.acall(work)


class AsyncEventStream:
    """Records of a client's sessions as they become durable; see `EventStream`."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Record | None] = asyncio.Queue()
        self.dropped = 0
        core.subscribers.append(self._put)

    def _put(self, record: Record | None) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._take_in, record)

    def _take_in(self, record: Record | None) -> None:
        if record is not None and self._queue.qsize() >= EVENTS_KEPT:
            self._queue.get_nowait()
            self.dropped += 1
        self._queue.put_nowait(record)

    async def get(self, timeout: float | None = None) -> Record | None:  # noqa: ASYNC109 - as the sync one
        """The next record, None when the stream ended; see `EventStream.get`."""
        async with asyncio.timeout(timeout):
            record = await self._queue.get()
        if record is None:
            self._queue.put_nowait(None)  # for the next reader
        return record

    def close(self) -> None:
        """End the stream. Idempotent."""
        if self._put in self._core.subscribers:
            self._core.subscribers.remove(self._put)
        self._queue.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        record = await self.get()
        if record is None:
            raise StopAsyncIteration
        return record


def _query(
    status: str | None, label: str | Mapping[str, str] | None, limit: int, offset: int
) -> tuple[State | None, Mapping[str, str] | None, int, int]:
    if status is not None and status not in list(State):
        raise ConfigError(option="status", value=status, allowed=nearest(str(status), list(State)))
    if isinstance(label, str):
        key, sign, value = label.partition("=")
        if not sign or not key:
            raise ConfigError(option="label", value=label, allowed='"key=value" or a mapping')
        label = {key: value}
    if label is not None:
        label = check_labels("label", label)
    for option, number, least in (("limit", limit, 1), ("offset", offset, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MOST_ROWS:
            raise ConfigError(option=option, value=number, allowed=f"a whole number from {least} to {MOST_ROWS}")
    return (State(status) if status is not None else None), label, limit, offset
