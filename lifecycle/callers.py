"""The two ends of a call: a caller waits in its own thread or loop while the supervisor works.

Rule: a caller waits in `queue.SimpleQueue.get` or in a future of its own loop, and in nothing else. Ctrl-C,
SystemExit out of a signal handler and cancellation strike it there; the supervisor's work is never touched by them.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lifecycle.steps import CallerLeft

if TYPE_CHECKING:
    from lifecycle.hooks import Hook, Transition
    from lifecycle.loops import LoopThread

__all__ = ["AsyncCaller", "Caller", "SyncCaller"]

T = TypeVar("T")
_monotonic: Final = time.monotonic  # bound now: clock fakes patch the module


class Caller:
    """A caller as the supervisor sees it; `run_hook` and `answer` are used on the supervisor's loop."""

    def __init__(self, supervisor: LoopThread, name: str) -> None:
        self.name = name
        self.context = contextvars.copy_context()
        self.left = False
        self._supervisor = supervisor
        self._hook: asyncio.Future[None] | None = None

    def answer(self, result: object, error: BaseException | None) -> None:
        """Hand the result to the caller."""
        raise NotImplementedError

    def _begin_hook(self, run: Callable[[], Any]) -> None:
        raise NotImplementedError

    async def run_hook(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> None:
        """Run a hook in the caller's own thread or loop.

        Raises:
            CallerLeft: The caller was interrupted before the hook ran.
            BaseException: What the hook raised.
        """
        if self.left:
            raise CallerLeft
        self._hook = asyncio.get_running_loop().create_future()
        self._begin_hook(self._call(hook, attachment_id, session, transition))
        await self._hook

    def _call(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> Callable[[], Any]:
        return lambda: hook.call(attachment_id, session, transition)

    def _hook_done(self, error: BaseException | None) -> None:
        """Any thread: the hook ended."""

        def settle() -> None:
            if self._hook is None or self._hook.done():
                return
            if error is None:
                self._hook.set_result(None)
            else:
                self._hook.set_exception(error)

        self._supervisor.post(settle)

    def leave(self) -> None:
        """Any thread: the caller was interrupted and will not look at its answer."""

        def settle() -> None:
            self.left = True
            if self._hook is not None and not self._hook.done():
                self._hook.set_exception(CallerLeft())

        self._supervisor.post(settle)


class SyncCaller(Caller):
    """A thread that waits."""

    def __init__(self, supervisor: LoopThread) -> None:
        super().__init__(supervisor, threading.current_thread().name)
        self._replies: queue.SimpleQueue[tuple[str, Any, BaseException | None]] = queue.SimpleQueue()
        self._struck = False

    def answer(self, result: object, error: BaseException | None) -> None:
        """Hand the result to the thread."""
        self._replies.put(("answer", result, error))

    def _begin_hook(self, run: Callable[[], Any]) -> None:
        self._replies.put(("hook", run, None))

    def wait(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - what the call returns
        """Wait for the answer, running hooks meanwhile.

        Raises:
            TimeoutError: No answer within `timeout` seconds; the work goes on.
            BaseException: What the call raised.
        """
        until = None if timeout is None else _monotonic() + timeout
        try:
            value, error = self._take(until)
        except queue.Empty:
            self.leave()
            msg = f"no answer within {timeout:g} seconds; what was asked for goes on in the background"
            raise TimeoutError(msg) from None
        except BaseException:
            self.leave()
            raise
        if error is not None:
            raise error
        return value

    def wait_through(self) -> Any:  # noqa: ANN401 - what the call returns
        """Wait for the answer even when struck by Ctrl-C or SystemExit once; that is raised afterwards.

        A second strike ends the wait at once. The work goes on in any case.
        """
        try:
            value, error = self._take(None)
        except BaseException as struck:
            self._struck = True
            self.leave()
            _, error = self._take(None)
            if error is not None:
                struck.add_note(f"while the session was torn down: {type(error).__name__}: {error}")
            raise
        if error is not None:
            raise error
        return value

    def _take(self, until: float | None) -> tuple[Any, BaseException | None]:
        """Run hooks until the answer comes. Raises queue.Empty past `until`, and whatever strikes this thread."""
        while True:
            left = None if until is None else max(until - _monotonic(), 0.0)
            kind, value, error = self._replies.get(timeout=left)
            if kind == "answer":
                return value, error
            if not self._struck:  # else a worker runs it
                self._run(value)

    def _run(self, hook: Callable[[], Any]) -> None:
        try:
            hook()
        except Exception as e:  # noqa: BLE001 - the flow records it and raises it after the edge
            self._hook_done(e)
        except BaseException as e:
            self._hook_done(e)
            raise
        else:
            self._hook_done(None)


class AsyncCaller(Caller):
    """A task that waits on its own loop."""

    def __init__(self, supervisor: LoopThread) -> None:
        task = asyncio.current_task()
        super().__init__(supervisor, task.get_name() if task is not None else threading.current_thread().name)
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._answer.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody may be left to look
        self._tasks: set[asyncio.Task[None]] = set()

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

        self._post(settle)

    def _call(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> Callable[[], Any]:
        return lambda: hook.call_async(attachment_id, session, transition)

    def _begin_hook(self, run: Callable[[], Any]) -> None:
        async def call() -> None:
            try:
                await run()
            except BaseException as e:
                self._hook_done(e)
                if not isinstance(e, Exception):
                    raise
            else:
                self._hook_done(None)

        def begin() -> None:
            task = self._loop.create_task(call(), context=self.context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if not self._post(begin):
            raise CallerLeft

    async def wait(self, timeout: float | None = None) -> Any:  # noqa: ANN401, ASYNC109 - what the call returns
        """Wait for the answer.

        Raises:
            TimeoutError: No answer within `timeout` seconds; the work goes on.
            BaseException: What the call raised.
        """
        try:
            await asyncio.wait({self._answer}, timeout=timeout)
        except BaseException:
            self.leave()
            raise
        if not self._answer.done():
            self.leave()
            msg = f"no answer within {timeout:g} seconds; what was asked for goes on in the background"
            raise TimeoutError(msg)
        return self._answer.result()

    async def wait_through(self) -> Any:  # noqa: ANN401 - what the call returns
        """Wait for the answer even when cancelled once; the cancellation is raised afterwards."""
        try:
            await asyncio.wait({self._answer})
        except BaseException as struck:
            self.leave()
            await asyncio.wait({self._answer})
            error = self._answer.exception()
            if error is not None:
                struck.add_note(f"while the session was torn down: {type(error).__name__}: {error}")
            raise
        return self._answer.result()
