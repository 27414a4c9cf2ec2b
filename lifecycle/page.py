"""Playwright pages in the caller's own thread or loop, connected to the session over CDP.

Rule: a page lives where it was made, and so does the driver behind it. Sync sessions of one thread share one driver,
async sessions of one loop another; it stops when the last of them ends, so that `asyncio.run` works there again (the
sync API leaves its loop running in the thread). Playwright is imported when a page is asked for, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from lifecycle.driver_process import (
    children,
    has_ended,
    in_loop_time,
    in_time,
    new_drivers,
    process_of,
    start_async_driver,
    start_driver,
)
from lifecycle.errors import UsageError

if TYPE_CHECKING:
    from playwright import async_api, sync_api

    from lifecycle.loops import LoopThread

__all__ = ["AsyncPageSlot", "PageSlot", "hold_driver", "release_driver", "tidy_driver"]


class _ThreadDriver:
    """The Playwright driver of one thread, and who uses it."""

    _manager: Any = None  # here, so that one whose making was interrupted can be dropped too

    def __init__(self, worker: LoopThread) -> None:
        self.ident = threading.get_ident()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()  # a user that is dropped uses nothing any more
        self.slots: weakref.WeakSet[PageSlot] = weakref.WeakSet()
        self.playwright: sync_api.Playwright | None = None
        self._home: object = None
        self._worker = worker
        self._pid: int | None = None

    def start(self) -> sync_api.Playwright:
        """The running driver, started when it is not."""
        self.bury()
        if self.playwright is None:
            if _inside_a_loop():  # Playwright's sync API refuses to start there
                msg = (
                    "session.page can't be used inside a running event loop: use AsyncClient and "
                    "`await session.page()`, or connect to session.cdp_url() yourself"
                )
                raise UsageError(msg)
            from playwright.sync_api import sync_playwright  # noqa: PLC0415 - 0.2 s that only pages pay for

            before = children()
            self._manager = sync_playwright()
            try:
                started: sync_api.Playwright = start_driver(self._manager)
            except BaseException:
                manager, self._manager = self._manager, None
                _give_up(manager, before)
                raise
            self.playwright = started
            self._home = _greenlet()
            self._pid = getattr(process_of(self._manager), "pid", None)
            return started
        return self.playwright

    def callable_here(self) -> bool:
        """True in the thread that it was started in, outside of its own event loop.

        A signal handler or an event listener that strikes in a page call runs inside that loop, where a further call
        would wait for itself.
        """
        return threading.get_ident() == self.ident and (self.playwright is None or _greenlet() is self._home)

    def drop(self, user: object) -> None:
        """`user` needs it no more."""
        self.users.discard(user)
        self.tidy()

    def tidy(self) -> None:
        """Close the pages of sessions that ended where nobody could close them; with no user left, stop."""
        if not self.callable_here():
            return
        for slot in list(self.slots):
            if slot.over():
                slot.disconnect()
        if not self.users:
            self.stop()

    def renew(self) -> None:
        """Start afresh with the next page, after Ctrl-C struck a connect, where no other page needs this driver.

        Playwright's objects are half made then: a context without its browser fails at its close, and with it whatever
        call reads that event (seen).
        """
        if self.callable_here() and not any(slot.connected for slot in self.slots):
            self.stop()

    def stop(self) -> None:
        """Stop the driver, in its own thread."""
        manager, self._manager, self.playwright = self._manager, None, None
        if manager is None:
            return
        for slot in list(self.slots):
            slot.forget()
        with in_time(manager):
            _end_process(manager)
            manager.__exit__(None, None, None)

    def bury(self) -> None:
        """Stop a driver that has ended by itself, so that the next page gets a new one."""
        if self.callable_here() and has_ended(self._manager):
            self.stop()

    def close(self, browser: sync_api.Browser) -> None:
        """Close a connection that other pages of the thread do not need."""
        from playwright.sync_api import Error  # noqa: PLC0415 - imported already

        with contextlib.suppress(Error), in_time(self._manager):  # the session is over, the connection closed already
            browser.close()

    def __del__(self) -> None:
        # The thread ends with its driver running: nobody can call it any more, so its pipe is closed (the driver
        # exits when it sees that) and the process is waited for elsewhere.
        manager, self._manager = self._manager, None
        if manager is None:
            return
        _orphans.append(manager)  # its loop can't run any more; finalizing it would only complain
        if self._pid is not None:
            manager._client._transport._output.transport.get_extra_info("pipe").close()  # noqa: SLF001 - no public way
            if not _ASYNCIO_REAPS and self._worker.alive:
                self._worker.loop.jobs.put(lambda pid=self._pid: _reap(pid))  # type: ignore[misc]
        warnings.warn(  # at the end: where warnings are errors, nothing after it is done
            "a thread ended with Playwright pages open; stop its sessions first", ResourceWarning, stacklevel=2
        )


def _end_process(manager: Any) -> None:  # noqa: ANN401 - Playwright's managers have no public type
    """Tell the driver to end, and wait until its process has.

    Playwright's own end waits for the task that reads from it; where a signal struck that, it leaves the process
    running (seen).
    """
    process = process_of(manager)
    if process is not None:
        fiber = manager._dispatcher_fiber  # noqa: SLF001 - no public way, as below
        manager._client._transport.request_stop()  # noqa: SLF001
        while not fiber.dead:
            fiber.switch()  # runs its loop, until the reader has ended
        manager._loop.run_until_complete(process.communicate())  # noqa: SLF001


def _give_up(manager: Any, before: Mapping[int, bytes]) -> None:  # noqa: ANN401 - as above
    """A driver's start broke off: what there is of it, nobody can say, so its process is ended from outside.

    Its loop can't be run to an end any more (seen: it waits for ever), so it only ceases to be this thread's.
    """
    _orphans.append(manager)
    asyncio._set_running_loop(None)  # noqa: SLF001 - no public way
    for pid in new_drivers(before):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # asyncio's own watcher was first
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if not _ASYNCIO_REAPS:
            _reap(pid)


def _greenlet() -> object:
    import greenlet  # noqa: PLC0415 - loaded with Playwright already

    return greenlet.getcurrent()


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_orphans: list[object] = []

_ASYNCIO_REAPS: Final = sys.version_info < (3, 12) or not hasattr(os, "pidfd_open")
"""True where asyncio waits for a child on a thread, which goes on without the loop; it complains of any other waiter.

Source: `ThreadedChildWatcher` and `PidfdChildWatcher` in asyncio/unix_events.py.
"""


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # asyncio's own watcher was first
        os.waitpid(pid, 0)


class _Local(threading.local):
    driver: _ThreadDriver | None = None


_local = _Local()


def _driver(worker: LoopThread) -> _ThreadDriver:
    if _local.driver is None:
        _local.driver = _ThreadDriver(worker)
    return _local.driver


def hold_driver(worker: LoopThread, user: object) -> None:
    """Keep this thread's driver, once it runs, until `release_driver`."""
    _driver(worker).users.add(user)


def release_driver(user: object) -> None:
    """Undo `hold_driver`; the last user stops the driver. Only in the same thread."""
    if _local.driver is not None:
        _local.driver.drop(user)


def tidy_driver() -> None:
    """Close the pages of this thread whose sessions are over; without any left, its driver stops."""
    if _local.driver is not None:
        _local.driver.tidy()


class PageSlot:
    """The sync page of one session.

    Args:
        worker: The supervisor's thread, for what is left over when a thread ends.
        user: Who uses the driver: the session.
        over: Tells whether the session is over.
    """

    def __init__(self, worker: LoopThread, user: object, over: Callable[[], bool]) -> None:
        self.over = over
        self._worker = worker
        self._user = user
        self._thread = threading.current_thread()
        # Weak: a thread that ends drops its driver, though what is left of its frames may still hold the session.
        self._driver: Callable[[], _ThreadDriver | None] = lambda: None
        self._browser: sync_api.Browser | None = None
        self._page: sync_api.Page | None = None

    @property
    def connected(self) -> bool:
        """True while it holds a connection."""
        return self._browser is not None

    def prefetch(self) -> None:
        """Start the driver of this thread before there is anything to connect to."""
        self._use().start()

    def _use(self) -> _ThreadDriver:
        driver = _driver(self._worker)
        self._driver = weakref.ref(driver)
        driver.tidy()
        driver.users.add(self._user)
        driver.slots.add(self)
        return driver

    def page(self, url: Callable[[], str]) -> sync_api.Page:
        """The page of the default context, connected when it is first asked for.

        Raises:
            UsageError: Asked for in another thread, or inside a running event loop.
        """
        if threading.current_thread() is not self._thread:
            msg = (
                f"session.page belongs to thread {self._thread.name!r}, where it was first used, and Playwright "
                f"can't be called from {threading.current_thread().name!r}; use one session a thread, or "
                "session.cdp_url()"
            )
            raise UsageError(msg)
        driver = self._driver()
        if driver is not None:
            driver.bury()
        if self._page is not None and not self._page.is_closed():
            return self._page
        if self._browser is None:
            driver = self._use()
            try:
                self._browser = driver.start().chromium.connect_over_cdp(url())
            except BaseException as struck:
                driver.drop(self._user)
                if not isinstance(struck, Exception):
                    driver.renew()
                raise
        context = self._browser.contexts[0]
        self._page = context.pages[0] if context.pages else context.new_page()
        return self._page

    def close(self) -> bool:
        """Close the connection and give the driver up.

        Returns:
            False where only its own thread can do that, outside of a page call; it does so when it next may.
        """
        driver = self._driver()
        if driver is None:
            return True
        if not driver.callable_here():
            return False
        try:
            self.disconnect()
        finally:
            driver.tidy()
        return True

    def forget(self) -> None:
        """The driver behind the page is gone; the next page is a new one."""
        self._browser = self._page = None

    def disconnect(self) -> None:
        """Close the connection; only where the driver can be called."""
        browser, self._browser, self._page = self._browser, None, None
        driver, self._driver = self._driver(), lambda: None
        if driver is not None:
            driver.users.discard(self._user)
            driver.slots.discard(self)
            if browser is not None and driver.users:  # without any, the driver stops, and its connections with it
                driver.close(browser)


class _LoopDriver:
    """The Playwright driver of one event loop."""

    def __init__(self) -> None:
        self.users: set[object] = set()
        self.starting: asyncio.Task[async_api.Playwright] | None = None
        self.manager: Any = None
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self) -> async_api.Playwright:
        """The running driver; a new one where it has ended by itself."""
        starting = self.starting
        if starting is None or has_ended(self.manager):
            from playwright.async_api import async_playwright  # noqa: PLC0415 - 0.2 s that only pages pay for

            self.manager = async_playwright()
            starting = self.starting = asyncio.ensure_future(start_async_driver(self.manager))
        try:
            return await asyncio.shield(starting)
        except Exception:
            self.starting = None
            raise

    async def drop(self, user: object) -> None:
        self.users.discard(user)
        if self.users or self.starting is None:
            return
        starting, self.starting = self.starting, None
        manager = self.manager

        async def stop() -> None:
            playwright = await starting
            with in_loop_time(manager):
                await playwright.stop()

        task = asyncio.ensure_future(stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        await asyncio.shield(task)  # cancelled here, it is stopped all the same


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopDriver] = weakref.WeakKeyDictionary()


def _loop_driver() -> _LoopDriver:
    return _loops.setdefault(asyncio.get_running_loop(), _LoopDriver())


class AsyncPageSlot:
    """The async page of one session."""

    def __init__(self, user: object) -> None:
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._playwright: async_api.Playwright | None = None
        self._browser: async_api.Browser | None = None
        self._page: async_api.Page | None = None
        self._lock = asyncio.Lock()

    async def prefetch(self) -> None:
        """Start the driver of this loop before there is anything to connect to."""
        driver = _loop_driver()
        driver.users.add(self._user)
        await driver.start()

    async def page(self, url: Callable[[], Any]) -> async_api.Page:
        """The page of the default context, connected when it is first asked for.

        Raises:
            UsageError: Asked for on another event loop.
        """
        if asyncio.get_running_loop() is not self._loop:
            msg = "session.page() belongs to the event loop where it was first used; use one session a loop"
            raise UsageError(msg)
        async with self._lock:
            driver = _loop_driver()
            driver.users.add(self._user)
            playwright = await driver.start()
            if playwright is not self._playwright:  # the first, or the one before has ended
                self._playwright, self._browser, self._page = playwright, None, None
            if self._page is not None and not self._page.is_closed():
                return self._page
            if self._browser is None:
                self._browser = await playwright.chromium.connect_over_cdp(await url())
            context = self._browser.contexts[0]
            self._page = context.pages[0] if context.pages else await context.new_page()
            return self._page

    async def close(self) -> None:
        """Close the connection and give the driver up."""
        if asyncio.get_running_loop() is not self._loop:
            return
        browser, self._browser, self._page = self._browser, None, None
        try:
            if browser is not None:
                from playwright.async_api import Error  # noqa: PLC0415 - imported already

                # The session is over, so the connection is closed already.
                with contextlib.suppress(Error), in_loop_time(_loop_driver().manager):
                    await browser.close()
        finally:
            await _loop_driver().drop(self._user)
