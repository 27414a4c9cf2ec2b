"""The two ends of a call: a caller waits in its own thread or loop while the supervisor works.

Rule: a caller waits in `queue.SimpleQueue.get` or in a future of its own loop, and in nothing else. Ctrl-C,
SystemExit out of a signal handler and cancellation strike it there; the supervisor's work is never touched by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lifecycle.errors import UsageError
from lifecycle.hooks import inside_hook_of
from lifecycle.steps import CallerLeft, HookStruck

if TYPE_CHECKING:
    from lifecycle.hooks import Hook, Transition
    from lifecycle.loops import LoopThread

__all__ = ["AsyncCaller", "Caller", "SyncCaller"]

T = TypeVar("T")
_monotonic: Final = time.monotonic  # bound now: clock fakes patch the module


class _Turn:
    """One hook that a caller is asked to run, and how it ended as far as is known."""

    __slots__ = ("attachment_id", "outcome", "run", "withdrawn")

    def __init__(self, attachment_id: str, run: Callable[[], Any]) -> None:
        self.attachment_id = attachment_id
        self.run = run
        self.outcome: tuple[BaseException | None] | None = None
        self.withdrawn = False

    def settle(self, done: asyncio.Future[None]) -> None:
        if self.outcome is None or done.done():
            return
        (error,) = self.outcome
        if error is None:
            done.set_result(None)
        else:
            plain = isinstance(error, Exception) and not isinstance(error, StopIteration)  # which a future refuses
            done.set_exception(error if plain else HookStruck(error))


class Caller:
    """A caller as the supervisor sees it; `run_hook` and `answer` are used on the supervisor's loop."""

    def __init__(self, supervisor: LoopThread, run: Callable[[Caller], None], name: str) -> None:
        self.name = name
        self.context = contextvars.copy_context()
        self.left = False
        self.posted = False
        self.taken = False
        self._work = run
        self._supervisor = supervisor
        self._hook: tuple[_Turn, asyncio.Future[None]] | None = None  # the supervisor's: what runs, and its end
        self._begun: _Turn | None = None  # the caller's: the hook it began last

    def post(self) -> None:
        """Post the work, once.

        Raises:
            UsageError: After a fork, or when the supervisor has ended.
        """
        if not self.posted:
            self._supervisor.post(self._work, self)
            self.posted = True  # after the post, so that no strike can lose it; the supervisor takes it up once

    def answer(self, result: object, error: BaseException | None) -> None:
        """Hand the result to the caller."""
        raise NotImplementedError

    def _begin_hook(self, turn: _Turn) -> None:
        raise NotImplementedError

    async def run_hook(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> None:
        """Run a hook in the caller's own thread or loop.

        Raises:
            CallerLeft: The caller was interrupted before the hook ran.
            BaseException: What the hook raised.
        """
        if self.left:
            raise CallerLeft
        turn = _Turn(attachment_id, self._call(hook, attachment_id, session, transition))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hook = turn, done
        self._begin_hook(turn)
        try:
            await done
        except asyncio.CancelledError:  # its budget has passed
            turn.withdrawn = True
            self._withdraw(turn)
            raise

    def _withdraw(self, turn: _Turn) -> None:
        """End a hook that nobody waits for any more, where that is possible: a thread can't be interrupted."""

    def _call(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> Callable[[], Any]:
        return lambda: hook.call(attachment_id, session, transition)

    def _hook_done(self, turn: _Turn, error: BaseException | None) -> None:
        """Any thread: the hook ended."""
        turn.outcome = (error,)

        def settle() -> None:
            if self._hook is not None and self._hook[0] is turn:
                turn.settle(self._hook[1])

        self._supervisor.post(settle)

    def leave(self, error: BaseException | None) -> None:
        """In the caller's thread: it runs no more hooks, because `error` struck it or it is busy in a signal handler.

        A hook that it began has failed with the error, even if its end could not be told; one that it did not begin
        is somebody else's to run. A signal handler may strike on the threshold of a hook, where its end is not told
        yet: then it has ended.
        """
        self.left = True
        begun = self._begun
        if begun is not None and begun.outcome is None and (error or not inside_hook_of(begun.attachment_id)):
            begun.outcome = (error,)

        def settle() -> None:
            if self._hook is None or self._hook[1].done():
                return
            turn, done = self._hook
            if turn is begun:
                turn.settle(done)
            else:
                done.set_exception(CallerLeft())

        with contextlib.suppress(UsageError):  # the supervisor has ended, and with it whatever it would be told for
            self._supervisor.post(settle)


class _Waiting(threading.local):
    def __init__(self) -> None:
        self.callers: list[SyncCaller] = []


_waiting = _Waiting()
"""The callers that wait in this thread: more than one when a signal handler calls us while its thread does."""


class SyncCaller(Caller):
    """A thread that waits."""

    def __init__(self, supervisor: LoopThread, run: Callable[[Caller], None]) -> None:
        super().__init__(supervisor, run, threading.current_thread().name)
        self._replies: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self._answer: tuple[Any, BaseException | None] | None = None

    def answer(self, result: object, error: BaseException | None) -> None:
        """Hand the result to the thread."""
        self._answer = result, error  # not through the queue: a thread that is struck may lose what it took from there
        self._replies.put(None)

    def post(self) -> None:
        """Post the work, once; see `Caller.post`."""
        if not self.posted:
            outer = [c for c in _waiting.callers if not c.left and c is not self]
            _waiting.callers = [*outer, self]
            for caller in outer:
                caller.leave(None)  # else its hooks would wait for this thread, which waits here first
        super().post()

    def leave(self, error: BaseException | None) -> None:
        """In the caller's thread; see `Caller.leave`."""
        self._wait_no_more()
        super().leave(error)

    def _wait_no_more(self) -> None:
        _waiting.callers = [c for c in _waiting.callers if c is not self]

    def _begin_hook(self, turn: _Turn) -> None:
        self._replies.put(turn)

    def wait(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - what the call returns
        """Post the work and wait for the answer, running hooks meanwhile.

        Raises:
            TimeoutError: No answer within `timeout` seconds; the work goes on.
            BaseException: What the call raised.
        """
        until = None if timeout is None else _monotonic() + timeout
        try:
            self.post()
            value, error = self._take(until)
        except queue.Empty:
            msg = f"no answer within {timeout:g} seconds; what was asked for goes on in the background"
            late = TimeoutError(msg)
            self.leave(late)
            raise late from None
        except BaseException as struck:
            self.leave(struck)
            raise
        if error is not None:
            raise error
        return value

    def wait_through(self) -> Any:  # noqa: ANN401 - what the call returns
        """Post the work and wait for the answer, even when struck by Ctrl-C or SystemExit once; that is raised after.

        A second strike ends the wait at once. The work goes on in any case.
        """
        try:
            self.post()
            value, error = self._take(None)
        except UsageError:
            raise  # there is nobody to post to
        except BaseException as struck:
            self.post()
            self.leave(struck)
            _, error = self._take(None)
            if error is not None:
                struck.add_note(f"while the session was torn down: {type(error).__name__}: {error}")
            raise
        if error is not None:
            raise error
        return value

    def _take(self, until: float | None) -> tuple[Any, BaseException | None]:
        """Run hooks until the answer comes. Raises queue.Empty past `until`, and whatever strikes this thread."""
        try:
            while self._answer is None:
                left = None if until is None else max(until - _monotonic(), 0.0)
                turn = self._replies.get(timeout=left)
                if turn is not None and not turn.withdrawn and not self.left:  # else a worker runs it, or nobody
                    self._run(turn)
            return self._answer
        finally:
            self._wait_no_more()

    def _run(self, turn: _Turn) -> None:
        self._begun = turn
        try:
            turn.run()
        except Exception as e:  # noqa: BLE001 - the flow records it and raises it after the edge
            self._hook_done(turn, e)
        except BaseException as e:
            self._hook_done(turn, e)
            raise
        else:
            self._hook_done(turn, None)


class AsyncCaller(Caller):
    """A task that waits on its own loop."""

    def __init__(self, supervisor: LoopThread, run: Callable[[Caller], None]) -> None:
        task = asyncio.current_task()
        super().__init__(supervisor, run, task.get_name() if task is not None else threading.current_thread().name)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    def _post(self, callback: Callable[..., object], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self.left = True  # its loop is closed: nobody is waiting any more
            return False
        return True

    def answer(self, result: object, error: BaseException | None) -> None:
        """Hand the result to the task."""

        def settle() -> None:
            if self._answer.done():
                return
            if error is None:
                self._answer.set_result(result)
            else:
                self._answer.set_exception(error)
                self._answer.exception()  # seen, now: nobody may be left to look, nor a loop to run a callback

        self._post(settle)

    def _call(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> Callable[[], Any]:
        return lambda: hook.call_async(attachment_id, session, transition)

    def _begin_hook(self, turn: _Turn) -> None:
        async def call() -> None:
            try:
                await turn.run()
            except BaseException as e:
                self._hook_done(turn, e)
                if not isinstance(e, Exception):
                    raise
            else:
                self._hook_done(turn, None)

        def begin() -> None:
            if not self.left and not turn.withdrawn:  # else a worker runs it, or nobody
                self._begun = turn
                self._task = self._loop.create_task(call(), context=self.context)
                self._task.add_done_callback(lambda t: t.cancelled() or t.exception())  # the flow was told of it

        if not self._post(begin):
            raise CallerLeft

    def _withdraw(self, turn: _Turn) -> None:
        def end() -> None:
            if self._begun is turn and self._task is not None:
                self._task.cancel()

        self._post(end)

    def leave(self, error: BaseException | None) -> None:
        """On the caller's loop: as `Caller.leave`; a hook that runs is cancelled."""
        super().leave(error)
        if self._task is not None:
            self._task.cancel()

    async def wait(self, timeout: float | None = None) -> Any:  # noqa: ANN401, ASYNC109 - what the call returns
        """Post the work and wait for the answer.

        Raises:
            TimeoutError: No answer within `timeout` seconds; the work goes on.
            BaseException: What the call raised.
        """
        self.post()
        try:
            await asyncio.wait({self._answer}, timeout=timeout)
        except BaseException as struck:
            self.leave(struck)
            raise
        if not self._answer.done():
            msg = f"no answer within {timeout:g} seconds; what was asked for goes on in the background"
            late = TimeoutError(msg)
            self.leave(late)
            raise late
        return self._answer.result()

    async def wait_through(self) -> Any:  # noqa: ANN401 - what the call returns
        """Post the work and wait for the answer even when cancelled once; the cancellation is raised afterwards.

        A second cancellation ends the wait at once. The work goes on in any case.
        """
        self.post()
        try:
            await asyncio.wait({self._answer})
        except BaseException as struck:
            if isinstance(struck, GeneratorExit):  # nobody will run this coroutine again
                self.leave(struck)
                raise
            try:
                await asyncio.wait({self._answer})  # the loop runs on, and with it the hooks
            except BaseException as again:
                self.leave(again)
                raise
            error = self._answer.exception()
            if error is not None:
                struck.add_note(f"while the session was torn down: {type(error).__name__}: {error}")
            raise
        return self._answer.result()
