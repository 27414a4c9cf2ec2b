"""Runs one step, or one hook, of an edge under its rule: budget, attempts, policy.

Rule: a step reports how it went and decides nothing; what follows from a failure is the flow's to say. A step that
needs the backend ends when the backend does, and none outlasts its budget, even if it ignores its cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from lifecycle.attachment import describe
from lifecycle.audit import StepOutcome, StepResult
from lifecycle.errors import (
    BackendError,
    ConnectionLost,
    CookieSaveError,
    HookError,
    LifecycleError,
    ReleaseFailed,
    StartFailed,
    StoreError,
)
from lifecycle.states import STEPS, Policy, State, Step

if TYPE_CHECKING:
    from lifecycle.attachment import Attachment
    from lifecycle.deadlines import Deadlines
    from lifecycle.hooks import Hook, Transition
    from lifecycle.journal import Journal
    from lifecycle.ports import Backend, BackendEnd, Clock, Host, SessionRow

__all__ = [
    "CallerLeft",
    "FlowCaller",
    "FlowHost",
    "HookStruck",
    "StepTimeout",
    "Steps",
    "ends_now",
    "ms_since",
    "within",
]

T = TypeVar("T")

ORIGINS_NAMED: Final = 5
"""How many origins whose storage is not loaded are named."""

GRACE: Final = 2.0
"""Seconds of real time that a cancelled step gets to unwind before the edge goes on without it."""


CONTEXTS: Final = 20
"""Contexts of a browser whose cookies are counted one by one in the record of a save."""

RESCUE_BUDGET: Final = 5.0
"""Seconds that a rescue file may take when the cookie file could not be written."""


REPORT_GRACE: Final = 0.5
"""Seconds of real time in which a backend whose connection broke reports its end."""


class StepTimeout(Exception):  # noqa: N818 - never leaves this module unwrapped
    """A step outlasted its budget."""


class CallerLeft(Exception):  # noqa: N818 - an event, not an error
    """The caller in whose thread a hook should run was interrupted."""


class HookStruck(Exception):  # noqa: N818 - an event, not an error
    """A hook ended with something that is no Exception, which would end the supervisor if it were raised there."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class FlowCaller(Protocol):
    """The caller of an edge, as far as the flow needs one."""

    @property
    def name(self) -> str:
        """Name of its thread or task, for the record."""
        ...

    async def run_hook(self, hook: Hook, attachment_id: str, session: object, transition: Transition) -> None:
        """Run a hook in the caller's own thread or loop. Raises what the hook raises, or CallerLeft."""
        ...


class FlowHost(Protocol):
    """What the engine gives the flow."""

    clock: Clock
    journal: Journal
    deadlines: Deadlines

    def host_of(self, att: Attachment) -> Host:
        """The port that the attachment's adapter talks to."""
        ...

    def row_of(self, att: Attachment, *, released: bool) -> SessionRow | None:
        """The ledger row of the attachment as things stand."""
        ...

    def handle_of(self, att: Attachment) -> object | None:
        """The user's handle, for hooks; None when it is gone."""
        ...

    def hooks_of(self, att: Attachment) -> list[Hook]:
        """The client's hooks, then the session's own."""
        ...

    async def run_hook_on_worker(self, hook: Hook, att: Attachment, session: object, transition: Transition) -> None:
        """Run a hook that has no caller."""
        ...

    async def run_blocking(self, func: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - as the function takes
        """Run `func` on a worker."""
        ...

    async def probe(self, att: Attachment) -> BackendEnd | None:
        """Ask the owner, or the service, how the session stands."""
        ...

    async def connect(self, att: Attachment) -> Backend:
        """Connect to the session as a guest, or through the service."""
        ...

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that is kept until it is done."""
        ...

    def fire(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task that nobody waits for."""
        ...

    def warn(self, att: Attachment, event: str, **fields: object) -> None:
        """Log a warning through the log of the program that uses the library, with names and counts only."""
        ...

    def viewer(self, att: Attachment) -> str | None:
        """The URL of the attachment's live view, None where there is none."""
        ...

    def opened(self, att: Attachment) -> None:
        """The attachment became active."""
        ...

    def over(self, att: Attachment) -> None:
        """The attachment reached a terminal state."""
        ...


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """Await `work` for at most `seconds` of the clock, then cancel it and go on even if it ignores that.

    Raises:
        StepTimeout: The budget passed.
        BackendError: `work` ended with something that is no Exception: it cancelled itself, or raised SystemExit.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Future[T] = asyncio.ensure_future(work)
    over: asyncio.Future[None] = loop.create_future()
    late = False

    def finish() -> None:
        if not over.done():
            over.set_result(None)

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()
        loop.call_later(GRACE, finish)

    task.add_done_callback(lambda _: finish())
    timer = clock.call_at(clock.monotonic() + seconds, expire)
    try:
        await over
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE)
        raise
    finally:
        timer.cancel()
    if not task.done() or (late and task.cancelled()):
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody is left who could be told
        raise StepTimeout
    try:
        return task.result()
    except Exception:
        raise
    except BaseException as e:
        # It must not look like the end of this task, which is the edge's.
        msg = f"it was given up from inside, by {type(e).__name__}"
        raise BackendError(msg) from e


class Steps:
    """The steps and hooks of the edges, as functions on an attachment."""

    def __init__(self, host: FlowHost) -> None:
        self._host = host
        self._acquiring: set[asyncio.Task[Any]] = set()
        self._steps: Mapping[Step, Callable[[Attachment], Awaitable[str | None]]] = {
            Step.READ_COOKIES: self._read_cookies,
            Step.OPEN_BACKEND: self._open_backend,
            Step.PROBE_BACKEND: self._probe_backend,
            Step.CONNECT_BACKEND: self._connect_backend,
            Step.LOAD_COOKIES: self._load_cookies,
            Step.OPEN_VIEWER: self._open_viewer,
            Step.CANCEL_START: self._cancel_start,
            Step.SAVE_COOKIES: self._save_cookies,
            Step.CLOSE_CONNECTIONS: self._close_connections,
            Step.RELEASE_BACKEND: self._release_backend,
        }

    # --- steps --------------------------------------------------------------------------------------------------

    async def run(self, att: Attachment, step: Step, results: list[StepResult]) -> Exception | None:
        """Run one step under its rule and append how it went.

        Returns:
            What it raised in the end, None when it is done or was skipped.
        """
        rule = STEPS[step]
        if (why := _needless(att, step)) is not None:
            results.append(StepResult(step=step, outcome=StepOutcome.SKIPPED, note=why))
            return None
        clock = self._host.clock
        began = clock.monotonic()
        outcome = StepOutcome.DONE
        note: str | None = None
        error: Exception | None
        attempt = 0
        while True:
            attempt += 1
            error = None
            if rule.needs_backend and att.backend_end is not None:
                outcome, note = StepOutcome.SKIPPED, "the backend is gone"
                if rule.policy is Policy.DIVERT:
                    error = ConnectionLost(att.backend_end.detail or "the backend ended")
                elif step is Step.SAVE_COOKIES and att.loaded is not None:
                    note = "the backend is gone, its last cookies with it"
                    if att.ending_dest is State.CLOSED:  # who asked for a stop takes them for saved
                        reason = "the browser was gone before its cookies could be read"
                        error = CookieSaveError(path=att.loaded.path, rescue_path=None, reason=reason)
                break
            # A save needs the backend to read the cookies and sees to that; the write goes on without it.
            needed = rule.needs_backend and step is not Step.SAVE_COOKIES
            try:
                note = await within(clock, rule.budget, self._until_gone(att, needed, self._steps[step](att)))
                outcome = StepOutcome.DONE
                break
            except asyncio.CancelledError:
                results.append(StepResult(step=step, outcome=StepOutcome.CANCELLED, ms=ms_since(clock, began)))
                raise
            except StepTimeout:
                outcome = StepOutcome.TIMED_OUT
                error = _too_slow(att, step, rule.budget, await self._rescue(att))
            except _Gone:
                attempt -= 1
                continue
            except Exception as e:  # noqa: BLE001 - the step's policy says what follows
                if rule.needs_backend and isinstance(e, ConnectionLost) and await ends_now(att):
                    attempt -= 1
                    continue
                outcome, error = StepOutcome.FAILED, e
                if step is Step.SAVE_COOKIES and not isinstance(e, CookieSaveError):
                    error = _save_failed(att, e, await self._rescue(att))
            if attempt >= rule.attempts:
                break
            await asyncio.sleep(0.05 * attempt)
        results.append(
            StepResult(
                step=step, outcome=outcome, ms=ms_since(clock, began), attempts=attempt,
                error=type(error).__name__ if error is not None else None, note=note,
            )
        )  # fmt: skip
        return error

    async def _until_gone(self, att: Attachment, needed: bool, work: Awaitable[T]) -> T:
        """Await `work`, but not past the end of the backend when the step needs it."""
        if not needed or att.gone is None:
            return await work
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(att.gone.wait())
        either: set[asyncio.Future[Any]] = {task, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise _Gone
        finally:
            gone.cancel()
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({task}, timeout=GRACE)

    async def _read_cookies(self, att: Attachment) -> str | None:
        path = att.options.cookie_file or ""
        from lifecycle.cookies import read_cookie_file  # noqa: PLC0415 - only sessions with a file pay for it

        now = self._host.clock.utcnow().timestamp()
        att.loaded = await self._host.run_blocking(lambda: read_cookie_file(path, now=now))
        notes = []
        if att.loaded.rejected:
            att.counts["cookies_unreadable"] = len(att.loaded.rejected)
            notes.append("unreadable: " + ", ".join(name for name, _ in att.loaded.rejected))
        if origins := att.loaded.origins:
            att.counts["origins_not_loaded"] = len(origins)
            names = ", ".join(origins[:ORIGINS_NAMED]) + (", ..." if len(origins) > ORIGINS_NAMED else "")
            notes.append(f"localStorage that stays in the file and is not loaded: {names}")
            self._host.warn(
                att, "lifecycle.storage_not_loaded", error=f"localStorage of {names} is not loaded", path=path
            )
        return "; ".join(notes) or None

    async def _open_backend(self, att: Attachment) -> str | None:
        assert att.session_id is not None or "assigns_ids" in att.adapter.capabilities  # noqa: S101
        await self._acquire(att, att.adapter.open(att.session_id or "", att.options, self._host.host_of(att)))
        return None

    async def _probe_backend(self, att: Attachment) -> str | None:
        end = await self._host.probe(att)
        if end is not None:
            raise att.met_end(end)
        return None

    async def _connect_backend(self, att: Attachment) -> str | None:
        try:
            await self._acquire(att, self._host.connect(att))
        except LifecycleError as e:
            end = att.backend_end or await self._host.probe(att)  # it may be that it has ended since the probe
            if end is None:
                raise
            raise att.met_end(end) from e
        return None

    async def _acquire(self, att: Attachment, work: Awaitable[Backend]) -> None:
        """Wait for a backend. One that comes after its attachment is over is given up again at once."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one
        self._acquiring.add(task)  # the step may give up waiting, and then nobody else holds it
        att.acquiring = True
        backend: Backend | None = None
        try:
            opened = backend = await work
        finally:
            att.acquiring = False
            self._acquiring.discard(task)
            if att.state.terminal:  # its ending is committed, with a row that does not say released
                self._host.fire(self._give_up(att, backend), f"late backend of {att.attachment_id}")
        if not att.state.terminal:
            att.backend = opened
            if not att.guest:
                att.session_id = opened.session_id

    async def _give_up(self, att: Attachment, backend: Backend | None) -> None:
        """Release what came too late, and say in the ledger that it is released once it is."""
        rule = STEPS[Step.RELEASE_BACKEND]
        error: Exception | None = None
        for _ in range(rule.attempts if backend is not None else 0):
            assert backend is not None  # noqa: S101 - else there is no attempt
            try:
                # A guest leaves: the session is its owner's.
                work = backend.close_connections("closed") if att.guest else backend.release()
                await within(self._host.clock, rule.budget, work)
            except Exception as e:  # noqa: BLE001 - nobody is left to be told; it is logged, and its row kept
                error = e
            else:
                error = None
                break
        if error is not None:
            self._host.warn(att, "lifecycle.late_backend_not_released", error=type(error).__name__)
            return
        row = self._host.row_of(att, released=True)
        if row is not None:
            with contextlib.suppress(StoreError):  # the journal writes it with whatever comes next
                await self._host.journal.append(row=row)

    async def _load_cookies(self, att: Attachment) -> str | None:
        assert att.backend is not None and att.loaded is not None  # noqa: S101, PT018 - else the step is needless
        rejected = await att.backend.set_cookies(att.loaded.cookies)
        att.refused = tuple(c for c, _ in rejected)
        att.counts["cookies_loaded"] = len(att.loaded.cookies) - len(rejected)
        if rejected:
            att.counts["cookies_rejected"] = len(rejected)
            return "refused by the browser: " + ", ".join(f"{c.name} ({why})" for c, why in rejected)
        return None

    async def _open_viewer(self, att: Attachment) -> str | None:
        url = self._host.viewer(att)
        if url is None:
            return "the adapter has no viewer"
        return None if await self._host.run_blocking(show_in_browser, url) else "nothing here to show it in"

    async def _cancel_start(self, att: Attachment) -> str | None:
        assert att.opening is not None  # noqa: S101 - else the step is needless
        att.opening.cancel()
        await asyncio.wait({att.opening})
        return None

    async def _save_cookies(self, att: Attachment) -> str | None:
        loaded, backend = att.loaded, att.backend
        assert loaded is not None and backend is not None  # noqa: S101, PT018 - else the step is needless
        from lifecycle.cookies import save_cookie_file  # noqa: PLC0415 - only sessions with a file pay for it

        elsewhere = int(getattr(backend, "foreign_cookies", 0))  # optional in the port
        notes: list[str] = []
        if elsewhere:
            att.counts["cookies_elsewhere"] = elsewhere
            notes.append(f"{elsewhere} cookies in contexts that clients made are not in the file")
        att.unsaved = current = await self._until_gone(att, True, backend.get_cookies())
        if getattr(backend, "cookies_lost", False):  # optional in the port
            att.refused = loaded.cookies  # what is not there was not removed by anybody
            notes.append("the browser lost cookies: those of the file stay, newer ones that are not there are gone")
            self._host.warn(
                att, "lifecycle.cookies_lost", session_id=att.session_id, attachment_id=att.attachment_id,
                error="CookiesLost", cookie_file=att.options.cookie_file,
            )  # fmt: skip
        now, refused = self._host.clock.utcnow().timestamp(), att.refused
        saved = await self._host.run_blocking(lambda: save_cookie_file(loaded, current, now=now, refused=refused))
        att.unsaved = None
        att.counts["cookies_saved"] = saved.saved
        for number, held in enumerate(getattr(backend, "cookies_of_contexts", ())[:CONTEXTS]):  # optional in the port
            att.counts[f"cookies_of_context_{number}"] = held
        if differ := int(getattr(backend, "cookie_conflicts", 0)):  # optional in the port
            att.counts["context_conflicts"] = differ
            notes.append(f"{differ} cookies differed between contexts; those of the first context were kept")
        if saved.conflicts:
            att.counts["cookie_conflicts"] = len(saved.conflicts)
            notes.append("changed here and by others too, ours kept: " + ", ".join(saved.conflicts))
        return "; ".join(notes) or None

    async def _rescue(self, att: Attachment) -> str | None:
        """The path of a rescue file with the cookies that were read and not saved; None when there is none."""
        loaded, unsaved, refused = att.loaded, att.unsaved, att.refused
        if loaded is None or unsaved is None:
            return None
        from lifecycle.cookies import rescue_cookies  # noqa: PLC0415 - only needed when a save failed

        now = self._host.clock.utcnow().timestamp()
        write = self._host.run_blocking(lambda: rescue_cookies(loaded, unsaved, now=now, refused=refused))
        try:
            return await within(self._host.clock, RESCUE_BUDGET, write)
        except Exception:  # noqa: BLE001 - the error of the save says that there is no rescue file either
            return None

    def warn_of_cookies(self, att: Attachment) -> None:
        """Log the names of cookies that the session starts without, once."""
        unreadable = [name for name, _ in att.loaded.rejected] if att.loaded is not None else []
        refused = [c.name for c in att.refused]
        if unreadable or refused:
            self._host.warn(
                att, "lifecycle.cookies_left_out", session_id=att.session_id, attachment_id=att.attachment_id,
                error="CookieRejected", cookie_file=att.options.cookie_file, unreadable=unreadable, refused=refused,
            )  # fmt: skip

    async def _close_connections(self, att: Attachment) -> str | None:
        assert att.backend is not None  # noqa: S101 - else the step is needless
        try:
            if att.operator is not None:
                await att.operator.aclose()
        finally:
            await att.backend.close_connections(str(att.close_reason or "closed"))
        return None

    async def close_late(self, att: Attachment) -> None:
        """Close the connections after the step that does it failed; nobody waits for it."""
        assert att.backend is not None  # noqa: S101 - the step had one
        try:
            work = att.backend.close_connections(str(att.close_reason or "closed"))
            await within(self._host.clock, STEPS[Step.CLOSE_CONNECTIONS].budget, work)
        except Exception as e:  # noqa: BLE001 - nobody is left to be told; it is logged
            self._host.warn(att, "lifecycle.connections_not_closed", error=type(e).__name__)

    async def _release_backend(self, att: Attachment) -> str | None:
        assert att.backend is not None  # noqa: S101 - else the step is needless
        await _let_go(att, att.backend)
        return None

    async def release_once(self, att: Attachment, results: list[StepResult]) -> bool:
        """One attempt at a release, when an ending broke off; True when nothing is open any more."""
        if att.backend is None:
            return not att.acquiring
        rule, clock = STEPS[Step.RELEASE_BACKEND], self._host.clock
        began = clock.monotonic()
        error: Exception | None = None
        try:
            await within(clock, rule.budget, _let_go(att, att.backend))
        except Exception as e:  # noqa: BLE001 - it is in the record, and the row says that it is not released
            error = e
        results.append(
            StepResult(
                step=Step.RELEASE_BACKEND, outcome=StepOutcome.FAILED if error is not None else StepOutcome.DONE,
                ms=ms_since(clock, began), attempts=1, error=type(error).__name__ if error is not None else None,
            )
        )  # fmt: skip
        return error is None

    # --- hooks --------------------------------------------------------------------------------------------------

    async def run_hooks(
        self,
        att: Attachment,
        when: str,
        transition: Transition,
        caller: FlowCaller | None,
        results: list[StepResult],
        *,
        stop_at_error: bool = False,
    ) -> None:
        """Run the hooks of an edge in the order in which they were registered.

        Raises:
            HookError: With `stop_at_error`, a hook with ``on_error="raise"`` failed; else that is kept as trouble.
        """
        for hook in self._host.hooks_of(att):
            if hook.when != when or hook.event is not transition.event:
                continue
            began = self._host.clock.monotonic()
            error, outcome, note = await self._run_hook(att, hook, transition, caller)
            results.append(
                StepResult(
                    step=f"{when}:{hook.name}", outcome=outcome, ms=ms_since(self._host.clock, began),
                    error=type(error).__name__ if error is not None else None, note=note,
                )
            )  # fmt: skip
            if error is None or hook.on_error == "log":
                continue
            edge = f"{transition.event}: {transition.source} -> {transition.dest}"
            wrapped = HookError(edge=edge, hook=hook.name, reason=_hook_reason(error, hook))
            wrapped.__cause__ = error
            if stop_at_error:
                raise wrapped
            att.troubles.append(wrapped)

    async def _run_hook(
        self, att: Attachment, hook: Hook, transition: Transition, caller: FlowCaller | None
    ) -> tuple[BaseException | None, StepOutcome, str | None]:
        session = self._host.handle_of(att)
        if session is None:
            return None, StepOutcome.SKIPPED, "the session object is gone"
        try:
            if caller is not None:
                try:
                    run = caller.run_hook(hook, att.attachment_id, session, transition)
                    await within(self._host.clock, hook.budget, run)
                except CallerLeft:
                    caller = None
                else:
                    return None, StepOutcome.DONE, None
            if hook.needs_page:
                return None, StepOutcome.SKIPPED, "no caller whose page it could use"
            await within(self._host.clock, hook.budget, self._host.run_hook_on_worker(hook, att, session, transition))
        except StepTimeout as e:
            return e, StepOutcome.TIMED_OUT, None
        except HookStruck as e:
            return e.error, StepOutcome.FAILED, None
        except asyncio.CancelledError:
            raise
        except BaseException as e:  # noqa: BLE001 - a hook may raise anything; no hook aborts a teardown
            return e, StepOutcome.FAILED, None
        return None, StepOutcome.DONE, None


def show_in_browser(url: str) -> bool:
    """Open `url` in the user's own browser, unless that would take over a terminal. Blocks for a moment."""
    import webbrowser  # noqa: PLC0415 - only who watches needs it

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER"):
        return False  # a browser of the terminal, where there is no display
    return browser.open(url, new=1)


class _Gone(Exception):  # noqa: N818 - never leaves this module
    """The backend ended while a step needed it."""


async def ends_now(att: Attachment) -> bool:
    """True when the report of the backend's end follows the error that the end caused."""
    if att.gone is None:
        return False
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(att.gone.wait(), REPORT_GRACE)
    return att.backend_end is not None


async def _let_go(att: Attachment, backend: Backend) -> None:
    """Release; a guest whose attach is given up only leaves, since to release would end the session for all others."""
    if att.guest and att.state is State.NOT_STARTED:
        await backend.close_connections("left")
    else:
        await backend.release()


def _needless(att: Attachment, step: Step) -> str | None:
    """Why there is nothing to do for a step, or None."""
    match step:
        case Step.READ_COOKIES if att.options.cookie_file is None:
            return "no cookie file"
        case Step.LOAD_COOKIES if att.loaded is None or not att.loaded.cookies:
            return "no cookies to load"
        case Step.OPEN_VIEWER if att.options.headless:
            return "headless"
        case Step.OPEN_VIEWER if getattr(att.backend, "headed", False):
            return "it has a window"
        case Step.CANCEL_START if att.opening is None or att.opening.done():
            return "nothing is in flight"
        case Step.SAVE_COOKIES if att.loaded is None:
            return "no cookie file"
        case Step.RELEASE_BACKEND if att.backend is None and att.acquiring:
            return "the adapter has not given up opening it; it is released as soon as it is there"
        case Step.SAVE_COOKIES | Step.CLOSE_CONNECTIONS | Step.RELEASE_BACKEND if att.backend is None:
            return "nothing is open"
    return None


def ms_since(clock: Clock, began: float) -> float:
    """Milliseconds since `began`, as records tell them."""
    return round((clock.monotonic() - began) * 1000, 3)


def _hook_reason(error: BaseException, hook: Hook) -> str:
    if isinstance(error, StepTimeout):
        return f"it took longer than its budget of {hook.budget:g} seconds"
    return f"it raised {type(error).__name__}: {error}"


def _save_failed(att: Attachment, cause: Exception, rescue: str | None) -> CookieSaveError:
    error = CookieSaveError(path=att.options.cookie_file or "", rescue_path=rescue, reason=describe(cause))
    error.__cause__ = cause
    return error


def _too_slow(att: Attachment, step: Step, budget: float, rescue: str | None) -> LifecycleError:
    msg = f"{step} took longer than its budget of {budget:g} seconds on the {att.adapter.name!r} adapter"
    if step is Step.SAVE_COOKIES and att.options.cookie_file is not None:
        return CookieSaveError(path=att.options.cookie_file, rescue_path=rescue, reason=msg)
    if step is Step.RELEASE_BACKEND:
        return ReleaseFailed(msg, session_id=att.session_id)
    if step in (Step.CANCEL_START, Step.CLOSE_CONNECTIONS):
        return BackendError(msg)
    return StartFailed(msg, step=step, adapter=att.adapter.name)
