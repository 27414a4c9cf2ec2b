"""The supervisor: one thread per process that owns every machine, deadline, adapter call and audit write.

Rule: it never takes a lock that a caller can hold. Callers post coroutines to its loop and wait for the answer in
their own thread or loop (`lifecycle.callers`), so what strikes them there never strikes the middle of an edge.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import os
import queue
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, TypeVarTuple

from lifecycle import logs
from lifecycle.actions import parse_action, parse_observe, parse_scrape
from lifecycle.attachment import Attachment, Owner
from lifecycle.callers import AsyncCaller, Caller, SyncCaller
from lifecycle.deadlines import Deadlines
from lifecycle.errors import ReleaseFailed, SessionClosed, UsageError
from lifecycle.identity import boot_id, host_name, process_started
from lifecycle.loops import LoopThread, SerialWorker, Workers
from lifecycle.ports import BackendEnd
from lifecycle.states import CloseReason, State
from lifecycle.stores import open_store

if TYPE_CHECKING:
    from lifecycle.audit import Record
    from lifecycle.control import ControlServer
    from lifecycle.core import ClientCore
    from lifecycle.gateway import GatewayThread
    from lifecycle.journal import Journal
    from lifecycle.operator import Driver
    from lifecycle.ports import Clock, Store

__all__ = ["EXIT_BUDGET", "OpenStore", "Supervisor", "running_supervisor", "supervisor"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WORKERS: Final = 4
EXIT_BUDGET: Final = 90.0
"""Seconds that the end of the interpreter waits for teardowns; each of their steps has a budget of its own."""


TELLING: Final = "session over"
"""Name of the tasks that tell guests in other processes of an end."""

TELLING_BUDGET: Final = 2.0
"""Seconds that the end of the interpreter waits for them."""


class OpenStore:
    """A store that clients of this process share, with the thread it is used from."""

    def __init__(self, key: str, store: Store) -> None:
        self.key = key
        self.store = store
        self.worker = SerialWorker("lifecycle-store")
        self.users = 0
        self.journals: dict[tuple[int, bool, float], Journal] = {}
        """By the clock of the client, whether what the store refuses is acknowledged, and how long its lease lasts."""


class Supervisor:
    """The supervisor of this process; `supervisor()` gives the one there is."""

    watchers: ClassVar[list[Callable[[Record], None]]] = []
    """Told on its thread of each record of all clients of this process, once it is durable; for tests."""

    def __init__(self) -> None:
        self.thread = LoopThread("lifecycle-supervisor", workers=WORKERS)
        self.pid = os.getpid()
        self.owner = Owner(pid=self.pid, started=process_started(self.pid) or "", boot=boot_id(), host=host_name())
        self.cores: set[ClientCore] = set()
        self.owned: dict[str, tuple[ClientCore, Attachment]] = {}
        """Sessions that this process owns, by id."""
        self.served: dict[str, tuple[ClientCore, Attachment]] = {}
        """Sessions that a service owns and this process opened, by the id that the service gave."""
        self.exiting = False
        self.log_errors = 0
        self._logs: SerialWorker | None = None
        self._hooks: Workers | None = None
        self._deadlines: dict[int, tuple[Clock, Deadlines]] = {}
        self._finalizer: Any = None
        self._stores: dict[str, OpenStore] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._driver: Driver | None = None
        self._gateway: GatewayThread | None = None
        self._gateway_thread: LoopThread | None = None
        self._control: ControlServer | None = None
        self._control_starting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start its threads; they live as long as the process."""
        self._logs = SerialWorker("lifecycle-log")
        logs.use_worker(self._logs.submit)
        self._hooks = Workers(*(f"lifecycle-supervisor-hook-{n}" for n in range(WORKERS)))
        self.thread.start()
        atexit.register(self._at_exit)
        # A child that multiprocessing has forked ends without the end of an interpreter. It has loaded this by then.
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            self._finalizer = util.Finalize(None, self._at_exit, exitpriority=0)

    def discard(self) -> None:
        """End its threads; for one that nobody uses, and whose start may not have got through."""
        atexit.unregister(self._at_exit)
        if self._finalizer is not None:
            self._finalizer.cancel()
        for workers in (self._logs, self._hooks):
            if workers is not None:
                workers.stop()
        self.thread.discard()

    # --- the boundary -------------------------------------------------------------------------------------------

    def call(self, work: Callable[[Caller], Coroutine[Any, Any, T]], *, timeout: float | None = None) -> T:
        """Run `work` on the supervisor's loop and wait for it in this thread.

        Raises:
            UsageError: Called on the supervisor's own thread, or after a fork.
            TimeoutError: No answer within `timeout` seconds; the work goes on.
        """
        return self.begin(work).wait(timeout)  # type: ignore[no-any-return]  # a reply carries any type

    def begin(self, work: Callable[[Caller], Coroutine[Any, Any, Any]]) -> SyncCaller:
        """The caller for `work`, which is posted when that first waits for it, or by `SyncCaller.post`."""
        if self.thread.inside():
            msg = "a blocking call on the supervisor's own thread would wait for itself"
            raise UsageError(msg)
        return SyncCaller(self.thread, partial(self._run, work))

    async def acall(
        self,
        work: Callable[[Caller], Coroutine[Any, Any, T]],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it bounds the wait, not the work
    ) -> T:
        """Run `work` on the supervisor's loop and await it on this one."""
        return await self.abegin(work).wait(timeout)  # type: ignore[no-any-return]  # a reply carries any type

    def abegin(self, work: Callable[[Caller], Coroutine[Any, Any, Any]]) -> AsyncCaller:
        """The caller for `work` in a task, which is posted when that first waits for it, or by `AsyncCaller.post`."""
        return AsyncCaller(self.thread, partial(self._run, work))

    def _run(self, work: Callable[[Caller], Coroutine[Any, Any, Any]], caller: Caller) -> None:
        if caller.taken:
            return  # posted twice, because it was struck between the post and the note that it is done
        caller.taken = True

        async def run() -> None:
            try:
                result = await work(caller)
            except BaseException as e:  # noqa: BLE001 - handed to the caller, who raises it
                caller.answer(None, e)
            else:
                caller.answer(result, None)

        self.fire(run(), "call")

    def spawn(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task on the supervisor's loop and keep it until it is done."""
        task = self.thread.loop.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def fire(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task that nobody waits for."""
        self.spawn(coro, name).add_done_callback(lambda _: None)

    async def run_blocking(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `func` on one of the workers."""
        return await self.thread.loop.run_in_executor(None, func, *args)

    async def run_hook(self, call: Callable[[], None]) -> None:
        """Run a hook on a thread for hooks, so that those that hang keep no cookie file waiting.

        One that is given up before its turn comes does not run any more.
        """
        assert self._hooks is not None  # noqa: S101 - started with the supervisor
        given_up = False

        def unless_given_up() -> None:
            if not given_up:
                call()

        try:
            await self._hooks.run(unless_given_up)
        except asyncio.CancelledError:
            given_up = True
            raise

    # --- what sessions share ------------------------------------------------------------------------------------

    def deadlines(self, clock: Clock) -> Deadlines:
        """The one timer of a clock."""
        found = self._deadlines.get(id(clock))
        if found is None:
            found = self._deadlines[id(clock)] = (clock, Deadlines(clock))
        return found[1]

    def driver(self, make: Callable[[], Driver]) -> Driver:
        """The Playwright driver for operations on pages, made by `make` when it is first needed."""
        if self._driver is None:
            self._driver = make()
        return self._driver

    def reserve_gateway(self) -> None:
        """Start the gateway's thread: on Python 3.12 none can be started once main has ended; sessions still can."""
        if self._gateway_thread is None:
            self._gateway_thread = LoopThread("lifecycle-gateway", workers=1)
            self._gateway_thread.start()

    def gateway(self) -> GatewayThread:
        """The gateway, made when it is first needed."""
        if self._gateway is None:
            from lifecycle.gateway import GatewayThread  # noqa: PLC0415 - sessions without CDP never pay for it

            self.reserve_gateway()
            self._gateway = GatewayThread(self._gateway_thread)
            self._gateway.start()
        return self._gateway

    @property
    def control_path(self) -> str | None:
        """The path of the control socket, None before `ensure_control` and where there are no Unix sockets."""
        return self._control.path if self._control is not None else None

    async def ensure_control(self) -> None:
        """Listen on the control socket, so that guests can reach sessions of this process."""
        if sys.platform == "win32" or self.control_path is not None:
            return
        if self._control_starting is None:
            from lifecycle.control import ControlServer  # noqa: PLC0415 - needed with the first session

            async def start() -> None:
                server = ControlServer(self._answer_guest)
                try:
                    await server.start()
                except Exception as e:  # noqa: BLE001 - without a socket sessions work, guests do not
                    self.log_event("lifecycle.control_unavailable", error=type(e).__name__)
                else:
                    self._control = server

            self._control_starting = self.spawn(start(), "control")
        await asyncio.wait({self._control_starting})

    async def _answer_guest(self, op: str, session_id: str, args: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        found = self.owned.get(session_id)
        if found is None:
            if op == "stop":
                return None
            raise SessionClosed(session_id=session_id, close_reason=None)
        core, att = found
        match op:
            case "watch":
                return {**att.status().to_json(), "viewer_url": core.viewer(att)}
            case "status":
                return att.status().to_json()
            case "stop":
                await core.flow.stop(att, None, cause="guest", reason=CloseReason.MANUAL)
                for trouble in att.outcome:
                    if isinstance(trouble, ReleaseFailed):
                        raise trouble
                return None
            case "extend":
                await core.extend(att, None, float(args["minutes"]))
                return None
            case "hold":
                await core.hold(att, None, str(args["reason"]), float(args["minutes"]))
                return None
            case "cdp_url":
                return await core.flow.operate(att, None, lambda b: b.cdp_url())
            case "get_cookies":
                from lifecycle.cookies import to_cdp  # noqa: PLC0415 - only who uses cookies pays for them

                return [to_cdp(c) for c in await core.flow.operate(att, None, lambda b: b.get_cookies())]
            case "set_cookies":
                from lifecycle.cookies import from_cdp  # noqa: PLC0415 - only who uses cookies pays for them

                cookies = [from_cdp(c) for c in args["cookies"]]
                refused = await core.flow.operate(att, None, lambda b: b.set_cookies(cookies))
                return [(cookies.index(c), reason) for c, reason in refused]
            case "clear_cookies":
                return await core.flow.operate(att, None, lambda b: b.clear_cookies())
            case "execute":
                return (await core.execute(att, None, parse_action(args["request"], {}))).to_json()
            case "observe":
                return (await core.observe(att, None, parse_observe(args["request"]))).to_json()
            case "scrape":
                return (await core.scrape(att, None, parse_scrape(args["request"]))).to_json()
        msg = f"unknown operation {op!r}"
        raise UsageError(msg)

    def registry(self, att: Attachment) -> dict[str, tuple[ClientCore, Attachment]]:
        """Where the attachment that opened a session is found by the session's id."""
        return self.served if "assigns_ids" in att.adapter.capabilities else self.owned

    def tell_guests(self, att: Attachment) -> None:
        """The owner's attachment ended: its guests hear of it soon."""
        self.fire(self.session_over(att), TELLING)

    async def session_over(self, att: Attachment) -> None:
        """The owner's attachment ended: guests hear of it."""
        registry = self.registry(att)
        if att.session_id is None or registry.pop(att.session_id, None) is None:
            return
        if self._control is not None and registry is self.owned:
            end = BackendEnd(
                state=att.state, reason=att.close_reason or CloseReason.BACKEND, detail=att.error_text() or ""
            )
            await self._control.ended(att.session_id, end)

    # --- stores -------------------------------------------------------------------------------------------------

    async def open_store(self, spec: str | Store | None) -> OpenStore:
        """Open a store, or share the one of the same URL that is open."""
        store = await self.run_blocking(open_store, spec)
        key = store.url if store.url != "memory:" else f"memory:{id(store)}"
        opened = self._stores.get(key)
        if opened is None:
            opened = self._stores[key] = OpenStore(key, store)
            try:
                await opened.worker.run(store.open)
            except BaseException:
                self._stores.pop(key, None)
                opened.worker.stop()
                raise
        elif spec is None or isinstance(spec, str):
            await self.run_blocking(store.close)  # opened only to learn which one it is
        opened.users += 1
        return opened

    def for_all(self, opened: OpenStore, key: tuple[int, bool, float], do: Callable[[ClientCore], None]) -> None:
        """Do it for each client that writes to a store by the journal with that key."""
        for core in list(self.cores):
            if core.journal is opened.journals.get(key):
                do(core)

    async def close_store(self, opened: OpenStore) -> None:
        """Give a store back; the last user closes it."""
        opened.users -= 1
        if opened.users:
            return
        self._stores.pop(opened.key, None)
        for journal in opened.journals.values():
            await journal.close()
        await opened.worker.run(opened.store.close)
        opened.worker.stop()

    # --- events for the host's logs -----------------------------------------------------------------------------

    def log_event(self, event: str, context: contextvars.Context | None = None, **fields: object) -> None:
        """Emit one structlog event off the edge, in `context`; what the host's processors raise is counted."""
        context = context.copy() if context is not None else contextvars.Context()

        def emit() -> None:
            try:
                context.run(_log, event, fields)
            except Exception:  # noqa: BLE001 - the host's own processors must not hurt a session
                self.log_errors += 1

        if self._logs is not None:
            self._logs.submit(emit)

    async def flushed(self) -> None:
        """Wait until every record that was queued so far was written or refused."""
        for opened in list(self._stores.values()):
            for journal in list(opened.journals.values()):
                await journal.flushed()

    async def logs_flushed(self) -> None:
        """Wait until the events queued so far were emitted."""
        if self._logs is not None:
            await self._logs.run(lambda: None)

    # --- end of the process and fork ----------------------------------------------------------------------------

    async def _end_everything(self, cause: str, reason: CloseReason) -> None:
        """End what is active in all clients, and see that it is told and written."""
        ends = [core.end_all(cause, reason) for core in list(self.cores)]
        await asyncio.gather(*ends, return_exceptions=True)
        telling = [task for task in self._tasks if task.get_name() == TELLING]
        if telling:
            await asyncio.wait(telling, timeout=TELLING_BUDGET)
        for opened in list(self._stores.values()):
            for journal in opened.journals.values():
                await journal.flushed()
                await journal.checkpoint()
        await asyncio.gather(*(core.told() for core in list(self.cores)))
        await self.logs_flushed()

    def stop_everything(self, done: Callable[[bool], None]) -> None:
        """Stop what is active in all clients, then call `done` on the supervisor's thread. From a signal handler."""

        async def stop() -> None:
            try:
                await self._end_everything("signal", CloseReason.MANUAL)
            finally:
                done(True)

        self.thread.post(self.fire, stop(), "signal")

    def end_first(self) -> None:
        """At exit, end what is active before anything ends that is there by now, such as an exporter of traces."""
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        if not self.thread.alive or _supervisors.get(os.getpid()) is not self or self.exiting:
            return
        done: queue.SimpleQueue[None] = queue.SimpleQueue()

        async def shut() -> None:
            self.exiting = True  # what begins from now on would have no end
            try:
                await self._end_everything("exit", CloseReason.ABANDONED)
                if self._control is not None:
                    self._control.close()
                if self._driver is not None:
                    await self._driver.stopped()
            finally:
                done.put(None)

        self.thread.post(self.fire, shut(), "exit")
        try:
            done.get(timeout=EXIT_BUDGET)
        except queue.Empty:
            sys.stderr.write(f"lifecycle: sessions could not be ended within {EXIT_BUDGET:g} seconds of the exit\n")

    def abandon_in_child(self) -> None:
        """In a forked child: close what was inherited with raw closes, and never touch loop or SQLite again."""
        self.thread.abandon_in_child()
        if self._gateway is not None:
            self._gateway.abandon_in_child()
        elif self._gateway_thread is not None:
            self._gateway_thread.abandon_in_child()
        for opened in self._stores.values():
            abandon = getattr(opened.store, "abandon_in_child", None)
            if abandon is not None:
                abandon()


_supervisors: Final[dict[int, Supervisor]] = {}


def supervisor() -> Supervisor:
    """The supervisor of this process, started when it is first asked for. Any thread, any signal handler."""
    pid = os.getpid()
    found = _supervisors.get(pid)
    if found is not None:
        return found
    # No lock: a signal handler may come through here while its own thread is inside. Nobody sees a candidate before it
    # runs, and of several that do one wins.
    candidate = Supervisor()
    try:
        candidate.start()
        found = _supervisors.setdefault(pid, candidate)
    finally:
        if _supervisors.get(pid) is not candidate:
            candidate.discard()
    return found


def running_supervisor() -> Supervisor | None:
    """The supervisor of this process where there is one that runs; never starts one."""
    found = _supervisors.get(os.getpid())
    return found if found is not None and found.thread.alive else None


def _after_fork() -> None:
    logs.use_worker(None)  # the parent's worker does not exist here
    for pid in [p for p in _supervisors if p != os.getpid()]:
        inherited = _supervisors.pop(pid)
        inherited.abandon_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _log(event: str, fields: Mapping[str, object]) -> None:
    """To structlog where the host has configured it; else to standard logging, which is quiet unless it asks."""
    level = logging.WARNING if fields.get("dest") == State.ERROR or "error" in fields else logging.INFO
    structlog: Any = sys.modules.get("structlog")  # a host that configured it has imported it
    if structlog is not None and structlog.is_configured():
        structlog.get_logger("lifecycle").log(level, event, **fields)
    elif _stdlib.isEnabledFor(level):
        _stdlib.log(level, "%s %s", event, " ".join(f"{key}={value}" for key, value in fields.items()))


_stdlib: Final = logging.getLogger("lifecycle")
_stdlib.addHandler(logging.NullHandler())
