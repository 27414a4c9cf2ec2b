"""The memory adapter: sessions without a browser, for tests, with faults at named steps.

Rule: no I/O, no task and no thread. What a test scripts happens at the step it names and nowhere else, and what was
opened and what was released can be counted, so a test can hold one against the other.

    adapter = MemoryAdapter(faults=[Fault(step="save_cookies", kind="hang")])
    client = Client(adapter=adapter)
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from lifecycle.actions import Action, ActionResult, Observation, ObserveRequest, Scrape, ScrapeRequest
from lifecycle.config import nearest
from lifecycle.cookies import parse_cookies
from lifecycle.errors import BackendError, ConfigError, ConnectionLost, ReleaseFailed, StartFailed, UnsupportedOperation
from lifecycle.ports import BackendEnd
from lifecycle.states import TERMINAL, CloseReason, Event, State, Step
from lifecycle_adapters._faults import GOODBYES, Fault, Script
from lifecycle_adapters._jar import Jar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lifecycle.config import SessionOptions
    from lifecycle.cookies import Cookie
    from lifecycle.ports import Host

__all__ = ["Fault", "MemoryAdapter", "MemoryBackend", "Results"]

T = TypeVar("T")

Results = Callable[[Action | ObserveRequest | ScrapeRequest], ActionResult | Observation | Scrape | None]
"""A script of what operations on pages answer."""


class _Browser:
    """What stands for a browser: its cookies, who is told of its end, and who waits for it."""

    __slots__ = ("__weakref__", "adapter", "ended", "hosts", "jar", "pid", "released", "session_id", "stuck")

    def __init__(self, session_id: str, adapter: MemoryAdapter, host: Host) -> None:
        self.session_id = session_id
        self.adapter = adapter
        self.hosts = [host]
        self.pid = os.getpid()
        self.ended: BackendEnd | None = None
        self.released = False
        self.jar: Jar | None = None
        self.stuck: list[Callable[[], None]] | None = None


_running: Final[weakref.WeakValueDictionary[str, _Browser]] = weakref.WeakValueDictionary()
"""Every session that is open in this process, whichever adapter opened it."""


class MemoryBackend:
    """One memory session as `MemoryAdapter` opened it or connected to it."""

    __slots__ = ("_adapter", "_browser", "_host", "_owner")

    def __init__(self, adapter: MemoryAdapter, browser: _Browser, host: Host, *, owner: bool) -> None:
        self._adapter = adapter
        self._browser = browser
        self._host = host
        self._owner = owner

    @property
    def session_id(self) -> str:
        """The id that it was opened with."""
        return self._browser.session_id

    @property
    def can_live_on(self) -> bool:
        """True for a guest, and for the opener where the adapter says so."""
        return not self._owner or self._browser.adapter.can_live_on

    async def get_cookies(self) -> Sequence[Cookie]:
        """All cookies that have not expired."""
        await self._reach(Step.SAVE_COOKIES)
        return self._browser.jar.cookies(self._now()) if self._browser.jar else []

    async def set_cookies(self, cookies: Sequence[Cookie]) -> Sequence[tuple[Cookie, str]]:
        """Set cookies; returns those that a browser would refuse, each with the reason."""
        await self._reach(Step.LOAD_COOKIES)
        if not cookies:
            return []
        if self._browser.jar is None:
            self._browser.jar = Jar()
        return self._browser.jar.put(cookies, self._now())

    async def clear_cookies(self) -> None:
        """Remove every cookie."""
        await asyncio.sleep(0)
        _check_running(self._browser)
        self._browser.jar = None

    async def cdp_url(self) -> str:
        """Raises UnsupportedOperation: there is no browser."""
        raise UnsupportedOperation(
            operation="cdp_url",
            adapter=self._adapter.name,
            way_out='use Client(adapter="local") for a session with a browser and pages',
        )

    async def execute(self, action: Action) -> ActionResult:
        """What the adapter's `results` say of `action`."""
        return await self._answer(action, ActionResult)

    async def observe(self, request: ObserveRequest) -> Observation:
        """What the adapter's `results` say."""
        return await self._answer(request, Observation)

    async def scrape(self, request: ScrapeRequest) -> Scrape:
        """What the adapter's `results` say."""
        return await self._answer(request, Scrape)

    async def _answer(self, request: Action | ObserveRequest | ScrapeRequest, kind: type[T]) -> T:
        await self._reach(Event.OPERATE)
        script = self._browser.adapter.results
        answer = script(request) if script is not None else None
        if answer is None:
            raise UnsupportedOperation(
                operation=request.type if isinstance(request, Action) else kind.__name__.lower(),
                adapter=self._adapter.name,
                way_out='script it with MemoryAdapter(results=...), or use Client(adapter="local") for real pages',
            )
        if not isinstance(answer, kind):
            allowed = f"a function that answers a {type(request).__name__} with a {kind.__name__}"
            raise ConfigError(option="results", value=type(answer).__name__, allowed=allowed)
        return answer

    async def close_connections(self, reason: str) -> None:
        """Stop reporting to this attachment; there are no other connections. Idempotent."""
        del reason
        await self._reach(Step.CLOSE_CONNECTIONS)
        if self._host in self._browser.hosts:
            self._browser.hosts.remove(self._host)

    async def release(self) -> None:
        """End the session, for everybody who is attached to it. Idempotent."""
        if self._browser.released:
            return
        await self._reach(Step.RELEASE_BACKEND)
        if self._browser.released:  # by another attachment, meanwhile
            return
        self._browser.adapter._release(self._browser, by=self._host)  # noqa: SLF001 - one thing in two classes

    async def _reach(self, step: Step | Event) -> None:
        await self._adapter._reach(step, self._browser, self._host)  # noqa: SLF001 - one thing in two classes

    def _now(self) -> float:
        return self._host.clock.utcnow().timestamp()


class MemoryAdapter:
    """Opens sessions that are objects in this process. Accepts every option of a session and looks at none.

    Args:
        faults: What goes wrong, and when.
        can_live_on: True to act as a service whose sessions go on without their opener: it may detach, and others find
            the session by `probe`.
        results: Answers operations on pages: takes what is asked and gives an `ActionResult`, `Observation` or `Scrape`
            of `lifecycle.actions`, or None for what is not supported. Called on the supervisor's loop.

    Raises:
        ConfigError: Two faults are for the same time at the same step.
    """

    def __init__(
        self, *, faults: Iterable[Fault] = (), can_live_on: bool = False, results: Results | None = None
    ) -> None:
        self.results = results
        self.can_live_on = can_live_on
        self._script = Script(faults)
        self._live: dict[str, _Browser] = {}
        self._ended: dict[str, BackendEnd] = {}
        self._opened: list[str] = []
        self._released: list[str] = []
        self._hanging: dict[int, Callable[[], None]] = {}
        self._hangs = itertools.count()

    # --- what a test asks -----------------------------------------------------------------------------------------

    @property
    def opened(self) -> list[str]:
        """Ids of the sessions that were opened, in order, those included that failed while they were opened."""
        return list(self._opened)

    @property
    def released(self) -> list[str]:
        """Ids of the sessions that were released, in order. ``sorted(opened) == sorted(released)``: nothing leaked."""
        return list(self._released)

    @property
    def live(self) -> list[str]:
        """Ids of the sessions that run now: neither released nor gone."""
        return [browser.session_id for browser in list(self._live.values()) if browser.ended is None]

    @property
    def unused(self) -> list[Fault]:
        """Faults that have not struck. A test that ends with one has not tested what it says."""
        return self._script.left()

    # --- what a test does -----------------------------------------------------------------------------------------

    def crash(self, session_id: str) -> None:
        """Let the browser of a session crash now. Any thread.

        Raises:
            ConfigError: No such session runs.
        """
        self._gone(self._mine(session_id), _CRASHED)

    def end(self, session_id: str, *, state: State, reason: CloseReason, detail: str = "") -> None:
        """Let a session end by itself now, as a browser or service would report it. Any thread.

        Args:
            session_id: The session.
            state: ``closed``, ``error`` or ``timed_out``.
            reason: The close_reason it reports.
            detail: A sentence for the error message.

        Raises:
            ConfigError: No such session runs, or `state` is not final.
        """
        if state not in TERMINAL:
            raise ConfigError(option="state", value=state, allowed=nearest(str(state), TERMINAL))
        browser = self._mine(session_id)
        self._gone(browser, BackendEnd(state=State(state), reason=CloseReason(reason), detail=detail))

    def use(self, session_id: str) -> None:
        """Use a session as a client of its browser would: moves the idle deadline. Any thread; a hang blocks it.

        Raises:
            ConfigError: No such session is known.
            ConnectionLost: Its browser is gone.
        """
        browser = self._mine(session_id)
        _check_running(browser)
        fault = self._script.next(Event.OPERATE)
        if fault is not None and fault.kind == "hang":
            # A SimpleQueue: a signal handler that ends the session may strike this very wait.
            answers: queue.SimpleQueue[None] = queue.SimpleQueue()
            with self._stuck(browser, lambda: answers.put(None)):
                answers.get()
            _check_running(browser)
        elif fault is not None:
            self._strike(fault, browser, None)
        for host in list(browser.hosts):
            host.used()

    def visit(self, session_id: str, *, sets: Iterable[Mapping[str, object] | Cookie]) -> None:
        """Use a session as a page of it would, whose site sets cookies. Any thread.

        Args:
            session_id: The session.
            sets: The cookies, in the form of `Session.set_cookies`.

        Raises:
            ConfigError: No such session is known, or one of them is none that a browser takes.
            ConnectionLost: Its browser is gone.
        """
        good, bad = parse_cookies(sets)
        browser = self._mine(session_id)
        _check_running(browser)
        if browser.jar is None:
            browser.jar = Jar()
        now = next((host.clock.utcnow().timestamp() for host in list(browser.hosts)), 0.0)
        refused = browser.jar.put(good, now)
        for name, reason in (*bad, *((cookie.name, why) for cookie, why in refused)):
            raise ConfigError(option=f"sets: cookie {name}", value="...", allowed=f"what a browser takes: {reason}")
        self.use(session_id)

    def release_hangs(self) -> None:
        """Let everything that hangs now go on, as if it had only been slow. Any thread."""
        for wake in list(self._hanging.values()):
            wake()

    # --- the port -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Always ``memory``."""
        return "memory"

    @property
    def capabilities(self) -> frozenset[str]:
        """Cookies, and every option, at which it does not look; ``attach`` where sessions live on without their opener.

        No ``pages``: there is nothing to show.
        """
        taken = frozenset(
            {"cookies", "headed", "viewport", "user_agent", "proxy", "chrome_args", "profile", "downloads"}
        )
        return taken | {"attach"} if self.can_live_on else taken

    def check(self, options: SessionOptions) -> None:
        """Accept all options, so that a test can swap this adapter in for any other."""

    async def open(self, session_id: str, options: SessionOptions, host: Host) -> MemoryBackend:
        """Open a session. Atomic: whatever strikes, it is open or released.

        Raises:
            StartFailed: A session with this id runs already, or a fault is scripted.
        """
        del options
        if session_id in self._live:
            raise StartFailed(f"a memory session {session_id!r} runs already; choose another id", adapter=self.name)
        browser = _Browser(session_id, self, host)
        self._live[session_id] = _running[session_id] = browser
        self._opened.append(session_id)
        try:
            await self._reach(Step.OPEN_BACKEND, browser, host)
        except BaseException:
            self._release(browser, by=host)
            raise
        return MemoryBackend(self, browser, host, owner=True)

    async def probe(self, session_id: str, host: Host) -> BackendEnd | None:
        """How a memory session of this process ended; None while it runs.

        Raises:
            ConfigError: There is none with this id.
        """
        browser = self._find(session_id)
        if isinstance(browser, BackendEnd):
            return browser
        await self._reach(Step.PROBE_BACKEND, browser, host)
        return browser.ended

    async def connect(self, session_id: str, options: SessionOptions, host: Host) -> MemoryBackend:
        """Join a memory session of this process.

        Raises:
            ConfigError: There is none with this id.
            StartFailed: It has ended, or a fault is scripted.
        """
        del options
        browser = self._find(session_id)
        if isinstance(browser, BackendEnd) or browser.ended is not None:
            message = f"memory session {session_id!r} has ended; make a new session"
            raise StartFailed(message, step=Step.CONNECT_BACKEND, adapter=self.name)
        browser.hosts.append(host)
        try:
            await self._reach(Step.CONNECT_BACKEND, browser, host)
        except BaseException:
            browser.hosts.remove(host)
            raise
        return MemoryBackend(self, browser, host, owner=False)

    async def aclose(self) -> None:
        """Nothing to give up: sessions that run are released by their owners."""

    # --- inside ---------------------------------------------------------------------------------------------------

    def _mine(self, session_id: str) -> _Browser:
        browser = self._live.get(session_id)
        if browser is None:
            allowed = nearest(str(session_id), self._live) if self._live else "none: no session runs on this adapter"
            raise ConfigError(option="session_id", value=session_id, allowed=allowed)
        return browser

    def _find(self, session_id: str) -> _Browser | BackendEnd:
        browser = _running.get(session_id)
        if browser is not None and browser.pid == os.getpid():
            return browser
        if session_id in self._ended:
            return self._ended[session_id]
        raise ConfigError(
            option="session_id", value=session_id, allowed="the id of a memory session that this process has opened"
        )

    async def _reach(self, step: Step | Event, browser: _Browser, host: Host) -> None:
        fault = self._script.next(step)
        if fault is None:
            await asyncio.sleep(0)  # as with a real backend, each call is a place where its task may be cancelled
        elif fault.kind == "hang":
            loop = asyncio.get_running_loop()
            answer = loop.create_future()
            with self._stuck(None if step in GOODBYES else browser, lambda: _post(loop, answer)):
                await answer
        else:
            self._strike(fault, browser, host)
        if step not in GOODBYES and step is not Step.PROBE_BACKEND:
            _check_running(browser)

    def _strike(self, fault: Fault, browser: _Browser, host: Host | None) -> None:
        if fault.kind == "crash":
            self._gone(browser, _CRASHED, also=host)
            if fault.step in GOODBYES:
                return
            raise fault.error or ConnectionLost(f"the browser crashed at {fault.step}, as scripted")
        message = f"{fault.step} failed, as scripted"
        if fault.error is not None:
            raise fault.error
        if fault.step in (Step.OPEN_BACKEND, Step.CONNECT_BACKEND):
            raise StartFailed(message, step=fault.step, adapter=self.name)
        if fault.step == Step.RELEASE_BACKEND:
            raise ReleaseFailed(message, session_id=browser.session_id)
        raise BackendError(message)

    @contextmanager
    def _stuck(self, browser: _Browser | None, wake: Callable[[], None]) -> Iterator[None]:
        """While somebody waits: `wake` ends the wait, and so does the end of `browser`."""
        key = next(self._hangs)
        self._hanging[key] = wake
        if browser is not None:
            browser.stuck = [*(browser.stuck or ()), wake]
            if browser.ended is not None:  # looked at after `stuck` was set, for an end that came in between
                wake()
        try:
            yield
        finally:
            del self._hanging[key]
            if browser is not None:
                browser.stuck = [w for w in browser.stuck or () if w is not wake] or None

    def _gone(self, browser: _Browser, end: BackendEnd, *, also: Host | None = None) -> None:
        """The browser is gone: tell everybody who is attached, and end every wait for it."""
        if browser.ended is not None:
            return
        browser.ended = end
        hosts = list(browser.hosts)
        if also is not None and also not in hosts:
            hosts.append(also)
        for host in hosts:
            host.ended(end)
        for wake in browser.stuck or ():
            wake()

    def _release(self, browser: _Browser, *, by: Host) -> None:
        browser.released = True
        browser.hosts = [host for host in browser.hosts if host is not by]
        self._live.pop(browser.session_id, None)
        if _running.get(browser.session_id) is browser:
            del _running[browser.session_id]
        self._released.append(browser.session_id)
        self._gone(browser, _STOPPED)
        self._ended[browser.session_id] = browser.ended or _STOPPED


_CRASHED: Final = BackendEnd(state=State.ERROR, reason=CloseReason.CRASH, detail="the browser crashed, as scripted")
_STOPPED: Final = BackendEnd(state=State.CLOSED, reason=CloseReason.MANUAL, detail="another attachment stopped it")


def _check_running(browser: _Browser) -> None:
    if browser.ended is not None:
        raise ConnectionLost(f"the browser of session {browser.session_id} is gone: {browser.ended.detail}")


def _post(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[None]) -> None:
    def settle() -> None:
        if not answer.done():
            answer.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
