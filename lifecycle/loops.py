"""A thread that runs an event loop, with the boundary that other threads talk to it through.

Rule: nothing here takes a lock that a caller can hold. Work is posted with `call_soon_threadsafe`, answers come back
through `queue.SimpleQueue`, which a signal handler may use while its own thread waits in it; `concurrent.futures` and
`threading.Condition` deadlock there. Worker threads are started with the loop and live to the very end of the
process, because at interpreter exit executors refuse work and on Python 3.12 no thread can be started.
"""

from __future__ import annotations

import asyncio
import os
import queue
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, TypeVarTuple

from lifecycle.errors import UsageError
from lifecycle.logs import report_unhandled

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_leaked: Final[list[object]] = []
"""Objects of a forked parent that the child must never finalize (loops, SQLite connections)."""


Jobs = queue.SimpleQueue[Callable[[], None] | None]


def _work(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # what a job closes over must not live until the next one comes


def _queue_job(loop: asyncio.AbstractEventLoop, jobs: Jobs, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
    """Queue `func(*args)` for a worker thread; the future settles on `loop`."""
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None
        else:
            future.set_exception(error)

    def job() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = func(*args)
        except StopIteration as e:  # a future refuses it
            error = RuntimeError(f"{e!r} raised by {func!r}")
        except BaseException as e:  # noqa: BLE001 - it is handed to whoever awaits the future
            error = e
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    jobs.put(job)
    return future


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose executor is a set of threads that were started with it."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        super().__init__(selector)
        self.jobs: Jobs = queue.SimpleQueue()

    def run_in_executor(
        self,
        executor: object,  # noqa: ARG002 - the base class hands one over; ours are plain threads
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        return _queue_job(self, self.jobs, func, *args)


class Workers:
    """Named daemon threads that share the jobs they are given."""

    def __init__(self, *names: str) -> None:
        self._jobs: Jobs = queue.SimpleQueue()
        self._threads = [threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def submit(self, func: Callable[[*Ts], object], *args: *Ts) -> None:
        """Queue `func(*args)`; it must not raise."""
        self._jobs.put(lambda: (func(*args), None)[1])

    async def run(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `func(*args)` on a thread of theirs and await its result on the running loop."""
        return await _queue_job(asyncio.get_running_loop(), self._jobs, func, *args)

    def stop(self) -> None:
        """End the threads after what is queued."""
        for _ in self._threads:
            self._jobs.put(None)


class SerialWorker(Workers):
    """One named daemon thread that runs jobs one after the other, for a resource that wants no concurrency."""

    def __init__(self, name: str) -> None:
        super().__init__(name)


class LoopThread:
    """An event loop on a named daemon thread.

    Args:
        name: Name of the thread; workers are called ``NAME-worker-N``.
        workers: How many worker threads serve `run_in_executor`, `asyncio.to_thread` and DNS on this loop.
    """

    def __init__(self, name: str, *, workers: int = 0) -> None:
        self.name = name
        self.pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self.loop = _Loop(self._selector)
        self.loop.set_exception_handler(report_unhandled)
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._workers = [
            threading.Thread(target=_work, args=(self.loop.jobs,), name=f"{name}-worker-{n}", daemon=True)
            for n in range(workers)
        ]
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._discarded = False

    def start(self) -> None:
        """Start the thread and its workers."""
        for worker in self._workers:
            worker.start()
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while True:
                try:
                    self.loop.run_forever()
                except (KeyboardInterrupt, SystemExit):
                    # A task ended with it: asyncio hands it to whoever awaits the task, and stops the loop as well.
                    continue
                break
        finally:
            self._ended.put(None)
            if self._discarded:
                self.loop.close()

    @property
    def alive(self) -> bool:
        """True while work can be posted from this process."""
        return self.pid == os.getpid() and self._thread.is_alive() and not self.loop.is_closed()

    def inside(self) -> bool:
        """True on the loop's own thread."""
        return threading.get_ident() == self._thread.ident

    def post(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback(*args)` on the loop's thread, soon. Any thread, any signal handler.

        Raises:
            UsageError: This process is a fork of the one that owns the loop, or the loop has ended.
        """
        if self.pid != os.getpid():
            msg = (
                f"this object belongs to process {self.pid}, which forked this one ({os.getpid()}); "
                "make a new Client after the fork"
            )
            raise UsageError(msg)
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError as e:
            msg = f"the {self.name} thread has ended; make a new Client"
            raise UsageError(msg) from e

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await `coro` on this loop from another loop. Cancelling the wait cancels it there.

        Raises:
            UsageError: As `post`.
        """
        here = asyncio.get_running_loop()
        if here is self.loop:
            return await coro
        answer: asyncio.Future[T] = here.create_future()
        tasks: list[asyncio.Task[T]] = []

        def settle(task: asyncio.Task[T]) -> None:
            if answer.done():
                if not task.cancelled():
                    task.exception()  # the waiter is gone; mark it as seen
                return
            if task.cancelled():
                answer.cancel()
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        def done(task: asyncio.Task[T]) -> None:
            if not here.is_closed():
                here.call_soon_threadsafe(settle, task)

        def begin() -> None:
            task = self.loop.create_task(coro)
            tasks.append(task)
            task.add_done_callback(done)

        try:
            self.post(begin)
        except UsageError:
            coro.close()
            raise
        try:
            return await answer
        except asyncio.CancelledError:
            self.post(lambda: [t.cancel() for t in tasks])
            raise

    def stop(self, timeout: float | None = 5.0) -> bool:
        """Stop the loop after what is queued now, and wait for the thread to end.

        Returns:
            False when the thread did not end within `timeout` seconds.
        """
        if not self.alive:
            return True
        self.post(self.loop.stop)
        try:
            self._ended.get(timeout=timeout)
        except queue.Empty:
            return False
        for _ in self._workers:
            self.loop.jobs.put(None)
        self._thread.join(timeout)
        self.loop.close()
        return True

    def discard(self) -> None:
        """End it without waiting, where its start may not have got through: the thread ends as soon as it runs."""
        self._discarded = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        for _ in self._workers:
            self.loop.jobs.put(None)
        _leaked.append(self)  # if the thread never runs, nobody closes the loop

    def abandon_in_child(self) -> None:
        """In a forked child: close the inherited descriptors without touching the loop, and never finalize it."""
        for fd in self.fds():
            close_fd(fd)
        _leaked.append(self)

    def fds(self) -> list[int]:
        """Descriptors that the loop holds: sockets and pipes it watches, its self-pipe and its selector."""
        watched = [key.fd for key in list((self._selector.get_map() or {}).values())]
        own = getattr(self._selector, "fileno", None)
        if own is not None:
            watched.append(own())
        written = getattr(self.loop, "_csock", None)
        if written is not None:
            watched.append(written.fileno())
        return [fd for fd in watched if fd >= 0]


def close_fd(fd: int) -> None:
    """Close a raw descriptor; silent when it is closed already."""
    try:
        os.close(fd)
    except OSError as e:
        if e.errno != 9:  # EBADF: somebody closed it first
            raise
