"""Temporal activities on a session: an attempt that follows one which died finds its session, or makes up for it.

`activity_session` gives an activity one session, under a key that all attempts of the activity share. `SessionLabels`
is an interceptor for workers, which labels every session that is made in an activity.

Rule: an attempt settles what became of the session of those before it, and only then has one of its own, so there are
never two that run under one key of a store. A session is ended by the attempt that is in the block, on each way out of
it; when the activity is cancelled or the worker shut down the end does not wait for the code in the block. Both are
causes in the records, ``cancelled`` and ``worker shutdown``, and neither keeps what Temporal raises from arriving.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, Unpack, cast, overload

from temporalio import activity
from temporalio.exceptions import CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from lifecycle.client import AsyncClient, Client
from lifecycle.config import CONTEXT_LABELS, OWNERS, SessionKwargs
from lifecycle.errors import ConfigError, SessionEnded, UsageError
from lifecycle.session import AsyncSession, Session
from lifecycle.states import CloseReason, State

__all__ = ["SessionLabels", "activity_session"]

S = TypeVar("S", Session, AsyncSession)

LOOK_EVERY: Final = 0.1
"""Seconds between looks at whether the activity is cancelled or the worker is shut down."""

BEAT_EVERY: Final = 10.0
"""Seconds between heartbeats at most; a third of ``heartbeat_timeout`` where that is less. Temporal sends fewer on."""

_REF: Final = "lifecycle"
"""What the session's `ref` is called in the details of a heartbeat."""

_LONGEST: Final = 1000
"""Characters that the value of a label may have."""

_Call: TypeAlias = Callable[[], Any]

_running: Final[set[tuple[str, int]]] = set()
"""Attempts of this process that are in the block, by key and number."""


class SessionLabels(Interceptor):
    """Labels every session that is made inside an activity, by any client: ``Worker(interceptors=[SessionLabels()])``.

    The labels are ``temporal.workflow``, ``temporal.run``, ``temporal.activity`` (ids of Temporal's) and
    ``temporal.attempt``, which counts from 1. Labels that the activity gives itself win. In a process pool, which gets
    no context of the worker's, only sessions of `activity_session` have them.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Called by the worker for each activity."""
        return _Labelling(next)


class _Labelling(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401 - as the SDK has them
        token = CONTEXT_LABELS.set({**CONTEXT_LABELS.get({}), **_labels(activity.info())})
        try:
            return await self.next.execute_activity(input)
        finally:
            CONTEXT_LABELS.reset(token)


@overload
def activity_session(
    client: Client,
    *,
    earlier: Literal["attach", "stop"] | None = None,
    details: Callable[[], Sequence[object]] = ...,
    **options: Unpack[SessionKwargs],
) -> AbstractContextManager[Session]: ...


@overload
def activity_session(
    client: AsyncClient,
    *,
    earlier: Literal["attach", "stop"] | None = None,
    details: Callable[[], Sequence[object]] = ...,
    **options: Unpack[SessionKwargs],
) -> AbstractAsyncContextManager[AsyncSession]: ...


def activity_session(
    client: Client | AsyncClient,
    *,
    earlier: Literal["attach", "stop"] | None = None,
    details: Callable[[], Sequence[object]] = tuple,
    **options: Unpack[SessionKwargs],
) -> AbstractContextManager[Session] | AbstractAsyncContextManager[AsyncSession]:
    """The session of the activity that runs: with a `Client` for ``with``, with an `AsyncClient` for ``async with``.

    Its idempotency key is the run's id and the activity's. A later attempt first ends and releases what processes of
    this host left that have died (`lifecycle.client.Sessions.reap`). The session of an attempt whose worker lives, or
    which a service keeps, goes on: `earlier` says what is done with it. It is found by the key in the client's store,
    and at a service also by the heartbeat, without a common store. A worker on another host that runs its own browser
    and has another store can't be reached; its session ends when it learns that its attempt is over.

    While the block runs, heartbeats carry `Session.ref`, every third of the activity's ``heartbeat_timeout`` and at
    least every 10 seconds. Without a ``heartbeat_timeout`` they are sent too, but Temporal does not miss them: it
    starts another attempt of a worker that died only after ``start_to_close_timeout``. An activity that needs details
    of its own hands them in here, since each heartbeat replaces those before it.

    When the activity is cancelled the session is ended with the cause ``cancelled``, and the cancellation arrives in
    the block as ever; where the activity was defined with ``no_thread_cancel_exception``, once the block uses the
    session. When the worker is shut down the session is ended at once with the cause ``worker shutdown``, and what uses
    it then fails, for another worker to try again: let ``graceful_shutdown_timeout`` be longer than a stop takes.

    Args:
        client: Makes the session. It may serve many activities, and is not closed here.
        earlier: What is done with the session of an earlier attempt that goes on. ``attach``: go on with it; it may
            end when the earlier attempt does. ``stop``: stop it and start another. By default ``attach`` where a
            service keeps sessions, ``stop`` where it would be that of a worker which still drives it.
        details: Gives more details for each heartbeat; a later attempt has them in
            ``activity.info().heartbeat_details[1:]``. Called in other threads too, with an `AsyncClient` in the loop.
        **options: See `lifecycle.config.SessionOptions`; all but `idempotency_key` and `on_exit`.

    Raises:
        ConfigError: An option is not allowed.
        UsageError: Called outside an activity, or in the block of the same attempt.
        StartFailed, SessionTimedOut: No session came up, or that of an earlier attempt can't be reached now, as when
            its process is suspended; there is no other then, and a retry may do better.
        LifecycleError: What went wrong in the teardown, as `Session.stop` raises it.
    """
    if earlier not in (None, "attach", "stop"):
        raise ConfigError(option="earlier", value=earlier, allowed='"attach", "stop" or None')
    for option in ("idempotency_key", "on_exit"):
        if option in options:
            raise ConfigError(
                option=option, value=options.get(option), allowed="nothing here: it is settled by activity_session"
            )
    if isinstance(client, AsyncClient):
        return _in_task(_Attempt(client, earlier, details, options))
    return _in_thread(_Attempt(client, earlier, details, options))


class _Attempt(Generic[S]):
    """What an attempt knows and does, in threads and in tasks: what it waits for is yielded, as a call to make."""

    def __init__(
        self,
        client: Client | AsyncClient,
        earlier: str | None,
        details: Callable[[], Sequence[object]],
        options: SessionKwargs,
    ) -> None:
        if not activity.in_activity():
            msg = "activity_session belongs inside an activity; anywhere else use client.Session()"
            raise UsageError(msg)
        info = activity.info()
        self.client = client
        self.core = client._core  # noqa: SLF001 - a part of the library
        self.keeps_on = "attach" in self.core.adapter.capabilities
        self.stops = earlier == "stop" or (earlier is None and not self.keeps_on)
        self.key = f"temporal {info.workflow_run_id or info.activity_run_id} {info.activity_id}"
        labels = {**_labels(info), **(options.get("labels") or {})}
        self.options: SessionKwargs = {**options, "labels": labels, "idempotency_key": self.key}
        self.info = info
        self.session: S | None = None
        self._details = details
        timeout = info.heartbeat_timeout
        self._every = min(BEAT_EVERY, timeout.total_seconds() / 3 if timeout is not None else BEAT_EVERY)
        self._next = 0.0

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse a second block: it would take the session of the first for that of an earlier attempt."""
        me = (self.key, self.info.attempt)
        if me in _running:
            msg = "this attempt is in a block of activity_session already; make further sessions with client.Session()"
            raise UsageError(msg)
        _running.add(me)
        try:
            yield
        finally:
            _running.discard(me)

    def elsewhere(self) -> Mapping[str, object] | None:
        """The session of an earlier attempt that a service keeps and the key can't find, by its last heartbeat."""
        told = next((d for d in self.info.heartbeat_details if isinstance(d, Mapping) and _REF in d), None)
        ref = told[_REF] if told is not None else None
        ours = isinstance(ref, Mapping) and ref.get("store") == self.core.ref("")["store"]
        return cast("Mapping[str, object]", ref) if self.keeps_on and ref is not None and not ours else None

    @property
    def of_guest(self) -> SessionKwargs:
        """The options for a session that somebody else began."""
        return cast("SessionKwargs", {k: v for k, v in self.options.items() if k not in OWNERS})

    def begin(self) -> Generator[_Call, None, None]:
        """Settle what became of the session of those before, and start one or go on with theirs."""
        if self.info.attempt > 1:
            yield self.client.sessions.reap
            if (ref := self.elsewhere()) is not None:
                try:
                    self.session = cast("S", self.client.Session(ref, **self.of_guest))
                    yield self.session.start
                except (ConfigError, SessionEnded) as e:  # it is over, or the service does not know it any more
                    if _called_off() is not None or getattr(e, "deadline", None) is CloseReason.START_TIMEOUT:
                        raise  # it may go on: this attempt did not come to it
                else:
                    if not self.stops:
                        return
                    yield self.session.stop
        while True:
            self.session = cast("S", self.client.Session(**self.options))
            yield self.session.start
            if self.session.made or not self.stops:
                return
            yield self.session.stop

    def end(self, error: BaseException | None) -> Generator[_Call, None, None]:
        """End the session, when the block is left with `error`, which wins over trouble in the teardown."""
        session = self.session
        if session is None:
            return
        work = session._do_leave  # noqa: SLF001 - a part of the library
        if isinstance(error, (asyncio.CancelledError, CancelledError)) and (cause := _called_off()) is not None:
            work = functools.partial(self.core.end, session._att, cause=cause)  # noqa: SLF001 - as above
        try:
            yield functools.partial(session._end, work, None)  # noqa: SLF001 - as above
        except Exception as trouble:
            if error is None:
                raise
            error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")

    def look(self) -> None:
        """End the session that the activity is called off for, and send a heartbeat when it is time."""
        cause, session = _called_off(), self.session
        if cause is not None and session is not None and not session.state.terminal:
            self.core.supervisor.thread.post(lambda: self.core.left_block(session._att, cause))  # noqa: SLF001 - as above
        if time.monotonic() >= self._next:
            self.beat()

    def beat(self) -> None:
        """Send a heartbeat: with the session once there is one, before that with what the last attempt knew."""
        self._next = time.monotonic() + self._every
        session = self.session
        try:
            if session is None or session.state is State.NOT_STARTED:
                activity.heartbeat(*self.info.heartbeat_details)
            else:
                activity.heartbeat({_REF: session.ref()}, *self._details())
        except Exception as e:  # noqa: BLE001 - of a converter or of `details`; Temporal tells by the timeout
            self.core.supervisor.log_event("lifecycle.heartbeat_failed", error=type(e).__name__)


# --- in threads ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _in_thread(attempt: _Attempt[Session]) -> Iterator[Session]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            attempt.look()

    watcher = threading.Thread(
        target=contextvars.copy_context().run, args=(watch,), name="lifecycle-temporal", daemon=True
    )
    with attempt.alone():
        try:
            # A cancellation that strikes between two lines would leave a session that nobody ends: here it waits.
            with activity.shield_thread_cancel_exception():
                watcher.start()
                _go(attempt.begin())
                attempt.beat()
            assert attempt.session is not None  # noqa: S101 - it has begun
            yield attempt.session
        except BaseException as error:
            with activity.shield_thread_cancel_exception():
                _go(attempt.end(error))
            if isinstance(error, SessionEnded) and activity.is_cancelled():
                msg = "the activity was cancelled, and its session ended"
                raise CancelledError(msg) from error
            raise
        else:
            with activity.shield_thread_cancel_exception():
                _go(attempt.end(None))
        finally:
            over.set()
            watcher.join()


def _go(steps: Generator[_Call, None, None]) -> None:
    """Make each call; what one raises is raised where it was asked for."""
    with contextlib.suppress(StopIteration):
        call = next(steps)
        while True:
            try:
                call()
            except BaseException as e:  # noqa: BLE001 - raised again, unless `steps` handles it
                call = steps.throw(e)
            else:
                call = next(steps)


# --- in tasks -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _in_task(attempt: _Attempt[AsyncSession]) -> AsyncIterator[AsyncSession]:
    async def watch() -> None:
        while True:
            attempt.look()
            await asyncio.sleep(LOOK_EVERY)

    with attempt.alone():
        watcher = asyncio.create_task(watch(), name="lifecycle-temporal")
        try:
            await _ago(attempt.begin())
            attempt.beat()
            assert attempt.session is not None  # noqa: S101 - it has begun
            yield attempt.session
        except BaseException as error:
            await _ago(attempt.end(error))
            raise
        else:
            await _ago(attempt.end(None))
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})


async def _ago(steps: Generator[_Call, None, None]) -> None:
    """Await each call, as `_go` makes them."""
    with contextlib.suppress(StopIteration):
        call = next(steps)
        while True:
            try:
                await call()
            except BaseException as e:  # noqa: BLE001 - as above
                call = steps.throw(e)
            else:
                call = next(steps)


# --- what both ask ------------------------------------------------------------------------------------------------


def _labels(info: activity.Info) -> dict[str, str]:
    told = {
        "temporal.workflow": info.workflow_id,
        "temporal.run": info.workflow_run_id or info.activity_run_id,
        "temporal.activity": info.activity_id,
        "temporal.attempt": str(info.attempt),
    }
    return {name: value[:_LONGEST] for name, value in told.items() if value is not None}


def _called_off() -> str | None:
    """Why the activity should not go on. A worker that is shut down cancels too what takes too long."""
    if activity.is_worker_shutdown():
        return "worker shutdown"
    return "cancelled" if activity.is_cancelled() else None


def _add(error: BaseException, trouble: Exception) -> None:
    error.add_note(f"while the session was torn down: {type(trouble).__name__}: {trouble}")
